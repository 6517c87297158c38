//! Restores under live watchers, and bytes that are not what was written.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use store::private_postgres::Shutdown;
use store::testing::{OWNER, RUNTIME, directory, shared_postgres};
use store::{Collection, EventKind, ReadError, Revision, StoreConfig, WatchError};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::breakable::{Breakable, config, run};
use crate::network::Network;
use crate::support::{
    PATIENCE, Replica, Text, UNREADABLE, contents, create, delete, key, soon, until,
    write_patiently,
};

/// Every revision that anybody was told of, and what it was. A revision with two contents is what
/// must never be.
#[derive(Clone, Default)]
struct HandedOut(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    contents: HashMap<i64, String>,
    newest: i64,
    twice: Vec<i64>,
}

impl HandedOut {
    fn note(&self, revision: Revision, content: &str) {
        let mut book = self.0.lock().unwrap();
        book.newest = book.newest.max(revision.get());
        let known = book.contents.insert(revision.get(), content.to_owned());
        if known.is_some_and(|known| known != content) {
            book.twice.push(revision.get());
        }
    }

    fn all(&self) -> Vec<Revision> {
        let book = self.0.lock().unwrap();
        book.contents.keys().copied().map(Revision::new).collect()
    }

    fn newest(&self) -> i64 {
        self.0.lock().unwrap().newest
    }

    fn twice(&self) -> Vec<i64> {
        self.0.lock().unwrap().twice.clone()
    }
}

/// A client that lists, watches, and lists again when it is told to.
struct Informer {
    objects: Arc<Mutex<BTreeMap<String, (i64, String)>>>,
    relists: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Informer {
    fn start(things: &Arc<Collection<Text>>, book: &HandedOut) -> Self {
        let objects: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
        let relists: Arc<Mutex<usize>> = Arc::default();
        let (things, book) = (Arc::clone(things), book.clone());
        let (shown, count) = (Arc::clone(&objects), Arc::clone(&relists));
        let task = tokio::spawn(async move {
            loop {
                let Ok(snapshot) = things.consistent().await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                *count.lock().unwrap() += 1;
                let listed = contents(&snapshot);
                *shown.lock().unwrap() = listed
                    .into_iter()
                    .map(|(key, revision, body)| (key, (revision, body)))
                    .collect();
                let Ok(mut watcher) = things.watch(snapshot.revision()) else {
                    continue;
                };
                while let Ok(events) = watcher.next_batch(100).await {
                    for event in events {
                        let (key, body) = (event.key().to_string(), event.current.view.clone());
                        book.note(event.revision, &format!("{key} {body}"));
                        let mut shown = shown.lock().unwrap();
                        match event.kind {
                            EventKind::Deleted => drop(shown.remove(&key)),
                            _ => drop(shown.insert(key, (event.revision.get(), body))),
                        }
                    }
                }
            }
        });
        Self {
            objects,
            relists,
            task,
        }
    }

    fn contents(&self) -> Vec<(String, i64, String)> {
        let objects = self.objects.lock().unwrap();
        let all = objects.iter();
        all.map(|(key, (revision, body))| (key.clone(), *revision, body.clone()))
            .collect()
    }
}

impl Drop for Informer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Creates objects without end, each with a content of its own, and notes what is acknowledged.
fn keep_writing(replica: &Replica, stop: &Arc<AtomicBool>, book: &HandedOut) -> JoinHandle<()> {
    let (things, stop, book) = (replica.things.clone(), Arc::clone(stop), book.clone());
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let (name, body) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
            let write = create(&key(&format!("ns/{name}")), Uuid::new_v4(), &body);
            if let Ok(revision) = write_patiently(&things, write).await {
                book.note(revision, &format!("ns/{name} {body}"));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
}

/// What is wrong after a restore: old revisions that are not void, informers that do not have what
/// is there.
async fn faults(replicas: &[Replica; 2], informers: &[Informer], old: &[Revision]) -> Vec<String> {
    let mut wrong = Vec::new();
    for replica in replicas {
        let is_void =
            |r: &&Revision| matches!(replica.things.watch(**r), Err(WatchError::Gone { .. }));
        let alive = old.iter().filter(|r| !is_void(r)).count();
        if alive > 0 {
            wrong.push(format!("a watch goes on from {alive} old revisions"));
        }
        let mut read = 0;
        for revision in old.iter().step_by(50) {
            let state = replica.things.at(*revision).await;
            read += usize::from(!matches!(state, Err(ReadError::Compacted { .. })));
        }
        if read > 0 {
            wrong.push(format!("{read} old revisions can be read"));
        }
        let fresh = contents(&replica.things.consistent().await.unwrap());
        let same = soon(Duration::from_secs(5), async || {
            informers
                .iter()
                .all(|informer| informer.contents() == fresh)
        });
        if !same.await {
            wrong.push("an informer has not what a fresh list has".to_owned());
        }
    }
    wrong
}

/// What lives on while the database is replaced.
struct Life {
    replicas: [Replica; 2],
    informers: Vec<Informer>,
    book: HandedOut,
}

impl Life {
    async fn begin(url: &str) -> Self {
        let replicas = [
            Replica::with(config(url, 0)).await,
            Replica::with(config(url, 1)).await,
        ];
        let book = HandedOut::default();
        let informers = (0..4)
            .map(|n| Informer::start(&replicas[n % 2].things, &book))
            .collect();
        Self {
            replicas,
            informers,
            book,
        }
    }

    /// Writes by both replicas while `meanwhile` runs, and for some writes after it.
    async fn write_during(&self, meanwhile: impl AsyncFnOnce()) {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..6)
            .map(|n| keep_writing(&self.replicas[n % 2], &stop, &self.book))
            .collect();
        meanwhile().await;
        let before = self.book.all().len();
        until("writes go on", async || {
            self.book.all().len() > before + 100
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
    }

    /// Replaces the database under writers; returns what is wrong afterwards.
    async fn survive(&self, replace: impl AsyncFnOnce()) -> Vec<String> {
        let (mut old, mut newest, mut wrong) = (Vec::new(), 0, Vec::new());
        let relists: Vec<_> = self.relists();
        let mut back = Duration::ZERO;
        self.write_during(async || {
            let before = self.book.all().len();
            until("writes are lost", async || {
                self.book.all().len() > before + 50
            })
            .await;
            (old, newest) = (self.book.all(), self.book.newest());
            replace().await;
            let began = Instant::now();
            let listed = soon(Duration::from_secs(4), async || {
                let now = self.relists();
                now.iter().zip(&relists).all(|(now, before)| now > before)
            });
            if !listed.await {
                wrong.push("an informer was not told to list again".to_owned());
            }
            back = began.elapsed();
        })
        .await;
        wrong.extend(faults(&self.replicas, &self.informers, &old).await);
        let twice = self.book.twice().len();
        if twice > 0 {
            wrong.push(format!("{twice} revisions were handed out twice"));
        }
        if self.book.newest() <= newest {
            wrong.push("revisions do not go on above".to_owned());
        }
        println!(
            "{} revisions handed out, {} before; listed again within {back:?}; wrong: {wrong:?}",
            self.book.all().len(),
            old.len()
        );
        wrong
    }

    fn relists(&self) -> Vec<usize> {
        let informers = self.informers.iter();
        informers.map(|i| *i.relists.lock().unwrap()).collect()
    }
}

fn dump(own: &Breakable) -> String {
    let dump = own.dir.join("dump.sql").display().to_string();
    own.tool("pg_dump", &["-f", &dump, &own.database.admin_url]);
    dump
}

fn restore(own: &Breakable, dump: &str) {
    let admin = |statement: &str| own.postgres().psql("postgres", statement).unwrap();
    admin("DROP DATABASE objects WITH (FORCE)");
    admin(&format!("CREATE DATABASE objects OWNER {OWNER}"));
    let url = own.database.admin_url.as_str();
    own.tool("psql", &["-q1", "-v", "ON_ERROR_STOP=1", "-f", dump, url]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_under_live_watchers_begins_a_new_life_each_time() {
    let own = Breakable::new("dump");
    let life = Life::begin(&own.database.url).await;
    life.write_during(async || {}).await;
    let dump = dump(&own);
    for _ in 0..2 {
        // The second time its epochs are those of before the first one.
        let wrong = life.survive(async || restore(&own, &dump)).await;
        assert_eq!(wrong, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_twice_under_processes_that_start_anew_gives_no_revision_twice() {
    let own = Breakable::new("dump-anew");
    let write = async |count: u32| {
        // It knows nothing of what was there before.
        let replica = Replica::on(&own.database).await;
        let mut revisions = Vec::new();
        for _ in 0..count {
            let name = key(&Uuid::new_v4().to_string());
            revisions.push(replica.create(&name, "x").await.1);
        }
        replica.store.shutdown().await;
        revisions
    };
    let mut all = write(20).await;
    let dump = dump(&own);
    all.extend(write(50).await);
    for _ in 0..3 {
        restore(&own, &dump);
        all.extend(write(50).await);
    }
    println!("{:?} to {:?}", all.first(), all.last());
    assert!(all.is_sorted_by(|one, next| one < next), "{all:?}");
    assert!(all.iter().all(|r| r.get() < 1 << 53), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_to_an_earlier_point_begins_a_new_life_each_time() {
    let name = "recovery";
    let archive = directory(format!("{}-{name}-archive", std::process::id()));
    std::fs::create_dir_all(&archive).unwrap();
    let (to, from) = (archive.display().to_string(), archive.display().to_string());
    let copy = format!("cp %p {to}/%f");
    let own = Breakable::with(name, &[("archive_mode", "on"), ("archive_command", &copy)]);
    let like = format!("--reference={}", own.data().display());
    run("chown", &[&like, &to]);
    let network = Network::start(name, &own.socket());
    let life = Life::begin(&network.url(&own.database, &own.socket())).await;
    let base = directory(format!("{}-{name}-base", std::process::id()));
    own.copy_to(&base);
    life.write_during(async || {}).await;
    own.sql("SELECT pg_create_restore_point('here')");
    let back_to = |number: u32| {
        let dir = directory(format!("{}-{name}-{number}", std::process::id()));
        run(
            "cp",
            &[
                "-a",
                &base.display().to_string(),
                &dir.display().to_string(),
            ],
        );
        std::fs::write(dir.join("data/recovery.signal"), "").unwrap();
        let restore = format!("cp {from}/%f %p");
        let settings = [
            ("restore_command", restore.as_str()),
            ("recovery_target_name", "here"),
            ("recovery_target_action", "promote"),
        ];
        Breakable::run(dir, &settings)
    };
    let mut lives = Vec::new();
    for number in 0..2 {
        let wrong = life.survive(async || {
            own.sql("SELECT pg_switch_wal()");
            let file = own.sql("SELECT pg_walfile_name(pg_switch_wal())");
            until("the log is archived", async || {
                own.sql(&format!(
                    "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= '{file}'"
                )) == "1"
                    || number > 0
            })
            .await;
            lives.push(back_to(number));
            let latest = lives.last().unwrap();
            until("the recovery has ended", async || {
                latest.sql("SELECT pg_is_in_recovery()") == "f"
            })
            .await;
            network.route(&latest.socket());
        });
        let wrong = wrong.await;
        assert_eq!(wrong, [""; 0], "recovery {number}");
    }
    for dir in [archive, base] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// Changes one byte of some text in the files of a stopped server; where it found it.
fn flip(own: &Breakable, text: &str) -> usize {
    let mut flipped = 0;
    let mut folders = vec![own.data().join("base")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(text.len()).position(|w| w == text.as_bytes());
            if let Some(at) = found {
                bytes[at + text.len() / 2] ^= 1;
                std::fs::write(entry.path(), bytes).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

const OBJECTS: usize = 10;
/// The object that gets damaged.
const DAMAGED: usize = 7;

/// A server with some objects, one of which gets a byte changed on the disk.
async fn flipped(name: &str, checksums: bool, bodies: &[String]) -> Breakable {
    let mut own = Breakable::new(name);
    let replica = Replica::on(&own.database).await;
    for (n, body) in bodies.iter().enumerate() {
        replica.create(&key(&format!("ns/{n}")), body).await;
    }
    drop(replica);
    let tool = own.postgres().bin_dir().join("pg_checksums");
    own.sql("CHECKPOINT");
    own.stop(Shutdown::Fast);
    let data = own.data().display().to_string();
    if checksums {
        run(tool, &["--enable", "-D", &data]);
    }
    assert!(flip(&own, &bodies[DAMAGED][..40]) >= 1);
    own.start();
    own
}

/// A process that starts serves all but the damaged object, which can be deleted and made anew.
async fn check_fails_alone(own: &Breakable, bodies: &[String]) {
    let mut config = StoreConfig::new(&own.database.url);
    // So short that what a write replaces is copied.
    config.ring_time = Duration::from_millis(100);
    tokio::time::sleep(config.ring_time * 2).await;
    let replica = Replica::with(config).await;
    let all = replica.things.consistent().await.unwrap();
    let served: Vec<_> = contents(&all).into_iter().map(|(.., body)| body).collect();
    let mut expected = bodies.to_vec();
    expected[DAMAGED] = UNREADABLE.to_owned();
    let readable = served.iter().filter(|body| *body != UNREADABLE).count();
    println!("{readable} of {} served", served.len());
    assert!(served == expected, "what is served is not what was written");
    // Whoever needs it from the log is told to list again, or does not get it.
    let mut watcher = replica.things.watch(Revision::ZERO).unwrap();
    let next = tokio::time::timeout(PATIENCE, watcher.next_batch(bodies.len()));
    if let Ok(events) = next.await.expect("the watch goes on or ends") {
        let ours = |body: &String| bodies.contains(body) || body == UNREADABLE;
        assert!(events.iter().all(|event| ours(&event.current.view)));
    }
    let name = key(&format!("ns/{DAMAGED}"));
    let stored = all.get(&name).unwrap();
    let delete = delete(&name, stored.uid, stored.revision, "{}");
    replica.things.write(delete).await.unwrap();
    replica.create(&name, &bodies[DAMAGED]).await;
    let again = Replica::on(&own.database).await;
    let all = again.things.consistent().await.unwrap();
    assert!(
        contents(&all)
            .into_iter()
            .map(|(.., body)| body)
            .eq(bodies.to_vec())
    );
}

/// Bodies that differ in their first words, of at least some length.
fn bodies(words: &str, length: usize) -> Vec<String> {
    let body = |n| format!("{:width$}.", format!("body {n} {words}"), width = length);
    (0..OBJECTS).map(body).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_and_only_its_object_fails() {
    for (name, checksums, length) in [
        ("flip-heap", false, 100),
        ("flip-toast", false, 20_000),
        // With checksums of pages Postgres gives nothing of a page: one body fills it.
        ("flip-checked", true, 5_000),
    ] {
        let bodies = bodies("is so long that its first words are looked for", length);
        let own = flipped(name, checksums, &bodies).await;
        check_fails_alone(&own, &bodies).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_body_fails_alone() {
    let own = Breakable::new("lost-body");
    let bodies = bodies("is lost", 30_000);
    for in_part in [false, true] {
        let replica = Replica::on(&own.database).await;
        for (n, body) in bodies.iter().enumerate() {
            let name = key(&format!("ns/{n}"));
            if replica.things.snapshot().get(&name).is_none() {
                replica.create(&name, body).await;
            }
        }
        if in_part {
            // Postgres finds that the rest of it is damaged. It is the newest one.
            let toast = own.sql(
                "SELECT reltoastrelid::regclass FROM pg_class
                 WHERE oid = (SELECT tableoid FROM store.events LIMIT 1)",
            );
            let part = own.sql(&format!(
                "SELECT ctid FROM {toast} ORDER BY chunk_id DESC, chunk_seq DESC LIMIT 1"
            ));
            own.sql("CREATE EXTENSION pg_surgery SCHEMA public");
            own.sql(&format!(
                "SELECT public.heap_force_kill('{toast}', ARRAY['{part}'::tid])"
            ));
        } else {
            own.sql("DELETE FROM store.events WHERE name = '7'");
        }
        let all = replica.things.consistent().await.unwrap();
        assert_eq!(all.len(), OBJECTS, "what is in memory is served");
        replica.store.shutdown().await;
        check_fails_alone(&own, &bodies).await;
    }
}

/// Columns of indexes that are ordered by anything but bytes.
const OTHER_ORDERS: &str = "SELECT count(*) FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid, unnest(i.indcollation) AS o
    WHERE c.relnamespace = 'store'::regnamespace AND o NOT IN (0, 'pg_catalog.\"C\"'::regcollation)";
const CHECK_INDEXES: &str =
    "SELECT count(public.bt_index_check(i.indexrelid, true)) FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE c.relnamespace = 'store'::regnamespace AND a.amname = 'btree' AND c.relkind = 'i'";

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_ordered_by_bytes_whatever_the_collation_of_the_database() {
    let postgres = shared_postgres();
    let name = "icu_collation";
    postgres
        .psql(
            "postgres",
            &format!(
                "CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0
                 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
            ),
        )
        .unwrap();
    store::migrate(&postgres.url(name, OWNER), RUNTIME)
        .await
        .unwrap();
    let replica = Replica::with(StoreConfig::new(postgres.url(name, RUNTIME))).await;
    // In English: a, A, ä, b, B.
    let names = ["B", "a", "b", "A", "\u{e4}", "a-b", "ab", "a.b"];
    for name in names {
        replica.create(&key(&format!("ns/{name}")), name).await;
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let fresh = Replica::with(StoreConfig::new(postgres.url(name, RUNTIME))).await;
    for replica in [&replica, &fresh] {
        let found: Vec<_> = contents(&replica.things.snapshot())
            .into_iter()
            .map(|(.., body)| body)
            .collect();
        assert_eq!(found, sorted);
    }
    let url = postgres.url(name, postgres.superuser());
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let by_sql: Vec<String> = sqlx::query_scalar("SELECT name FROM store.objects ORDER BY name")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    assert_eq!(by_sql, sorted);
    let others: i64 = sqlx::query_scalar(OTHER_ORDERS)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert_eq!(others, 0);
    admin
        .execute(AssertSqlSafe(
            "CREATE EXTENSION amcheck SCHEMA public".to_owned(),
        ))
        .await
        .unwrap();
    let checked: i64 = sqlx::query_scalar(CHECK_INDEXES)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert!(checked > 5, "{checked} indexes");
}
