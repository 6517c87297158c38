//! The documents that clients see, byte for byte: discovery, OpenAPI, Table and Status.
//!
//! A change of these files is a change of the API. `UPDATE_GOLDEN=1 cargo test -p machinery`
//! writes them anew; the difference is then part of the review.

use std::{fs, path::Path};

use machinery::{
    Object,
    codec::ListMeta,
    discovery,
    error::ApiError,
    field::FieldError,
    names::{GroupKind, GroupResource},
    negotiate::MetaVersion,
    object,
    openapi::OpenApi,
    resource::{Column, ResourceInfo, Scope, VersionInfo},
    scale::ScalePaths,
    schema::Schema,
    table::{IncludeObject, TableOptions, write_head, write_row},
};
use serde_json::{Value, json};

fn check(name: &str, actual: &Value) {
    let path = Path::new("tests/golden").join(name);
    let actual = serde_json::to_string_pretty(actual).expect("a value is written") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &actual).expect("the golden file is writable");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{name} differs from its golden file:\n{actual}"
    );
}

fn schema() -> Schema {
    let part = json!({
        "type": "object", "required": ["name"], "description": "A part of a gadget.",
        "properties": {
            "name": {"type": "string", "description": "Name of the part."},
            "count": {"type": "integer", "format": "int32", "default": 1},
        },
    });
    let spec = json!({
        "type": "object", "description": "What is wanted.", "required": ["mode"],
        "properties": {
            "size": {"type": ["integer", "null"], "format": "int32", "minimum": 0, "maximum": 9, "default": 1},
            "color": {"type": "string", "pattern": "^[a-z]{1,32}$", "default": "blue"},
            "mode": {"$ref": "#/$defs/Mode", "description": "How it works."},
            "limits": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}},
            "parts": {
                "type": "array", "items": {"$ref": "#/$defs/Part"},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
            },
        },
    });
    let status = json!({
        "type": "object", "description": "What there is.",
        "properties": {"seen": {"type": "string", "format": "date-time"}, "size": {"type": "integer", "format": "int64"}},
    });
    let root = json!({
        "title": "Gadget", "type": "object", "required": ["spec"], "description": "Gadget is for tests.",
        "properties": {"spec": {"$ref": "#/$defs/GadgetSpec"}, "status": {"$ref": "#/$defs/GadgetStatus"}},
        "$defs": {
            "GadgetSpec": spec, "GadgetStatus": status, "Part": part,
            "Mode": {"type": "string", "enum": ["Fast", "Slow"]},
        },
    });
    Schema::from_json_schema(&root).expect("the schema is structural")
}

fn version(name: &'static str, storage: bool) -> VersionInfo {
    let column = |name, priority, value| Column {
        name,
        kind: "string",
        format: "",
        description: "What it says.",
        priority,
        value,
    };
    VersionInfo {
        name,
        storage,
        deprecation_warning: None,
        schema: schema(),
        columns: vec![
            column("Color", 0, |o, _| {
                object::pointer(o, "/spec/color").cloned().into()
            }),
            column("Mode", 1, |o, _| {
                object::pointer(o, "/spec/mode").cloned().into()
            }),
        ],
        selectable: vec![],
        lens: None,
    }
}

fn gadgets() -> ResourceInfo {
    ResourceInfo {
        group: "test.example.com",
        kind: "Gadget",
        list_kind: "GadgetList",
        plural: "gadgets",
        singular: "gadget",
        short_names: &["gd"],
        categories: &["all", "tests"],
        scope: Scope::Namespaced,
        versions: vec![version("v1", true), version("v1alpha1", false)],
        status: true,
        scale: Some(ScalePaths {
            spec_replicas: "/spec/size",
            status_replicas: "/status/size",
            label_selector: "/status/selector",
        }),
        history: true,
    }
}

fn knobs() -> ResourceInfo {
    ResourceInfo {
        kind: "Knob",
        list_kind: "KnobList",
        plural: "knobs",
        singular: "knob",
        short_names: &[],
        categories: &[],
        scope: Scope::Cluster,
        versions: vec![version("v1", true)],
        status: false,
        scale: None,
        history: false,
        ..gadgets()
    }
}

#[test]
fn legacy_discovery_is_as_published() {
    let (gadgets, knobs) = (gadgets(), knobs());
    let all = [&gadgets, &knobs];
    check("group_list.json", &discovery::group_list(&all));
    check(
        "group.json",
        &discovery::group(&all, "test.example.com").unwrap(),
    );
    for version in ["v1", "v1alpha1"] {
        let list = discovery::resource_list(&all, "test.example.com", version).unwrap();
        check(&format!("resource_list_{version}.json"), &list);
    }
    assert!(discovery::group(&all, "other.example.com").is_none());
    assert!(discovery::resource_list(&all, "test.example.com", "v9").is_none());
}

#[test]
fn aggregated_discovery_is_as_published() {
    let (gadgets, knobs) = (gadgets(), knobs());
    let document = discovery::aggregated(&[&gadgets, &knobs]);
    check("aggregated_discovery.json", &document);
    let etag = discovery::etag(document.to_string().as_bytes());
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() == 66);
}

#[test]
fn openapi_is_as_published() {
    let (gadgets, knobs) = (gadgets(), knobs());
    let built = OpenApi::build("tests", "v0", &[&gadgets, &knobs]);
    check(
        "openapi_v2.json",
        &serde_json::from_slice(&built.v2.json).unwrap(),
    );
    for version in ["v1", "v1alpha1"] {
        let document = &built.v3[&format!("apis/test.example.com/{version}")];
        let document = serde_json::from_slice(&document.json).unwrap();
        check(&format!("openapi_v3_{version}.json"), &document);
    }
}

#[test]
fn a_table_is_as_published() {
    let gadget = json!({
        "apiVersion": "test.example.com/v1", "kind": "Gadget",
        "metadata": {"name": "g", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"color": "red", "mode": "Fast"},
    });
    let gadget: &Object = gadget.as_object().unwrap();
    let options = TableOptions {
        include: IncludeObject::Metadata,
        version: MetaVersion::V1,
    };
    let meta = ListMeta {
        resource_version: "7".to_owned(),
        ..ListMeta::default()
    };
    let mut out = Vec::new();
    write_head(&mut out, &version("v1", true), &meta, options, true);
    let now = "2026-01-03T04:00:00Z".parse().unwrap();
    write_row(&mut out, &version("v1", true), gadget, options, now);
    out.extend_from_slice(b"]}");
    check("table.json", &serde_json::from_slice(&out).unwrap());
}

#[test]
fn a_status_is_as_published() {
    let errors = [
        FieldError::invalid("spec.size", 10, "should be less than or equal to 9"),
        FieldError::required("spec.mode", ""),
    ];
    let invalid = ApiError::invalid(&GroupKind::new("test.example.com", "Gadget"), "g", &errors);
    check(
        "status_invalid.json",
        &serde_json::to_value(invalid.into_status()).unwrap(),
    );
    let gadgets = GroupResource::new("test.example.com", "gadgets");
    let missing = ApiError::not_found(&gadgets, "g");
    check(
        "status_not_found.json",
        &serde_json::to_value(missing.into_status()).unwrap(),
    );
}
