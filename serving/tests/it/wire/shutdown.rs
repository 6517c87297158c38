//! A stop says so, lets what is under way end, and is over in time.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use serving::wire::ServerConfig;
use store::testing::Lag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{PROTOCOLS, Protocol, within};
use super::testbed::Testbed;

const GOAWAY: u8 = 7;

/// The types of the frames in a whole HTTP/2 conversation.
fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, rest @ ..] = bytes {
        types.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        bytes = rest.get(5 + length..).unwrap_or_default();
    }
    types
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_goaway_on_an_idle_http2_connection() {
    let mut bed = Testbed::start().await;
    let mut stream = bed.target.tls(&["h2"]).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut first = [0; 9];
    within(stream.read_exact(&mut first)).await.unwrap();
    let length = usize::from(first[0]) << 16 | usize::from(first[1]) << 8 | usize::from(first[2]);
    let mut settings = vec![0; length];
    within(stream.read_exact(&mut settings)).await.unwrap();

    bed.shutdown.cancel();
    let mut seen = Vec::new();
    while !frame_types(&seen).contains(&GOAWAY) {
        let mut buffer = [0; 256];
        let count = within(stream.read(&mut buffer)).await.unwrap();
        assert!(
            count > 0,
            "closed without a GOAWAY: {:?}",
            frame_types(&seen)
        );
        seen.extend_from_slice(&buffer[..count]);
    }
    drop(stream);
    within(&mut bed.running).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_watches_cleanly_and_soon() {
    for protocol in PROTOCOLS {
        for path in ["/watch", "/watch-by-actix"] {
            let mut bed = Testbed::start().await;
            let mut client = bed.target.connect(protocol).await;
            let watch = within(client.get(path)).await.unwrap().into_body();
            let mut idle = bed.target.connect(protocol).await;
            let request = idle
                .request("GET", "/thread")
                .body(Full::default())
                .unwrap();
            assert_eq!(idle.fetch(request).await.0, 200);
            bed.alive.becomes(1).await;

            let stop = Instant::now();
            bed.shutdown.cancel();
            let body = within(watch.collect())
                .await
                .expect("a clean end")
                .to_bytes();
            assert_eq!(&body[..], b"first\n");
            within(&mut bed.running).await.unwrap().unwrap();
            assert!(
                stop.elapsed() < Duration::from_secs(3),
                "{:?}",
                stop.elapsed()
            );
            assert!(bed.target.try_connect(protocol).await.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut_when_time_is_up() {
    let grace = Duration::from_millis(400);
    for protocol in PROTOCOLS {
        for path in ["/stubborn", "/stuck"] {
            let mut bed = Testbed::start_with(|c| c.shutdown.grace = grace, |_| {}).await;
            let mut client = bed.target.connect(protocol).await;
            let request = tokio::spawn(async move {
                let response = client.get(path).await?;
                response.into_body().collect().await.map(|_| ())
            });
            bed.alive.becomes(1).await;
            let lag = Lag::watch();
            let stop = Instant::now();
            bed.shutdown.cancel();
            within(&mut bed.running).await.unwrap().unwrap();
            assert!(stop.elapsed() >= grace);
            assert!(
                stop.elapsed() < grace + Duration::from_secs(2) + lag.take(),
                "{:?}",
                stop.elapsed()
            );
            assert!(within(request).await.unwrap().is_err());
            bed.alive.becomes_in_time(0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_delay_requests_are_served_and_http1_clients_sent_away() {
    let delay = |config: &mut ServerConfig| config.shutdown.delay = Duration::from_secs(1);
    let mut bed = Testbed::start_with(delay, |_| {}).await;
    let stop = Instant::now();
    bed.shutdown.cancel();
    for protocol in PROTOCOLS {
        let mut client = bed.target.connect(protocol).await;
        let response = within(client.get("/thread")).await.unwrap();
        assert_eq!(response.status(), 200);
        let close = response
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close");
        assert_eq!(close, protocol == Protocol::Http1);
    }
    within(&mut bed.running).await.unwrap().unwrap();
    assert!(stop.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_spoke_do_not_hold_up_a_stop() {
    let mut bed = Testbed::start().await;
    let silent = tokio::net::TcpStream::connect(bed.target.address)
        .await
        .unwrap();
    let handshaken = bed.target.tls(&["http/1.1"]).await.unwrap();
    let stop = Instant::now();
    bed.shutdown.cancel();
    within(&mut bed.running).await.unwrap().unwrap();
    assert!(
        stop.elapsed() < Duration::from_secs(3),
        "{:?}",
        stop.elapsed()
    );
    drop((silent, handshaken));
}
