//! Reading a whole collection and its latest events, for a start or after a restore.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, Row};
use uuid::Uuid;

use crate::apply::{Mark, barrier_on};
use crate::failpoints::{Point, at};
use crate::link::Epoch;
use crate::log::{bytes_of, key_of, kind_of};
use crate::shared::Shared;
use crate::types::{EventKind, Key, Revision};

/// One current object.
pub(crate) struct Head {
    pub(crate) key: Key,
    pub(crate) uid: Uuid,
    pub(crate) revision: Revision,
    pub(crate) body: Bytes,
}

/// One event, with what is needed to undo it. The state after it is the head or the next event's
/// previous state, except for a deletion, which has its own.
pub(crate) struct PastEvent {
    pub(crate) kind: EventKind,
    pub(crate) revision: Revision,
    pub(crate) key: Key,
    pub(crate) uid: Uuid,
    /// Of a deletion.
    pub(crate) last_state: Option<Bytes>,
    /// `None` for an added object.
    pub(crate) previous: Option<(Revision, Bytes)>,
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
}

/// Loads all registered collections as of one snapshot.
pub(crate) async fn load(
    connection: &mut PgConnection,
    shared: &Shared,
    epoch: &Epoch,
) -> Result<Everything, sqlx::Error> {
    at(Point::LoadBegin).await?;
    let mut transaction = connection.begin().await?;
    // The session's limit is meant for writes.
    transaction
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '120s'")
        .await?;
    at(Point::LoadPosition).await?;
    let row = sqlx::query(
        "SELECT newest.revision AS newest, newest.batch,
            (SELECT revision FROM store.compaction) AS compacted,
            store.revision_before(make_interval(secs => $1)) AS start
         FROM (SELECT max(revision) AS revision FROM store.events) newest_revision
         LEFT JOIN LATERAL (SELECT e.revision, e.batch FROM store.events e
             WHERE e.revision = newest_revision.revision) newest ON true",
    )
    .bind(shared.config.ring_time.as_secs_f64())
    .fetch_one(&mut *transaction)
    .await?;
    let compacted = Revision::new(row.try_get("compacted")?);
    let newest = Revision::new(row.try_get::<Option<_>, _>("newest")?.unwrap_or(0));
    let batch = row.try_get::<Option<_>, _>("batch")?.unwrap_or(0);
    let position = newest.max(compacted).max(epoch.start);
    let start = Revision::new(row.try_get("start")?).max(compacted);
    let mut all = Vec::new();
    for resource in shared.resources() {
        at(Point::LoadHeads).await?;
        let heads = heads(&mut transaction, resource).await?;
        at(Point::LoadEvents).await?;
        let (events, start) =
            events(&mut transaction, resource, start, shared.config.ring_bytes).await?;
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
    barrier_on(connection, &epoch.life, Mark::default(), false).await?;
    at(Point::LoadAnswer).await?;
    Ok(Everything {
        collections: all,
        position,
        newest: (newest, batch),
        compacted,
    })
}

async fn heads(connection: &mut PgConnection, resource: i32) -> Result<Vec<Head>, sqlx::Error> {
    let mut rows = sqlx::query(
        "SELECT o.namespace, o.name, o.uid, o.revision, coalesce(o.body, e.body) AS body
         FROM store.objects o
         LEFT JOIN store.events e ON o.body IS NULL AND e.revision = o.revision
         WHERE o.resource = $1 ORDER BY o.namespace, o.name",
    )
    .bind(resource)
    .fetch(connection);
    let mut heads = Vec::new();
    while let Some(row) = rows.try_next().await? {
        heads.push(Head {
            key: key_of(&row)?,
            uid: row.try_get("uid")?,
            revision: Revision::new(row.try_get("revision")?),
            body: body_of(&row, "body")?,
        });
    }
    Ok(heads)
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
            CASE WHEN e.kind = 2 THEN e.body END AS last_state,
            coalesce(e.previous_body, p.body) AS previous_body,
            extract(epoch FROM clock_timestamp() - e.recorded_at)::float8 AS age
         FROM store.events e LEFT JOIN store.events p ON p.revision = e.previous_revision
         WHERE e.resource = $1 AND e.revision > $2 ORDER BY e.revision DESC",
    )
    .bind(resource)
    .bind(start.get())
    .fetch(connection);
    let mut events = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let event = past_event(&row)?;
        let undone = event.kind == EventKind::Added || event.previous.is_some();
        bytes += event.previous.as_ref().map_or(0, |(_, body)| body.len());
        if !undone || bytes > most_bytes {
            return Ok((events, event.revision));
        }
        events.push(event);
    }
    Ok((events, start))
}

fn past_event(row: &PgRow) -> Result<PastEvent, sqlx::Error> {
    let kind = kind_of(row)?;
    let previous = row.try_get::<Option<i64>, _>("previous_revision")?;
    let previous_body = bytes_of(row, "previous_body")?;
    Ok(PastEvent {
        kind,
        revision: Revision::new(row.try_get("revision")?),
        key: key_of(row)?,
        uid: row.try_get("uid")?,
        last_state: bytes_of(row, "last_state")?,
        previous: previous.map(Revision::new).zip(previous_body),
        age: Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default(),
    })
}

fn body_of(row: &PgRow, column: &str) -> Result<Bytes, sqlx::Error> {
    bytes_of(row, column)?
        .ok_or_else(|| sqlx::Error::Decode("an object's body is in neither table".into()))
}
