//! Cursors over a collection's events.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use crate::cache::Cache;
use crate::error::WatchError;
use crate::history::{History, HistoryError};
use crate::planted::{self, Bug};
use crate::ring::{Cursor, Miss};
use crate::shared::Shared;
use crate::types::{Event, Key, Project, Revision};

/// Which keys a watcher looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The whole collection.
    All,
    /// One namespace.
    Namespace(Arc<str>),
    /// One object.
    Object(Key),
}

impl Scope {
    fn has(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => key.namespace == *namespace,
            Self::Object(object) => key == object,
        }
    }
}

/// A cursor over a collection's events. It holds no buffer: a slow one costs nobody anything.
pub struct Watcher<P: Project> {
    shared: Arc<Shared>,
    cache: Arc<Cache<P>>,
    history: Arc<History<P>>,
    scope: Scope,
    cursor: Cursor,
    bell: Arc<Notify>,
    /// How many reconnects this watcher knows of.
    reconnects: u64,
}

impl<P: Project> Watcher<P> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        cache: Arc<Cache<P>>,
        history: Arc<History<P>>,
        scope: Scope,
        after: Revision,
    ) -> Self {
        let bell = cache.bell(&scope);
        let mut after = after;
        if planted::is(Bug::ResumeSkipsOne)
            && let Some(first) = cache.ring().newest_after(after).pop()
        {
            after = first.revision;
        }
        let cursor = cache.ring().cursor(after);
        let reconnects = shared.reconnects.load(Ordering::Relaxed);
        Self {
            shared,
            cache,
            history,
            scope,
            cursor,
            bell,
            reconnects,
        }
    }

    /// The next events, at least one and at most `most`, in order. Waits for them as long as it
    /// takes, also while the database is away. Cancel-safe.
    pub async fn next_batch(
        &mut self,
        most: usize,
    ) -> Result<Vec<Arc<Event<P::View>>>, WatchError> {
        let most = most.max(1);
        loop {
            self.repeat_after_reconnect();
            let start = {
                let mut rung = std::pin::pin!(self.bell.notified());
                // Before looking, so that no ring in between is missed.
                rung.as_mut().enable();
                let scope = &self.scope;
                let read = self
                    .cache
                    .ring()
                    .read(&mut self.cursor, most, |event| scope.has(event.key()));
                match read {
                    Ok(events) if events.is_empty() => {
                        rung.await;
                        continue;
                    }
                    Ok(events) => return Ok(events),
                    Err(Miss::Below(start)) => start,
                    Err(Miss::OtherLife) => return Err(self.gone()),
                }
            };
            let events = self.read_history(start, most).await?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// The next events if there are any now; never waits and never reads the database.
    pub fn ready_batch(&mut self, most: usize) -> Vec<Arc<Event<P::View>>> {
        self.repeat_after_reconnect();
        let scope = &self.scope;
        let read = self
            .cache
            .ring()
            .read(&mut self.cursor, most, |event| scope.has(event.key()));
        read.unwrap_or_default()
    }

    /// Every event in scope up to here has been returned: a bookmark may name it. Advances
    /// without events, but never over one that waits to be returned.
    pub fn position(&mut self) -> Revision {
        let scope = &self.scope;
        let mut ahead = self.cursor;
        let waiting = self
            .cache
            .ring()
            .read(&mut ahead, 1, |event| scope.has(event.key()));
        if waiting.is_ok_and(|events| events.is_empty()) {
            self.cursor = ahead;
        }
        if planted::is(Bug::BookmarkOneTooHigh) {
            return Revision::new(self.cursor.after.get() + 1);
        }
        self.cursor.after
    }

    /// A planted bug.
    fn repeat_after_reconnect(&mut self) {
        if !planted::is(Bug::EventDuplicatedAtReconnect) {
            return;
        }
        let reconnects = self.shared.reconnects.load(Ordering::Relaxed);
        if reconnects > std::mem::replace(&mut self.reconnects, reconnects) {
            let before = Revision::new(self.cursor.after.get() - 1);
            self.cursor.jump(before);
        }
    }

    fn gone(&self) -> WatchError {
        WatchError::Gone {
            oldest: self.shared.compacted(),
        }
    }

    /// Reads one stretch below the ring, which ends at `start`, and moves the cursor over it.
    async fn read_history(
        &mut self,
        start: Revision,
        most: usize,
    ) -> Result<Vec<Arc<Event<P::View>>>, WatchError> {
        let after = self.cursor.after;
        if after < self.shared.compacted() && !planted::is(Bug::No410BelowCompaction) {
            return Err(self.gone());
        }
        match self.history.events(after, start).await {
            Ok(stretch) => {
                let mut found = Vec::new();
                for event in stretch.events.iter().filter(|event| event.revision > after) {
                    if found.len() == most {
                        return Ok(found);
                    }
                    self.cursor.jump(event.revision);
                    if self.scope.has(event.key()) {
                        found.push(Arc::clone(event));
                    }
                }
                self.cursor.jump(stretch.to.max(self.cursor.after));
                Ok(found)
            }
            Err(HistoryError::Gone) => Err(self.gone()),
            Err(HistoryError::Unavailable) => {
                self.history.await_retry().await;
                Ok(Vec::new())
            }
        }
    }
}

impl<P: Project> Drop for Watcher<P> {
    fn drop(&mut self) {
        self.cache
            .return_bell(&self.scope, std::mem::take(&mut self.bell));
    }
}
