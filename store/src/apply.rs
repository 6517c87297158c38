//! The calls of the database's write functions.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use crate::error::WriteError;
use crate::link::{Backend, Link};
use crate::types::{Key, Revision, Write};
use crate::writer::Queued;

/// SQLSTATE: the database was restored or failed over since this connection was opened.
pub(crate) const OTHER_LIFE: &str = "KE001";
/// SQLSTATE: the log has no partition for the next revision.
pub(crate) const NO_PARTITION: &str = "23514";

/// Revisions in one partition of the log, and how many partitions are made ahead.
pub(crate) const PARTITION: i64 = 1_000_000;
const AHEAD: i32 = 4;

/// What holds for a batch as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Its id.
    pub(crate) number: i64,
    /// Versions from before it are kept with the event that replaces them.
    pub(crate) floor: Revision,
    /// Whether other processes are to be told.
    pub(crate) notify: bool,
}

/// What became of a batch.
pub(crate) struct Applied {
    /// The last revision before it, if anything was done.
    pub(crate) base: Revision,
    /// One for each write, in order. All are durable, or rest on what is.
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
        [one] => apply_one(link, header, one).await,
        many => apply_many(link, header, many).await,
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
         store.apply_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(&link.epoch.incarnation)
    .bind(header.number)
    .bind(header.floor.get())
    .bind(header.notify)
    .bind(operation.code())
    .bind(queued.resource)
    .bind(key.namespace.as_ref())
    .bind(key.name.as_ref())
    .bind(operation.uid())
    .bind(operation.expected().map(Revision::get))
    .bind(operation.body().as_ref())
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
         store.apply_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ORDER BY position",
    )
    .bind(&link.epoch.incarnation)
    .bind(header.number)
    .bind(header.floor.get())
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

/// The writes of a batch that were committed, by resource and key. Ends the server process that
/// may still be at it, and waits until it is gone.
pub(crate) async fn resolve(
    link: &mut Link,
    backend: &Backend,
    number: i64,
    after: Revision,
) -> Result<HashMap<(i32, Key), Revision>, sqlx::Error> {
    sqlx::query(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_get_activity($1)
         WHERE backend_start::text = $2",
    )
    .bind(backend.pid)
    .bind(&backend.started)
    .execute(&mut link.connection)
    .await?;
    let rows = sqlx::query(
        "SELECT resource, namespace, name, revision FROM store.resolve_batch($1, $2, $3)",
    )
    .bind(&link.epoch.incarnation)
    .bind(number)
    .bind(after.get())
    .fetch_all(&mut link.connection)
    .await?;
    rows.iter()
        .map(|row| {
            let key = Key::new(
                row.try_get::<&str, _>("namespace")?,
                row.try_get::<&str, _>("name")?,
            );
            Ok((
                (row.try_get("resource")?, key),
                Revision::new(row.try_get("revision")?),
            ))
        })
        .collect()
}

/// Makes partitions ahead of the log.
pub(crate) async fn extend_events(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT store.extend_events($1, $2)")
        .bind(PARTITION)
        .bind(AHEAD)
        .execute(connection)
        .await
        .map(drop)
}
