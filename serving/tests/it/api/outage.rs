//! What goes on while the database is away, and how soon all is well again.

use std::time::{Duration, Instant};

use serde_json::json;
use store::private_postgres::{PrivatePostgres, Shutdown};
use store::testing;

use super::crud::revision;
use super::health::text;
use super::server::{Api, Server, gadget, gadgets};

#[tokio::test(flavor = "multi_thread")]
async fn reads_watches_and_discovery_survive_the_database() {
    let directory = testing::directory(format!("{}-outage", std::process::id()));
    let options = testing::options(true);
    let mut postgres = PrivatePostgres::start(&directory, &options).unwrap();
    testing::prepare(&postgres, "gadgets").unwrap();
    let url = postgres.url("gadgets", testing::RUNTIME);
    let server = Server::start(url, |_| {}).await;
    let (api, all) = (Api::of(&server.masters).await, gadgets("a"));
    let created = api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let mut watch = api
        .watch(&format!(
            "{all}?watch=1&resourceVersion={}",
            revision(&created)
        ))
        .await;

    let history = format!("{all}/a/history");
    api.get(&history).await.expect(200);

    postgres.stop_with(Shutdown::Immediate).unwrap();
    for path in [
        "/readyz",
        "/livez",
        "/healthz",
        "/apis",
        "/apis/gadget.example.com/v1",
        "/openapi/v2",
        "/openapi/v3",
    ] {
        assert_eq!(api.get(path).await.code, 200, "{path}");
    }
    assert_eq!(
        api.get(&format!("{all}?resourceVersion=0"))
            .await
            .expect(200)["items"],
        json!([created])
    );
    assert_eq!(
        api.get(&format!("{all}/a?resourceVersion=0"))
            .await
            .expect(200),
        created
    );
    let begin = Instant::now();
    let refused = api.post(&all, &gadget("b", json!({}))).await;
    assert!(matches!(refused.code, 503 | 504), "{}", refused.verdict());
    assert!(begin.elapsed() < Duration::from_secs(12));
    assert_unavailable(&api, &all).await;
    assert_unavailable(&api, &history).await;
    assert_told(&api, ["[-]database", "\napiserver_storage_up 0\n"]).await;

    let postgres = PrivatePostgres::start(&directory, &options).unwrap();
    let created = create_when_back(&api, &all, begin).await;
    await_history(&api, &history).await;
    assert_told(&api, ["[+]database", "\napiserver_storage_up 1\n"]).await;
    let mut event = watch.next().await.unwrap();
    if event["object"]["metadata"]["name"] == "b" {
        event = watch.next().await.unwrap();
    }
    assert_eq!(
        event,
        json!({ "type": "ADDED", "object": created }),
        "the watch went on without a relist"
    );
    server.shutdown.cancel();
    drop(postgres);
    drop(std::fs::remove_dir_all(&directory));
}

/// Another object, as soon as the database takes it.
async fn create_when_back(api: &Api, all: &str, begin: Instant) -> serde_json::Value {
    loop {
        let answer = api.post(all, &gadget("c", json!({}))).await;
        match answer.code {
            201 => return answer.json(),
            409 => return api.get(&format!("{all}/c")).await.expect(200),
            _ => tokio::task::yield_now().await,
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{}",
            answer.verdict()
        );
    }
}

/// What reads history may find its way back a moment later than what writes.
async fn await_history(api: &Api, path: &str) {
    let begin = Instant::now();
    let told = loop {
        let answer = api.get(path).await;
        if answer.code == 200 {
            break answer.json();
        }
        assert_eq!(answer.verdict(), "503 ServiceUnavailable");
        assert!(begin.elapsed() < Duration::from_secs(60));
        tokio::task::yield_now().await;
    };
    assert_eq!(told["items"].as_array().unwrap().len(), 1);
}

/// What health and metrics tell of the database.
async fn assert_told(api: &Api, told: [&str; 2]) {
    for (path, told) in ["/readyz?verbose", "/metrics"].into_iter().zip(told) {
        let body = text(&api.get(path).await.body);
        assert!(body.contains(told), "{told} in {body}");
    }
}

async fn assert_unavailable(api: &Api, path: &str) {
    let refused = api.get(path).await;
    assert_eq!(refused.verdict(), "503 ServiceUnavailable", "{path}");
    assert_ne!(refused.header("retry-after"), "");
}
