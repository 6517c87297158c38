//! gzip of large answers, as kube-apiserver does it: at its fastest level, from 128 KiB on, for
//! clients that name it.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, header};

use crate::exchange::{self, Body, Response};

/// Shorter answers are not worth it.
pub(crate) const THRESHOLD: usize = 128 * 1024;

/// Whether the client takes gzip. As upstream, a quality makes it another name.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    exchange::joined(headers, &header::ACCEPT_ENCODING)
        .is_some_and(|names| names.split(',').any(|name| name.trim() == "gzip"))
}

/// Says in the head that the body is compressed.
pub(crate) fn announce(response: &mut Response) {
    response.set(header::CONTENT_ENCODING, "gzip");
    response.append(header::VARY, "Accept-Encoding");
}

/// Compresses an answer that is complete, apart from the workers.
pub(crate) async fn of_whole(headers: &HeaderMap, mut response: Response) -> Response {
    let Body::Bytes(body) = &response.body else {
        return response;
    };
    if body.len() <= THRESHOLD || !is_accepted(headers) {
        return response;
    }
    let body = body.clone();
    let compress = move || {
        let mut compressor = Compressor::new();
        let begin = compressor.push(&body);
        [begin, compressor.finish()].concat()
    };
    if let Ok(compressed) = tokio::task::spawn_blocking(compress).await {
        announce(&mut response);
        response.body = Body::Bytes(compressed.into());
    }
    response
}

/// A gzip stream under way.
pub(crate) struct Compressor(GzEncoder<Vec<u8>>);

impl Compressor {
    fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// Takes more in; gives what is ready.
    fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        // Memory takes everything.
        let _ = self.0.write_all(piece);
        std::mem::take(self.0.get_mut())
    }

    fn finish(self) -> Vec<u8> {
        self.0.finish().unwrap_or_default()
    }

    /// The pieces of a body as the pieces of a compressed one.
    pub(crate) fn compress(
        pieces: impl Stream<Item = Bytes> + Send + Unpin + 'static,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(Some((pieces, Self::new())), |state| async move {
            let (mut pieces, mut compressor) = state?;
            loop {
                let Some(piece) = pieces.next().await else {
                    return Some((compressor.finish().into(), None));
                };
                let ready = compressor.push(&piece);
                if !ready.is_empty() {
                    return Some((ready.into(), Some((pieces, compressor))));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn inflate(body: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(body);
        decoder.read_to_end(&mut whole).unwrap();
        whole
    }

    fn accepting(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT_ENCODING,
            http::HeaderValue::from_static(value),
        );
        headers
    }

    #[test]
    fn gzip_is_taken_where_it_is_named_as_upstream_reads_it() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, gzip", true),
            ("br,gzip , zstd", true),
            ("gzip;q=0.5", false),
            ("*", false),
            ("x-gzip", false),
            ("", false),
        ] {
            assert_eq!(is_accepted(&accepting(value)), expected, "{value}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn only_what_is_long_enough_is_compressed() {
        for (length, expected) in [(THRESHOLD, false), (THRESHOLD + 1, true)] {
            let body = b"0123456789".repeat(length / 10 + 1)[..length].to_vec();
            let response = Response::new(200, "text/plain", body.clone());
            let answer = of_whole(&accepting("gzip"), response).await;
            let is_gzip = answer.headers.contains_key(header::CONTENT_ENCODING);
            assert_eq!(is_gzip, expected, "{length}");
            let Body::Bytes(sent) = answer.body else {
                panic!("a whole body stays whole");
            };
            assert_eq!(
                if expected {
                    inflate(&sent)
                } else {
                    sent.to_vec()
                },
                body
            );
        }
    }

    #[tokio::test]
    async fn a_compressed_stream_is_the_same_stream() {
        for count in [0, 1, 100] {
            let pieces = vec![Bytes::from_static(b"some text, again and again. "); count];
            let compressed = Compressor::compress(stream::iter(pieces.clone()));
            let sent = Box::pin(compressed).collect::<Vec<_>>().await.concat();
            assert_eq!(inflate(&sent), pieces.concat(), "{count}");
        }
    }
}
