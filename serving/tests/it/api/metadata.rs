//! Metadata that the server owns, and metadata that it checks.

use serde_json::{Value, json};

use super::server::{Api, fresh_namespace, gadget, gadgets};

#[tokio::test]
async fn what_the_server_owns_is_not_the_clients_to_set() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    let body = json!({ "metadata": {
        "name": "a", "uid": "mine", "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 7,
        "deletionTimestamp": "2000-01-01T00:00:00Z", "selfLink": "/x",
        "managedFields": [{ "manager": "m", "operation": "Bogus" }],
    }});
    let created = api.post(&all, &body).await.expect(201);
    let metadata = &created["metadata"];
    assert_ne!(metadata["uid"], "mine");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert_eq!(metadata["generation"], 1);
    let time = metadata["creationTimestamp"].as_str().unwrap();
    assert!(
        !time.starts_with("2000") && time.len() == 20 && time.ends_with('Z'),
        "{time}"
    );
    assert_eq!(metadata["namespace"], *namespace);
    for absent in ["deletionTimestamp", "selfLink", "managedFields"] {
        assert_eq!(metadata[absent], Value::Null, "{absent}");
    }
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec_alone() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    let status = format!("{one}/status");
    for (path, patch, generation) in [
        (&one, json!({ "metadata": { "labels": { "x": "y" } } }), 1),
        (&one, json!({ "metadata": { "generation": 9 } }), 1),
        (&one, json!({ "spec": { "note": "n" } }), 2),
        (&status, json!({ "status": { "replicas": 3 } }), 2),
        (&one, json!({ "spec": { "replicas": 4 } }), 3),
        (
            &one,
            json!({ "metadata": { "finalizers": ["example.com/held"] } }),
            3,
        ),
    ] {
        let answer = api.merge(path, &patch).await.expect(200);
        assert_eq!(answer["metadata"]["generation"], generation, "{patch}");
    }
    let deleting = api.delete(&one, &json!({})).await.expect(200);
    assert_eq!(deleting["metadata"]["generation"], 4);
}

#[tokio::test]
async fn malformed_metadata_is_invalid() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let owner = |extra: Value| {
        let mut owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" });
        for (key, value) in extra.as_object().unwrap() {
            owner[key] = value.clone();
        }
        owner
    };
    let controller = owner(json!({ "controller": true }));
    let other = owner(json!({ "controller": true, "uid": "v" }));
    for (metadata, field) in [
        (json!({ "name": "A" }), "metadata.name"),
        (json!({ "name": "a/b" }), "metadata.name"),
        (json!({ "name": ".." }), "metadata.name"),
        (json!({ "name": "a b" }), "metadata.name"),
        (json!({ "name": "a".repeat(254) }), "metadata.name"),
        (
            json!({ "name": "a", "labels": { "a b": "c" } }),
            "metadata.labels",
        ),
        (
            json!({ "name": "a", "labels": { "a": "v".repeat(64) } }),
            "metadata.labels",
        ),
        (
            json!({ "name": "a", "finalizers": ["a b"] }),
            "metadata.finalizers",
        ),
        (
            json!({ "name": "a", "annotations": { "a": "x".repeat(256 * 1024) } }),
            "metadata.annotations",
        ),
        (
            json!({ "name": "a", "ownerReferences": [owner(json!({ "uid": "" }))] }),
            "metadata.ownerReferences[0].uid",
        ),
        (
            json!({ "name": "a", "ownerReferences": [controller, other] }),
            "metadata.ownerReferences",
        ),
    ] {
        let answer = api.post(&all, &json!({ "metadata": metadata })).await;
        assert_eq!(answer.verdict(), "422 Invalid", "{field}");
        let causes = answer.json()["details"]["causes"]
            .as_array()
            .unwrap()
            .clone();
        assert!(
            causes
                .iter()
                .any(|cause| cause["field"].as_str().unwrap().starts_with(field)),
            "{field}: {causes:?}"
        );
    }
    api.post(&all, &json!({ "metadata": { "name": "a".repeat(253) } }))
        .await
        .expect(201);
}
