//! Whether values have the types that the schema names, in the words of a Go server.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Number, Value};

use super::{Schema, SchemaKind, path::Path};
use crate::{
    codec::json::KEPT_DEPTH, error::ApiError, names::GroupVersionKind, object::Object, quote::quote,
};

pub(super) fn check_types(
    schema: &Schema,
    object: &Object,
    kind: &GroupVersionKind,
) -> Result<(), ApiError> {
    let check = Check {
        root: &kind.kind,
        version: &kind.version,
    };
    check.document(schema, object).map_err(|error| {
        let GroupVersionKind { version, kind, .. } = kind;
        let version = quote(version);
        ApiError::bad_request(format!(
            "{kind} in version {version} cannot be handled as a {kind}: {error}"
        ))
    })
}

struct Check<'a> {
    root: &'a str,
    version: &'a str,
}

/// Where a value stands, as Go tells it: names of fields only, and the innermost struct.
#[derive(Clone, Copy)]
struct Place<'a> {
    structure: &'a str,
    fields: Path<'a>,
    depth: usize,
}

impl<'a> Place<'a> {
    fn field(&'a self, name: &'a str, structure: &'a str) -> Self {
        Self {
            structure,
            fields: self.fields.member(name),
            depth: self.depth + 1,
        }
    }

    fn deeper(&self) -> Self {
        Self {
            depth: self.depth + 1,
            ..*self
        }
    }
}

impl Check<'_> {
    fn document(&self, schema: &Schema, object: &Object) -> Result<(), String> {
        let root = Place {
            structure: self.root,
            fields: Path::Root,
            depth: 1,
        };
        for (name, value) in object {
            let place = root.field(name, self.root);
            match name.as_str() {
                "apiVersion" | "kind" => {
                    self.value(&Schema::of(SchemaKind::String), value, place)?;
                }
                "metadata" => self.value(Schema::object_meta(), value, place)?,
                _ => {
                    if let Some(property) = schema.properties.get(name) {
                        self.value(property, value, place)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Null is the zero value of every type.
    fn value(&self, schema: &Schema, value: &Value, place: Place<'_>) -> Result<(), String> {
        if schema.int_or_string {
            return match value {
                Value::Null | Value::String(_) | Value::Number(_) => Ok(()),
                _ => Err(self.mismatch(schema, value, place)),
            };
        }
        match (schema.kind, value) {
            (_, Value::Null) => Ok(()),
            (None, _) => check_depth(value, place.depth),
            (Some(SchemaKind::Object), Value::Object(members)) => {
                self.object(schema, members, place)
            }
            (Some(SchemaKind::Array), Value::Array(items)) => {
                let Some(schema) = &schema.items else {
                    return check_depth(value, place.depth);
                };
                items
                    .iter()
                    .try_for_each(|item| self.value(schema, item, place.deeper()))
            }
            (Some(SchemaKind::String), Value::String(text)) => check_text(schema, text),
            (Some(SchemaKind::Integer), Value::Number(number)) if fits(schema, number) => Ok(()),
            (Some(SchemaKind::Number), Value::Number(_))
            | (Some(SchemaKind::Boolean), Value::Bool(_)) => Ok(()),
            _ => Err(self.mismatch(schema, value, place)),
        }
    }

    fn object(&self, schema: &Schema, members: &Object, place: Place<'_>) -> Result<(), String> {
        let structure = schema.type_name.as_deref().unwrap_or(place.structure);
        for (name, value) in members {
            if let Some(property) = schema.properties.get(name) {
                self.value(property, value, place.field(name, structure))?;
            } else if let Some(values) = &schema.additional_properties {
                self.value(values, value, place.deeper())?;
            } else if schema.preserve_unknown_fields {
                check_depth(value, place.depth + 1)?;
            }
        }
        Ok(())
    }

    fn mismatch(&self, schema: &Schema, value: &Value, place: Place<'_>) -> String {
        let what = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            // Go names the literal only where a number was welcome.
            Value::Number(number) if schema.kind == Some(SchemaKind::Integer) => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let Place {
            structure, fields, ..
        } = place;
        let target = GoType {
            schema,
            version: self.version,
        };
        format!(
            "json: cannot unmarshal {what} into Go struct field {structure}.{fields} of type {target}"
        )
    }
}

/// What the decoder cut must not be kept silently.
fn check_depth(value: &Value, depth: usize) -> Result<(), String> {
    if depth >= KEPT_DEPTH && (value.is_array() || value.is_object()) {
        return Err("exceeded max depth".to_owned());
    }
    match value {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| check_depth(item, depth + 1)),
        Value::Object(members) => members
            .values()
            .try_for_each(|value| check_depth(value, depth + 1)),
        _ => Ok(()),
    }
}

fn fits(schema: &Schema, number: &Number) -> bool {
    match schema.format.as_deref() {
        Some("int32") => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Some("uint32") => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
        Some("uint64") => number.is_u64(),
        _ => number.is_i64(),
    }
}

fn check_text(schema: &Schema, text: &str) -> Result<(), String> {
    if schema.format.as_deref() != Some("date-time") || is_time(text) {
        return Ok(());
    }
    let text = quote(text);
    Err(format!(
        "parsing time {text} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text} as \"2006\""
    ))
}

/// RFC 3339, which is narrower than what the time library reads.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    marks.iter().all(|(at, mark)| bytes.get(*at) == Some(mark))
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_digit() || b"-:+.TZ".contains(byte))
        && text.parse::<Timestamp>().is_ok()
}

/// A type as Go prints it.
struct GoType<'a> {
    schema: &'a Schema,
    version: &'a str,
}

impl fmt::Display for GoType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |schema| GoType {
            schema,
            version: self.version,
        };
        let Schema { kind, format, .. } = self.schema;
        match kind {
            _ if self.schema.int_or_string => f.write_str("intstr.IntOrString"),
            None => f.write_str("interface {}"),
            Some(SchemaKind::String) => f.write_str("string"),
            Some(SchemaKind::Boolean) => f.write_str("bool"),
            Some(SchemaKind::Number) => f.write_str("float64"),
            Some(SchemaKind::Integer) => f.write_str(format.as_deref().unwrap_or("int64")),
            Some(SchemaKind::Array) => match &self.schema.items {
                Some(items) => write!(f, "[]{}", of(items)),
                None => f.write_str("[]interface {}"),
            },
            Some(SchemaKind::Object) => {
                match (&self.schema.additional_properties, &self.schema.type_name) {
                    (Some(values), _) => write!(f, "map[string]{}", of(values)),
                    (None, Some(name)) => write!(f, "{}.{name}", self.version),
                    (None, None) => f.write_str("struct"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::test_schema::{gadget, object};

    fn refusal(value: Value) -> String {
        let kind = GroupVersionKind::new("test.example.com", "v1", "Gadget");
        let error = gadget().check_types(&object(value), &kind).unwrap_err();
        assert_eq!(error.code(), 400);
        error.to_string()
    }

    fn accept(value: Value) {
        let kind = GroupVersionKind::new("test.example.com", "v1", "Gadget");
        gadget().check_types(&object(value), &kind).unwrap();
    }

    #[test]
    fn a_mismatch_is_told_in_gos_words() {
        assert_eq!(
            refusal(json!({"spec": {"size": "3"}})),
            "Gadget in version \"v1\" cannot be handled as a Gadget: json: cannot unmarshal string \
             into Go struct field GadgetSpec.spec.size of type int32"
        );
        let cases = [
            (
                json!({"spec": []}),
                "array into Go struct field Gadget.spec of type v1.GadgetSpec",
            ),
            (
                json!({"spec": {"parts": [{"name": 1}]}}),
                "number into Go struct field Part.spec.parts.name of type string",
            ),
            (
                json!({"spec": {"parts": {}}}),
                "object into Go struct field GadgetSpec.spec.parts of type []v1.Part",
            ),
            (
                json!({"spec": {"limits": {"cpu": true}}}),
                "bool into Go struct field GadgetSpec.spec.limits of type intstr.IntOrString",
            ),
            (
                json!({"metadata": "x"}),
                "string into Go struct field Gadget.metadata of type v1.ObjectMeta",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"metadata": {"finalizers": "x"}}),
                "string into Go struct field ObjectMeta.metadata.finalizers of type []string",
            ),
            (
                json!({"metadata": {"ownerReferences": [{"controller": "yes"}]}}),
                "string into Go struct field OwnerReference.metadata.ownerReferences.controller of type bool",
            ),
            (
                json!({"kind": 1}),
                "number into Go struct field Gadget.kind of type string",
            ),
        ];
        for (value, text) in cases {
            assert!(refusal(value.clone()).ends_with(text), "{}", refusal(value));
        }
    }

    #[test]
    fn integers_fit_their_format() {
        for size in [
            json!(1.5),
            json!(2_147_483_648_i64),
            json!(1e30),
            json!("3"),
            json!(-2_147_483_649_i64),
        ] {
            assert!(refusal(json!({"spec": {"size": size}})).contains("of type int32"));
        }
        assert!(refusal(json!({"spec": {"size": 1.5}})).contains("number 1.5 into"));
        accept(json!({"spec": {"size": i32::MAX}}));
        accept(json!({"metadata": {"generation": i64::MAX}}));
        refusal(json!({"metadata": {"generation": u64::MAX}}));
    }

    #[test]
    fn times_are_rfc_3339() {
        for time in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+01:00"] {
            accept(json!({"metadata": {"creationTimestamp": time}}));
        }
        for time in [
            "yesterday",
            "",
            "2026-01-01",
            "2026-01-01 00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
        ] {
            let text = refusal(json!({"metadata": {"creationTimestamp": time}}));
            assert!(text.contains("parsing time"), "{text}");
        }
    }

    #[test]
    fn null_is_the_zero_value_of_every_type() {
        accept(json!({"metadata": {"labels": null, "creationTimestamp": null}, "spec": null}));
        accept(json!({"spec": {"size": null, "parts": [null], "limits": {"cpu": null}}}));
    }

    #[test]
    fn unknown_fields_may_hold_anything_and_kept_ones_only_what_was_not_cut() {
        accept(json!({"spec": {"other": {"deep": [1]}}, "more": 1}));
        accept(json!({"spec": {"free": {"deep": [1, {"a": null}]}}}));
        let deep = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            let text = format!(r#"{{"spec":{{"free":{{"a":{open}1{close}}}}}}}"#);
            crate::codec::json::decode(text.as_bytes()).unwrap().value
        };
        accept(deep(200));
        assert!(refusal(deep(300)).contains("exceeded max depth"));
        assert!(refusal(deep(9_000)).contains("exceeded max depth"));
    }
}
