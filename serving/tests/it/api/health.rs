//! Health endpoints and metrics.

use serde_json::json;
use store::{StoreConfig, testing};

use super::server::{Api, Server, fresh_namespace, gadget, gadgets};

pub(super) fn text(body: &[u8]) -> String {
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

#[tokio::test]
async fn metrics_tell_of_the_databases_health_once_it_was_asked() {
    let server = Server::start_on(StoreConfig::new(testing::database().url), |_| {}).await;
    let api = Api::of(&server.masters).await;
    let figure = async |name: &str| {
        let metrics = text(&api.get("/metrics").await.body);
        let prefix = format!("{name}{{storage_cluster_id=\"postgres-0\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
        value.map(|value| value.parse::<f64>().unwrap())
    };
    let names = [
        "apiserver_storage_size_bytes",
        "apiserver_storage_dead_rows",
        "apiserver_storage_notification_queue_usage",
        "apiserver_storage_transaction_age",
    ];
    for name in names {
        assert_eq!(figure(name).await, None, "{name}");
    }
    server.store.compact().await.unwrap();
    for name in names {
        let value = figure(name).await;
        assert!(value.is_some_and(|value| value >= 0.0), "{name}: {value:?}");
    }
    assert!(figure(names[0]).await > Some(0.0));
}
