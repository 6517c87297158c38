//! What retention lets go, and that nothing else goes.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use store::testing::database;
use store::{ReadError, Revision, Scope, Store, StoreConfig, WatchError};

use crate::support::{PATIENCE, Replica, contents, delete, key, next_events, until, update};

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

/// 120 objects by another process, and the log of the first of them dropped, all at once.
const MISSED: &str = "DO $$
DECLARE v_resource integer;
BEGIN
    SELECT id INTO v_resource FROM store.resources WHERE plural = 'things';
    PERFORM store.apply_one(store.incarnation(), 0, 0, false, 0::smallint, v_resource, 'ns', 'n' || n,
        gen_random_uuid(), NULL, 'missed', '', '', '', '') FROM generate_series(1, 120) n;
    UPDATE store.objects o SET body = e.body FROM store.events e WHERE e.revision = o.revision;
    PERFORM store.set_compacted(100);
    IF store.drop_events(100) <> 1 THEN
        RAISE 'the first partition is not dropped';
    END IF;
END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_away_for_longer_than_history_is_kept_loads_anew() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("SELECT store.extend_events(50, 10)")
        .await
        .unwrap();
    let replica = Replica::on(&database).await;
    let (_, first) = replica.create(&key("ns/first"), "first").await;
    let mut watcher = replica.things.watch(first).unwrap();
    admin.execute(MISSED).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, watcher.next_batch(200)).await;
    assert!(
        matches!(end, Ok(Err(WatchError::Gone { .. }))),
        "{:?}",
        end.map(|batch| batch.map(|events| events.len()))
    );
    assert_eq!(replica.things.snapshot().len(), 121);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_lags_behind_compaction_reads_on_while_the_log_is_there() {
    let database = database();
    let replica = Replica::on(&database).await;
    let (_, first) = replica.create(&key("ns/first"), "first").await;
    let mut watcher = replica.things.watch(first).unwrap();
    // Compacted before anybody could have read it, and not dropped.
    let missed = MISSED.replace("IF store.drop_events(100) <> 1", "IF false");
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin.execute(AssertSqlSafe(missed)).await.unwrap();
    let events = next_events(&mut watcher, 120).await;
    assert!(events.is_sorted_by_key(|event| event.1));
    assert_eq!(replica.things.snapshot().len(), 121);
    assert!(replica.store.compacted() > first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_a_quiet_namespace_outlasts_the_history_of_others() {
    let mut config = StoreConfig::new(database().url);
    config.ring_time = Duration::from_secs(3);
    config.retention = Duration::ZERO;
    let replica = Replica::with(config).await;
    let scope = Scope::Namespace("quiet".into());
    let mut watcher = replica
        .things
        .watch_scope(replica.store.applied(), scope)
        .unwrap();
    let waiting = tokio::spawn(async move { watcher.next_batch(1).await });
    replica.create(&key("busy/a"), "a").await;
    let is_held = |store: &Store| store.stats().iter().any(|c| c.events > 0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while is_held(&replica.store) {
        assert!(
            std::time::Instant::now() < deadline,
            "the ring keeps its event"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    compact(&replica.store).await;
    let (_, revision) = replica.create(&key("quiet/a"), "a").await;
    let events = waiting.await.unwrap().unwrap();
    assert_eq!(events[0].revision, revision);
}

/// Bytes of the objects' table and of all events, with their indexes.
async fn sizes(admin: &mut PgConnection) -> (i64, i64) {
    let objects = "SELECT pg_total_relation_size('store.objects')";
    let events = "SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
        FROM pg_partition_tree('store.events') WHERE isleaf";
    let mut of = async |sql| {
        sqlx::query_scalar(sql)
            .fetch_one(&mut *admin)
            .await
            .unwrap()
    };
    (of(objects).await, of(events).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_indexes_stay_as_small_as_what_is_kept() {
    const OBJECTS: usize = 50;
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("SELECT store.extend_events(500, 20)")
        .await
        .unwrap();
    let replica = Replica::on(&database).await;
    let mut heads = Vec::new();
    for n in 0..OBJECTS {
        let key = key(&format!("ns/{n}"));
        let (uid, revision) = replica.create(&key, "0").await;
        heads.push((key, uid, revision));
    }
    let body = "x".repeat(1000);
    let mut seen = Vec::new();
    for round in 0..8 {
        for n in 0..20 {
            // All at a time: each round is a thousand writes.
            let writes = heads.iter().map(|(key, uid, revision)| {
                let body = format!("{round} {n} {body}");
                replica.things.write(update(key, *uid, *revision, &body))
            });
            let written = futures::future::join_all(writes).await;
            for (head, revision) in heads.iter_mut().zip(written) {
                head.2 = revision.unwrap();
            }
        }
        admin
            .execute("UPDATE store.events SET recorded_at = recorded_at - interval '1 hour'")
            .await
            .unwrap();
        compact(&replica.store).await;
        seen.push(sizes(&mut admin).await);
    }
    println!("objects and events, bytes: {seen:?}");
    let (first, last) = (seen[1], seen[7]);
    assert!(last.0 <= 2 * first.0, "{seen:?}");
    assert!(last.1 <= 2 * first.1, "{seen:?}");
    // What eight thousand events would take.
    assert!(last.1 < 4_000_000, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_that_vacuum_cannot_remove_are_seen() {
    const WRITES: i64 = 300;
    let database = database();
    let replica = Replica::on(&database).await;
    assert_eq!(replica.store.survey(), None);
    compact(&replica.store).await;
    let before = replica.store.survey().unwrap();
    assert!(before.bytes > 0, "{before:?}");
    // Of the whole server, where others notify too.
    assert!(before.notification_queue < 0.001, "{before:?}");
    assert!(
        (1..1_000_000).contains(&before.transaction_age),
        "{before:?}"
    );

    let (uid, mut revision) = replica.create(&key("ns/busy"), "0").await;
    let mut old = PgConnection::connect(&database.admin_url).await.unwrap();
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM store.objects")
        .await
        .unwrap();
    for n in 0..WRITES {
        let write = update(&key("ns/busy"), uid, revision, &n.to_string());
        revision = replica.things.write(write).await.unwrap();
    }
    // Postgres counts them with a delay of a second or so.
    until("they are seen", async || {
        compact(&replica.store).await;
        replica.store.survey().unwrap().dead_rows >= WRITES
    })
    .await;
    old.execute("COMMIT").await.unwrap();
    old.execute("VACUUM store.objects").await.unwrap();
    until("vacuum removed them", async || {
        compact(&replica.store).await;
        replica.store.survey().unwrap().dead_rows == 0
    })
    .await;
}
