//! Standbys: synchronous ones that hang, asynchronous ones that take over without the newest
//! writes, and primaries that return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store::private_postgres::Shutdown;
use store::{ReadError, Revision, Store, StoreConfig, StoreError, WatchError, WriteError};
use uuid::Uuid;

use crate::breakable::{Breakable, config, signal};
use crate::network::Network;
use crate::support::{
    PATIENCE, Replica, contents, create, key, next_events, until, write_patiently,
};
use crate::verdicts::{Verdict, keep_creating, log};

/// A primary and its standby, and the address that stores know.
struct Pair {
    primary: Breakable,
    standby: Breakable,
    network: Network,
}

impl Pair {
    fn new(name: &str) -> Self {
        let primary = Breakable::new(name);
        let standby = primary.standby(&format!("{name}-standby"), &primary.socket(), &[]);
        let network = Network::start(name, &primary.socket());
        Self {
            primary,
            standby,
            network,
        }
    }

    async fn replica(&self, number: usize) -> Replica {
        let (database, socket) = (&self.primary.database, self.primary.socket());
        Replica::with(config(self.network.url(database, &socket), number)).await
    }

    async fn make_synchronous(&self) {
        self.primary.set("synchronous_standby_names", "*");
        until("the standby is synchronous", async || {
            self.primary
                .sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
                == "1"
        })
        .await;
    }

    /// Waits until the standby has everything.
    async fn catch_up(&self) {
        until("the standby has everything", async || {
            self.primary.sql(
                "SELECT count(*) FROM pg_stat_replication
                WHERE replay_lsn = pg_current_wal_lsn()",
            ) == "1"
        })
        .await;
    }

    /// The standby hears nothing any more, and the primary does not know. Returns who hears.
    fn freeze(&self) -> String {
        let receiver = self.standby.sql("SELECT pid FROM pg_stat_wal_receiver");
        signal(&receiver, "STOP");
        receiver
    }

    /// The primary dies, and the standby takes over with what it had when it was frozen.
    fn fail_over(&mut self, receiver: &str) {
        self.primary.stop(Shutdown::Immediate);
        // It ends before it looks at what has arrived since.
        signal(receiver, "TERM");
        signal(receiver, "CONT");
        self.standby.sql("SELECT pg_promote()");
        self.network.route(&self.standby.socket());
    }
}

/// Pids of the stores' sessions that wait for the standby.
const WAITING: &str = "SELECT coalesce(min(pid), 0) FROM pg_stat_activity
    WHERE application_name = 'store' AND wait_event = 'SyncRep'";

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_for_a_standby_is_no_acknowledgement() {
    let pair = Pair::new("sync-cancel");
    pair.make_synchronous().await;
    let replica = pair.replica(0).await;
    let early = pair.replica(1).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    for (number, end) in ["pg_cancel_backend", "pg_terminate_backend"]
        .into_iter()
        .enumerate()
    {
        let (replica, other) = [(&replica, &early), (&early, &replica)][number];
        let start = replica.store.applied();
        let mut watchers = [replica, other].map(|r| r.things.watch(start).unwrap());
        let receiver = pair.freeze();
        let things = replica.things.clone();
        let name = key(&format!("ns/{end}"));
        let write = create(&name, Uuid::new_v4(), "2");
        let began = Instant::now();
        let writing = tokio::spawn(async move { things.write(write).await });
        until("the write waits for the standby", async || {
            pair.primary.sql(WAITING) != "0"
        })
        .await;
        pair.primary
            .sql(&format!("SELECT {end}(pid) FROM ({WAITING}) w (pid)"));
        let outcome = writing.await.unwrap();
        let took = began.elapsed();
        let shown = watchers.iter_mut().map(|w| w.ready_batch(1).len());
        let shown: usize = shown.sum();
        signal(&receiver, "CONT");
        println!(
            "{end}: {outcome:?} after {took:?}, {shown} events shown before the standby had it"
        );
        assert!(took < Duration::from_secs(6), "{took:?}");
        assert!(
            outcome == Err(WriteError::OutcomeUnknown),
            "a commit whose wait for the standby was cancelled is not acknowledged"
        );
        assert!(
            shown == 0,
            "a write that the synchronous standby lacks is not shown"
        );
        until("reads are back", async || {
            replica.things.consistent().await.is_ok()
        })
        .await;
        assert!(
            replica
                .things
                .consistent()
                .await
                .unwrap()
                .get(&name)
                .is_some()
        );
        for watcher in &mut watchers {
            assert_eq!(next_events(watcher, 1).await[0].2, name.to_string());
        }
    }
    assert!(replica.things.watch(first).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_takes_over_without_a_loss() {
    let mut pair = Pair::new("sync-failover");
    pair.make_synchronous().await;
    let replicas = [pair.replica(0).await, pair.replica(1).await];
    let mut watcher = replicas[0]
        .things
        .watch(replicas[0].store.applied())
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|n| keep_creating(&replicas[n % 2].things, &format!("w{n}"), &stop))
        .collect();
    until("there is some load", async || {
        replicas[0].store.applied().get() > 200
    })
    .await;
    let receiver = pair.freeze();
    // Long enough that stores give up waiting for it.
    let end = Instant::now() + Duration::from_secs(6);
    let mut shown = Vec::new();
    while Instant::now() < end {
        shown.extend(watcher.ready_batch(1000).iter().map(|e| e.revision.get()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    pair.fail_over(&receiver);
    let mut verdicts = Vec::new();
    for writer in writers {
        verdicts.extend(writer.await.unwrap());
    }
    let log = log(&pair.standby.database.admin_url).await;
    let is_there = |revision: i64| log.binary_search_by_key(&revision, |row| row.0).is_ok();
    let acknowledged = verdicts.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Applied(revision) => Some(revision.get()),
        _ => None,
    });
    let lost: Vec<_> = acknowledged.clone().filter(|r| !is_there(*r)).collect();
    let unseen = shown.iter().filter(|r| !is_there(**r)).count();
    println!(
        "{} acknowledged, {} lost; {} shown, {unseen} of them lost",
        acknowledged.count(),
        lost.len(),
        shown.len()
    );
    assert!(
        lost.is_empty(),
        "a synchronous standby has every acknowledged write"
    );
    assert!(
        unseen == 0,
        "a synchronous standby has every write that was shown"
    );
}

/// The watcher is told that it must list again.
async fn await_gone(watcher: &mut store::Watcher<crate::support::Text>) -> Revision {
    loop {
        let next = tokio::time::timeout(PATIENCE, watcher.next_batch(1000)).await;
        if let Err(WatchError::Gone { oldest }) = next.expect("the watch ends") {
            return oldest;
        }
    }
}

/// Nobody can go on from a revision of before.
async fn check_void(replica: &Replica, revisions: &[Revision]) {
    for old in revisions {
        assert!(
            matches!(replica.things.watch(*old), Err(WatchError::Gone { .. })),
            "a watch from {old}"
        );
        let read = replica.things.at(*old).await;
        assert!(
            matches!(read, Err(ReadError::Compacted { .. })),
            "a read at {old}: {read:?}"
        );
    }
}

/// Writes, of which the standby has the first 20, and makes it the primary. Returns all revisions
/// that were handed out, and watchers from the last.
async fn lose_the_newest(
    pair: &mut Pair,
    replicas: &[Replica; 2],
) -> (Vec<Revision>, [store::Watcher<crate::support::Text>; 2]) {
    let mut handed_out = Vec::new();
    let mut receiver = String::new();
    for n in 0..220 {
        if n == 20 {
            pair.catch_up().await;
            receiver = pair.freeze();
        }
        let name = key(&format!("{}/{n}", if n < 20 { "kept" } else { "lost" }));
        let (_, revision) = replicas[n % 2].create(&name, "1").await;
        handed_out.push(revision);
    }
    for replica in replicas {
        replica.things.consistent().await.unwrap();
    }
    let watchers = replicas
        .each_ref()
        .map(|replica| replica.things.watch(replica.store.applied()).unwrap());
    pair.fail_over(&receiver);
    (handed_out, watchers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_the_newest_writes_begins_a_new_life() {
    let mut pair = Pair::new("async-failover");
    let replicas = [pair.replica(0).await, pair.replica(1).await];
    let (handed_out, mut watchers) = lose_the_newest(&mut pair, &replicas).await;
    let promoted = Instant::now();
    let write = create(&key("ns/next"), Uuid::new_v4(), "3");
    let next = write_patiently(&replicas[0].things, write).await.unwrap();
    println!("first write {:?} after the promotion", promoted.elapsed());
    for (replica, watcher) in replicas.iter().zip(&mut watchers) {
        let oldest = await_gone(watcher).await;
        assert!(handed_out.iter().all(|old| *old < oldest && oldest <= next));
        check_void(replica, &handed_out).await;
        let snapshot = replica.things.consistent().await.unwrap();
        let kept = contents(&snapshot);
        assert_eq!(kept.len(), 21, "the 200 lost ones are nowhere");
        assert!(snapshot.get(&key("ns/next")).is_some());
        *watcher = replica.things.watch(snapshot.revision()).unwrap();
    }
    // Its writes may be back a moment after its reads.
    let again = create(&key("lost/27"), Uuid::new_v4(), "again");
    let last = write_patiently(&replicas[1].things, again).await.unwrap();
    for watcher in &mut watchers {
        assert_eq!(next_events(watcher, 1).await[0].1, last.get());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_returns_is_neither_written_to_nor_read_from() {
    let mut pair = Pair::new("old-primary");
    let replicas = [pair.replica(0).await, pair.replica(1).await];
    lose_the_newest(&mut pair, &replicas).await;
    let write = create(&key("ns/next"), Uuid::new_v4(), "3");
    let last = write_patiently(&replicas[0].things, write).await.unwrap();
    let seen = until("both follow", async || replicas[1].store.applied() >= last).await;
    pair.primary.start();
    let old_rows = || pair.primary.sql("SELECT count(*) FROM store.events");
    let before = old_rows();
    pair.network.route(&pair.primary.socket());
    let noticed = until("it is noticed", async || {
        replicas.iter().all(|replica| !replica.store.is_reachable())
    })
    .await;
    let (mut applied, mut refused) = (0, 0);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        for replica in &replicas {
            let write = create(&key(&Uuid::new_v4().to_string()), Uuid::new_v4(), "4");
            match replica.things.write(write).await {
                Ok(_) => applied += 1,
                Err(WriteError::Unavailable { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(
                replica.things.snapshot().len(),
                21,
                "reads from memory go on"
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!(
        "the failover was seen after {seen:?}, the old primary after {noticed:?}; \
         {applied} writes were applied by it, {refused} refused"
    );
    assert_eq!(applied, 0, "an old primary that returns is not written to");
    assert_eq!(old_rows(), before);
    assert!(refused > 20, "{refused}");
    assert!(replicas.iter().all(|r| r.store.applied() >= last));
    assert!(!replicas[0].store.is_reachable());
    pair.network.route(&pair.standby.socket());
    let back = go_on(&replicas[0]).await;
    assert!(back > last);

    // Unless somebody says so: then what the standby has is given up.
    let mut watcher = replicas[1].things.watch(last).unwrap();
    pair.network.route(&pair.primary.socket());
    until("it is refused", async || !replicas[1].store.is_reachable()).await;
    let owner = &pair.primary.database.owner_url;
    let word = "SELECT store.accept_timeline('00000002')";
    pair.primary.tool("psql", &["-c", word, owner]);
    let oldest = await_gone(&mut watcher).await;
    assert!(oldest > back);
    assert!(go_on(&replicas[1]).await > oldest);
    check_void(&replicas[1], &[last, back]).await;
}

/// Writes as soon as that is possible.
async fn go_on(replica: &Replica) -> Revision {
    let write = create(&key(&Uuid::new_v4().to_string()), Uuid::new_v4(), "5");
    write_patiently(&replica.things, write).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_neither_written_to_nor_read_from() {
    let pair = Pair::new("read-only");
    let replica = pair.replica(0).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    pair.catch_up().await;
    let refused = Store::connect(StoreConfig::new(&pair.standby.database.url)).await;
    assert!(
        matches!(refused, Err(StoreError::Standby)),
        "{:?}",
        refused.err()
    );

    let mut watcher = replica.things.watch(first).unwrap();
    pair.network.route(&pair.standby.socket());
    until("it notices", async || !replica.store.is_reachable()).await;
    for _ in 0..20 {
        let write = create(&key("ns/b"), Uuid::new_v4(), "2");
        let refused = replica.things.write(write).await;
        assert!(
            matches!(refused, Err(WriteError::Unavailable { .. })),
            "{refused:?}"
        );
        assert!(matches!(
            replica.things.consistent().await,
            Err(ReadError::Unavailable { .. })
        ));
        assert_eq!(replica.things.snapshot().len(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pair.network.route(&pair.primary.socket());
    let write = create(&key("ns/b"), Uuid::new_v4(), "2");
    write_patiently(&replica.things, write).await.unwrap();
    assert_eq!(next_events(&mut watcher, 1).await[0].2, "ns/b");
}
