//! OpenAPI 2.0 as protobuf: gnostic's `openapi.v2.Document`, in which kubectl reads it.
//!
//! Written from the JSON document. Only what [`super::v2`] writes is known here; values of
//! any type (defaults, enums, extensions) stand as YAML text, and JSON is YAML.

use serde_json::{Map, Value};

use crate::codec::protowire::Writer;

type Node = Map<String, Value>;

/// The document as bytes.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    if let Value::Object(document) = document {
        text(&mut out, 1, document, "swagger");
        nested(&mut out, 2, document.get("info"), |out, info| {
            text(out, 1, info, "title");
            text(out, 2, info, "version");
        });
        nested(&mut out, 8, document.get("paths"), |out, paths| {
            named(out, 2, paths, path_item);
        });
        nested(
            &mut out,
            9,
            document.get("definitions"),
            |out, definitions| {
                named(out, 1, definitions, schema);
            },
        );
    }
    out.into_bytes()
}

fn path_item(out: &mut Writer, item: &Node) {
    for (number, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        nested(out, number, item.get(method), operation);
    }
    for parameter in items(item.get("parameters")) {
        out.message(9, |out| parameters_item(out, parameter));
    }
}

fn operation(out: &mut Writer, operation: &Node) {
    texts(out, 1, operation, "tags");
    text(out, 3, operation, "description");
    text(out, 5, operation, "operationId");
    texts(out, 6, operation, "produces");
    texts(out, 7, operation, "consumes");
    for parameter in items(operation.get("parameters")) {
        out.message(8, |out| parameters_item(out, parameter));
    }
    nested(out, 9, operation.get("responses"), |out, responses| {
        named(out, 1, responses, |out, value| {
            out.message(1, |out| response(out, value))
        });
    });
    texts(out, 10, operation, "schemes");
    extensions(out, 13, operation);
}

/// A parameter in its two or three wrappers.
fn parameters_item(out: &mut Writer, parameter: &Node) {
    let place = parameter.get("in").and_then(Value::as_str);
    out.message(1, |out| match place {
        Some("body") => out.message(1, |out| body_parameter(out, parameter)),
        Some("path") => out.message(2, |out| {
            out.message(4, |out| plain_parameter(out, parameter, 5));
        }),
        _ => out.message(2, |out| {
            out.message(3, |out| {
                plain_parameter(out, parameter, 6);
                flag(out, 20, parameter, "uniqueItems");
            });
        }),
    });
}

fn body_parameter(out: &mut Writer, parameter: &Node) {
    text(out, 2, parameter, "name");
    text(out, 3, parameter, "in");
    flag(out, 4, parameter, "required");
    nested(out, 5, parameter.get("schema"), schema);
}

fn plain_parameter(out: &mut Writer, parameter: &Node, type_number: u32) {
    flag(out, 1, parameter, "required");
    text(out, 2, parameter, "in");
    text(out, 3, parameter, "description");
    text(out, 4, parameter, "name");
    text(out, type_number, parameter, "type");
}

fn response(out: &mut Writer, response: &Node) {
    text(out, 1, response, "description");
    nested(out, 2, response.get("schema"), |out, value| {
        out.message(1, |out| schema(out, value))
    });
}

fn schema(out: &mut Writer, node: &Node) {
    text(out, 1, node, "$ref");
    text(out, 2, node, "format");
    text(out, 4, node, "description");
    if let Some(default) = node.get("default") {
        out.message(5, |out| any(out, default));
    }
    for (number, key) in [(7, "maximum"), (9, "minimum")] {
        if let Some(bound) = node.get(key).and_then(Value::as_f64) {
            out.double(number, bound);
        }
    }
    for (number, key) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
    ] {
        if let Some(bound) = node.get(key).and_then(Value::as_i64) {
            out.integer(number, bound);
        }
    }
    text(out, 13, node, "pattern");
    texts(out, 19, node, "required");
    for value in node
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        out.message(20, |out| any(out, value));
    }
    nested(out, 21, node.get("additionalProperties"), |out, values| {
        out.message(1, |out| schema(out, values));
    });
    if let Some(kind) = node.get("type").and_then(Value::as_str) {
        out.message(22, |out| out.text(1, kind));
    }
    nested(out, 23, node.get("items"), |out, items| {
        out.message(1, |out| schema(out, items))
    });
    nested(out, 25, node.get("properties"), |out, properties| {
        named(out, 1, properties, schema)
    });
    extensions(out, 31, node);
}

fn extensions(out: &mut Writer, number: u32, node: &Node) {
    for (name, value) in node.iter().filter(|(name, _)| name.starts_with("x-")) {
        out.message(number, |out| {
            out.text(1, name);
            out.message(2, |out| any(out, value));
        });
    }
}

fn any(out: &mut Writer, value: &Value) {
    out.text(2, &format!("{value}\n"));
}

/// Entries of a map, each a name and a message.
fn named(out: &mut Writer, number: u32, map: &Node, content: impl Fn(&mut Writer, &Node)) {
    for (name, value) in map {
        out.message(number, |out| {
            out.text(1, name);
            nested(out, 2, Some(value), &content);
        });
    }
}

fn nested(
    out: &mut Writer,
    number: u32,
    value: Option<&Value>,
    content: impl FnOnce(&mut Writer, &Node),
) {
    if let Some(Value::Object(node)) = value {
        out.message(number, |out| content(out, node));
    }
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Node> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
}

fn text(out: &mut Writer, number: u32, node: &Node, key: &str) {
    out.text(
        number,
        node.get(key).and_then(Value::as_str).unwrap_or_default(),
    );
}

fn texts(out: &mut Writer, number: u32, node: &Node, key: &str) {
    let list = node
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    list.filter_map(Value::as_str)
        .for_each(|item| out.bytes(number, item.as_bytes()));
}

fn flag(out: &mut Writer, number: u32, node: &Node, key: &str) {
    if node.get(key) == Some(&Value::Bool(true)) {
        out.integer(number, 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::protowire::{Field, Reader};

    fn fields(bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
        Reader::new(bytes).map(Option::unwrap).collect()
    }

    fn message<'a>(bytes: &'a [u8], path: &[u64]) -> &'a [u8] {
        path.iter().fold(bytes, |bytes, number| {
            let found = fields(bytes).into_iter().find(|(known, _)| known == number);
            match found {
                Some((_, Field::Bytes(inner))) => inner,
                other => panic!("no message {number}: {other:?}"),
            }
        })
    }

    #[test]
    fn a_schema_is_found_by_gnostics_numbers() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "t", "version": "v"},
            "paths": {},
            "definitions": {"com.example.Thing": {
                "type": "object",
                "required": ["a"],
                "properties": {"a": {"type": "string", "default": "x", "enum": ["x", "y"]}},
                "x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "Thing"}],
            }},
        });
        let bytes = encode(&document);
        assert_eq!(message(&bytes, &[1]), b"2.0");
        assert_eq!(message(&bytes, &[2, 1]), b"t");
        assert_eq!(message(&bytes, &[9, 1, 1]), b"com.example.Thing");
        assert_eq!(message(&bytes, &[9, 1, 2, 22, 1]), b"object");
        assert_eq!(message(&bytes, &[9, 1, 2, 25, 1, 1]), b"a");
        assert_eq!(message(&bytes, &[9, 1, 2, 25, 1, 2, 5, 2]), b"\"x\"\n");
        assert_eq!(
            message(&bytes, &[9, 1, 2, 31, 1]),
            b"x-kubernetes-group-version-kind"
        );
        assert_eq!(
            message(&bytes, &[9, 1, 2, 31, 2, 2]),
            b"[{\"group\":\"g\",\"kind\":\"Thing\",\"version\":\"v1\"}]\n"
        );
    }

    #[test]
    fn parameters_stand_in_their_wrappers() {
        let document = json!({"paths": {"/p/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": true, "type": "string"}],
            "post": {
                "operationId": "create",
                "parameters": [
                    {"name": "body", "in": "body", "schema": {"$ref": "#/definitions/T"}},
                    {"name": "watch", "in": "query", "type": "boolean"},
                ],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/T"}}},
            },
        }}});
        let bytes = encode(&document);
        let item = message(&bytes, &[8, 2, 2]);
        assert_eq!(message(&bytes, &[8, 2, 1]), b"/p/{name}");
        assert_eq!(message(item, &[9, 1, 2, 4, 4]), b"name");
        assert_eq!(message(item, &[4, 8, 1, 1, 5, 1]), b"#/definitions/T");
        assert_eq!(message(item, &[4, 9, 1, 1]), b"200");
        assert_eq!(message(item, &[4, 9, 1, 2, 1, 2, 1, 1]), b"#/definitions/T");
    }
}
