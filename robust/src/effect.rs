//! What a write makes of the object that it finds, by Kubernetes' rules: computed
//! here anew, to hold the server's result against.

use serde_json::{Map, Value, json};

use crate::record::{Call, Change, Part};

/// The parts of an object that clients decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Essence {
    labels: Value,
    annotations: Value,
    finalizers: Value,
    spec: Value,
    status: Value,
    deleting: bool,
    generation: i64,
}

impl Essence {
    /// Those of an object.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let part = |pointer: &str, empty: Value| {
            let found = object.pointer(pointer).filter(|value| !value.is_null());
            found.cloned().unwrap_or(empty)
        };
        Self {
            labels: part("/metadata/labels", json!({})),
            annotations: part("/metadata/annotations", json!({})),
            finalizers: part("/metadata/finalizers", json!([])),
            spec: part("/spec", json!({})),
            status: part("/status", json!({})),
            deleting: object.pointer("/metadata/deletionTimestamp").is_some(),
            generation: object
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .unwrap_or(0),
        }
    }

    /// Whether nothing holds the object any more.
    #[must_use]
    pub fn is_removable(&self) -> bool {
        self.deleting && self.finalizers.as_array().is_none_or(Vec::is_empty)
    }
}

/// What a call makes of `previous`, and whether the object is gone then. None
/// when the call cannot be applied to it (a failed test).
#[must_use]
pub fn apply(call: &Call, previous: Option<&Value>) -> Option<(Essence, bool)> {
    match (call, previous) {
        (Call::Create { body, .. }, None) => {
            let mut essence = Essence::of(body);
            essence.generation = 1;
            Some((essence, false))
        }
        (
            Call::Write {
                part, change, body, ..
            },
            Some(previous),
        ) => write(previous, *part, *change, body),
        (Call::Delete { .. } | Call::DeleteCollection { .. }, Some(previous)) => {
            let mut essence = Essence::of(previous);
            let is_held = essence.finalizers.as_array().is_some_and(|f| !f.is_empty());
            if is_held && !essence.deleting {
                essence.deleting = true;
                essence.generation += 1;
            }
            Some((essence, !is_held))
        }
        _ => None,
    }
}

fn write(previous: &Value, part: Part, change: Change, body: &Value) -> Option<(Essence, bool)> {
    let before = Essence::of(previous);
    if part == Part::Scale {
        let replicas = match change {
            Change::Json => body.as_array()?.last()?.get("value")?,
            Change::Replace | Change::Merge => body.pointer("/spec/replicas")?,
        };
        let mut after = before.clone();
        let spec = after.spec.as_object_mut()?;
        spec.insert("replicas".to_owned(), replicas.clone());
        return Some(finish(&before, after));
    }
    let mut object = previous.clone();
    match change {
        Change::Replace => object = body.clone(),
        Change::Merge => merge(&mut object, body),
        Change::Json => patch(&mut object, body)?,
    }
    let wanted = Essence::of(&object);
    let after = match part {
        Part::Status => Essence {
            status: wanted.status,
            ..before.clone()
        },
        Part::Main | Part::Scale => Essence {
            status: before.status.clone(),
            deleting: before.deleting,
            generation: before.generation,
            ..wanted
        },
    };
    Some(finish(&before, after))
}

fn finish(before: &Essence, mut after: Essence) -> (Essence, bool) {
    if before.spec != after.spec {
        after.generation += 1;
    }
    let is_gone = after.is_removable();
    (after, is_gone)
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(members) = target {
        for (name, value) in patch {
            if value.is_null() {
                members.remove(name);
            } else {
                merge(members.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// As much of RFC 6902 as the clients use: test, and add or replace of a member.
fn patch(target: &mut Value, operations: &Value) -> Option<()> {
    for operation in operations.as_array()? {
        let (path, value) = (operation.get("path")?.as_str()?, operation.get("value")?);
        if operation.get("op")? == "test" {
            (target.pointer(path) == Some(value)).then_some(())?;
            continue;
        }
        let (parent, member) = path.rsplit_once('/')?;
        let parent = target.pointer_mut(parent)?.as_object_mut()?;
        parent.insert(member.to_owned(), value.clone());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widget() -> Value {
        json!({
            "metadata": {"name": "x", "generation": 3, "labels": {"tier": "a"}, "annotations": {"op": "1"}},
            "spec": {"replicas": 1, "color": "red"}, "status": {"phase": "Running"},
        })
    }

    fn call(part: Part, change: Change, body: Value) -> Call {
        Call::Write {
            name: "x".to_owned(),
            part,
            change,
            body,
            expected: None,
        }
    }

    #[test]
    fn a_change_of_the_main_part_keeps_the_status_and_counts_the_generation() {
        let body = json!({"metadata": {"labels": {"tier": null}, "annotations": {"op": "2"}},
            "spec": {"color": "blue"}, "status": {"phase": "Pending"}});
        let (after, gone) = apply(&call(Part::Main, Change::Merge, body), Some(&widget())).unwrap();
        assert!(!gone);
        assert_eq!(after.status, json!({"phase": "Running"}));
        assert_eq!(after.labels, json!({}));
        assert_eq!(after.spec, json!({"replicas": 1, "color": "blue"}));
        assert_eq!(after.generation, 4);
    }

    #[test]
    fn a_change_of_the_status_keeps_everything_else() {
        let body = json!([{"op": "add", "path": "/status", "value": {"phase": "Pending"}},
            {"op": "replace", "path": "/spec/color", "value": "blue"}]);
        let (after, _) = apply(&call(Part::Status, Change::Json, body), Some(&widget())).unwrap();
        assert_eq!(after.status, json!({"phase": "Pending"}));
        assert_eq!(after.spec, json!({"replicas": 1, "color": "red"}));
        assert_eq!(after.generation, 3);
    }

    #[test]
    fn a_failed_test_changes_nothing() {
        let body = json!([{"op": "test", "path": "/metadata/annotations/op", "value": "9"}]);
        assert_eq!(
            apply(&call(Part::Main, Change::Json, body), Some(&widget())),
            None
        );
    }

    #[test]
    fn a_held_object_is_marked_and_goes_with_its_last_finalizer() {
        let delete = Call::Delete {
            name: "x".to_owned(),
            uid: None,
            expected: None,
        };
        assert!(apply(&delete, Some(&widget())).unwrap().1);
        let mut held = widget();
        held["metadata"]["finalizers"] = json!(["a/b"]);
        let (marked, gone) = apply(&delete, Some(&held)).unwrap();
        assert!(marked.deleting && !gone && marked.generation == 4);
        held["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let release = json!({"metadata": {"finalizers": null}});
        assert!(
            apply(&call(Part::Main, Change::Merge, release), Some(&held))
                .unwrap()
                .1
        );
    }
}
