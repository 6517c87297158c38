//! Every place where the store can fail does, in every way, and nothing is lost, shown twice or
//! out of order; none of the places is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::{Connection, Executor, PgConnection};
use store::failpoints::{self, Action, NAMES};
use store::private_postgres::{PrivatePostgres, Shutdown};
use store::testing::{OWNER, RUNTIME, directory, options, prepare};
use store::{Collection, Revision, StoreConfig, Watcher};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{PATIENCE, Replica, Text, Told, contents, create, delete, key, seen, update};

/// So often the exercise is done until it comes past a place.
const TRIES: usize = 4;

/// What is armed holds for the whole process: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Set in a child: the database it works on, and the file of what it was told.
const CHILD: &str = "FAILPOINTS_TEST_CHILD";

/// A Postgres with a disk so slow that writes are pipelined.
struct Own {
    postgres: PrivatePostgres,
    dir: PathBuf,
}

impl Own {
    fn new(name: &str) -> Self {
        let mut options = options(true);
        for (name, value) in [("commit_delay", "1500"), ("commit_siblings", "0")] {
            options.settings.push((name.to_owned(), value.to_owned()));
        }
        let dir = directory(format!("{}-{name}", std::process::id()));
        let postgres = PrivatePostgres::start(&dir, &options).unwrap();
        prepare(&postgres, "objects").unwrap();
        // Small partitions, so that there are some to drop.
        let extend = "SELECT store.extend_events(60, 150)";
        postgres.psql("objects", extend).unwrap();
        Self { postgres, dir }
    }

    /// Of the role that runs the store, and of the one that owns the schema.
    fn urls(&self) -> [String; 2] {
        [RUNTIME, OWNER].map(|role| self.postgres.url("objects", role))
    }
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.postgres.stop_with(Shutdown::Immediate);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A ring that holds little, so that history is read.
fn config(url: &str) -> StoreConfig {
    let mut config = StoreConfig::new(url);
    config.ring_bytes = 2000;
    config.compaction_interval = Duration::from_secs(3600);
    config
}

impl Told {
    /// Everything is in the log as it was told.
    async fn check(&self, admin: &mut PgConnection) {
        let log: Vec<(i64, String, String)> = sqlx::query_as(
            "SELECT revision, namespace || '/' || name, convert_from(body, 'UTF8') FROM store.events",
        )
        .fetch_all(&mut *admin)
        .await
        .unwrap();
        let compacted: i64 = sqlx::query_scalar("SELECT revision FROM store.compaction")
            .fetch_one(admin)
            .await
            .unwrap();
        let log: BTreeMap<_, _> = log.into_iter().map(|(r, k, b)| (r, (k, b))).collect();
        for (revision, content) in self.0.lock().unwrap().iter() {
            if *revision > compacted {
                assert_eq!(log.get(revision), Some(content), "revision {revision}");
            }
        }
    }
}

/// Whether what was caught is a panic of a failpoint, and not of an assertion.
fn is_armed(panic: &(dyn std::any::Any + Send)) -> bool {
    panic
        .downcast_ref::<String>()
        .is_some_and(|text| text.starts_with("failpoint "))
}

/// Panics that are wanted are told of in a line, so that the one that is not stands out.
fn without_traces() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if is_armed(info.payload()) {
                eprintln!("{info}");
            } else {
                usual(info);
            }
        }));
    });
}

/// Notes what is shown; lists again where history is gone. The rest must come in order. A watch that
/// is behind reads history by itself and may meet a panic there: it goes on after what it has seen.
fn keep_watching(things: Arc<Collection<Text>>, told: Told) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut watcher: Option<Watcher<Text>> = None;
        let mut last = 0;
        loop {
            let Some(open) = &mut watcher else {
                let from = things.snapshot().revision();
                last = last.max(from.get());
                watcher = things.watch(from).ok();
                continue;
            };
            let next = AssertUnwindSafe(open.next_batch(10)).catch_unwind();
            match next.await {
                Ok(Ok(events)) => {
                    for event in events {
                        let (_, revision, key, body, _) = seen(&event);
                        assert!(revision > last, "{revision} after {last}");
                        last = revision;
                        told.note(revision, &key, &body);
                    }
                }
                Ok(Err(_)) => watcher = None,
                Err(panic) => {
                    assert!(is_armed(&*panic), "a watch panicked");
                    watcher = things.watch(Revision::new(last)).ok();
                }
            }
        }
    })
}

/// Two replicas, a watch on each, and what they were told.
struct World {
    urls: [String; 2],
    replicas: [Replica; 2],
    watches: Vec<JoinHandle<()>>,
    told: Told,
}

impl World {
    async fn new(urls: [String; 2]) -> Self {
        // A barrier that comes late to another's delay is quick, and makes a disk look fast: one of
        // the two pipelines its writes all the same.
        let mut pipelined = config(&urls[0]);
        pipelined.slow_flush = Duration::ZERO;
        let replicas = [
            Replica::with(pipelined).await,
            Replica::with(config(&urls[0])).await,
        ];
        let told = Told::default();
        let watches = replicas
            .iter()
            .map(|replica| keep_watching(Arc::clone(&replica.things), told.clone()))
            .collect();
        Self {
            urls,
            replicas,
            watches,
            told,
        }
    }

    /// A little of everything that a store does.
    async fn exercise(&self, number: usize) {
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..6 {
            let things = Arc::clone(&self.replicas[writer % 2].things);
            let name = format!("ns/{number}-{writer}");
            tasks.spawn(write_some(things, name, self.told.clone()));
        }
        // A task of ours may meet a panic; the store's must all survive theirs.
        while tasks.join_next().await.is_some() {}
        // Now that enough has been written to lie below the rings.
        for replica in &self.replicas {
            let _ = tokio::spawn(read_some(Arc::clone(&replica.things))).await;
        }
        let mut admin = connect(&self.urls[1]).await;
        // As by a process that dies before its barrier: nobody tells of it.
        admin
            .execute(
                "SELECT store.write_one(store.life(), 0, 1, 0, false, false, 0::smallint, r.id, 'ns',
                    gen_random_uuid()::text, gen_random_uuid(), NULL, 'x', '', '', '', '')
                 FROM store.resources r WHERE r.plural = 'things'",
            )
            .await
            .unwrap();
        for replica in &self.replicas {
            let things = Arc::clone(&replica.things);
            let _ = tokio::spawn(async move { things.consistent().await.is_ok() }).await;
        }
        admin
            .execute("UPDATE store.events SET recorded_at = recorded_at - interval '15 minutes'")
            .await
            .unwrap();
        for replica in &self.replicas {
            let store = Arc::clone(&replica.store);
            let _ = tokio::spawn(async move { store.compact().await }).await;
        }
        let config = config(&self.urls[0]);
        let third = tokio::spawn(async move {
            let store = store::Store::connect(config).await?;
            store.register("test.example.com", "things", Text).await?;
            let started = store.start().await;
            store.shutdown().await;
            started
        });
        let _ = third.await;
        let owner = self.urls[1].clone();
        // What it awaits cannot move between threads.
        let here = tokio::runtime::Handle::current();
        let migrating = move || here.block_on(store::migrate(&owner, RUNTIME)).is_ok();
        let _ = tokio::task::spawn_blocking(migrating).await;
    }

    /// What must hold once nothing fails any more.
    async fn check(&self, what: &str) {
        failpoints::disarm();
        for (number, replica) in self.replicas.iter().enumerate() {
            let deadline = Instant::now() + PATIENCE;
            // A new one each time: one whose outcome is not known may be there.
            let fresh = || key(&format!("after/{}", Uuid::new_v4()));
            while replica
                .things
                .write(create(&fresh(), Uuid::new_v4(), "x"))
                .await
                .is_err()
            {
                assert!(
                    Instant::now() < deadline,
                    "{what}: replica {number} writes no more"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let mut admin = connect(&self.urls[1]).await;
        let heads = heads(&mut admin).await;
        for (number, replica) in self.replicas.iter().enumerate() {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let read = replica.things.consistent().await;
                if read
                    .as_ref()
                    .is_ok_and(|snapshot| contents(snapshot) == heads)
                {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{what}: replica {number} shows {read:?}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.told.check(&mut admin).await;
        assert!(
            !self.watches.iter().any(JoinHandle::is_finished),
            "{what}: a watch went wrong"
        );
    }
}

async fn heads(admin: &mut PgConnection) -> Vec<(String, i64, String)> {
    sqlx::query_as(
        "SELECT o.namespace || '/' || o.name, o.revision, convert_from(coalesce(o.body, e.body), 'UTF8')
         FROM store.objects o LEFT JOIN store.events e USING (revision)
         WHERE o.resource = (SELECT id FROM store.resources WHERE plural = 'things')
         ORDER BY o.namespace, o.name",
    )
    .fetch_all(admin)
    .await
    .unwrap()
}

/// Creates, updates and deletes; whatever fails, fails.
async fn write_some(things: Arc<Collection<Text>>, name: String, told: Told) {
    let at = key(&name);
    let uid = Uuid::new_v4();
    let Ok(mut revision) = things.write(create(&at, uid, "first")).await else {
        return;
    };
    told.note(revision.get(), &name, "first");
    for n in 0..4 {
        let body = format!("{n}{}", "x".repeat(100));
        let Ok(next) = things.write(update(&at, uid, revision, &body)).await else {
            return;
        };
        told.note(next.get(), &name, &body);
        revision = next;
    }
    if name.ends_with(['0', '3']) {
        return;
    }
    if let Ok(next) = things.write(delete(&at, uid, revision, "last")).await {
        told.note(next.get(), &name, "last");
    }
}

async fn read_some(things: Arc<Collection<Text>>) {
    let _ = things.consistent().await;
    let newest = things.snapshot().revision().get();
    let old = Revision::new(newest - 15);
    let _ = things.at(old).await;
    let snapshot = things.snapshot();
    if let Some(object) = snapshot.range(None, None).next() {
        let _ = things.recorded(&snapshot, &object.key, None, 5).await;
    }
    if let Ok(mut watcher) = things.watch(old) {
        let _ = tokio::time::timeout(Duration::from_millis(300), watcher.next_batch(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_may_fail_hang_or_panic() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let _alone = ALONE.lock().await;
    without_traces();
    let own = Own::new("failpoints");
    let world = World::new(own.urls()).await;
    let mut number = 0;
    let mut missed = BTreeSet::new();
    for (turn, action) in [
        Action::Error,
        Action::Delay(Duration::from_millis(60)),
        Action::Panic,
    ]
    .into_iter()
    .enumerate()
    {
        for name in in_turn(turn) {
            let what = format!("{name} {action:?}");
            let before = hits(name);
            failpoints::arm(name, action).unwrap();
            // Not every exercise fills a partition that can be dropped.
            for _ in 0..TRIES {
                if let Some(first) = first(name) {
                    failpoints::arm(first, Action::Error).unwrap();
                }
                number += 1;
                world.exercise(number).await;
                if hits(name) > before {
                    break;
                }
            }
            if hits(name) == before {
                missed.insert(what.clone());
            }
            world.check(&what).await;
        }
    }
    assert!(missed.is_empty(), "nothing came past {missed:?}");
}

/// The places that fail in the way whose turn it is: all of them, or, where `FAULT_SCALE` is 1, one
/// in four, so that each fails in one of the four ways.
fn in_turn(turn: usize) -> impl Iterator<Item = &'static str> {
    let is_part = std::env::var("FAULT_SCALE").is_ok_and(|scale| scale == "1");
    let places = NAMES.iter().copied().enumerate();
    places
        .filter(move |(place, _)| !is_part || place % 4 == turn)
        .map(|(_, name)| name)
}

/// What must have failed before, so that a place is come by at all.
fn first(name: &str) -> Option<&'static str> {
    match name.split_once('.')?.0 {
        // The outcome of a write is not known.
        "resolve" => Some("write-one.answer"),
        // The tail has lost its connection.
        "alive" => Some("check.send"),
        _ => None,
    }
}

fn hits(name: &str) -> u64 {
    let all = failpoints::hits();
    all.iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn every_place_may_be_the_last() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _alone = runtime.block_on(ALONE.lock());
    let own = Own::new("exit");
    let [runtime_url, owner_url] = own.urls();
    let mut survived = BTreeSet::new();
    for name in in_turn(3) {
        let file = own.dir.join(format!("told-{name}"));
        let mut points = format!("{name}=exit");
        if let Some(first) = first(name) {
            // Not while the child's two replicas start.
            points += &format!(";{first}=8*error");
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "failpoints::a_child_works_until_it_is_told_to_end",
            ])
            .env("FAILPOINTS", points)
            .env(
                CHILD,
                format!("{runtime_url} {owner_url} {}", file.display()),
            )
            .output()
            .unwrap()
            .status;
        if status.code() != Some(86) {
            survived.insert((name, status.code()));
        }
        runtime.block_on(check_child(&own, name, &file));
    }
    assert!(survived.is_empty(), "{survived:?}");
}

/// What the child wrote down it had been told before it wrote it down.
async fn check_child(own: &Own, name: &str, file: &Path) {
    let told = Told::default();
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        let mut parts = line.split(' ');
        let (Some(revision), Some(key), Some(body), Some(".")) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        told.note(revision.parse().unwrap(), key, body);
    }
    let [runtime_url, owner_url] = own.urls();
    let mut admin = connect(&owner_url).await;
    told.check(&mut admin).await;
    let replica = Replica::with(config(&runtime_url)).await;
    let heads = heads(&mut admin).await;
    let began = Instant::now();
    let read = replica.things.consistent().await;
    let applied = replica.store.applied();
    let shown = read.as_ref().map(contents);
    let took = began.elapsed();
    assert_eq!(shown, Ok(heads), "{name}: after {took:?}, at {applied}");
    replica.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_works_until_it_is_told_to_end() {
    let Ok(told_to) = std::env::var(CHILD) else {
        return;
    };
    let mut parts = told_to.split(' ').map(str::to_owned);
    let urls = [parts.next().unwrap(), parts.next().unwrap()];
    let file = PathBuf::from(parts.next().unwrap());
    let world = World::new(urls).await;
    let told = world.told.clone();
    tokio::spawn(async move {
        loop {
            let lines: String = told
                .0
                .lock()
                .unwrap()
                .iter()
                .map(|(revision, (key, body))| format!("{revision} {key} {body} .\n"))
                .collect();
            std::fs::write(&file, lines).unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    for round in 0..8 {
        let number = usize::try_from(std::process::id()).unwrap() * 10 + round;
        world.exercise(number).await;
    }
}
