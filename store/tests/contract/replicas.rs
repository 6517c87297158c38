//! Replicas that stand still, and replicas that die.

use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use store::Revision;
use store::testing::database;

use crate::breakable::{Random, percentile, scale};
use crate::process::{Events, Process};
use crate::support::{PATIENCE, Replica, key, soon, until};
use crate::verdicts::{Verdict, check, log};

/// Waits for the next event of a watch; `None` when its process is gone or it must list again.
async fn next(events: &mut Events) -> Option<(i64, String)> {
    let next = tokio::time::timeout(PATIENCE, events.recv());
    next.await.expect("an event in time").flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stood_still_serves_no_stale_consistent_read() {
    let database = database();
    let frozen = Process::start(&database.url).await;
    let awake = Replica::on(&database).await;
    let (_, start) = awake.create(&key("ns/start"), "0").await;
    let mut events = frozen.watch(start).unwrap();
    let long = Duration::from_secs(if scale() > 1 { 60 } else { 6 });
    let pauses = (0..10).map(|n| Duration::from_millis(n * 40));
    let mut written = Vec::new();
    for (n, pause) in pauses.chain([long]).enumerate() {
        frozen.signal("STOP");
        // Asked while it stands still: the read begins before the write that it must see ends.
        let name = format!("ns/{n}");
        let (_, revision) = awake.create(&key(&name), &format!("value-{n}")).await;
        written.push((revision.get(), name.clone()));
        tokio::time::sleep(pause).await;
        let get = format!("get {name}");
        let (asked, ()) = tokio::join!(frozen.ask(&get), async { frozen.signal("CONT") });
        let mut seen = asked.unwrap();
        // It may find that it has no connection any more, but it may not be wrong.
        if seen.starts_with("not ") {
            until("it reads again", async || {
                seen = frozen.ask(&get).await.unwrap();
                !seen.starts_with("not ")
            })
            .await;
        }
        assert_eq!(seen, format!("value-{n}"), "stood still for {pause:?}");
    }
    for expected in written {
        assert_eq!(next(&mut events).await, Some(expected));
    }
    assert_eq!(frozen.ask("create ns/last x").await.unwrap()[..5], *"done ");
}

/// A compactor that has its lock waits for a row. Locks are as they are now; what sessions do is
/// not looked at anew within a transaction.
const WAITING: &str = "SELECT count(*) FROM pg_locks l JOIN pg_locks waits USING (pid)
    WHERE NOT waits.granted AND l.granted AND l.locktype = 'advisory' AND l.classid = 7777 AND l.objid = 2
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

const SESSIONS: &str = "SELECT a::text FROM pg_stat_activity a WHERE datname = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn compaction_goes_on_when_the_replica_that_was_at_it_stands_still() {
    let database = database();
    let frozen = Process::start(&database.url).await;
    let awake = Replica::on(&database).await;
    awake.create(&key("ns/a"), "x").await;
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("BEGIN; SELECT FROM store.compaction FOR UPDATE")
        .await
        .unwrap();
    let compacting = frozen.ask("compact");
    let freezing = async {
        let in_the_middle = soon(PATIENCE, async || {
            let waiting: i64 = sqlx::query_scalar(WAITING)
                .fetch_one(&mut admin)
                .await
                .unwrap();
            waiting > 0
        });
        if !in_the_middle.await {
            let sessions: Vec<String> = sqlx::query_scalar(SESSIONS)
                .fetch_all(&mut admin)
                .await
                .unwrap();
            panic!("no pass in the middle of which to stop: {sessions:#?}");
        }
        frozen.signal("STOP");
        admin.execute("ROLLBACK").await.unwrap();
        let took = until("compaction goes on elsewhere", async || {
            awake.store.compact().await.unwrap().is_some()
        })
        .await;
        frozen.signal("CONT");
        took
    };
    let (compacted, took) = tokio::join!(compacting, freezing);
    println!("compacted elsewhere after {took:?}; the one that stood still: {compacted:?}");
    assert!(took > Duration::from_secs(2), "it had not the lock");
    assert_eq!(frozen.ask("create ns/b x").await.unwrap()[..5], *"done ");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_killed_replica_go_on_at_another_one() {
    let database = database();
    let observer = Replica::on(&database).await;
    let start = observer.store.applied();
    let mut replicas = [
        Process::start(&database.url).await,
        Process::start(&database.url).await,
    ];
    let mut random = Random::new(7);
    let (mut verdicts, mut resumed, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    let (mut at, mut position) = (0, start);
    let mut events = replicas[at].watch(start).unwrap();
    for round in 0..6 * scale() {
        // Some writes under way when it dies.
        let batch = |n: u32| format!("w/{round}-{n}");
        let asks: Vec<_> = (0..20).map(|n| format!("create {} x", batch(n))).collect();
        let victim = &replicas[at];
        let asking = futures::future::join_all(asks.iter().map(|ask| victim.ask(ask)));
        let pause = Duration::from_micros(random.below(40_000));
        let killing = async {
            tokio::time::sleep(pause).await;
            victim.signal("KILL");
        };
        let (answers, ()) = tokio::join!(asking, killing);
        for (n, answer) in (0..).zip(answers) {
            let verdict = match answer.as_deref().map(|said| said.split_once(' ')) {
                Some(Some(("done", r))) => Verdict::Applied(Revision::new(r.parse().unwrap())),
                Some(Some(("not", _))) => Verdict::NotApplied,
                _ => Verdict::Unknown,
            };
            verdicts.push((batch(n), verdict));
        }
        let died = Instant::now();
        while let Some(event) = next(&mut events).await {
            position = Revision::new(event.0);
            seen.push(event);
        }
        replicas[at].kill();
        let other = 1 - at;
        events = replicas[other].watch(position).unwrap();
        let name = format!("after/{round}");
        let written = replicas[other].ask(&format!("create {name} x")).await;
        assert_eq!(written.unwrap()[..5], *"done ");
        loop {
            let event = next(&mut events).await.expect("history goes on");
            position = Revision::new(event.0);
            seen.push(event.clone());
            if event.1 == name {
                break;
            }
        }
        resumed.push(died.elapsed());
        replicas[at] = Process::start(&database.url).await;
        at = other;
    }
    let log = log(&database.admin_url).await;
    let told = check(&verdicts, &log);
    let worst = percentile(&mut resumed, 100);
    println!("{told:?}; clients went on within {worst:?}");
    assert!(told.applied > 0);
    assert!(worst < Duration::from_secs(2), "{resumed:?}");
    let whole: Vec<_> = log.into_iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(seen, whole);
}
