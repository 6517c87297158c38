//! What a server must survive: a row a line.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::{Api, fresh_namespace, gadget, gadgets};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn nested(depth: usize) -> String {
    format!(
        r#"{{"metadata":{{"name":"deep"}},"odd":{}{}}}"#,
        "[".repeat(depth),
        "]".repeat(depth)
    )
}

#[tokio::test]
async fn bodies_that_are_no_json_are_bad_requests() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let whole = gadget("a", json!({})).to_string();
    for body in [
        String::new(),
        "garbage".into(),
        whole[..whole.len() - 2].to_owned(),
        format!("{whole}x"),
        format!("{whole}{whole}"),
        format!("\u{feff}{whole}"),
        whole.replace("{}", r#"{"replicas":NaN}"#),
        nested(20_000),
        "[".repeat(1_000_000),
        "{\"a\":".repeat(300_000),
    ] {
        let short: String = body.chars().take(40).collect();
        assert_eq!(
            api.send("POST", &all, &JSON, body).await.verdict(),
            "400 BadRequest",
            "{short}"
        );
    }
    let deep = api.send("POST", &all, &JSON, nested(9_990)).await;
    assert_eq!(deep.expect(201).get("odd"), None);
}

#[tokio::test]
async fn yaml_bombs_are_refused_quickly() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut bomb = "a: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!("b{level}: &a{level} [{aliases}]\n"));
    }
    let deep = format!("a: {}{}", "[".repeat(10_001), "]".repeat(10_001));
    for body in [bomb, deep] {
        let begin = Instant::now();
        let answer = api
            .send("POST", &all, &[("content-type", "application/yaml")], body)
            .await;
        assert_eq!(answer.verdict(), "400 BadRequest");
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn what_is_too_large_is_told_before_it_is_read() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let announced = [
        ("content-type", "application/json"),
        ("content-length", "1000000000000"),
    ];
    let mut client = super::server::Server::shared()
        .masters
        .connect(crate::wire::client::Protocol::Http1)
        .await;
    let request = client
        .request("POST", &all)
        .header("expect", "100-continue");
    let request = announced.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let response = client
        .send(request.body(http_body_util::Full::default()).unwrap())
        .await;
    // The client's library may notice that it sent less than it announced.
    if let Ok(response) = response {
        assert_eq!(response.status(), 413);
    }
    let limit = 3 * 1024 * 1024;
    let over = api.send("POST", &all, &JSON, vec![b' '; limit + 1]).await;
    assert_eq!(over.verdict(), "413 RequestEntityTooLarge");
    assert!(
        over.message().contains("limit is 3145728"),
        "{}",
        over.message()
    );
    assert_eq!(
        api.send("POST", &all, &JSON, vec![b' '; limit])
            .await
            .verdict(),
        "400 BadRequest"
    );
    let stored = gadget("large", json!({ "note": "n".repeat(2_500_000) }));
    assert_eq!(
        api.post(&all, &stored).await.verdict(),
        "413 RequestEntityTooLarge"
    );
    let gzip = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(
        api.send("POST", &all, &gzip, "\u{1f}").await.verdict(),
        "400 BadRequest"
    );
}

#[tokio::test]
async fn a_copy_bomb_is_refused() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(
        &all,
        &gadget("a", json!({ "limits": { "x": "0123456789" } })),
    )
    .await
    .expect(201);
    let copies: Vec<Value> = (0..40)
        .map(|number| json!({ "op": "copy", "from": "/spec", "path": format!("/spec/c{number}") }))
        .collect();
    let begin = Instant::now();
    let answer = api
        .json_patch(&format!("{all}/a"), &Value::from(copies))
        .await;
    assert!(matches!(answer.code, 413 | 422), "{}", answer.verdict());
    assert!(begin.elapsed() < Duration::from_secs(5));
    let deep = format!(
        r#"{{"spec":{}1{}}}"#,
        r#"{"a":"#.repeat(20_000),
        "}".repeat(20_000)
    );
    let merge = [("content-type", "application/merge-patch+json")];
    assert_eq!(
        api.send("PATCH", &format!("{all}/a"), &merge, deep)
            .await
            .verdict(),
        "400 BadRequest"
    );
}

#[tokio::test]
async fn the_clients_timeout_is_kept() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    for (query, verdict) in [
        ("timeout=1ns", "504 Timeout"),
        ("timeout=zzz", "400 BadRequest"),
    ] {
        assert_eq!(
            api.get(&format!("{all}?{query}")).await.verdict(),
            verdict,
            "{query}"
        );
    }
    assert_eq!(api.get(&format!("{all}?timeout=30s")).await.code, 200);
    let begin = Instant::now();
    let slow = format!("{all}?resourceVersion=99999999999&timeout=500ms");
    assert_eq!(api.get(&slow).await.verdict(), "504 Timeout");
    assert!(
        begin.elapsed() < Duration::from_millis(2900),
        "before the wait for the revision ends"
    );
}

#[tokio::test]
async fn a_watch_may_ask_for_more_time_than_the_clock_has() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let query = format!("watch=1&timeoutSeconds={}", i64::MAX);
    let mut watch = api.watch(&format!("{all}?{query}")).await;
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    assert_eq!(watch.summary().await, "ADDED a");
}

#[tokio::test]
async fn a_delete_cannot_name_a_manager_that_the_database_refuses() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    for manager in ["a%00b".to_owned(), "m".repeat(20_000)] {
        for path in [format!("{all}/a"), all.clone()] {
            api.post(&all, &gadget("a", json!({}))).await.expect(201);
            let deleted = api
                .delete(&format!("{path}?fieldManager={manager}"), &json!({}))
                .await;
            deleted.expect(200);
            assert_eq!(api.get(&format!("{all}/a")).await.code, 404);
        }
    }
}

#[tokio::test]
async fn a_user_whose_name_the_database_refuses_spoils_no_write_of_others() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let odd = Api::of(&super::server::Server::shared().odd).await;
    // Writes that wait together share a batch.
    let writes = (0..40).map(|number| {
        let (writer, all) = (if number % 4 == 0 { &odd } else { &api }, &all);
        async move {
            let body = gadget(&format!("g{number}"), json!({}));
            writer.post(all, &body).await.code
        }
    });
    let codes = futures::future::join_all(writes).await;
    assert_eq!(codes, [201; 40]);
    let history = api.get(&format!("{all}/g0/history")).await.expect(200);
    assert_eq!(history["items"][0]["user"], "ad\u{fffd}min");
}

#[tokio::test]
async fn a_panic_while_a_body_is_sent_cuts_it_and_nothing_else() {
    use http_body_util::BodyExt as _;
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let panicking = gadget("z", json!({ "note": "panic in a cell" }));
    api.post(&all, &panicking).await.expect(201);
    let short = api.send("GET", &all, &table, "").await;
    assert_eq!(short.verdict(), "500 InternalError");
    for number in 0..40 {
        let mut body = gadget(&format!("g{number:02}"), json!({}));
        body["metadata"]["annotations"] = json!({ "note": "n".repeat(8000) });
        api.post(&all, &body).await.expect(201);
    }
    let response = api.open("GET", &all, &table, "").await;
    assert_eq!(response.status(), 200, "it has begun before it is known");
    let whole = response.into_body().collect().await;
    assert!(whole.is_err(), "what is cut is not taken for whole");
    api.get(&all).await.expect(200);
}

#[tokio::test]
async fn odd_headers_change_nothing() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let long = "a".repeat(10_000);
    for (name, value) in [
        ("audit-id", long.as_str()),
        ("audit-id", "a b"),
        ("x-http-method-override", "DELETE"),
        ("traceparent", "garbage"),
    ] {
        let answer = api.send("GET", &all, &[(name, value)], "").await;
        assert_eq!(answer.code, 200);
        assert_eq!(answer.header("audit-id").len(), 36, "{name}");
    }
    let kept = api.send("GET", &all, &[("audit-id", "0b9c-1")], "").await;
    assert_eq!(kept.header("audit-id"), "0b9c-1");
    assert_eq!(kept.header("cache-control"), "no-cache, private");
}

#[tokio::test]
async fn quotes_and_patterns_are_only_text() {
    let api = Api::masters().await;
    for odd in ["a'b", "a%25b", "%5F", "a%5Cb", "%27%3B--", "a%00b"] {
        let all = gadgets(odd);
        let answer = api.get(&all).await;
        assert!(matches!(answer.code, 200 | 404), "{odd}: {}", answer.code);
        let one = api.get(&format!("{}/{odd}", gadgets("default"))).await;
        assert!(matches!(one.code, 400 | 404), "{odd}: {}", one.code);
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_status_and_the_connection_goes_on() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let refused = api
        .post(&all, &gadget("a", json!({ "note": "panic" })))
        .await;
    assert_eq!(refused.verdict(), "500 InternalError");
    assert!(
        !refused.message().contains("as the test wants it"),
        "{}",
        refused.message()
    );
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
}
