//! One measured figure, and the numbers it is made of.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::processes::{Processes, machine_cpu};

/// One scenario's outcome; a number that the scenario does not have is absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figure {
    /// What was done, and by how many at once: the same words for every server.
    pub scenario: String,
    /// How often it was done.
    pub operations: usize,
    /// How often a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Median latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99th percentile of the latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// CPU of all server processes, per operation, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpu_us: Option<f64>,
    /// CPU of the driver, per operation, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cpu_us: Option<f64>,
    /// Memory of all server processes, in MiB: at the end, or what the scenario is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
    /// Share of the machine's cores that neither the server nor the driver used: what
    /// else ran, which makes everything slower, and CPU per operation dearer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<f64>,
    /// What a reader of the figure has to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Figure {
    /// A figure that is nothing but an amount of memory.
    pub fn memory(scenario: String, kib: u64) -> Self {
        Self {
            scenario,
            memory_mib: Some(mib(kib)),
            ..Self::default()
        }
    }

    /// What stands in for a scenario that the server could not take.
    pub fn failed(scenario: &str, error: &anyhow::Error) -> Self {
        Self {
            scenario: scenario.to_owned(),
            note: Some(format!("failed: {error:#}")),
            ..Self::default()
        }
    }

    /// The line that the terminal shows.
    pub fn row(&self) -> String {
        let show = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        format!(
            "{:<42} {:>8} {:>9} {:>9} {:>9} {:>11} {:>11} {:>8}  {}",
            self.scenario,
            self.operations,
            show(self.per_second, 0),
            show(self.p50_ms, 2),
            show(self.p99_ms, 2),
            show(self.server_cpu_us, 1),
            show(self.client_cpu_us, 1),
            show(self.memory_mib, 1),
            self.note.as_deref().unwrap_or_default(),
        )
    }

    /// The line above the rows.
    pub fn header() -> String {
        format!(
            "{:<42} {:>8} {:>9} {:>9} {:>9} {:>11} {:>11} {:>8}",
            "scenario", "ops", "ops/s", "p50 ms", "p99 ms", "server µs", "client µs", "MiB"
        )
    }
}

/// CPU and time at the start of a scenario.
pub struct Start<'a> {
    processes: &'a Processes,
    server: Duration,
    client: Duration,
    machine: Duration,
    time: Instant,
}

impl<'a> Start<'a> {
    /// From now on.
    pub fn now(processes: &'a Processes) -> Self {
        Self {
            processes,
            server: processes.cpu(),
            client: Processes::own().cpu(),
            machine: machine_cpu(),
            time: Instant::now(),
        }
    }

    /// When that was.
    pub fn time(&self) -> Instant {
        self.time
    }

    /// What came of it, now that it has ended.
    pub fn figure(&self, scenario: String, mut latencies: Vec<Duration>) -> Figure {
        let elapsed = self.time.elapsed().as_secs_f64();
        let server = self.processes.cpu().saturating_sub(self.server);
        let client = Processes::own().cpu().saturating_sub(self.client);
        let machine = machine_cpu().saturating_sub(self.machine);
        let others = machine.saturating_sub(server + client).as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        latencies.sort_unstable();
        let count = float(latencies.len().max(1));
        Figure {
            scenario,
            operations: latencies.len(),
            per_second: Some(float(latencies.len()) / elapsed),
            p50_ms: Some(percentile(&latencies, 0.5).as_secs_f64() * 1e3),
            p99_ms: Some(percentile(&latencies, 0.99).as_secs_f64() * 1e3),
            server_cpu_us: Some(server.as_secs_f64() * 1e6 / count),
            client_cpu_us: Some(client.as_secs_f64() * 1e6 / count),
            memory_mib: Some(mib(self.processes.memory())),
            others: Some(others / (elapsed * float(cores))),
            note: None,
        }
    }
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn float(count: usize) -> f64 {
    count as f64
}

/// KiB as MiB.
#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// A count as people write it: 10,000.
pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The latency below which `share` of all lie.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list in memory"
    )]
    let index = (float(sorted.len().saturating_sub(1)) * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_latencies() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&sorted, 0.0), Duration::from_millis(1));
        assert_eq!(percentile(&sorted, 1.0), Duration::from_millis(100));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn thousands_are_parted_by_commas() {
        let shown = [0, 16, 999, 1_000, 10_000, 1_234_567].map(thousands);
        assert_eq!(shown, ["0", "16", "999", "1,000", "10,000", "1,234,567"]);
    }
}
