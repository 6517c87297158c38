//! The rules that a schema states about values.

use serde_json::Value;

use super::{Schema, path::Path};
use crate::{
    field::{FieldError, FieldErrorKind},
    object::Object,
};

pub(super) fn validate(schema: &Schema, object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_members(schema, object, Path::Root, &mut errors);
    errors
}

fn check_value(schema: &Schema, value: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if !schema.enumeration.is_empty() && !schema.enumeration.contains(value) {
        let supported: Vec<_> = schema.enumeration.iter().map(plain).collect();
        let supported: Vec<_> = supported.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(
            path.to_string(),
            value.clone(),
            &supported,
        ));
        return;
    }
    match value {
        Value::String(text) => check_text(schema, text, path, errors),
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                check_number(schema, (number, value), path, errors);
            }
        }
        Value::Array(items) => check_items(schema, items, path, errors),
        Value::Object(members) => check_members(schema, members, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_members(schema: &Schema, members: &Object, path: Path<'_>, errors: &mut Vec<FieldError>) {
    for name in &schema.required {
        if members.get(name).is_none_or(Value::is_null) {
            errors.push(FieldError::required(path.member(name).to_string(), ""));
        }
    }
    for (name, value) in members {
        let below = schema
            .properties
            .get(name)
            .or(schema.additional_properties.as_deref());
        if let Some(schema) = below {
            check_value(schema, value, path.member(name), errors);
        }
    }
}

fn check_items(schema: &Schema, items: &[Value], path: Path<'_>, errors: &mut Vec<FieldError>) {
    let length = u64::try_from(items.len()).unwrap_or(u64::MAX);
    if let Some(max) = schema.max_items.filter(|max| length > *max) {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        errors.push(FieldError::too_many(path.to_string(), items.len(), max));
    }
    if let Some(min) = schema.min_items.filter(|min| length < *min) {
        let detail = format!("should have at least {min} items");
        errors.push(FieldError::invalid(path.to_string(), length, detail));
    }
    if let Some(schema) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            check_value(schema, item, path.index(index), errors);
        }
    }
    check_duplicates(schema, items, path, errors);
}

/// Keyed lists hold a key once, sets a value once.
fn check_duplicates(
    schema: &Schema,
    items: &[Value],
    path: Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let identity: &dyn Fn(&Value) -> Value = match schema
        .extensions
        .get("x-kubernetes-list-type")
        .and_then(Value::as_str)
    {
        Some("map") => &|item| identity_of(schema, item),
        Some("set") => &Value::clone,
        _ => return,
    };
    let mut seen = std::collections::HashSet::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let identity = identity(item);
        if !seen.insert(identity.to_string()) {
            errors.push(FieldError::duplicate(
                path.index(index).to_string(),
                identity,
            ));
        }
    }
}

fn identity_of(schema: &Schema, item: &Value) -> Value {
    let keys = schema
        .extensions
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array);
    let keys = keys.into_iter().flatten().filter_map(Value::as_str);
    keys.filter_map(|key| Some((key.to_owned(), item.get(key)?.clone())))
        .collect()
}

fn check_text(schema: &Schema, text: &str, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if schema.min_length.is_some() || schema.max_length.is_some() {
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            let detail = format!("may not be more than {max} characters");
            errors.push(FieldError::new(
                FieldErrorKind::TooLong,
                path.to_string(),
                "",
                detail,
            ));
        }
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            let detail = format!("should be at least {min} characters long");
            errors.push(FieldError::invalid(path.to_string(), text, detail));
        }
    }
    if let Some(pattern) = schema
        .pattern
        .as_ref()
        .filter(|pattern| !pattern.is_match(text))
    {
        let detail = format!("should match '{}'", pattern.as_str());
        errors.push(FieldError::invalid(path.to_string(), text, detail));
    }
}

fn check_number(
    schema: &Schema,
    (number, value): (f64, &Value),
    path: Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let bounds = [
        (schema.minimum.filter(|min| number < *min), "greater"),
        (schema.maximum.filter(|max| number > *max), "less"),
    ];
    for (bound, word) in bounds {
        if let Some(bound) = bound {
            let detail = format!("should be {word} than or equal to {bound}");
            errors.push(FieldError::invalid(path.to_string(), value.clone(), detail));
        }
    }
}

/// A value as it stands in a list of supported ones.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::test_schema::{gadget, object};

    fn told(value: Value) -> Vec<String> {
        gadget()
            .validate(&object(value))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let value = json!({"spec": {
            "size": -1, "color": "Blue!", "mode": "Zap",
            "parts": [{"name": "a"}, {"name": "a"}, {"count": 1}],
        }});
        assert_eq!(
            told(value),
            [
                "spec.color: Invalid value: \"Blue!\": should match '^[a-z]{1,32}$'",
                "spec.mode: Unsupported value: \"Zap\": supported values: \"Fast\", \"Slow\"",
                "spec.parts[2].name: Required value",
                "spec.parts[1]: Duplicate value: {\"name\":\"a\"}",
                "spec.size: Invalid value: -1: should be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn a_missing_spec_is_required() {
        assert_eq!(told(json!({})), ["spec: Required value"]);
        assert_eq!(told(json!({"spec": null})), ["spec: Required value"]);
    }

    #[test]
    fn bounds_on_lengths_hold() {
        let value = json!({"spec": {"note": "ä".repeat(9), "parts": [
            {"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"},
        ]}});
        assert_eq!(
            told(value),
            [
                "spec.note: Too long: may not be more than 8 characters",
                "spec.parts: Too many: 4: must have at most 3 items",
            ]
        );
        assert!(told(json!({"spec": {"note": "ä".repeat(8)}})).is_empty());
    }

    #[test]
    fn what_is_valid_has_no_errors() {
        assert!(told(json!({"spec": {"size": 0, "color": "red", "mode": "Fast"}})).is_empty());
    }
}
