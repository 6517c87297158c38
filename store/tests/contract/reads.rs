//! Snapshots: consistent, not older than, exact; ranges.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use store::testing::database;
use store::{Key, ReadError, Revision, StoreConfig};
use uuid::Uuid;

use crate::support::{PATIENCE, Replica, contents, create, delete, key, update};

#[tokio::test(flavor = "multi_thread")]
async fn a_consistent_read_sees_what_another_process_acknowledged() {
    let database = database();
    let (one, two) = (Replica::on(&database).await, Replica::on(&database).await);
    let name = key("ns/a");
    let (uid, mut revision) = one.create(&name, "0").await;
    for n in 1..=100 {
        let (writer, reader) = if n % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        revision = writer
            .things
            .write(update(&name, uid, revision, &n.to_string()))
            .await
            .unwrap();
        let snapshot = reader.things.consistent().await.unwrap();
        assert!(snapshot.revision() >= revision);
        assert_eq!(snapshot.get(&name).unwrap().view, n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_shows_a_revision_that_another_one_does_not_reach() {
    let database = database();
    let (one, two) = (Replica::on(&database).await, Replica::on(&database).await);
    one.create(&key("ns/taken"), "0").await;
    for n in 0..30 {
        // A batch allots a revision to every write, also to the last one, which fails.
        let names = [
            format!("ns/{n}"),
            format!("ns/{n}-again"),
            "ns/taken".to_owned(),
        ];
        let writes = names
            .iter()
            .map(|name| one.things.write(create(&key(name), Uuid::new_v4(), "x")));
        let outcomes = futures::future::join_all(writes).await;
        assert!(outcomes[2].is_err());
        let shown = one.things.snapshot().revision();
        let newest = outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().ok())
            .max();
        assert_eq!(Some(&shown), newest);
        let other = two.things.consistent().await.unwrap().revision();
        assert_eq!(other, shown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_not_older_than_waits_for_the_revision() {
    let database = database();
    let (one, two) = (Replica::on(&database).await, Replica::on(&database).await);
    let (_, revision) = one.create(&key("ns/a"), "0").await;
    let snapshot = two.things.at_least(revision, PATIENCE).await.unwrap();
    assert!(snapshot.revision() >= revision);
    let future = Revision::new(revision.get() + 1000);
    let error = two
        .things
        .at_least(future, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ReadError::TooLarge {
            current: two.store.applied()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_revision_of_an_empty_store_is_not_zero() {
    let replica = Replica::alone().await;
    assert!(replica.things.consistent().await.unwrap().revision() > Revision::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_read_is_the_state_at_that_revision() {
    let replica = Replica::alone().await;
    let mut states = vec![(replica.store.applied(), Vec::new())];
    let keys: Vec<Key> = ["a/1", "a/2", "b/1"].map(key).into();
    let mut heads = Vec::new();
    for name in &keys {
        heads.push(replica.create(name, "new").await);
        states.push((
            heads.last().unwrap().1,
            contents(&replica.things.snapshot()),
        ));
    }
    for (name, (uid, revision)) in keys.iter().zip(&mut heads) {
        *revision = replica
            .things
            .write(update(name, *uid, *revision, "changed"))
            .await
            .unwrap();
        states.push((*revision, contents(&replica.things.snapshot())));
    }
    let gone = replica
        .things
        .write(delete(&keys[1], heads[1].0, heads[1].1, "changed"))
        .await;
    states.push((gone.unwrap(), contents(&replica.things.snapshot())));
    let (_, again) = replica.create(&keys[1], "again").await;
    states.push((again, contents(&replica.things.snapshot())));
    for (revision, state) in states {
        let snapshot = replica.things.at(revision).await.unwrap();
        assert_eq!(
            (snapshot.revision(), contents(&snapshot)),
            (revision, state)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_read_goes_back_as_far_as_history_does() {
    let database = database();
    let mut config = StoreConfig::new(&database.url);
    config.ring_bytes = 1;
    let replica = Replica::with(config).await;
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut states = Vec::new();
    let mut heads = BTreeMap::new();
    for n in 0..24 {
        let name = key(&format!("ns/{}", n % 5));
        let body = n.to_string();
        let head = match heads.remove(&name) {
            None => replica.create(&name, &body).await,
            Some((uid, revision)) if n % 4 == 3 => {
                let gone = delete(&name, uid, revision, &body);
                replica.things.write(gone).await.unwrap();
                replica.create(&name, &body).await
            }
            Some((uid, revision)) => {
                let write = update(&name, uid, revision, &body);
                (uid, replica.things.write(write).await.unwrap())
            }
        };
        heads.insert(name, head);
        states.push((head.1, contents(&replica.things.snapshot())));
        // As if others had written much in between: more than one step back is needed.
        sqlx::query("SELECT setval('store.revisions', last_value + 30000) FROM store.revisions")
            .execute(&mut admin)
            .await
            .unwrap();
    }
    for (revision, state) in states.into_iter().rev() {
        let snapshot = replica.things.at(revision).await.unwrap();
        assert_eq!(
            (snapshot.revision(), contents(&snapshot)),
            (revision, state)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_one_namespace_after_one_key() {
    let replica = Replica::alone().await;
    for name in ["", "a", "aa", "b"]
        .iter()
        .flat_map(|ns| ["x", "y", "z"].map(|n| Key::new(*ns, n)))
    {
        replica.create(&name, "").await;
    }
    let snapshot = replica.things.snapshot();
    let range = |namespace: Option<&str>, after: Option<Key>| -> Vec<String> {
        snapshot
            .range(namespace, after.as_ref())
            .map(|o| o.key.to_string())
            .collect()
    };
    assert_eq!(range(None, None).len(), 12);
    assert_eq!(range(Some("a"), None), ["a/x", "a/y", "a/z"]);
    assert_eq!(range(Some("a"), Some(key("a/x"))), ["a/y", "a/z"]);
    assert_eq!(range(Some("a"), Some(key("a/xx"))), ["a/y", "a/z"]);
    assert_eq!(
        range(Some("aa"), Some(key("a/x"))),
        ["aa/x", "aa/y", "aa/z"]
    );
    assert_eq!(range(Some("a"), Some(key("b/x"))), Vec::<String>::new());
    assert_eq!(
        range(None, Some(key("aa/y"))),
        ["aa/z", "b/x", "b/y", "b/z"]
    );
    assert_eq!(range(Some(""), None), ["x", "y", "z"]);
}
