//! What is measured, in parts that each want a server in a certain state. Each
//! scenario is timed on its own, with the server's CPU read before and after.

mod cold;
mod reads;
mod watches;
mod writes;

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use futures::future::try_join_all;
use hyper::Method;

use crate::client::{Connection, Target};
use crate::database::Database;
use crate::figure::{Figure, Start, thousands};
use crate::object::{Kind, body};
use crate::processes::Processes;

/// Requests at once on one connection: few, so that every server uses its cores.
const STREAMS: usize = 16;

/// Clients that fill the store.
const FILLERS: usize = 64;

/// Namespace of the objects that lists of few objects show.
const FEW: &str = "bench-few";
/// Namespace of the further objects that lists of many objects show.
const MANY: &str = "bench-many";
/// Namespace of what the write scenarios make.
const WRITES: &str = "bench-writes";
/// Namespace of the object that everyone watches.
const WATCHED: &str = "bench-watched";

/// One part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A server that has done nothing yet: what idle watchers take.
    Idle,
    /// An empty store: creates, updates, patches and reads by few and many clients.
    Writes,
    /// An empty store is filled up to the size of a large list; its memory.
    Fill,
    /// The processes were just started: how long until the first list of all.
    Cold,
    /// Lists, pages, tables.
    Lists,
    /// WatchList, fan-out, and what idle watchers ask of the database.
    Watches,
    /// The store is filled up to the largest size; memory and writes then.
    Grow,
    /// One list of everything: what memory it takes.
    Huge,
}

/// How many objects and watchers.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Objects of a small list.
    pub few: usize,
    /// Objects of a large list, the few among them.
    pub many: usize,
    /// Objects in a store as large as it gets.
    pub most: usize,
    /// Watchers of each fan-out.
    pub watchers: Vec<usize>,
    /// Watchers whose memory is measured.
    pub idle: usize,
    /// Watchers that must not cost a query.
    pub crowd: usize,
}

impl Sizes {
    /// The sizes of a real measurement.
    pub fn full() -> Self {
        Self {
            few: 1_000,
            many: 10_000,
            most: 100_000,
            watchers: vec![100, 1_000, 5_000],
            idle: 1_000,
            crowd: 10_000,
        }
    }

    /// Sizes that only show that everything works.
    pub fn quick() -> Self {
        Self {
            few: 100,
            many: 1_000,
            most: 3_000,
            watchers: vec![10, 100],
            idle: 100,
            crowd: 200,
        }
    }
}

/// What to run against which server.
pub struct Plan {
    /// Where it is.
    pub target: Target,
    /// Its processes.
    pub server: Processes,
    /// The kind that it serves.
    pub kind: Kind,
    /// How long a timed scenario takes.
    pub seconds: u64,
    /// How many objects and watchers.
    pub sizes: Sizes,
    /// When the processes were started.
    pub started: Option<Duration>,
    /// Its database, if its queries are to be counted.
    pub database: Option<Database>,
    /// Parts of the names of the scenarios that are asked for; all when empty.
    pub only: Vec<String>,
    /// What came of it.
    pub figures: RefCell<Vec<Figure>>,
}

impl Plan {
    /// Runs one part, printing a row as each scenario ends.
    pub async fn run(&self, part: Part) -> Result<()> {
        match part {
            Part::Idle => self.idle().await,
            Part::Writes => self.writes().await,
            Part::Fill => self.fill_up().await,
            Part::Cold => self.cold().await,
            Part::Lists => self.lists().await,
            Part::Watches => self.watches().await,
            Part::Grow => self.grow().await,
            Part::Huge => self.huge().await,
        }
    }

    /// Keeps a figure, or the reason why there is none: a server that cannot do one
    /// thing is measured on in all others. A scenario that is not asked for is not begun.
    async fn measure(&self, scenario: &str, figure: impl Future<Output = Result<Figure>>) {
        let is_asked = |part: &String| scenario.contains(&**part);
        if !self.only.is_empty() && !self.only.iter().any(is_asked) {
            return;
        }
        let figure = figure.await;
        let figure = figure.unwrap_or_else(|error| Figure::failed(scenario, &error));
        println!("{}", figure.row());
        self.figures.borrow_mut().push(figure);
    }

    /// Runs `operation(connection, client, step)` over and over by `clients` at once.
    async fn timed<F, O>(&self, scenario: &str, clients: usize, operation: F) -> Result<Figure>
    where
        F: Fn(Connection, usize, usize) -> O,
        O: Future<Output = Result<()>>,
    {
        let connections = self.target.connections(clients, STREAMS).await?;
        let operation = &operation;
        let start = Start::now(&self.server);
        let until = start.time() + Duration::from_secs(self.seconds);
        let loops = connections.iter().cycle().take(clients).enumerate().map(
            |(client, connection)| async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let begun = Instant::now();
                    operation(connection.clone(), client, latencies.len()).await?;
                    latencies.push(begun.elapsed());
                }
                anyhow::Ok(latencies)
            },
        );
        let latencies = try_join_all(loops).await?.concat();
        Ok(start.figure(scenario.to_owned(), latencies))
    }

    async fn fill_up(&self) -> Result<()> {
        self.fill(FEW, self.sizes.few).await?;
        let scenario = format!("write at {} objects, 16 clients", thousands(self.sizes.few));
        self.measure(&scenario, self.write_latency(&scenario)).await;
        self.fill(MANY, self.sizes.many - self.sizes.few).await?;
        self.memory_at(self.sizes.many).await;
        Ok(())
    }

    async fn grow(&self) -> Result<()> {
        let more = self.sizes.most - self.sizes.few;
        self.fill(MANY, more).await?;
        self.memory_at(self.sizes.most).await;
        let count = thousands(self.sizes.most);
        let scenario = format!("write at {count} objects, 16 clients");
        self.measure(&scenario, self.write_latency(&scenario)).await;
        Ok(())
    }

    async fn memory_at(&self, objects: usize) {
        let scenario = &format!("memory, {} objects written", thousands(objects));
        self.measure(scenario, self.memory_at_rest(scenario)).await;
    }

    async fn memory_at_rest(&self, scenario: &str) -> Result<Figure> {
        settle().await;
        let memory = self.server.memory();
        Ok(Figure::memory(scenario.to_owned(), memory))
    }

    /// Makes a namespace hold `objects`; those that it holds already stay.
    async fn fill(&self, namespace: &str, objects: usize) -> Result<()> {
        let connections = self.target.connections(FILLERS, STREAMS).await?;
        let path = &self.kind.in_namespace(namespace);
        let first = match connections.first() {
            Some(connection) => self.held(connection, path).await?,
            None => 0,
        };
        let next = &AtomicUsize::new(first);
        let fillers = connections
            .iter()
            .cycle()
            .take(FILLERS)
            .map(|connection| async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= objects {
                        return anyhow::Ok(());
                    }
                    let object = self.kind.object(&format!("object-{index:06}"), index);
                    connection.call(Method::POST, path, body(&object)).await?;
                }
            });
        try_join_all(fillers).await.map(drop)
    }

    /// How many objects a namespace holds: the one of the page, and those after it.
    async fn held(&self, connection: &Connection, path: &str) -> Result<usize> {
        let page = connection
            .call(Method::GET, &format!("{path}?limit=1"), bytes::Bytes::new())
            .await?;
        let page: serde_json::Value = serde_json::from_slice(&page)?;
        let shown = page.pointer("/items").and_then(serde_json::Value::as_array);
        let rest = page.pointer("/metadata/remainingItemCount");
        let rest = rest.and_then(serde_json::Value::as_u64).unwrap_or_default();
        Ok(shown.map_or(0, Vec::len) + usize::try_from(rest)?)
    }
}

/// A server that just did much has things to finish before it is at rest.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}
