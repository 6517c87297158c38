//! What clients send: bodies and paths of requests.

use serde_json::{Map, Value, json};

use crate::plan::{Form, Shape};
use crate::record::{Change, Part};
use crate::selector::LABEL;

/// Group and version that the clients speak.
const API: &str = "/apis/custom.example.com/v1";
/// What bodies must bear: a character that databases like to refuse or to drop.
const NOTE: &str = "nul \u{0} here";
/// What holds objects that are made with a finalizer.
const FINALIZER: &str = "example.com/held";

/// Path of the collection: of the namespace, or of all of them.
#[must_use]
pub fn collection(namespace: &str, everywhere: bool) -> String {
    if everywhere {
        format!("{API}/widgets")
    } else {
        format!("{API}/namespaces/{namespace}/widgets")
    }
}

/// Path of an object, or of a subresource.
#[must_use]
pub fn object(namespace: &str, name: &str, part: Part) -> String {
    let tail = match part {
        Part::Main => "",
        Part::Status => "/status",
        Part::Scale => "/scale",
    };
    format!("{API}/namespaces/{namespace}/widgets/{name}{tail}")
}

/// Media type of a change.
#[must_use]
pub fn media(change: Change) -> &'static str {
    match change {
        Change::Replace => "application/json",
        Change::Merge => "application/merge-patch+json",
        Change::Json => "application/json-patch+json",
    }
}

/// The change that a form is.
#[must_use]
pub fn change(form: Form) -> Change {
    match form {
        Form::Put => Change::Replace,
        Form::Merge => Change::Merge,
        Form::Json => Change::Json,
    }
}

fn labels(shape: &Shape) -> Value {
    let tier = shape.tier.as_ref();
    tier.map_or_else(|| json!({}), |tier| json!({LABEL: tier}))
}

/// A new object.
#[must_use]
pub fn create(name: &str, shape: &Shape, finalizer: bool, op: &str) -> Value {
    let mut body = json!({
        "apiVersion": "custom.example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "labels": labels(shape), "annotations": {"op": op, "note": NOTE}},
        "spec": {"image": "registry.example.com/app:1", "color": shape.color, "replicas": shape.replicas},
    });
    if finalizer {
        set(&mut body, "metadata", "finalizers", json!([FINALIZER]));
    }
    body
}

/// A known object with other contents, for PUT.
#[must_use]
pub fn put(known: &Value, shape: &Shape, op: &str) -> Value {
    let mut body = known.clone();
    set(&mut body, "metadata", "labels", labels(shape));
    let annotations = json!({"op": op, "note": NOTE});
    set(&mut body, "metadata", "annotations", annotations);
    set(&mut body, "spec", "color", json!(shape.color));
    set(&mut body, "spec", "replicas", json!(shape.replicas));
    body
}

/// A merge patch; `over` is the resourceVersion that it demands.
#[must_use]
pub fn merge(shape: &Shape, op: &str, over: Option<i64>) -> Value {
    let mut body = json!({
        "metadata": {"labels": {LABEL: shape.tier}, "annotations": {"op": op}},
        "spec": {"color": shape.color, "replicas": shape.replicas},
    });
    demand(&mut body, over);
    body
}

/// A merge patch that takes the finalizers away.
#[must_use]
pub fn release(op: &str) -> Value {
    json!({"metadata": {"finalizers": null, "annotations": {"op": op}}})
}

/// A JSON patch; `test` is what the last writer must have written.
#[must_use]
pub fn json_patch(shape: &Shape, op: &str, over: Option<i64>, test: Option<&str>) -> Value {
    let mut operations = Vec::new();
    if let Some(test) = test {
        operations.push(json!({"op": "test", "path": "/metadata/annotations/op", "value": test}));
    }
    operations.extend(demands(over));
    operations.extend([
        json!({"op": "add", "path": "/metadata/labels", "value": labels(shape)}),
        json!({"op": "add", "path": "/metadata/annotations/op", "value": op}),
        json!({"op": "replace", "path": "/spec/color", "value": shape.color}),
        json!({"op": "replace", "path": "/spec/replicas", "value": shape.replicas}),
    ]);
    Value::Array(operations)
}

/// A write of the status, with the object that it rests on for PUT.
#[must_use]
pub fn status(form: Form, known: Option<&Value>, phase: &str, op: &str) -> Option<Value> {
    let status = json!({"phase": phase, "selector": format!("op={op}")});
    let over = known.and_then(crate::record::revision);
    Some(match form {
        Form::Put => {
            let mut body = known?.clone();
            if let Some(members) = body.as_object_mut() {
                members.insert("status".to_owned(), status);
            }
            body
        }
        Form::Merge => {
            let mut body = json!({"status": status});
            demand(&mut body, over);
            body
        }
        Form::Json => {
            let write = json!({"op": "add", "path": "/status", "value": status});
            Value::Array(demands(over).into_iter().chain([write]).collect())
        }
    })
}

/// A write of the scale.
#[must_use]
pub fn scale(form: Form, name: &str, over: Option<i64>, replicas: u8) -> Value {
    match form {
        Form::Put => {
            let mut body = json!({
                "apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {"name": name}, "spec": {"replicas": replicas},
            });
            demand(&mut body, over);
            body
        }
        Form::Merge => {
            let mut body = json!({"spec": {"replicas": replicas}});
            demand(&mut body, over);
            body
        }
        Form::Json => {
            let write = json!({"op": "add", "path": "/spec/replicas", "value": replicas});
            Value::Array(demands(over).into_iter().chain([write]).collect())
        }
    }
}

/// Options of a DELETE with preconditions.
#[must_use]
pub fn delete(uid: Option<&str>, over: Option<i64>) -> Value {
    let mut preconditions = Map::new();
    if let Some(uid) = uid {
        preconditions.insert("uid".to_owned(), json!(uid));
    }
    if let Some(over) = over {
        let over = json!(over.to_string());
        preconditions.insert("resourceVersion".to_owned(), over);
    }
    json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions})
}

/// Sets a member of a part of an object; makes the part where it is absent.
fn set(body: &mut Value, part: &str, member: &str, value: Value) {
    let Some(body) = body.as_object_mut() else {
        return;
    };
    let part = body.entry(part).or_insert_with(|| json!({}));
    if let Some(members) = part.as_object_mut() {
        members.insert(member.to_owned(), value);
    }
}

/// Adds the resourceVersion that a body demands.
pub(crate) fn demand(body: &mut Value, over: Option<i64>) {
    if let Some(over) = over {
        set(body, "metadata", "resourceVersion", json!(over.to_string()));
    }
}

fn demands(over: Option<i64>) -> Vec<Value> {
    let demand = |over: i64| {
        let path = "/metadata/resourceVersion";
        json!({"op": "replace", "path": path, "value": over.to_string()})
    };
    over.map(demand).into_iter().collect()
}
