//! The members of metadata that the server sets, whatever the client wrote.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::ApiError;
use crate::object::{self, Object, metadata_mut};

/// Characters of a generated suffix: no vowels and nothing that looks like one, so that no words
/// come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const BASE_MAX: usize = 63 - SUFFIX_LENGTH;

/// What the server knows of an object that is about to be created.
#[derive(Debug, Clone, Copy)]
pub struct CreateContext<'a> {
    /// Namespace of the URL; `None` for cluster-scoped resources.
    pub namespace: Option<&'a str>,
    /// Fresh uid.
    pub uid: &'a str,
    /// Time of creation.
    pub now: Timestamp,
}

/// Sets what the server owns in a new object: uid, creationTimestamp, generation 1, namespace.
///
/// # Errors
/// 400 if the object says another namespace than the URL, or has a resourceVersion.
pub fn prepare_create(object: &mut Object, context: &CreateContext<'_>) -> Result<(), ApiError> {
    tidy(object);
    if object::resource_version(object).is_some() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    match (object::namespace(object), context.namespace) {
        (Some(own), Some(asked)) if own != asked => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        _ => {}
    }
    let metadata = metadata_mut(object);
    for member in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
    ] {
        metadata.remove(member);
    }
    match context.namespace {
        Some(namespace) => metadata.insert("namespace".to_owned(), Value::from(namespace)),
        None => metadata.remove("namespace"),
    };
    metadata.insert("uid".to_owned(), Value::from(context.uid));
    metadata.insert("generation".to_owned(), Value::from(1));
    metadata.insert(
        "creationTimestamp".to_owned(),
        Value::from(super::timestamp(context.now)),
    );
    Ok(())
}

/// Copies what a client cannot change from the object that is stored. A uid or namespace that the
/// client left out is filled in; one that it changed stays, for validation to refuse.
pub fn prepare_update(new: &mut Object, old: &Object) {
    tidy(new);
    let stored = |member: &str| object::metadata(old).and_then(|m| m.get(member)).cloned();
    let metadata = metadata_mut(new);
    for member in ["selfLink", "managedFields"] {
        metadata.remove(member);
    }
    restore(metadata, "generation", stored("generation"));
    for member in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(value) = stored(member) {
            metadata.insert(member.to_owned(), value);
        }
    }
    for member in ["uid", "namespace", "deletionGracePeriodSeconds"] {
        if let (None, Some(value)) = (metadata.get(member), stored(member)) {
            metadata.insert(member.to_owned(), value);
        }
    }
}

fn restore(metadata: &mut Object, member: &str, stored: Option<Value>) {
    match stored {
        Some(value) => metadata.insert(member.to_owned(), value),
        None => metadata.remove(member),
    };
}

/// Removes from metadata what says nothing: null, empty text, lists and maps, and a zero
/// generation. Two objects that mean the same then are the same.
pub fn tidy(object: &mut Object) {
    let metadata = metadata_mut(object);
    if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
        nulls_to_empty(labels);
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        nulls_to_empty(annotations);
    }
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
        for owner in owners.iter_mut().filter_map(Value::as_object_mut) {
            owner.retain(|_, value| !value.is_null());
        }
    }
    metadata.retain(|member, value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Number(number) => member != "generation" || number.as_i64() != Some(0),
        Value::Bool(_) => true,
    });
}

/// A null in a map of text is the empty text, as in Go.
fn nulls_to_empty(map: &mut Object) {
    for value in map.values_mut().filter(|value| value.is_null()) {
        *value = Value::from("");
    }
}

/// Drops owner references that stand twice. The warning names their uids.
pub fn dedup_owner_references(object: &mut Object) -> Option<String> {
    let owners = object
        .get_mut("metadata")?
        .get_mut("ownerReferences")?
        .as_array_mut()?;
    let mut duplicates = Vec::new();
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    for owner in std::mem::take(owners) {
        if kept.contains(&owner) {
            duplicates.push(
                owner
                    .get("uid")
                    .and_then(Value::as_str)
                    .unwrap_or("")
                    .to_owned(),
            );
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if duplicates.is_empty() {
        return None;
    }
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references \
         in 1.20+, and may reject such requests as early as 1.24; please fix your requests; \
         duplicate UID(s) observed: {}",
        duplicates.join(", ")
    ))
}

/// Raises `metadata.generation` if anything but metadata and status differs.
pub fn bump_generation_if_spec_changed(new: &mut Object, old: &Object) {
    if !same_spec(new, old) {
        object::set_generation(new, object::generation(old).saturating_add(1));
    }
}

fn same_spec(new: &Object, old: &Object) -> bool {
    let counts = |member: &String| {
        !matches!(
            member.as_str(),
            "apiVersion" | "kind" | "metadata" | "status"
        )
    };
    let mut new = new.iter().filter(|(member, _)| counts(member));
    let mut old = old.iter().filter(|(member, _)| counts(member));
    loop {
        match (new.next(), old.next()) {
            (None, None) => return true,
            (a, b) if a == b => {}
            _ => return false,
        }
    }
}

/// A create says nothing about status.
pub fn reset_status(object: &mut Object) {
    object.remove("status");
}

/// An update of the main resource leaves status as it is stored.
pub fn retain_status(new: &mut Object, old: &Object) {
    match old.get("status") {
        Some(status) => new.insert("status".to_owned(), status.clone()),
        None => new.remove("status"),
    };
}

/// An update of the status subresource changes status alone: everything else is taken from the
/// stored object, save the resourceVersion and uid that the client wrote.
pub fn keep_only_status(new: &mut Object, old: &Object) {
    let status = new.remove("status");
    let written: Vec<(&str, Option<Value>)> = ["resourceVersion", "uid"]
        .map(|member| (member, object::remove_metadata(new, member)))
        .into();
    *new = old.clone();
    match status {
        Some(status) => new.insert("status".to_owned(), status),
        None => new.remove("status"),
    };
    let metadata = metadata_mut(new);
    for (member, value) in written {
        restore(metadata, member, value);
    }
}

/// `base`, cut to fit, and five characters drawn from `entropy`.
#[must_use]
pub fn generate_name(base: &str, entropy: u64) -> String {
    let mut name = String::with_capacity(BASE_MAX + SUFFIX_LENGTH);
    name.push_str(
        base.get(..base.floor_char_boundary(BASE_MAX))
            .unwrap_or(base),
    );
    let mut rest = entropy;
    let size = u64::try_from(ALPHABET.len()).expect("27 fits");
    for _ in 0..SUFFIX_LENGTH {
        let index = usize::try_from(rest % size).expect("an index below 27 fits");
        name.push(ALPHABET.get(index).copied().map_or('b', char::from));
        rest /= size;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn context(namespace: Option<&str>) -> CreateContext<'_> {
        CreateContext {
            namespace,
            uid: "u-1",
            now: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_new_object_gets_what_the_server_owns() {
        let mut new = object(json!({"metadata": {
            "name": "a", "uid": "mine", "generation": 9, "creationTimestamp": "2000-01-01T00:00:00Z",
            "deletionTimestamp": "2000-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3,
            "selfLink": "/x", "managedFields": [{"manager": "m"}], "labels": {}, "annotations": null
        }}));
        prepare_create(&mut new, &context(Some("default"))).unwrap();
        assert_eq!(
            Value::Object(new),
            json!({"metadata": {
                "name": "a", "namespace": "default", "uid": "u-1", "generation": 1,
                "creationTimestamp": "2026-01-02T03:04:05Z"
            }})
        );
    }

    #[test]
    fn a_namespace_that_an_update_leaves_out_is_filled_in() {
        let old = object(json!({"metadata": {"name": "a", "namespace": "team", "uid": "u"}}));
        for written in [json!({"name": "a"}), json!({"name": "a", "namespace": ""})] {
            let mut new = object(json!({"metadata": written}));
            prepare_update(&mut new, &old);
            assert_eq!(new["metadata"]["namespace"], "team");
        }
        let mut new = object(json!({"metadata": {"name": "a", "namespace": "other"}}));
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["namespace"], "other");
    }

    #[test]
    fn a_new_object_with_a_resource_version_is_a_bad_request() {
        let mut new = object(json!({"metadata": {"name": "a", "resourceVersion": "7"}}));
        assert_eq!(
            prepare_create(&mut new, &context(None)).unwrap_err().code(),
            400
        );
    }

    #[test]
    fn another_namespace_than_that_of_the_url_is_a_bad_request() {
        let mut new = object(json!({"metadata": {"name": "a", "namespace": "other"}}));
        let error = prepare_create(&mut new, &context(Some("default"))).unwrap_err();
        assert_eq!(error.code(), 400);
        prepare_create(&mut new, &context(None)).unwrap();
        assert_eq!(object::namespace(&new), None);
    }

    #[test]
    fn an_update_keeps_what_a_client_cannot_change() {
        let old = object(json!({"metadata": {
            "name": "a", "uid": "u", "generation": 3, "creationTimestamp": "T0",
            "deletionTimestamp": "T1", "deletionGracePeriodSeconds": 0
        }}));
        let mut new = object(json!({"metadata": {
            "name": "a", "generation": 8, "creationTimestamp": null, "labels": {"a": null}
        }}));
        prepare_update(&mut new, &old);
        assert_eq!(
            Value::Object(new),
            json!({"metadata": {
                "name": "a", "uid": "u", "generation": 3, "creationTimestamp": "T0",
                "deletionTimestamp": "T1", "deletionGracePeriodSeconds": 0, "labels": {"a": ""}
            }})
        );
    }

    #[test]
    fn the_generation_counts_changes_outside_metadata_and_status() {
        let old = object(json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {}}));
        let changed = |value: Value| {
            let mut new = object(value);
            bump_generation_if_spec_changed(&mut new, &old);
            object::generation(&new)
        };
        let same = json!({
            "apiVersion": "v2", "metadata": {"generation": 3, "labels": {"a": "b"}},
            "spec": {"a": 1}, "status": {"b": 2}
        });
        assert_eq!(changed(same), 3);
        assert_eq!(
            changed(json!({"metadata": {"generation": 3}, "spec": {"a": 2}})),
            4
        );
        assert_eq!(changed(json!({"metadata": {"generation": 3}})), 4);
        let more = json!({"metadata": {"generation": 3}, "data": 1, "spec": {"a": 1}});
        assert_eq!(changed(more), 4);
    }

    #[test]
    fn a_status_update_changes_status_alone() {
        let old = object(json!({
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "5", "labels": {"a": "b"}},
            "spec": {"a": 1}, "status": {"b": 1}
        }));
        let mut new = object(json!({
            "metadata": {"name": "a", "resourceVersion": "4", "labels": {"x": "y"}},
            "spec": {"a": 2}, "status": {"b": 2}
        }));
        keep_only_status(&mut new, &old);
        assert_eq!(
            Value::Object(new),
            json!({
                "metadata": {"name": "a", "resourceVersion": "4", "labels": {"a": "b"}},
                "spec": {"a": 1}, "status": {"b": 2}
            })
        );
    }

    #[test]
    fn a_main_update_leaves_status_as_stored() {
        let mut new = object(json!({"spec": 1, "status": 2}));
        retain_status(&mut new, &object(json!({"spec": 0})));
        assert_eq!(Value::Object(new.clone()), json!({"spec": 1}));
        retain_status(&mut new, &object(json!({"status": 3})));
        assert_eq!(Value::Object(new), json!({"spec": 1, "status": 3}));
    }

    #[test]
    fn an_owner_that_stands_twice_is_dropped_with_a_warning() {
        let owner = |uid: &str| json!({"name": "o", "uid": uid});
        let mut twice =
            object(json!({"metadata": {"ownerReferences": [owner("1"), owner("2"), owner("1")]}}));
        let warning = dedup_owner_references(&mut twice).unwrap();
        assert!(warning.ends_with("duplicate UID(s) observed: 1"));
        assert_eq!(
            object::metadata(&twice).unwrap().get("ownerReferences"),
            Some(&json!([owner("1"), owner("2")]))
        );
        assert_eq!(dedup_owner_references(&mut twice), None);
        assert_eq!(dedup_owner_references(&mut Object::new()), None);
    }

    proptest! {
        #[test]
        fn a_generated_name_is_the_base_and_five_characters(base in ".{0,80}", entropy: u64) {
            let name = generate_name(&base, entropy);
            let (kept, suffix) = name.split_at(name.len() - SUFFIX_LENGTH);
            prop_assert!(base.starts_with(kept));
            prop_assert!(kept.len() <= BASE_MAX && kept.len() + 3 >= base.len().min(BASE_MAX));
            prop_assert!(suffix.bytes().all(|byte| ALPHABET.contains(&byte)));
        }
    }
}
