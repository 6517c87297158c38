//! v1alpha1, by what its documentation says: what a client of it sends, and what it is shown of a
//! Widget. Made anew here, so that it can be held against the server's lens.

use serde_json::{Map, Value, json};

use crate::bodies::demand;
use crate::plan::Shape;
use crate::selector::LABEL;

const VERSION: &str = "custom.example.com/v1alpha1";

/// Path of an object.
#[must_use]
pub fn object(namespace: &str, name: &str) -> String {
    format!("/apis/{VERSION}/namespaces/{namespace}/widgets/{name}")
}

/// Whether this is an object of v1alpha1.
#[must_use]
pub fn is_old(object: &Value) -> bool {
    object.get("apiVersion").is_some_and(|v| v == VERSION)
}

/// A merge patch; in v1 it would be [`crate::bodies::merge`] of the same.
#[must_use]
pub fn merge(shape: &Shape, op: &str, over: Option<i64>) -> Value {
    let mut body = json!({
        "metadata": {"labels": {LABEL: shape.tier}, "annotations": {"op": op}},
        "spec": {"color": shape.color, "size": shape.replicas},
    });
    demand(&mut body, over);
    body
}

/// What v1alpha1 shows of an object of v1.
#[must_use]
pub fn shown(object: &Value) -> Value {
    let mut old = object.as_object().cloned().unwrap_or_default();
    old.insert("apiVersion".to_owned(), json!(VERSION));
    for (name, convert) in [("spec", spec as fn(&Value) -> Value), ("status", status)] {
        if let Some(part) = object.get(name) {
            old.insert(name.to_owned(), convert(part));
        }
    }
    Value::Object(old)
}

fn spec(spec: &Value) -> Value {
    let mut old = renamed(spec, &[("replicas", "size"), ("color", "color")]);
    // All images of the clients have a tag and no digest.
    let image = spec.get("image").and_then(Value::as_str);
    if let Some((repository, tag)) = image.and_then(|image| image.rsplit_once(':')) {
        old.insert("repository".to_owned(), json!(repository));
        old.insert("tag".to_owned(), json!(tag));
    }
    Value::Object(old)
}

fn status(status: &Value) -> Value {
    let names = [("availableReplicas", "ready"), ("lastUpdated", "updatedAt")];
    let mut old = renamed(status, &names);
    if let Some(phase) = status.get("phase").and_then(Value::as_str) {
        old.insert("state".to_owned(), json!(phase.to_lowercase()));
    }
    Value::Object(old)
}

fn renamed(part: &Value, names: &[(&str, &str)]) -> Map<String, Value> {
    let members = names.iter().filter_map(|(name, old)| {
        let value = part.get(*name)?;
        Some(((*old).to_owned(), value.clone()))
    });
    members.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1alpha1_cannot_say_is_not_shown() {
        let widget = json!({
            "apiVersion": "custom.example.com/v1", "kind": "Widget", "metadata": {"name": "x"},
            "spec": {"image": "registry.example.com/app:1", "color": "red", "replicas": 2},
            "status": {"phase": "Running", "selector": "a=b"},
        });
        let old = json!({
            "apiVersion": "custom.example.com/v1alpha1", "kind": "Widget", "metadata": {"name": "x"},
            "spec": {"repository": "registry.example.com/app", "tag": "1", "color": "red", "size": 2},
            "status": {"state": "running"},
        });
        assert_eq!(shown(&widget), old);
        assert!(is_old(&old) && !is_old(&widget));
    }
}
