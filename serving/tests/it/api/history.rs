//! The `history` subresource: who wrote an object.

use serde_json::{Value, json};
use store::{StoreConfig, testing};

use super::crud::revision;
use super::server::{Api, Server, fresh_namespace, gadget, gadgets, old_gadgets};

const JSON: &str = "application/json";

/// `TYPE verb manager` of every item.
fn told(history: &Value) -> Vec<String> {
    let items = history["items"].as_array().expect("items is a list");
    let word = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let line = |item| {
        ["type", "verb", "fieldManager"]
            .map(|key| word(item, key))
            .join(" ")
    };
    items.iter().map(line).collect()
}

fn revisions(history: &Value) -> Vec<i64> {
    let items = history["items"].as_array().expect("items is a list");
    let one = |item: &Value| item["resourceVersion"].as_str().unwrap().parse().unwrap();
    items.iter().map(one).collect()
}

#[tokio::test]
async fn a_history_tells_who_wrote_what_newest_first_in_both_versions() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    let created = api
        .send(
            "POST",
            &format!("{all}?fieldManager=maker"),
            &[("content-type", JSON), ("audit-id", "first-of-all")],
            gadget("a", json!({})).to_string(),
        )
        .await
        .expect(201);
    let patched = api
        .merge(
            &format!("{all}/a?fieldManager=patcher"),
            &json!({ "spec": { "note": "n" } }),
        )
        .await
        .expect(200);
    let status = json!({ "status": { "replicas": 3 } });
    let status = api
        .merge(&format!("{all}/a/status?fieldManager=teller"), &status)
        .await
        .expect(200);
    // A write that changes nothing is none.
    api.merge(&format!("{all}/a"), &json!({})).await.expect(200);
    for (path, version) in [
        (gadgets(&namespace), "gadget.example.com/v1"),
        (old_gadgets(&namespace), "gadget.example.com/v1alpha1"),
    ] {
        let history = api.get(&format!("{path}/a/history")).await.expect(200);
        assert_eq!(
            (&history["kind"], &history["apiVersion"]),
            (&json!("GadgetHistory"), &json!(version))
        );
        assert!(revision(&history) >= revision(&status));
        assert_eq!(
            told(&history),
            [
                "Modified patch teller",
                "Modified patch patcher",
                "Added create maker"
            ]
        );
        assert_eq!(
            revisions(&history),
            [revision(&status), revision(&patched), revision(&created)]
        );
        let first = &history["items"][2];
        assert_eq!(first["user"], "admin");
        assert_eq!(first["auditID"], "first-of-all");
        assert_eq!(first["uid"], created["metadata"]["uid"]);
        let time: jiff::Timestamp = first["time"].as_str().unwrap().parse().unwrap();
        let age = jiff::Timestamp::now().duration_since(time).as_secs();
        assert!((0..60).contains(&age), "{first}");
    }
}

#[tokio::test]
async fn the_history_of_a_name_spans_the_lives_of_its_objects() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let path = format!("{all}/a/history");
    assert_eq!(api.get(&path).await.verdict(), "404 NotFound");
    let first = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    // Another name, and the same one elsewhere, are not of it.
    api.post(&all, &gadget("b", json!({}))).await.expect(201);
    api.post(&gadgets(&fresh_namespace()), &gadget("a", json!({})))
        .await
        .expect(201);
    api.delete(&format!("{all}/a"), &json!({}))
        .await
        .expect(200);
    let kinds = |history: &Value| -> Vec<String> {
        let items = history["items"].as_array().unwrap();
        let kind = |item: &Value| item["type"].as_str().unwrap().to_owned();
        items.iter().map(kind).collect()
    };
    let gone = api.get(&path).await.expect(200);
    assert_eq!(kinds(&gone), ["Deleted", "Added"]);
    assert_eq!(gone["items"][0]["verb"], "delete");
    assert_eq!(gone["items"][0]["uid"], first["metadata"]["uid"]);

    let second = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let again = api.get(&path).await.expect(200);
    assert_eq!(kinds(&again), ["Added", "Deleted", "Added"]);
    assert_eq!(again["items"][0]["uid"], second["metadata"]["uid"]);
    assert_eq!(again["items"][2]["uid"], first["metadata"]["uid"]);
}

#[tokio::test]
async fn a_history_comes_in_pages() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    for number in 0..4 {
        let note = json!({ "spec": { "note": number.to_string() } });
        api.merge(&format!("{all}/a"), &note).await.expect(200);
    }
    let path = format!("{all}/a/history");
    let whole = revisions(&api.get(&path).await.expect(200));
    assert_eq!(whole.len(), 5);
    let (mut seen, mut query) = (Vec::new(), String::new());
    let mut versions = Vec::new();
    loop {
        let page = api.get(&format!("{path}?limit=2{query}")).await.expect(200);
        let listed = revisions(&page);
        assert!(listed.len() <= 2);
        seen.extend(listed);
        versions.push(revision(&page));
        // What comes later is not of this history.
        let late = json!({ "metadata": { "labels": { "late": seen.len().to_string() } } });
        api.merge(&format!("{all}/a"), &late).await.expect(200);
        match page["metadata"]["continue"].as_str() {
            Some(token) => query = format!("&continue={token}"),
            None => break,
        }
    }
    assert_eq!(seen, whole);
    versions.dedup();
    assert_eq!(versions.len(), 1, "all pages are of one state");
    let foreign = api
        .get(&format!("{all}?limit=1&labelSelector=late"))
        .await
        .expect(200);
    assert_eq!(foreign["metadata"]["continue"], Value::Null);
    let token = machinery::continue_token::ContinueToken::after(7, None, "a").encode();
    for query in ["limit=x", "continue=garbage", &format!("continue={token}")] {
        let answer = api.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.verdict(), "400 BadRequest", "{query}");
    }
}

#[tokio::test]
async fn a_history_is_only_read_and_only_in_shapes_that_it_has() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let path = format!("{all}/a/history");
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let kind = [("content-type", "application/merge-patch+json")];
        let answer = api.send(method, &path, &kind, "{}").await;
        assert_eq!(answer.verdict(), "405 MethodNotAllowed", "{method}");
    }
    let gizmo = json!({
        "apiVersion": "gizmo.example.com/v1", "kind": "Gizmo", "metadata": { "name": fresh_namespace() },
    });
    let gizmos = "/apis/gizmo.example.com/v1/gizmos";
    let created = api.post(gizmos, &gizmo).await.expect(201);
    let name = created["metadata"]["name"].as_str().unwrap();
    let none = api.get(&format!("{gizmos}/{name}/history")).await;
    assert_eq!(none.verdict(), "404 NotFound", "not every resource has it");

    let accept = |accept: &'static str| {
        let (api, path) = (&api, &path);
        async move { api.send("GET", path, &[("accept", accept)], "").await }
    };
    let table = accept("application/json;as=Table;g=meta.k8s.io;v=v1").await;
    let table = table.expect(200);
    let columns = table["columnDefinitions"].as_array().unwrap();
    let headings: Vec<_> = columns
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        headings,
        [
            "Revision", "Type", "User", "Verb", "Manager", "Age", "UID", "Audit ID"
        ]
    );
    assert_eq!(table["rows"][0]["cells"][2], "admin");
    let yaml = accept("application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("kind: GadgetHistory"));
    for unknown in [
        "application/vnd.kubernetes.protobuf",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    ] {
        assert_eq!(accept(unknown).await.code, 406, "{unknown}");
    }
}

#[tokio::test]
async fn a_history_is_in_discovery_and_openapi_and_has_a_right_of_its_own() {
    let api = Api::masters().await;
    for version in ["v1", "v1alpha1"] {
        let list = api
            .get(&format!("/apis/gadget.example.com/{version}"))
            .await
            .expect(200);
        let entries = list["resources"].as_array().unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry["name"] == "gadgets/history");
        let entry = entry.expect("it is discovered");
        assert_eq!(
            (&entry["kind"], &entry["verbs"]),
            (&json!("GadgetHistory"), &json!(["get"]))
        );
        let openapi = api
            .get(&format!("/openapi/v3/apis/gadget.example.com/{version}"))
            .await
            .expect(200);
        let path = format!(
            "/apis/gadget.example.com/{version}/namespaces/{{namespace}}/gadgets/{{name}}/history"
        );
        let operation = &openapi["paths"][path.as_str()]["get"];
        assert_eq!(
            operation["x-kubernetes-group-version-kind"]["kind"],
            "GadgetHistory"
        );
        let definition = format!("com.example.gadget.{version}.GadgetHistory");
        assert!(openapi["components"]["schemas"][definition.as_str()].is_object());
    }
    let audited = gadgets("audited");
    let created = api.post(&audited, &gadget("a", json!({}))).await;
    assert!(matches!(created.code, 201 | 409));
    let alice = Api::of(&Server::shared().alice).await;
    for (path, code) in [
        (format!("{audited}/a/history"), 200),
        (format!("{audited}/a"), 403),
        (format!("{}/a/history", gadgets("alice")), 403),
    ] {
        assert_eq!(alice.get(&path).await.code, code, "{path}");
    }
}

#[tokio::test]
async fn what_was_compacted_is_no_longer_told() {
    let mut config = StoreConfig::new(testing::database().url);
    config.retention = std::time::Duration::ZERO;
    let server = Server::start_on(config, |_| {}).await;
    let (api, all) = (Api::of(&server.masters).await, gadgets("a"));
    for name in ["gone", "kept"] {
        api.post(&all, &gadget(name, json!({}))).await.expect(201);
        let note = json!({ "spec": { "note": "n" } });
        api.merge(&format!("{all}/{name}"), &note).await.expect(200);
    }
    api.delete(&format!("{all}/gone"), &json!({}))
        .await
        .expect(200);
    let page = api
        .get(&format!("{all}/kept/history?limit=1"))
        .await
        .expect(200);
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    let begin = api.post(&all, &gadget("b", json!({}))).await.expect(201);
    api.post(&all, &gadget("c", json!({}))).await.expect(201);
    server
        .store
        .compact()
        .await
        .unwrap()
        .expect("nobody else compacts");

    let gone = api.get(&format!("{all}/gone/history")).await;
    assert_eq!(gone.verdict(), "404 NotFound");
    let kept = api.get(&format!("{all}/kept/history")).await.expect(200);
    assert!(
        told(&kept).len() <= 1,
        "at most what was current when retention began: {kept}"
    );
    let rest = api
        .get(&format!("{all}/kept/history?continue={token}"))
        .await
        .expect(200);
    assert_eq!(told(&rest), [""; 0]);
    let after = api.get(&format!("{all}/b/history")).await.expect(200);
    assert!(revisions(&after).iter().all(|one| *one == revision(&begin)));
    let note = json!({ "spec": { "note": "m" } });
    let changed = api.merge(&format!("{all}/kept"), &note).await.expect(200);
    let kept = api.get(&format!("{all}/kept/history")).await.expect(200);
    assert_eq!(revisions(&kept)[0], revision(&changed));
}
