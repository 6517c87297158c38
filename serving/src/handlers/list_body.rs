//! A list as bytes, made while they are sent: in whatever representation, a list of any length
//! takes the memory of a few pieces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use store::Stored;

use super::{
    list::Page,
    objects::{Batch, Objects},
};
use crate::{
    compression::{self, Compressor},
    context::Context,
    encode::Output,
    exchange::{Body, Response},
    list_writer::ListWriter,
    target::Target,
    view::View,
};

/// A piece is sent when it has grown to this size.
const PIECE: usize = 64 * 1024;
/// Protobuf messages of this size together are encoded once and kept; those of longer lists are
/// encoded twice, for their length stands before them.
const KEPT: usize = 8 * 1024 * 1024;
/// Who waits for a list on the same thread waits so long for a turn.
const TURN: Duration = Duration::from_millis(1);

/// A page in the agreed representation: whole if it is short.
pub(super) async fn respond(
    context: &Context,
    target: &Target,
    output: Output,
    page: Page,
) -> Response {
    let mut list = ListStream::new(target.clone(), output, page);
    let mut begin = Vec::new();
    let mut length = 0;
    while length <= compression::THRESHOLD {
        let Some(piece) = list.next_piece().await else {
            return Response::new(200, output.content_type(), begin.concat());
        };
        length += piece.len();
        begin.push(piece);
    }
    let rest = stream::unfold(list, |mut list| async move {
        let piece = list.next_piece().await?;
        Some((piece, list))
    });
    let pieces = stream::iter(begin).chain(rest).boxed();
    let mut response = Response::new(200, output.content_type(), Bytes::new());
    response.body = if compression::is_accepted(context.headers()) {
        compression::announce(&mut response);
        Body::Stream(Compressor::compress(pieces).boxed())
    } else {
        Body::Stream(pieces)
    };
    response
}

struct ListStream {
    target: Target,
    writer: ListWriter,
    objects: Objects,
    /// Found and not written yet.
    found: std::vec::IntoIter<Arc<Stored<View>>>,
    /// All items, when they had to be encoded before the head.
    encoded: Option<Bytes>,
    stage: Stage,
    turn: Turn,
}

/// The time since others on this thread last had their turn.
struct Turn(Instant);

impl Turn {
    async fn give_way(&mut self) {
        if self.0.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

enum Stage {
    Head,
    Items,
    Over,
}

impl ListStream {
    fn new(target: Target, output: Output, page: Page) -> Self {
        let writer = ListWriter::new(&target, output, page.meta);
        Self {
            target,
            writer,
            objects: page.objects,
            found: Batch::new().into_iter(),
            encoded: None,
            stage: Stage::Head,
            turn: Turn(Instant::now()),
        }
    }

    /// The next piece of the body.
    async fn next_piece(&mut self) -> Option<Bytes> {
        let mut piece = Vec::with_capacity(PIECE + PIECE / 8);
        loop {
            match self.stage {
                Stage::Over => return None,
                Stage::Head => {
                    self.stage = Stage::Items;
                    if self.writer.needs_length() {
                        self.measure().await;
                    }
                    self.writer.begin(&mut piece);
                }
                Stage::Items => {}
            }
            if let Some(encoded) = &mut self.encoded {
                let taken = encoded.len().min(PIECE);
                piece.extend_from_slice(&encoded.split_to(taken));
                if encoded.is_empty() {
                    self.stage = Stage::Over;
                    self.writer.end(&mut piece);
                }
                return Some(piece.into());
            }
            while piece.len() < PIECE
                && let Some(stored) = self.found.next()
            {
                self.writer
                    .push(&mut piece, self.target.version(), &stored.view);
                self.turn.give_way().await;
            }
            if piece.len() >= PIECE {
                return Some(piece.into());
            }
            match self.objects.next_batch() {
                Some(batch) => {
                    self.found = batch.into_iter();
                    self.turn.give_way().await;
                }
                None => {
                    self.stage = Stage::Over;
                    self.writer.end(&mut piece);
                    return Some(piece.into());
                }
            }
        }
    }

    /// Encodes all items to know how long they are, and keeps them if they are few.
    async fn measure(&mut self) {
        let (mut objects, mut length) = (self.objects.clone(), 0);
        let mut encoded = Some(Vec::new());
        while let Some(batch) = objects.next_batch() {
            let mut some = Vec::new();
            for stored in batch {
                let version = self.target.version();
                self.writer.push(&mut some, version, &stored.view);
                self.turn.give_way().await;
            }
            length += some.len();
            match &mut encoded {
                Some(all) if length <= KEPT => all.extend_from_slice(&some),
                _ => encoded = None,
            }
        }
        self.writer.set_length(length);
        self.encoded = encoded.map(Bytes::from);
    }
}
