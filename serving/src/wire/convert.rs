//! Between hyper's messages and actix-web's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::error::PayloadError;
use actix_http::{BoxedPayloadStream, HttpMessage, Payload, Request};
use actix_web::HttpResponse;
use bytes::Bytes;
use futures::Stream;
use http_body::Body;
use hyper::body::Incoming;
use machinery::error::ApiError;
use tokio::time::Sleep;

use super::body::WireBody;
use super::connection::{Connection, RequestHead};

/// The HTTP form of a failure that no handler saw.
pub(super) fn status_response(error: &ApiError) -> http::Response<WireBody> {
    if let Some(internal) = error.internal_message() {
        tracing::error!(code = error.code(), "{internal}");
    }
    let body = serde_json::to_vec(error.status()).expect("a Status is plain data");
    let mut response = http::Response::new(WireBody::once(body.into()));
    *response.status_mut() =
        http::StatusCode::from_u16(error.code()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    if let Some(seconds) = error.retry_after() {
        headers.insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

pub(super) fn wire_response(head: &HttpResponse<()>, body: WireBody) -> http::Response<WireBody> {
    let bare = body.is_end_stream();
    let mut response = http::Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(head.status().as_u16())
        .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.reserve(head.headers().len());
    for (name, value) in head.headers() {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    // A failure that actix-web made by itself has no body: give it one.
    let code = head.status().as_u16();
    if bare && code >= 400 && !headers.contains_key(http::header::CONTENT_TYPE) {
        return status_response(&bare_failure(code));
    }
    response
}

fn bare_failure(code: u16) -> ApiError {
    match code {
        404 => ApiError::generic_not_found(),
        413 => ApiError::request_entity_too_large("limit is 3145728"),
        400..=499 => ApiError::bad_request("the request could not be read"),
        _ => ApiError::internal(format!("actix-web answered {code}")),
    }
}

pub(super) fn actix_request(
    parts: http::request::Parts,
    body: Incoming,
    body_idle: Duration,
    connection: Arc<Connection>,
) -> Request {
    let payload = if body.is_end_stream() {
        Payload::None
    } else {
        let stream: BoxedPayloadStream = Box::pin(RequestBody {
            body,
            body_idle,
            timer: None,
        });
        Payload::Stream { payload: stream }
    };
    let mut request = Request::with_payload(payload);
    let head = request.head_mut();
    head.method = actix_http::Method::from_bytes(parts.method.as_str().as_bytes())
        .expect("a method is a token in both versions of http");
    // hyper accepts a few paths that http 0.2 refuses; those become "/".
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    head.uri = path.parse().unwrap_or_default();
    head.version = match parts.version {
        http::Version::HTTP_2 => actix_http::Version::HTTP_2,
        http::Version::HTTP_10 => actix_http::Version::HTTP_10,
        _ => actix_http::Version::HTTP_11,
    };
    head.peer_addr = Some(connection.peer);
    for (name, value) in &parts.headers {
        let name = actix_http::header::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = actix_http::header::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    request.extensions_mut().insert(connection);
    request
        .extensions_mut()
        .insert(RequestHead(Arc::new(parts)));
    request
}

/// A request's body with a bound on the client's silence.
struct RequestBody {
    body: Incoming,
    body_idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    this.timer = None;
                    match frame {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => return Poll::Ready(Some(Ok(data))),
                            Err(_trailers) => {}
                        },
                        Some(Err(error)) => {
                            let error =
                                PayloadError::Incomplete(Some(std::io::Error::other(error)));
                            return Poll::Ready(Some(Err(error)));
                        }
                        None => return Poll::Ready(None),
                    }
                }
                Poll::Pending => {
                    let time = this.body_idle;
                    let timer = this
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
                    ready!(timer.as_mut().poll(cx));
                    let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Poll::Ready(Some(Err(PayloadError::Io(error))));
                }
            }
        }
    }
}
