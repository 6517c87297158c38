//! What the database says of its own health: what an operator must see before it hurts.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::failpoints::{Point, at};

/// More dead rows than this, and this many times the objects, are worth a warning: vacuum removes
/// them at a fifth of the objects by default.
const MANY_DEAD: i64 = 50_000;
const DEAD_TO_LIVE: i64 = 4;
/// When the queue of notifications is full, writes go on without them and other processes poll.
const QUEUE_FILLS: f64 = 0.5;
/// Autovacuum freezes rows that are a fifth of this old by default.
const OLD: i64 = 1_000_000_000;

/// The state of the database at the last pass of compaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survey {
    /// Size of all tables and their indexes, in bytes.
    pub bytes: i64,
    /// Old row versions of objects that vacuum could not remove yet. They grow without end while
    /// an old transaction, a replication slot or a standby's query holds them.
    pub dead_rows: i64,
    /// How full the queue of notifications is, from 0 to 1.
    pub notification_queue: f64,
    /// Transactions since the oldest row that was not frozen. At two thousand million Postgres takes
    /// no more writes; autovacuum keeps it at a tenth, unless an old transaction or a prepared one
    /// keeps autovacuum from it.
    pub transaction_age: i64,
}

pub(crate) async fn survey(connection: &mut PgConnection) -> Result<Survey, sqlx::Error> {
    at(Point::SurveySend).await?;
    let row = sqlx::query(
        "SELECT (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                WHERE relnamespace = 'store'::regnamespace AND relkind = 'r') AS bytes,
            n_dead_tup AS dead, n_live_tup AS live, pg_notification_queue_usage() AS queue,
            (SELECT age(datfrozenxid)::bigint FROM pg_database
                WHERE datname = current_database()) AS age
         FROM pg_stat_user_tables WHERE relid = 'store.objects'::regclass",
    )
    .fetch_one(connection)
    .await?;
    at(Point::SurveyAnswer).await?;
    let survey = Survey {
        bytes: row.try_get("bytes")?,
        dead_rows: row.try_get("dead")?,
        notification_queue: row.try_get("queue")?,
        transaction_age: row.try_get("age")?,
    };
    let live: i64 = row.try_get("live")?;
    if survey.dead_rows > MANY_DEAD.max(live.saturating_mul(DEAD_TO_LIVE)) {
        tracing::warn!(
            dead_rows = survey.dead_rows,
            live,
            "vacuum cannot remove old rows: look for old transactions, prepared transactions, \
             replication slots and standbys"
        );
    }
    if survey.notification_queue > QUEUE_FILLS {
        tracing::warn!(
            usage = survey.notification_queue,
            "the queue of notifications fills: look for a listener in an old transaction"
        );
    }
    if survey.transaction_age > OLD {
        tracing::warn!(
            age = survey.transaction_age,
            "vacuum cannot freeze old rows, and writes will stop when transaction ids run out: look \
             for old transactions, prepared transactions and replication slots"
        );
    }
    Ok(survey)
}
