//! Compaction while watches start, resume and see deletions; and many watchers at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use store::testing::database;
use store::{Collection, EventKind, ReadError, Revision, Store, StoreConfig, WatchError};
use uuid::Uuid;

use crate::breakable::{Random, scale};
use crate::support::{PATIENCE, Replica, Text, contents, create, delete, key, until, update};

/// What was written at each revision: kind, key and body; complete, since every write is answered.
type Truth = Arc<Mutex<BTreeMap<i64, (EventKind, String, String)>>>;

/// Creates, updates and deletes one object over and over.
async fn churn(things: Arc<Collection<Text>>, name: String, truth: Truth, stop: Arc<AtomicBool>) {
    let note = |revision: Revision, kind, body: &str| {
        let row = (kind, name.clone(), body.to_owned());
        truth.lock().unwrap().insert(revision.get(), row);
    };
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let uid = Uuid::new_v4();
        n += 1;
        let body = format!("{n}");
        let mut at = things.write(create(&key(&name), uid, &body)).await.unwrap();
        note(at, EventKind::Added, &body);
        for more in 0..n % 4 {
            let body = format!("{n}.{more}");
            at = things
                .write(update(&key(&name), uid, at, &body))
                .await
                .unwrap();
            note(at, EventKind::Modified, &body);
        }
        let last = things
            .write(delete(&key(&name), uid, at, "last"))
            .await
            .unwrap();
        note(last, EventKind::Deleted, "last");
    }
}

/// What a watch from `after` returned until it was told that it is too late, or had enough.
async fn follow(
    things: &Collection<Text>,
    after: Revision,
    most: usize,
) -> (Vec<(i64, (EventKind, String, String))>, bool) {
    let mut found = Vec::new();
    let Ok(mut watcher) = things.watch(after) else {
        return (found, true);
    };
    while found.len() < most {
        let next = tokio::time::timeout(PATIENCE, watcher.next_batch(7)).await;
        match next.expect("events arrive") {
            Ok(events) => found.extend(events.iter().map(|event| {
                let row = (
                    event.kind,
                    event.key().to_string(),
                    event.current.view.clone(),
                );
                (event.revision.get(), row)
            })),
            Err(WatchError::Gone { .. }) => return (found, true),
        }
    }
    (found, false)
}

/// What a fold of the truth up to a revision is.
fn fold(truth: &BTreeMap<i64, (EventKind, String, String)>, at: i64) -> Vec<(String, i64, String)> {
    let mut state = BTreeMap::new();
    for (revision, (kind, key, body)) in truth.range(..=at) {
        match kind {
            EventKind::Deleted => drop(state.remove(key)),
            _ => drop(state.insert(key.clone(), (*revision, body.clone()))),
        }
    }
    let rows = state.into_iter();
    rows.map(|(key, (revision, body))| (key, revision, body))
        .collect()
}

/// What one reader saw from a revision: events, or a state.
type Sight = (
    i64,
    Vec<(i64, (EventKind, String, String))>,
    Option<Vec<(String, i64, String)>>,
);

/// How many watches and reads were answered, and how many were told that it is too late.
#[derive(Default)]
struct Counts {
    whole: AtomicUsize,
    gone: AtomicUsize,
    read: AtomicUsize,
    compacted: AtomicUsize,
    /// Partitions of the log.
    dropped: AtomicUsize,
}

impl Counts {
    fn are_enough(&self) -> bool {
        let all = [
            (&self.whole, 20),
            (&self.gone, 5),
            (&self.read, 5),
            (&self.compacted, 5),
            (&self.dropped, 2),
        ];
        let exceeds =
            |(count, least): &(&AtomicUsize, usize)| count.load(Ordering::Relaxed) > *least;
        all.iter().all(exceeds)
    }
}

/// Watches and reads from revisions that may just be going, until it has seen enough.
async fn look(
    things: Arc<Collection<Text>>,
    number: u64,
    truth: Truth,
    counts: Arc<Counts>,
    enough: Arc<AtomicBool>,
) -> Vec<Sight> {
    let (mut random, mut seen) = (Random::new(number), Vec::new());
    while !enough.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let newest = truth
            .lock()
            .unwrap()
            .keys()
            .next_back()
            .copied()
            .unwrap_or(0);
        let after = newest - i64::try_from(random.below(600)).unwrap();
        if number < 4 {
            let (events, gone) = follow(&things, Revision::new(after.max(0)), 40).await;
            let count = if gone { &counts.gone } else { &counts.whole };
            count.fetch_add(1, Ordering::Relaxed);
            seen.push((after.max(0), events, None));
        } else if after > 0 {
            match things.at(Revision::new(after)).await {
                Ok(snapshot) => {
                    counts.read.fetch_add(1, Ordering::Relaxed);
                    seen.push((after, vec![], Some(contents(&snapshot))));
                }
                Err(ReadError::Compacted { .. }) => {
                    counts.compacted.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    seen
}

/// Compacts over and over.
async fn keep_compacting(store: Arc<Store>, counts: Arc<Counts>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let pass = store.compact().await.unwrap();
        let dropped = pass.map_or(0, |pass| pass.partitions as usize);
        counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing that was seen has a gap, or is another state than that of its revision.
fn check(seen: &[Sight], truth: &BTreeMap<i64, (EventKind, String, String)>) {
    for (after, events, state) in seen {
        if let Some(last) = events.last() {
            let expected = truth.range(after + 1..=last.0);
            let expected: Vec<_> = expected.map(|(r, row)| (*r, row.clone())).collect();
            assert!(*events == expected, "a watch from {after} has a gap");
        }
        if let Some(state) = state {
            assert_eq!(*state, fold(truth, *after), "a read at {after}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_racing_watches_and_deletions_leaves_all_or_says_that_it_is_gone() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("SELECT store.extend_events(100, 200)")
        .await
        .unwrap();
    let mut config = StoreConfig::new(&database.url);
    (config.retention, config.ring_time) = (Duration::from_millis(300), Duration::from_millis(500));
    config.ring_bytes = 20_000;
    let writer = Replica::with(config.clone()).await;
    let reader = Replica::with(config).await;
    let (truth, stop) = (Truth::default(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let (truth, stop) = (Arc::clone(&truth), Arc::clone(&stop));
            let things = writer.things.clone();
            tokio::spawn(churn(things, format!("ns/{n}"), truth, stop))
        })
        .collect();
    let counts: Arc<Counts> = Arc::default();
    let compacting = keep_compacting(writer.store.clone(), Arc::clone(&counts), Arc::clone(&stop));
    let compactor = tokio::spawn(compacting);
    // Writers go on until no watcher waits for them.
    let enough = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|n| {
            let things = if n % 2 == 0 { &reader } else { &writer }.things.clone();
            let (truth, enough) = (Arc::clone(&truth), Arc::clone(&enough));
            tokio::spawn(look(things, n, truth, Arc::clone(&counts), enough))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4 * u64::from(scale()))).await;
    // However slow the machine is, there is something to judge.
    until("all of it happened", async || counts.are_enough()).await;
    enough.store(true, Ordering::Relaxed);
    let mut seen = Vec::new();
    for reader in readers {
        seen.extend(reader.await.unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    compactor.await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let truth = truth.lock().unwrap();
    check(&seen, &truth);
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (whole, gone) = (of(&counts.whole), of(&counts.gone));
    let (read, compacted) = (of(&counts.read), of(&counts.compacted));
    let dropped = of(&counts.dropped);
    println!(
        "{} events, {dropped} partitions dropped; watches: {whole} whole, {gone} gone; \
         reads: {read} exact, {compacted} gone",
        truth.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watchers_that_come_back_at_once_share_what_is_read_for_them() {
    let database = database();
    let mut config = StoreConfig::new(&database.url);
    config.ring_bytes = 10_000;
    let replica = Replica::with(config).await;
    let start = replica.store.applied();
    for n in 0..300 {
        replica
            .create(&key(&format!("ns/{n:03}")), &format!("body {n}"))
            .await;
    }
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let before = transactions(&mut admin).await;
    let began = Instant::now();
    let watchers: Vec<_> = (0..10_000)
        .map(|_| {
            let things = replica.things.clone();
            tokio::spawn(async move { follow(&things, start, 300).await })
        })
        .collect();
    for watcher in watchers {
        let (events, gone) = watcher.await.unwrap();
        assert_eq!((events.len(), gone), (300, false));
    }
    let took = began.elapsed();
    let spent = transactions(&mut admin).await - before;
    println!("10,000 watchers had 300 events each after {took:?}, for {spent} transactions");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(spent < 100, "{spent} transactions");
}

async fn transactions(admin: &mut PgConnection) -> i64 {
    // Sessions that fall idle report what they did ten seconds later.
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    sqlx::query_scalar(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(admin)
    .await
    .unwrap()
}
