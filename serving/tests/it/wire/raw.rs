//! Requests that no library would send, byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::client::within;
use super::testbed::Testbed;

/// What the server answers to bytes, until it closes the connection; `None` if it does not.
async fn answer(bed: &Testbed, bytes: &[u8]) -> (String, bool) {
    let mut stream = bed.target.tls(&["http/1.1"]).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await;
        match read {
            // A reset is an end too.
            Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&text).into_owned(), true),
            Ok(Ok(count)) => text.extend_from_slice(&buffer[..count]),
            Err(_) => return (String::from_utf8_lossy(&text).into_owned(), false),
        }
    }
}

fn codes(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ")
        .skip(1)
        .map(|rest| &rest[..3])
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_be_read_in_two_ways_are_refused_and_their_connection_closed() {
    let bed = Testbed::start().await;
    let chunked = "transfer-encoding: chunked\r\n";
    let hidden = "0\r\n\r\nGET /thread HTTP/1.1\r\nhost: l\r\n\r\n";
    let length = format!("content-length: {}\r\n", hidden.len());
    for head in [
        format!("host: l\r\n{length}{chunked}"),
        format!("host: l\r\n{chunked}{length}"),
        "host: l\r\nCONTENT-LENGTH:3\r\nTransfer-Encoding:\tchunked\r\n".to_owned(),
        format!("host: l\r\nhost: m\r\n{length}"),
        length.clone(),
        "host: l\r\ncontent-length: 3\r\ncontent-length: 4\r\n".to_owned(),
        "host: l\r\ncontent-length: -1\r\n".to_owned(),
        "host: l\r\ncontent-length: +3\r\n".to_owned(),
        "host: l\r\ncontent-length: 3, 4\r\n".to_owned(),
        "host: l\r\ncontent-length: 99999999999999999999\r\n".to_owned(),
        "host: l\r\ntransfer-encoding: xchunked\r\n".to_owned(),
        "host: l\r\ntransfer-encoding: chunked, identity\r\n".to_owned(),
        "host: l\r\nx y: z\r\n".to_owned(),
        "host: l\r\nx : z\r\n".to_owned(),
        "host: l\r\nx: a\0b\r\n".to_owned(),
        "host: l\r\nx: a\r\n b\r\n".to_owned(),
    ] {
        let request = format!("POST /upload HTTP/1.1\r\n{head}\r\n{hidden}");
        let (text, is_closed) = answer(&bed, request.as_bytes()).await;
        assert_eq!(codes(&text), ["400"], "{head:?}: {text}");
        assert!(is_closed, "{head:?}: {text}");
    }
    for line in [
        "GET /thread HTTP/9.9",
        "GET  /thread HTTP/1.1",
        "GET /th read HTTP/1.1",
        "GET",
    ] {
        let request = format!("{line}\r\nhost: l\r\n\r\n");
        let (text, is_closed) = answer(&bed, request.as_bytes()).await;
        assert_eq!(
            (codes(&text), is_closed),
            (vec!["400"], true),
            "{line}: {text}"
        );
    }
    // What is in order is served, also on one connection.
    let good = format!(
        "POST /upload HTTP/1.1\r\nhost: l\r\n{chunked}\r\n3\r\nabc\r\n{hidden}\
         POST /upload HTTP/1.1\r\nhost: l\r\ncontent-length: 2\r\n\r\nab"
    );
    let (text, is_closed) = answer(&bed, good.as_bytes()).await;
    assert_eq!((codes(&text), is_closed), (vec!["200"; 3], false), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_impossible_sizes_end_the_body_and_the_connection() {
    let bed = Testbed::start().await;
    for size in [
        "FFFFFFFFFFFFFFFFF",
        "FFFFFFFFFFFFFFFF",
        "-1",
        "0x3",
        "g",
        "",
        "3 3",
    ] {
        let request = format!(
            "POST /upload HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\n{size}\r\nabc\r\n0\r\n\r\n\
             GET /thread HTTP/1.1\r\nhost: l\r\n\r\n"
        );
        let (text, is_closed) = answer(&bed, request.as_bytes()).await;
        // The testbed's handler tells an unreadable body so.
        assert!(!codes(&text).contains(&"200"), "{size}: {text}");
        assert!(is_closed || size == "FFFFFFFFFFFFFFFF", "{size}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_that_nobody_uses_ends_and_one_with_a_watch_does_not() {
    use super::client::Protocol;
    use http_body_util::BodyExt as _;
    let idle = Duration::from_millis(300);
    let bed = Testbed::start_with(|config| config.limits.idle_timeout = idle, |_| {}).await;
    let mut used = bed.target.connect(Protocol::Http2).await;
    let mut watch = within(used.get("/watch")).await.unwrap().into_body();
    within(watch.frame()).await.unwrap().unwrap();
    let mut idle = bed.target.connect(Protocol::Http2).await;
    within(idle.get("/thread")).await.unwrap();
    // Its client answers pings, and sees GOAWAY.
    within(async {
        while idle.get("/thread").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    assert_eq!(bed.alive.count(), 1, "the watch goes on");
    within(used.get("/thread")).await.unwrap();
}
