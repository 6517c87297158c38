//! Health endpoints and metrics.

use serde_json::json;
use store::testing;

use super::server::{Api, Server, fresh_namespace, gadget, gadgets};

fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn probes_are_open_to_all_and_list_their_checks() {
    let nobody = Api::of(&Server::shared().nobody).await;
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = nobody.get(path).await;
        assert_eq!(
            (answer.code, text(&answer.body)),
            (200, "ok".to_owned()),
            "{path}"
        );
    }
    let verbose = text(&nobody.get("/readyz?verbose").await.body);
    for line in [
        "[+]ping ok",
        "[+]shutdown ok",
        "[+]authentication ok",
        "[+]database ok",
        "readyz check passed",
    ] {
        assert!(verbose.contains(line), "{verbose}");
    }
    let excluded = text(&nobody.get("/readyz?verbose&exclude=database").await.body);
    assert!(excluded.contains("[+]database excluded: ok"), "{excluded}");
    let masters = Api::masters().await;
    assert_eq!(masters.get("/readyz/database").await.code, 200);
    assert_eq!(masters.get("/readyz/nothing").await.code, 404);
}

#[tokio::test]
async fn readiness_ends_first_when_the_server_stops() {
    let url = testing::database().url;
    let server = Server::start(url, |wire| {
        wire.shutdown.delay = std::time::Duration::from_secs(3)
    })
    .await;
    let api = Api::of(&server.masters).await;
    assert_eq!(api.get("/readyz").await.code, 200);
    server.shutdown.cancel();
    let ready = api.get("/readyz").await;
    assert_eq!(ready.code, 500);
    assert!(text(&ready.body).contains("[-]shutdown failed"));
    assert_eq!(api.get("/livez").await.code, 200);
    assert_eq!(
        api.get("/apis").await.code,
        200,
        "requests are served until the delay is over"
    );
}

#[tokio::test]
async fn metrics_have_upstreams_names_and_bounded_labels() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let mut watch = api.watch(&format!("{all}?watch=1")).await;
    assert_eq!(watch.summary().await, "ADDED a");
    for number in 0..20 {
        api.get(&format!(
            "/apis/odd-{number}.example.com/v{number}/things-{number}"
        ))
        .await;
        api.send(
            "BREW",
            &format!("{all}/x{number}"),
            &[("user-agent", &format!("odd/{number}"))],
            "",
        )
        .await;
    }
    let metrics = text(&api.get("/metrics").await.body);
    for name in [
        "apiserver_request_total{verb=\"POST\",group=\"gadget.example.com\",version=\"v1\",resource=\"gadgets\"",
        "apiserver_request_duration_seconds_bucket",
        "apiserver_longrunning_requests{verb=\"WATCH\"",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"}",
        "apiserver_watch_events_total{group=\"gadget.example.com\",version=\"v1\",kind=\"Gadget\"}",
        "apiserver_storage_objects{resource=\"gadgets.gadget.example.com\"}",
        "apiserver_storage_up 1",
        "process_cpu_seconds",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    for foreign in ["odd-", "things-", "BREW", "x1"] {
        assert!(!metrics.contains(foreign), "{foreign}");
    }
}
