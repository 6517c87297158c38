//! Reading a whole collection and its latest events, for a start or after a restore.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, Row};
use uuid::Uuid;

use crate::apply::{Mark, barrier_on};
use crate::failpoints::{Point, at};
use crate::link::{Epoch, is_damage};
use crate::log::{body_of, key_of, kind_of};
use crate::shared::Shared;
use crate::types::{EventKind, Key, Revision};

/// One current object.
pub(crate) struct Head {
    pub(crate) key: Key,
    pub(crate) uid: Uuid,
    pub(crate) revision: Revision,
    pub(crate) body: Body,
}

/// `None` if it is lost, or is not the one that was stored.
pub(crate) type Body = Option<Bytes>;

/// A start reads at most so many events: watches that come back were here seconds ago, and those
/// that come from further back are served from the database.
const EVENTS_AT_START: usize = 4096;

/// Objects whose bodies are read at once where some of them are damaged.
const SOME: usize = 512;

/// One event, with what is needed to undo it. The state after it is the head or the next event's
/// previous state, except for a deletion, which has its own.
pub(crate) struct PastEvent {
    pub(crate) kind: EventKind,
    pub(crate) revision: Revision,
    pub(crate) key: Key,
    pub(crate) uid: Uuid,
    /// Of a deletion.
    pub(crate) last_state: Option<Body>,
    /// `None` for an added object.
    pub(crate) previous: Option<(Revision, Body)>,
    pub(crate) age: Duration,
}

/// One collection at one moment.
pub(crate) struct Loaded {
    pub(crate) heads: Vec<Head>,
    /// Newest first, without a gap.
    pub(crate) events: Vec<PastEvent>,
    start: Revision,
}

impl Loaded {
    /// All events after it are there.
    pub(crate) fn start(&self) -> Revision {
        self.start
    }
}

/// All collections at one moment.
pub(crate) struct Everything {
    pub(crate) collections: Vec<(i32, Loaded)>,
    pub(crate) position: Revision,
    /// The newest event, and the batch that wrote it.
    pub(crate) newest: (Revision, i64),
    pub(crate) compacted: Revision,
    /// Where the events of the ring's time begin, whether or not all of them were read.
    pub(crate) floor: Revision,
}

/// Loads all registered collections as of one snapshot.
pub(crate) async fn load(
    connection: &mut PgConnection,
    shared: &Shared,
    epoch: &Epoch,
) -> Result<Everything, sqlx::Error> {
    at(Point::LoadBegin).await?;
    let mut transaction = connection.begin().await?;
    // The session's limit is for writes. A plan that sorts events would write their bodies to disk.
    // The lock comes before the snapshot: else a partition dropped in between would be missing.
    transaction
        .execute(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
            SET LOCAL statement_timeout = '120s'; SET LOCAL max_parallel_workers_per_gather = 0;
            SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off;
            LOCK TABLE store.events IN ACCESS SHARE MODE",
        )
        .await?;
    at(Point::LoadPosition).await?;
    let row = sqlx::query(
        "SELECT newest.revision AS newest, newest.batch,
            (SELECT revision FROM store.compaction) AS compacted
         FROM (SELECT max(revision) AS revision FROM store.events) newest_revision
         LEFT JOIN LATERAL (SELECT e.revision, e.batch FROM store.events e
             WHERE e.revision = newest_revision.revision) newest ON true",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let compacted = Revision::new(row.try_get("compacted")?);
    let newest = Revision::new(row.try_get::<Option<_>, _>("newest")?.unwrap_or(0));
    let batch = row.try_get::<Option<_>, _>("batch")?.unwrap_or(0);
    let position = newest.max(compacted).max(epoch.start);
    let ring_time = shared.config.ring_time;
    let start = apart(&mut transaction, async |connection| {
        ring_start(connection, ring_time).await
    });
    let start = tolerant(start.await)?;
    let start = start.map_or(position, |start| start.max(compacted));
    let mut all = Vec::new();
    for resource in shared.resources() {
        at(Point::LoadHeads).await?;
        let heads = heads(&mut transaction, resource).await?;
        at(Point::LoadEvents).await?;
        let most = shared.config.ring_bytes;
        let read = apart(&mut transaction, async |connection| {
            events(connection, resource, start, most).await
        });
        // Without them, the ring begins here.
        let (events, start) = tolerant(read.await)?.unwrap_or_else(|| (Vec::new(), position));
        all.push((
            resource,
            Loaded {
                heads,
                events,
                start,
            },
        ));
    }
    transaction.rollback().await?;
    // What was just read may have been committed without being durable.
    at(Point::LoadBarrier).await?;
    barrier_on(connection, &epoch.life, Mark::default()).await?;
    at(Point::LoadAnswer).await?;
    Ok(Everything {
        collections: all,
        position,
        newest: (newest, batch),
        compacted,
        floor: start,
    })
}

/// `None` for what is damaged on the disk.
fn tolerant<T>(read: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match read {
        Err(error) if is_damage(&error) => {
            tracing::error!(%error, "the database is damaged: what can be read is served");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Reads within a savepoint: what fails leaves the transaction as it was.
async fn apart<T>(
    connection: &mut PgConnection,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    let read = read(&mut savepoint).await;
    savepoint.rollback().await?;
    read
}

/// Where the events of the last `time` begin.
async fn ring_start(
    connection: &mut PgConnection,
    time: Duration,
) -> Result<Revision, sqlx::Error> {
    sqlx::query_scalar("SELECT store.revision_before(make_interval(secs => $1))")
        .bind(time.as_secs_f64())
        .fetch_one(connection)
        .await
        .map(Revision::new)
}

/// All current objects, those whose bodies cannot be read among them.
async fn heads(connection: &mut PgConnection, resource: i32) -> Result<Vec<Head>, sqlx::Error> {
    let read = apart(connection, async |connection| {
        all_heads(connection, resource).await
    });
    match tolerant(read.await)? {
        Some(heads) => Ok(heads),
        None => readable_heads(connection, resource).await,
    }
}

async fn all_heads(connection: &mut PgConnection, resource: i32) -> Result<Vec<Head>, sqlx::Error> {
    let mut rows = sqlx::query(
        "SELECT o.namespace, o.name, o.uid, o.revision, coalesce(o.body, e.body) AS body,
            CASE WHEN o.body IS NULL THEN e.sum ELSE o.sum END AS sum
         FROM store.objects o
         LEFT JOIN store.events e ON o.body IS NULL AND e.revision = o.revision
         WHERE o.resource = $1",
    )
    .bind(resource)
    .fetch(connection);
    let mut heads = Vec::new();
    while let Some(row) = rows.try_next().await? {
        heads.push(head(&row)?);
    }
    // Postgres would sort the bodies too.
    heads.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(heads)
}

fn head(row: &PgRow) -> Result<Head, sqlx::Error> {
    let (key, uid) = (key_of(row)?, row.try_get("uid")?);
    Ok(Head {
        body: body_of(row, ["body", "sum"], &key, uid)?,
        key,
        uid,
        revision: Revision::new(row.try_get("revision")?),
    })
}

/// Reads all objects without their bodies, and then the bodies of fewer and fewer at a time around
/// those that cannot be read.
async fn readable_heads(
    connection: &mut PgConnection,
    resource: i32,
) -> Result<Vec<Head>, sqlx::Error> {
    at(Point::LoadHeads).await?;
    let rows = sqlx::query(
        "SELECT namespace, name, uid, revision, NULL::bytea AS body, NULL::bigint AS sum
         FROM store.objects WHERE resource = $1 ORDER BY namespace, name",
    )
    .bind(resource)
    .fetch_all(&mut *connection)
    .await?;
    let mut heads = rows.iter().map(head).collect::<Result<Vec<_>, _>>()?;
    let mut parts: Vec<&mut [Head]> = heads.chunks_mut(SOME).collect();
    while let Some(part) = parts.pop() {
        let read = apart(connection, async |connection| {
            read_bodies(connection, resource, part).await
        });
        match read.await {
            Err(error) if is_damage(&error) => {
                // One alone stays without its body.
                if part.len() > 1 {
                    let (one, other) = part.split_at_mut(part.len() / 2);
                    parts.extend([one, other]);
                }
            }
            read => read?,
        }
    }
    Ok(heads)
}

async fn read_bodies(
    connection: &mut PgConnection,
    resource: i32,
    heads: &mut [Head],
) -> Result<(), sqlx::Error> {
    let column = |pick: fn(&Key) -> &str| heads.iter().map(|h| pick(&h.key)).collect::<Vec<_>>();
    let rows = sqlx::query(
        "SELECT k.place, o.namespace, o.name, o.uid, o.revision, coalesce(o.body, e.body) AS body,
            CASE WHEN o.body IS NULL THEN e.sum ELSE o.sum END AS sum
         FROM unnest($2::text[], $3::text[]) WITH ORDINALITY k(namespace, name, place)
         JOIN store.objects o ON o.resource = $1 AND o.namespace = k.namespace AND o.name = k.name
         LEFT JOIN store.events e ON o.body IS NULL AND e.revision = o.revision
         ORDER BY k.place",
    )
    .bind(resource)
    .bind(column(|key| &key.namespace))
    .bind(column(|key| &key.name))
    .fetch_all(connection)
    .await?;
    for row in &rows {
        let place = usize::try_from(row.try_get::<i64, _>("place")?).unwrap_or_default();
        if let Some(known) = heads.get_mut(place.saturating_sub(1)) {
            *known = head(row)?;
        }
    }
    Ok(())
}

/// The events after `start`, newest first, as many as fit into `most_bytes`; and after which
/// revision they are complete.
async fn events(
    connection: &mut PgConnection,
    resource: i32,
    start: Revision,
    most_bytes: usize,
) -> Result<(Vec<PastEvent>, Revision), sqlx::Error> {
    let mut rows = sqlx::query(
        "SELECT e.kind, e.revision, e.namespace, e.name, e.uid, e.previous_revision,
            CASE WHEN e.kind = 2 THEN e.body END AS last_state, e.sum,
            coalesce(e.previous_body, p.body) AS previous_body,
            CASE WHEN e.previous_body IS NULL THEN p.sum ELSE e.previous_sum END AS previous_sum,
            extract(epoch FROM clock_timestamp() - e.recorded_at)::float8 AS age
         FROM store.events e LEFT JOIN store.events p ON p.revision = e.previous_revision
         WHERE e.resource = $1 AND e.revision > $2 ORDER BY e.revision DESC LIMIT $3",
    )
    .bind(resource)
    .bind(start.get())
    .bind(i64::try_from(EVENTS_AT_START + 1).unwrap_or(i64::MAX))
    .fetch(connection);
    let mut events = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let event = past_event(&row)?;
        let undone = event.kind == EventKind::Added || event.previous.is_some();
        let previous = event.previous.as_ref().and_then(|(_, body)| body.as_ref());
        bytes += previous.map_or(0, Bytes::len);
        if !undone || bytes > most_bytes || events.len() == EVENTS_AT_START {
            return Ok((events, event.revision));
        }
        events.push(event);
    }
    Ok((events, start))
}

fn past_event(row: &PgRow) -> Result<PastEvent, sqlx::Error> {
    let kind = kind_of(row)?;
    let (key, uid) = (key_of(row)?, row.try_get("uid")?);
    let previous = row.try_get::<Option<i64>, _>("previous_revision")?;
    let is_there = row.try_get::<Option<&[u8]>, _>("previous_body")?.is_some();
    let previous_body = body_of(row, ["previous_body", "previous_sum"], &key, uid)?;
    let last_state = body_of(row, ["last_state", "sum"], &key, uid)?;
    Ok(PastEvent {
        kind,
        revision: Revision::new(row.try_get("revision")?),
        last_state: (kind == EventKind::Deleted).then_some(last_state),
        previous: previous
            .filter(|_| is_there)
            .map(|revision| (Revision::new(revision), previous_body)),
        key,
        uid,
        age: Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default(),
    })
}
