//! Lets history go that nobody was promised any more; one process at a time.
//!
//! First the compacted revision is raised, so that readers know; then bodies that current objects
//! still need are copied out of the oldest partition of the log; then that partition is dropped.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Row};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::apply::extend_events;
use crate::link::{Failure, Link, classify, timed_out};
use crate::shared::Shared;
use crate::types::Revision;

/// Heads whose bodies are copied in one transaction.
const RESCUE: i64 = 500;
/// The before-images of events are kept by age of the event before, as each writer sees its age.
/// Partitions are dropped this much later, and at least this part of the ring's time.
const MARGIN: Duration = Duration::from_secs(2);
const MARGIN_PART: u32 = 5;
/// A pass that takes longer hangs on a dead connection; the next one goes on where it was.
const PASS_TIMEOUT: Duration = Duration::from_secs(300);

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
        let passing = timeout(PASS_TIMEOUT, pass(&shared));
        let passed = tokio::select! {
            passed = passing => passed.unwrap_or_else(|_| Err(timed_out())),
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
    let mut link = Link::open(&shared.options).await?;
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
    let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(7777, 2)")
        .fetch_one(&mut *connection)
        .await?;
    if !alone {
        return Ok(None);
    }
    let retention = shared.config.retention;
    let ring_time = shared.config.ring_time;
    let row = sqlx::query(
        "SELECT store.set_compacted(store.revision_before(make_interval(secs => $1))) AS compacted,
            store.revision_before(make_interval(secs => $2)) AS droppable",
    )
    .bind(retention.as_secs_f64())
    .bind((retention + ring_time + MARGIN.max(ring_time / MARGIN_PART)).as_secs_f64())
    .fetch_one(&mut *connection)
    .await?;
    let mut done = Compacted {
        revision: Revision::new(row.try_get("compacted")?),
        ..Compacted::default()
    };
    shared.note_compacted(done.revision);
    let droppable: i64 = row.try_get("droppable")?;
    while let Some(below) = oldest_partition(link, droppable).await? {
        done.rescued += rescue(link, below).await?;
        if !drop_oldest(link, droppable).await? {
            break;
        }
        done.partitions += 1;
    }
    Ok(Some(done))
}

/// Where the oldest partition ends, if all of it may go.
async fn oldest_partition(link: &mut Link, droppable: i64) -> Result<Option<i64>, sqlx::Error> {
    let below: Option<i64> = sqlx::query_scalar(
        "SELECT below_revision FROM store.event_partitions() ORDER BY from_revision LIMIT 1",
    )
    .fetch_optional(&mut link.connection)
    .await?;
    Ok(below.filter(|below| *below <= droppable))
}

async fn rescue(link: &mut Link, below: i64) -> Result<u64, sqlx::Error> {
    let mut rescued = 0;
    loop {
        let row = sqlx::query(
            "SELECT count(*) AS found, store.rescue_bodies(array_agg(resource), array_agg(namespace),
                array_agg(name), array_agg(revision)) AS rescued
             FROM (SELECT resource, namespace, name, revision FROM store.objects
                   WHERE body IS NULL AND revision < $1 LIMIT $2) heads",
        )
        .bind(below)
        .bind(RESCUE)
        .fetch_one(&mut link.connection)
        .await?;
        let found: i64 = row.try_get("found")?;
        rescued += row
            .try_get::<Option<i64>, _>("rescued")?
            .map_or(0, i64::unsigned_abs);
        if found == 0 {
            return Ok(rescued);
        }
    }
}

/// Whether the partition was dropped; it waits for no long reader, the next pass will find it.
async fn drop_oldest(link: &mut Link, droppable: i64) -> Result<bool, sqlx::Error> {
    let dropped = sqlx::query_scalar("SELECT store.drop_oldest_events($1)")
        .bind(droppable)
        .fetch_one(&mut link.connection)
        .await;
    match dropped {
        Err(error) if matches!(classify(&error), Failure::Refused { code, .. } if code == "55P03") => {
            Ok(false)
        }
        other => other,
    }
}
