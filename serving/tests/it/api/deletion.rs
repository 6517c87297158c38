//! Finalizers, propagation, preconditions, and deleting many.

use serde_json::{Value, json};

use super::crud::revision;
use super::server::{Api, fresh_namespace, gadget, gadgets};

async fn held(api: &Api, all: &str, name: &str) -> Value {
    let mut body = gadget(name, json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/held"]);
    api.post(all, &body).await.expect(201)
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_removed() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = held(&api, &all, "a").await;
    let one = format!("{all}/a");
    let mut watch = api
        .watch(&format!(
            "{all}?watch=1&resourceVersion={}",
            revision(&created)
        ))
        .await;

    let deleting = api.delete(&one, &json!({})).await.expect(200);
    assert_eq!(deleting["kind"], "Gadget");
    assert_ne!(deleting["metadata"]["deletionTimestamp"], Value::Null);
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(watch.summary().await, "MODIFIED a");

    let again = api.delete(&one, &json!({})).await.expect(200);
    assert_eq!(again, deleting, "a repeated delete changes nothing");

    let changed = api
        .merge(&one, &json!({ "spec": { "note": "n" } }))
        .await
        .expect(200);
    assert_eq!(watch.summary().await, "MODIFIED a");
    let more = json!({ "metadata": { "finalizers": ["example.com/held", "example.com/more"] } });
    assert_eq!(api.merge(&one, &more).await.verdict(), "422 Invalid");

    let last = api
        .merge(&one, &json!({ "metadata": { "finalizers": null } }))
        .await
        .expect(200);
    assert!(revision(&last) > revision(&changed));
    assert_eq!(api.get(&one).await.verdict(), "404 NotFound");
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["spec"]["note"], "n");
    assert_eq!(
        revision(&event["object"]),
        revision(&last),
        "the event has the deletion's revision"
    );
}

#[tokio::test]
async fn the_propagation_policy_becomes_a_finalizer_of_the_collector() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    for (number, (options, code, finalizer)) in [
        (
            json!({ "propagationPolicy": "Foreground" }),
            200,
            "foregroundDeletion",
        ),
        (json!({ "propagationPolicy": "Orphan" }), 200, "orphan"),
        (json!({ "orphanDependents": true }), 200, "orphan"),
        (json!({ "propagationPolicy": "Background" }), 200, ""),
        (json!({ "orphanDependents": false }), 200, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("a{number}");
        api.post(&all, &gadget(&name, json!({}))).await.expect(201);
        let answer = api
            .delete(&format!("{all}/{name}"), &options)
            .await
            .expect(code);
        match finalizer {
            "" => assert_eq!(answer["status"], "Success", "{options}"),
            _ => assert_eq!(
                answer["metadata"]["finalizers"],
                json!([finalizer]),
                "{options}"
            ),
        }
    }
    held(&api, &all, "accepted").await;
    let options = json!({ "orphanDependents": false });
    api.delete(&format!("{all}/accepted"), &options)
        .await
        .expect(202);
}

#[tokio::test]
async fn options_come_by_body_or_by_query_and_are_checked() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    for (options, verdict) in [
        (json!([]), "400 BadRequest"),
        (
            json!({ "kind": "Pod", "apiVersion": "v1" }),
            "400 BadRequest",
        ),
        (json!({ "gracePeriodSeconds": "abc" }), "400 BadRequest"),
        (json!({ "propagationPolicy": "Zap" }), "422 Invalid"),
        (
            json!({ "propagationPolicy": "Orphan", "orphanDependents": true }),
            "422 Invalid",
        ),
        (
            json!({ "preconditions": { "uid": "other" } }),
            "409 Conflict",
        ),
        (
            json!({ "preconditions": { "resourceVersion": "1" } }),
            "409 Conflict",
        ),
        (json!({ "dryRun": ["All"] }), "400 BadRequest"),
    ] {
        assert_eq!(
            api.delete(&one, &options).await.verdict(),
            verdict,
            "{options}"
        );
    }
    let garbage = api.send("DELETE", &one, &[], "{").await;
    assert_eq!(garbage.verdict(), "400 BadRequest");
    let yaml = [("content-type", "application/yaml")];
    let refused = api
        .send("DELETE", &one, &yaml, "preconditions:\n  uid: other\n")
        .await;
    assert_eq!(refused.verdict(), "409 Conflict");
    let query = format!("{one}?gracePeriodSeconds=abc");
    assert_eq!(
        api.send("DELETE", &query, &[], "").await.verdict(),
        "400 BadRequest"
    );
    assert_eq!(api.get(&one).await.expect(200), created);
    let preconditions = json!({ "preconditions": {
        "uid": created["metadata"]["uid"], "resourceVersion": created["metadata"]["resourceVersion"],
    }});
    api.delete(&one, &preconditions).await.expect(200);
    assert_eq!(api.delete(&one, &json!({})).await.verdict(), "404 NotFound");
}

#[tokio::test]
async fn deleting_a_collection_honours_selectors_limit_and_finalizers() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")] {
        let mut body = gadget(name, json!({}));
        body["metadata"]["labels"] = json!({ "kind": label });
        api.post(&all, &body).await.expect(201);
    }
    held(&api, &all, "held").await;
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let some = api
        .delete(&format!("{all}?labelSelector=kind%3Dx&limit=2"), &json!({}))
        .await;
    let some = some.expect(200);
    assert_eq!(
        (&some["kind"], names(&some)),
        (&json!("GadgetList"), vec!["a".into(), "c".into()])
    );
    let one = api
        .delete(
            &format!("{all}?fieldSelector=metadata.name%3Dd"),
            &json!({}),
        )
        .await;
    assert_eq!(names(&one.expect(200)), ["d"]);
    assert_eq!(names(&api.get(&all).await.expect(200)), ["b", "held"]);
    api.send("DELETE", &all, &[], "").await.expect(200);
    let rest = api.get(&all).await.expect(200);
    assert_eq!(names(&rest), ["held"]);
    assert_ne!(
        rest["items"][0]["metadata"]["deletionTimestamp"],
        Value::Null
    );
}
