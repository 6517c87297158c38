//! What clients were told of their writes, held against the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use store::{Collection, Revision, WriteError};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{Text, create, key, write_patiently};

/// What a client knows of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Applied(Revision),
    NotApplied,
    Unknown,
}

/// Counts of what the clients were told, after each was found to be true.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) applied: usize,
    pub(crate) not_applied: usize,
    pub(crate) unknown: usize,
}

/// One event of the log: revision, key, body.
pub(crate) type Row = (i64, String, String);

/// Creates one object after the other until it is told to stop. A create whose outcome stays
/// unknown is sent once more later, as a client would.
pub(crate) fn keep_creating(
    things: &Arc<Collection<Text>>,
    prefix: &str,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Vec<(String, Verdict)>> {
    let (things, prefix, stop) = (Arc::clone(things), prefix.to_owned(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut all = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let name = format!("{prefix}/{}", all.len());
            let write = create(&key(&name), Uuid::new_v4(), &name);
            let verdict = match things.write(write.clone()).await {
                Ok(revision) => Verdict::Applied(revision),
                Err(WriteError::OutcomeUnknown) => {
                    let again = write_patiently(&things, write).await;
                    let fine = matches!(
                        again,
                        Ok(_) | Err(WriteError::AlreadyExists { .. } | WriteError::OutcomeUnknown)
                    );
                    assert!(fine, "{again:?}");
                    Verdict::Unknown
                }
                Err(WriteError::Unavailable { .. } | WriteError::Overloaded { .. }) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Verdict::NotApplied
                }
                Err(error) => panic!("{name}: {error}"),
            };
            all.push((name, verdict));
        }
        all
    })
}

/// The whole log.
pub(crate) async fn log(admin_url: &str) -> Vec<Row> {
    let mut admin = PgConnection::connect(admin_url).await.unwrap();
    let rows = sqlx::query_as(
        "SELECT revision, namespace || '/' || name, convert_from(body, 'UTF8')
         FROM store.events ORDER BY revision",
    );
    rows.fetch_all(&mut admin).await.unwrap()
}

/// Each verdict is true, and nothing was applied twice.
pub(crate) fn check(verdicts: &[(String, Verdict)], log: &[Row]) -> Told {
    let mut revisions: HashMap<&str, Vec<i64>> = HashMap::new();
    for (revision, name, _) in log {
        revisions.entry(name).or_default().push(*revision);
    }
    let mut told = Told::default();
    for (name, verdict) in verdicts {
        let found = revisions.get(name.as_str()).cloned().unwrap_or_default();
        match verdict {
            Verdict::Applied(revision) => {
                assert_eq!(found, [revision.get()], "{name} was acknowledged");
                told.applied += 1;
            }
            Verdict::NotApplied => {
                assert!(found.is_empty(), "{name} was refused, and is at {found:?}");
                told.not_applied += 1;
            }
            Verdict::Unknown => {
                assert!(found.len() <= 1, "{name} was applied as {found:?}");
                told.unknown += 1;
            }
        }
    }
    told
}

/// All that the writers were told is true.
pub(crate) async fn settle(
    stop: &AtomicBool,
    writers: Vec<JoinHandle<Vec<(String, Verdict)>>>,
    admin_url: &str,
) -> (Told, Vec<Row>) {
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    let log = log(admin_url).await;
    (check(&all, &log), log)
}

/// A watch that began before the log returns all of it, once and in order.
pub(crate) async fn check_watch(watcher: &mut store::Watcher<Text>, log: &[Row]) {
    let events = crate::support::next_events(watcher, log.len()).await;
    let events: Vec<Row> = events.into_iter().map(|e| (e.1, e.2, e.3)).collect();
    assert!(events == log, "the watch is not the log");
    assert_eq!(watcher.ready_batch(1).len(), 0);
}

#[test]
#[should_panic(expected = "was acknowledged")]
fn an_acknowledged_write_that_is_not_in_the_log_is_found() {
    check(
        &[("a/0".to_owned(), Verdict::Applied(Revision::new(7)))],
        &[],
    );
}

#[test]
#[should_panic(expected = "was refused")]
fn a_refused_write_that_is_in_the_log_is_found() {
    let log = [(7, "a/0".to_owned(), String::new())];
    check(&[("a/0".to_owned(), Verdict::NotApplied)], &log);
}
