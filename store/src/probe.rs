//! The newest revision that anybody has been told of: one query for all who ask at a time.
//!
//! Who asks while a query runs waits for the next one, since the running one may have looked
//! before a write that the asker knows of.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use crate::failpoints::{Point, at};
use crate::link::Link;
use crate::shared::Shared;
use crate::types::Revision;

/// Answered with `None` when the database cannot be reached.
pub(crate) type Probe = oneshot::Sender<Option<Revision>>;

/// At most this many wait for a query to begin; more wait outside.
pub(crate) const QUEUE: usize = 1024;
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn run(shared: Arc<Shared>, probes: Arc<Mutex<mpsc::Receiver<Probe>>>) {
    let mut probes = probes.lock().await;
    let mut link = None;
    let mut waiting = Vec::new();
    let mut failed = false;
    loop {
        tokio::select! {
            received = probes.recv_many(&mut waiting, QUEUE) => if received == 0 { return },
            () = shared.stop.cancelled() => return,
        }
        // After a failure there is no use in trying before the tail is back.
        let newest = if failed && !*shared.tailing.borrow() {
            None
        } else {
            timeout(QUERY_TIMEOUT, newest(&shared, &mut link))
                .await
                .ok()
                .flatten()
        };
        failed = newest.is_none();
        if failed {
            link = None;
        }
        for probe in waiting.drain(..) {
            let _ = probe.send(newest);
        }
    }
}

async fn newest(shared: &Shared, link: &mut Option<Link>) -> Option<Revision> {
    // A link that was idle when the database went away is found out by its use: then once more.
    let fresh = link.is_none();
    match query(shared, link).await {
        Ok(revision) => Some(revision),
        Err(error) if fresh => {
            tracing::debug!(%error, "the newest revision was not read");
            None
        }
        Err(_) => {
            *link = None;
            query(shared, link).await.ok()
        }
    }
}

async fn query(shared: &Shared, link: &mut Option<Link>) -> Result<Revision, sqlx::Error> {
    if link.is_none() {
        *link = Some(Link::open(shared).await?);
    }
    let Some(open) = link else {
        return Err(sqlx::Error::PoolClosed);
    };
    let seen = shared.applied();
    at(Point::ProbeSend).await?;
    // The last revision allotted is one cheap look, and no lower than what anybody was told of.
    let row = sqlx::query(
        "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
            || '.' || 'store.objects'::regclass::oid::text || '.' || e.mark AS life,
            last_value AS allotted
         FROM store.revisions, (SELECT mark FROM store.epochs ORDER BY epoch DESC LIMIT 1) e",
    )
    .fetch_one(&mut open.connection)
    .await?;
    at(Point::ProbeAnswer).await?;
    let known = shared.epoch.load_full();
    let same = known.as_deref().is_some_and(|known| {
        known.database == open.epoch.database
            && row
                .try_get::<&str, _>("life")
                .is_ok_and(|found| found == known.life)
    });
    let allotted = Revision::new(row.try_get("allotted")?);
    // A log that ends before what this process has seen is not the one that it saw.
    if !same || allotted < seen {
        shared.doubt.notify_one();
        return Err(sqlx::Error::Protocol(
            "the database is another than before".to_owned(),
        ));
    }
    if allotted <= shared.tip() {
        return Ok(shared.applied());
    }
    at(Point::ProbeNewest).await?;
    // Some of them may be under way still, or were never used.
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT revision FROM store.events ORDER BY revision DESC LIMIT 1")
            .fetch_optional(&mut open.connection)
            .await?;
    Ok(Revision::new(newest.unwrap_or(0)))
}
