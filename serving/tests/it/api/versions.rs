//! Two served versions of one object.

use serde_json::{Value, json};

use super::crud::revision;
use super::server::{Api, fresh_namespace, gadget, gadgets, old_gadgets};

#[tokio::test]
async fn an_object_is_the_same_object_in_both_versions() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let (new, old) = (gadgets(&namespace), old_gadgets(&namespace));
    let spec = json!({ "replicas": 3, "limits": { "cpu": "1" } });
    let created = api.post(&new, &gadget("a", spec)).await.expect(201);
    let shown = api.get(&format!("{old}/a")).await.expect(200);
    assert_eq!(shown["apiVersion"], "gadget.example.com/v1alpha1");
    assert_eq!(shown["spec"], json!({ "size": 3, "color": "blue" }));
    assert_eq!(shown["metadata"], created["metadata"]);

    assert_eq!(
        api.put(&format!("{old}/a"), &shown).await.expect(200),
        shown,
        "nothing changed"
    );

    let mut changed = shown.clone();
    changed["spec"]["size"] = json!(4);
    let changed = api.put(&format!("{old}/a"), &changed).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    let now = api.get(&format!("{new}/a")).await.expect(200);
    assert_eq!(
        now["spec"],
        json!({ "replicas": 4, "color": "blue", "limits": { "cpu": "1" } })
    );
    assert_eq!(revision(&now), revision(&changed));

    let patched = api
        .merge(&format!("{old}/a"), &json!({ "spec": { "size": 5 } }))
        .await
        .expect(200);
    assert_eq!(patched["spec"]["size"], 5);
    let listed = api.get(&old).await.expect(200);
    assert_eq!(listed["apiVersion"], "gadget.example.com/v1alpha1");
    assert_eq!(listed["items"], json!([patched]));
    let hub = api.get(&new).await.expect(200);
    assert_eq!(hub["items"][0]["spec"]["limits"]["cpu"], "1");
}

#[tokio::test]
async fn what_one_version_writes_the_other_one_watches() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let mut old = api
        .watch(&format!("{}?watch=1", old_gadgets(&namespace)))
        .await;
    let mut new = api.watch(&format!("{}?watch=1", gadgets(&namespace))).await;
    api.post(&gadgets(&namespace), &gadget("a", json!({ "replicas": 2 })))
        .await
        .expect(201);
    let body = json!({ "metadata": { "name": "b" }, "spec": { "size": 3 } });
    api.post(&old_gadgets(&namespace), &body).await.expect(201);
    for (watch, field) in [(&mut old, "size"), (&mut new, "replicas")] {
        for (name, count) in [("a", 2), ("b", 3)] {
            let event = watch.next().await.unwrap();
            assert_eq!(event["type"], "ADDED");
            assert_eq!(event["object"]["metadata"]["name"], name);
            assert_eq!(event["object"]["spec"][field], count);
        }
    }
}

#[tokio::test]
async fn each_version_selects_by_its_own_fields() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let (new, old) = (gadgets(&namespace), old_gadgets(&namespace));
    for (name, replicas) in [("a", 2), ("b", 3)] {
        let spec = json!({ "replicas": replicas, "color": "red" });
        api.post(&new, &gadget(name, spec)).await.expect(201);
    }
    let count = |list: &Value| list["items"].as_array().unwrap().len();
    let by_size = api
        .get(&format!("{old}?fieldSelector=spec.size%3D3"))
        .await
        .expect(200);
    assert_eq!(by_size["items"][0]["metadata"]["name"], "b");
    assert_eq!(count(&by_size), 1);
    assert_eq!(
        count(
            &api.get(&format!("{new}?fieldSelector=spec.color%3Dred"))
                .await
                .expect(200)
        ),
        2
    );
    for path in [
        format!("{new}?fieldSelector=spec.size%3D3"),
        format!("{old}?fieldSelector=zzz%3D1"),
    ] {
        let refused = api.get(&path).await;
        assert_eq!(refused.verdict(), "400 BadRequest");
        assert!(
            refused.message().contains("field label not supported: "),
            "{}",
            refused.message()
        );
    }
}
