//! A disk that gets full, under the tables or under the write-ahead log.

use std::time::Duration;

use store::private_postgres::Shutdown;
use store::{WatchError, WriteError};
use uuid::Uuid;

use crate::breakable::{Breakable, SmallDisk};
use crate::support::{PATIENCE, Replica, create, key, next_events, until, within, write_patiently};

/// Writes large bodies until one is refused; returns how many were written.
async fn write_until_refused(replica: &Replica) -> (usize, WriteError) {
    let body = "x".repeat(200_000);
    for n in 0..2000 {
        let name = key(&format!("full/{n}"));
        let write = create(&name, Uuid::new_v4(), &body);
        if let Err(error) = replica.things.write(write).await {
            return (n, error);
        }
    }
    panic!("the disk does not get full");
}

/// What goes on while nothing can be written.
async fn check_reads(replica: &Replica, objects: usize) {
    assert_eq!(replica.things.snapshot().len(), objects);
    let mut watcher = replica.things.watch(replica.store.applied()).unwrap();
    assert!(watcher.ready_batch(1).is_empty());
    for n in 0..5 {
        let write = create(
            &key(&format!("refused/{n}")),
            Uuid::new_v4(),
            &"x".repeat(200_000),
        );
        let refused = replica.things.write(write).await;
        assert!(
            matches!(refused, Err(WriteError::Unavailable { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_data_disk_refuses_writes_and_heals_by_itself() {
    let mut own = Breakable::with("full-data", &[]);
    own.stop(Shutdown::Fast);
    // Only the tables are on the small disk.
    let Some(disk) = SmallDisk::take(&own, "base", "150m") else {
        return;
    };
    own.start();
    let replica = Replica::on(&own.database).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    let mut watcher = replica.things.watch(first).unwrap();
    disk.fill();
    let (written, error) = write_until_refused(&replica).await;
    assert!(matches!(error, WriteError::Unavailable { .. }), "{error:?}");
    check_reads(&replica, written + 1).await;
    disk.free();
    let healed = within(Duration::from_secs(2), "writes go on", async || {
        let write = create(
            &key(&Uuid::new_v4().to_string()),
            Uuid::new_v4(),
            &"x".repeat(200_000),
        );
        replica.things.write(write).await.is_ok()
    })
    .await;
    println!("{written} written until the disk was full; healed after {healed:?}");
    assert_eq!(
        next_events(&mut watcher, written + 1).await.len(),
        written + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_disk_ends_postgres_and_loses_nothing() {
    let mut own = Breakable::with(
        "full-log",
        &[("max_wal_size", "32MB"), ("min_wal_size", "32MB")],
    );
    own.stop(Shutdown::Fast);
    let Some(disk) = SmallDisk::take(&own, "pg_wal", "200m") else {
        return;
    };
    own.start();
    let replica = Replica::on(&own.database).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    let mut watcher = replica.things.watch(first).unwrap();
    disk.fill();
    let (written, error) = write_until_refused(&replica).await;
    println!("{written} written until the log was full: {error:?}");
    assert!(matches!(
        error,
        WriteError::Unavailable { .. } | WriteError::OutcomeUnknown
    ));
    until("it notices", async || !replica.store.is_reachable()).await;
    check_reads(&replica, written + 1).await;
    // A server without room for its log does not even start.
    own.forget();
    assert!(own.try_start().is_err());
    disk.free();
    own.start();
    let name = key("ns/after");
    write_patiently(&replica.things, create(&name, Uuid::new_v4(), "2"))
        .await
        .unwrap();
    let snapshot = replica.things.consistent().await.unwrap();
    let unknown = snapshot.len() - written - 2;
    assert!(unknown <= 1, "{} objects", snapshot.len());
    let count = written + unknown + 1;
    let events = tokio::time::timeout(PATIENCE, next_events(&mut watcher, count)).await;
    assert_eq!(events.unwrap().last().unwrap().2, "ns/after");
    let gone: Result<_, WatchError> = replica.things.watch(first);
    assert!(gone.is_ok());
}
