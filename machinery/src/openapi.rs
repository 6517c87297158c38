//! OpenAPI documents, derived from the registered resources.
//!
//! One description of definitions and operations is written as v3 (a document for each group
//! version) and as v2 (one document, as JSON and as gnostic protobuf). kube-apiserver merges
//! v2 into its own: definitions carry the group's name, so that none of them collides with
//! the cluster's, and kinds of other groups are not claimed there.

mod definitions;
mod gnostic;
mod operations;
mod v2;
mod v3;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{discovery, resource::ResourceInfo};

/// The media type of v2 in protobuf, which kubectl asks for.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A document ready to be served.
#[derive(Debug, Clone)]
pub struct Document {
    /// The body as JSON.
    pub json: Bytes,
    /// The body as gnostic protobuf; only v2 is published in it.
    pub protobuf: Option<Bytes>,
    /// Upper-case hexadecimal hash of the JSON: the ETag (in quotes) and the `hash` parameter.
    pub hash: String,
}

impl Document {
    fn new(document: &Value, protobuf: Option<Vec<u8>>) -> Self {
        let json = document.to_string().into_bytes();
        let hash = discovery::hash(&json);
        Self {
            json: json.into(),
            protobuf: protobuf.map(Bytes::from),
            hash,
        }
    }
}

/// All OpenAPI documents of a server.
#[derive(Debug, Clone)]
pub struct OpenApi {
    /// `/openapi/v2`.
    pub v2: Document,
    /// The body of `/openapi/v3`, JSON.
    pub v3_root: Bytes,
    /// By path below `/openapi/v3/`: `apis/<group>/<version>`.
    pub v3: BTreeMap<String, Document>,
}

impl OpenApi {
    /// Builds the documents once; serving keeps them.
    #[must_use]
    pub fn build(title: &str, version: &str, resources: &[&ResourceInfo]) -> Self {
        let info = json!({"title": title, "version": version});
        let mut v3 = BTreeMap::new();
        let mut paths = Map::new();
        for (group, version) in discovery::group_versions(resources) {
            let path = format!("apis/{group}/{version}");
            let document = Document::new(&v3::document(&info, resources, (group, version)), None);
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            paths.insert(path.clone(), json!({"serverRelativeURL": url}));
            v3.insert(path, document);
        }
        let v2 = v2::document(&info, resources);
        let protobuf = gnostic::encode(&v2);
        let v3_root = json!({"paths": paths}).to_string().into_bytes().into();
        Self {
            v2: Document::new(&v2, Some(protobuf)),
            v3_root,
            v3,
        }
    }
}

#[cfg(test)]
pub(crate) mod test_resources {
    //! Two resources that exist only in tests.

    use crate::{
        resource::{ResourceInfo, Scope, VersionInfo},
        scale::ScalePaths,
        schema::test_schema,
    };

    fn version(name: &'static str, storage: bool) -> VersionInfo {
        VersionInfo {
            name,
            storage,
            deprecation_warning: None,
            schema: test_schema::gadget(),
            columns: vec![],
            selectable: vec![],
            lens: None,
        }
    }

    pub(crate) fn gadgets() -> ResourceInfo {
        ResourceInfo {
            group: "test.example.com",
            kind: "Gadget",
            list_kind: "GadgetList",
            plural: "gadgets",
            singular: "gadget",
            short_names: &["gd"],
            categories: &["all"],
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

    pub(crate) fn knobs() -> ResourceInfo {
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
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn documents() -> (Value, BTreeMap<String, Value>) {
        let (gadgets, knobs) = (test_resources::gadgets(), test_resources::knobs());
        let built = OpenApi::build("test", "v0", &[&gadgets, &knobs]);
        let parse = |document: &Document| serde_json::from_slice(&document.json).unwrap();
        (
            parse(&built.v2),
            built
                .v3
                .iter()
                .map(|(path, d)| (path.clone(), parse(d)))
                .collect(),
        )
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    found.insert(reference.clone());
                }
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    fn operations(paths: &Value) -> Vec<(String, String, Value)> {
        let mut found = Vec::new();
        for (path, item) in paths.as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method != "parameters" {
                    found.push((path.clone(), method.clone(), operation.clone()));
                }
            }
        }
        found
    }

    #[test]
    fn every_reference_resolves_and_every_definition_is_used() {
        let (v2, v3) = documents();
        for (document, pointer, prefix) in v3
            .values()
            .map(|document| (document, "/components/schemas", "#/components/schemas/"))
            .chain([(&v2, "/definitions", "#/definitions/")])
        {
            let mut found = BTreeSet::new();
            references(document, &mut found);
            let defined = document.pointer(pointer).unwrap().as_object().unwrap();
            let defined: BTreeSet<_> = defined
                .keys()
                .map(|name| format!("{prefix}{name}"))
                .collect();
            assert_eq!(found, defined);
        }
    }

    #[test]
    fn no_definition_has_a_name_of_the_clusters() {
        let (v2, _) = documents();
        for name in v2["definitions"].as_object().unwrap().keys() {
            assert!(name.starts_with("com.example.test."), "{name}");
        }
    }

    #[test]
    fn v2_claims_no_kind_of_another_group() {
        let (v2, v3) = documents();
        for (name, definition) in v2["definitions"].as_object().unwrap() {
            for kind in definition["x-kubernetes-group-version-kind"]
                .as_array()
                .into_iter()
                .flatten()
            {
                assert_eq!(kind["group"], "test.example.com", "{name}");
            }
        }
        let scale = &v3["apis/test.example.com/v1"]["components"]["schemas"]["com.example.test.autoscaling.v1.Scale"];
        assert_eq!(
            scale["x-kubernetes-group-version-kind"],
            json!([{"group": "autoscaling", "version": "v1", "kind": "Scale"}])
        );
    }

    #[test]
    fn operation_ids_are_unique() {
        let (v2, _) = documents();
        let ids: Vec<_> = operations(&v2["paths"])
            .iter()
            .map(|(_, _, o)| o["operationId"].to_string())
            .collect();
        let unique: BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), unique.len());
    }

    #[test]
    fn operations_name_their_action_and_kind() {
        let (v2, v3) = documents();
        for document in v3.values().chain([&v2]) {
            for (path, _, operation) in operations(&document["paths"]) {
                if path.ends_with('/') {
                    continue;
                }
                assert!(operation["x-kubernetes-action"].is_string(), "{path}");
                let kind = &operation["x-kubernetes-group-version-kind"]["kind"];
                let expected = match () {
                    () if path.ends_with("/scale") => "Scale",
                    () if path.ends_with("/history") => "GadgetHistory",
                    () if path.contains("knobs") => "Knob",
                    () => "Gadget",
                };
                assert_eq!(kind, expected, "{path}");
            }
        }
    }

    #[test]
    fn a_patch_lists_what_is_served_and_no_more() {
        let (v2, v3) = documents();
        let path = "/apis/test.example.com/v1/namespaces/{namespace}/gadgets/{name}";
        let patch = &v3["apis/test.example.com/v1"]["paths"][path]["patch"];
        let types: Vec<_> = patch["requestBody"]["content"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        assert_eq!(
            types,
            [
                "application/json-patch+json",
                "application/merge-patch+json"
            ]
        );
        assert_eq!(
            v2["paths"][path]["patch"]["consumes"],
            json!([
                "application/json-patch+json",
                "application/merge-patch+json"
            ])
        );
        let names: Vec<_> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["pretty", "fieldManager", "fieldValidation"]);
    }

    #[test]
    fn a_cluster_scoped_resource_has_no_namespace_in_its_paths() {
        let (v2, _) = documents();
        let paths: Vec<_> = v2["paths"].as_object().unwrap().keys().collect();
        let knobs: Vec<_> = paths.iter().filter(|path| path.contains("knobs")).collect();
        assert_eq!(
            knobs,
            [
                &&"/apis/test.example.com/v1/knobs",
                &&"/apis/test.example.com/v1/knobs/{name}"
            ]
        );
    }

    #[test]
    fn extensions_enums_formats_and_defaults_are_equal_in_both() {
        let (v2, v3) = documents();
        let name = "com.example.test.v1.Gadget";
        let in_v2 = &v2["definitions"][name]["properties"]["spec"]["properties"];
        let in_v3 = &v3["apis/test.example.com/v1"]["components"]["schemas"][name]["properties"]["spec"]
            ["properties"];
        for field in ["size", "color", "mode", "parts", "free"] {
            assert_eq!(in_v2[field], in_v3[field], "{field}");
        }
        assert_eq!(
            in_v3["parts"]["x-kubernetes-list-map-keys"],
            json!(["name"])
        );
        assert_eq!(in_v3["size"]["default"], 1);
        assert_eq!(in_v3["mode"]["enum"], json!(["Fast", "Slow"]));
    }

    #[test]
    fn the_v3_root_names_documents_by_their_hash() {
        let gadgets = test_resources::gadgets();
        let built = OpenApi::build("test", "v0", &[&gadgets]);
        let root: Value = serde_json::from_slice(&built.v3_root).unwrap();
        let path = "apis/test.example.com/v1alpha1";
        let hash = &built.v3[path].hash;
        assert_eq!(
            root["paths"][path]["serverRelativeURL"],
            format!("/openapi/v3/{path}?hash={hash}")
        );
        assert_eq!(root["paths"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn documents_are_the_same_each_time() {
        assert_eq!(documents(), documents());
    }
}
