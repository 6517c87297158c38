//! Structural schemas: the one description of a resource's shape, from which
//! decoding checks, pruning, defaulting, validation and OpenAPI are derived.

mod build;
mod check;
mod meta;

use std::collections::BTreeMap;

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
    pub pattern: Option<String>,
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
    /// The name under which OpenAPI publishes the schema once and refers to it.
    pub definition: Option<String>,
}

impl Schema {
    /// Reads what schemars produces for a type: `$ref`s are inlined and the null
    /// alternatives of `Option` are flattened. Fails with a sentence that names the part
    /// of the document which is not structural.
    pub fn from_json_schema(root: &Value) -> Result<Self, String> {
        build::from_json_schema(root)
    }

    /// The schema of `metadata`, ObjectMeta of `meta/v1`.
    pub fn object_meta() -> Self {
        meta::object_meta()
    }

    /// Refuses (400) values whose JSON type is not the schema's, in the words of a Go server.
    /// `metadata` is checked as ObjectMeta whatever the schema says of it.
    pub fn check_types(&self, object: &Object, kind: &GroupVersionKind) -> Result<(), ApiError> {
        check::check_types(self, object, kind)
    }

    /// Removes the fields that the schema does not know and returns their paths (`spec.foo`).
    pub fn prune(&self, object: &mut Object) -> Vec<String> {
        check::prune(self, object)
    }

    /// Sets the defaults of absent fields, and drops nulls that are not nullable.
    pub fn apply_defaults(&self, object: &mut Object) {
        check::apply_defaults(self, object);
    }

    /// All violations of required, enum, pattern, bounds and lengths, with their paths.
    /// `metadata` is not the schema's business.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        check::validate(self, object)
    }
}
