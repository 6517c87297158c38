//! Requests and responses as handlers see them: free of any HTTP framework.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream, stream::LocalBoxStream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use machinery::error::ApiError;

use crate::{flow::Seat, request_info::Query, wire::Connection};

/// The largest request body that is read.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// The bytes of a request's body as they arrive; an error carries its reason
/// for the log.
pub type Payload = LocalBoxStream<'static, Result<Bytes, String>>;

/// A request whose head has been read.
pub struct Request {
    /// Method, URI and header fields as they were sent.
    pub head: Arc<http::request::Parts>,
    /// Query parameters, decoded.
    pub query: Query,
    /// Peer address and certificates.
    pub connection: Arc<Connection>,
    /// Unread until authorization has passed.
    pub payload: Payload,
}

/// What is sent as a response's body.
pub enum Body {
    /// Complete, with a known length.
    Bytes(Bytes),
    /// Produced while it is sent; ends the response when it ends.
    Stream(BoxStream<'static, Bytes>),
    /// The connection becomes a WebSocket on which every item is one message.
    WebSocket {
        /// The handshake's `Sec-WebSocket-Key`.
        key: String,
        /// The negotiated subprotocol, if any was.
        protocol: Option<String>,
        /// Complete messages.
        messages: BoxStream<'static, Bytes>,
    },
}

/// A response before it is written to the wire.
pub struct Response {
    /// HTTP status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Kept until a body that is produced while it is sent has ended, for which it has the time of
    /// a request. A watch has none and may go on.
    pub seat: Option<Seat>,
}

impl Response {
    /// A complete response of a content type.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut response = Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: HeaderMap::new(),
            body: Body::Bytes(body.into()),
            seat: None,
        };
        response.set(header::CONTENT_TYPE, content_type);
        response
    }

    /// A 200 whose body is produced while it is sent.
    #[must_use]
    pub fn stream(content_type: &str, chunks: BoxStream<'static, Bytes>) -> Self {
        let mut response = Self::new(200, content_type, Bytes::new());
        response.body = Body::Stream(chunks);
        response
    }

    /// Sets a header field; a value that HTTP cannot carry is left out.
    pub fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            self.headers.insert(name, value);
        }
    }

    /// Adds one more field of a name.
    pub fn append(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            self.headers.append(name, value);
        }
    }
}

/// A header field as text, if it is.
#[must_use]
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// All fields of a name joined by commas, as HTTP lets them be.
#[must_use]
pub fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Refuses a request by its head alone when the body must be refused anyway,
/// so that `Expect: 100-continue` is never answered by 100.
///
/// # Errors
///
/// 413 when the announced body is too large, 400 when it is compressed.
pub fn check_announced_body(headers: &HeaderMap) -> Result<(), ApiError> {
    let announced =
        text(headers, &header::CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(body_too_large());
    }
    match text(headers, &header::CONTENT_ENCODING).map(str::trim) {
        None | Some("" | "identity") => Ok(()),
        Some(encoding) => Err(ApiError::bad_request(format!(
            "the content encoding {encoding:?} of the request body is not supported"
        ))),
    }
}

/// Reads a whole body.
///
/// # Errors
///
/// 413 when it exceeds [`MAX_BODY_BYTES`], 400 when it breaks off.
pub async fn read_body(payload: &mut Payload) -> Result<Bytes, ApiError> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length = 0_usize;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|reason| {
            ApiError::bad_request("the request body could not be read").with_internal(reason)
        })?;
        length = length.saturating_add(chunk.len());
        if length > MAX_BODY_BYTES {
            return Err(body_too_large());
        }
        match first.take() {
            None if rest.is_empty() => first = Some(chunk),
            None => rest.extend_from_slice(&chunk),
            Some(start) => {
                rest.extend_from_slice(&start);
                rest.extend_from_slice(&chunk);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

fn body_too_large() -> ApiError {
    ApiError::request_entity_too_large(&format!("limit is {MAX_BODY_BYTES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(chunks: Vec<&'static [u8]>) -> Payload {
        let chunks: Vec<_> = chunks
            .into_iter()
            .map(|chunk| Ok(Bytes::from_static(chunk)))
            .collect();
        futures::stream::iter(chunks).boxed_local()
    }

    #[tokio::test]
    async fn a_body_is_read_whole_whatever_its_chunks() {
        for chunks in [
            vec![],
            vec![b"ab".as_slice()],
            vec![b"a", b"b"],
            vec![b"a", b"", b"b", b"c"],
        ] {
            let whole = chunks.concat();
            assert_eq!(read_body(&mut payload(chunks)).await.unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused() {
        static LARGE: [u8; MAX_BODY_BYTES] = [b' '; MAX_BODY_BYTES];
        assert!(read_body(&mut payload(vec![&LARGE])).await.is_ok());
        let error = read_body(&mut payload(vec![&LARGE, b"x"]))
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().contains("limit is 3145728")),
            (413, true)
        );
    }

    #[test]
    fn announced_bodies_are_judged_by_their_head() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from_static("1000000000000"),
        );
        assert_eq!(check_announced_body(&headers).unwrap_err().code(), 413);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("10"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(check_announced_body(&headers).unwrap_err().code(), 400);
    }
}
