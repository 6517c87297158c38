//! The rules of metadata, and the conditions under which a write may replace an object.

use serde_json::Value;

use super::format::{
    generate_name_problems, key_problems, label_problems, subdomain_problems, value_problems,
};
use crate::error::{ApiError, MODIFIED};
use crate::field::FieldError;
use crate::names::{GroupKind, GroupResource};
use crate::object::{self, Object};
use crate::quote::quote;
use crate::revision;

/// Limit of all annotations together, keys and values.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// The finalizer of foreground deletion.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of orphaning deletion.
pub(super) const ORPHAN: &str = "orphan";

/// All breaches of the rules of metadata, after the server's own members were set.
#[must_use]
pub fn validate_metadata(object: &Object, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_names(object, namespaced, &mut errors);
    let generation = object::generation(object);
    if generation < 0 {
        let rule = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("metadata.generation", generation, rule));
    }
    if let Some(labels) = object::labels(object) {
        validate_labels(labels, &mut errors);
    }
    if let Some(annotations) = object::annotations(object) {
        validate_annotations(annotations, &mut errors);
    }
    validate_owners(object, &mut errors);
    validate_finalizers(object, &mut errors);
    errors
}

fn validate_names(object: &Object, namespaced: bool, errors: &mut Vec<FieldError>) {
    let mut add = |field: &str, value: &str, problems: Vec<String>| {
        errors.extend(
            problems
                .into_iter()
                .map(|problem| FieldError::invalid(field, value, problem)),
        );
    };
    if let Some(base) = object::generate_name(object) {
        add("metadata.generateName", base, generate_name_problems(base));
    }
    if let Some(name) = object::name(object) {
        add("metadata.name", name, subdomain_problems(name));
    }
    let namespace = object::namespace(object);
    if let (true, Some(namespace)) = (namespaced, namespace) {
        add("metadata.namespace", namespace, label_problems(namespace));
    }
    if object::name(object).is_none() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    }
    match (namespaced, namespace) {
        (true, None) => errors.push(FieldError::required("metadata.namespace", "")),
        (false, Some(_)) => {
            errors.push(FieldError::forbidden(
                "metadata.namespace",
                "not allowed on this type",
            ));
        }
        _ => {}
    }
}

fn validate_labels(labels: &Object, errors: &mut Vec<FieldError>) {
    for (key, value) in labels {
        for problem in key_problems(key) {
            errors.push(FieldError::invalid(
                "metadata.labels",
                key.as_str(),
                problem,
            ));
        }
        let value = value.as_str().unwrap_or_default();
        for problem in value_problems(value) {
            errors.push(FieldError::invalid("metadata.labels", value, problem));
        }
    }
}

fn validate_annotations(annotations: &Object, errors: &mut Vec<FieldError>) {
    let mut size = 0_usize;
    for (key, value) in annotations {
        // A label key, except that case does not matter.
        let problems = if key.bytes().any(|byte| byte.is_ascii_uppercase()) || !key.is_ascii() {
            key_problems(&key.to_lowercase())
        } else {
            key_problems(key)
        };
        for problem in problems {
            errors.push(FieldError::invalid(
                "metadata.annotations",
                key.as_str(),
                problem,
            ));
        }
        size = size
            .saturating_add(key.len())
            .saturating_add(value.as_str().map_or(0, str::len));
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(
            "metadata.annotations",
            ANNOTATIONS_MAX,
        ));
    }
}

fn validate_owners(object: &Object, errors: &mut Vec<FieldError>) {
    let Some(Value::Array(owners)) =
        object::metadata(object).and_then(|metadata| metadata.get("ownerReferences"))
    else {
        return;
    };
    let mut controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        validate_owner(owner, &path, errors);
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let current = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
        match &controller {
            None => controller = Some(current),
            Some(first) => errors.push(FieldError::invalid(
                "metadata.ownerReferences",
                owners.clone(),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {current}"
                ),
            )),
        }
    }
}

fn text<'a>(owner: &'a Value, member: &str) -> &'a str {
    owner
        .get(member)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn validate_owner(owner: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let api_version = text(owner, "apiVersion");
    let version = match api_version.split_once('/') {
        None => api_version,
        Some((_, version)) if version.contains('/') => "",
        Some((_, version)) => version,
    };
    if api_version.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.apiVersion"),
            "must not be empty",
        ));
    } else if version.is_empty() {
        let rule = "must be <group>/<version> or <version>";
        errors.push(FieldError::invalid(
            format!("{path}.apiVersion"),
            api_version,
            rule,
        ));
    }
    for member in ["kind", "name", "uid"] {
        if text(owner, member).is_empty() {
            errors.push(FieldError::required(
                format!("{path}.{member}"),
                "must not be empty",
            ));
        }
    }
    if api_version == "v1" && text(owner, "kind") == "Event" {
        let rule = "/v1, Kind=Event is disallowed from being an owner";
        errors.push(FieldError::invalid(path, owner.clone(), rule));
    }
}

fn validate_finalizers(object: &Object, errors: &mut Vec<FieldError>) {
    let field = "metadata.finalizers";
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in object::finalizers(object) {
        for problem in key_problems(finalizer) {
            errors.push(FieldError::invalid(field, finalizer, problem));
        }
        orphan |= finalizer == ORPHAN;
        foreground |= finalizer == FOREGROUND;
    }
    if orphan && foreground {
        let all: Vec<&str> = object::finalizers(object).collect();
        let rule = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(FieldError::invalid(field, all, rule));
    }
}

/// All breaches of the rules of a change of metadata; [`validate_metadata`] is asked as well.
#[must_use]
pub fn validate_metadata_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if object::deletion_timestamp(old).is_some() {
        refuse_new_finalizers(new, old, &mut errors);
    }
    for member in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let value = |object| object::metadata(object).and_then(|m: &Object| m.get(member));
        let written = value(new).filter(|value| !value.is_null());
        if written != value(old).filter(|value| !value.is_null()) {
            let shown = written.cloned().unwrap_or_else(|| absent(member));
            let field = format!("metadata.{member}");
            errors.push(FieldError::invalid(field, shown, "field is immutable"));
        }
    }
    errors
}

fn absent(member: &str) -> Value {
    if matches!(member, "name" | "namespace" | "uid") {
        Value::from("")
    } else {
        Value::Null
    }
}

fn refuse_new_finalizers(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let mut added: Vec<&str> = object::finalizers(new)
        .filter(|finalizer| !object::finalizers(old).any(|known| known == *finalizer))
        .collect();
    added.sort_unstable();
    added.dedup();
    if !added.is_empty() {
        let shown: Vec<String> = added.into_iter().map(quote).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{{{}}}",
            shown.join(", ")
        );
        errors.push(FieldError::forbidden("metadata.finalizers", detail));
    }
}

/// Refuses a body whose name or namespace is not that of the URL. An absent namespace is filled
/// in later.
///
/// # Errors
/// 400 naming both.
pub fn check_name_and_namespace(
    object: &Object,
    name: &str,
    namespace: Option<&str>,
) -> Result<(), ApiError> {
    let own = object::name(object).unwrap_or_default();
    if own != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    match (object::namespace(object), namespace) {
        (Some(own), Some(asked)) if own != asked => Err(ApiError::bad_request(format!(
            "the namespace of the object ({own}) does not match the namespace on the request \
             ({asked})"
        ))),
        _ => Ok(()),
    }
}

/// Optimistic concurrency: an update must be based on the stored revision.
///
/// # Errors
/// 422 if the object does not say on what it is based, 400 if it says no number, 409 if it is
/// based on another revision.
pub fn check_revision(
    new: &Object,
    stored: i64,
    resource: &GroupResource,
    name: &str,
) -> Result<(), ApiError> {
    let written = revision::parse(object::resource_version(new).unwrap_or_default())?;
    if written == 0 {
        // Upstream names the resource where a kind is due.
        let kind = GroupKind::new(resource.group.clone(), resource.resource.clone());
        let rule = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", 0, rule);
        return Err(ApiError::invalid(&kind, name, &[error]));
    }
    if written != stored {
        return Err(ApiError::conflict(resource, name, MODIFIED));
    }
    Ok(())
}

/// A replacement that names a uid means that very object.
///
/// # Errors
/// 409 if the stored object has another uid.
pub fn check_uid(new: &Object, old: &Object, resource: &GroupResource) -> Result<(), ApiError> {
    let stored = object::uid(old).unwrap_or_default();
    match object::uid(new) {
        Some(written) if written != stored => Err(ApiError::conflict(
            resource,
            object::name(old).unwrap_or_default(),
            &format!(
                "Precondition failed: UID in precondition: {written}, UID in object meta: {stored}"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn texts(metadata: Value) -> Vec<String> {
        let mut whole = object(&json!({"metadata": {"name": "a", "namespace": "n"}}));
        object::metadata_mut(&mut whole).extend(object(&metadata));
        validate_metadata(&whole, true)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn ordinary_metadata_has_no_errors() {
        assert!(
            texts(json!({
                "generation": 1, "labels": {"app.kubernetes.io/name": "x", "e": ""},
                "annotations": {"Example.com/Any": "Ü \u{0}"}, "finalizers": ["example.com/f"],
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "D", "name": "d", "uid": "1", "controller": true},
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "2"}
                ]
            }))
            .is_empty()
        );
    }

    #[test]
    fn hostile_names_are_invalid() {
        for name in [
            "..",
            ".",
            "A",
            "a/b",
            "a b",
            "%2e%2e",
            "\0",
            &"a".repeat(254),
        ] {
            let errors = texts(json!({"name": name}));
            assert_eq!(errors.len(), 1, "{name}: {errors:?}");
            assert!(
                errors[0].starts_with("metadata.name: Invalid value: "),
                "{errors:?}"
            );
        }
        assert!(texts(json!({"name": "a".repeat(253)})).is_empty());
        assert_eq!(
            texts(json!({"name": ""})),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(texts(json!({"generateName": "G_"})).len(), 1);
    }

    #[test]
    fn the_namespace_fits_the_scope() {
        let without = object(&json!({"metadata": {"name": "a"}}));
        let with = object(&json!({"metadata": {"name": "a", "namespace": "n"}}));
        assert!(validate_metadata(&without, false).is_empty());
        assert_eq!(
            validate_metadata(&without, true)[0].to_string(),
            "metadata.namespace: Required value"
        );
        assert_eq!(
            validate_metadata(&with, false)[0].to_string(),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
        assert_eq!(
            texts(json!({"namespace": "a.b"})),
            ["metadata.namespace: Invalid value: \"a.b\": must not contain dots"]
        );
    }

    #[test]
    fn labels_annotations_and_finalizers_have_formats() {
        assert_eq!(texts(json!({"labels": {"a b": "x".repeat(64)}})).len(), 2);
        assert_eq!(texts(json!({"finalizers": ["a b"]})).len(), 1);
        assert_eq!(
            texts(json!({"annotations": {"a": "x".repeat(256 * 1024)}})),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
        assert!(texts(json!({"annotations": {"a": "x".repeat(256 * 1024 - 1)}})).is_empty());
        assert_eq!(
            texts(json!({"finalizers": ["orphan", "foregroundDeletion"]})),
            [
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer \
             orphan and foregroundDeletion cannot be both set"
            ]
        );
    }

    #[test]
    fn owners_are_complete_and_have_one_controller() {
        assert_eq!(
            texts(json!({"ownerReferences": [{"apiVersion": "a/b/c"}]})),
            [
                "metadata.ownerReferences[0].apiVersion: Invalid value: \"a/b/c\": must be \
             <group>/<version> or <version>",
                "metadata.ownerReferences[0].kind: Required value: must not be empty",
                "metadata.ownerReferences[0].name: Required value: must not be empty",
                "metadata.ownerReferences[0].uid: Required value: must not be empty",
            ]
        );
        let owner = |kind: &str, controller: bool| json!({"apiVersion": "v1", "kind": kind, "name": "p", "uid": "1", "controller": controller});
        let two = texts(json!({"ownerReferences": [owner("Pod", true), owner("Node", true)]}));
        assert_eq!(two.len(), 1);
        assert!(two[0].ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for \
             Pod/p and Node/p"
        ));
        let event = texts(json!({"ownerReferences": [owner("Event", false)]}));
        assert!(event[0].ends_with("/v1, Kind=Event is disallowed from being an owner"));
    }

    #[test]
    fn what_is_immutable_cannot_change() {
        let old = object(&json!({"metadata": {"name": "a", "uid": "u", "creationTimestamp": "T"}}));
        let new = object(&json!({"metadata": {
            "name": "a", "uid": "v", "creationTimestamp": "T", "deletionTimestamp": "T2"
        }}));
        let errors: Vec<String> = validate_metadata_update(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "metadata.uid: Invalid value: \"v\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: \"T2\": field is immutable"
            ]
        );
        assert!(validate_metadata_update(&old, &old).is_empty());
    }

    #[test]
    fn an_object_that_is_being_deleted_takes_no_new_finalizers() {
        let old = object(&json!({"metadata": {"deletionTimestamp": "T", "finalizers": ["a"]}}));
        let new =
            object(&json!({"metadata": {"deletionTimestamp": "T", "finalizers": ["c", "a", "b"]}}));
        assert_eq!(
            validate_metadata_update(&new, &old)[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
             deleted, found new finalizers []string{\"b\", \"c\"}"
        );
        let fewer = object(&json!({"metadata": {"deletionTimestamp": "T"}}));
        assert!(validate_metadata_update(&fewer, &old).is_empty());
    }

    #[test]
    fn the_url_and_the_body_name_the_same_object() {
        let body = object(&json!({"metadata": {"name": "a", "namespace": "n"}}));
        assert!(check_name_and_namespace(&body, "a", Some("n")).is_ok());
        assert!(check_name_and_namespace(&body, "a", None).is_ok());
        assert_eq!(
            check_name_and_namespace(&body, "b", Some("n"))
                .unwrap_err()
                .to_string(),
            "the name of the object (a) does not match the name on the URL (b)"
        );
        assert_eq!(
            check_name_and_namespace(&body, "a", Some("m"))
                .unwrap_err()
                .to_string(),
            "the namespace of the object (n) does not match the namespace on the request (m)"
        );
    }

    #[test]
    fn an_update_is_based_on_the_stored_revision() {
        let widgets = GroupResource::new("example.com", "widgets");
        let check = |written: &str| {
            let new = object(&json!({"metadata": {"resourceVersion": written}}));
            check_revision(&new, 7, &widgets, "w")
                .map_err(|error| (error.code(), error.to_string()))
        };
        assert_eq!(check("7"), Ok(()));
        assert_eq!(
            check("6").unwrap_err(),
            (
                409,
                format!("Operation cannot be fulfilled on widgets.example.com \"w\": {MODIFIED}")
            )
        );
        assert_eq!(check("8").unwrap_err().0, 409);
        for text in ["", "0"] {
            assert_eq!(
                check(text).unwrap_err(),
                (
                    422,
                    "widgets.example.com \"w\" is invalid: metadata.resourceVersion: Invalid \
                     value: 0: must be specified for an update"
                        .to_owned()
                )
            );
        }
        for text in ["abc", "-1", "18446744073709551616"] {
            assert_eq!(check(text).unwrap_err().0, 400);
        }
    }

    #[test]
    fn a_replacement_of_another_uid_is_a_conflict() {
        let widgets = GroupResource::new("example.com", "widgets");
        let old = object(&json!({"metadata": {"name": "w", "uid": "u"}}));
        let new = object(&json!({"metadata": {"name": "w", "uid": "v"}}));
        assert!(check_uid(&old, &old, &widgets).is_ok());
        assert!(check_uid(&Object::new(), &old, &widgets).is_ok());
        let error = check_uid(&new, &old, &widgets).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Operation cannot be fulfilled on widgets.example.com \"w\": Precondition failed: UID \
             in precondition: v, UID in object meta: u"
        );
    }
}
