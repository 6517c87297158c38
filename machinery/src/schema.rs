//! Structural schemas: the one description of a resource's shape, from which
//! decoding checks, pruning, defaulting, validation and OpenAPI are derived.

mod build;
mod check;
mod complete;
mod edit;
mod meta;
mod path;
mod validate;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::{error::ApiError, field::FieldError, names::GroupVersionKind, object::Object};

/// The JSON type that a schema admits. `None` in [`Schema::kind`] admits any value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// A JSON string.
    String,
    /// A number without a fraction; the format bounds its size.
    Integer,
    /// Any JSON number.
    Number,
    /// `true` or `false`.
    Boolean,
}

impl SchemaKind {
    /// The kind as JSON Schema spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// A structural OpenAPI v3 schema with Kubernetes' extensions. All references are inlined.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// The JSON type, or `None` when any is admitted.
    pub kind: Option<SchemaKind>,
    /// OpenAPI's `format`: `int32`, `int64`, `date-time`, `byte`, …
    pub format: Option<String>,
    /// What a reader of `kubectl explain` is told.
    pub description: Option<String>,
    /// Whether `null` is kept apart from absence. A null is dropped where this is false.
    pub nullable: bool,
    /// The fields of an object whose names are known.
    pub properties: BTreeMap<String, Schema>,
    /// Names among `properties` without which an object is invalid.
    pub required: Vec<String>,
    /// The schema of an array's items.
    pub items: Option<Box<Schema>>,
    /// The schema of the values of a map with free keys.
    pub additional_properties: Option<Box<Schema>>,
    /// What an absent field becomes.
    pub default: Option<Value>,
    /// The only values admitted, when not empty.
    pub enumeration: Vec<Value>,
    /// The regular expression that a string matches.
    pub pattern: Option<Pattern>,
    /// The least number admitted.
    pub minimum: Option<f64>,
    /// The greatest number admitted.
    pub maximum: Option<f64>,
    /// The least length of a string, in characters.
    pub min_length: Option<u64>,
    /// The greatest length of a string, in characters.
    pub max_length: Option<u64>,
    /// The least number of items.
    pub min_items: Option<u64>,
    /// The greatest number of items.
    pub max_items: Option<u64>,
    /// Integer or string, as a quantity or a port.
    pub int_or_string: bool,
    /// Fields that the schema does not name are kept.
    pub preserve_unknown_fields: bool,
    /// The remaining `x-kubernetes-*` extensions, published as they are.
    pub extensions: BTreeMap<String, Value>,
    /// The Go-like type name that decoding errors speak of, `WidgetSpec`.
    pub type_name: Option<String>,
}

/// A regular expression that a string matches somewhere; anchors are its own.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression; the error names what is wrong with it.
    pub fn new(expression: &str) -> Result<Self, String> {
        Regex::new(expression)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// The expression as it is published.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether a string matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl Schema {
    /// Reads what schemars produces for a type: `$ref`s are inlined and the null
    /// alternatives of `Option` are flattened. Fails with a sentence that names the part
    /// of the document which is not structural.
    pub fn from_json_schema(root: &Value) -> Result<Self, String> {
        build::from_json_schema(root)
    }

    /// The schema of `metadata`, ObjectMeta of `meta/v1`.
    #[must_use]
    pub fn object_meta() -> &'static Self {
        meta::object_meta()
    }

    /// Refuses (400) values whose JSON type is not the schema's, in the words of a Go server.
    /// `metadata` is checked as ObjectMeta whatever the schema says of it.
    pub fn check_types(&self, object: &Object, kind: &GroupVersionKind) -> Result<(), ApiError> {
        check::check_types(self, object, kind)
    }

    /// Removes the fields that the schema does not know and returns their paths (`spec.foo`),
    /// at most a hundred of them.
    pub fn prune(&self, object: &mut Object) -> Vec<String> {
        edit::prune(self, object)
    }

    /// Sets the defaults of absent fields. A null counts as absent unless it is nullable; in a
    /// list or a map it becomes its type's zero value, as a Go server reads it.
    pub fn apply_defaults(&self, object: &mut Object) {
        edit::apply_defaults(self, object);
    }

    /// Whether [`Self::apply_defaults`] would leave an object's text as it is; false also where
    /// that takes a closer look. Fails on what is not the JSON text of an object.
    pub fn is_complete(&self, text: &str) -> Result<bool, serde_json::Error> {
        complete::is_complete(self, text)
    }

    /// All violations of required, enum, pattern, bounds and lengths, with their paths.
    /// `metadata` is not the schema's business.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        validate::validate(self, object)
    }
}

#[cfg(test)]
pub(crate) mod test_schema {
    //! A kind that exists only in tests.

    use serde_json::{Value, json};

    use super::Schema;
    use crate::object::Object;

    pub(crate) fn object(value: Value) -> Object {
        let Value::Object(object) = value else {
            panic!("no object: {value}")
        };
        object
    }

    pub(crate) fn gadget() -> Schema {
        let part = json!({
            "type": "object", "required": ["name"], "description": "A part.",
            "properties": {
                "name": {"type": "string"},
                "count": {"type": "integer", "format": "int32", "default": 1},
            },
        });
        let spec = json!({
            "type": "object", "description": "What is wanted.",
            "properties": {
                "size": {"type": "integer", "format": "int32", "minimum": 0, "default": 1, "description": "How great."},
                "color": {"type": "string", "pattern": "^[a-z]{1,32}$", "default": "blue"},
                "mode": {"type": "string", "enum": ["Fast", "Slow"]},
                "note": {"type": "string", "maxLength": 8, "nullable": true},
                "limits": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "parts": {
                    "type": "array", "items": {"$ref": "#/$defs/Part"}, "maxItems": 3,
                    "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                },
            },
        });
        let root = json!({
            "title": "Gadget", "type": "object", "required": ["spec"], "description": "Gadget is for tests.",
            "properties": {
                "spec": {"$ref": "#/$defs/GadgetSpec"},
                "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
            },
            "$defs": {"GadgetSpec": spec, "Part": part},
        });
        Schema::from_json_schema(&root).unwrap()
    }
}
