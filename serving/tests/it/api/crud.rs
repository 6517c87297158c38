//! Create, read, replace, and what the codes say.

use serde_json::{Value, json};

use super::server::{Api, Server, fresh_namespace, gadget, gadgets};

#[tokio::test]
async fn objects_are_created_read_replaced_and_deleted() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api
        .post(&all, &gadget("a", json!({ "note": "x" })))
        .await
        .expect(201);
    assert_eq!(created["metadata"]["name"], "a");
    assert_eq!(created["metadata"]["generation"], 1);
    let one = format!("{all}/a");
    assert_eq!(api.get(&one).await.expect(200), created);

    let mut changed = created.clone();
    changed["spec"]["note"] = json!("y");
    let changed = api.put(&one, &changed).await.expect(200);
    assert_eq!(changed["spec"]["note"], "y");
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(changed["metadata"]["uid"], created["metadata"]["uid"]);
    assert!(revision(&changed) > revision(&created));

    let gone = api.delete(&one, &json!({})).await.expect(200);
    assert_eq!(
        (&gone["kind"], &gone["status"]),
        (&json!("Status"), &json!("Success"))
    );
    assert_eq!(gone["details"]["uid"], created["metadata"]["uid"]);
    assert_eq!(gone["details"]["kind"], "gadgets");
    let absent = api.get(&one).await;
    assert_eq!(absent.verdict(), "404 NotFound");
    assert_eq!(
        absent.message(),
        "gadgets.gadget.example.com \"a\" not found"
    );
}

pub fn revision(object: &Value) -> i64 {
    let text = object["metadata"]["resourceVersion"]
        .as_str()
        .expect("a resourceVersion");
    assert!(!text.starts_with('0'));
    text.parse().expect("a decimal number")
}

#[tokio::test]
async fn a_cluster_scoped_resource_is_one_file_and_one_registration() {
    let (api, all) = (Api::masters().await, "/apis/gizmo.example.com/v1/gizmos");
    let body = json!({ "metadata": { "generateName": "g-" }, "spec": { "note": "n" } });
    let created = api.post(all, &body).await.expect(201);
    let name = created["metadata"]["name"].as_str().unwrap();
    assert_eq!(created["kind"], "Gizmo");
    assert_eq!(created["metadata"]["namespace"], Value::Null);
    let merged = api
        .merge(
            &format!("{all}/{name}"),
            &json!({ "spec": { "note": "m" } }),
        )
        .await;
    assert_eq!(merged.expect(200)["spec"]["note"], "m");
    let list = api.get(all).await.expect(200);
    assert!(
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|item| item["metadata"]["name"] == name)
    );
    for path in [
        "/apis/gizmo.example.com/v1/namespaces/x/gizmos",
        &format!("{all}/{name}/status"),
    ] {
        assert_eq!(api.get(path).await.verdict(), "404 NotFound", "{path}");
    }
    api.delete(&format!("{all}/{name}"), &json!({}))
        .await
        .expect(200);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_apart() {
    let (api, all) = (Api::masters().await, gadgets("paths"));
    let spanning = "/apis/gadget.example.com/v1/gadgets";
    for (method, path, verdict) in [
        ("GET", "/nothing", "404 NotFound"),
        ("GET", "/apis/gadget.example.com/v7", "404 NotFound"),
        ("GET", "/apis/gadget.example.com/v7/gadgets", "404 NotFound"),
        (
            "GET",
            "/apis/gadget.example.com/v1/nothings",
            "404 NotFound",
        ),
        ("GET", &format!("{all}/x"), "404 NotFound"),
        ("GET", &format!("{all}/x/nothing"), "404 NotFound"),
        ("GET", &format!("{all}/x/status/more"), "404 NotFound"),
        ("GET", &format!("{spanning}/x"), "404 NotFound"),
        ("GET", &format!("{all}/"), "404 NotFound"),
        (
            "GET",
            "/apis/gadget.example.com/v1/namespaces//gadgets",
            "404 NotFound",
        ),
        (
            "GET",
            "//apis/gadget.example.com/v1/gadgets",
            "404 NotFound",
        ),
        (
            "GET",
            "/apis/gadget.example.com/v1/namespaces/../gadgets",
            "404 NotFound",
        ),
        (
            "GET",
            "/apis/gadget.example.com/v1/namespaces/default%2Fx/gadgets",
            "404 NotFound",
        ),
        ("GET", &format!("{all}/.."), "400 BadRequest"),
        ("GET", &format!("{all}/%2e%2e"), "400 BadRequest"),
        ("GET", &format!("{all}/%zz"), "400 BadRequest"),
        ("PUT", &all, "405 MethodNotAllowed"),
        ("PATCH", &all, "405 MethodNotAllowed"),
        ("POST", &format!("{all}/x"), "405 MethodNotAllowed"),
        ("POST", &format!("{all}/x/status"), "405 MethodNotAllowed"),
        ("DELETE", &format!("{all}/x/status"), "405 MethodNotAllowed"),
        ("DELETE", &format!("{all}/x/scale"), "405 MethodNotAllowed"),
        ("POST", spanning, "405 MethodNotAllowed"),
        ("DELETE", spanning, "405 MethodNotAllowed"),
        ("PROPFIND", &all, "405 MethodNotAllowed"),
        ("OPTIONS", &all, "405 MethodNotAllowed"),
        ("POST", "/apis", "405 MethodNotAllowed"),
    ] {
        assert_eq!(
            api.send(method, path, &[], "").await.verdict(),
            verdict,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn the_body_must_be_the_object_of_the_url() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    let with = |pointer: &str, value: Value| {
        let mut body = created.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    for (body, verdict) in [
        (with("/metadata/name", json!("b")), "400 BadRequest"),
        (with("/metadata/name", json!("")), "400 BadRequest"),
        (
            with("/metadata/namespace", json!("other")),
            "400 BadRequest",
        ),
        (with("/kind", json!("Gizmo")), "400 BadRequest"),
        (
            with("/apiVersion", json!("gadget.example.com/v1alpha1")),
            "400 BadRequest",
        ),
        (with("/apiVersion", json!("apps/v1")), "400 BadRequest"),
        (
            with(
                "/metadata/uid",
                json!("b0c6ea9c-0000-4000-8000-000000000000"),
            ),
            "409 Conflict",
        ),
        (
            with("/metadata/resourceVersion", json!("1")),
            "409 Conflict",
        ),
        (
            with("/metadata/resourceVersion", json!("9223372036854775807")),
            "409 Conflict",
        ),
        (with("/metadata/resourceVersion", json!("")), "422 Invalid"),
        (with("/metadata/resourceVersion", json!("0")), "422 Invalid"),
        (
            with("/metadata/resourceVersion", json!("abc")),
            "400 BadRequest",
        ),
        (
            with("/metadata/resourceVersion", json!("-1")),
            "400 BadRequest",
        ),
        (
            with("/metadata/resourceVersion", json!("18446744073709551616")),
            "400 BadRequest",
        ),
    ] {
        assert_eq!(api.put(&one, &body).await.verdict(), verdict, "{body}");
    }
    let mut elsewhere = created.clone();
    elsewhere["metadata"]["name"] = json!("zz");
    assert_eq!(
        api.put(&format!("{all}/zz"), &elsewhere).await.verdict(),
        "404 NotFound"
    );
    assert_eq!(api.get(&one).await.expect(200), created);
}

#[tokio::test]
async fn a_stale_update_is_a_conflict_in_the_stock_words() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let first = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    api.merge(&one, &json!({ "spec": { "note": "newer" } }))
        .await
        .expect(200);
    let refused = api.put(&one, &first).await;
    assert_eq!(refused.verdict(), "409 Conflict");
    assert_eq!(
        refused.message(),
        "Operation cannot be fulfilled on gadgets.gadget.example.com \"a\": the object has been \
         modified; please apply your changes to the latest version and try again"
    );
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_write() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api
        .post(&all, &gadget("a", json!({ "note": "x" })))
        .await
        .expect(201);
    let one = format!("{all}/a");
    let mut watch = api
        .watch(&format!(
            "{all}?watch=1&resourceVersion={}",
            revision(&created)
        ))
        .await;
    assert_eq!(api.put(&one, &created).await.expect(200), created);
    assert_eq!(
        api.merge(&one, &json!({ "spec": { "note": "x" } }))
            .await
            .expect(200),
        created
    );
    assert_eq!(api.json_patch(&one, &json!([])).await.expect(200), created);
    let changed = api
        .merge(&one, &json!({ "spec": { "note": "y" } }))
        .await
        .expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]),
        (&json!("MODIFIED"), &changed)
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_new_object_is_told() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("taken", json!({})))
        .await
        .expect(201);
    let named = |metadata: Value| json!({ "metadata": metadata });
    for (body, verdict) in [
        (gadget("taken", json!({})), "409 AlreadyExists"),
        (
            named(json!({ "name": "a", "resourceVersion": "5" })),
            "400 BadRequest",
        ),
        (
            named(json!({ "name": "a", "namespace": "other" })),
            "400 BadRequest",
        ),
        (
            json!({ "kind": "Pod", "metadata": { "name": "a" } }),
            "400 BadRequest",
        ),
        (
            json!({ "apiVersion": "v1", "metadata": { "name": "a" } }),
            "400 BadRequest",
        ),
        (named(json!({})), "422 Invalid"),
        (Value::Null, "422 Invalid"),
        (json!([]), "400 BadRequest"),
        (json!("x"), "400 BadRequest"),
        (json!({ "metadata": "x" }), "400 BadRequest"),
        (
            named(json!({ "name": "a", "labels": { "n": 1 } })),
            "400 BadRequest",
        ),
        (
            named(json!({ "name": "a", "creationTimestamp": "yesterday" })),
            "400 BadRequest",
        ),
        (named(json!({ "generateName": "G_" })), "422 Invalid"),
    ] {
        let answer = api.post(&all, &body).await;
        assert_eq!(answer.verdict(), verdict, "{body}: {}", answer.message());
    }
    let unsaid = json!({ "metadata": { "name": "unsaid" } });
    assert_eq!(api.post(&all, &unsaid).await.expect(201)["kind"], "Gadget");
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_absent_or_going_away() {
    let api = Api::masters().await;
    let absent = api.post(&gadgets("absent"), &gadget("a", json!({}))).await;
    assert_eq!(absent.verdict(), "404 NotFound");
    assert_eq!(absent.message(), "namespaces \"absent\" not found");
    let terminating = api
        .post(&gadgets("terminating"), &gadget("a", json!({})))
        .await;
    assert_eq!(terminating.verdict(), "403 Forbidden");
    assert_eq!(
        terminating.json()["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    assert_eq!(
        api.get(&gadgets("absent")).await.expect(200)["items"],
        json!([])
    );
}

#[tokio::test]
async fn generated_names_are_the_base_and_five_characters() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let body = json!({ "metadata": { "generateName": "made-" } });
    let first = api.post(&all, &body).await.expect(201);
    let second = api.post(&all, &body).await.expect(201);
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("made-") && name.len() == 10, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn a_dry_run_is_refused_and_writes_nothing() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let dry = api
        .post(&format!("{all}?dryRun=All"), &gadget("a", json!({})))
        .await;
    assert_eq!(dry.verdict(), "400 BadRequest");
    assert_eq!(api.get(&format!("{all}/a")).await.verdict(), "404 NotFound");
    for (query, verdict) in [
        ("dryRun=x", "422 Invalid"),
        ("fieldValidation=x", "422 Invalid"),
        (&format!("fieldManager={}", "m".repeat(129)), "422 Invalid"),
        ("fieldManager=%07", "422 Invalid"),
    ] {
        let answer = api
            .post(&format!("{all}?{query}"), &gadget("a", json!({})))
            .await;
        assert_eq!(answer.verdict(), verdict, "{query}");
    }
}

#[tokio::test]
async fn a_generated_name_that_is_taken_eight_times_is_given_up() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    static LUCK: AtomicU64 = AtomicU64::new(u64::MAX);
    // The same suffix again and again, until luck changes.
    fn draw() -> u64 {
        let drawn = DRAWN.fetch_add(1, Ordering::SeqCst);
        if drawn >= LUCK.load(Ordering::SeqCst) {
            drawn
        } else {
            0
        }
    }
    let config = store::StoreConfig::new(store::testing::database().url);
    let server = Server::start_with(config, |builder| builder.name_source = draw).await;
    let (api, all) = (Api::of(&server.masters).await, gadgets("a"));
    let body = json!({ "metadata": { "generateName": "made-" } });
    api.post(&all, &body).await.expect(201);
    assert_eq!(DRAWN.swap(0, Ordering::SeqCst), 1);

    let refused = api.post(&all, &body).await;
    assert_eq!(refused.verdict(), "409 AlreadyExists");
    assert_eq!(refused.json()["details"]["retryAfterSeconds"], 1);
    assert_eq!(DRAWN.swap(0, Ordering::SeqCst), 8, "names that were tried");

    LUCK.store(7, Ordering::SeqCst);
    api.post(&all, &body).await.expect(201);
    assert_eq!(DRAWN.load(Ordering::SeqCst), 8, "the last try counts");
}
