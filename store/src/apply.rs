//! The calls of the database's write functions.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use crate::error::WriteError;
use crate::failpoints::{Point, at};
use crate::link::{Backend, Link};
use crate::notices::without_warning;
use crate::planted::{self, Bug};
use crate::sum::sum_of;
use crate::types::{Key, Revision, Write};
use crate::writer::Queued;

/// SQLSTATE: the database was restored or failed over since this connection was opened.
pub(crate) const OTHER_LIFE: &str = "KE001";
/// SQLSTATE: the log has no partition for the next revision.
pub(crate) const NO_PARTITION: &str = "23514";

/// Revisions in one partition of the log, and how many partitions are made ahead.
pub(crate) const PARTITION: i64 = 1_000_000;
const AHEAD: i32 = 4;

/// SQLSTATE: the queue of notifications is full.
pub(crate) const QUEUE_FULL: &str = "54000";

/// Nothing about the writes themselves: another life, resources, intervention, read-only.
pub(crate) fn is_passing(code: &str) -> bool {
    let classes = ["53", "57", "58", "25"];
    code == OTHER_LIFE || is_transient(code) || classes.iter().any(|c| code.starts_with(c))
}

/// Something that is stored cannot be read.
pub(crate) fn is_damage(code: &str) -> bool {
    code.starts_with("XX")
}

/// The same again may do better.
pub(crate) fn is_transient(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03" | NO_PARTITION)
}

/// What holds for a batch as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Its id.
    pub(crate) number: i64,
    /// Up to here this process has seen the log.
    pub(crate) seen: Revision,
    /// Versions from before it are kept with the event that replaces them; a negative one has none
    /// read, since it cannot be.
    pub(crate) floor: Revision,
    /// Whether its commit waits until it is durable; otherwise a barrier has to follow.
    pub(crate) durable: bool,
    /// Whether other processes are to be told.
    pub(crate) notify: bool,
}

/// What became of a batch.
pub(crate) struct Applied {
    /// The last revision before it, if anything was done.
    pub(crate) base: Revision,
    /// One for each write, in order.
    pub(crate) outcomes: Vec<Outcome>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Done(Revision),
    Exists(Revision),
    Missing,
    Conflict(Revision),
}

impl Applied {
    /// The newest revision that it wrote.
    pub(crate) fn newest(&self) -> Option<Revision> {
        let done = self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Done(revision) => Some(*revision),
            _ => None,
        });
        done.max()
    }
}

impl Outcome {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let revision = || {
            Ok(Revision::new(
                row.try_get::<Option<i64>, _>("revision")?.unwrap_or(0),
            ))
        };
        match row.try_get::<i16, _>("outcome")? {
            0 => revision().map(Self::Done),
            1 => revision().map(Self::Exists),
            2 => Ok(Self::Missing),
            3 => revision().map(Self::Conflict),
            other => Err(sqlx::Error::Decode(
                format!("unknown outcome {other}").into(),
            )),
        }
    }

    pub(crate) fn into_result(self) -> Result<Revision, WriteError> {
        match self {
            Self::Done(revision) => Ok(revision),
            Self::Exists(current) => Err(WriteError::AlreadyExists { current }),
            Self::Missing => Err(WriteError::NotFound),
            Self::Conflict(current) if planted::is(Bug::ConflictAcknowledged) => Ok(current),
            Self::Conflict(current) => Err(WriteError::Conflict { current }),
        }
    }
}

/// Applies and commits a batch of writes to different keys.
pub(crate) async fn apply(
    link: &mut Link,
    header: Header,
    batch: &[Queued],
) -> Result<Applied, sqlx::Error> {
    match batch {
        [one] => {
            at(Point::WriteOneSend).await?;
            let applied = without_warning(apply_one(link, header, one)).await?;
            at(Point::WriteOneAnswer).await?;
            Ok(applied)
        }
        many => {
            at(Point::WriteBatchSend).await?;
            let applied = without_warning(apply_many(link, header, many)).await?;
            at(Point::WriteBatchAnswer).await?;
            Ok(applied)
        }
    }
}

async fn apply_one(
    link: &mut Link,
    header: Header,
    queued: &Queued,
) -> Result<Applied, sqlx::Error> {
    let Write {
        key,
        operation,
        provenance,
    } = &queued.write;
    let row = sqlx::query(
        "SELECT base, outcome, revision FROM
         store.write_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(&link.epoch.life)
    .bind(header.seen.get())
    .bind(header.number)
    .bind(header.floor.get())
    .bind(header.durable)
    .bind(header.notify)
    .bind(operation.code())
    .bind(queued.resource)
    .bind(key.namespace.as_ref())
    .bind(key.name.as_ref())
    .bind(operation.uid())
    .bind(operation.expected().map(Revision::get))
    .bind(operation.body().as_ref())
    .bind(sum_of(key, operation.uid(), operation.body()))
    .bind(&provenance.user)
    .bind(&provenance.manager)
    .bind(&provenance.verb)
    .bind(&provenance.audit_id)
    .fetch_one(&mut link.connection)
    .await?;
    let base = Revision::new(row.try_get("base")?);
    Ok(Applied {
        base,
        outcomes: vec![Outcome::read(&row)?],
    })
}

async fn apply_many(
    link: &mut Link,
    header: Header,
    batch: &[Queued],
) -> Result<Applied, sqlx::Error> {
    fn column<'a, T>(batch: &'a [Queued], pick: impl Fn(&'a Write) -> T) -> Vec<T> {
        batch.iter().map(|queued| pick(&queued.write)).collect()
    }
    let rows = sqlx::query(
        "SELECT base, outcome, revision FROM
         store.write_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ORDER BY position",
    )
    .bind(&link.epoch.life)
    .bind(header.seen.get())
    .bind(header.number)
    .bind(header.floor.get())
    .bind(header.durable)
    .bind(header.notify)
    .bind(column(batch, |write| write.operation.code()))
    .bind(
        batch
            .iter()
            .map(|queued| queued.resource)
            .collect::<Vec<_>>(),
    )
    .bind(column(batch, |write| write.key.namespace.as_ref()))
    .bind(column(batch, |write| write.key.name.as_ref()))
    .bind(column(batch, |write| write.operation.uid()))
    .bind(column(batch, |write| {
        write.operation.expected().map(Revision::get)
    }))
    .bind(column(batch, |write| write.operation.body().as_ref()))
    .bind(column(batch, |write| {
        sum_of(&write.key, write.operation.uid(), write.operation.body())
    }))
    .bind(column(batch, |write| write.provenance.user.as_str()))
    .bind(column(batch, |write| write.provenance.manager.as_str()))
    .bind(column(batch, |write| write.provenance.verb.as_str()))
    .bind(column(batch, |write| write.provenance.audit_id.as_str()))
    .fetch_all(&mut link.connection)
    .await?;
    let base = rows.first().map_or(Ok(0), |row| row.try_get("base"))?;
    let outcomes = rows
        .iter()
        .map(Outcome::read)
        .collect::<Result<Vec<_>, _>>()?;
    if outcomes.len() != batch.len() {
        return Err(sqlx::Error::Protocol(
            "a batch was not answered whole".to_owned(),
        ));
    }
    Ok(Applied {
        base: Revision::new(base),
        outcomes,
    })
}

/// What a barrier is for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    /// The newest revision that it covers, if there is one to tell of.
    pub(crate) revision: Revision,
    /// The batch that wrote it; 0 for none.
    pub(crate) batch: i64,
}

/// Waits until everything that was visible before is durable.
pub(crate) async fn barrier(link: &mut Link, mark: Mark) -> Result<(), sqlx::Error> {
    at(Point::BarrierSend).await?;
    let life = link.epoch.life.clone();
    barrier_on(&mut link.connection, &life, mark).await?;
    at(Point::BarrierAnswer).await
}

/// As [`barrier`], on any connection.
pub(crate) async fn barrier_on(
    connection: &mut PgConnection,
    life: &str,
    mark: Mark,
) -> Result<(), sqlx::Error> {
    let waiting = sqlx::query("SELECT store.barrier($1, $2, $3, false)")
        .bind(life)
        .bind(mark.revision.get())
        .bind(mark.batch)
        .execute(connection);
    without_warning(waiting).await.map(drop)
}

/// Tells other processes of what a barrier has proved. Transactions that notify commit one after the
/// other in the whole server: this one waits for no disk, so that they do not share a barrier's wait.
pub(crate) async fn tell(link: &mut Link, mark: Mark) -> Result<(), sqlx::Error> {
    at(Point::TellSend).await?;
    sqlx::query("SELECT set_config('synchronous_commit', 'off', true), pg_notify('store', $1)")
        .bind(format!("{} {}", mark.revision, mark.batch))
        .execute(&mut link.connection)
        .await?;
    at(Point::TellAnswer).await
}

/// Writes that were committed, by batch, resource and key.
pub(crate) type Found = HashMap<(i64, i32, Key), Revision>;

/// Batches whose connection broke.
pub(crate) struct Unresolved<'a> {
    /// The server process that may still be at the last of them.
    pub(crate) backend: &'a Backend,
    pub(crate) numbers: &'a [i64],
    /// Their revisions are above this one.
    pub(crate) after: Revision,
    pub(crate) seen: Revision,
    pub(crate) notify: bool,
}

/// The writes of these batches that were committed, by resource and key; they are durable. Ends
/// the server process that may still be at it, and waits until it is gone.
pub(crate) async fn resolve(
    link: &mut Link,
    unresolved: &Unresolved<'_>,
) -> Result<Found, sqlx::Error> {
    at(Point::ResolveSend).await?;
    // One that waits for a standby would give up waiting, and show others what the standby has not.
    sqlx::query(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_get_activity($1)
         WHERE backend_start::text = $2 AND wait_event IS DISTINCT FROM 'SyncRep'",
    )
    .bind(unresolved.backend.pid)
    .bind(&unresolved.backend.started)
    .execute(&mut link.connection)
    .await?;
    at(Point::ResolveEnded).await?;
    let reading = sqlx::query(
        "SELECT batch, resource, namespace, name, revision
         FROM store.resolve_batches($1, $2, $3, $4, $5)",
    )
    .bind(&link.epoch.life)
    .bind(unresolved.seen.get())
    .bind(unresolved.numbers)
    .bind(unresolved.after.get())
    .bind(unresolved.notify)
    .fetch_all(&mut link.connection);
    let rows = without_warning(reading).await?;
    at(Point::ResolveAnswer).await?;
    rows.iter()
        .map(|row| {
            let key = Key::new(
                row.try_get::<&str, _>("namespace")?,
                row.try_get::<&str, _>("name")?,
            );
            Ok((
                (row.try_get("batch")?, row.try_get("resource")?, key),
                Revision::new(row.try_get("revision")?),
            ))
        })
        .collect()
}

/// Makes partitions ahead of the log.
pub(crate) async fn extend_events(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    at(Point::ExtendSend).await?;
    sqlx::query("SELECT store.extend_events($1, $2)")
        .bind(PARTITION)
        .bind(AHEAD)
        .execute(connection)
        .await?;
    at(Point::ExtendAnswer).await
}
