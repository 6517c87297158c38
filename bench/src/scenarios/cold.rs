//! From the start of the processes to the first list of all objects.

use std::future::ready;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use super::Plan;
use crate::client::JSON;
use crate::figure::{Figure, mib, thousands};

/// How long a server may take to come up.
const LIMIT: Duration = Duration::from_secs(120);

/// Between two questions to a server that is not ready.
const PAUSE: Duration = Duration::from_millis(5);

/// An object is more than this, in any list.
const LEAST: usize = 500;

impl Plan {
    pub(super) async fn cold(&self) -> Result<()> {
        let (objects, time) = self.first_list().await?;
        let cpu = self.server.cpu();
        let scenario = format!("cold start, {} objects", thousands(objects));
        let figure = Figure {
            scenario: scenario.clone(),
            operations: 1,
            p50_ms: Some(time.as_secs_f64() * 1e3),
            server_cpu_us: Some(cpu.as_secs_f64() * 1e6),
            memory_mib: Some(mib(self.server.memory())),
            ..Figure::default()
        };
        self.measure(&scenario, ready(Ok(figure))).await;
        let scenario = &format!("memory, {} objects after a start", thousands(objects));
        self.measure(scenario, self.memory_at_rest(scenario)).await;
        Ok(())
    }

    /// Waits until there is an answer about a single object.
    pub(super) async fn await_ready(&self) -> Result<()> {
        let path = format!("{}?limit=1", self.kind.everywhere());
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = match self.target.connect().await {
                Ok(connection) => connection.count(&path, JSON).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Asks until there is a whole answer. A server that does not listen yet pays
    /// nothing for being asked.
    async fn first_list(&self) -> Result<(usize, Duration)> {
        let started = self.started.context("when was it started?")?;
        let path = self.kind.everywhere();
        loop {
            let size = match self.target.connect().await {
                Ok(connection) => connection.count(&path, JSON).await,
                Err(error) => Err(error),
            };
            let time = SystemTime::now().duration_since(UNIX_EPOCH)? - started;
            match size {
                Ok(size) if size > self.sizes.most * LEAST => return Ok((self.sizes.most, time)),
                Ok(size) if size > self.sizes.many * LEAST => return Ok((self.sizes.many, time)),
                last => ensure!(time < LIMIT, "not ready within {LIMIT:?}: {last:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
