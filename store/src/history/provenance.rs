//! Who made an object what it is: the writes to one key that the log still holds.
//!
//! Each event names the revision before it, so an object's life is a chain by primary key; a
//! partial index of deletions leads from one life of a key to the one before. Nothing is scanned.

use std::time::{Duration, SystemTime};

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::timeout;
use uuid::Uuid;

use super::{History, HistoryError, READ_TIMEOUT};
use crate::failpoints::{Point, at};
use crate::log::kind_of;
use crate::types::{EventKind, Key, Project, Provenance, Revision};

/// A connection that died while nobody used it fails once.
const ATTEMPTS: usize = 2;

/// One write to a key, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The write.
    pub revision: Revision,
    /// What it did.
    pub kind: EventKind,
    /// Tells the object from others of its key.
    pub uid: Uuid,
    /// When the database took it in.
    pub at: SystemTime,
    /// Who made it.
    pub provenance: Provenance,
}

/// Where the writes begin that are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Newest {
    /// With this one.
    Is(Revision),
    /// With the last deletion up to here.
    Deletion(Revision),
    /// With the one before this one.
    Before(Revision),
}

const TRAIL: &str = "
    WITH RECURSIVE kept AS (SELECT revision AS compacted FROM store.compaction), trail AS (
        SELECT 1 AS place, e.revision, e.previous_revision, e.kind, e.uid, e.recorded_at,
            e.username, e.manager, e.verb, e.audit_id
        FROM store.events e
        WHERE e.resource = $1 AND e.namespace = $2 AND e.name = $3
            AND e.revision = coalesce($4, (
                SELECT d.revision FROM store.events d
                WHERE d.kind = 2 AND d.resource = $1 AND d.namespace = $2 AND d.name = $3
                    AND d.revision <= $5 AND d.revision > (SELECT compacted FROM kept)
                ORDER BY d.revision DESC LIMIT 1))
        UNION ALL
        SELECT t.place + 1, e.revision, e.previous_revision, e.kind, e.uid, e.recorded_at,
            e.username, e.manager, e.verb, e.audit_id
        FROM trail t CROSS JOIN LATERAL (
            SELECT * FROM store.events p
            WHERE p.revision = coalesce(t.previous_revision, (
                SELECT d.revision FROM store.events d
                WHERE d.kind = 2 AND d.resource = $1 AND d.namespace = $2 AND d.name = $3
                    AND d.revision < t.revision AND d.revision > (SELECT compacted FROM kept)
                ORDER BY d.revision DESC LIMIT 1))
            LIMIT 1) e
        WHERE t.place < $6 AND t.revision > (SELECT compacted FROM kept))
    SELECT revision, kind, uid, (extract(epoch FROM recorded_at) * 1000000)::bigint AS at,
        coalesce(username, '') AS username, coalesce(manager, '') AS manager,
        coalesce(verb, '') AS verb, coalesce(audit_id, '') AS audit_id
    FROM trail ORDER BY place";

impl<P: Project> History<P> {
    /// At most `most` writes to a key, newest first.
    pub(crate) async fn recorded(
        &self,
        key: &Key,
        newest: Newest,
        most: usize,
    ) -> Result<Vec<Recorded>, HistoryError> {
        let mut link = self.link.lock().await;
        let mut outcome = Err(HistoryError::Unavailable);
        for _ in 0..ATTEMPTS {
            let reading = async {
                let link = self.linked(&mut link).await?;
                self.read_trail(&mut link.connection, key, newest, most)
                    .await
            };
            let read = timeout(READ_TIMEOUT, reading).await;
            let timed_out = read.is_err();
            outcome = self.checked(read, &mut link);
            if outcome.is_ok() || timed_out {
                break;
            }
        }
        outcome
    }

    async fn read_trail(
        &self,
        connection: &mut PgConnection,
        key: &Key,
        newest: Newest,
        most: usize,
    ) -> Result<Vec<Recorded>, sqlx::Error> {
        let (is, until, skipped) = match newest {
            Newest::Is(revision) => (Some(revision.get()), 0, 0),
            Newest::Deletion(revision) => (None, revision.get(), 0),
            Newest::Before(revision) => (Some(revision.get()), 0, 1),
        };
        at(Point::TrailSend).await?;
        let rows = sqlx::query(TRAIL)
            .bind(self.resource)
            .bind(&*key.namespace)
            .bind(&*key.name)
            .bind(is)
            .bind(until)
            .bind(i32::try_from(most.saturating_add(skipped)).unwrap_or(i32::MAX))
            .fetch_all(connection)
            .await?;
        at(Point::TrailAnswer).await?;
        rows.iter().skip(skipped).map(recorded_of).collect()
    }
}

fn recorded_of(row: &PgRow) -> Result<Recorded, sqlx::Error> {
    let microseconds: i64 = row.try_get("at")?;
    let since_epoch = Duration::from_micros(u64::try_from(microseconds).unwrap_or_default());
    Ok(Recorded {
        revision: Revision::new(row.try_get("revision")?),
        kind: kind_of(row)?,
        uid: row.try_get("uid")?,
        at: SystemTime::UNIX_EPOCH + since_epoch,
        provenance: Provenance {
            user: row.try_get("username")?,
            manager: row.try_get("manager")?,
            verb: row.try_get("verb")?,
            audit_id: row.try_get("audit_id")?,
        },
    })
}
