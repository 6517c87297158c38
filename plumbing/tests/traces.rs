//! Spans leave the process as OTLP over gRPC, in the trace of the caller.
//!
//! A test of its own binary, since a process has one subscriber.

#![expect(
    clippy::unwrap_used,
    reason = "the collector beside the test may fail like the test"
)]

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use plumbing::telemetry::{LogFormat, init, set_parent};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE_ID: [u8; 16] = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
const PARENT_ID: [u8; 8] = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();

/// A collector that answers every export with success and hands it on.
async fn collect(listener: TcpListener, exports: mpsc::Sender<(String, Bytes)>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request.unwrap();
        let exports = exports.clone();
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let mut incoming = request.into_body();
            let mut body = BytesMut::new();
            while let Some(chunk) = incoming.data().await {
                let chunk = chunk.unwrap();
                body.extend_from_slice(&chunk);
                let _ = incoming.flow_control().release_capacity(chunk.len());
            }
            let response = Response::builder().header("content-type", "application/grpc");
            let mut answer = respond
                .send_response(response.body(()).unwrap(), false)
                .unwrap();
            // One empty message, then success.
            answer
                .send_data(Bytes::from_static(&[0; 5]), false)
                .unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            answer.send_trailers(trailers).unwrap();
            exports.send((path, body.freeze())).await.unwrap();
        });
    }
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn a_span_is_exported_in_the_trace_of_its_caller() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut exports) = mpsc::channel(4);
    tokio::spawn(collect(listener, sender));

    let guard = init("widget-test", LogFormat::Json, Some(&endpoint)).unwrap();
    let span = tracing::info_span!("serve a request");
    set_parent(&span, TRACEPARENT, None);
    span.in_scope(|| tracing::info!("served"));
    drop(span);
    guard.flush().await;

    let (path, body) = exports.recv().await.unwrap();
    assert_eq!(
        path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    assert!(holds(&body, b"serve a request"));
    assert!(holds(&body, b"widget-test"));
    assert!(holds(&body, &TRACE_ID));
    assert!(holds(&body, &PARENT_ID));
    assert!(init("again", LogFormat::Json, None).is_err());
}
