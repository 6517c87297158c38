//! What a write, a consistent read and a start cost: operations a second, latency, and CPU of this
//! process and of Postgres for each operation.
//!
//! `cargo run --release -p store --features testing --example load [objects [stores [flush [slow]]]]`:
//! clients are spread over so many stores, each flush of the log takes `flush` microseconds longer,
//! and one that takes more than `slow` is taken for slow.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use store::testing::{RUNTIME, directory, prepare};
use store::{Collection, Key, Operation, Project, Provenance, Revision, Store, StoreConfig, Write};
use uuid::Uuid;

struct Raw;

impl Project for Raw {
    type View = Bytes;

    fn project(&self, _key: &Key, _revision: Revision, body: Bytes) -> Bytes {
        body
    }

    fn unreadable(&self, _key: &Key, _revision: Revision) -> Bytes {
        Bytes::new()
    }
}

/// User and system time, in ticks of 10 ms, of a process and its children that have ended.
fn ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // Fields 14 to 17 of the file, of which the third comes right after the name.
    after_name
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}

fn postgres_ticks(data: &Path) -> u64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.filter(|process| {
        std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data)
    });
    ours.map(|process| ticks(&process.file_name().to_string_lossy()))
        .sum()
}

struct Meter<'a> {
    data: &'a Path,
}

impl Meter<'_> {
    async fn measure(
        &self,
        name: &str,
        clients: usize,
        operations: usize,
        operation: impl AsyncFn(usize) + Clone + 'static,
    ) {
        let (own, postgres) = (ticks("self"), postgres_ticks(self.data));
        let began = Instant::now();
        let local = tokio::task::LocalSet::new();
        let latencies = local
            .run_until(async {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..clients {
                    let operation = operation.clone();
                    tasks.spawn_local(async move {
                        let mut latencies = Vec::new();
                        for n in (client..operations).step_by(clients) {
                            let began = Instant::now();
                            operation(n).await;
                            latencies.push(began.elapsed());
                        }
                        latencies
                    });
                }
                tasks.join_all().await
            })
            .await;
        let elapsed = began.elapsed();
        let mut latencies: Vec<Duration> = latencies.into_iter().flatten().collect();
        latencies.sort();
        let at = |part: usize| {
            latencies
                .get(latencies.len() * part / 100)
                .copied()
                .unwrap_or_default()
        };
        let each =
            |ticks: u64| Duration::from_millis(ticks * 10) / u32::try_from(operations).unwrap_or(1);
        println!(
            "{name:>10} c={clients:<3} {:>8.0}/s  p50 {:>9.1?} p99 {:>9.1?}  cpu/op: process {:>7.1?} postgres {:>7.1?}",
            f64::from(u32::try_from(operations).unwrap_or(0)) / elapsed.as_secs_f64(),
            at(50),
            at(99),
            each(ticks("self") - own),
            each(postgres_ticks(self.data) - postgres),
        );
    }
}

fn key(n: usize) -> Key {
    Key::new(format!("ns{}", n % 10), format!("object-{n:07}"))
}

fn provenance() -> Provenance {
    Provenance {
        user: "bench".into(),
        ..Provenance::default()
    }
}

async fn put(things: &Collection<Raw>, n: usize, body: &Bytes) {
    let body = body.clone();
    let existing = things
        .snapshot()
        .get(&key(n))
        .map(|stored| (stored.uid, stored.revision));
    let operation = match existing {
        None => Operation::Create {
            uid: Uuid::new_v4(),
            body,
        },
        Some((uid, expected)) => Operation::Update {
            uid,
            expected,
            body,
        },
    };
    things
        .write(Write {
            key: key(n),
            operation,
            provenance: provenance(),
        })
        .await
        .expect("a write");
}

fn of(all: &[Arc<Collection<Raw>>], n: usize) -> &Collection<Raw> {
    all.get(n % all.len()).expect("there are stores")
}

async fn open(url: &str, slow: Option<u64>) -> (Arc<Store>, Arc<Collection<Raw>>) {
    let mut config = StoreConfig::new(url);
    if let Some(slow) = slow {
        config.slow_flush = Duration::from_micros(slow);
    }
    let store = Store::connect(config).await.expect("a store");
    let things = store
        .register("bench", "things", Raw)
        .await
        .expect("a collection");
    store.start().await.expect("a start");
    (store, things)
}

#[tokio::main]
async fn main() {
    let argument = |n| {
        std::env::args()
            .nth(n)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let count = |n, default: usize| {
        argument(n).map_or(default, |given| usize::try_from(given).unwrap_or(default))
    };
    let (objects, stores) = (count(1, 20_000), count(2, 1));
    let dir = directory(format!("{}-load", std::process::id()));
    let mut options = PrivatePostgresOptions::default();
    if let Some(flush) = argument(3).filter(|flush| *flush > 0) {
        let settings = [("commit_delay", flush), ("commit_siblings", 0)];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_string()));
        options.settings.extend(settings);
    }
    let postgres = PrivatePostgres::start(&dir, &options).expect("a postgres");
    prepare(&postgres, "objects").expect("a schema");
    let url = postgres.url("objects", RUNTIME);
    let data = dir.join("data");
    let meter = Meter { data: &data };
    let mut all = Vec::new();
    for _ in 0..stores {
        all.push(open(&url, argument(4)).await);
    }
    let things: Vec<_> = all.iter().map(|(_, things)| Arc::clone(things)).collect();
    let body = Bytes::from("x".repeat(1024));
    let mut next = 0;
    for (clients, count) in [(1, objects / 10), (16, objects / 4), (64, objects / 2)] {
        let (things, body, base) = (things.clone(), body.clone(), next);
        meter
            .measure("create", clients, count, async move |n| {
                put(of(&things, n), base + n, &body).await
            })
            .await;
        next += count;
    }
    for (clients, count) in [(1, objects / 10), (16, objects / 4), (64, objects / 2)] {
        let (things, body) = (things.clone(), body.clone());
        meter
            .measure("update", clients, count, async move |n| {
                put(of(&things, n), n, &body).await
            })
            .await;
    }
    for clients in [1, 16, 64] {
        let things = things.clone();
        let read = async move |n: usize| {
            of(&things, n)
                .consistent()
                .await
                .expect("a read")
                .get(&key(n));
        };
        meter.measure("get", clients, objects / 2, read).await;
    }
    for (store, _) in &all {
        store.shutdown().await;
    }
    let began = Instant::now();
    let (_store, things) = open(&url, None).await;
    println!(
        "start with {} objects: {:.1?}",
        things.snapshot().len(),
        began.elapsed()
    );
    drop(postgres);
    std::fs::remove_dir_all(&dir).expect("the directory is removed");
}
