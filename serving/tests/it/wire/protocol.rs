//! What issue and architecture promise of both protocols.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::certificates::Leaf;
use super::client::{PROTOCOLS, Protocol, Target, read, within};
use super::testbed::Testbed;

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_idle_watch_is_freed_at_once() {
    let bed = Testbed::start().await;
    for protocol in PROTOCOLS {
        for path in ["/watch", "/watch-by-actix"] {
            let mut client = bed.target.connect(protocol).await;
            let mut watch = within(client.get(path)).await.unwrap().into_body();
            within(watch.frame()).await.unwrap().unwrap();
            bed.alive.becomes(1).await;
            match protocol {
                // Over HTTP/2 the connection stays: the reset alone must do.
                Protocol::Http2 => {
                    drop(watch);
                    bed.alive.becomes_in_time(0).await;
                }
                Protocol::Http1 => {
                    client.cut();
                    bed.alive.becomes_in_time(0).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_connection_dies_is_freed_at_once() {
    let bed = Testbed::start().await;
    let mut client = bed.target.connect(Protocol::Http2).await;
    let mut watches = Vec::new();
    for path in ["/watch", "/watch-by-actix"] {
        let mut watch = within(client.get(path)).await.unwrap().into_body();
        within(watch.frame()).await.unwrap().unwrap();
        watches.push(watch);
    }
    bed.alive.becomes(2).await;
    client.cut();
    bed.alive.becomes_in_time(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_an_answer_stops_when_its_client_goes() {
    let bed = Testbed::start().await;
    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        let waiting = tokio::spawn(async move { client.get("/stuck").await.is_ok() });
        bed.alive.becomes(1).await;
        waiting.abort();
        bed.alive.becomes_in_time(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_live_on_one_http2_connection() {
    let bed = Testbed::start().await;
    let mut client = bed.target.connect(Protocol::Http2).await;
    let mut watches = Vec::new();
    for _ in 0..1000 {
        let mut watch = within(client.get("/watch")).await.unwrap().into_body();
        within(watch.frame()).await.unwrap().unwrap();
        watches.push(watch);
    }
    assert_eq!(bed.alive.count(), 1000);
    let request = client
        .request("GET", "/thread")
        .body(Full::default())
        .unwrap();
    assert_eq!(client.fetch(request).await.0, 200);
    watches.clear();
    bed.alive.becomes_in_time(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_live_on_http1_connections() {
    let bed = Testbed::start().await;
    let open = |target: Target| async move {
        let mut client = target.connect(Protocol::Http1).await;
        let mut watch = within(client.get("/watch")).await.unwrap().into_body();
        within(watch.frame()).await.unwrap().unwrap();
        (client, watch)
    };
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.extend(join_all((0..50).map(|_| open(bed.target.clone()))).await);
    }
    assert_eq!(bed.alive.count(), 1000);
    watches.clear();
    bed.alive.becomes_in_time(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_groups_arrive_and_a_megabyte_of_headers_does_not() {
    let bed = Testbed::start().await;
    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        let mut request = client.request("GET", "/groups");
        for number in 0..200 {
            request = request.header("x-remote-group", format!("group-{number}"));
        }
        let request = request.body(Full::default()).unwrap();
        assert_eq!(
            client.fetch(request).await,
            (200, "200 200".into()),
            "{protocol:?}"
        );

        let mut request = client.request("GET", "/groups");
        for _ in 0..300 {
            request = request.header("x-remote-group", "g".repeat(4000));
        }
        let request = request.body(Full::default()).unwrap();
        assert_eq!(client.fetch(request).await.0, 431, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_request_stays_on_its_thread_and_those_of_a_busy_connection_use_all() {
    let bed = Testbed::start().await;
    let client = bed.target.connect(Protocol::Http2).await;
    let mut threads = BTreeSet::new();
    for _ in 0..30 {
        threads.extend(client.get_all("/thread", 1).await);
    }
    assert_eq!(threads.len(), 1, "{threads:?}");
    for _ in 0..20 {
        threads.extend(client.get_all("/thread", 60).await);
    }
    assert_eq!(threads.len(), 3, "{threads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_outside_handlers_is_a_status() {
    let bed = Testbed::start().await;
    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        for (path, code, reason) in [("/panic", 500, "InternalError"), ("/none", 404, "NotFound")] {
            let request = client.request("GET", path).body(Full::default()).unwrap();
            let response = within(client.send(request)).await.unwrap();
            assert_eq!(response.headers()["content-type"], "application/json");
            let (status, body) = read(response).await;
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(status, code);
            assert_eq!(body["kind"], "Status", "{body}");
            assert_eq!(body["code"], code, "{body}");
            assert_eq!(body["reason"], reason, "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_fails_is_cut_and_not_ended() {
    let bed = Testbed::start().await;
    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        let whole = async { client.get("/broken").await?.into_body().collect().await };
        assert!(within(whole).await.is_err(), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_whole_in_both_directions() {
    let bed = Testbed::start().await;
    let expected: String = (0..10_000).map(|number| format!("{number}\n")).collect();
    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        let body = Full::new(Bytes::from(vec![b'x'; 3_000_000]));
        let request = client.request("POST", "/upload").body(body).unwrap();
        assert_eq!(client.fetch(request).await, (200, "3000000".into()));

        let response = within(client.get("/chunks")).await.unwrap();
        assert_eq!(
            response.headers()["content-length"],
            expected.len().to_string().as_str()
        );
        assert_eq!(read(response).await, (200, expected.clone()));

        let request = client
            .request("HEAD", "/thread")
            .body(Full::default())
            .unwrap();
        assert_eq!(
            client.fetch(request).await,
            (404, String::new()),
            "{protocol:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_over_an_http1_connection_and_no_http2_stream() {
    let bed = Testbed::start().await;
    let mut client = bed.target.connect(Protocol::Http1).await;
    let request = client
        .request("GET", "/upgrade")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Full::default())
        .unwrap();
    let response = within(client.send(request)).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap());
    within(io.write_all(b"hello")).await.unwrap();
    let mut echo = [0; 5];
    within(io.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"hello");

    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        let request = client
            .request("GET", "/upgrade")
            .body(Full::default())
            .unwrap();
        assert_eq!(client.fetch(request).await.0, 400, "{protocol:?}");
    }
}

async fn served_certificate(target: &Target) -> CertificateDer<'static> {
    let stream = target.tls(&["h2"]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

fn replace(bed: &Testbed, certificate: &Leaf, key: &Leaf) {
    std::fs::write(&bed.files.certificate, &certificate.pem).unwrap();
    std::fs::write(&bed.files.key, &key.key_pem).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_and_a_bad_one_is_not() {
    let bed = Testbed::start().await;
    let tick = std::time::Duration::from_millis(5);
    tokio::spawn(std::sync::Arc::clone(&bed.certificate).watch(tick));
    let mut open = bed.target.connect(Protocol::Http2).await;
    let first = served_certificate(&bed.target).await;

    let (second, third) = (bed.authority.server(), bed.authority.server());
    replace(&bed, &second, &third);
    for _ in 0..20 {
        tokio::time::sleep(tick).await;
        assert_eq!(served_certificate(&bed.target).await, first);
    }
    replace(&bed, &third, &third);
    within(async {
        while served_certificate(&bed.target).await != third.der {
            tokio::time::sleep(tick).await;
        }
    })
    .await;
    let request = open
        .request("GET", "/thread")
        .body(Full::default())
        .unwrap();
    assert_eq!(open.fetch(request).await.0, 200);
}
