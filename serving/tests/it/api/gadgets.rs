//! A resource with everything: two versions, a lens, subresources, selectors,
//! columns and hooks.

use std::sync::LazyLock;

use jiff::Timestamp;
use machinery::field::FieldError;
use machinery::lens::Lens;
use machinery::resource::{Column, ResourceInfo, Scope, SelectableField, VersionInfo};
use machinery::scale::ScalePaths;
use machinery::schema::Schema;
use machinery::{Object, object};
use serde_json::{Value, json};
use serving::resource::Resource;

/// A namespaced kind: `v1` is the hub, `v1alpha1` calls the replicas `size`
/// and does not know `spec.limits`.
pub struct Gadgets;

pub const GROUP: &str = "gadget.example.com";

impl Resource for Gadgets {
    fn info(&self) -> &ResourceInfo {
        static INFO: LazyLock<ResourceInfo> = LazyLock::new(|| ResourceInfo {
            group: GROUP,
            kind: "Gadget",
            list_kind: "GadgetList",
            plural: "gadgets",
            singular: "gadget",
            short_names: &["gd"],
            categories: &["all"],
            scope: Scope::Namespaced,
            versions: vec![v1(), v1alpha1()],
            status: true,
            scale: Some(ScalePaths {
                spec_replicas: "/spec/replicas",
                status_replicas: "/status/replicas",
                label_selector: "/status/selector",
            }),
            history: true,
        });
        &INFO
    }

    fn prepare_create(&self, hub: &mut Object) {
        if object::annotations(hub).is_some_and(|all| all.contains_key("upper")) {
            let shout = object::pointer(hub, "/spec/note")
                .and_then(Value::as_str)
                .map(str::to_uppercase);
            if let Some(shout) = shout {
                object::set_pointer(hub, "/spec/note", Value::from(shout));
            }
        }
    }

    fn validate(&self, hub: &Object) -> Vec<FieldError> {
        let note = object::pointer(hub, "/spec/note").and_then(Value::as_str);
        assert_ne!(note, Some("panic"), "as the test wants it");
        match object::pointer(hub, "/spec/replicas").and_then(Value::as_i64) {
            Some(replicas) if replicas > 100 => {
                vec![FieldError::invalid(
                    "spec.replicas",
                    replicas,
                    "replicas cannot exceed 100",
                )]
            }
            _ => vec![],
        }
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let fixed = |object: &Object| object::pointer(object, "/spec/fixed").cloned();
        if fixed(new) != fixed(old) {
            errors.push(FieldError::invalid(
                "spec.fixed",
                fixed(new).unwrap_or_default(),
                "field is immutable",
            ));
        }
        errors
    }
}

fn v1() -> VersionInfo {
    VersionInfo {
        name: "v1",
        storage: true,
        deprecation_warning: None,
        schema: schema(json!({
            "replicas": { "type": "integer", "format": "int32", "minimum": 0, "default": 1 },
            "color": color(),
            "note": { "type": "string" },
            "fixed": { "type": "string" },
            "limits": { "type": "object", "additionalProperties": { "type": "string" } },
        })),
        columns: columns(|object, _| pointed(object, "/spec/replicas")),
        selectable: vec![color_field()],
        lens: None,
    }
}

fn v1alpha1() -> VersionInfo {
    VersionInfo {
        name: "v1alpha1",
        storage: false,
        deprecation_warning: Some("gadget.example.com/v1alpha1 Gadget is deprecated; use v1"),
        schema: schema(json!({
            "size": { "type": "integer", "format": "int32", "minimum": 0, "default": 1 },
            "color": color(),
            "note": { "type": "string" },
            "fixed": { "type": "string" },
        })),
        columns: columns(|object, _| pointed(object, "/spec/size")),
        selectable: vec![
            color_field(),
            SelectableField {
                label: "spec.size",
                pointer: "/spec/size",
                hub_pointer: |hub| object::pointer(hub, "/spec/replicas").map(ToString::to_string),
            },
        ],
        lens: Some(Box::new(SizeLens)),
    }
}

fn color() -> Value {
    json!({ "type": "string", "pattern": "^[a-z]{1,32}$", "default": "blue" })
}

fn color_field() -> SelectableField {
    SelectableField {
        label: "spec.color",
        pointer: "/spec/color",
        hub_pointer: |hub| {
            object::pointer(hub, "/spec/color")
                .and_then(Value::as_str)
                .map(str::to_owned)
        },
    }
}

fn schema(spec: Value) -> Schema {
    Schema::from_json_schema(&json!({
        "title": "Gadget",
        "type": "object",
        "properties": {
            "spec": { "title": "GadgetSpec", "type": "object", "properties": spec, "default": {} },
            "status": {
                "type": "object",
                "properties": {
                    "replicas": { "type": "integer", "format": "int32" },
                    "selector": { "type": "string" },
                    "phase": { "type": "string", "enum": ["Pending", "Running"] },
                },
            },
        },
    }))
    .expect("the schema is structural")
}

fn columns(replicas: fn(&Object, Timestamp) -> Value) -> Vec<Column> {
    let column = |name, kind, priority, value| Column {
        name,
        kind,
        format: "",
        description: "",
        priority,
        value,
    };
    vec![
        column("Desired", "integer", 0, replicas),
        column("Color", "string", 0, |object, _| {
            pointed(object, "/spec/color")
        }),
        column("Note", "string", 1, |object, _| {
            let note = pointed(object, "/spec/note");
            assert_ne!(note, "panic in a cell", "as the test wants it");
            note
        }),
    ]
}

fn pointed(object: &Object, pointer: &str) -> Value {
    object::pointer(object, pointer)
        .cloned()
        .unwrap_or(Value::Null)
}

/// `spec.replicas` is `spec.size`; `spec.limits` is not shown.
struct SizeLens;

fn rename(object: &mut Object, from: &str, to: &str) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(value) = spec.remove(from)
    {
        spec.insert(to.to_owned(), value);
    }
}

impl Lens for SizeLens {
    fn get(&self, hub: &Object) -> Object {
        let mut shown = hub.clone();
        rename(&mut shown, "replicas", "size");
        if let Some(spec) = shown.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("limits");
        }
        object::set_type(&mut shown, "gadget.example.com/v1alpha1", "Gadget");
        shown
    }

    fn create(&self, version: &Object) -> Result<Object, Vec<FieldError>> {
        let note = object::pointer(version, "/spec/note").and_then(Value::as_str);
        if note == Some("unconvertible") {
            return Err(vec![FieldError::invalid(
                "spec.note",
                "unconvertible",
                "cannot be converted",
            )]);
        }
        let mut hub = version.clone();
        rename(&mut hub, "size", "replicas");
        object::set_type(&mut hub, "gadget.example.com/v1", "Gadget");
        Ok(hub)
    }

    fn put(&self, version: &Object, old_hub: &Object) -> Result<Object, Vec<FieldError>> {
        let mut hub = self.create(version)?;
        if let Some(limits) = object::pointer(old_hub, "/spec/limits") {
            object::set_pointer(&mut hub, "/spec/limits", limits.clone());
        }
        Ok(hub)
    }

    fn field_path(&self, hub_path: &str) -> String {
        hub_path.replace("spec.replicas", "spec.size")
    }
}
