//! Discovery, OpenAPI and version documents.

use serde_json::{Value, json};

use super::server::{Api, Server};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn the_legacy_tree_names_groups_versions_and_resources() {
    let api = Api::masters().await;
    let groups = api.get("/apis").await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let group = api.get("/apis/gadget.example.com").await.expect(200);
    assert_eq!(
        (&group["kind"], &group["preferredVersion"]["version"]),
        (&json!("APIGroup"), &json!("v1"))
    );
    for version in ["v1", "v1alpha1"] {
        let list = api
            .get(&format!("/apis/gadget.example.com/{version}"))
            .await
            .expect(200);
        assert_eq!(list["kind"], "APIResourceList");
        let resources = list["resources"].as_array().unwrap();
        let named = |name: &str| {
            resources
                .iter()
                .find(|resource| resource["name"] == name)
                .unwrap()
        };
        let gadgets = named("gadgets");
        let mut verbs: Vec<_> = gadgets["verbs"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        verbs.sort_unstable();
        assert_eq!(
            verbs,
            [
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch"
            ]
        );
        assert_eq!(
            (&gadgets["namespaced"], &gadgets["shortNames"]),
            (&json!(true), &json!(["gd"]))
        );
        assert_ne!(gadgets["storageVersionHash"], Value::Null);
        let scale = named("gadgets/scale");
        assert_eq!(
            (&scale["group"], &scale["version"], &scale["kind"]),
            (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
        );
        assert_eq!(named("gadgets/status")["kind"], "Gadget");
    }
    let yaml = api
        .send(
            "GET",
            "/apis/gizmo.example.com/v1",
            &[("accept", "application/yaml")],
            "",
        )
        .await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("kind: APIResourceList"));
}

#[tokio::test]
async fn aggregated_discovery_is_negotiated_and_cached_by_its_etag() {
    let api = Api::masters().await;
    for accept in [
        AGGREGATED.to_owned(),
        format!("{AGGREGATED};profile=nopeer"),
        format!(
            "{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        ),
    ] {
        let answer = api.send("GET", "/apis", &[("accept", &accept)], "").await;
        let body = answer.expect(200);
        assert_eq!(body["kind"], "APIGroupDiscoveryList", "{accept}");
        let told = answer.header("content-type");
        assert!(
            told.contains("g=apidiscovery.k8s.io") && told.contains("as=APIGroupDiscoveryList"),
            "{told}"
        );
        assert_eq!(answer.header("vary"), "Accept");
        let etag = answer.header("etag");
        assert!(!etag.is_empty());
        let again = api
            .send(
                "GET",
                "/apis",
                &[("accept", &accept), ("if-none-match", etag)],
                "",
            )
            .await;
        assert_eq!((again.code, again.body.len()), (304, 0));
        for resource in body["items"][0]["versions"][0]["resources"]
            .as_array()
            .unwrap()
        {
            assert_ne!(resource["responseKind"], Value::Null);
        }
    }
}

#[tokio::test]
async fn openapi_is_served_by_hash_and_by_etag() {
    let api = Api::masters().await;
    let root = api.get("/openapi/v3").await.expect(200);
    let url = root["paths"]["apis/gadget.example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let document = api.get(url).await;
    assert!(document.header("cache-control").contains("immutable"));
    assert_eq!(
        document.expect(200)["openapi"]
            .as_str()
            .unwrap()
            .split('.')
            .next(),
        Some("3")
    );
    let again = api
        .send(
            "GET",
            url,
            &[("if-none-match", document.header("etag"))],
            "",
        )
        .await;
    assert_eq!(again.code, 304);
    let stale = api
        .get("/openapi/v3/apis/gadget.example.com/v1?hash=0")
        .await;
    assert_eq!(
        (stale.code, stale.header("cache-control")),
        (200, "no-cache, private")
    );

    let v2 = api.get("/openapi/v2").await;
    assert_eq!(v2.expect(200)["swagger"], "2.0");
    let kind = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = api
        .send("GET", "/openapi/v2", &[("accept", kind)], "")
        .await;
    assert_eq!(
        (protobuf.code, protobuf.header("content-type")),
        (200, kind)
    );
    assert_ne!(protobuf.body, v2.body);
    let patch = api.get(url).await.json();
    let operation = &patch["paths"]["/apis/gadget.example.com/v1/namespaces/{namespace}/gadgets/{name}"]
        ["patch"];
    let mut kinds: Vec<_> = operation["requestBody"]["content"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "application/json-patch+json",
            "application/merge-patch+json"
        ]
    );
}

#[tokio::test]
async fn the_version_is_a_semantic_one() {
    let api = Api::masters().await;
    let version = api.get("/version").await.expect(200);
    assert_eq!(version["gitVersion"], "v0.1.0");
    let paths = api.get("/").await.expect(200);
    assert!(
        paths["paths"]
            .as_array()
            .unwrap()
            .contains(&json!("/apis/gizmo.example.com/v1"))
    );
}

#[tokio::test]
async fn who_may_nothing_sees_no_discovery() {
    let nobody = Api::of(&Server::shared().nobody).await;
    for path in [
        "/apis",
        "/apis/gadget.example.com/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
        "/nothing",
    ] {
        assert_eq!(nobody.get(path).await.verdict(), "403 Forbidden", "{path}");
    }
}
