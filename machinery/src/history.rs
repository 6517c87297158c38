//! The `history` subresource: the writes to one object that are still known, newest first.
//!
//! It is a kind of the resource's own group, `<Kind>History`, in every version the same. Its
//! items are no objects: they have neither kind nor metadata.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    codec::ListMeta,
    names,
    resource::ResourceInfo,
    table::{self, IncludeObject, TableOptions},
};

/// Writes in an answer when the client sets no limit, and at most.
pub const MAX_ITEMS: usize = 500;

/// What a write did to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It came to be.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "Added",
            Self::Modified => "Modified",
            Self::Deleted => "Deleted",
        }
    }
}

/// One write to an object, and who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The object's resourceVersion after it.
    pub resource_version: String,
    /// When the database took it in.
    pub time: Timestamp,
    /// What it did.
    pub change: Change,
    /// Tells the object from an earlier one of its name.
    pub uid: String,
    /// The authenticated user.
    pub user: String,
    /// The verb of the request.
    pub verb: String,
    /// The field manager, or the program that the client said it is.
    pub field_manager: String,
    /// The id of the request in audit logs.
    pub audit_id: String,
}

impl Item {
    fn to_value(&self) -> Value {
        let mut item = Map::new();
        for (key, text) in [
            ("resourceVersion", self.resource_version.as_str()),
            ("type", self.change.as_str()),
            ("uid", &self.uid),
            ("user", &self.user),
            ("verb", &self.verb),
            ("fieldManager", &self.field_manager),
            ("auditID", &self.audit_id),
        ] {
            if !text.is_empty() {
                item.insert(key.to_owned(), text.into());
            }
        }
        item.insert("time".to_owned(), micro_time(self.time).into());
        Value::Object(item)
    }

    fn cells(&self, now: Timestamp) -> [Value; 8] {
        let age = table::human_duration(now.duration_since(self.time).as_secs());
        [
            self.resource_version.as_str().into(),
            self.change.as_str().into(),
            self.user.as_str().into(),
            self.verb.as_str().into(),
            self.field_manager.as_str().into(),
            age.into(),
            self.uid.as_str().into(),
            self.audit_id.as_str().into(),
        ]
    }
}

/// The kind of the history of this resource's objects.
#[must_use]
pub fn kind(info: &ResourceInfo) -> String {
    format!("{}History", info.kind)
}

/// The document in a version of the resource.
#[must_use]
pub fn document(info: &ResourceInfo, version: &str, meta: &ListMeta, items: &[Item]) -> Value {
    json!({
        "kind": kind(info),
        "apiVersion": names::api_version(info.group, version),
        "metadata": meta.to_value(),
        "items": items.iter().map(Item::to_value).collect::<Vec<_>>(),
    })
}

/// The same as a Table, a write a row. `includeObject=Metadata` has nothing to include.
#[must_use]
pub fn table(meta: &ListMeta, items: &[Item], options: TableOptions, now: Timestamp) -> Value {
    let rows = items.iter().map(|item| {
        let object = match options.include {
            IncludeObject::Object => item.to_value(),
            IncludeObject::None | IncludeObject::Metadata => Value::Null,
        };
        json!({"cells": item.cells(now), "object": object})
    });
    let column = |(name, priority, description): &(&str, i32, &str)| {
        json!({
            "name": name, "type": "string", "format": "", "priority": priority,
            "description": description,
        })
    };
    json!({
        "kind": "Table",
        "apiVersion": options.version.api_version(),
        "metadata": meta.to_value(),
        "columnDefinitions": COLUMNS.iter().map(column).collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    })
}

const COLUMNS: [(&str, i32, &str); 8] = [
    (
        "Revision",
        0,
        "The object's resourceVersion after the write.",
    ),
    ("Type", 0, "Added, Modified or Deleted."),
    ("User", 0, "The authenticated user who made the write."),
    ("Verb", 0, "The verb of the request."),
    ("Manager", 0, "The field manager, or the client's program."),
    ("Age", 0, "How long ago it was."),
    (
        "UID",
        1,
        "Tells the object from an earlier one of its name.",
    ),
    ("Audit ID", 1, "The id of the request in audit logs."),
];

/// The schema of an item, for OpenAPI.
pub(crate) fn item_schema() -> Value {
    let text = |description: &str| json!({"description": description, "type": "string"});
    json!({
        "type": "object",
        "required": ["resourceVersion", "time", "type"],
        "properties": {
            "resourceVersion": text("The object's resourceVersion after the write."),
            "time": {
                "description": "When the database took the write in.",
                "type": "string", "format": "date-time",
            },
            "type": {
                "description": "What the write did to the object.",
                "type": "string", "enum": ["Added", "Modified", "Deleted"],
            },
            "uid": text("Tells the object from an earlier one of its name."),
            "user": text("The authenticated user who made the write."),
            "verb": text("The verb of the request."),
            "fieldManager": text("The field manager, or the program that the client said it is."),
            "auditID": text("The id of the request in audit logs."),
        },
    })
}

/// As `metav1.MicroTime` is written.
fn micro_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{negotiate::MetaVersion, openapi::test_resources};

    fn item() -> Item {
        Item {
            resource_version: "7".into(),
            time: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            change: Change::Modified,
            uid: "u".into(),
            user: "alice".into(),
            verb: "patch".into(),
            field_manager: "kubectl".into(),
            audit_id: String::new(),
        }
    }

    #[test]
    fn a_document_names_its_kind_and_says_only_what_is_known() {
        let meta = ListMeta {
            resource_version: "9".into(),
            ..ListMeta::default()
        };
        assert_eq!(
            document(&test_resources::gadgets(), "v1alpha1", &meta, &[item()]),
            json!({
                "kind": "GadgetHistory", "apiVersion": "test.example.com/v1alpha1",
                "metadata": {"resourceVersion": "9"},
                "items": [{
                    "resourceVersion": "7", "time": "2026-01-01T00:00:00.500000Z",
                    "type": "Modified", "uid": "u", "user": "alice", "verb": "patch",
                    "fieldManager": "kubectl",
                }],
            })
        );
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let options = TableOptions {
            include: IncludeObject::Object,
            version: MetaVersion::V1,
        };
        let now = "2026-01-01T00:05:00.5Z".parse().unwrap();
        let table = table(&ListMeta::default(), &[item()], options, now);
        assert_eq!(
            table["rows"][0]["cells"],
            json!(["7", "Modified", "alice", "patch", "kubectl", "5m", "u", ""])
        );
        assert_eq!(table["columnDefinitions"].as_array().unwrap().len(), 8);
        assert_eq!(table["rows"][0]["object"]["resourceVersion"], "7");
    }
}
