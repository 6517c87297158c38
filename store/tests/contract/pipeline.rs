//! Batches commit before they are durable; nothing is told before they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use store::private_postgres::{PrivatePostgres, PrivatePostgresOptions, Shutdown};
use store::testing::{OWNER, RUNTIME, TestDatabase, database, directory, options, prepare};
use store::{Collection, Key, Revision, StoreConfig, WatchError, Watcher, WriteError};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{
    PATIENCE, Replica, Text, Told, contents, create, key, next_events, seen, until, update,
    write_patiently,
};

/// A Postgres whose disk is as slow as a test wants it.
struct Slow {
    postgres: PrivatePostgres,
    options: PrivatePostgresOptions,
    database: TestDatabase,
    dir: PathBuf,
}

impl Slow {
    /// Each flush of the log takes `flush` longer; meanwhile nothing else writes it down.
    fn new(name: &str, flush: Duration) -> Self {
        let mut options = options(true);
        for (name, value) in [
            ("commit_delay", flush.as_micros().to_string()),
            ("commit_siblings", "0".to_owned()),
            ("wal_writer_delay", "10s".to_owned()),
        ] {
            options.settings.push((name.to_owned(), value));
        }
        let dir = directory(format!("{}-{name}", std::process::id()));
        let postgres = PrivatePostgres::start(&dir, &options).unwrap();
        prepare(&postgres, "objects").unwrap();
        let database = TestDatabase {
            url: postgres.url("objects", RUNTIME),
            owner_url: postgres.url("objects", OWNER),
            admin_url: postgres.url("objects", postgres.superuser()),
            name: "objects".to_owned(),
        };
        Self {
            postgres,
            options,
            database,
            dir,
        }
    }

    fn crash(&mut self) {
        self.postgres.stop_with(Shutdown::Immediate).unwrap();
    }

    fn start(&mut self) {
        self.postgres = PrivatePostgres::start(&self.dir, &self.options).unwrap();
    }

    fn admin(&self, statements: &str) -> String {
        self.postgres.psql("objects", statements).unwrap()
    }

    fn number(&self, query: &str) -> u64 {
        self.admin(query).trim().parse().unwrap()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.postgres.stop_with(Shutdown::Immediate);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Updates one object for as long as it may, and notes what is acknowledged.
fn keep_writing(
    things: Arc<Collection<Text>>,
    name: String,
    told: Told,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let at = key(&name);
        let uid = Uuid::new_v4();
        let mut known: Option<Revision> = None;
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let body = n.to_string();
            let write = match known {
                None => create(&at, uid, &body),
                Some(revision) => update(&at, uid, revision, &body),
            };
            match write_patiently(&things, write).await {
                Ok(revision) => {
                    told.note(revision.get(), &name, &body);
                    known = Some(revision);
                }
                // Another try of it went through after all, or nobody knows.
                Err(_) => known = read(&things, &at).await,
            }
        }
    })
}

async fn read(things: &Collection<Text>, at: &Key) -> Option<Revision> {
    loop {
        if let Ok(snapshot) = things.consistent().await {
            return snapshot.get(at).map(|stored| stored.revision);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Notes what is shown, for ever.
fn keep_watching(mut watcher: Watcher<Text>, told: Told) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = 0;
        loop {
            for event in watcher.next_batch(100).await.expect("the watch goes on") {
                let (_, revision, key, body, _) = seen(&event);
                assert!(revision > last, "{revision} after {last}");
                last = revision;
                told.note(revision, &key, &body);
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_survives_crashes_also_when_the_disk_is_slow() {
    let mut slow = Slow::new("slow-crash", Duration::from_millis(20));
    let replicas = [
        Replica::on(&slow.database).await,
        Replica::on(&slow.database).await,
    ];
    let (told, stop) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let start = replicas[0].store.applied();
    let watches = replicas
        .each_ref()
        .map(|replica| keep_watching(replica.things.watch(start).unwrap(), told.clone()));
    let writers: Vec<_> = (0..24)
        .map(|n| {
            let things = Arc::clone(&replicas[n % 2].things);
            keep_writing(things, format!("ns/{n}"), told.clone(), Arc::clone(&stop))
        })
        .collect();
    for cycle in 0..6 {
        let before = replicas[0].store.applied().get();
        until("writes go on", async || {
            replicas[0].store.applied().get() > before + 100 + cycle
        })
        .await;
        slow.crash();
        slow.start();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let mut admin = PgConnection::connect(&slow.database.admin_url)
        .await
        .unwrap();
    let log: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT revision, namespace || '/' || name, convert_from(body, 'UTF8')
         FROM store.events ORDER BY revision",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let log: BTreeMap<_, _> = log.into_iter().map(|(r, k, b)| (r, (k, b))).collect();
    let newest = Revision::new(*log.keys().next_back().unwrap());
    for (replica, watch) in replicas.iter().zip(watches) {
        assert!(replica.things.at_least(newest, PATIENCE).await.is_ok());
        until("watches catch up", async || {
            watch.is_finished() || told.0.lock().unwrap().len() == log.len()
        })
        .await;
        assert!(!watch.is_finished(), "{:?}", watch.await);
    }
    let told = told.0.lock().unwrap();
    for (revision, content) in told.iter() {
        assert_eq!(
            log.get(revision),
            Some(content),
            "revision {revision} was lost"
        );
    }
    assert!(log.len() > 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_gave_up_waiting_for_its_standbys_is_not_acknowledged() {
    let slow = Slow::new("warning", Duration::ZERO);
    let replica = Replica::on(&slow.database).await;
    replica.create(&key("ns/first"), "0").await;
    let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    // A barrier may wait beside it, which only asks how fast the disk is.
    let write_waits = format!("{waiting} AND query LIKE '%store.write_one(%'");
    slow.admin("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    slow.admin("SELECT pg_reload_conf()");
    until("commits wait", async || {
        slow.admin("SHOW synchronous_standby_names").trim() == "nobody"
    })
    .await;
    // Commits wait a moment after the setting says so.
    let (name, writing) = loop {
        let things = Arc::clone(&replica.things);
        let name = key(&format!("ns/{}", Uuid::new_v4()));
        let write = create(&name, Uuid::new_v4(), "1");
        let writing = tokio::spawn(async move { things.write(write).await });
        until("the write waits", async || {
            writing.is_finished() || slow.number(&format!("SELECT count(*) {write_waits}")) == 1
        })
        .await;
        if !writing.is_finished() {
            break (name, writing);
        }
        assert!(writing.await.unwrap().is_ok());
    };
    let cancelled = slow.admin(&format!("SELECT pid, pg_cancel_backend(pid) {write_waits}"));
    let pid = cancelled.split('|').next().unwrap().to_owned();
    // Its commit has reported success; what became of it is asked by another, which waits too.
    let others = format!("SELECT count(*) {waiting} AND pid <> {pid}");
    // So does the log's reader, which may show nothing of it before.
    until("its outcome is looked for", async || {
        writing.is_finished() || slow.admin(&others).trim() != "0"
    })
    .await;
    if writing.is_finished() {
        // On a machine too slow to find out in time.
        assert_eq!(writing.await.unwrap(), Err(WriteError::OutcomeUnknown));
        return;
    }
    assert!(replica.things.snapshot().get(&name).is_none());
    slow.admin("ALTER SYSTEM RESET synchronous_standby_names");
    slow.admin("SELECT pg_reload_conf()");
    match writing.await.unwrap() {
        Ok(revision) => {
            let snapshot = replica.things.snapshot();
            assert_eq!(snapshot.get(&name).unwrap().revision, revision);
        }
        Err(error) => assert_eq!(error, WriteError::OutcomeUnknown),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_notifications_stops_no_write() {
    let database = database();
    let replicas = [Replica::on(&database).await, Replica::on(&database).await];
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute(
            "CREATE FUNCTION store.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'too many notifications' USING ERRCODE = '54000'; END $$;
             GRANT EXECUTE ON FUNCTION store.pg_notify TO PUBLIC;
             DO $$ DECLARE f regprocedure; BEGIN
                FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'store'::regnamespace
                        AND proname IN ('write_one', 'write_batch', 'barrier') LOOP
                    EXECUTE format('ALTER FUNCTION %s SET search_path = store, pg_catalog, pg_temp', f);
                END LOOP;
             END $$",
        )
        .await
        .unwrap();
    let mut watcher = replicas[1]
        .things
        .watch(replicas[1].store.applied())
        .unwrap();
    until("the replicas know of each other", async || {
        let (_, revision) = replicas[0]
            .create(&key(&format!("ns/{}", Uuid::new_v4())), "1")
            .await;
        next_events(&mut watcher, 1).await[0].1 == revision.get()
    })
    .await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let things = replicas[0].things.clone();
        let write = create(&key(&format!("ns/{n}")), Uuid::new_v4(), "x");
        writers.spawn(async move { things.write(write).await });
    }
    assert!(writers.join_all().await.iter().all(Result::is_ok));
    assert_eq!(next_events(&mut watcher, 20).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_snapshot_that_is_put_back_begins_a_new_life() {
    let mut slow = Slow::new("snapshot", Duration::ZERO);
    let replica = Replica::on(&slow.database).await;
    let (_, kept) = replica.create(&key("ns/kept"), "1").await;
    slow.crash();
    let (data, copy) = (slow.dir.join("data"), slow.dir.join("copy"));
    copy_dir(&data, &copy);
    slow.start();
    let mut lost = kept;
    for n in 0..5 {
        let write = create(&key(&format!("ns/lost-{n}")), Uuid::new_v4(), "2");
        lost = write_patiently(&replica.things, write).await.unwrap();
    }
    let mut watcher = replica.things.watch(lost).unwrap();
    slow.crash();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    slow.start();
    // Whoever comes first must not give a lost revision away again, nor hide the loss.
    let gone = tokio::time::timeout(PATIENCE, watcher.next_batch(10))
        .await
        .unwrap();
    let WatchError::Gone { oldest } = gone.unwrap_err();
    assert!(oldest > lost);
    let write = create(&key("ns/new"), Uuid::new_v4(), "3");
    let next = write_patiently(&replica.things, write).await.unwrap();
    assert!(next > oldest);
    let names: Vec<_> = contents(&replica.things.consistent().await.unwrap());
    let names: Vec<_> = names.into_iter().map(|object| object.0).collect();
    assert_eq!(names, ["ns/kept", "ns/new"]);
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_puts_no_revision_of_its_own_on_the_old_state() {
    let database = database();
    let replica = Replica::on(&database).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    let mut watcher = replica.things.watch(first).unwrap();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    // As a process that found the database restored tells the others.
    admin
        .execute("SELECT pg_notify('store', '4294967297 0')")
        .await
        .unwrap();
    let (_, second) = replica.create(&key("ns/b"), "2").await;
    assert_eq!(next_events(&mut watcher, 1).await[0].1, second.get());
    assert!(watcher.position() < Revision::new(4_294_967_297));
    assert!(replica.store.applied() < Revision::new(4_294_967_297));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_body_keeps_the_log_and_ends_no_compaction() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute("SELECT store.extend_events(10, 10)")
        .await
        .unwrap();
    let replica = Replica::on(&database).await;
    for n in 0..40 {
        replica.create(&key(&format!("ns/{n:02}")), "x").await;
    }
    admin
        .execute(
            "UPDATE store.events SET recorded_at = recorded_at - interval '1 hour';
             DELETE FROM store.events WHERE name = '03'",
        )
        .await
        .unwrap();
    let compacting = async {
        loop {
            if let Some(done) = replica.store.compact().await.unwrap() {
                return done;
            }
            tokio::task::yield_now().await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, compacting)
        .await
        .expect("it ends");
    assert_eq!(done.partitions, 0);
    assert!(done.rescued > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_stops_at_once_also_when_others_write() {
    let database = database();
    let replicas = [Replica::on(&database).await, Replica::on(&database).await];
    let (told, stop) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let other = keep_writing(
        Arc::clone(&replicas[1].things),
        "ns/other".to_owned(),
        told,
        Arc::clone(&stop),
    );
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let things = replicas[0].things.clone();
        let write = create(&key(&format!("ns/{n}")), Uuid::new_v4(), "x");
        writers.spawn(async move {
            let began = Instant::now();
            (things.write(write).await, began.elapsed())
        });
    }
    tokio::task::yield_now().await;
    let began = Instant::now();
    replicas[0].store.shutdown().await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    for (outcome, took) in writers.join_all().await {
        assert!(
            matches!(outcome, Ok(_) | Err(WriteError::Unavailable { .. })),
            "{outcome:?}"
        );
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    stop.store(true, Ordering::Relaxed);
    other.await.unwrap();
}

/// What some load took of a slow disk.
#[derive(Debug)]
struct Load {
    batches: u64,
    flushes: u64,
    took: Duration,
}

/// Sixteen writers at each of four replicas; `slow_flush` as of [`StoreConfig`].
async fn load(slow: &Slow, name: &str, slow_flush: Duration) -> Load {
    const WRITES: usize = 40;
    let mut replicas = Vec::new();
    for _ in 0..4 {
        let mut config = StoreConfig::new(&slow.database.url);
        config.slow_flush = slow_flush;
        replicas.push(Replica::with(config).await);
    }
    let start = replicas[0].store.applied();
    let flushes = || match slow.number("SHOW server_version_num") {
        ..180_000 => slow.number("SELECT wal_sync FROM pg_stat_wal"),
        _ => slow.number("SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"),
    };
    let (before, began) = (flushes(), Instant::now());
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..64 {
        let things = replicas[n % 4].things.clone();
        let name = format!("{name}/{n}");
        writers.spawn(async move {
            for n in 0..WRITES {
                let write = create(&key(&format!("{name}-{n}")), Uuid::new_v4(), "x");
                write_patiently(&things, write).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let took = began.elapsed();
    let batches = format!(
        "SELECT count(DISTINCT batch) FROM store.events WHERE revision > {}",
        start.get()
    );
    let batches = slow.number(&batches);
    // Sessions tell what they did when they end, at the latest.
    for replica in &replicas {
        replica.store.shutdown().await;
    }
    until("no session is left", async || {
        slow.number("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'store'") == 0
    })
    .await;
    let flushes = flushes() - before;
    Load {
        batches,
        flushes,
        took,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_replicas_on_a_slow_disk_share_its_flushes() {
    let slow = Slow::new("shared", Duration::from_millis(10));
    let alone = load(&slow, "alone", Duration::MAX).await;
    assert!(alone.flushes * 10 > alone.batches * 9, "{alone:?}");
    // A machine that stands still for a moment may spoil a time, but not each.
    let mut all = Vec::new();
    while all.len() < 3 {
        let shared = load(&slow, &format!("shared-{}", all.len()), Duration::ZERO).await;
        println!("each batch flushes: {alone:?}; barriers: {shared:?}");
        assert!(shared.flushes * 2 < shared.batches, "{shared:?}");
        if shared.took * 3 < alone.took * 2 {
            return;
        }
        all.push(shared);
    }
    panic!("{all:?} {alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_bounded_that_wait_for_the_disk() {
    let slow = Slow::new("bounded", Duration::from_millis(5));
    let mut config = StoreConfig::new(&slow.database.url);
    config.queue = 20_000;
    let replica = Replica::with(config).await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..12_000 {
        let things = replica.things.clone();
        let write = create(&key(&format!("ns/{n}")), Uuid::new_v4(), "x");
        writers.spawn(async move { things.write(write).await });
    }
    assert!(writers.join_all().await.iter().all(Result::is_ok));
    assert_eq!(replica.things.consistent().await.unwrap().len(), 12_000);
}
