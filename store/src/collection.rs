//! All objects of one kind, in memory and kept current: what the crates above work with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::MAX_BODY;
use crate::cache::Cache;
use crate::error::{ReadError, WatchError, WriteError};
use crate::history::{History, HistoryError, Newest, Recorded};
use crate::planted::{self, Bug};
use crate::shared::{RETRY, Shared};
use crate::snapshot::Snapshot;
use crate::types::{Key, Project, Revision, Write};
use crate::watcher::{Scope, Watcher};
use crate::writer::Queued;

/// How long a consistent or an exact read waits for this process to catch up.
const CATCH_UP: Duration = Duration::from_secs(3);
/// So long writes that are visible may take to become durable, before this process sees to it.
const SETTLE: Duration = Duration::from_millis(20);
/// Undoing more events than this is moved off the caller's thread.
const UNDO_INLINE: usize = 2000;

/// All objects of one registered (group, plural).
pub struct Collection<P: Project> {
    shared: Arc<Shared>,
    cache: Arc<Cache<P>>,
    history: Arc<History<P>>,
    resource: i32,
}

impl<P: Project> Collection<P> {
    pub(crate) fn new(shared: Arc<Shared>, cache: Arc<Cache<P>>, resource: i32) -> Self {
        let history = History::new(Arc::clone(&shared), Arc::clone(&cache), resource);
        Self {
            shared,
            cache,
            history: Arc::new(history),
            resource,
        }
    }

    /// Writes and waits until the write is durable and in this process' cache.
    ///
    /// Once queued, which is before the first wait, the write goes on even if this future is
    /// dropped.
    pub async fn write(&self, write: Write) -> Result<Revision, WriteError> {
        let write = planted::spoil(write);
        let size = write.operation.body().len();
        if size > MAX_BODY {
            return Err(WriteError::TooLarge {
                size,
                limit: MAX_BODY,
            });
        }
        if !*self.shared.writable.borrow() {
            return Err(WriteError::Unavailable { retry: RETRY });
        }
        let (reply, answer) = oneshot::channel();
        let queued = Queued {
            resource: self.resource,
            write,
            reply: Some(reply),
            losses: 0,
        };
        self.shared
            .queue
            .try_send(queued)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => WriteError::Overloaded { retry: RETRY },
                mpsc::error::TrySendError::Closed(_) => WriteError::Unavailable { retry: RETRY },
            })?;
        // The leader answers every write; only its end without an answer closes the channel.
        let outcome = answer.await.unwrap_or(Err(WriteError::OutcomeUnknown));
        let seen = match &outcome {
            Ok(revision) => Some(*revision),
            Err(WriteError::AlreadyExists { current } | WriteError::Conflict { current }) => {
                Some(*current)
            }
            Err(_) => None,
        };
        if let Some(revision) = seen.filter(|_| !planted::is(Bug::AckBeforeBarrier)) {
            self.shared.reach(revision, CATCH_UP).await;
        }
        outcome
    }

    /// What the cache holds now; needs no database.
    pub fn snapshot(&self) -> Snapshot<P::View> {
        self.cache.current()
    }

    /// A snapshot that has every write acknowledged, by any process, before the call.
    pub async fn consistent(&self) -> Result<Snapshot<P::View>, ReadError> {
        if planted::is(Bug::StaleConsistentRead)
            || planted::is(Bug::StaleListAfterStop) && *self.shared.tailing.borrow()
        {
            return Ok(self.snapshot());
        }
        let (reply, answer) = oneshot::channel();
        let unavailable = ReadError::Unavailable { retry: RETRY };
        if self.shared.probes.send(reply).await.is_err() {
            return Err(unavailable);
        }
        let Ok(Some(newest)) = answer.await else {
            return Err(unavailable);
        };
        // The newest writes may not be durable yet; who made them tells as soon as they are, unless
        // it has died.
        if !self.shared.reach(newest, SETTLE).await {
            self.shared.settle.notify_one();
        }
        if self.shared.reach(newest, CATCH_UP).await {
            Ok(self.snapshot())
        } else {
            Err(unavailable)
        }
    }

    /// A snapshot at `revision` or later, waiting for it at most `wait`.
    pub async fn at_least(
        &self,
        revision: Revision,
        wait: Duration,
    ) -> Result<Snapshot<P::View>, ReadError> {
        if planted::is(Bug::NotOlderThanNotAwaited) || self.shared.reach(revision, wait).await {
            Ok(self.snapshot())
        } else {
            Err(ReadError::TooLarge {
                current: self.shared.applied(),
            })
        }
    }

    /// The collection exactly as it was at `revision`.
    pub async fn at(&self, revision: Revision) -> Result<Snapshot<P::View>, ReadError> {
        let current = self.at_least(revision, CATCH_UP).await?;
        if current.revision() == revision {
            return Ok(current);
        }
        if planted::is(Bug::PresentForPast) {
            return Ok(Snapshot::new(current.objects().clone(), revision));
        }
        let oldest = self.shared.compacted();
        if revision < oldest {
            return Err(ReadError::Compacted { oldest });
        }
        // One cell for all who ask for the same.
        let moment = (self.cache.ring().life(), revision);
        let state = self.cache.past.find_or(moment, Arc::default);
        state
            .get_or_try_init(|| self.rewind(current, revision))
            .await
            .cloned()
    }

    /// Watches everything after `after`; a revision in the future is waited for in silence.
    pub fn watch(&self, after: Revision) -> Result<Watcher<P>, WatchError> {
        self.watch_scope(after, Scope::All)
    }

    /// As [`Collection::watch`], but only events in `scope` wake the watcher and are returned.
    pub fn watch_scope(&self, after: Revision, scope: Scope) -> Result<Watcher<P>, WatchError> {
        let oldest = self.shared.compacted();
        if after < oldest && !planted::is(Bug::No410BelowCompaction) {
            return Err(WatchError::Gone { oldest });
        }
        let (shared, cache) = (Arc::clone(&self.shared), Arc::clone(&self.cache));
        Ok(Watcher::new(
            shared,
            cache,
            Arc::clone(&self.history),
            scope,
            after,
        ))
    }

    /// The writes to `key` that the log still holds, newest first and at most `most`: those up to
    /// `snapshot`, or below `before`, which is one of them. Also of objects that are gone. The last
    /// one may be from before retention: the version that was current when it began.
    pub async fn recorded(
        &self,
        snapshot: &Snapshot<P::View>,
        key: &Key,
        before: Option<Revision>,
        most: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let newest = match before {
            Some(before) => Newest::Before(before),
            None => match snapshot.get(key) {
                Some(stored) => Newest::Is(stored.revision),
                None => Newest::Deletion(snapshot.revision()),
            },
        };
        let recorded = self.history.recorded(key, newest, most).await;
        recorded.map_err(|_| ReadError::Unavailable { retry: RETRY })
    }

    async fn rewind(
        &self,
        current: Snapshot<P::View>,
        revision: Revision,
    ) -> Result<Snapshot<P::View>, ReadError> {
        let (from, events) = {
            let ring = self.cache.ring();
            let from = revision.max(ring.start());
            (from, ring.newest_after(from))
        };
        let state = if events.len() > UNDO_INLINE {
            let undone = tokio::task::spawn_blocking(move || current.undo(&events, from)).await;
            undone.map_err(|_| ReadError::Unavailable { retry: RETRY })?
        } else {
            current.undo(&events, from)
        };
        if from == revision {
            return Ok(state);
        }
        self.history
            .rewind(state, revision)
            .await
            .map_err(|error| match error {
                HistoryError::Gone => ReadError::Compacted {
                    oldest: self.shared.compacted().max(revision),
                },
                HistoryError::Unavailable => ReadError::Unavailable { retry: RETRY },
            })
    }
}
