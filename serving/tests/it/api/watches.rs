//! Watches: order, transitions, bookmarks, streaming lists, ends.

use std::time::Duration;

use serde_json::{Value, json};
use store::testing;

use super::crud::revision;
use super::server::{Api, Server, fresh_namespace, gadget, gadgets};
use crate::wire::client::Protocol;

const END: &str = "k8s.io/initial-events-end";

#[tokio::test]
async fn every_change_is_told_once_and_in_order() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let first = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let second = api
        .merge(&format!("{all}/a"), &json!({ "spec": { "note": "n" } }))
        .await
        .expect(200);
    let third = api.post(&all, &gadget("b", json!({}))).await.expect(201);
    api.delete(&format!("{all}/a"), &json!({}))
        .await
        .expect(200);

    let mut watch = api
        .watch(&format!(
            "{all}?watch=1&resourceVersion={}",
            revision(&first)
        ))
        .await;
    let changed = watch.next().await.unwrap();
    assert_eq!(changed, json!({ "type": "MODIFIED", "object": second }));
    let added = watch.next().await.unwrap();
    assert_eq!(added, json!({ "type": "ADDED", "object": third }));
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["spec"]["note"], "n");
    assert!(
        revision(&deleted["object"]) > revision(&third),
        "the deletion has its own revision"
    );

    let after = api.post(&all, &gadget("c", json!({}))).await.expect(201);
    assert_eq!(watch.next().await.unwrap()["object"], after);
    let mut again = api
        .watch(&format!(
            "{all}?watch=1&resourceVersion={}",
            revision(&third)
        ))
        .await;
    assert_eq!(again.summary().await, "DELETED a");
    assert_eq!(again.summary().await, "ADDED c");
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_selection() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let one = format!("{all}/a");
    let mut watch = api
        .watch(&format!("{all}?watch=1&fieldSelector=spec.color%3Dred"))
        .await;
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let entered = api
        .merge(&one, &json!({ "spec": { "color": "red" } }))
        .await
        .expect(200);
    assert_eq!(
        watch.next().await.unwrap(),
        json!({ "type": "ADDED", "object": entered })
    );
    let changed = api
        .merge(&one, &json!({ "spec": { "note": "n" } }))
        .await
        .expect(200);
    assert_eq!(
        watch.next().await.unwrap(),
        json!({ "type": "MODIFIED", "object": changed })
    );
    let left = api
        .merge(&one, &json!({ "spec": { "color": "green" } }))
        .await
        .expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["spec"]["color"]),
        (&json!("DELETED"), &json!("red"))
    );
    assert_eq!(revision(&event["object"]), revision(&left));
    api.delete(&one, &json!({})).await.expect(200);
    api.post(&all, &gadget("b", json!({ "color": "red" })))
        .await
        .expect(201);
    assert_eq!(
        watch.summary().await,
        "ADDED b",
        "what was not selected is not deleted"
    );
}

#[tokio::test]
async fn a_watch_sees_its_namespace_and_its_name_only() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let (here, there) = (gadgets(&namespace), gadgets(&format!("{namespace}-there")));
    let mut whole = api.watch(&format!("{here}?watch=1")).await;
    let mut one = api
        .watch(&format!("{here}?watch=1&fieldSelector=metadata.name%3Db"))
        .await;
    let prefixed = format!("/apis/gadget.example.com/v1/watch/namespaces/{namespace}/gadgets/b");
    let mut named = api.watch(&prefixed).await;
    api.post(&there, &gadget("b", json!({}))).await.expect(201);
    for name in ["a", "b"] {
        api.post(&here, &gadget(name, json!({}))).await.expect(201);
    }
    assert_eq!(whole.summary().await, "ADDED a");
    assert_eq!(whole.summary().await, "ADDED b");
    assert_eq!(one.summary().await, "ADDED b");
    assert_eq!(named.summary().await, "ADDED b");
}

#[tokio::test]
async fn below_the_watch_prefix_there_is_nothing_but_watches() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let prefixed = format!("/apis/gadget.example.com/v1/watch/namespaces/{namespace}/gadgets");
    let kind = [("content-type", "application/json")];
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in [prefixed.clone(), format!("{prefixed}/a")] {
            let body = gadget("b", json!({})).to_string();
            let answer = api.send(method, &path, &kind, body).await;
            assert_eq!(answer.verdict(), "405 MethodNotAllowed", "{method} {path}");
        }
    }
    let list = api.get(&all).await.expect(200);
    assert_eq!(super::lists::names(&list), ["a"]);
}

#[tokio::test]
async fn a_watch_begins_where_it_was_asked_to() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let now = revision(&created);
    for (query, expected) in [
        (String::new(), "ADDED a"),
        ("&resourceVersion=0".into(), "ADDED a"),
        (
            "&resourceVersionMatch=NotOlderThan&sendInitialEvents=true".into(),
            "ADDED a",
        ),
        (
            format!(
                "&resourceVersion={now}&resourceVersionMatch=NotOlderThan&sendInitialEvents=true"
            ),
            "ADDED a",
        ),
        (format!("&resourceVersion={now}"), ""),
        (
            "&resourceVersionMatch=NotOlderThan&sendInitialEvents=false".into(),
            "",
        ),
        ("&resourceVersion=abc".into(), "400 BadRequest"),
        ("&resourceVersion=-1".into(), "400 BadRequest"),
        ("&sendInitialEvents=true".into(), "422 Invalid"),
        (
            "&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=5".into(),
            "422 Invalid",
        ),
        (
            format!("&resourceVersion={now}&resourceVersionMatch=NotOlderThan"),
            "422 Invalid",
        ),
    ] {
        let path = format!("{all}?watch=1{query}");
        if expected.starts_with('4') {
            assert_eq!(api.get(&path).await.verdict(), expected, "{query}");
            continue;
        }
        let mut watch = api.watch(&path).await;
        if !expected.is_empty() {
            assert_eq!(watch.summary().await, expected, "{query}");
        }
        let round = query.len().to_string();
        let label = json!({ "metadata": { "labels": { "q": round } } });
        api.merge(&format!("{all}/a"), &label).await.expect(200);
        let mut event = watch.next().await.unwrap();
        // A watch at an older revision is told the changes of the earlier rounds too.
        while event["object"]["metadata"]["labels"]["q"].as_str() != Some(round.as_str()) {
            event = watch.next().await.unwrap();
        }
        assert_eq!(event["type"], "MODIFIED", "{query}");
    }
}

#[tokio::test]
async fn the_end_of_the_initial_events_is_marked_when_bookmarks_are_allowed() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let stream =
        "resourceVersionMatch=NotOlderThan&sendInitialEvents=true&allowWatchBookmarks=true";
    for query in [
        stream,
        "allowWatchBookmarks=1",
        "allowWatchBookmarks=1&resourceVersion=0",
    ] {
        let mut watch = api.watch(&format!("{all}?watch=1&{query}")).await;
        let mark = watch.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK", "{query}");
        let version = mark["object"]["metadata"]["resourceVersion"].clone();
        assert_eq!(
            mark["object"],
            json!({
                "kind": "Gadget",
                "apiVersion": "gadget.example.com/v1",
                "metadata": { "resourceVersion": version, "annotations": { END: "true" } },
            })
        );
    }
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let mut watch = api.watch(&format!("{all}?watch=1&{stream}")).await;
    assert_eq!(watch.summary().await, "ADDED a");
    let mark = watch.next().await.unwrap();
    assert!(revision(&mark["object"]) >= revision(&created));

    let none = stream.replace("&allowWatchBookmarks=true", "");
    let mut watch = api.watch(&format!("{all}?watch=1&{none}")).await;
    assert_eq!(watch.summary().await, "ADDED a");
    api.post(&all, &gadget("b", json!({}))).await.expect(201);
    assert_eq!(watch.summary().await, "ADDED b", "no bookmark was sent");
}

#[tokio::test]
async fn a_watch_ends_cleanly_at_its_timeout_after_a_last_bookmark() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let query = format!(
        "watch=1&timeoutSeconds=1&resourceVersion={}",
        revision(&created)
    );
    let mut silent = api.watch(&format!("{all}?{query}")).await;
    let mut marked = api
        .watch(&format!("{all}?{query}&allowWatchBookmarks=1"))
        .await;
    assert_eq!(silent.next().await, None);
    let last = marked.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    assert!(revision(&last["object"]) >= revision(&created));
    assert_eq!(
        last["object"]["metadata"].as_object().unwrap().len(),
        1,
        "nothing but a revision"
    );
    assert_eq!(marked.next().await, None);
}

#[tokio::test]
async fn an_idle_watch_gets_a_bookmark_every_minute() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let query = format!(
        "watch=1&allowWatchBookmarks=1&resourceVersion={}",
        revision(&created)
    );
    let mut watch = api.watch(&format!("{all}?{query}")).await;
    let later = api
        .post(&gadgets(&fresh_namespace()), &gadget("b", json!({})))
        .await
        .expect(201);
    let mark = watch.next_within(Duration::from_secs(61)).await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert!(
        revision(&mark["object"]) >= revision(&later),
        "it moves with what is elsewhere"
    );
}

#[tokio::test]
async fn the_future_is_silence_for_a_watch_and_an_error_for_a_streaming_list() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut plain = api
        .watch(&format!("{all}?watch=1&resourceVersion=99999999999"))
        .await;
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let future =
        "resourceVersion=99999999999&resourceVersionMatch=NotOlderThan&sendInitialEvents=true";
    let mut stream = api.watch(&format!("{all}?watch=1&{future}")).await;
    let event = stream.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(504))
    );
    assert_eq!(
        event["object"]["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    assert_eq!(stream.next().await, None);
    let silence = tokio::time::timeout(Duration::from_millis(100), plain.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn watches_speak_table_and_partial_metadata() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let protobuf =
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let path = format!(
        "{all}?watch=1&allowWatchBookmarks=1&resourceVersionMatch=NotOlderThan&sendInitialEvents=true"
    );
    let mut partial = api.watch_as(&path, partial).await;
    let mut table = api.watch_as(&path, table).await;
    let mut protobuf = api.watch_as(&path, protobuf).await;
    assert!(
        protobuf.headers["content-type"]
            .to_str()
            .unwrap()
            .contains("protobuf;stream=watch")
    );
    let mark = partial.next().await.unwrap();
    assert_eq!(mark["object"]["metadata"]["annotations"][END], "true");
    let mark = table.next().await.unwrap();
    assert_eq!(
        mark["object"]["rows"][0]["object"]["metadata"]["annotations"][END],
        "true"
    );
    assert!(contains(
        &protobuf.next_frame().await.unwrap(),
        END.as_bytes()
    ));

    let created = api
        .post(&all, &gadget("a", json!({ "note": "n" })))
        .await
        .expect(201);
    let event = partial.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(event["object"]["metadata"], created["metadata"]);
    assert_eq!(event["object"]["spec"], Value::Null);
    let event = table.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
    let frame = protobuf.next_frame().await.unwrap();
    for part in [b"ADDED".as_slice(), b"k8s\0", b"PartialObjectMetadata"] {
        assert!(contains(&frame, part));
    }
}

fn contains(frame: &[u8], part: &[u8]) -> bool {
    frame.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn a_stop_ends_watches_cleanly_after_a_bookmark() {
    let server = Server::start(testing::database().url, |_| {}).await;
    let api = Api::of(&server.masters).await;
    let all = gadgets("a");
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let path = format!(
        "{all}?watch=1&allowWatchBookmarks=1&resourceVersion={}",
        revision(&created)
    );
    let mut watch = api.watch(&path).await;
    server.shutdown.cancel();
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_thousand_watchers_share_one_connection() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut watches = Vec::new();
    for _ in 0..1000 {
        watches.push(api.watch(&format!("{all}?watch=1")).await);
    }
    let created = api
        .again()
        .await
        .post(&all, &gadget("a", json!({})))
        .await
        .expect(201);
    for watch in &mut watches {
        assert_eq!(
            watch.next().await.unwrap(),
            json!({ "type": "ADDED", "object": created })
        );
    }
}

#[tokio::test]
async fn a_websocket_ends_when_its_client_sends_more_than_a_watcher_has_to_say() {
    use futures::{SinkExt as _, StreamExt as _};
    let all = gadgets(&fresh_namespace());
    let stream = Server::shared().masters.tls(&["http/1.1"]).await.unwrap();
    let url = format!("wss://localhost{all}?watch=1");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let message = tokio_tungstenite::tungstenite::Message::text("x".repeat(100_000));
    // The server may be gone before the last byte.
    let _ = socket.send(message).await;
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("the server does not read on");
}

#[tokio::test]
async fn a_watch_is_a_websocket_when_the_client_upgrades() {
    use futures::StreamExt as _;
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let target = &Server::shared().masters;
    let stream = target.tls(&["http/1.1"]).await.unwrap();
    let url = format!("wss://localhost{all}?watch=1");
    let (mut socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(response.status(), 101);
    for name in ["a", "b"] {
        let created = api.post(&all, &gadget(name, json!({}))).await.expect(201);
        let message = socket.next().await.unwrap().unwrap();
        let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(event, json!({ "type": "ADDED", "object": created }));
    }
    let mut client = target.connect(Protocol::Http1).await;
    let request = client
        .request("GET", &all)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13");
    let response = client
        .send(request.body(http_body_util::Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200, "only a watch answers an upgrade");
}
