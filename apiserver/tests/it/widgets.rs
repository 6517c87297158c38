//! What is Widgets' own: two versions of one object, rules, columns, selectors, subresources.

use http::Method;
use serde_json::{Value, json};

use crate::server::Server;

fn v1(name: &str, spec: Value) -> Value {
    widget("v1", name, spec)
}

fn v1alpha1(name: &str, spec: Value) -> Value {
    widget("v1alpha1", name, spec)
}

fn widget(version: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("custom.example.com/{version}"), "kind": "Widget",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Paths of the collection in both versions, in a namespace of the test's own.
fn collections(namespace: &str) -> (String, String) {
    let path = |version: &str| format!("{version}/namespaces/{namespace}/widgets");
    (path("v1"), path("v1alpha1"))
}

#[tokio::test]
async fn an_object_is_the_same_in_both_versions_and_loses_nothing() {
    let server = Server::shared();
    let (new, old) = collections("versions");
    let spec = json!({"size": 3, "repository": "host:5000/a/b", "tag": "1", "color": "red"});
    let created = server
        .send(Method::POST, &old, Some(v1alpha1("w", spec.clone())))
        .await
        .ok();
    assert_eq!(created["spec"], spec);

    let mut widget = server
        .send(Method::GET, &format!("{new}/w"), None)
        .await
        .ok();
    assert_eq!(widget["metadata"], created["metadata"]);
    assert_eq!(
        widget["spec"],
        json!({"replicas": 3, "image": "host:5000/a/b:1", "color": "red"})
    );
    widget["spec"]["resources"] = json!({"requests": {"cpu": 1, "memory": "1Gi"}});
    let path = format!("{new}/w");
    let updated = server.send(Method::PUT, &path, Some(widget)).await.ok();
    let resources = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(updated["spec"]["resources"], resources);

    let mut shown = server
        .send(Method::GET, &format!("{old}/w"), None)
        .await
        .ok();
    assert_eq!(shown["spec"], spec);
    shown["spec"]["size"] = json!(0);
    shown["spec"]["tag"] = json!("");
    server
        .send(Method::PUT, &format!("{old}/w"), Some(shown))
        .await
        .ok();
    let widget = server
        .send(Method::GET, &format!("{new}/w"), None)
        .await
        .ok();
    assert_eq!(
        widget["spec"],
        json!({"replicas": 0, "image": "host:5000/a/b", "color": "red", "resources": resources})
    );
    assert_eq!(widget["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(widget["metadata"]["generation"], json!(3));

    let patch = json!({"spec": {"digest": format!("sha256:{}", "0".repeat(64))}});
    server
        .send(Method::PATCH, &format!("{old}/w"), Some(patch))
        .await
        .ok();
    let widget = server
        .send(Method::GET, &format!("{new}/w"), None)
        .await
        .ok();
    assert_eq!(
        widget["spec"]["image"],
        format!("host:5000/a/b@sha256:{}", "0".repeat(64))
    );
    assert_eq!(widget["spec"]["resources"], resources);
}

#[tokio::test]
async fn unset_fields_get_their_defaults_and_zero_stays_zero() {
    let server = Server::shared();
    let (new, old) = collections("defaults");
    let created = server
        .send(Method::POST, &new, Some(v1("a", json!({"image": "a"}))))
        .await
        .ok();
    assert_eq!(
        created["spec"],
        json!({"image": "a", "replicas": 1, "color": "blue"})
    );
    let spec = json!({"repository": "a", "size": 0});
    let created = server
        .send(Method::POST, &old, Some(v1alpha1("b", spec)))
        .await
        .ok();
    assert_eq!(
        created["spec"],
        json!({"repository": "a", "size": 0, "color": "blue"})
    );
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_at_the_paths_of_the_version_written() {
    let server = Server::shared();
    let (new, old) = collections("mistakes");
    let spec = json!({"replicas": 101, "image": "a b", "color": "Blue"});
    let answer = server.send(Method::POST, &new, Some(v1("w", spec))).await;
    assert_eq!(
        answer.causes(),
        [
            "spec.replicas: Invalid value: 101: replicas cannot exceed 100",
            "spec.image: Invalid value: \"a b\": \
             must be an OCI reference [host[:port]/]path[:tag][@algo:hex]",
            "spec.color: Invalid value: \"Blue\": must match ^[a-z]{1,32}$ or ^#[0-9a-f]{6}$",
        ]
    );
    let spec = json!({"size": 101, "repository": "a:1", "color": "Blue"});
    let answer = server
        .send(Method::POST, &old, Some(v1alpha1("w", spec)))
        .await;
    assert_eq!(
        answer.causes(),
        [
            "spec.repository: Invalid value: \"a:1\": \
             must not hold a tag or a digest: these are spec.tag and spec.digest",
            "spec.size: Invalid value: 101: replicas cannot exceed 100",
            "spec.color: Invalid value: \"Blue\": must match ^[a-z]{1,32}$ or ^#[0-9a-f]{6}$",
        ]
    );
    let answer = server
        .send(Method::POST, &new, Some(v1("w", json!({}))))
        .await;
    assert_eq!(answer.causes(), ["spec.image: Required value"]);
    let answer = server
        .send(Method::POST, &old, Some(v1alpha1("w", json!({}))))
        .await;
    assert_eq!(answer.causes(), ["spec.repository: Required value"]);
    let answer = server
        .send(
            Method::POST,
            &new,
            Some(v1("w", json!({"image": "a", "replicas": -1}))),
        )
        .await;
    assert_eq!(
        answer.causes(),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
    for wrong in [
        json!("3"),
        json!(1.5),
        json!(2_147_483_648_i64),
        json!(1e30),
    ] {
        let spec = json!({"image": "a", "replicas": wrong});
        let answer = server.send(Method::POST, &new, Some(v1("w", spec))).await;
        assert_eq!(answer.code, 400, "{answer:?}");
    }
}

#[tokio::test]
async fn the_old_version_warns_and_the_new_one_does_not() {
    let server = Server::shared();
    let (new, old) = collections("warnings");
    let answer = server.send(Method::GET, &old, None).await;
    assert_eq!(
        answer.warnings,
        ["299 - \"custom.example.com/v1alpha1 Widget is deprecated; \
          use custom.example.com/v1 Widget\""]
    );
    let answer = server.send(Method::GET, &new, None).await;
    assert!(answer.warnings.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn both_versions_have_the_same_table() {
    let server = Server::shared();
    let (new, old) = collections("table");
    let spec = json!({"image": "nginx:1", "replicas": 2});
    server
        .send(Method::POST, &new, Some(v1("w", spec)))
        .await
        .ok();
    let mut tables = Vec::new();
    for path in [new, old] {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let answer = server.send_as(Method::GET, &path, ("", accept), None).await;
        let table = answer.unwrap().ok();
        let columns = table["columnDefinitions"].as_array().unwrap();
        let columns: Vec<(String, i64)> = columns
            .iter()
            .map(|column| {
                let name = column["name"].as_str().unwrap();
                (name.to_uppercase(), column["priority"].as_i64().unwrap())
            })
            .collect();
        let mut cells = table["rows"][0]["cells"].clone();
        let age = cells.as_array_mut().unwrap().remove(5);
        assert!(age.as_str().unwrap().ends_with('s'), "{age}");
        tables.push((columns, cells));
    }
    assert_eq!(tables[0], tables[1]);
    let (columns, cells) = &tables[0];
    assert_eq!(
        columns
            .iter()
            .map(|(name, priority)| (name.as_str(), *priority))
            .collect::<Vec<_>>(),
        [
            ("NAME", 0),
            ("DESIRED", 0),
            ("AVAILABLE", 0),
            ("PHASE", 0),
            ("COLOR", 0),
            ("AGE", 0),
            ("IMAGE", 1),
        ]
    );
    assert_eq!(cells, &json!(["w", 2, 0, "<unknown>", "blue", "nginx:1"]));
}

#[tokio::test]
async fn fields_are_selected_by_the_names_of_the_version_asked() {
    let server = Server::shared();
    let (new, old) = collections("selectors");
    for (name, image, color) in [
        ("a", "x:1", "red"),
        ("b", "y@bad", "red"),
        ("c", "x:2", "blue"),
    ] {
        let image = image.replace("@bad", "");
        let spec = json!({"image": image, "color": color});
        server
            .send(Method::POST, &new, Some(v1(name, spec)))
            .await
            .ok();
    }
    let status = json!({"status": {"phase": "Running"}});
    server
        .send(Method::PATCH, &format!("{new}/a/status"), Some(status))
        .await
        .ok();
    for (path, selector, expected) in [
        (&new, "spec.color=red", json!(["a", "b"])),
        (&new, "spec.image=x:1", json!(["a"])),
        (&new, "spec.color!=red,metadata.name!=z", json!(["c"])),
        (&new, "status.phase=Running", json!(["a"])),
        (&old, "spec.repository=x", json!(["a", "c"])),
        (&old, "status.state=running,spec.color=red", json!(["a"])),
    ] {
        let path = format!("{path}?fieldSelector={}", selector.replace('=', "%3D"));
        let list = server.send(Method::GET, &path, None).await.ok();
        let names: Vec<Value> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].clone())
            .collect();
        assert_eq!(Value::from(names), expected, "{selector}");
    }
    for (path, selector) in [
        (&new, "spec.repository"),
        (&old, "spec.image"),
        (&old, "spec.size"),
    ] {
        let path = format!("{path}?fieldSelector={selector}%3Dx");
        let answer = server.send(Method::GET, &path, None).await;
        assert_eq!(answer.code, 400);
        let message = answer.body["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("field label not supported: {selector}")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = Server::shared();
    let (new, old) = collections("status");
    let mut widget = v1("w", json!({"image": "a"}));
    widget["status"] = json!({"phase": "Failed"});
    let created = server.send(Method::POST, &new, Some(widget)).await.ok();
    assert_eq!(created.get("status"), None);

    let mut widget = created.clone();
    widget["spec"]["replicas"] = json!(9);
    widget["status"] = json!({
        "phase": "Running", "replicas": 1, "availableReplicas": 1, "selector": "a=b",
        "lastUpdated": "2026-01-02T03:04:05Z",
    });
    let path = format!("{new}/w/status");
    let updated = server.send(Method::PUT, &path, Some(widget)).await.ok();
    assert_eq!(updated["spec"], created["spec"]);
    assert_eq!(updated["metadata"]["generation"], json!(1));

    let patch = json!({"status": {"state": "pending"}, "spec": {"size": 50}});
    let shown = server
        .send(Method::PATCH, &format!("{old}/w/status"), Some(patch))
        .await
        .ok();
    assert_eq!(
        shown["status"],
        json!({"ready": 1, "state": "pending", "updatedAt": "2026-01-02T03:04:05Z"})
    );
    let widget = server
        .send(Method::GET, &format!("{new}/w"), None)
        .await
        .ok();
    assert_eq!(widget["status"]["phase"], json!("Pending"));
    assert_eq!(widget["status"]["selector"], json!("a=b"));
    assert_eq!(widget["spec"]["replicas"], json!(1));

    let patch = json!({"status": {"phase": "Zap"}});
    let answer = server
        .send(Method::PATCH, &format!("{new}/w/status"), Some(patch))
        .await;
    let reason = answer.body["details"]["causes"][0]["reason"].clone();
    assert_eq!(reason, json!("FieldValueNotSupported"));
    let causes = answer.causes();
    assert_eq!(causes.len(), 1);
    assert!(
        causes[0].starts_with("status.phase: Unsupported value: \"Zap\""),
        "{causes:?}"
    );
    let patch = json!({"status": {"state": "Running"}});
    let answer = server
        .send(Method::PATCH, &format!("{old}/w/status"), Some(patch))
        .await;
    assert_eq!(
        answer.causes(),
        ["status.state: Unsupported value: \"Running\": \
          supported values: \"pending\", \"running\", \"failed\""]
    );
}

#[tokio::test]
async fn scale_works_in_both_versions() {
    let server = Server::shared();
    let (new, old) = collections("scale");
    let created = server
        .send(Method::POST, &new, Some(v1("w", json!({"image": "a"}))))
        .await
        .ok();
    for (path, replicas) in [(new.clone(), 5), (old, 7)] {
        let path = format!("{path}/w/scale");
        let mut scale = server.send(Method::GET, &path, None).await.ok();
        assert_eq!(scale["apiVersion"], json!("autoscaling/v1"));
        assert_eq!(scale["kind"], json!("Scale"));
        assert_eq!(scale["metadata"]["uid"], created["metadata"]["uid"]);
        scale["spec"]["replicas"] = json!(replicas);
        let scaled = server.send(Method::PUT, &path, Some(scale)).await.ok();
        assert_eq!(scaled["spec"]["replicas"], json!(replicas));
        let widget = server
            .send(Method::GET, &format!("{new}/w"), None)
            .await
            .ok();
        assert_eq!(widget["spec"]["replicas"], json!(replicas));
        assert_eq!(
            widget["metadata"]["resourceVersion"],
            scaled["metadata"]["resourceVersion"]
        );
    }
    let path = format!("{new}/w/scale");
    let patch = json!({"spec": {"replicas": 101}});
    let answer = server.send(Method::PATCH, &path, Some(patch)).await;
    assert_eq!(answer.code, 422, "{answer:?}");
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("replicas cannot exceed 100"), "{message}");
}
