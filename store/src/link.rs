//! One connection to the database, with what must be known about its other end.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSeverity};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use tokio::time::timeout;

use crate::apply;
use crate::error::StoreError;
use crate::failpoints::{Point, at};
use crate::shared::Shared;
use crate::types::Revision;

/// Opening takes at most this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Sent on every connection. A commit that is not durable would break every promise, so a
/// database-wide `synchronous_commit = off` is overruled; stronger settings than `on` are kept.
/// Compiling a query takes longer than running any that there is.
const SESSION: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '10s'; SET jit = off;
    SET default_transaction_isolation = 'read committed';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// SQLSTATE: a standby has taken over from the database at the other end.
const REPLACED: &str = "KE004";

/// Which life of which database a connection reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) number: i32,
    /// Tells this life of this database from all others.
    pub(crate) database: String,
    /// The part of it that the database checks at every write.
    pub(crate) life: String,
    /// Revisions before it are void.
    pub(crate) start: Revision,
}

/// A connection whose other end is a primary in a known epoch.
pub(crate) struct Link {
    pub(crate) connection: PgConnection,
    pub(crate) epoch: Epoch,
    pub(crate) backend: Backend,
}

/// The server process behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    pub(crate) started: String,
}

impl Link {
    pub(crate) async fn open(shared: &Shared) -> Result<Self, sqlx::Error> {
        let opening = async {
            at(Point::LinkOpen).await?;
            let mut connection = PgConnection::connect_with(&shared.options).await?;
            set_up(&mut connection).await?;
            at(Point::LinkOpened).await?;
            Self::of(connection, shared).await
        };
        within(OPEN_TIMEOUT, opening).await
    }

    /// Finds out what is behind a connection that is set up.
    pub(crate) async fn of(
        mut connection: PgConnection,
        shared: &Shared,
    ) -> Result<Self, sqlx::Error> {
        let epoch = open_epoch(&mut connection, shared).await?;
        at(Point::BackendSend).await?;
        let backend = sqlx::query(
            "SELECT pid, backend_start::text AS started FROM pg_stat_get_activity(pg_backend_pid())",
        )
        .fetch_one(&mut connection)
        .await?;
        at(Point::BackendAnswer).await?;
        let backend = Backend {
            pid: backend.try_get("pid")?,
            started: backend.try_get("started")?,
        };
        Ok(Self {
            connection,
            epoch,
            backend,
        })
    }
}

/// Prepares the options of all connections of one store.
pub(crate) fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options: PgConnectOptions = url.parse().map_err(StoreError::Url)?;
    Ok(options
        .application_name("store")
        .disable_statement_logging())
}

/// Sets up a connection that was opened elsewhere.
pub(crate) async fn set_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(SESSION).await.map(drop)
}

/// The epoch of the database at the other end, which begins a new one if it has lost what this
/// process has seen; refuses a standby, and a primary that a standby has replaced.
pub(crate) async fn open_epoch<'c, E>(executor: E, shared: &Shared) -> Result<Epoch, sqlx::Error>
where
    E: Executor<'c, Database = sqlx::Postgres>,
{
    at(Point::EpochSend).await?;
    let (seen, batch) = shared.seen();
    let followed = shared.followed.load_full();
    let row = sqlx::query(
        "SELECT epoch, life, start_revision, database FROM store.open_life($1, $2, $3)",
    )
    .bind(seen.get())
    .bind(batch)
    .bind(followed.as_deref().map_or("", String::as_str))
    .fetch_one(executor)
    .await?;
    at(Point::EpochAnswer).await?;
    Ok(Epoch {
        number: row.try_get("epoch")?,
        database: row.try_get("database")?,
        life: row.try_get("life")?,
        start: Revision::new(row.try_get("start_revision")?),
    })
}

/// What an error says about the statement that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection is lost: the statement may have been committed.
    Lost,
    /// The statement had no effect, for the reason of this SQLSTATE.
    Refused { code: String, message: String },
}

pub(crate) fn classify(error: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = error else {
        return Failure::Lost;
    };
    match database.try_downcast_ref::<PgDatabaseError>() {
        Some(said) if said.severity() == PgSeverity::Error => Failure::Refused {
            code: said.code().to_owned(),
            message: said.message().to_owned(),
        },
        // FATAL and PANIC end the session, and may follow a commit.
        _ => Failure::Lost,
    }
}

/// Whether Postgres found that what it has on the disk is not what it wrote: class XX.
pub(crate) fn is_damage(error: &sqlx::Error) -> bool {
    matches!(classify(error), Failure::Refused { code, .. } if apply::is_damage(&code))
}

/// Whether the other end is a primary that a standby has replaced.
pub(crate) fn is_replaced(error: &sqlx::Error) -> bool {
    matches!(classify(error), Failure::Refused { code, .. } if code == REPLACED)
}

/// Gives up after `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    doing: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, doing)
        .await
        .unwrap_or_else(|_| Err(timed_out()))
}

pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
