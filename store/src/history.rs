//! What lies below the ring but within retention, read from Postgres: bounded, and one read for
//! all who ask for the same.

mod provenance;

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use crate::cache::{Cache, Reach};
use crate::failpoints::{Point, at};
use crate::link::{Link, is_damage};
use crate::log::{body_of, key_of, kind_of};
use crate::planted::{self, Bug};
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::types::{Entry, Event, EventKind, Project, Revision, Stored};

/// One read of events returns at most this many.
const STRETCH: i64 = 500;
/// And ends with the one that exceeds this many bytes of bodies.
const STRETCH_BYTES: i64 = 8 * 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A past state is computed in steps of so many revisions, each a statement of its own: how far back
/// it is makes it take longer, not fail.
const STEP: i64 = 50_000;
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub(crate) use provenance::Newest;
pub use provenance::Recorded;

/// Why history could not be read.
#[derive(Debug)]
pub(crate) enum HistoryError {
    /// Compacted, or damaged.
    Gone,
    /// The database cannot be reached.
    Unavailable,
}

/// All events of the collection after `from` and up to `to`.
pub(crate) struct Stretch<V> {
    pub(crate) from: Revision,
    pub(crate) to: Revision,
    pub(crate) events: Vec<Arc<Event<V>>>,
}

pub(crate) struct History<P: Project> {
    shared: Arc<Shared>,
    cache: Arc<Cache<P>>,
    resource: i32,
    /// Held during a read, so there is one at a time.
    link: AsyncMutex<Option<Link>>,
    /// As long as a past state is computed; watchers do not wait for that.
    rewinding: AsyncMutex<Option<Link>>,
}

impl<P: Project> History<P> {
    pub(crate) fn new(shared: Arc<Shared>, cache: Arc<Cache<P>>, resource: i32) -> Self {
        Self {
            shared,
            cache,
            resource,
            link: AsyncMutex::default(),
            rewinding: AsyncMutex::default(),
        }
    }

    /// A first stretch of the events after `after` and up to `start`, the start of the ring.
    pub(crate) async fn events(
        &self,
        after: Revision,
        start: Revision,
    ) -> Result<Arc<Stretch<P::View>>, HistoryError> {
        let mut link = self.link.lock().await;
        let life = self.cache.ring().life();
        if let Some(kept) = self.kept(life, after) {
            return Ok(kept);
        }
        let reading = async {
            let link = self.linked(&mut link).await?;
            at(Point::HistorySend).await?;
            let stretch = self.read_events(&mut link.connection, after, start).await?;
            let compacted = self.read_compacted(&mut link.connection).await?;
            at(Point::HistoryAnswer).await?;
            Ok((stretch, compacted))
        };
        let read = timeout(READ_TIMEOUT, reading).await;
        let (stretch, compacted) = self.checked(read, &mut link)?;
        // Events are dropped only after the compacted revision has been raised over them: since it
        // is not above `after` even now, nothing was missing from the read before.
        let stretch = stretch
            .filter(|_| compacted <= after || planted::is(Bug::No410BelowCompaction))
            .ok_or(HistoryError::Gone)?;
        let stretch = Arc::new(stretch);
        let key = (life, stretch.from, stretch.to);
        Ok(self.cache.stretches.find_or(key, || stretch))
    }

    /// The collection at `revision`, computed from a later snapshot.
    pub(crate) async fn rewind(
        &self,
        later: Snapshot<P::View>,
        revision: Revision,
    ) -> Result<Snapshot<P::View>, HistoryError> {
        let mut link = self.rewinding.lock().await;
        let mut state = later;
        while state.revision() > revision {
            let before = Revision::new(state.revision().get().saturating_sub(STEP)).max(revision);
            let reading = async {
                let link = self.linked(&mut link).await?;
                at(Point::RewindSend).await?;
                let state = self.step_back(&mut link.connection, state, before).await?;
                let compacted = self.read_compacted(&mut link.connection).await?;
                at(Point::RewindAnswer).await?;
                Ok((state, compacted))
            };
            let read = timeout(READ_TIMEOUT, reading).await;
            let (earlier, compacted) = self.checked(read, &mut link)?;
            state = earlier
                .filter(|_| compacted <= revision)
                .ok_or(HistoryError::Gone)?;
        }
        Ok(state)
    }

    /// Waits until a read that failed may be tried again.
    pub(crate) async fn await_retry(&self) {
        let mut tailing = self.shared.tailing.subscribe();
        if *tailing.borrow_and_update() {
            tokio::time::sleep(RETRY_PAUSE).await;
        } else {
            let _ = tailing.wait_for(|up| *up).await;
        }
    }

    fn kept(&self, life: u64, after: Revision) -> Option<Arc<Stretch<P::View>>> {
        let fits = |(of, from, to): &Reach| *of == life && *from <= after && after < *to;
        self.cache
            .stretches
            .find(fits)
            .filter(|_| after >= self.shared.compacted())
    }

    async fn linked<'a>(&self, link: &'a mut Option<Link>) -> Result<&'a mut Link, sqlx::Error> {
        if !*self.shared.tailing.borrow() {
            // Nobody who waits for their turn has to find that out anew.
            return Err(sqlx::Error::Protocol("the database is away".to_owned()));
        }
        let known = self.shared.epoch.load_full();
        let usable = link
            .take()
            .filter(|link| Some(&link.epoch) == known.as_deref());
        let usable = match usable {
            Some(usable) => usable,
            None => Link::open(&self.shared).await?,
        };
        self.shared.ensure_known(&usable)?;
        Ok(link.insert(usable))
    }

    /// A link whose read did not end well is closed.
    fn checked<T>(
        &self,
        read: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
        link: &mut Option<Link>,
    ) -> Result<T, HistoryError> {
        let failure = match read {
            Ok(Ok(read)) => return Ok(read),
            Ok(Err(error)) if is_damage(&error) => {
                tracing::error!(%error, "history is damaged: who needs it has to list again");
                return Err(HistoryError::Gone);
            }
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        *link = None;
        tracing::debug!(%failure, "history was not read");
        Err(HistoryError::Unavailable)
    }

    /// `None` when something is missing that retention promises only above the compacted revision.
    async fn read_events(
        &self,
        connection: &mut PgConnection,
        after: Revision,
        start: Revision,
    ) -> Result<Option<Stretch<P::View>>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT * FROM (
                SELECT e.kind, e.revision, e.namespace, e.name, e.uid, e.previous_revision,
                    e.body, e.sum, coalesce(e.previous_body, p.body) AS previous_body,
                    CASE WHEN e.previous_body IS NULL THEN p.sum ELSE e.previous_sum END AS previous_sum,
                    sum(octet_length(e.body)) OVER (ORDER BY e.revision) AS bytes
                FROM store.events e LEFT JOIN store.events p ON p.revision = e.previous_revision
                WHERE e.resource = $1 AND e.revision > $2 AND e.revision <= $3
                ORDER BY e.revision LIMIT $4) few
             WHERE bytes - octet_length(body) < $5 ORDER BY revision",
        )
        .bind(self.resource)
        .bind(after.get())
        .bind(start.get())
        .bind(STRETCH)
        .bind(STRETCH_BYTES)
        .fetch_all(connection)
        .await?;
        let bytes = rows
            .last()
            .map_or(Ok(0), |row| row.try_get::<i64, _>("bytes"))?;
        // One limit or the other may have left events out.
        let cut = bytes >= STRETCH_BYTES || i64::try_from(rows.len()).is_ok_and(|n| n == STRETCH);
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(event) = self.event_of(row)? else {
                return Ok(None);
            };
            events.push(Arc::new(event));
        }
        let last = events.last().map(|event| event.revision);
        let to = last.filter(|_| cut).unwrap_or(start);
        Ok(Some(Stretch {
            from: after,
            to,
            events,
        }))
    }

    fn event_of(&self, row: &PgRow) -> Result<Option<Event<P::View>>, sqlx::Error> {
        let kind = kind_of(row)?;
        let revision = Revision::new(row.try_get("revision")?);
        let previous = self.previous_of(row)?;
        if previous.is_none() && kind != EventKind::Added {
            return Ok(None);
        }
        let (key, uid) = (key_of(row)?, row.try_get("uid")?);
        let body = body_of(row, ["body", "sum"], &key, uid)?;
        let current = self.cache.stored(key, uid, revision, body);
        Ok(Some(Event {
            kind,
            revision,
            previous,
            current,
        }))
    }

    fn previous_of(&self, row: &PgRow) -> Result<Option<Arc<Stored<P::View>>>, sqlx::Error> {
        let revision = row.try_get::<Option<i64>, _>("previous_revision")?;
        let is_there = row.try_get::<Option<&[u8]>, _>("previous_body")?.is_some();
        let Some(revision) = revision.filter(|_| is_there) else {
            return Ok(None);
        };
        let (key, uid) = (key_of(row)?, row.try_get("uid")?);
        let body = body_of(row, ["previous_body", "previous_sum"], &key, uid)?;
        let revision = Revision::new(revision);
        Ok(Some(self.cache.stored(key, uid, revision, body)))
    }

    /// The state at `revision`, from one that is a little later.
    async fn step_back(
        &self,
        connection: &mut PgConnection,
        later: Snapshot<P::View>,
        revision: Revision,
    ) -> Result<Option<Snapshot<P::View>>, sqlx::Error> {
        // The first event of each key in between tells what was there before it.
        let mut rows = sqlx::query(
            "SELECT e.kind, e.namespace, e.name, e.uid, e.previous_revision,
                coalesce(e.previous_body, p.body) AS previous_body,
                CASE WHEN e.previous_body IS NULL THEN p.sum ELSE e.previous_sum END AS previous_sum
             FROM (SELECT min(revision) AS revision FROM store.events
                   WHERE resource = $1 AND revision > $2 AND revision <= $3
                   GROUP BY namespace, name) first
             JOIN store.events e ON e.revision = first.revision
             LEFT JOIN store.events p ON p.revision = e.previous_revision",
        )
        .bind(self.resource)
        .bind(revision.get())
        .bind(later.revision().get())
        .fetch(connection);
        let (mut objects, mut own_bytes) = (later.objects().clone(), later.own_bytes());
        let mut whole = true;
        while let Some(row) = rows.try_next().await? {
            match self.previous_of(&row)? {
                Some(previous) => {
                    own_bytes += previous.size;
                    objects.insert(Entry(previous));
                }
                None => {
                    whole &= kind_of(&row)? == EventKind::Added;
                    objects.remove(&key_of(&row)?);
                }
            }
        }
        Ok(whole.then(|| Snapshot::of_the_past(objects, revision, own_bytes)))
    }

    async fn read_compacted(&self, connection: &mut PgConnection) -> Result<Revision, sqlx::Error> {
        let compacted: i64 = sqlx::query_scalar("SELECT revision FROM store.compaction")
            .fetch_one(connection)
            .await?;
        self.shared.note_compacted(Revision::new(compacted));
        Ok(Revision::new(compacted))
    }
}
