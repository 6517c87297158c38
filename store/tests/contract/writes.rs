//! Conditions, winners, batches, provenance.

use store::testing::database;
use store::{MAX_BODY, WriteError};
use uuid::Uuid;

use crate::support::{Replica, create, delete, key, update};

#[tokio::test(flavor = "multi_thread")]
async fn a_written_object_is_read_back_as_written() {
    let replica = Replica::alone().await;
    let name = key("ns/a");
    let body = "{\"x\":\"a\\u0000b\u{10ffff}\"}";
    let (uid, revision) = replica.create(&name, body).await;
    let snapshot = replica.things.snapshot();
    let stored = snapshot.get(&name).unwrap();
    assert_eq!(
        (stored.uid, stored.revision, stored.view.as_str()),
        (uid, revision, body)
    );
    assert!(snapshot.revision() >= revision);
    assert_eq!(replica.others.snapshot().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_update_is_a_conflict() {
    let replica = Replica::alone().await;
    let name = key("ns/a");
    let (uid, first) = replica.create(&name, "1").await;
    let second = replica
        .things
        .write(update(&name, uid, first, "2"))
        .await
        .unwrap();
    assert!(second > first);
    let stale = replica.things.write(update(&name, uid, first, "3")).await;
    assert_eq!(stale, Err(WriteError::Conflict { current: second }));
    let ahead = store::Revision::new(second.get() + 1000);
    let ahead = replica.things.write(update(&name, uid, ahead, "3")).await;
    assert_eq!(ahead, Err(WriteError::Conflict { current: second }));
    let other = replica
        .things
        .write(update(&name, Uuid::new_v4(), second, "3"))
        .await;
    assert_eq!(other, Err(WriteError::Conflict { current: second }));
    let stale = replica.things.write(delete(&name, uid, first, "2")).await;
    assert_eq!(stale, Err(WriteError::Conflict { current: second }));
    assert_eq!(replica.things.snapshot().get(&name).unwrap().view, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_until_it_is_deleted() {
    let replica = Replica::alone().await;
    let name = key("ns/a");
    let (uid, first) = replica.create(&name, "1").await;
    let again = replica
        .things
        .write(create(&name, Uuid::new_v4(), "2"))
        .await;
    assert_eq!(again, Err(WriteError::AlreadyExists { current: first }));
    // The same key in another collection is another object.
    replica
        .others
        .write(create(&name, Uuid::new_v4(), "other"))
        .await
        .unwrap();
    let deleted = replica
        .things
        .write(delete(&name, uid, first, "1"))
        .await
        .unwrap();
    assert!(replica.things.snapshot().get(&name).is_none());
    let gone = replica.things.write(update(&name, uid, deleted, "3")).await;
    assert_eq!(gone, Err(WriteError::NotFound));
    let gone = replica.things.write(delete(&name, uid, deleted, "3")).await;
    assert_eq!(gone, Err(WriteError::NotFound));
    replica.create(&name, "4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_of_a_version_wins() {
    let database = database();
    let replicas = [Replica::on(&database).await, Replica::on(&database).await];
    let name = key("ns/contended");
    let (uid, mut revision) = replicas[0].create(&name, "0").await;
    for round in 0..10 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            let things = replicas[writer % 2].things.clone();
            let write = update(&name, uid, revision, &format!("{round}/{writer}"));
            writers.spawn(async move { things.write(write).await });
        }
        let outcomes = writers.join_all().await;
        let won: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().ok())
            .collect();
        assert_eq!(won.len(), 1, "round {round}: {outcomes:?}");
        revision = *won[0];
        let lost = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        assert!(
            lost.into_iter()
                .all(|e| *e == WriteError::Conflict { current: revision })
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creates_of_one_key_have_one_winner() {
    let database = database();
    let replicas = [Replica::on(&database).await, Replica::on(&database).await];
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..200 {
        let things = replicas[writer % 2].things.clone();
        let write = create(&key(&format!("ns/{}", writer / 10)), Uuid::new_v4(), "x");
        writers.spawn(async move { things.write(write).await });
    }
    let outcomes = writers.join_all().await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        20
    );
    assert_eq!(replicas[0].things.consistent().await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_caller_left_is_still_written() {
    let replica = Replica::alone().await;
    let names: Vec<_> = (0..50).map(|n| key(&format!("ns/{n}"))).collect();
    let mut left = 0;
    for name in &names {
        let mut write = Box::pin(replica.things.write(create(name, Uuid::new_v4(), "x")));
        // Polled once, which queues it; then dropped, unless this thread stood still for so long that
        // it was answered meanwhile.
        left += usize::from(futures::poll!(&mut write).is_pending());
    }
    assert!(left > names.len() / 2, "{left}");
    let mut watcher = replica.things.watch(store::Revision::ZERO).unwrap();
    let events = crate::support::next_events(&mut watcher, names.len()).await;
    assert_eq!(events.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused() {
    let replica = Replica::alone().await;
    let largest = "x".repeat(MAX_BODY);
    let name = key("ns/large");
    let (uid, revision) = replica.create(&name, &largest).await;
    let larger = update(&name, uid, revision, &"x".repeat(MAX_BODY + 1));
    let refused = replica.things.write(larger).await;
    assert_eq!(
        refused,
        Err(WriteError::TooLarge {
            size: MAX_BODY + 1,
            limit: MAX_BODY
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_bodies_at_once_are_all_written() {
    let replica = Replica::alone().await;
    let body = "y".repeat(1024 * 1024);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..12 {
        let things = replica.things.clone();
        let write = create(&key(&format!("ns/{writer}")), Uuid::new_v4(), &body);
        writers.spawn(async move { things.write(write).await });
    }
    assert!(writers.join_all().await.iter().all(Result::is_ok));
    assert!(
        replica
            .things
            .snapshot()
            .range(None, None)
            .all(|stored| stored.view == body)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_has_shut_down_refuses_writes_and_has_finished_those_before() {
    let database = database();
    let replica = Replica::on(&database).await;
    let mut before = tokio::task::JoinSet::new();
    for n in 0..20 {
        let things = replica.things.clone();
        let write = create(&key(&format!("ns/{n}")), Uuid::new_v4(), "x");
        before.spawn(async move { things.write(write).await });
    }
    tokio::task::yield_now().await;
    replica.store.shutdown().await;
    let written = before
        .join_all()
        .await
        .iter()
        .filter(|outcome| outcome.is_ok())
        .count();
    let after = replica
        .things
        .write(create(&key("ns/late"), Uuid::new_v4(), "x"))
        .await;
    assert!(
        matches!(after, Err(WriteError::Unavailable { .. })),
        "{after:?}"
    );
    let second = Replica::on(&database).await;
    assert_eq!(second.things.snapshot().len(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_database_refuses_does_not_spoil_its_batch() {
    let replica = Replica::alone().await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..60 {
        let things = replica.things.clone();
        // Postgres' text has no NUL.
        let name = if n % 20 == 7 {
            format!("ns/{n}\0")
        } else {
            format!("ns/{n}")
        };
        let write = create(&key(&name), Uuid::new_v4(), "x");
        writers.spawn(async move { things.write(write).await });
    }
    let outcomes = writers.join_all().await;
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(
        refused
            .clone()
            .all(|error| matches!(error, WriteError::Refused(_))),
        "{outcomes:?}"
    );
    assert_eq!(refused.count(), 3);
    assert_eq!(replica.things.consistent().await.unwrap().len(), 57);
}
