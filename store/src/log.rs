//! Rows of the log, as read from Postgres or as just written by this process.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::sum::checked;
use crate::types::{EventKind, Key, Revision};

/// An event before any collection has made it its own.
#[derive(Clone, Debug)]
pub(crate) struct LoggedEvent {
    pub(crate) resource: i32,
    pub(crate) kind: EventKind,
    pub(crate) revision: Revision,
    pub(crate) batch: i64,
    pub(crate) key: Key,
    pub(crate) uid: Uuid,
    /// `None` if it is not the one that was stored.
    pub(crate) body: Option<Bytes>,
}

/// The columns that [`LoggedEvent::read`] needs, and where the log began at that moment.
pub(crate) const TAIL: &str =
    "SELECT revision, batch, resource, kind, namespace, name, uid, body, sum,
        (SELECT dropped FROM store.compaction) AS dropped
    FROM store.events WHERE revision > $1 AND revision <= $2 ORDER BY revision";

impl LoggedEvent {
    pub(crate) fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (key, uid) = (key_of(row)?, row.try_get("uid")?);
        Ok(Self {
            resource: row.try_get("resource")?,
            kind: kind_of(row)?,
            revision: Revision::new(row.try_get("revision")?),
            batch: row.try_get("batch")?,
            body: body_of(row, ["body", "sum"], &key, uid)?,
            key,
            uid,
        })
    }
}

pub(crate) fn kind_of(row: &PgRow) -> Result<EventKind, sqlx::Error> {
    match row.try_get::<i16, _>("kind")? {
        0 => Ok(EventKind::Added),
        1 => Ok(EventKind::Modified),
        2 => Ok(EventKind::Deleted),
        other => Err(sqlx::Error::Decode(
            format!("unknown kind of event {other}").into(),
        )),
    }
}

pub(crate) fn key_of(row: &PgRow) -> Result<Key, sqlx::Error> {
    Ok(Key::new(
        row.try_get::<&str, _>("namespace")?,
        row.try_get::<&str, _>("name")?,
    ))
}

/// A body and its sum; `None` if it is not there, or is not the one that was stored.
pub(crate) fn body_of(
    row: &PgRow,
    [body, sum]: [&str; 2],
    key: &Key,
    uid: Uuid,
) -> Result<Option<Bytes>, sqlx::Error> {
    let body = row.try_get::<Option<&[u8]>, _>(body)?;
    let body = body.map(Bytes::copy_from_slice);
    Ok(checked(key, uid, body, row.try_get(sum)?))
}
