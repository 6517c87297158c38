//! Watches: a list as a watch, one change to many watchers, and watchers to whom
//! nothing happens.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use super::writes::resource_version;
use super::{Plan, WATCHED, settle};
use crate::client::Connection;
use crate::database::Database;
use crate::figure::{Figure, Start, float, thousands};
use crate::object::{body, patch};

/// Changes a second that the fan-out scenario makes.
const RATE: u64 = 50;

/// Watchers on one connection: kube-apiserver takes 100 requests at once.
const EACH: usize = 90;

/// Watches that are opened at the same time: a server may refuse a crowd at its door.
const AT_ONCE: usize = 100;

/// How long after the last change its events may still come.
const DRAIN: Duration = Duration::from_secs(60);

/// How long the database is looked at for queries.
const LOOK: Duration = Duration::from_secs(10);

/// How often: Postgres' own housekeeping comes once a minute, into one of the looks at most, and the
/// median tells of another.
const LOOKS: usize = 3;

/// The end of the initial events; its bookmark is the last thing that is sent.
const MARK: &[u8] = b"k8s.io/initial-events-end";

const WATCH_LIST: &str = "watch=true&sendInitialEvents=true&\
    resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// One change to many watchers.
struct FanOut {
    zero: Instant,
    /// When each change was begun, in microseconds.
    begun: Vec<AtomicU64>,
    latencies: Mutex<Vec<Duration>>,
    ended: AtomicUsize,
}

impl Plan {
    pub(super) async fn watches(&self) -> Result<()> {
        let scenario = format!("WatchList of {}", thousands(self.sizes.many));
        self.measure(&scenario, self.watch_list(&scenario)).await;
        for watchers in &self.sizes.watchers {
            let scenario = format!("watch event, {} watchers", thousands(*watchers));
            self.measure(&scenario, self.fan_out(&scenario, *watchers))
                .await;
            settle().await;
        }
        for watchers in [0, self.sizes.crowd] {
            if let Some(database) = &self.database {
                let count = thousands(watchers);
                let scenario = format!("database transactions in 10 s, {count} idle watchers");
                let figure = self.queries(&scenario, database, watchers);
                self.measure(&scenario, figure).await;
            }
        }
        Ok(())
    }

    /// Memory that a server has once used and given back to itself would hide some of
    /// what is measured here: this wants one that was just started.
    pub(super) async fn idle(&self) -> Result<()> {
        self.warm_up().await?;
        let scenario = format!("memory of {} idle watchers", thousands(self.sizes.idle));
        self.measure(&scenario, self.idle_memory(&scenario)).await;
        Ok(())
    }

    /// What the database is asked while nothing happens.
    async fn queries(
        &self,
        scenario: &str,
        database: &Database,
        watchers: usize,
    ) -> Result<Figure> {
        let idle = self.watchers(watchers).await?;
        settle().await;
        let mut looks = database.transactions_during(LOOK, LOOKS).await?;
        drop(idle);
        looks.sort_unstable();
        let operations = looks.get(LOOKS / 2).copied().unwrap_or_default();
        Ok(Figure {
            scenario: scenario.to_owned(),
            operations,
            ..Figure::default()
        })
    }

    /// A sync, as an informer does it: until the bookmark after the last object.
    async fn watch_list(&self, scenario: &str) -> Result<Figure> {
        let path = &format!("{}?{WATCH_LIST}", self.kind.everywhere());
        self.timed(scenario, 1, |connection, _, _| async move {
            let stream = connection.send(Method::GET, path, Bytes::new()).await?;
            read_to_mark(stream.into_body()).await
        })
        .await
    }

    /// Opens watches of a namespace in which nothing happens, or one object changes.
    async fn watchers(&self, count: usize) -> Result<Vec<Incoming>> {
        let collection = self.kind.in_namespace(WATCHED);
        let connections = self.target.connections(count, EACH).await?;
        let version = self.revision(&collection).await?;
        let path = &format!("{collection}?watch=true&resourceVersion={version}");
        let mut connections = connections.iter().cycle().take(count);
        let mut streams = Vec::with_capacity(count);
        while streams.len() < count {
            let some = connections.by_ref().take(AT_ONCE);
            let opened = some.map(|connection| async move {
                let response = connection.send(Method::GET, path, Bytes::new()).await?;
                anyhow::Ok(response.into_body())
            });
            streams.extend(try_join_all(opened).await?);
        }
        Ok(streams)
    }

    async fn revision(&self, collection: &str) -> Result<String> {
        let connection = self.target.connect().await?;
        let list = connection
            .call(Method::GET, collection, Bytes::new())
            .await?;
        resource_version(&list)
    }

    /// Every watcher must see every change; latency is from the write's begin to
    /// the event's arrival at one watcher.
    async fn fan_out(&self, scenario: &str, watchers: usize) -> Result<Figure> {
        let path = self.kind.in_namespace(WATCHED);
        let writer = self.target.connect().await?;
        let name = format!("watched-{watchers}");
        let object = body(&self.kind.object(&name, 0));
        writer.call(Method::POST, &path, object).await?;
        let changes = usize::try_from(RATE * self.seconds)?;
        let shared = Arc::new(FanOut {
            zero: Instant::now(),
            begun: (0..changes).map(|_| AtomicU64::new(0)).collect(),
            latencies: Mutex::new(Vec::with_capacity(changes * watchers)),
            ended: AtomicUsize::new(0),
        });
        let streams = self.watchers(watchers).await?;
        let tasks: Vec<JoinHandle<()>> = streams
            .into_iter()
            .map(|stream| tokio::spawn(watch(stream, shared.clone())))
            .collect();
        let start = Start::now(&self.server);
        shared.write(&writer, &format!("{path}/{name}")).await?;
        shared.drain(watchers).await;
        for task in &tasks {
            task.abort();
        }
        let latencies = std::mem::take(&mut *shared.latencies());
        let mut figure = start.figure(scenario.to_owned(), latencies);
        figure.note = shared.note(&figure, watchers);
        Ok(figure)
    }

    /// What one thousand of them take.
    async fn idle_memory(&self, scenario: &str) -> Result<Figure> {
        // The first connections to a server cost it more than later ones.
        drop(self.watchers(EACH).await?);
        settle().await;
        let before = self.server.memory();
        let idle = self.watchers(self.sizes.idle).await?;
        settle().await;
        let more = self.server.memory().saturating_sub(before);
        drop(idle);
        Ok(Figure::memory(scenario.to_owned(), more))
    }
}

impl FanOut {
    fn latencies(&self) -> std::sync::MutexGuard<'_, Vec<Duration>> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Changes the object, as many times a second as it should be.
    async fn write(&self, writer: &Connection, path: &str) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
        for (step, slot) in self.begun.iter().enumerate() {
            ticks.tick().await;
            slot.store(self.elapsed(), Ordering::Relaxed);
            let patch = patch(&format!("w{step}"));
            writer.call(Method::PATCH, path, patch).await?;
        }
        Ok(())
    }

    /// Waits until every event has come, or no more will.
    async fn drain(&self, watchers: usize) {
        let deadline = Instant::now() + DRAIN;
        while Instant::now() < deadline && self.ended.load(Ordering::Relaxed) < watchers {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn note(&self, figure: &Figure, watchers: usize) -> Option<String> {
        let expected = self.begun.len() * watchers;
        if figure.operations < expected {
            let (came, all) = (thousands(figure.operations), thousands(expected));
            return Some(format!("only {came} of {all} events came"));
        }
        let offered = float(watchers) * 50.0;
        let rate = figure.per_second.unwrap_or_default();
        (rate < 0.9 * offered).then(|| format!("behind the {offered:.0} offered a second"))
    }
}

/// Reads one event per change; events are lines.
async fn watch(mut stream: Incoming, shared: Arc<FanOut>) {
    let mut seen = 0;
    while seen < shared.begun.len() {
        let Some(Ok(frame)) = stream.frame().await else {
            break;
        };
        let bytes = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
        let events = bytes.iter().filter(|byte| **byte == b'\n').count();
        let now = shared.elapsed();
        let mut latencies = shared.latencies();
        for begun in shared.begun.iter().skip(seen).take(events) {
            let begun = begun.load(Ordering::Relaxed);
            latencies.push(Duration::from_micros(now.saturating_sub(begun)));
        }
        seen += events;
    }
    shared.ended.fetch_add(1, Ordering::Relaxed);
}

/// Looks for the mark only near the end of what has come: that is where it will be.
async fn read_to_mark(mut stream: Incoming) -> Result<()> {
    const NEAR: usize = 2_000;
    let mut tail: Vec<u8> = Vec::new();
    while let Some(frame) = stream.frame().await {
        let frame = frame?;
        let bytes = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
        let end = bytes.get(bytes.len().saturating_sub(NEAR)..);
        tail.extend_from_slice(end.unwrap_or_default());
        tail.drain(..tail.len().saturating_sub(NEAR));
        if tail.windows(MARK.len()).any(|window| window == MARK) {
            return Ok(());
        }
    }
    None.context("the watch ended before its initial events did")
}
