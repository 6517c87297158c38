//! The tail of the log: brings what any process wrote into this process' caches.
//!
//! It listens for notifications and reads the log on the same connection, so that the one cannot
//! be lost without the other. A notification says only that there is something to read; the log
//! itself is read from where the caches are, so a lost one costs at most the pause of the poll.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::link::{self, Epoch, Link, timed_out};
use crate::load::{Everything, load};
use crate::log::{LoggedEvent, TAIL};
use crate::shared::Shared;
use crate::types::Revision;
use crate::writer::is_own;

const CHANNEL: &str = "store";
/// Says that one more process follows the log.
const JOINED: &str = "joined";
/// Without any notification the log is read this often.
const POLL: Duration = Duration::from_secs(1);
/// A database that does not answer for this long is taken for lost.
const SILENCE: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const LOAD_TIMEOUT: Duration = Duration::from_secs(180);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Events are taken in at most this many, or this many bytes of bodies, at a time.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

pub(crate) struct Tail {
    shared: Arc<Shared>,
    /// Where the listener's connection is from.
    pool: Option<PgPool>,
    /// Told when the caches have been loaded for the first time.
    ready: Option<oneshot::Sender<Result<(), sqlx::Error>>>,
}

impl Tail {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ready: oneshot::Sender<Result<(), sqlx::Error>>,
    ) -> Self {
        Self {
            shared,
            pool: None,
            ready: Some(ready),
        }
    }

    pub(crate) async fn run(mut self) {
        let stop = self.shared.stop.clone();
        tokio::select! {
            () = self.follow_for_ever() => {}
            () = stop.cancelled() => {}
        }
        self.shared.tailing.send_replace(false);
        // Else the pool would test the connection that it gets back while all ends around it.
        if let Some(pool) = self.pool.take() {
            let _ = timeout(CONNECT_TIMEOUT, pool.close()).await;
        }
    }

    async fn follow_for_ever(&mut self) {
        loop {
            let Err(error) = self.follow().await;
            if self.shared.tailing.send_replace(false) {
                tracing::warn!(%error, "connection to the event log lost");
            } else {
                tracing::debug!(%error, "no connection to the event log");
            }
            if let Some(ready) = self.ready.take() {
                let _ = ready.send(Err(error));
                return;
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Follows the log until the connection is lost or the database is in doubt.
    async fn follow(&mut self) -> Result<std::convert::Infallible, sqlx::Error> {
        let pool = self.connect().await?;
        self.pool = Some(pool.clone());
        let mut listener = within(CONNECT_TIMEOUT, PgListener::connect_with(&pool)).await?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        within(CONNECT_TIMEOUT, listener.listen(CHANNEL)).await?;
        let joining =
            sqlx::query("SELECT pg_advisory_lock_shared(7777, 4), pg_notify('store', $1)");
        within(CONNECT_TIMEOUT, joining.bind(JOINED).execute(&mut listener)).await?;
        let epoch = within(CONNECT_TIMEOUT, link::open_epoch(&mut listener)).await?;
        if self.shared.epoch.load().as_deref() != Some(&epoch) {
            self.load(&epoch).await?;
        }
        self.catch_up(&mut listener, Revision::ZERO).await?;
        self.shared.tailing.send_replace(true);
        tracing::info!(epoch = epoch.number, applied = %self.shared.applied(), "following the event log");
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(()));
        }
        self.listen(&mut listener, &epoch).await
    }

    async fn connect(&self) -> Result<PgPool, sqlx::Error> {
        // The listener can only be had from a pool: one of its own, with one connection.
        PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(|connection, _| Box::pin(link::set_up(connection)))
            .connect_with(self.shared.options.clone())
            .await
    }

    async fn load(&self, epoch: &Epoch) -> Result<(), sqlx::Error> {
        let mut link = Link::open(&self.shared.options).await?;
        if link.epoch != *epoch {
            return Err(lost());
        }
        let loading = load(&mut link.connection, &self.shared, epoch);
        let Everything {
            collections,
            position,
            compacted,
        } = within(LOAD_TIMEOUT, loading).await?;
        let before = self.shared.epoch.swap(Some(Arc::new(epoch.clone())));
        if let Some(before) = before {
            tracing::warn!(
                before = before.number,
                now = epoch.number,
                "the database was restored or failed over: all watchers have to list again"
            );
        }
        self.shared.reset(collections, position, compacted);
        Ok(())
    }

    async fn listen(
        &self,
        listener: &mut PgListener,
        epoch: &Epoch,
    ) -> Result<std::convert::Infallible, sqlx::Error> {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let known = tokio::select! {
                notified = listener.try_recv() => {
                    let mut notified = Some(notified?.ok_or_else(lost)?);
                    let mut newest = None;
                    while let Some(one) = notified {
                        if one.payload() == JOINED {
                            poll.reset_immediately();
                        }
                        newest = newest.max(self.foreign(one.payload()));
                        notified = listener.next_buffered();
                    }
                    newest
                }
                () = self.shared.look.notified() => Some(self.shared.allotted()),
                () = self.shared.doubt.notified() => {
                    if within(SILENCE, link::open_epoch(&mut *listener)).await? != *epoch {
                        return Err(lost());
                    }
                    None
                }
                _ = poll.tick() => {
                    within(SILENCE, self.check(listener, epoch)).await?;
                    Some(Revision::ZERO)
                }
            };
            if let Some(known) = known {
                self.catch_up(listener, known).await?;
            }
        }
    }

    /// The revision that a notification tells of, unless this process knows it already.
    fn foreign(&self, payload: &str) -> Option<Revision> {
        let (revision, batch) = payload.split_once(' ')?;
        let revision = Revision::new(revision.parse().ok()?);
        let own = batch.parse().is_ok_and(|batch| is_own(&self.shared, batch));
        (!own && revision > self.shared.applied()).then_some(revision)
    }

    /// Once a second: is it still the same database, what has been compacted, are there others?
    async fn check(&self, listener: &mut PgListener, epoch: &Epoch) -> Result<(), sqlx::Error> {
        let row = sqlx::query(
            "SELECT store.incarnation() AS incarnation, revision AS compacted,
                (SELECT count(*) > 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 7777
                    AND objid = 4 AND database = (SELECT oid FROM pg_database
                    WHERE datname = current_database())) AS accompanied
             FROM store.compaction",
        )
        .fetch_one(listener)
        .await?;
        if row.try_get::<&str, _>("incarnation")? != epoch.incarnation {
            return Err(lost());
        }
        self.shared
            .note_compacted(Revision::new(row.try_get("compacted")?));
        self.shared
            .accompanied
            .store(row.try_get("accompanied")?, Ordering::Relaxed);
        self.shared.tick(Instant::now());
        Ok(())
    }

    /// Takes in all that is in the log after what the caches have. `known` is a revision that was
    /// allotted before: whatever is up to there is visible by now.
    async fn catch_up(
        &self,
        listener: &mut PgListener,
        known: Revision,
    ) -> Result<(), sqlx::Error> {
        let from = self.shared.applied();
        let mut rows = sqlx::query(TAIL).bind(from.get()).fetch(listener);
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(row) = within(SILENCE, rows.try_next()).await? {
            if Revision::new(row.try_get("compacted")?) > from {
                // What came next may be gone from the log: the caches have to be loaded anew.
                tracing::warn!(%from, "this process was away for longer than history is kept");
                self.shared.epoch.store(None);
                return Err(lost());
            }
            let event = LoggedEvent::read(&row)?;
            bytes += event.body.len();
            let position = event.revision;
            chunk.push(event);
            if chunk.len() == CHUNK || bytes >= CHUNK_BYTES {
                self.shared
                    .apply(None, std::mem::take(&mut chunk), position);
                bytes = 0;
            }
        }
        let last = chunk.last().map_or(Revision::ZERO, |event| event.revision);
        self.shared.apply(None, chunk, last.max(known));
        Ok(())
    }
}

async fn within<T>(
    limit: Duration,
    doing: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, doing)
        .await
        .unwrap_or_else(|_| Err(timed_out()))
}

fn lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())
}
