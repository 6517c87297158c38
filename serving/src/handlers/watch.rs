//! Watches: a cursor of the store, filtered and encoded for one client.
//!
//! A watcher holds no buffer. It asks the store for the next events when the
//! connection can take more, so a slow client costs nobody anything. Objects'
//! bytes come encoded out of their views; what is copied for each client is
//! one chunk, which is encrypted for it anyway.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use http::header;
use machinery::{
    error::ApiError,
    negotiate::Endpoint,
    options::{InitialState, ListOptions, WatchStart},
};
use store::planted::{self, Bug};
use store::{Event, EventKind, ReadError, Revision, Snapshot, Stored, WatchError, Watcher};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use uuid::Uuid;

use super::{
    get::FRESHNESS_WAIT,
    objects::{Batch, Objects},
    selection::Selection,
};
use crate::{
    context::Context,
    encode::Output,
    exchange::{self, Body, Response},
    metrics::WatchMeter,
    store_errors,
    target::Target,
    view::{Projection, View},
    watch_frames::Frames,
};

/// A chunk is sent when it has grown to this size.
const CHUNK_BYTES: usize = 64 * 1024;
/// Events taken from the store at once.
const BATCH: usize = 256;
/// A watcher that asked for bookmarks gets one at least this often.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(55);
/// A watcher that always has events looks up this often, counted in chunks.
const LOOK_UP: u32 = 64;
/// Watches without `timeoutSeconds` end at a random time between this and its double.
const MIN_TIMEOUT_SECONDS: u64 = 1800;
/// Longer wishes end here: the clock cannot name every moment that a client can.
const MAX_TIMEOUT_SECONDS: u64 = 365 * 24 * 3600;

pub(super) async fn handle(context: &Context, target: &Target) -> Result<Response, ApiError> {
    let output = Output::negotiate(context.headers(), &context.query, Endpoint::Watch)?;
    let options = context.list_options()?;
    let selection = Arc::new(Selection::of(context, target, &options)?);
    let websocket = websocket_key(context);
    let start = start(target, &selection, &options).await?;
    let mut stream = WatchStream {
        frames: Frames::new(target.clone(), output),
        selection,
        watcher: None,
        initial: None,
        found: Batch::new().into_iter(),
        mark_end_at: None,
        pending: VecDeque::new(),
        wants_bookmarks: options.allow_watch_bookmarks,
        is_finished: false,
        deadline: Instant::now() + lifetime(&options),
        next_bookmark: Instant::now() + BOOKMARK_INTERVAL,
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        drain: Box::pin(context.api.drain.clone().cancelled_owned()),
        batch: if websocket.is_some() { 1 } else { BATCH },
        turns: 0,
        meter: context.api.metrics.watch(&context.info, target),
    };
    stream.begin(target, start);
    let chunks = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((chunk, stream))
    })
    .boxed();
    Ok(match websocket {
        None => Response::stream(output.content_type(), chunks),
        Some((key, protocol)) => {
            let mut response = Response::new(101, output.content_type(), Bytes::new());
            response.headers.remove(header::CONTENT_TYPE);
            response.body = Body::WebSocket {
                key,
                protocol,
                messages: chunks,
            };
            response
        }
    })
}

/// The handshake's key, when the request is one for a WebSocket.
fn websocket_key(context: &Context) -> Option<(String, Option<String>)> {
    let headers = context.headers();
    let upgrade = exchange::text(headers, &header::UPGRADE)?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let key = exchange::text(headers, &header::SEC_WEBSOCKET_KEY)?.to_owned();
    let offered = exchange::joined(headers, &header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let known = |protocol: &&str| {
        matches!(
            *protocol,
            "binary.k8s.io" | "text.k8s.io" | "v1.json.k8s.io"
        )
    };
    Some((
        key,
        offered
            .split(',')
            .map(str::trim)
            .find(known)
            .map(ToOwned::to_owned),
    ))
}

fn lifetime(options: &ListOptions) -> Duration {
    match options.timeout_seconds {
        Some(seconds) if seconds > 0 => {
            Duration::from_secs(seconds.unsigned_abs().min(MAX_TIMEOUT_SECONDS))
        }
        _ => {
            let random = Uuid::new_v4().as_u64_pair().0 % MIN_TIMEOUT_SECONDS;
            Duration::from_secs(MIN_TIMEOUT_SECONDS + random)
        }
    }
}

/// Where a watch begins.
struct Start {
    initial: Option<Objects>,
    after: Revision,
    /// The bookmark that ends the initial events names this revision.
    mark_end_at: Option<Revision>,
    error: Option<ApiError>,
}

/// Reads the initial state as the request wants it. What only concerns the
/// revision becomes an event of the stream, not a status of the response.
async fn start(
    target: &Target,
    selection: &Arc<Selection>,
    options: &ListOptions,
) -> Result<Start, ApiError> {
    let nothing = |after| Start {
        initial: None,
        after,
        mark_end_at: None,
        error: None,
    };
    let (freshness, wants_state) = match options.watch_start()? {
        WatchStart::After(revision) => return Ok(nothing(Revision::new(revision))),
        WatchStart::Now(freshness) => (freshness, false),
        WatchStart::State(freshness) => (freshness, true),
    };
    let asked = match freshness {
        InitialState::NotOlderThan(revision) => Some(Revision::new(revision)),
        InitialState::Consistent | InitialState::Any => None,
    };
    let collection = &target.entry.collection;
    let read = match freshness {
        InitialState::Any => Ok(collection.snapshot()),
        InitialState::Consistent => collection.consistent().await,
        InitialState::NotOlderThan(revision) => {
            collection
                .at_least(Revision::new(revision), FRESHNESS_WAIT)
                .await
        }
    };
    match read {
        Ok(snapshot) if wants_state => Ok(state(snapshot, selection)),
        Ok(snapshot) => Ok(nothing(snapshot.revision())),
        Err(error @ ReadError::Unavailable { .. }) => Err(store_errors::of_read(error, None)),
        Err(error) => Ok(Start {
            error: Some(store_errors::of_read(error, asked)),
            ..nothing(Revision::ZERO)
        }),
    }
}

fn state(snapshot: Snapshot<View>, selection: &Arc<Selection>) -> Start {
    let after = snapshot.revision();
    Start {
        initial: Some(Objects::selected(selection, snapshot, None)),
        after,
        mark_end_at: Some(after),
        error: None,
    }
}

struct WatchStream {
    frames: Frames,
    selection: Arc<Selection>,
    watcher: Option<Watcher<Projection>>,
    /// What there was at the start, as far as it is not yet looked for.
    initial: Option<Objects>,
    /// Of it, what was found and not sent yet.
    found: std::vec::IntoIter<Arc<Stored<View>>>,
    mark_end_at: Option<Revision>,
    /// Events that were taken and did not fit into the last chunk.
    pending: VecDeque<Arc<Event<View>>>,
    wants_bookmarks: bool,
    is_finished: bool,
    deadline: Instant,
    next_bookmark: Instant,
    timer: std::pin::Pin<Box<Sleep>>,
    drain: std::pin::Pin<Box<WaitForCancellationFutureOwned>>,
    batch: usize,
    turns: u32,
    meter: WatchMeter,
}

enum Wake {
    End,
    Timer,
    Events(Result<Vec<Arc<Event<View>>>, WatchError>),
}

impl WatchStream {
    fn begin(&mut self, target: &Target, start: Start) {
        if let Some(error) = start.error {
            self.fail(error);
            return;
        }
        match target
            .entry
            .collection
            .watch_scope(start.after, self.selection.scope())
        {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.initial = start.initial;
                self.mark_end_at = start.mark_end_at.filter(|_| self.wants_bookmarks);
                self.rest_timer();
            }
            Err(error) => self.fail(gone(start.after, error)),
        }
    }

    /// Ends the stream with an ERROR event.
    fn fail(&mut self, error: ApiError) {
        self.frames.push_error(error);
        self.is_finished = true;
    }

    fn rest_timer(&mut self) {
        let bookmark = if self.wants_bookmarks {
            self.next_bookmark
        } else {
            self.deadline
        };
        self.timer.as_mut().reset(bookmark.min(self.deadline));
    }

    /// The next piece of the body; `None` ends it cleanly.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        self.push_initial().await;
        self.push_pending();
        while self.frames.is_empty() {
            if self.is_finished {
                return None;
            }
            let watcher = self.watcher.as_mut()?;
            self.turns = self.turns.wrapping_add(1);
            // Events that wait spare the look at the rest, but not for ever.
            let is_due = self.turns.is_multiple_of(LOOK_UP)
                && (Instant::now() >= self.deadline
                    || self.drain.as_mut().now_or_never().is_some());
            let wake = tokio::select! {
                biased;
                () = std::future::ready(()), if is_due => Wake::End,
                events = watcher.next_batch(self.batch) => Wake::Events(events),
                () = self.drain.as_mut() => Wake::End,
                () = self.timer.as_mut() => Wake::Timer,
            };
            self.on(wake);
            self.push_pending();
        }
        self.meter.add(self.frames.count());
        Some(self.frames.take())
    }

    fn has_room(&self) -> bool {
        self.frames.len() < CHUNK_BYTES && (self.batch > 1 || self.frames.is_empty())
    }

    /// The state at the start, as long as there is room, and then the mark of its end.
    async fn push_initial(&mut self) {
        while self.has_room() {
            if let Some(stored) = self.found.next() {
                self.frames.push_once("ADDED", &stored.view);
                continue;
            }
            let Some(objects) = &mut self.initial else {
                if let Some(revision) = self.mark_end_at.take() {
                    self.frames.push_bookmark(revision, true);
                }
                return;
            };
            match objects.next_batch() {
                Some(batch) => {
                    self.found = batch.into_iter();
                    tokio::task::yield_now().await;
                }
                None => self.initial = None,
            }
        }
    }

    fn push_pending(&mut self) {
        while self.has_room() {
            match self.pending.pop_front() {
                Some(event) => self.push_event(&event),
                None => break,
            }
        }
    }

    fn on(&mut self, wake: Wake) {
        match wake {
            Wake::Events(Ok(events)) => self.pending.extend(events),
            Wake::Events(Err(error)) => {
                let position = self
                    .watcher
                    .as_mut()
                    .map(Watcher::position)
                    .unwrap_or_default();
                self.fail(gone(position, error));
            }
            Wake::Timer if Instant::now() < self.deadline => {
                self.push_bookmark();
                self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                self.rest_timer();
            }
            Wake::Timer | Wake::End => {
                self.push_bookmark();
                self.is_finished = true;
            }
        }
    }

    fn push_bookmark(&mut self) {
        if self.wants_bookmarks
            && let Some(watcher) = &mut self.watcher
        {
            self.frames.push_bookmark(watcher.position(), false);
        }
    }

    /// What the event is to a client who sees only the selection.
    fn push_event(&mut self, event: &Event<View>) {
        let is_in = event.kind != EventKind::Deleted && self.selection.matches(&event.current);
        let was_in = event
            .previous
            .as_ref()
            .is_some_and(|previous| self.selection.matches(previous));
        match (was_in, is_in) {
            (false, false) => {}
            (false, true) => self.frames.push("ADDED", &event.current.view),
            (true, true) => self.frames.push("MODIFIED", &event.current.view),
            (true, false)
                if event.kind == EventKind::Deleted && event.current.view.is_readable() =>
            {
                self.frames.push("DELETED", &event.current.view)
            }
            (true, false) if planted::is(Bug::SelectorTransitionLost) => {}
            // It left the selection: its last selected state, at this revision.
            (true, false) => {
                if let Some(previous) = &event.previous {
                    self.frames
                        .push("DELETED", &previous.view.at(event.revision));
                }
            }
        }
    }
}

fn gone(asked: Revision, error: WatchError) -> ApiError {
    let WatchError::Gone { oldest } = error;
    ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_without_a_timeout_end_between_half_an_hour_and_an_hour() {
        let of = |timeout_seconds| {
            lifetime(&ListOptions {
                timeout_seconds,
                ..ListOptions::default()
            })
        };
        assert_eq!(of(Some(7)), Duration::from_secs(7));
        assert!(Instant::now().checked_add(of(Some(i64::MAX))).is_some());
        for timeout in [None, Some(0), Some(-5)] {
            let seconds = of(timeout).as_secs();
            assert!((1800..=3600).contains(&seconds), "{seconds}");
        }
        assert_ne!(
            (of(None), of(None), of(None)),
            (of(None), of(None), of(None))
        );
    }
}
