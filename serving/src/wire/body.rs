//! Response bodies, as hyper polls them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::guard::Busy;
use super::stall;

/// Any error of a body: the stream is then cut, never ended cleanly.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Pieces below this size are gathered, those above are passed on as they are.
const SMALL: usize = 16 * 1024;
/// Gathered pieces grow to about this size.
const GATHERED: usize = 64 * 1024;

/// A body that hyper polls on the multi-threaded runtime. A handler puts it
/// into its response's extensions and leaves the actix body empty.
pub struct StreamBody(Kind);

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamBody")
    }
}

impl StreamBody {
    /// Wraps a body; dropped as soon as the client is gone.
    pub fn new(body: impl Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Self(Kind::Stream(Box::pin(body)))
    }

    /// Sends each item as one frame, flushed at once.
    pub fn from_stream<S>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    {
        Self::new(http_body_util::StreamBody::new(
            stream.map(|item| item.map(Frame::data)),
        ))
    }

    /// Sends `chunks` one after the other with a `Content-Length`; small ones
    /// are gathered into larger frames.
    #[must_use]
    pub fn from_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let chunks: VecDeque<Bytes> = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self(Kind::Chunks { chunks, left })
    }
}

/// A piece of a body that a worker thread polls. A channel that closes without
/// `End` means that the worker gave up.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End,
    Failed(String),
}

enum Kind {
    Empty,
    Once(Bytes),
    Chunks { chunks: VecDeque<Bytes>, left: u64 },
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>),
    Worker(mpsc::Receiver<Piece>),
}

/// The body type of every response of the wire.
pub(super) struct WireBody {
    kind: Kind,
    busy: Option<Busy>,
}

impl WireBody {
    pub(super) fn empty() -> Self {
        Self {
            kind: Kind::Empty,
            busy: None,
        }
    }

    pub(super) fn once(bytes: Bytes) -> Self {
        let kind = if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Once(bytes)
        };
        Self { kind, busy: None }
    }

    pub(super) fn worker(pieces: mpsc::Receiver<Piece>) -> Self {
        Self {
            kind: Kind::Worker(pieces),
            busy: None,
        }
    }

    /// Keeps the connection marked as busy until this body is gone.
    pub(super) fn holding(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }
}

impl From<StreamBody> for WireBody {
    fn from(body: StreamBody) -> Self {
        Self {
            kind: body.0,
            busy: None,
        }
    }
}

fn next_chunk(chunks: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = chunks.pop_front()?;
    if first.len() >= SMALL || chunks.front().is_none_or(|next| next.len() >= SMALL) {
        return Some(first);
    }
    let mut gathered = BytesMut::with_capacity(GATHERED);
    gathered.extend_from_slice(&first);
    while gathered.len() < GATHERED {
        match chunks.front() {
            Some(next) if next.len() < SMALL => gathered.extend_from_slice(next),
            _ => break,
        }
        chunks.pop_front();
    }
    Some(gathered.freeze())
}

impl WireBody {
    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let data = match &mut self.kind {
            Kind::Empty => return Poll::Ready(None),
            Kind::Once(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                bytes
            }
            Kind::Chunks { chunks, left } => match next_chunk(chunks) {
                Some(chunk) => {
                    *left = left.saturating_sub(chunk.len() as u64);
                    chunk
                }
                None => return Poll::Ready(None),
            },
            Kind::Stream(body) => return body.as_mut().poll_frame(cx),
            Kind::Worker(pieces) => match ready!(pieces.poll_recv(cx)) {
                Some(Piece::Data(bytes)) => bytes,
                Some(Piece::End) => {
                    self.kind = Kind::Empty;
                    return Poll::Ready(None);
                }
                Some(Piece::Failed(message)) => return Poll::Ready(Some(Err(message.into()))),
                None => return Poll::Ready(Some(Err("the handler gave up its body".into()))),
            },
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Drop for WireBody {
    fn drop(&mut self) {
        // What is still on its way is the kernel's, or HTTP/2's.
        stall::note(false);
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.get_mut().poll_kind(cx);
        stall::note(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Once(_) | Kind::Worker(_) => false,
            Kind::Chunks { chunks, .. } => chunks.is_empty(),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks { left, .. } => SizeHint::with_exact(*left),
            Kind::Stream(body) => body.size_hint(),
            Kind::Worker(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn small_chunks_are_gathered_and_large_ones_pass() {
        let large = Bytes::from(vec![b'x'; SMALL]);
        let small = Bytes::from_static(b"small,");
        let chunks = vec![small.clone(), small.clone(), large.clone(), small.clone()];
        let mut body = WireBody::from(StreamBody::from_chunks(chunks));
        assert_eq!(body.size_hint().exact(), Some(SMALL as u64 + 18));
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(frames, [Bytes::from_static(b"small,small,"), large, small]);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn a_worker_that_vanishes_is_an_error_and_not_an_end() {
        let (pieces, receiver) = mpsc::channel(1);
        pieces
            .send(Piece::Data(Bytes::from_static(b"half")))
            .await
            .unwrap();
        drop(pieces);
        let mut body = WireBody::worker(receiver);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }
}
