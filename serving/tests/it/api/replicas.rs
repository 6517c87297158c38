//! Several servers on one database, and history that is gone.

use std::time::Duration;

use serde_json::{Value, json};
use store::{StoreConfig, testing};

use super::crud::revision;
use super::lists::names;
use super::server::{Api, Server, gadget, gadgets};

#[tokio::test]
async fn what_one_replica_acknowledged_every_replica_reads_and_watches() {
    let url = testing::database().url;
    let (first, second) = (
        Server::start(url.clone(), |_| {}).await,
        Server::start(url, |_| {}).await,
    );
    let (one, other) = (
        Api::of(&first.masters).await,
        Api::of(&second.masters).await,
    );
    let all = gadgets("a");
    let mut watch = other.watch(&format!("{all}?watch=1")).await;
    for number in 0..20 {
        let name = format!("g{number:02}");
        let created = one.post(&all, &gadget(&name, json!({}))).await.expect(201);
        assert_eq!(
            other.get(&format!("{all}/{name}")).await.expect(200),
            created
        );

        // The other replica's cache may be behind: that must not show.
        let mut changed = created.clone();
        changed["spec"]["note"] = json!("n");
        let changed = other
            .put(&format!("{all}/{name}"), &changed)
            .await
            .expect(200);
        let again = one
            .merge(
                &format!("{all}/{name}"),
                &json!({ "spec": { "note": "m" } }),
            )
            .await
            .expect(200);
        assert!(revision(&again) > revision(&changed));
        assert_eq!(
            one.put(&format!("{all}/{name}"), &changed).await.verdict(),
            "409 Conflict"
        );
        assert_eq!(names(&other.get(&all).await.expect(200)).len(), number + 1);
        for (kind, object) in [
            ("ADDED", &created),
            ("MODIFIED", &changed),
            ("MODIFIED", &again),
        ] {
            assert_eq!(
                watch.next().await.unwrap(),
                json!({ "type": kind, "object": object })
            );
        }
    }
    assert_eq!(
        other.post(&all, &gadget("g00", json!({}))).await.verdict(),
        "409 AlreadyExists"
    );
    one.delete(&format!("{all}/g00"), &json!({}))
        .await
        .expect(200);
    assert_eq!(
        other.get(&format!("{all}/g00")).await.verdict(),
        "404 NotFound"
    );
    assert_eq!(
        other
            .delete(&format!("{all}/g00"), &json!({}))
            .await
            .verdict(),
        "404 NotFound"
    );
    assert_eq!(watch.summary().await, "DELETED g00");
}

#[tokio::test]
async fn a_watch_goes_on_at_another_replica_where_it_broke_off() {
    let url = testing::database().url;
    let (first, second) = (
        Server::start(url.clone(), |_| {}).await,
        Server::start(url, |_| {}).await,
    );
    let (one, other) = (
        Api::of(&first.masters).await,
        Api::of(&second.masters).await,
    );
    let all = gadgets("a");
    let created = one.post(&all, &gadget("a", json!({}))).await.expect(201);
    let path = |version: &Value| {
        format!(
            "{all}?watch=1&allowWatchBookmarks=1&resourceVersion={}",
            version.as_str().unwrap()
        )
    };
    let mut watch = one
        .watch(&path(&created["metadata"]["resourceVersion"]))
        .await;
    other.post(&all, &gadget("b", json!({}))).await.expect(201);
    assert_eq!(watch.summary().await, "ADDED b");
    first.shutdown.cancel();
    let mark = watch.next().await.unwrap();
    assert_eq!(
        (&mark["type"], watch.next().await),
        (&json!("BOOKMARK"), None)
    );
    other.post(&all, &gadget("c", json!({}))).await.expect(201);
    let mut watch = other
        .watch(&path(&mark["object"]["metadata"]["resourceVersion"]))
        .await;
    assert_eq!(watch.summary().await, "ADDED c");
}

#[tokio::test]
async fn what_was_compacted_is_expired_and_a_list_can_go_on_inconsistently() {
    let mut config = StoreConfig::new(testing::database().url);
    config.retention = Duration::ZERO;
    let server = Server::start_on(config, |_| {}).await;
    let api = Api::of(&server.masters).await;
    let all = gadgets("a");
    let first = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    api.post(&all, &gadget("b", json!({}))).await.expect(201);
    let page = api.get(&format!("{all}?limit=1")).await.expect(200);
    api.post(&all, &gadget("c", json!({}))).await.expect(201);
    api.post(&all, &gadget("d", json!({}))).await.expect(201);
    server
        .store
        .compact()
        .await
        .unwrap()
        .expect("nobody else compacts");

    let old = revision(&first);
    let exact = api
        .get(&format!(
            "{all}?resourceVersion={old}&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(exact.verdict(), "410 Expired");
    let mut watch = api
        .watch(&format!("{all}?watch=1&resourceVersion={old}"))
        .await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
    assert_eq!(
        names(
            &api.get(&format!("{all}?resourceVersion={old}"))
                .await
                .expect(200)
        )
        .len(),
        4
    );

    let token = page["metadata"]["continue"].as_str().unwrap();
    let expired = api.get(&format!("{all}?limit=1&continue={token}")).await;
    assert_eq!(expired.verdict(), "410 Expired");
    let fresh = expired.json()["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    let rest = api
        .get(&format!("{all}?continue={fresh}"))
        .await
        .expect(200);
    assert_eq!(names(&rest), ["b", "c", "d"]);
}
