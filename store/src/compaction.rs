//! Lets history go that nobody was promised any more; one process at a time.
//!
//! First the compacted revision is raised, so that readers know; then bodies that current objects
//! still need are copied out of the oldest partition of the log; then that partition is dropped.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Executor, Row};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::apply::extend_events;
use crate::failpoints::{Point, at};
use crate::link::{Failure, Link, classify, within};
use crate::shared::Shared;
use crate::survey::survey;
use crate::types::Revision;

/// Objects that are looked at in one statement, and copied in one transaction where needed.
const RESCUE: i64 = 2000;
/// What is copied while others wait for the lock has at most so many bytes, or is one body.
const RESCUE_BYTES: i64 = 8 * 1024 * 1024;
/// The before-images of events are kept by age of the event before, as each writer sees its age: it
/// may take what is up to two of the ring's times old for young, when it has just started. Partitions
/// are dropped this much later still, and at least this part of the ring's time.
const MARGIN: Duration = Duration::from_secs(2);
const MARGIN_PART: u32 = 5;
/// A pass that takes longer hangs on a dead connection; the next one goes on where it was.
const PASS_TIMEOUT: Duration = Duration::from_secs(300);
/// A pass that sends nothing for this long loses its session.
const IDLE: &str = "SET idle_session_timeout = '5s'";
/// What the database says of the oldest partition: dropped, or that an object needs it.
const DROPPED: i16 = 1;
const NEEDED: i16 = 2;

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Nothing below is promised any more.
    pub revision: Revision,
    /// Bodies copied out of the log.
    pub rescued: u64,
    /// Partitions of the log dropped.
    pub partitions: u32,
}

pub(crate) async fn run(shared: Arc<Shared>) {
    let pause = shared.config.compaction_interval;
    let mut tick = interval_at(Instant::now() + pause, pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        let passing = within(PASS_TIMEOUT, pass(&shared));
        let passed = tokio::select! {
            passed = passing => passed,
            // Every step is a transaction of its own: what was not reached is left to others.
            () = shared.stop.cancelled() => return,
        };
        match passed {
            Ok(Some(done)) if done.partitions > 0 => {
                tracing::info!(revision = %done.revision, rescued = done.rescued,
                    partitions = done.partitions, "compacted");
            }
            Ok(_) => {}
            // The writers' and the tail's connections tell loudly enough that it is away.
            Err(error) if classify(&error) == Failure::Lost => {
                tracing::debug!(%error, "no compaction");
            }
            Err(error) => tracing::warn!(%error, "compaction failed, it will be tried again"),
        }
    }
}

/// One pass; `None` when another process is at it.
pub(crate) async fn pass(shared: &Shared) -> Result<Option<Compacted>, sqlx::Error> {
    let mut link = Link::open(shared).await?;
    let done = pass_on(shared, &mut link).await;
    // Closing gives the lock back.
    let closed = link.connection.close().await;
    let done = done?;
    closed?;
    Ok(done)
}

async fn pass_on(shared: &Shared, link: &mut Link) -> Result<Option<Compacted>, sqlx::Error> {
    let connection = &mut link.connection;
    extend_events(connection).await?;
    let surveyed = survey(connection).await?;
    shared.survey.store(Some(Arc::new(surveyed)));
    at(Point::CompactLock).await?;
    // Nothing but a process that stands still waits between two statements; its lock must not stay.
    connection.execute(IDLE).await?;
    let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(7777, 2)")
        .fetch_one(&mut *connection)
        .await?;
    if !alone {
        return Ok(None);
    }
    at(Point::CompactRaise).await?;
    let retention = shared.config.retention;
    let ring_time = shared.config.ring_time;
    let row = sqlx::query(
        "SELECT store.set_compacted(store.revision_before(make_interval(secs => $1))) AS compacted,
            store.revision_before(make_interval(secs => $2)) AS droppable",
    )
    .bind(retention.as_secs_f64())
    .bind((retention + 2 * ring_time + MARGIN.max(ring_time / MARGIN_PART)).as_secs_f64())
    .fetch_one(&mut *connection)
    .await?;
    at(Point::CompactRaised).await?;
    let mut done = Compacted {
        revision: Revision::new(row.try_get("compacted")?),
        ..Compacted::default()
    };
    shared.note_compacted(done.revision);
    let droppable: i64 = row.try_get("droppable")?;
    while let Some(below) = oldest_partition(link, droppable).await? {
        done.rescued += rescue(link, below).await?;
        at(Point::CompactRescued).await?;
        if !drop_oldest(link, droppable).await? {
            break;
        }
        at(Point::CompactDropped).await?;
        done.partitions += 1;
    }
    Ok(Some(done))
}

/// Where the oldest partition ends, if all of it may go.
async fn oldest_partition(link: &mut Link, droppable: i64) -> Result<Option<i64>, sqlx::Error> {
    at(Point::CompactOldest).await?;
    let below: Option<i64> = sqlx::query_scalar(
        "SELECT below_revision FROM store.event_partitions() ORDER BY from_revision LIMIT 1",
    )
    .fetch_optional(&mut link.connection)
    .await?;
    Ok(below.filter(|below| *below <= droppable))
}

/// Copies the bodies that objects still need out of the events below `below`. Every object is looked
/// at once, outside the lock: a write never makes one that needs an older event than the newest.
async fn rescue(link: &mut Link, below: i64) -> Result<u64, sqlx::Error> {
    let mut rescued = 0;
    let mut after = (0, String::new(), String::new());
    loop {
        at(Point::CompactRescue).await?;
        let row = sqlx::query(
            "WITH many AS MATERIALIZED (
                SELECT o.*, coalesce(octet_length(e.body), 0) AS size,
                    sum(octet_length(e.body)) OVER (ORDER BY o.resource, o.namespace, o.name) AS bytes
                FROM (SELECT resource, namespace, name, revision, body IS NULL AND revision < $4 AS needs
                      FROM store.objects WHERE (resource, namespace, name) > ($1, $2, $3)
                      ORDER BY resource, namespace, name LIMIT $5) o
                LEFT JOIN store.events e ON o.needs AND e.revision = o.revision),
             few AS (SELECT * FROM many WHERE coalesce(bytes, 0) - size < $6)
             SELECT last.*, store.rescue_bodies(needing.resources, needing.namespaces, needing.names,
                needing.revisions) AS rescued
             FROM (SELECT resource, namespace, name FROM few
                   ORDER BY resource DESC, namespace DESC, name DESC LIMIT 1) last,
                (SELECT array_agg(resource) AS resources, array_agg(namespace) AS namespaces,
                    array_agg(name) AS names, array_agg(revision) AS revisions FROM few WHERE needs) needing",
        )
        .bind(after.0)
        .bind(&after.1)
        .bind(&after.2)
        .bind(below)
        .bind(RESCUE)
        .bind(RESCUE_BYTES)
        .fetch_optional(&mut link.connection)
        .await?;
        let Some(row) = row else {
            return Ok(rescued);
        };
        let copied: Option<i64> = row.try_get("rescued")?;
        rescued += copied.map_or(0, i64::unsigned_abs);
        after = (
            row.try_get("resource")?,
            row.try_get("namespace")?,
            row.try_get("name")?,
        );
    }
}

/// Whether the partition was dropped; it waits for no long reader, the next pass will find it.
async fn drop_oldest(link: &mut Link, droppable: i64) -> Result<bool, sqlx::Error> {
    at(Point::CompactDrop).await?;
    let dropped: Result<i16, _> = sqlx::query_scalar("SELECT store.drop_events($1)")
        .bind(droppable)
        .fetch_one(&mut link.connection)
        .await;
    match dropped {
        Ok(NEEDED) => {
            tracing::error!(
                "the body of an object is missing, so the log is kept: restore a backup"
            );
            Ok(false)
        }
        Ok(dropped) => Ok(dropped == DROPPED),
        Err(error) if matches!(classify(&error), Failure::Refused { code, .. } if code == "55P03") => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
