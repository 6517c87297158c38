//! The schemas that documents define by name.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    discovery, history,
    resource::{ResourceInfo, VersionInfo},
    schema::{Schema, SchemaKind},
};

/// The extension by which clients find the schema of a kind.
pub(super) const KIND_EXTENSION: &str = "x-kubernetes-group-version-kind";

const API_VERSION: &str = "Version of the schema that this object is written in: group/version.";
const KIND: &str = "Kind of the object, in CamelCase.";

/// How references are written.
pub(super) const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// A reference to a definition.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REFERENCE_PREFIX}{name}")})
}

/// Everything that operations on one group version refer to, in the words of v3.
pub(super) fn definitions(
    resources: &[&ResourceInfo],
    (group, version): (&str, &str),
) -> BTreeMap<String, Value> {
    let names = Names { group };
    let versions = discovery::version_names(resources, group);
    let mut all = BTreeMap::from([
        (names.meta("ObjectMeta"), schema(Schema::object_meta())),
        (names.meta("ListMeta"), list_meta()),
        (
            names.meta("DeleteOptions"),
            delete_options(group, &versions),
        ),
        (names.meta("Status"), status(&names)),
        (names.meta("APIResourceList"), api_resource_list()),
    ]);
    for (info, served) in discovery::resources_of(resources, group, version) {
        all.insert(names.kind(version, info.kind), object(info, served, &names));
        all.insert(
            names.kind(version, info.list_kind),
            list(info, version, &names),
        );
        if info.scale.is_some() {
            all.insert(names.scale(), scale(&names));
        }
        if info.history {
            let kind = history::kind(info);
            let body = history_of(info, version, &names);
            all.insert(names.kind(version, &kind), body);
        }
    }
    all
}

/// The names of a group's definitions. Types of `meta/v1` are published under the group's own
/// name: the cluster's definitions of them differ in their descriptions.
pub(super) struct Names<'a> {
    pub(super) group: &'a str,
}

impl Names<'_> {
    pub(super) fn kind(&self, version: &str, kind: &str) -> String {
        format!("{}.{version}.{kind}", self.reversed_group())
    }

    pub(super) fn meta(&self, kind: &str) -> String {
        format!("{}.meta.v1.{kind}", self.reversed_group())
    }

    pub(super) fn scale(&self) -> String {
        format!(
            "{}.autoscaling.v1.{}",
            self.reversed_group(),
            crate::scale::KIND
        )
    }

    fn reversed_group(&self) -> String {
        self.group.split('.').rev().collect::<Vec<_>>().join(".")
    }
}

fn object(info: &ResourceInfo, version: &VersionInfo, names: &Names<'_>) -> Value {
    let mut body = schema(&version.schema);
    add_kind(&mut body, (info.group, version.name, info.kind));
    let properties = member(&mut body, "properties");
    properties.insert("apiVersion".to_owned(), text(API_VERSION));
    properties.insert("kind".to_owned(), text(KIND));
    let metadata = described("Metadata that every object has.", &names.meta("ObjectMeta"));
    properties.insert("metadata".to_owned(), metadata);
    body
}

fn list(info: &ResourceInfo, version: &str, names: &Names<'_>) -> Value {
    let items = reference(&names.kind(version, info.kind));
    let mut body = json!({
        "description": format!("{} is a list of {}.", info.list_kind, info.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": described("Metadata of the list.", &names.meta("ListMeta")),
            "items": {"description": "The objects.", "type": "array", "items": items},
        },
    });
    add_kind(&mut body, (info.group, version, info.list_kind));
    body
}

fn history_of(info: &ResourceInfo, version: &str, names: &Names<'_>) -> Value {
    let kind = history::kind(info);
    let mut body = json!({
        "description": format!("{kind} tells who wrote one of the {}, newest first.", info.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": described("Metadata of the list.", &names.meta("ListMeta")),
            "items": {
                "description": "The writes that are retained.",
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "items": history::item_schema(),
            },
        },
    });
    add_kind(&mut body, (info.group, version, &kind));
    body
}

fn list_meta() -> Value {
    json!({
        "description": "Metadata of a list.",
        "type": "object",
        "properties": {
            "continue": text("Token with which the next page is asked for; absent on the last."),
            "remainingItemCount": {
                "description": "How many objects follow this page, when that is known.",
                "type": "integer", "format": "int64",
            },
            "resourceVersion": text("Version at which the list is complete. Watches start here."),
            "selfLink": text("Deprecated: no longer set by the server."),
            "shardInfo": {
                "description": "Says that the list is one of several shards.",
                "type": "object",
                "required": ["selector"],
                "properties": {"selector": text("The shard selector of the request.")},
            },
        },
    })
}

fn delete_options(group: &str, versions: &[&str]) -> Value {
    let mut body = json!({
        "description": "How an object is deleted.",
        "type": "object",
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "gracePeriodSeconds": {
                "description": "Seconds before the object is removed; 0 removes it at once.",
                "type": "integer", "format": "int64",
            },
            "orphanDependents": {
                "description": "Deprecated: use propagationPolicy. Whether dependents stay.",
                "type": "boolean",
            },
            "preconditions": {
                "description": "What must hold of the object; otherwise nothing is deleted.",
                "type": "object",
                "properties": {
                    "resourceVersion": text("The version that the object must have."),
                    "uid": text("The UID that the object must have."),
                },
            },
            "propagationPolicy": text(
                "What happens to dependents: Orphan leaves them, Background collects them later, \
                 Foreground collects them before the object goes.",
            ),
        },
    });
    for version in versions {
        add_kind(&mut body, (group, version, "DeleteOptions"));
    }
    body
}

fn status(names: &Names<'_>) -> Value {
    let causes = json!({
        "description": "The parts of a failure.",
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "field": text("The field that caused it, as a path."),
                "message": text("Text for people."),
                "reason": text("Class of the cause, for machines."),
            },
        },
    });
    let mut body = json!({
        "description": "The outcome of a call that returns no other object.",
        "type": "object",
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": described("Metadata of the answer.", &names.meta("ListMeta")),
            "code": {"description": "Suggested HTTP code.", "type": "integer", "format": "int32"},
            "details": {
                "description": "What the outcome is about.",
                "type": "object",
                "properties": {
                    "causes": causes,
                    "group": text("API group of the object."),
                    "kind": text("Kind or resource of the object."),
                    "name": text("Name of the object."),
                    "uid": text("UID of the object."),
                    "retryAfterSeconds": {
                        "description": "Seconds to wait before the next try.",
                        "type": "integer", "format": "int32",
                    },
                },
            },
            "message": text("Text for people."),
            "reason": text("Class of a failure, for machines."),
            "status": text("Success or Failure."),
        },
    });
    add_kind(&mut body, ("", "v1", "Status"));
    body
}

fn api_resource_list() -> Value {
    let mut body = json!({
        "description": "The resources that are served in one version of a group.",
        "type": "object",
        "required": ["groupVersion", "resources"],
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "groupVersion": text("The group and version of the resources."),
            "resources": {
                "description": "The resources, subresources among them.",
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "items": {"type": "object"},
            },
        },
    });
    add_kind(&mut body, ("", "v1", "APIResourceList"));
    body
}

fn scale(names: &Names<'_>) -> Value {
    let count = |description: &str| json!({"description": description, "type": "integer", "format": "int32"});
    let mut body = json!({
        "description": "Scale is a request for a number of replicas.",
        "type": "object",
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": described("Metadata of the scaled object.", &names.meta("ObjectMeta")),
            "spec": {
                "description": "What is wanted.",
                "type": "object",
                "properties": {"replicas": count("Number of replicas that are wanted.")},
            },
            "status": {
                "description": "What there is.",
                "type": "object",
                "required": ["replicas"],
                "properties": {
                    "replicas": count("Number of replicas that there are."),
                    "selector": text("Label selector of the replicas, in its string form."),
                },
            },
        },
    });
    add_kind(&mut body, ("autoscaling", "v1", crate::scale::KIND));
    body
}

fn text(description: &str) -> Value {
    json!({"description": description, "type": "string"})
}

/// A reference with a description of its own.
fn described(description: &str, name: &str) -> Value {
    json!({"description": description, "allOf": [reference(name)]})
}

fn add_kind(body: &mut Value, (group, version, kind): (&str, &str, &str)) {
    let entry = json!({"group": group, "version": version, "kind": kind});
    if let Value::Object(members) = body {
        let kinds = members.entry(KIND_EXTENSION).or_insert_with(|| json!([]));
        if let Value::Array(kinds) = kinds {
            kinds.push(entry);
        }
    }
}

fn member<'a>(body: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    let members = body
        .as_object_mut()
        .expect("a schema is written as an object");
    let member = members.entry(name).or_insert_with(|| json!({}));
    member
        .as_object_mut()
        .expect("properties are written as an object")
}

/// A schema in the words of v3.
fn schema(schema: &Schema) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(key.to_owned(), value);
        }
    };
    let flag = |flag: bool| flag.then_some(Value::Bool(true));
    let list = |list: &[Value]| (!list.is_empty()).then(|| list.to_vec().into());
    put("description", schema.description.clone().map(Value::from));
    if schema.int_or_string {
        put(
            "anyOf",
            Some(json!([{"type": "integer"}, {"type": "string"}])),
        );
        put("x-kubernetes-int-or-string", Some(true.into()));
    } else {
        put("type", schema.kind.map(SchemaKind::as_str).map(Value::from));
    }
    put("format", schema.format.clone().map(Value::from));
    put("nullable", flag(schema.nullable));
    put("default", schema.default.clone());
    put("enum", list(&schema.enumeration));
    put(
        "pattern",
        schema
            .pattern
            .as_ref()
            .map(|pattern| pattern.as_str().into()),
    );
    for (key, bound) in [("minimum", schema.minimum), ("maximum", schema.maximum)] {
        put(key, bound.map(number));
    }
    for (key, bound) in [
        ("minLength", schema.min_length),
        ("maxLength", schema.max_length),
        ("minItems", schema.min_items),
        ("maxItems", schema.max_items),
    ] {
        put(key, bound.map(Value::from));
    }
    put(
        "required",
        (!schema.required.is_empty()).then(|| schema.required.clone().into()),
    );
    put(
        "x-kubernetes-preserve-unknown-fields",
        flag(schema.preserve_unknown_fields),
    );
    put("items", schema.items.as_deref().map(self::schema));
    put(
        "additionalProperties",
        schema.additional_properties.as_deref().map(self::schema),
    );
    if !schema.properties.is_empty() {
        let properties = schema
            .properties
            .iter()
            .map(|(name, s)| (name.clone(), self::schema(s)));
        put("properties", Some(Value::Object(properties.collect())));
    }
    out.extend(schema.extensions.clone());
    Value::Object(out)
}

/// A bound without a needless fraction.
fn number(bound: f64) -> Value {
    let whole = format!("{bound:.0}").parse::<i64>();
    match whole {
        Ok(whole) if bound.fract() == 0.0 => whole.into(),
        _ => bound.into(),
    }
}
