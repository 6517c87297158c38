//! Too many requests at once.

use std::time::{Duration, Instant};

use serde_json::json;
use serving::flow::MaxInFlight;
use store::{StoreConfig, testing};
use tokio::io::AsyncWriteExt as _;

use super::server::{Api, Server, gadget, gadgets};

/// A read that waits for a revision, three seconds long, keeps its seat.
fn waiting(all: &str) -> String {
    format!("{all}/a?resourceVersion=99999999999")
}

async fn crowded() -> Server {
    let config = StoreConfig::new(testing::database().url);
    Server::start_with(config, |builder| {
        builder.max_in_flight = MaxInFlight {
            reading: 1,
            mutating: 1,
        };
    })
    .await
}

#[tokio::test]
async fn what_is_over_the_limit_is_told_to_come_back_and_who_must_get_through_does() {
    let server = crowded().await;
    let (masters, alice) = (Api::of(&server.masters).await, Api::of(&server.alice).await);
    let all = gadgets("alice");
    masters
        .post(&all, &gadget("a", json!({})))
        .await
        .expect(201);
    let slow = alice.again().await;
    let first = async {
        // One of the others may have the seat when it comes.
        loop {
            let answer = slow.get(&waiting(&all)).await;
            if answer.code != 429 {
                break answer;
            }
        }
    };
    let others = async {
        // Until the first has its seat.
        let refused = loop {
            let answer = alice.get(&format!("{all}/a")).await;
            if answer.code == 429 {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        let begin = Instant::now();
        assert_eq!(refused.verdict(), "429 TooManyRequests");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.json()["details"]["retryAfterSeconds"], 1);
        masters.get(&format!("{all}/a")).await.expect(200);
        for path in [
            "/healthz",
            "/readyz",
            "/apis",
            "/apis/gadget.example.com/v1",
        ] {
            assert_eq!(masters.get(path).await.code, 200, "{path}");
        }
        assert_eq!(alice.get("/livez").await.code, 200);
        let only = "fieldSelector=metadata.name%3Donly";
        let watch = alice
            .open("GET", &format!("{all}?watch=1&{only}"), &[], "")
            .await;
        assert_eq!(watch.status(), 200, "watches are counted apart");
        let created = alice.post(&all, &gadget("b", json!({}))).await;
        assert_eq!(created.code, 201, "writes have seats of their own");
        assert!(begin.elapsed() < Duration::from_secs(2));
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first.verdict(), "504 Timeout");
    alice.get(&format!("{all}/a")).await.expect(200);
}

#[tokio::test]
async fn a_body_that_does_not_come_keeps_nobody_from_writing() {
    let server = crowded().await;
    let all = gadgets("alice");
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = server.alice.tls(&["http/1.1"]).await.unwrap();
        let head = format!(
            "POST {all} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    let alice = Api::of(&server.alice).await;
    for number in 0..20 {
        let name = format!("g{number}");
        let created = alice.post(&all, &gadget(&name, json!({}))).await;
        assert_eq!(created.code, 201, "{name}");
    }
}
