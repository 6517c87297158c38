//! What a schema changes in an object: pruning and defaulting.

use serde_json::Value;

use super::{Schema, SchemaKind, path::Path};
use crate::object::Object;

/// How many unknown fields are reported.
const MAX_REPORTED: usize = 100;

pub(super) fn prune(schema: &Schema, object: &mut Object) -> Vec<String> {
    let mut unknown = Vec::new();
    if !schema.preserve_unknown_fields {
        object.retain(|name, _| {
            let known = is_universal(name) || schema.properties.contains_key(name);
            if !known {
                report(&mut unknown, Path::Root.member(name));
            }
            known
        });
    }
    for (name, value) in object {
        let schema = match name.as_str() {
            "metadata" => Schema::object_meta(),
            _ => match schema.properties.get(name) {
                Some(property) => property,
                None => continue,
            },
        };
        prune_value(schema, value, Path::Root.member(name), &mut unknown);
    }
    unknown
}

fn prune_value(schema: &Schema, value: &mut Value, path: Path<'_>, unknown: &mut Vec<String>) {
    match value {
        Value::Object(members) => prune_members(schema, members, path, unknown),
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune_value(schema, item, path.index(index), unknown);
            }
        }
        _ => {}
    }
}

fn prune_members(schema: &Schema, members: &mut Object, path: Path<'_>, unknown: &mut Vec<String>) {
    let is_open = schema.preserve_unknown_fields
        || schema.additional_properties.is_some()
        || schema.kind.is_none();
    if !is_open {
        members.retain(|name, _| {
            let known = schema.properties.contains_key(name);
            if !known {
                report(unknown, path.member(name));
            }
            known
        });
    }
    for (name, value) in members {
        let below = schema
            .properties
            .get(name)
            .or(schema.additional_properties.as_deref());
        if let Some(schema) = below {
            prune_value(schema, value, path.member(name), unknown);
        }
    }
}

fn report(unknown: &mut Vec<String>, path: Path<'_>) {
    if unknown.len() < MAX_REPORTED {
        unknown.push(path.to_string());
    }
}

fn is_universal(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

pub(super) fn apply_defaults(schema: &Schema, object: &mut Object) {
    for name in ["apiVersion", "kind", "metadata"] {
        if object.get(name).is_some_and(Value::is_null) {
            object.remove(name);
        }
    }
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        default_members(Schema::object_meta(), metadata);
    }
    default_members(schema, object);
}

fn default_members(schema: &Schema, members: &mut Object) {
    for (name, property) in &schema.properties {
        let value = match members.get_mut(name) {
            Some(value) => value,
            None => match &property.default {
                Some(default) => members
                    .entry(name.as_str())
                    .or_insert_with(|| default.clone()),
                None => continue,
            },
        };
        if value.is_null() && !property.nullable {
            match &property.default {
                Some(default) => *value = default.clone(),
                None => {
                    members.remove(name);
                    continue;
                }
            }
        }
        default_value(property, value);
    }
    if let Some(values) = &schema.additional_properties {
        for (_, value) in members
            .iter_mut()
            .filter(|(name, _)| !schema.properties.contains_key(*name))
        {
            default_element(values, value);
        }
    }
}

fn default_value(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(members) => default_members(schema, members),
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items
                    .iter_mut()
                    .for_each(|item| default_element(schema, item));
            }
        }
        _ => {}
    }
}

/// An element of a list or a map cannot be dropped: a null becomes the zero value.
fn default_element(schema: &Schema, value: &mut Value) {
    if value.is_null() && !schema.nullable {
        *value = match schema.kind {
            None => return,
            Some(SchemaKind::Object) => Value::Object(Object::new()),
            Some(SchemaKind::Array) => Value::Array(Vec::new()),
            Some(SchemaKind::String) => "".into(),
            Some(SchemaKind::Integer | SchemaKind::Number) => 0.into(),
            Some(SchemaKind::Boolean) => false.into(),
        };
    }
    default_value(schema, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::schema::test_schema::{gadget, object};

    #[test]
    fn unknown_fields_are_removed_and_named() {
        let mut value = object(json!({
            "apiVersion": "v", "kind": "k", "extra": 1,
            "metadata": {"name": "n", "foo": 1, "labels": {"any": "x"}, "ownerReferences": [{"bar": 1}],
                "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {"color": "red", "Color": "x", "parts": [{"name": "a"}, {"name": "b", "typo": 1}],
                "limits": {"cpu": 1}, "free": {"x": {"y": 1}}},
        }));
        let unknown = gadget().prune(&mut value);
        assert_eq!(
            unknown,
            [
                "extra",
                "metadata.foo",
                "metadata.ownerReferences[0].bar",
                "spec.Color",
                "spec.parts[1].typo"
            ]
        );
        assert_eq!(
            value,
            object(json!({
                "apiVersion": "v", "kind": "k",
                "metadata": {"name": "n", "labels": {"any": "x"}, "ownerReferences": [{}],
                    "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
                "spec": {"color": "red", "parts": [{"name": "a"}, {"name": "b"}],
                    "limits": {"cpu": 1}, "free": {"x": {"y": 1}}},
            }))
        );
        assert!(gadget().prune(&mut value).is_empty());
    }

    #[test]
    fn at_most_a_hundred_unknown_fields_are_named() {
        let mut value = (0..1_000).map(|i| (format!("f{i}"), json!(1))).collect();
        assert_eq!(gadget().prune(&mut value).len(), 100);
        assert!(value.is_empty());
    }

    #[test]
    fn defaults_fill_what_is_absent_or_null_and_nothing_else() {
        let mut value = object(json!({"spec": {"size": 0, "color": null}}));
        gadget().apply_defaults(&mut value);
        assert_eq!(value, object(json!({"spec": {"size": 0, "color": "blue"}})));
        let mut value = object(json!({"spec": {"color": "red", "parts": [{"name": "a"}]}}));
        gadget().apply_defaults(&mut value);
        assert_eq!(
            value,
            object(
                json!({"spec": {"color": "red", "size": 1, "parts": [{"name": "a", "count": 1}]}})
            )
        );
    }

    #[test]
    fn an_absent_parent_is_not_made_for_the_sake_of_its_defaults() {
        let mut value = object(json!({}));
        gadget().apply_defaults(&mut value);
        assert_eq!(value, object(json!({})));
    }

    #[test]
    fn nulls_are_dropped_or_become_zero_values() {
        let mut value = object(json!({
            "metadata": {"name": null, "labels": {"a": null}, "annotations": null, "finalizers": [null]},
            "spec": {"parts": [null], "note": null, "size": 1, "color": "red"},
        }));
        gadget().apply_defaults(&mut value);
        assert_eq!(
            value,
            object(json!({
                "metadata": {"labels": {"a": ""}, "finalizers": [""]},
                "spec": {"parts": [{"count": 1}], "note": null, "size": 1, "color": "red"},
            }))
        );
    }
}
