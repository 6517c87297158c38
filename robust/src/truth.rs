//! The truth: the history table as SQL shows it, and what follows from it.
//!
//! What a list or a watch should have shown is computed here anew from the bare
//! events, by Kubernetes' rules; no code is shared with the server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::old;
use crate::selector::Selector;

/// One row of the history table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the one order of writes.
    pub revision: i64,
    /// 0 added, 1 modified, 2 deleted.
    pub kind: i16,
    /// Of the object.
    pub name: String,
    /// Of the object.
    pub uid: String,
    /// The version that it replaced.
    pub previous_revision: Option<i64>,
    /// The request that made it.
    pub audit_id: Option<String>,
    /// The object after it; for a deletion its last state.
    pub body: Value,
}

/// [`Event::kind`] of a creation.
pub const ADDED: i16 = 0;
/// [`Event::kind`] of a change.
pub const MODIFIED: i16 = 1;
/// [`Event::kind`] of a deletion.
pub const DELETED: i16 = 2;

impl Event {
    /// The object as a client is shown it: with its revision.
    #[must_use]
    pub fn shown(&self) -> Value {
        at_revision(&self.body, self.revision)
    }

    /// The object as a client is shown it in the version of an answer.
    #[must_use]
    pub fn shown_as(&self, answer: &Value) -> Value {
        let shown = self.shown();
        if old::is_old(answer) {
            old::shown(&shown)
        } else {
            shown
        }
    }
}

/// One row of the table of current objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the object.
    pub name: String,
    /// Of the object.
    pub uid: String,
    /// Its last write.
    pub revision: i64,
    /// Its first write.
    pub created_revision: i64,
}

/// All of one namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Truth {
    /// In the order of revisions.
    pub events: Vec<Event>,
    /// By name.
    pub objects: Vec<Head>,
    /// Below it nothing is promised.
    pub compacted: i64,
    /// No revision above it was allotted when this was read.
    pub last_allotted: i64,
}

/// The statement that gives [`Truth`] as one JSON document.
#[must_use]
pub fn statement(namespace: &str, beginning: i64) -> String {
    // Both are our own: a namespace of letters and digits, and a number.
    format!(
        "SELECT json_build_object(
            'events', (SELECT coalesce(json_agg(e ORDER BY revision), '[]') FROM (
                SELECT revision, kind, name, uid, previous_revision, audit_id,
                    convert_from(body, 'UTF8')::json AS body
                FROM store.events WHERE revision > {beginning} AND namespace = '{namespace}') e),
            'objects', (SELECT coalesce(json_agg(o ORDER BY name), '[]') FROM (
                SELECT name, uid, revision, created_revision
                FROM store.objects WHERE namespace = '{namespace}') o),
            'compacted', (SELECT revision FROM store.compaction),
            'last_allotted', (SELECT last_value FROM store.revisions))"
    )
}

/// A frame that a watch should have shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Of the event behind it.
    pub revision: i64,
    /// ADDED, MODIFIED or DELETED.
    pub kind: &'static str,
    /// The object that it carries.
    pub object: Value,
}

impl Truth {
    /// The objects after the event at `revision`, by name.
    #[must_use]
    pub fn fold(&self, revision: i64) -> BTreeMap<&str, &Event> {
        let mut objects = BTreeMap::new();
        for event in self.events.iter().take_while(|e| e.revision <= revision) {
            if event.kind == DELETED {
                objects.remove(event.name.as_str());
            } else {
                objects.insert(event.name.as_str(), event);
            }
        }
        objects
    }

    /// The event at this revision.
    #[must_use]
    pub fn event(&self, revision: i64) -> Option<&Event> {
        let place = self
            .events
            .binary_search_by_key(&revision, |event| event.revision);
        place.ok().and_then(|place| self.events.get(place))
    }

    /// Everything that a watcher with this selector should see, in order.
    #[must_use]
    pub fn frames(&self, selector: &Selector) -> Vec<Expected> {
        let mut before: BTreeMap<&str, &Event> = BTreeMap::new();
        let mut frames = Vec::new();
        for event in &self.events {
            let previous = before.remove(event.name.as_str());
            let was_in = previous.is_some_and(|previous| selector.matches(&previous.body));
            let is_in = event.kind != DELETED && selector.matches(&event.body);
            if event.kind != DELETED {
                before.insert(&event.name, event);
            }
            let (kind, body) = match (was_in, is_in) {
                (false, false) => continue,
                (false, true) => ("ADDED", &event.body),
                (true, true) => ("MODIFIED", &event.body),
                (true, false) if event.kind == DELETED => ("DELETED", &event.body),
                // It left the selection: its last selected state.
                (true, false) => ("DELETED", previous.map_or(&event.body, |p| &p.body)),
            };
            frames.push(Expected {
                revision: event.revision,
                kind,
                object: at_revision(body, event.revision),
            });
        }
        frames
    }
}

fn at_revision(body: &Value, revision: i64) -> Value {
    let mut object = body.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.insert(
            "resourceVersion".to_owned(),
            Value::from(revision.to_string()),
        );
    }
    object
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Hand-made truths.

    use super::*;
    use serde_json::json;

    /// An event of a Widget whose last writer was `op`.
    pub(crate) fn event(revision: i64, kind: i16, name: &str, op: &str) -> Event {
        Event {
            revision,
            kind,
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            previous_revision: None,
            audit_id: Some(op.to_owned()),
            body: json!({
                "apiVersion": "custom.example.com/v1", "kind": "Widget",
                "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1,
                    "annotations": {"op": op}},
                "spec": {"replicas": 1, "image": "i", "color": "red"},
            }),
        }
    }

    /// The same with a color.
    pub(crate) fn colored(mut event: Event, color: &str) -> Event {
        event.body["spec"]["color"] = json!(color);
        event
    }

    /// A truth of these events: predecessors are linked, objects are what is left.
    pub(crate) fn truth(mut events: Vec<Event>) -> Truth {
        let mut last: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for event in &mut events {
            let before = last.remove(&event.name);
            event.previous_revision = before.map(|(revision, _)| revision);
            let created = before.map_or(event.revision, |(_, created)| created);
            if event.kind != DELETED {
                last.insert(event.name.clone(), (event.revision, created));
            }
        }
        let objects = last
            .into_iter()
            .map(|(name, (revision, created_revision))| Head {
                uid: format!("uid-{name}"),
                name,
                revision,
                created_revision,
            })
            .collect();
        Truth {
            last_allotted: events.last().map_or(0, |event| event.revision),
            events,
            objects,
            compacted: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{colored, event, truth};
    use super::*;

    #[test]
    fn leaving_and_entering_a_selection_is_deletion_and_addition() {
        let truth = truth(vec![
            colored(event(1, ADDED, "x", "a"), "blue"),
            colored(event(2, MODIFIED, "x", "b"), "red"),
            colored(event(3, MODIFIED, "x", "c"), "red"),
            colored(event(4, MODIFIED, "x", "d"), "blue"),
            colored(event(5, DELETED, "x", "e"), "blue"),
        ]);
        let frames = truth.frames(&Selector::Color("red".to_owned()));
        let brief: Vec<_> = frames.iter().map(|f| (f.revision, f.kind)).collect();
        assert_eq!(brief, [(2, "ADDED"), (3, "MODIFIED"), (4, "DELETED")]);
        let gone = &frames[2].object;
        assert_eq!(
            gone.pointer("/spec/color").unwrap(),
            "red",
            "its last selected state"
        );
        assert_eq!(gone.pointer("/metadata/resourceVersion").unwrap(), "4");
        assert_eq!(truth.frames(&Selector::All).len(), 5);
    }

    #[test]
    fn a_fold_is_the_state_at_its_revision() {
        let truth = truth(vec![
            event(1, ADDED, "x", "a"),
            event(3, ADDED, "y", "b"),
            event(5, DELETED, "x", "c"),
        ]);
        let names = |revision| truth.fold(revision).into_keys().collect::<Vec<_>>();
        assert_eq!(names(0), Vec::<&str>::new());
        assert_eq!(names(2), ["x"]);
        assert_eq!(names(4), ["x", "y"]);
        assert_eq!(names(9), ["y"]);
        assert_eq!(truth.event(3).unwrap().name, "y");
        assert!(truth.event(4).is_none());
    }
}
