//! Wall clocks that are wrong: they may spoil times, never the order.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use store::testing::database;
use store::{ReadError, Revision, StoreConfig, WatchError};

use crate::support::{Replica, contents, key, next_events, until};

/// Moves the clock by which these events were recorded.
async fn step(admin: &mut PgConnection, from: i64, to: i64, hours: i32) {
    let statement = format!(
        "UPDATE store.events SET recorded_at = recorded_at + interval '{hours} hours'
         WHERE revision BETWEEN {from} AND {to}"
    );
    admin.execute(AssertSqlSafe(statement)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_changes_no_order_and_makes_no_gap() {
    for hours in [-1, 1] {
        let database = database();
        let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
        let config = StoreConfig::new(&database.url);
        let replica = Replica::with(config.clone()).await;
        let start = replica.store.applied();
        let mut revisions = Vec::new();
        for n in 0..60 {
            let (_, revision) = replica
                .create(&key(&format!("ns/{n:02}")), &n.to_string())
                .await;
            revisions.push(revision);
        }
        // The middle third was written while the clock was wrong.
        step(&mut admin, revisions[20].get(), revisions[39].get(), hours).await;
        let fresh = Replica::with(config).await;
        let pass = fresh.store.compact().await.unwrap().unwrap();
        println!(
            "{hours} h: compacted up to {} of {}",
            pass.revision, revisions[59]
        );
        // What one has let go the other learns within a second, and lets go too.
        until("both know of it", async || {
            replica.store.compacted() >= pass.revision
        })
        .await;
        // At worst history goes too early, and who needs it is told; what is shown is whole.
        for replica in [&fresh, &replica] {
            for (n, after) in [start].iter().chain(&revisions).enumerate() {
                match replica.things.watch(*after) {
                    Ok(mut watcher) if n < 60 => {
                        let events = next_events(&mut watcher, 60 - n).await;
                        let found: Vec<_> = events.iter().map(|e| Revision::new(e.1)).collect();
                        assert_eq!(found, revisions[n..]);
                        let state = replica.things.at(*after).await.unwrap();
                        assert_eq!(contents(&state).len(), n);
                    }
                    Ok(_) => {}
                    Err(WatchError::Gone { oldest }) => {
                        assert!(*after < oldest);
                        let read = replica.things.at(*after).await;
                        assert!(matches!(read, Err(ReadError::Compacted { .. })), "{read:?}");
                    }
                }
            }
            assert_eq!(
                contents(&replica.things.consistent().await.unwrap()).len(),
                60
            );
        }
        let (_, next) = replica.create(&key("ns/next"), "x").await;
        assert!(next > revisions[59]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_went_back_keeps_history_rather_longer() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut config = StoreConfig::new(&database.url);
    config.retention = Duration::from_secs(60);
    let replica = Replica::with(config).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    // Recorded in what is the future now.
    step(&mut admin, 0, first.get(), 1).await;
    replica.create(&key("ns/b"), "2").await;
    let pass = replica.store.compact().await.unwrap().unwrap();
    assert!(pass.revision < first, "{pass:?}");
    assert!(replica.things.watch(first).is_ok());
}

#[test]
fn nothing_in_the_store_asks_for_the_time_of_day() {
    let mut folders = vec![PathBuf::from("src")];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            read += 1;
            let text = std::fs::read_to_string(entry.path()).unwrap();
            for word in [
                "SystemTime::now",
                "UNIX_EPOCH.elapsed",
                "chrono::",
                "jiff::",
            ] {
                assert!(
                    !text.contains(word),
                    "{} uses {word}",
                    entry.path().display()
                );
            }
            // The database's own clock dates events, for retention; it orders nothing.
            assert!(!text.contains("ORDER BY recorded_at"));
        }
    }
    assert!(read > 10);
    let migrations = "../migrations";
    for entry in std::fs::read_dir(migrations).unwrap().map(Result::unwrap) {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert!(!text.contains("ORDER BY recorded_at") && !text.contains("ORDER BY e.recorded_at"));
    }
}
