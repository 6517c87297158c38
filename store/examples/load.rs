//! What a write, a consistent read and a start cost: operations a second, latency, and CPU of this
//! process and of Postgres for each operation.
//!
//! `cargo run --release -p store --features testing --example load [objects]`

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

async fn open(url: &str) -> (Arc<Store>, Arc<Collection<Raw>>) {
    let store = Store::connect(StoreConfig::new(url))
        .await
        .expect("a store");
    let things = store
        .register("bench", "things", Raw)
        .await
        .expect("a collection");
    store.start().await.expect("a start");
    (store, things)
}

#[tokio::main]
async fn main() {
    let objects = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000usize);
    let dir = directory(format!("{}-load", std::process::id()));
    let postgres =
        PrivatePostgres::start(&dir, &PrivatePostgresOptions::default()).expect("a postgres");
    prepare(&postgres, "objects").expect("a schema");
    let url = postgres.url("objects", RUNTIME);
    let data = dir.join("data");
    let meter = Meter { data: &data };
    let (store, things) = open(&url).await;
    let body = Bytes::from("x".repeat(1024));
    let mut next = 0;
    for (clients, count) in [(1, objects / 10), (16, objects / 4), (64, objects / 2)] {
        let (things, body, base) = (Arc::clone(&things), body.clone(), next);
        meter
            .measure("create", clients, count, async move |n| {
                put(&things, base + n, &body).await
            })
            .await;
        next += count;
    }
    for (clients, count) in [(1, objects / 10), (16, objects / 4), (64, objects / 2)] {
        let (things, body) = (Arc::clone(&things), body.clone());
        meter
            .measure("update", clients, count, async move |n| {
                put(&things, n, &body).await
            })
            .await;
    }
    for clients in [1, 16, 64] {
        let things = Arc::clone(&things);
        let read = async move |n: usize| {
            things.consistent().await.expect("a read").get(&key(n));
        };
        meter.measure("get", clients, objects / 2, read).await;
    }
    store.shutdown().await;
    let began = Instant::now();
    let (_store, things) = open(&url).await;
    println!(
        "start with {} objects: {:.1?}",
        things.snapshot().len(),
        began.elapsed()
    );
    drop(postgres);
    std::fs::remove_dir_all(&dir).expect("the directory is removed");
}
