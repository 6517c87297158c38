//! What retention lets go, and that nothing else goes.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use store::testing::database;
use store::{ReadError, Revision, Store, StoreConfig, WatchError};

use crate::support::{Replica, contents, delete, key, next_events, update};

async fn compact(store: &Store) -> store::Compacted {
    // The pass at the start may still be under way.
    loop {
        if let Some(done) = store.compact().await.unwrap() {
            return done;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_keeps_all_objects_and_all_history_within_retention() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("SELECT store.extend_events(50, 10)")
        .await
        .unwrap();
    let mut config = StoreConfig::new(&database.url);
    config.ring_bytes = 3000;
    let old = Replica::with(config.clone()).await;
    let early = old.store.applied();
    let (uid, mut revision) = old.create(&key("ns/busy"), "0").await;
    let (idle_uid, idle) = old.create(&key("ns/idle"), "idle").await;
    let (gone_uid, gone) = old.create(&key("ns/gone"), "gone").await;
    old.things
        .write(delete(&key("ns/gone"), gone_uid, gone, "gone"))
        .await
        .unwrap();
    for n in 1..=160 {
        revision = old
            .things
            .write(update(&key("ns/busy"), uid, revision, &n.to_string()))
            .await
            .unwrap();
    }
    admin
        .execute("UPDATE store.events SET recorded_at = recorded_at - interval '1 hour'")
        .await
        .unwrap();
    old.store.shutdown().await;

    let replica = Replica::with(config.clone()).await;
    let before = contents(&replica.things.snapshot());
    let idle_again = update(&key("ns/idle"), idle_uid, idle, "idle again");
    let idle_again = replica.things.write(idle_again).await.unwrap();
    let compacted = compact(&replica.store).await;
    assert_eq!(compacted.revision, revision);
    assert_eq!(compacted.partitions, 3);
    let partitions: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM store.event_partitions()
        WHERE below_revision <= 151",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert_eq!(partitions, 0);

    let fresh = Replica::with(config).await;
    for replica in [&replica, &fresh] {
        assert_eq!(
            contents(&replica.things.at(revision).await.unwrap()),
            before
        );
        let mut watcher = replica.things.watch(revision).unwrap();
        let events = next_events(&mut watcher, 1).await;
        assert_eq!(events[0].1, idle_again.get());
        assert_eq!(events[0].4, Some((idle.get(), "idle".to_owned())));
    }
    for old in [early, idle, Revision::new(revision.get() - 1)] {
        assert!(matches!(
            fresh.things.watch(old),
            Err(WatchError::Gone { .. })
        ));
        assert!(matches!(
            fresh.things.at(old).await,
            Err(ReadError::Compacted { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rescued_objects_are_written_like_others() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("SELECT store.extend_events(10, 10)")
        .await
        .unwrap();
    let replica = Replica::on(&database).await;
    let mut heads = Vec::new();
    for n in 0..30 {
        heads.push(
            replica
                .create(&key(&format!("ns/{n}")), &format!("body {n}"))
                .await,
        );
    }
    admin
        .execute("UPDATE store.events SET recorded_at = recorded_at - interval '1 hour'")
        .await
        .unwrap();
    let compacted = compact(&replica.store).await;
    // The third partition ends after the last event, so it is not below what can be dropped.
    assert_eq!(
        (compacted.partitions, compacted.rescued > 15),
        (3, true),
        "{compacted:?}"
    );
    let mut watcher = replica.things.watch(replica.store.applied()).unwrap();
    for (n, (uid, revision)) in heads.into_iter().enumerate() {
        let name = key(&format!("ns/{n}"));
        let revision = replica
            .things
            .write(update(&name, uid, revision, "new"))
            .await
            .unwrap();
        let event = next_events(&mut watcher, 1).await.remove(0);
        assert_eq!(
            (event.1, event.4.unwrap().1),
            (revision.get(), format!("body {n}"))
        );
    }
    let fresh = Replica::on(&database).await;
    assert_eq!(
        contents(&fresh.things.snapshot()),
        contents(&replica.things.snapshot())
    );
    let mut resumed = fresh.things.watch(fresh.store.compacted()).unwrap();
    assert_eq!(
        next_events(&mut resumed, 30).await[7].4.as_ref().unwrap().1,
        "body 7"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_compacts_at_a_time() {
    let database = database();
    let mut config = StoreConfig::new(&database.url);
    config.compaction_interval = Duration::from_secs(3600);
    let replica = Replica::with(config).await;
    compact(&replica.store).await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other
        .execute("SELECT pg_advisory_lock(7777, 2)")
        .await
        .unwrap();
    assert_eq!(replica.store.compact().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_room_is_extended() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let replica = Replica::on(&database).await;
    replica.create(&key("ns/a"), "1").await;
    let ahead: Vec<String> = sqlx::query_scalar(
        "SELECT format('DROP TABLE store.%I', name) FROM store.event_partitions() WHERE from_revision > 1")
        .fetch_all(&mut admin).await.unwrap();
    for drop in ahead {
        admin.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
    }
    admin
        .execute("SELECT setval('store.revisions', 1000000)")
        .await
        .unwrap();
    let (_, revision) = replica.create(&key("ns/b"), "2").await;
    assert!(revision.get() > 1_000_000);
}
