//! What is measured. Each scenario is timed on its own, with the server's CPU
//! read before and after.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Connection, Target};
use crate::measure::{Figure, Processes, percentile};

const COLLECTION: &str = "/apis/custom.example.com/v1/namespaces/bench/widgets";
const STREAMS_PER_CONNECTION: usize = 16;
/// Changes a second that the fan-out scenario makes.
const FAN_OUT_RATE: u64 = 50;

/// What to run against which server.
pub struct Plan {
    pub target: Target,
    pub server: Processes,
    pub seconds: u64,
    pub objects: usize,
    pub watchers: usize,
}

/// CPU and time at the start of a scenario.
struct Start {
    server: Duration,
    client: Duration,
    time: Instant,
}

/// About 1 KiB as it is stored: what a Widget with some annotations weighs.
fn widget(name: &str, step: usize) -> Value {
    json!({
        "apiVersion": "custom.example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "labels": {"app": "bench", "step": (step % 100).to_string()},
            "annotations": {"example.com/description": "x".repeat(600)}},
        "spec": {"replicas": step % 100, "image": "registry.example.com/team/app:1.2.3", "color": "green"},
    })
}

fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

impl Plan {
    /// Runs every scenario, printing a row as each ends.
    pub async fn run(&self) -> Result<Vec<Figure>> {
        println!("{}", Figure::header());
        let mut figures = Vec::new();
        let mut show = |figure: Figure| {
            println!("{}", figure.row());
            figures.push(figure);
        };
        for clients in [1, 16, 64] {
            show(self.create(clients).await?);
        }
        for clients in [1, 16, 64] {
            show(self.update(clients).await?);
        }
        for clients in [1, 16, 64] {
            show(self.patch(clients).await?);
        }
        for clients in [1, 16, 64] {
            show(self.get(clients).await?);
        }
        self.fill().await?;
        for (name, query) in [("consistent", ""), ("at 0", "?resourceVersion=0")] {
            show(self.list(name, query).await?);
        }
        show(self.fan_out().await?);
        Ok(figures)
    }

    async fn connections(&self, clients: usize) -> Result<Vec<Connection>> {
        try_join_all((0..clients.div_ceil(STREAMS_PER_CONNECTION)).map(|_| self.target.connect()))
            .await
    }

    fn start(&self) -> Start {
        Start {
            server: self.server.cpu(),
            client: Processes::new(vec![std::process::id()]).cpu(),
            time: Instant::now(),
        }
    }

    fn figure(&self, scenario: String, start: &Start, mut latencies: Vec<Duration>) -> Figure {
        let elapsed = start.time.elapsed().as_secs_f64();
        let server = self.server.cpu().saturating_sub(start.server);
        let client = Processes::new(vec![std::process::id()])
            .cpu()
            .saturating_sub(start.client);
        latencies.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let (count, memory) = (latencies.len().max(1) as f64, self.server.memory() as f64);
        Figure {
            scenario,
            operations: latencies.len(),
            per_second: count / elapsed,
            p50_ms: percentile(&latencies, 0.5).as_secs_f64() * 1e3,
            p99_ms: percentile(&latencies, 0.99).as_secs_f64() * 1e3,
            server_cpu_us: server.as_secs_f64() * 1e6 / count,
            client_cpu_us: client.as_secs_f64() * 1e6 / count,
            memory_mib: memory / 1024.0,
        }
    }

    /// Runs `operation(connection, client, step)` over and over by `clients` at once.
    async fn timed<F, O>(&self, name: &str, clients: usize, operation: F) -> Result<Figure>
    where
        F: Fn(Connection, usize, usize) -> O,
        O: Future<Output = Result<()>>,
    {
        let connections = self.connections(clients).await?;
        let operation = &operation;
        let start = self.start();
        let until = start.time + Duration::from_secs(self.seconds);
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
        Ok(self.figure(format!("{name}, {clients} clients"), &start, latencies))
    }

    async fn create(&self, clients: usize) -> Result<Figure> {
        self.timed("create", clients, |connection, client, step| async move {
            let object = body(&widget(&format!("create-{clients}-{client}-{step}"), step));
            connection
                .call(Method::POST, COLLECTION, object)
                .await
                .map(drop)
        })
        .await
    }

    /// Each client owns one object, so that no update conflicts.
    async fn update(&self, clients: usize) -> Result<Figure> {
        let connection = self.target.connect().await?;
        let mut versions = Vec::new();
        for client in 0..clients {
            let object = body(&widget(&format!("update-{clients}-{client}"), 0));
            versions.push(tokio::sync::Mutex::new(
                connection.call(Method::POST, COLLECTION, object).await?,
            ));
        }
        let versions = &versions;
        self.timed("update", clients, |connection, client, step| async move {
            let slot = versions.get(client).context("a client without an object")?;
            let mut current = slot.lock().await;
            let stored: Value = serde_json::from_slice(&current)?;
            let mut object = widget(&format!("update-{clients}-{client}"), step + 1);
            if let (Some(metadata), Some(stored)) =
                (object.get_mut("metadata"), stored.get("metadata"))
            {
                metadata["resourceVersion"] = stored["resourceVersion"].clone();
            }
            let path = format!("{COLLECTION}/update-{clients}-{client}");
            *current = connection.call(Method::PUT, &path, body(&object)).await?;
            Ok(())
        })
        .await
    }

    async fn patch(&self, clients: usize) -> Result<Figure> {
        self.timed(
            "merge patch",
            clients,
            |connection, client, step| async move {
                let patch = json!({"metadata": {"labels": {"step": format!("p{step}")}}});
                let path = format!("{COLLECTION}/update-{clients}-{client}");
                connection
                    .call(Method::PATCH, &path, body(&patch))
                    .await
                    .map(drop)
            },
        )
        .await
    }

    async fn get(&self, clients: usize) -> Result<Figure> {
        self.timed("get", clients, |connection, client, _| async move {
            let path = format!("{COLLECTION}/update-{clients}-{client}");
            connection
                .call(Method::GET, &path, Bytes::new())
                .await
                .map(drop)
        })
        .await
    }

    /// Makes a namespace hold as many objects as the list scenarios want.
    async fn fill(&self) -> Result<()> {
        let connections = self.connections(64).await?;
        let next = AtomicUsize::new(0);
        let next = &next;
        try_join_all(
            connections
                .iter()
                .cycle()
                .take(64)
                .map(|connection| async move {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= self.objects {
                            return anyhow::Ok(());
                        }
                        let path = COLLECTION.replace("/bench/", "/bench-list/");
                        connection
                            .call(
                                Method::POST,
                                &path,
                                body(&widget(&format!("list-{index:06}"), index)),
                            )
                            .await?;
                    }
                }),
        )
        .await
        .map(drop)
    }

    async fn list(&self, name: &str, query: &str) -> Result<Figure> {
        let path = format!("{}{query}", COLLECTION.replace("/bench/", "/bench-list/"));
        let path = &path;
        let mut figure = self
            .timed("list", 1, |connection, _, _| async move {
                connection.count(path).await.map(drop)
            })
            .await?;
        figure.scenario = format!("list of {} {name}", self.objects);
        Ok(figure)
    }

    /// Every watcher must see every change; latency is from the write's begin to
    /// the event's arrival at one watcher.
    async fn fan_out(&self) -> Result<Figure> {
        let path = COLLECTION.replace("/bench/", "/bench-watch/");
        let writer = self.target.connect().await?;
        let object = writer
            .call(Method::POST, &path, body(&widget("watched", 0)))
            .await?;
        let object: Value = serde_json::from_slice(&object)?;
        let version = object
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .context("no version")?;
        let changes = usize::try_from(FAN_OUT_RATE * self.seconds)?;
        let zero = Instant::now();
        let begun: Arc<Vec<AtomicUsize>> =
            Arc::new((0..changes).map(|_| AtomicUsize::new(0)).collect());

        let connections =
            try_join_all((0..self.watchers.div_ceil(250)).map(|_| self.target.connect())).await?;
        let mut watchers = Vec::new();
        for connection in connections.iter().cycle().take(self.watchers) {
            let stream = connection
                .send(
                    Method::GET,
                    &format!("{path}?watch=true&resourceVersion={version}"),
                    Bytes::new(),
                )
                .await?;
            let begun = begun.clone();
            watchers.push(tokio::spawn(watch(stream.into_body(), begun, zero)));
        }
        let start = self.start();
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / FAN_OUT_RATE));
        for (step, slot) in begun.iter().enumerate() {
            ticks.tick().await;
            slot.store(
                usize::try_from(zero.elapsed().as_micros())?,
                Ordering::Relaxed,
            );
            let patch = json!({"metadata": {"labels": {"step": format!("w{step}")}}});
            writer
                .call(Method::PATCH, &format!("{path}/watched"), body(&patch))
                .await?;
        }
        let mut latencies = Vec::new();
        for watcher in watchers {
            latencies.extend(
                tokio::time::timeout(Duration::from_secs(30), watcher)
                    .await
                    .context("an event is missing")???,
            );
        }
        Ok(self.figure(
            format!("watch event, {} watchers", self.watchers),
            &start,
            latencies,
        ))
    }
}

/// Reads one event per change; events are lines.
async fn watch(
    mut stream: hyper::body::Incoming,
    begun: Arc<Vec<AtomicUsize>>,
    zero: Instant,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(begun.len());
    while latencies.len() < begun.len() {
        let frame = stream.frame().await.context("the watch ended")??;
        for _ in frame
            .data_ref()
            .into_iter()
            .flatten()
            .filter(|byte| **byte == b'\n')
        {
            let sent = begun
                .get(latencies.len())
                .context("an event too many")?
                .load(Ordering::Relaxed);
            let now = usize::try_from(zero.elapsed().as_micros())?;
            latencies.push(Duration::from_micros(u64::try_from(
                now.saturating_sub(sent),
            )?));
        }
    }
    Ok(latencies)
}
