//! Who wrote an object.

use std::time::{Duration, SystemTime};

use sqlx::{Connection as _, PgConnection};
use store::testing::database;
use store::{EventKind, Provenance, Recorded, Revision, StoreConfig};

use crate::support::{Replica, create, delete, key, update};

fn told(recorded: &[Recorded]) -> Vec<(EventKind, i64)> {
    let one = |one: &Recorded| (one.kind, one.revision.get());
    recorded.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writes_to_a_key_are_told_newest_first_with_their_writers() {
    let replica = Replica::alone().await;
    let (place, other) = (key("ns/a"), key("ns/b"));
    let mut write = create(&place, uuid::Uuid::new_v4(), "1");
    write.provenance = Provenance {
        user: "alice".into(),
        manager: "kubectl".into(),
        verb: "create".into(),
        audit_id: "id".into(),
    };
    let (uid, provenance) = (uid_of(&write), write.provenance.clone());
    let before = SystemTime::now() - Duration::from_secs(5);
    let added = replica.things.write(write).await.unwrap();
    replica.create(&other, "x").await;
    let changed = replica
        .things
        .write(update(&place, uid, added, "2"))
        .await
        .unwrap();
    let deleted = replica
        .things
        .write(delete(&place, uid, changed, "2"))
        .await
        .unwrap();
    let (second, again) = replica.create(&place, "3").await;

    let snapshot = replica.things.consistent().await.unwrap();
    let recorded = |before: Option<Revision>, most| {
        let (things, snapshot, place) = (&replica.things, &snapshot, &place);
        async move {
            things
                .recorded(snapshot, place, before, most)
                .await
                .unwrap()
        }
    };
    let all = recorded(None, 10).await;
    assert_eq!(
        told(&all),
        [
            (EventKind::Added, again.get()),
            (EventKind::Deleted, deleted.get()),
            (EventKind::Modified, changed.get()),
            (EventKind::Added, added.get()),
        ]
    );
    assert_eq!((all[0].uid, all[3].uid), (second, uid));
    assert_eq!(all[3].provenance, provenance);
    assert!(all[3].at > before && all[3].at < SystemTime::now() + Duration::from_secs(5));
    assert_eq!(recorded(None, 2).await, all[..2]);
    assert_eq!(recorded(Some(deleted), 10).await, all[2..]);
    assert_eq!(recorded(Some(added), 10).await, []);

    // As of an older state, the key was free.
    let then = replica.things.at(deleted).await.unwrap();
    let gone = replica.things.recorded(&then, &place, None, 10).await;
    assert_eq!(gone.unwrap(), all[1..]);
    let foreign = replica.others.recorded(&snapshot, &place, None, 10).await;
    assert_eq!(foreign.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_read_by_index_alone() {
    let database = database();
    let replica = Replica::on(&database).await;
    for number in 0..300 {
        replica.create(&key(&format!("ns/n{number}")), "x").await;
    }
    let place = key("ns/a");
    for _ in 0..3 {
        let (uid, added) = replica.create(&place, "1").await;
        let gone = delete(&place, uid, added, "1");
        replica.things.write(gone).await.unwrap();
    }
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let scans = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_all_tables
        WHERE schemaname = 'store' AND relname LIKE 'events%'";
    let flush = "SELECT pg_stat_force_next_flush()";
    let count = async |admin: &mut PgConnection| -> i64 {
        sqlx::query(flush).execute(&mut *admin).await.unwrap();
        sqlx::query_scalar(scans).fetch_one(admin).await.unwrap()
    };
    sqlx::query("ANALYZE store.events")
        .execute(&mut admin)
        .await
        .unwrap();
    let before = count(&mut admin).await;
    let snapshot = replica.things.consistent().await.unwrap();
    let recorded = replica.things.recorded(&snapshot, &place, None, 10).await;
    assert_eq!(recorded.unwrap().len(), 6);
    drop(replica);
    // A backend reports what it read at the latest when it ends.
    let mut after = count(&mut admin).await;
    for _ in 0..20 {
        after = after.max(count(&mut admin).await);
    }
    assert!(after - before < 300, "{before} {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_ends_where_retention_begins() {
    let database = database();
    let mut config = StoreConfig::new(&database.url);
    config.retention = Duration::ZERO;
    let replica = Replica::with(config).await;
    let place = key("ns/a");
    let (uid, mut last) = replica.create(&place, "0").await;
    for number in 1..5 {
        let next = update(&place, uid, last, &number.to_string());
        last = replica.things.write(next).await.unwrap();
    }
    replica.create(&key("ns/b"), "x").await;
    replica.store.compact().await.unwrap().unwrap();
    let snapshot = replica.things.consistent().await.unwrap();
    let read = async || {
        let recorded = replica.things.recorded(&snapshot, &place, None, 10).await;
        told(&recorded.unwrap())
    };
    assert_eq!(
        read().await,
        [(EventKind::Modified, last.get())],
        "the version that was current when retention began"
    );
}

fn uid_of(write: &store::Write) -> uuid::Uuid {
    match write.operation {
        store::Operation::Create { uid, .. }
        | store::Operation::Update { uid, .. }
        | store::Operation::Delete { uid, .. } => uid,
    }
}
