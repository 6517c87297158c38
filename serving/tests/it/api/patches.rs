//! JSON patch and merge patch.

use serde_json::{Value, json};

use super::crud::revision;
use super::server::{Answer, Api, fresh_namespace, gadget, gadgets};

async fn patch(api: &Api, path: &str, kind: &str, body: &str) -> Answer {
    api.send("PATCH", path, &[("content-type", kind)], body.to_owned())
        .await
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test]
async fn patches_change_what_they_name() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(
        &all,
        &gadget("a", json!({ "note": "n", "limits": { "x": "1" } })),
    )
    .await
    .expect(201);
    let one = format!("{all}/a");
    let merged = api
        .merge(
            &one,
            &json!({ "spec": { "note": null, "limits": { "y": "2" } } }),
        )
        .await;
    let merged = merged.expect(200);
    assert_eq!(merged["spec"]["note"], Value::Null);
    assert_eq!(merged["spec"]["limits"], json!({ "x": "1", "y": "2" }));
    let patched = api
        .json_patch(
            &one,
            &json!([
                { "op": "test", "path": "/spec/limits/x", "value": "1" },
                { "op": "replace", "path": "/spec/limits/absent", "value": "3" },
                { "op": "remove", "path": "/spec/limits/y" },
            ]),
        )
        .await
        .expect(200);
    assert_eq!(
        patched["spec"]["limits"],
        json!({ "x": "1", "absent": "3" })
    );
}

/// Sends each patch to an object that none of them changes.
async fn refuse(rows: &[(&str, &str, &str)]) {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    for (kind, body, verdict) in rows {
        let answer = patch(&api, &one, kind, body).await;
        let short: String = body.chars().take(80).collect();
        assert_eq!(
            answer.verdict(),
            *verdict,
            "{kind} {short}: {}",
            answer.message()
        );
    }
    assert_eq!(api.get(&one).await.expect(200), created);
}

#[tokio::test]
async fn what_no_json_patch_can_do_is_refused() {
    let test = json!({ "op": "test", "path": "/kind", "value": "Gadget" });
    let many = Value::from(vec![test; 10_001]).to_string();
    refuse(&[
        (JSON, "{}", "400 BadRequest"),
        (JSON, "[", "400 BadRequest"),
        (JSON, "", "400 BadRequest"),
        (JSON, r#"[{"op":"zap","path":"/spec"}]"#, "422 Invalid"),
        (
            JSON,
            r#"[{"op":"test","path":"/spec/color","value":"red"}]"#,
            "422 Invalid",
        ),
        (
            JSON,
            r#"[{"op":"remove","path":"/spec/absent"}]"#,
            "422 Invalid",
        ),
        (
            JSON,
            r#"[{"op":"add","path":"/metadata/finalizers/9223372036854775808","value":"x"}]"#,
            "422 Invalid",
        ),
        (JSON, r#"[{"op":"remove","path":""}]"#, "422 Invalid"),
        (
            JSON,
            r#"[{"op":"replace","path":"","value":[]}]"#,
            "422 Invalid",
        ),
        (
            JSON,
            r#"[{"op":"replace","path":"/spec/note","value":1}]"#,
            "422 Invalid",
        ),
        (JSON, &many, "413 RequestEntityTooLarge"),
    ])
    .await;
}

#[tokio::test]
async fn what_no_merge_patch_can_do_is_refused() {
    refuse(&[
        (MERGE, "null", "400 BadRequest"),
        (MERGE, "[]", "400 BadRequest"),
        (MERGE, "\"x\"", "400 BadRequest"),
        (MERGE, "", "400 BadRequest"),
        (MERGE, r#"{"metadata":{"name":"b"}}"#, "400 BadRequest"),
        (MERGE, r#"{"metadata":{"namespace":"b"}}"#, "400 BadRequest"),
        (MERGE, r#"{"metadata":{"uid":"b"}}"#, "422 Invalid"),
        (
            MERGE,
            r#"{"metadata":{"deletionTimestamp":"2000-01-01T00:00:00Z"}}"#,
            "422 Invalid",
        ),
        (
            MERGE,
            r#"{"metadata":{"resourceVersion":null}}"#,
            "422 Invalid",
        ),
        (
            MERGE,
            r#"{"metadata":{"resourceVersion":"1"}}"#,
            "409 Conflict",
        ),
        (
            MERGE,
            r#"{"apiVersion":"gadget.example.com/v1alpha1"}"#,
            "400 BadRequest",
        ),
        (MERGE, r#"{"spec":{"note":1}}"#, "422 Invalid"),
        (MERGE, r#"{"spec":{"replicas":101}}"#, "422 Invalid"),
    ])
    .await;
}

#[tokio::test]
async fn kinds_of_patches_that_are_not_served_are_refused() {
    refuse(&[
        ("application/json", "{}", "415 UnsupportedMediaType"),
        (
            "application/strategic-merge-patch+json",
            "{}",
            "415 UnsupportedMediaType",
        ),
        (
            "application/apply-patch+yaml",
            "{}",
            "415 UnsupportedMediaType",
        ),
        (
            "application/apply-patch+cbor",
            "{}",
            "415 UnsupportedMediaType",
        ),
    ])
    .await;
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let forced = format!("{all}/a?force=true");
    assert_eq!(
        api.merge(&forced, &json!({})).await.verdict(),
        "422 Invalid"
    );
    let absent = api.merge(&format!("{all}/absent"), &json!({})).await;
    assert_eq!(absent.verdict(), "404 NotFound");
}

#[tokio::test]
async fn patches_without_a_revision_win_against_each_other() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..5 {
        let (api, one) = (api.again().await, one.clone());
        tasks.spawn(async move {
            let label = json!({ "metadata": { "labels": { format!("l{number}"): "x" } } });
            api.merge(&one, &label).await.expect(200);
        });
    }
    tasks.join_all().await;
    let now = api.get(&one).await.expect(200);
    assert_eq!(now["metadata"]["labels"].as_object().unwrap().len(), 5);
    assert!(revision(&now) > revision(&created));
}
