//! Access to the parts of an API object that every kind has.
//!
//! An object is kept as JSON, so that what this binary does not know survives it. Accessors read
//! leniently (a member of the wrong type counts as absent); types are checked when a body is
//! decoded.

use serde_json::{Map, Value};

/// A whole API object: `apiVersion`, `kind`, `metadata`, and what its kind adds.
pub type Object = Map<String, Value>;

/// `metadata`, if it is an object.
#[must_use]
pub fn metadata(object: &Object) -> Option<&Object> {
    object.get("metadata")?.as_object()
}

/// `metadata`, made an empty object first if it is not one.
pub fn metadata_mut(object: &mut Object) -> &mut Object {
    let metadata = object.entry("metadata").or_insert(Value::Null);
    if !metadata.is_object() {
        *metadata = Value::Object(Object::new());
    }
    metadata
        .as_object_mut()
        .expect("it was made an object above")
}

/// A text member of `metadata`; empty counts as absent, as in Go.
#[must_use]
pub fn metadata_text<'a>(object: &'a Object, member: &str) -> Option<&'a str> {
    metadata(object)?
        .get(member)?
        .as_str()
        .filter(|text| !text.is_empty())
}

/// `apiVersion`.
#[must_use]
pub fn api_version(object: &Object) -> Option<&str> {
    object.get("apiVersion")?.as_str()
}

/// `kind`.
#[must_use]
pub fn kind(object: &Object) -> Option<&str> {
    object.get("kind")?.as_str()
}

/// `metadata.name`; `None` when empty.
#[must_use]
pub fn name(object: &Object) -> Option<&str> {
    metadata_text(object, "name")
}

/// `metadata.generateName`; `None` when empty.
#[must_use]
pub fn generate_name(object: &Object) -> Option<&str> {
    metadata_text(object, "generateName")
}

/// `metadata.namespace`; `None` when empty.
#[must_use]
pub fn namespace(object: &Object) -> Option<&str> {
    metadata_text(object, "namespace")
}

/// `metadata.uid`; `None` when empty.
#[must_use]
pub fn uid(object: &Object) -> Option<&str> {
    metadata_text(object, "uid")
}

/// `metadata.resourceVersion`; `None` when empty.
#[must_use]
pub fn resource_version(object: &Object) -> Option<&str> {
    metadata_text(object, "resourceVersion")
}

/// `metadata.creationTimestamp`, as it stands there.
#[must_use]
pub fn creation_timestamp(object: &Object) -> Option<&str> {
    metadata_text(object, "creationTimestamp")
}

/// `metadata.deletionTimestamp`: present while the object waits for its finalizers.
#[must_use]
pub fn deletion_timestamp(object: &Object) -> Option<&str> {
    metadata_text(object, "deletionTimestamp")
}

/// `metadata.generation`; 0 when absent.
#[must_use]
pub fn generation(object: &Object) -> i64 {
    metadata(object)
        .and_then(|m| m.get("generation"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// `metadata.labels`, if there are any.
#[must_use]
pub fn labels(object: &Object) -> Option<&Object> {
    metadata(object)?.get("labels")?.as_object()
}

/// The value of one label.
#[must_use]
pub fn label<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`, if there are any.
#[must_use]
pub fn annotations(object: &Object) -> Option<&Object> {
    metadata(object)?.get("annotations")?.as_object()
}

/// `metadata.finalizers`, in order.
pub fn finalizers(object: &Object) -> impl Iterator<Item = &str> {
    metadata(object)
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Sets `apiVersion` and `kind`.
pub fn set_type(object: &mut Object, api_version: &str, kind: &str) {
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
}

/// Sets a member of `metadata`.
pub fn set_metadata(object: &mut Object, member: &str, value: impl Into<Value>) {
    metadata_mut(object).insert(member.to_owned(), value.into());
}

/// Takes a member out of `metadata`.
pub fn remove_metadata(object: &mut Object, member: &str) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(member)
}

/// Sets `metadata.name`.
pub fn set_name(object: &mut Object, name: &str) {
    set_metadata(object, "name", name);
}

/// Sets `metadata.namespace`.
pub fn set_namespace(object: &mut Object, namespace: &str) {
    set_metadata(object, "namespace", namespace);
}

/// Sets `metadata.uid`.
pub fn set_uid(object: &mut Object, uid: &str) {
    set_metadata(object, "uid", uid);
}

/// Sets `metadata.resourceVersion`.
pub fn set_resource_version(object: &mut Object, resource_version: &str) {
    set_metadata(object, "resourceVersion", resource_version);
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Object, generation: i64) {
    set_metadata(object, "generation", generation);
}

/// Sets `metadata.finalizers`; an empty list is left out.
pub fn set_finalizers(object: &mut Object, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        remove_metadata(object, "finalizers");
    } else {
        set_metadata(object, "finalizers", finalizers);
    }
}

/// Puts `value` at a JSON pointer of member names (`/spec/replicas`), making objects on the way.
pub fn set_pointer(object: &mut Object, pointer: &str, value: Value) {
    let mut steps = pointer.split('/').skip(1).peekable();
    let mut at = object;
    while let Some(step) = steps.next() {
        let member = unescape_step(step);
        if steps.peek().is_none() {
            at.insert(member, value);
            return;
        }
        let next = at.entry(member).or_insert(Value::Null);
        if !next.is_object() {
            *next = Value::Object(Object::new());
        }
        at = next.as_object_mut().expect("it was made an object above");
    }
}

/// The value at a JSON pointer of member names (`/spec/replicas`); null counts as absent.
#[must_use]
pub fn pointer<'a>(object: &'a Object, pointer: &str) -> Option<&'a Value> {
    let (first, rest) = match pointer.strip_prefix('/')?.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (pointer.strip_prefix('/')?, None),
    };
    let mut at = object.get(&unescape_step(first))?;
    for step in rest.into_iter().flat_map(|rest| rest.split('/')) {
        at = at.as_object()?.get(&unescape_step(step))?;
    }
    (!at.is_null()).then_some(at)
}

fn unescape_step(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn members_of_the_wrong_type_count_as_absent() {
        let odd =
            object(json!({"metadata": {"name": 3, "labels": [], "finalizers": "x", "uid": ""}}));
        assert_eq!(name(&odd), None);
        assert_eq!(labels(&odd), None);
        assert_eq!(uid(&odd), None);
        assert_eq!(finalizers(&odd).count(), 0);
        assert_eq!(generation(&object(json!({"metadata": "x"}))), 0);
    }

    #[test]
    fn setting_makes_metadata_first() {
        let mut fresh = Object::new();
        set_name(&mut fresh, "a");
        set_generation(&mut fresh, 2);
        set_finalizers(&mut fresh, vec![]);
        assert_eq!(
            fresh,
            object(json!({"metadata": {"name": "a", "generation": 2}}))
        );
    }

    #[test]
    fn pointers_read_and_write_members() {
        let mut o = object(json!({"spec": {"a/b": {"c": null}}}));
        assert_eq!(pointer(&o, "/spec/a~1b/c"), None);
        set_pointer(&mut o, "/spec/a~1b/c", json!(1));
        set_pointer(&mut o, "/status/x/y", json!(2));
        assert_eq!(pointer(&o, "/spec/a~1b/c"), Some(&json!(1)));
        assert_eq!(pointer(&o, "/status/x"), Some(&json!({"y": 2})));
        assert_eq!(pointer(&o, "spec"), None);
    }
}
