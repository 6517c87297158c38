//! Nobody keeps a connection by doing nothing, or nearly nothing.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use store::testing::Lag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{PROTOCOLS, Protocol, within};
use super::testbed::Testbed;

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_is_cut() {
    let bed = Testbed::start_with(|config| config.limits.header_timeout = SHORT, |_| {}).await;
    for (alpn, beginning) in [
        ("http/1.1", "GET / HTTP/1.1\r\nhost: l"),
        ("h2", "PRI * HTTP/2.0"),
    ] {
        let mut stream = bed.target.tls(&[alpn]).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // A reset is as good an end as a farewell.
        drop(within(stream.read_to_end(&mut rest)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_speaks_is_cut() {
    let bed = Testbed::start_with(|config| config.limits.header_timeout = SHORT, |_| {}).await;
    for alpn in ["http/1.1", "h2"] {
        let mut stream = bed.target.tls(&[alpn]).await.unwrap();
        drop(within(stream.read_to_end(&mut Vec::new())).await);
    }
    let handshake =
        |config: &mut serving::wire::ServerConfig| config.limits.handshake_timeout = SHORT;
    let bed = Testbed::start_with(handshake, |_| {}).await;
    let mut stream = tokio::net::TcpStream::connect(bed.target.address)
        .await
        .unwrap();
    drop(within(stream.read_to_end(&mut Vec::new())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_outlives_the_header_timeout_but_not_its_own() {
    let limits = |config: &mut serving::wire::ServerConfig| {
        config.limits.header_timeout = SHORT;
        config.limits.idle_timeout = 4 * SHORT;
    };
    let bed = Testbed::start_with(limits, |_| {}).await;
    let mut stream = bed.target.tls(&["http/1.1"]).await.unwrap();
    let mut buffer = [0; 1024];
    for _ in 0..2 {
        stream
            .write_all(b"GET /thread HTTP/1.1\r\nhost: l\r\n\r\n")
            .await
            .unwrap();
        assert!(within(stream.read(&mut buffer)).await.unwrap() > 0);
    }
    let idle = Instant::now();
    drop(within(stream.read_to_end(&mut Vec::new())).await);
    assert!(idle.elapsed() > 2 * SHORT, "{:?}", idle.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_every_timeout_of_reading() {
    let limits = |config: &mut serving::wire::ServerConfig| {
        config.limits.header_timeout = SHORT;
        config.limits.idle_timeout = SHORT;
        config.limits.stall_timeout = SHORT;
    };
    let bed = Testbed::start_with(limits, |_| {}).await;
    let mut watches = Vec::new();
    for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
        let mut client = bed.target.connect(protocol).await;
        let mut watch = within(client.get("/watch")).await.unwrap().into_body();
        within(watch.frame()).await.unwrap().unwrap();
        bed.alive.becomes(n + 1).await;
        watches.push((client, watch));
    }
    tokio::time::sleep(3 * SHORT).await;
    assert_eq!(bed.alive.count(), watches.len());
}

/// Whoever takes something now and then, however little, goes on; unless this machine itself stood
/// still meanwhile, and nothing was taken for too long.
async fn take_now_and_then(flood: &mut Incoming, lag: &Lag) -> bool {
    lag.take();
    for _ in 0..4 {
        tokio::time::sleep(2 * SHORT).await;
        for _ in 0..200 {
            if let Err(error) = within(flood.frame()).await.unwrap() {
                let late = lag.take();
                assert!(late > 2 * SHORT, "{error}, late by {late:?}");
                return false;
            }
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_its_client_does_not_take_is_cut_and_no_other() {
    let stall = |config: &mut serving::wire::ServerConfig| config.limits.stall_timeout = 5 * SHORT;
    let bed = Testbed::start_with(stall, |_| {}).await;
    let lag = Lag::watch();
    for protocol in PROTOCOLS {
        let (mut client, mut flood) = loop {
            let mut client = bed.target.connect(protocol).await;
            let mut flood = within(client.get("/flood")).await.unwrap().into_body();
            bed.alive.becomes(1).await;
            if take_now_and_then(&mut flood, &lag).await {
                break (client, flood);
            }
        };
        assert_eq!(bed.alive.count(), 1);
        bed.alive.becomes_in_time(0).await;
        let rest = async {
            while let Some(frame) = flood.frame().await {
                frame?;
            }
            hyper::Result::Ok(())
        };
        let end = within(rest).await;
        assert!(end.is_err(), "{protocol:?}: it was not whole");
        if protocol == Protocol::Http2 {
            let request = client.request("GET", "/thread");
            let request = request.body(Full::default()).unwrap();
            assert_eq!(client.fetch(request).await.0, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_is_given_up() {
    let bed = Testbed::start_with(|config| config.limits.body_idle_timeout = SHORT, |_| {}).await;
    let mut stream = bed.target.tls(&["http/1.1"]).await.unwrap();
    let head = b"POST /upload HTTP/1.1\r\nhost: l\r\ncontent-length: 10\r\n\r\nhalf";
    stream.write_all(head).await.unwrap();
    let mut answer = [0; 12];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_http2_peer_is_found_by_ping() {
    let limits = |config: &mut serving::wire::ServerConfig| {
        config.limits.ping_interval = SHORT;
        config.limits.ping_timeout = SHORT;
    };
    let bed = Testbed::start_with(limits, |_| {}).await;
    let mut stream = bed.target.tls(&["h2"]).await.unwrap();
    // Preface and empty SETTINGS; whatever comes back is read and not answered.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    drop(within(stream.read_to_end(&mut Vec::new())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_workers_have_all_they_may_have_the_answer_is_429() {
    let limits = |config: &mut serving::wire::ServerConfig| {
        config.workers = 2;
        config.limits.under_way = 2;
    };
    let wait = |config: &mut actix_web::web::ServiceConfig| {
        let handler = || async {
            tokio::time::sleep(2 * SHORT).await;
            "done"
        };
        config.route("/wait", actix_web::web::get().to(handler));
    };
    let bed = Testbed::start_with(limits, wait).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(bed.target.connect(Protocol::Http2).await);
    }
    let answers = futures::future::join_all(clients.iter_mut().map(|client| async {
        let request = client
            .request("GET", "/wait")
            .body(Full::default())
            .unwrap();
        let response = within(client.send(request)).await.unwrap();
        let retry = response
            .headers()
            .get("retry-after")
            .map(|value| value.as_bytes().to_vec());
        (response.status().as_u16(), retry)
    }))
    .await;
    let served = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused = answers
        .iter()
        .filter(|answer| **answer == (429, Some(b"1".to_vec())));
    assert_eq!((served, refused.count()), (4, 4), "{answers:?}");
}
