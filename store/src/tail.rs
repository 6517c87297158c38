//! The tail of the log: brings what any process wrote into this process' caches.
//!
//! It listens for notifications and reads the log on the same connection, so that the one cannot
//! be lost without the other. A notification says only that there is something to read; the log
//! itself is read from where the caches are, so a lost one costs at most the pause of the poll.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use sqlx::{Acquire, Row};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::apply::{Mark, barrier_on};
use crate::failpoints::{Point, at, pass};
use crate::link::{self, Epoch, Link, is_damage, is_replaced, within};
use crate::load::load;
use crate::log::{LoggedEvent, TAIL};
use crate::planted::{self, Bug};
use crate::shared::Shared;
use crate::types::Revision;
use crate::writer::is_own;

const CHANNEL: &str = "store";
/// In the place of a batch: the database was restored or failed over.
const NEW_LIFE: i64 = 0;
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

/// What can be seen of the log.
struct Log {
    /// Durable or not.
    newest: Revision,
    /// All below it is gone.
    dropped: i64,
}

pub(crate) struct Tail {
    shared: Arc<Shared>,
    /// Where the listener's connection is from.
    pool: Option<PgPool>,
    /// Told when the caches have been loaded for the first time.
    ready: Arc<Ready>,
}

/// Who waits for the caches to be loaded for the first time.
pub(crate) type Ready = Mutex<Option<oneshot::Sender<Result<(), sqlx::Error>>>>;

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, ready: Arc<Ready>) -> Self {
        Self {
            shared,
            pool: None,
            ready,
        }
    }

    fn tell_ready(&self, outcome: Result<(), sqlx::Error>) -> bool {
        let waiting = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let first = waiting.is_some();
        if let Some(waiting) = waiting {
            let _ = waiting.send(outcome);
        }
        first
    }

    pub(crate) async fn run(mut self) {
        self.shared.tailing.send_replace(false);
        let end = self.shared.end.clone();
        tokio::select! {
            () = self.follow_for_ever() => {}
            () = end.cancelled() => {}
        }
        self.shared.tailing.send_replace(false);
        // Else the pool would test the connection that it gets back while all ends around it.
        if let Some(pool) = self.pool.take() {
            let _ = timeout(CONNECT_TIMEOUT, pool.close()).await;
        }
    }

    async fn follow_for_ever(&mut self) {
        let mut replaced = false;
        loop {
            let Err(error) = self.follow().await;
            self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
            let was_replaced = std::mem::replace(&mut replaced, is_replaced(&error));
            if replaced && !was_replaced {
                tracing::error!(%error, "a standby took over from this primary: it is not followed; \
                    lead the address to the new one, or call store.accept_timeline here");
            }
            if self.shared.tailing.send_replace(false) {
                tracing::warn!(%error, "connection to the event log lost");
            } else {
                tracing::debug!(%error, "no connection to the event log");
            }
            if self.tell_ready(Err(error)) {
                return;
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Follows the log until the connection is lost or the database is in doubt.
    async fn follow(&mut self) -> Result<std::convert::Infallible, sqlx::Error> {
        at(Point::TailOpen).await?;
        let pool = self.connect().await?;
        self.pool = Some(pool.clone());
        let mut listener = within(CONNECT_TIMEOUT, PgListener::connect_with(&pool)).await?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        at(Point::ListenSend).await?;
        within(CONNECT_TIMEOUT, listener.listen(CHANNEL)).await?;
        at(Point::JoinSend).await?;
        let joining = sqlx::query(
            "SELECT pg_advisory_lock_shared(7777, 4), pg_advisory_lock_shared(7777, 5),
                pg_notify('store', $1)",
        );
        within(CONNECT_TIMEOUT, joining.bind(JOINED).execute(&mut listener)).await?;
        at(Point::JoinAnswer).await?;
        let opening = link::open_epoch(&mut listener, &self.shared);
        let epoch = within(CONNECT_TIMEOUT, opening).await?;
        if self.shared.epoch.load().as_deref() != Some(&epoch) || !self.shared.is_whole() {
            self.load(&epoch).await?;
        }
        self.shared.swallow_next();
        self.poll(&mut listener, &epoch).await?;
        self.shared.tailing.send_replace(true);
        tracing::info!(epoch = epoch.number, applied = %self.shared.applied(), "following the event log");
        self.tell_ready(Ok(()));
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
        // Its server process keeps the memory that this takes: it ends with it.
        let mut link = Link::open(&self.shared).await?;
        if link.epoch != *epoch {
            return Err(lost());
        }
        let loading = load(&mut link.connection, &self.shared, epoch);
        let everything = within(LOAD_TIMEOUT, loading).await?;
        // The epoch comes last: were it known first, a panic in between would leave caches of
        // another one that nobody loads anew.
        self.shared.reset(everything);
        pass(Point::EpochLoaded);
        let before = self.shared.epoch.swap(Some(Arc::new(epoch.clone())));
        let database = Arc::new(epoch.database.clone());
        self.shared.followed.store(Some(database));
        if let Some(before) = before {
            tracing::warn!(
                before = before.number,
                now = epoch.number,
                "the database was restored or failed over: all watchers have to list again"
            );
        }
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
                    at(Point::TailNotified).await?;
                    let mut newest = None;
                    while let Some(one) = notified {
                        if one.payload() == JOINED {
                            poll.reset_immediately();
                        }
                        newest = newest.max(self.foreign(one.payload(), epoch)?);
                        notified = listener.next_buffered();
                    }
                    if newest.is_some() && self.shared.has_standbys.load(Ordering::Relaxed) {
                        // Whoever notified may have been kept from waiting for the standby.
                        self.poll(listener, epoch).await?;
                        None
                    } else {
                        newest
                    }
                }
                () = self.shared.look.notified() => Some(self.shared.allotted()),
                () = self.shared.doubt.notified() => {
                    let opening = link::open_epoch(&mut *listener, &self.shared);
                    if within(SILENCE, opening).await? != *epoch || !self.shared.is_whole() {
                        return Err(lost());
                    }
                    None
                }
                () = self.shared.settle.notified() => {
                    self.poll(listener, epoch).await?;
                    None
                }
                _ = poll.tick() => {
                    self.poll(listener, epoch).await?;
                    self.shared.tick(Instant::now());
                    None
                }
            };
            if let Some(known) = known {
                self.catch_up(listener, epoch, known).await?;
            }
        }
    }

    /// The durable revision that a notification tells of, unless this process knows it already.
    fn foreign(&self, payload: &str, epoch: &Epoch) -> Result<Option<Revision>, sqlx::Error> {
        let parts = payload.split_once(' ');
        let parts = parts.and_then(|(r, b)| Some((r.parse().ok()?, b.parse().ok()?)));
        let Some((revision, batch)) = parts else {
            return Ok(None);
        };
        let revision = Revision::new(revision);
        if batch == NEW_LIFE && revision > epoch.start {
            return Err(lost());
        }
        if planted::is(Bug::NotifyOnly) && revision.get() % 8 == 0 {
            return Ok(None);
        }
        let news = !is_own(&self.shared, batch) && revision > self.shared.tip();
        Ok(news.then_some(revision))
    }

    /// Takes in all that is in the log, of which nobody may have said that it is durable: so this
    /// connection, which has seen it, first waits until it is.
    async fn poll(&self, listener: &mut PgListener, epoch: &Epoch) -> Result<(), sqlx::Error> {
        let Log { newest, .. } = within(SILENCE, self.check(listener, epoch)).await?;
        if planted::is(Bug::NotifyOnly) && *self.shared.tailing.borrow() {
            return Ok(());
        }
        if newest <= self.shared.applied() {
            return Ok(());
        }
        at(Point::TailBarrierSend).await?;
        let connection = within(SILENCE, (&mut *listener).acquire()).await?;
        let waiting = barrier_on(connection, &epoch.life, Mark::default());
        within(SILENCE, waiting).await?;
        at(Point::TailBarrierAnswer).await?;
        self.catch_up(listener, epoch, newest).await
    }

    /// Is it still the same database, what has been compacted, are there others?
    async fn check(&self, listener: &mut PgListener, epoch: &Epoch) -> Result<Log, sqlx::Error> {
        at(Point::CheckSend).await?;
        let row = sqlx::query(
            "SELECT store.life() AS life, compaction.revision AS compacted, compaction.dropped, followers.*,
                current_setting('synchronous_standby_names') <> '' AS standbys,
                (SELECT max(e.revision) FROM store.events e) AS newest
             FROM store.compaction, (
                SELECT count(*) FILTER (WHERE objid = 4) AS all, count(*) FILTER (WHERE objid = 5) AS young
                FROM pg_locks WHERE locktype = 'advisory' AND classid = 7777 AND objid IN (4, 5)
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             ) followers",
        )
        .fetch_one(listener)
        .await?;
        at(Point::CheckAnswer).await?;
        if row.try_get::<&str, _>("life")? != epoch.life {
            return Err(lost());
        }
        self.shared
            .note_compacted(Revision::new(row.try_get("compacted")?));
        let (all, young): (i64, i64) = (row.try_get("all")?, row.try_get("young")?);
        self.shared.accompanied.store(all > 1, Ordering::Relaxed);
        self.shared.has_elders.store(all > young, Ordering::Relaxed);
        let standbys = row.try_get("standbys")?;
        self.shared.has_standbys.store(standbys, Ordering::Relaxed);
        let newest = row.try_get::<Option<i64>, _>("newest")?;
        Ok(Log {
            newest: Revision::new(newest.unwrap_or(0)),
            dropped: row.try_get("dropped")?,
        })
    }

    /// Takes in what is in the log up to `known`, a revision that is known to be durable.
    async fn catch_up(
        &self,
        listener: &mut PgListener,
        epoch: &Epoch,
        known: Revision,
    ) -> Result<(), sqlx::Error> {
        let from = self.shared.applied();
        if known <= self.shared.tip() {
            return Ok(());
        }
        at(Point::TailReadSend).await?;
        let mut rows = sqlx::query(TAIL)
            .bind(from.get())
            .bind(known.get())
            .fetch(&mut *listener);
        let mut last = from;
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(row) = within(SILENCE, rows.try_next())
            .await
            .inspect_err(|error| self.note_damage(error))?
        {
            self.ensure_whole_from(from, row.try_get("dropped")?)?;
            at(Point::TailReadRow).await?;
            let event = LoggedEvent::read(&row)?;
            bytes += event.body.as_ref().map_or(0, Bytes::len);
            last = event.revision;
            chunk.push(event);
            if chunk.len() == CHUNK || bytes >= CHUNK_BYTES {
                self.publish(std::mem::take(&mut chunk), last)?;
                bytes = 0;
            }
        }
        drop(rows);
        at(Point::TailReadAnswer).await?;
        if last < known {
            // Revisions that were never used, or another database than the one that was meant.
            let log = within(SILENCE, self.check(listener, epoch)).await?;
            self.ensure_whole_from(from, log.dropped)?;
        }
        self.publish(chunk, known)
    }

    fn publish(&self, events: Vec<LoggedEvent>, tip: Revision) -> Result<(), sqlx::Error> {
        pass(Point::PublishRead);
        // It takes them in unless a panic has spoiled the caches.
        let taken = self.shared.apply(None, events, tip);
        taken.then_some(()).ok_or_else(lost)
    }

    /// What cannot be read from the log is not waited for: the caches are loaded anew.
    fn note_damage(&self, error: &sqlx::Error) {
        if is_damage(error) {
            tracing::error!(%error, "the event log is damaged: the current objects are read anew");
            self.shared.epoch.store(None);
        }
    }

    /// If what came next may be gone from the log, the caches have to be loaded anew.
    fn ensure_whole_from(&self, from: Revision, dropped: i64) -> Result<(), sqlx::Error> {
        if dropped <= from.get().saturating_add(1) {
            return Ok(());
        }
        tracing::warn!(%from, "this process was away for longer than history is kept");
        self.shared.epoch.store(None);
        Err(lost())
    }
}

fn lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())
}
