//! `status` and `scale`.

use serde_json::{Value, json};

use super::crud::revision;
use super::server::{Api, fresh_namespace, gadget, gadgets, old_gadgets};

#[tokio::test]
async fn spec_and_status_are_written_through_different_doors() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut body = gadget("a", json!({ "note": "n" }));
    body["status"] = json!({ "replicas": 9 });
    let created = api.post(&all, &body).await.expect(201);
    assert_eq!(
        created["status"],
        Value::Null,
        "a create says nothing about status"
    );
    let (one, status) = (format!("{all}/a"), format!("{all}/a/status"));

    let mut both = created.clone();
    both["spec"]["note"] = json!("ignored");
    both["metadata"]["labels"] = json!({ "ignored": "too" });
    both["status"] = json!({ "replicas": 2, "phase": "Running" });
    let written = api.put(&status, &both).await.expect(200);
    assert_eq!(
        written["status"],
        json!({ "replicas": 2, "phase": "Running" })
    );
    assert_eq!(written["spec"]["note"], "n");
    assert_eq!(written["metadata"]["labels"], Value::Null);
    assert_eq!(written["metadata"]["generation"], 1);

    let kept = api
        .merge(&one, &json!({ "spec": { "note": "m" }, "status": null }))
        .await
        .expect(200);
    assert_eq!(kept["status"]["replicas"], 2);
    assert_eq!(api.get(&status).await.expect(200), kept);
    let patched = api
        .json_patch(
            &status,
            &json!([
                { "op": "replace", "path": "/status/replicas", "value": 3 },
                { "op": "replace", "path": "/spec/note", "value": "ignored" },
            ]),
        )
        .await
        .expect(200);
    assert_eq!(
        (&patched["status"]["replicas"], &patched["spec"]["note"]),
        (&json!(3), &json!("m"))
    );

    assert_eq!(
        api.put(&status, &both).await.verdict(),
        "409 Conflict",
        "the revision is stale"
    );
    let zap = api
        .merge(&status, &json!({ "status": { "phase": "Zap" } }))
        .await;
    assert_eq!(zap.verdict(), "422 Invalid");
    assert_eq!(
        zap.json()["details"]["causes"][0]["reason"],
        "FieldValueNotSupported"
    );
}

#[tokio::test]
async fn a_scale_is_read_and_written_in_both_versions() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    let limits = json!({ "replicas": 3, "limits": { "cpu": "1" } });
    let created = api.post(&all, &gadget("a", limits)).await.expect(201);
    let status = json!({ "status": { "replicas": 2, "selector": "app=a" } });
    api.merge(&format!("{all}/a/status"), &status)
        .await
        .expect(200);
    for collection in [&all, &old_gadgets(&namespace)] {
        let path = format!("{collection}/a/scale");
        let scale = api.get(&path).await.expect(200);
        assert_eq!(
            (&scale["kind"], &scale["apiVersion"]),
            (&json!("Scale"), &json!("autoscaling/v1"))
        );
        assert_eq!(
            scale["status"],
            json!({ "replicas": 2, "selector": "app=a" })
        );
        assert_eq!(scale["metadata"]["uid"], created["metadata"]["uid"]);

        let mut wanted = scale.clone();
        wanted["spec"]["replicas"] = json!(5);
        let scaled = api.put(&path, &wanted).await.expect(200);
        assert_eq!(scaled["spec"]["replicas"], 5);
        assert!(revision(&scaled) > revision(&scale));
        assert_eq!(api.put(&path, &wanted).await.verdict(), "409 Conflict");

        let patched = api
            .merge(&path, &json!({ "spec": { "replicas": 0 } }))
            .await
            .expect(200);
        assert_eq!(
            patched["spec"].get("replicas"),
            None,
            "zero is left out as upstream does"
        );
        let test = json!([
            { "op": "test", "path": "/metadata/uid", "value": scale["metadata"]["uid"] },
            { "op": "add", "path": "/spec/replicas", "value": 3 },
        ]);
        api.json_patch(&path, &test).await.expect(200);

        for (pointer, value, verdict) in [
            ("/spec/replicas", json!(-1), "422 Invalid"),
            ("/spec/replicas", json!("x"), "400 BadRequest"),
            ("/kind", json!("Gadget"), "400 BadRequest"),
            ("/metadata/name", json!("b"), "400 BadRequest"),
            ("/metadata/resourceVersion", json!("1"), "409 Conflict"),
            ("/metadata/resourceVersion", json!("abc"), "400 BadRequest"),
            ("/spec/replicas", json!(101), "422 Invalid"),
        ] {
            let mut wrong = api.get(&path).await.expect(200);
            *wrong.pointer_mut(pointer).unwrap() = value;
            assert_eq!(api.put(&path, &wrong).await.verdict(), verdict, "{wrong}");
        }
    }
    let one = api.get(&format!("{all}/a")).await.expect(200);
    assert_eq!(
        one["spec"]["limits"]["cpu"], "1",
        "what the old version cannot say is kept"
    );
    assert_eq!(
        api.get(&format!("{all}/absent/scale")).await.verdict(),
        "404 NotFound"
    );
}

#[tokio::test]
async fn a_scale_without_a_revision_is_written_over_whatever_is_there() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let scale = json!({ "metadata": { "name": "a" }, "spec": { "replicas": 7 } });
    let scaled = api.put(&format!("{all}/a/scale"), &scale).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 7);
    assert_eq!(
        api.get(&format!("{all}/a")).await.expect(200)["spec"]["replicas"],
        7
    );
}
