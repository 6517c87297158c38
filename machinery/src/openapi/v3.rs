//! OpenAPI 3.0: one document for each group version.

use serde_json::{Map, Value, json};

use super::{
    definitions::{KIND_EXTENSION, definitions, reference},
    operations::{Body, Operation, Parameter, operations, path_parameters},
};
use crate::resource::ResourceInfo;

/// What responses come in.
const TYPES: [&str; 2] = ["application/json", "application/yaml"];

pub(super) fn document(
    info: &Value,
    resources: &[&ResourceInfo],
    group_version: (&str, &str),
) -> Value {
    let (group, version) = group_version;
    let tag = format!("{group}/{version}");
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(resources, group_version) {
        let item = paths
            .entry(operation.path.as_str())
            .or_insert_with(|| path_item(&operation.path));
        if let Value::Object(item) = item {
            item.insert(operation.method.to_owned(), write(&operation, &tag));
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": definitions(resources, group_version)},
    })
}

fn path_item(path: &str) -> Value {
    let parameters: Vec<_> = path_parameters(path)
        .into_iter()
        .map(|(name, description)| {
            json!({
                "name": name, "in": "path", "description": description, "required": true,
                "schema": {"type": "string"},
            })
        })
        .collect();
    if parameters.is_empty() {
        json!({})
    } else {
        json!({"parameters": parameters})
    }
}

fn write(operation: &Operation, tag: &str) -> Value {
    let mut out = json!({
        "operationId": operation.id,
        "description": operation.description,
        "tags": [tag],
        "responses": responses(operation),
    });
    let members = out
        .as_object_mut()
        .expect("an operation is written as an object");
    if let Some(action) = operation.action {
        members.insert("x-kubernetes-action".to_owned(), action.into());
        members.insert(KIND_EXTENSION.to_owned(), operation.kind.clone());
    }
    if !operation.query.is_empty() {
        members.insert(
            "parameters".to_owned(),
            operation.query.iter().map(query).collect(),
        );
    }
    if let Some(body) = &operation.body {
        members.insert("requestBody".to_owned(), request_body(body));
    }
    out
}

fn query(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "schema": {"type": parameter.kind, "uniqueItems": true},
    })
}

fn request_body(body: &Body) -> Value {
    let schema = match &body.definition {
        Some(name) => reference(name),
        None => {
            json!({"type": "object", "description": "A patch in the form that its type names."})
        }
    };
    let mut out = json!({"content": content(body.types, &schema)});
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
            members.insert("content".to_owned(), content(&TYPES, &reference(name)));
        }
        out.insert((*code).to_owned(), response);
    }
    out.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(out)
}

fn content(types: &[&str], schema: &Value) -> Value {
    types
        .iter()
        .map(|name| ((*name).to_owned(), json!({"schema": schema})))
        .collect()
}
