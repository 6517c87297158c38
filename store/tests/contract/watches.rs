//! Watches: order, resumption, scopes, bookmarks, and watchers that are slow.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use store::testing::database;
use store::{EventKind, Revision, Scope, StoreConfig};
use tokio::time::timeout;

use crate::support::{PATIENCE, Replica, contents, delete, key, next_events, seen, update};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_returns_every_later_event_once_and_in_order() {
    let database = database();
    let (one, two) = (Replica::on(&database).await, Replica::on(&database).await);
    let start = one.store.applied();
    let mut watcher = two.things.watch(start).unwrap();
    let name = key("ns/a");
    let (uid, r1) = one.create(&name, "1").await;
    let r2 = one.things.write(update(&name, uid, r1, "2")).await.unwrap();
    let r3 = one
        .things
        .write(delete(&name, uid, r2, "2 gone"))
        .await
        .unwrap();
    let of = |kind, revision: Revision, body: &str, previous| {
        (
            kind,
            revision.get(),
            "ns/a".to_owned(),
            body.to_owned(),
            previous,
        )
    };
    let expected = vec![
        of(EventKind::Added, r1, "1", None),
        of(
            EventKind::Modified,
            r2,
            "2",
            Some((r1.get(), "1".to_owned())),
        ),
        of(
            EventKind::Deleted,
            r3,
            "2 gone",
            Some((r2.get(), "2".to_owned())),
        ),
    ];
    assert_eq!(next_events(&mut watcher, 3).await, expected);
    // From each revision on, on either process, also on one that has only just started.
    let three = Replica::on(&database).await;
    for (skip, after) in [start, r1, r2].into_iter().enumerate() {
        for replica in [&one, &two, &three] {
            let mut resumed = replica.things.watch(after).unwrap();
            assert_eq!(next_events(&mut resumed, 3 - skip).await, expected[skip..]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_the_future_is_silent_until_then() {
    let replica = Replica::alone().await;
    let name = key("ns/a");
    let (uid, mut revision) = replica.create(&name, "0").await;
    let future = Revision::new(revision.get() + 5);
    let mut watcher = replica.things.watch(future).unwrap();
    assert_eq!(watcher.position(), future);
    for n in 1..=7 {
        revision = replica
            .things
            .write(update(&name, uid, revision, &n.to_string()))
            .await
            .unwrap();
    }
    assert_eq!(
        next_events(&mut watcher, 2)
            .await
            .iter()
            .map(|e| e.1)
            .collect::<Vec<_>>(),
        [future.get() + 1, future.get() + 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_never_passes_an_event_that_was_not_returned() {
    let replica = Replica::alone().await;
    let start = replica.store.applied();
    let mut watcher = replica.things.watch(start).unwrap();
    // Other collections move the position of an idle watch.
    let mut last = start;
    for n in 0..3 {
        let write = crate::support::create(&key(&format!("ns/{n}")), uuid::Uuid::new_v4(), "");
        last = replica.others.write(write).await.unwrap();
    }
    assert_eq!(watcher.position(), last);
    let (_, created) = replica.create(&key("ns/a"), "").await;
    replica.create(&key("ns/b"), "").await;
    assert!(watcher.position() < created);
    assert_eq!(next_events(&mut watcher, 1).await[0].1, created.get());
    assert_eq!(watcher.position(), created);
    next_events(&mut watcher, 1).await;
    assert_eq!(watcher.position(), replica.store.applied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_watch_returns_the_events_of_its_scope() {
    let replica = Replica::alone().await;
    let start = replica.store.applied();
    let namespace = Scope::Namespace("b".into());
    let mut in_namespace = replica.things.watch_scope(start, namespace).unwrap();
    let mut of_object = replica
        .things
        .watch_scope(start, Scope::Object(key("b/2")))
        .unwrap();
    for name in ["a/1", "b/1", "a/2", "b/2", "c/1"] {
        replica.create(&key(name), "").await;
    }
    let names =
        |events: Vec<crate::support::Seen>| events.into_iter().map(|e| e.2).collect::<Vec<_>>();
    assert_eq!(
        names(next_events(&mut in_namespace, 2).await),
        ["b/1", "b/2"]
    );
    assert_eq!(names(next_events(&mut of_object, 1).await), ["b/2"]);
    assert_eq!(in_namespace.position(), replica.store.applied());
    assert_eq!(of_object.position(), replica.store.applied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_scoped_watcher_is_woken_by_its_event_alone() {
    let replica = Replica::alone().await;
    let scope = Scope::Object(key("b/1"));
    let mut watcher = replica
        .things
        .watch_scope(replica.store.applied(), scope)
        .unwrap();
    replica.create(&key("a/1"), "").await;
    let nothing = timeout(Duration::from_millis(50), watcher.next_batch(10)).await;
    assert!(nothing.is_err());
    let waiting = tokio::spawn(async move {
        let batch = watcher.next_batch(10).await;
        batch
            .unwrap()
            .iter()
            .map(|event| seen(event).2)
            .collect::<Vec<_>>()
    });
    replica.create(&key("b/1"), "").await;
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), ["b/1"]);
    assert!(
        replica
            .store
            .stats()
            .iter()
            .all(|collection| collection.watchers == 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_fell_out_of_the_ring_goes_on_from_the_database() {
    let database = database();
    let mut config = StoreConfig::new(&database.url);
    config.ring_bytes = 20 * 300;
    let replica = Replica::with(config).await;
    let start = replica.store.applied();
    let mut slow = replica.things.watch(start).unwrap();
    let name = key("ns/a");
    let (uid, mut revision) = replica.create(&name, "0").await;
    let mut states = vec![(revision, contents(&replica.things.snapshot()))];
    for n in 1..700 {
        revision = replica
            .things
            .write(update(&name, uid, revision, &n.to_string()))
            .await
            .unwrap();
        states.push((revision, contents(&replica.things.snapshot())));
    }
    let events = replica
        .store
        .stats()
        .into_iter()
        .find(|c| c.plural == "things")
        .unwrap()
        .events;
    assert!(events < 30, "{events} events in the ring");
    let bodies: Vec<_> = next_events(&mut slow, 700)
        .await
        .into_iter()
        .map(|e| e.3)
        .collect();
    assert_eq!(bodies, (0..700).map(|n| n.to_string()).collect::<Vec<_>>());
    for (revision, state) in states.into_iter().step_by(97) {
        assert_eq!(contents(&replica.things.at(revision).await.unwrap()), state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_serves_watches_from_before_the_events_that_it_read() {
    const WRITES: usize = 6000;
    let database = database();
    let replica = Replica::on(&database).await;
    let begin = replica.store.applied();
    let keys: Vec<_> = (0..WRITES).map(|n| key(&format!("ns/{n}"))).collect();
    let creates = keys.iter().map(|key| replica.create(key, "x"));
    let written = futures::future::join_all(creates).await;
    let middle = written[WRITES / 2].1;
    replica.store.shutdown().await;

    let fresh = Replica::on(&database).await;
    let read: usize = fresh.store.stats().iter().map(|c| c.events).sum();
    assert!((1..WRITES).contains(&read), "{read} events were read");
    for from in [begin, middle] {
        let mut expected: Vec<_> = written.iter().map(|w| w.1).filter(|r| *r > from).collect();
        expected.sort_unstable();
        let mut watcher = fresh.things.watch(from).unwrap();
        let events = next_events(&mut watcher, expected.len()).await;
        let expected: Vec<_> = expected.into_iter().map(Revision::get).collect();
        let seen: Vec<_> = events.into_iter().map(|event| event.1).collect();
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_the_watch_from_it_are_the_whole() {
    let database = database();
    let replicas = [Replica::on(&database).await, Replica::on(&database).await];
    let writer = tokio::spawn({
        let things = replicas[0].things.clone();
        async move {
            for n in 0..300 {
                let write =
                    crate::support::create(&key(&format!("ns/{n:03}")), uuid::Uuid::new_v4(), "");
                things.write(write).await.unwrap();
            }
        }
    });
    for round in 0..10 {
        let things = &replicas[round % 2].things;
        let snapshot = things.snapshot();
        let mut watcher = things.watch(snapshot.revision()).unwrap();
        let mut names: Vec<_> = snapshot
            .range(None, None)
            .map(|o| o.key.to_string())
            .collect();
        let rest = next_events(&mut watcher, 300 - names.len()).await;
        names.extend(rest.into_iter().map(|event| event.2));
        names.sort();
        assert_eq!(
            names,
            (0..300).map(|n| format!("ns/{n:03}")).collect::<Vec<_>>()
        );
    }
    writer.await.unwrap();
}

/// Transactions that the database has counted, of all its clients.
async fn transactions(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_watchers_cost_no_query() {
    let database = database();
    let one = Replica::on(&database).await;
    let (_, revision) = one.create(&key("ns/a"), "1").await;
    let watchers = (0..1_000).map(|_| {
        let mut watcher = one.things.watch(revision).unwrap();
        tokio::spawn(async move { watcher.next_batch(1).await.map(|events| events.len()) })
    });
    let watchers: Vec<_> = watchers.collect();
    let mut connection = PgConnection::connect(&database.admin_url).await.unwrap();
    let before = transactions(&mut connection).await;
    // Time is what is measured here: what is asked for while nothing happens.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = transactions(&mut connection).await - before;
    // The tail's poll, the probe, the compactor and this test itself ask some times a second.
    assert!(asked < 100, "{asked} transactions for 1,000 idle watchers");
    one.create(&key("ns/b"), "1").await;
    for watcher in watchers {
        assert_eq!(
            timeout(PATIENCE, watcher).await.unwrap().unwrap().unwrap(),
            1
        );
    }
}

/// What a hundred writes at one replica ask of the database while `count` watchers wait at another.
async fn cost_of_writes(count: usize) -> i64 {
    const WRITES: usize = 100;
    let database = database();
    let (one, other) = (Replica::on(&database).await, Replica::on(&database).await);
    let start = one.store.applied();
    let watchers: Vec<_> = (0..count)
        .map(|_| {
            let mut watcher = other.things.watch(start).unwrap();
            tokio::spawn(async move { next_events(&mut watcher, WRITES).await.len() })
        })
        .collect();
    let mut connection = PgConnection::connect(&database.admin_url).await.unwrap();
    let settled = async |connection: &mut PgConnection| {
        // Sessions tell what they did once a second while they are asked; one that falls idle, as the
        // writer's here, ten seconds later.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        transactions(connection).await
    };
    let before = settled(&mut connection).await;
    for n in 0..WRITES {
        one.create(&key(&format!("ns/{n}")), "1").await;
    }
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), WRITES);
    }
    settled(&mut connection).await - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_costs_the_same_queries_however_many_watch() {
    let (few, many) = (cost_of_writes(1).await, cost_of_writes(2_000).await);
    println!("{few} transactions for a hundred writes with one watcher, {many} with 2,000");
    // A slow machine polls more often meanwhile; one query a watcher would be thousands.
    assert!(many < few + 1000, "{few} and {many}");
}
