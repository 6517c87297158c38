//! OpenAPI 2.0: one document for all group versions, which kube-apiserver merges into its own.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    definitions::{KIND_EXTENSION, REFERENCE_PREFIX, definitions, reference},
    operations::{Body, Operation, Parameter, operations, path_parameters},
};
use crate::{discovery, resource::ResourceInfo};

/// What responses come in.
const TYPES: [&str; 2] = ["application/json", "application/yaml"];

pub(super) fn document(info: &Value, resources: &[&ResourceInfo]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut defined = BTreeMap::new();
    for group_version in discovery::group_versions(resources) {
        for (name, schema) in definitions(resources, group_version) {
            defined.insert(name, own(convert(schema), group_version.0));
        }
        for operation in operations(resources, group_version) {
            let item = paths
                .entry(operation.path.as_str())
                .or_insert_with(|| path_item(&operation.path));
            if let Value::Object(item) = item {
                item.insert(
                    operation.method.to_owned(),
                    write(&operation, group_version),
                );
            }
        }
    }
    json!({"swagger": "2.0", "info": info, "paths": paths, "definitions": defined})
}

/// Kinds of other groups have their definition in the cluster's own document: here they are
/// not claimed, or clients would find two.
fn own(mut schema: Value, group: &str) -> Value {
    if let Value::Object(members) = &mut schema {
        let is_foreign = |kinds: &Value| {
            kinds
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind["group"] != group))
        };
        if members.get(KIND_EXTENSION).is_some_and(is_foreign) {
            members.remove(KIND_EXTENSION);
        }
    }
    schema
}

/// A schema of v3 in the words of v2.
fn convert(schema: Value) -> Value {
    match schema {
        Value::Object(members) => convert_members(members),
        Value::Array(items) => items.into_iter().map(convert).collect(),
        Value::String(text) => match text.strip_prefix(REFERENCE_PREFIX) {
            Some(name) => format!("#/definitions/{name}").into(),
            None => Value::String(text),
        },
        other => other,
    }
}

fn convert_members(members: Map<String, Value>) -> Value {
    let mut out = Map::new();
    for (key, value) in members {
        match (key.as_str(), value) {
            ("nullable", Value::Bool(_)) => {}
            // One reference with siblings is written without a wrapper in v2.
            ("allOf", Value::Array(parts)) => {
                for part in parts {
                    if let Value::Object(part) = convert(part) {
                        out.extend(part);
                    }
                }
            }
            // v2 knows no choice of types: integer or string is a string in its own format.
            ("anyOf", Value::Array(_)) => {
                out.insert("type".to_owned(), "string".into());
                out.insert("format".to_owned(), "int-or-string".into());
            }
            (_, value) => {
                out.insert(key, convert(value));
            }
        }
    }
    Value::Object(out)
}

fn path_item(path: &str) -> Value {
    let parameters: Vec<_> = path_parameters(path)
        .into_iter()
        .map(|(name, description)| {
            json!({
                "name": name, "in": "path", "description": description, "required": true,
                "type": "string",
            })
        })
        .collect();
    if parameters.is_empty() {
        json!({})
    } else {
        json!({"parameters": parameters})
    }
}

fn write(operation: &Operation, (group, version): (&str, &str)) -> Value {
    let mut parameters: Vec<_> = operation.body.as_ref().map(body).into_iter().collect();
    parameters.extend(operation.query.iter().map(query));
    let mut out = json!({
        "operationId": operation.id,
        "description": operation.description,
        "tags": [format!("{group}/{version}")],
        "consumes": operation.body.as_ref().map_or(&[] as &[&str], |body| body.types),
        "produces": TYPES,
        "schemes": ["https"],
        "responses": responses(operation),
    });
    let members = out
        .as_object_mut()
        .expect("an operation is written as an object");
    if !parameters.is_empty() {
        members.insert("parameters".to_owned(), parameters.into());
    }
    if operation.body.is_none() {
        members.insert("consumes".to_owned(), json!(["*/*"]));
    }
    if let Some(action) = operation.action {
        members.insert("x-kubernetes-action".to_owned(), action.into());
        members.insert(KIND_EXTENSION.to_owned(), operation.kind.clone());
    }
    out
}

fn query(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "type": parameter.kind,
        "uniqueItems": true,
    })
}

fn body(body: &Body) -> Value {
    let schema = match &body.definition {
        Some(name) => convert(reference(name)),
        None => {
            json!({"type": "object", "description": "A patch in the form that its type names."})
        }
    };
    let mut out = json!({"name": "body", "in": "body", "schema": schema});
    if let (true, Value::Object(members)) = (body.required, &mut out) {
        members.insert("required".to_owned(), true.into());
    }
    out
}

fn responses(operation: &Operation) -> Value {
    let mut out = Map::new();
    for (code, description, definition) in &operation.responses {
        let mut response = json!({"description": description});
        if let (Some(name), Value::Object(members)) = (definition, &mut response) {
            members.insert("schema".to_owned(), convert(reference(name)));
        }
        out.insert((*code).to_owned(), response);
    }
    out.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(out)
}
