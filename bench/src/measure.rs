//! CPU and memory of the server's processes from /proc, and latencies.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use serde::Serialize;

/// Linux reports CPU time in ticks of 10 ms to every program.
const MICROSECONDS_PER_TICK: u64 = 10_000;

/// The server's processes: some roots and all their descendants.
pub struct Processes {
    roots: Vec<u32>,
}

struct Stat {
    parent: u32,
    ticks: u64,
}

impl Processes {
    /// Counts these processes and whatever they started.
    pub fn new(roots: Vec<u32>) -> Self {
        Self { roots }
    }

    /// CPU time used so far, that of ended and reaped children included.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.tree().values().map(|stat| stat.ticks).sum();
        Duration::from_micros(ticks * MICROSECONDS_PER_TICK)
    }

    /// Proportional set size in KiB: shared memory counts once.
    pub fn memory(&self) -> u64 {
        self.tree()
            .keys()
            .filter_map(|pid| {
                let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
                let line = text.lines().find(|line| line.starts_with("Pss:"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum()
    }

    fn tree(&self) -> HashMap<u32, Stat> {
        let mut all: HashMap<u32, Stat> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter_map(|pid| Some((pid, read_stat(pid)?)))
            .collect();
        let mut tree = HashMap::new();
        let mut next = self.roots.clone();
        while let Some(pid) = next.pop() {
            if let Some(stat) = all.remove(&pid) {
                tree.insert(pid, stat);
            }
            next.extend(
                all.iter()
                    .filter(|(_, stat)| stat.parent == pid)
                    .map(|(child, _)| *child),
            );
        }
        tree
    }
}

/// Fields after the command's closing parenthesis, as proc(5) numbers them.
fn read_stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields
        .get(11..15)?
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks,
    })
}

/// One scenario's outcome.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was done, and by how many at once.
    pub scenario: String,
    /// How often it was done.
    pub operations: usize,
    /// How often a second.
    pub per_second: f64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency in milliseconds.
    pub p99_ms: f64,
    /// CPU of all server processes, per operation, in microseconds.
    pub server_cpu_us: f64,
    /// CPU of the driver, per operation, in microseconds.
    pub client_cpu_us: f64,
    /// Memory of all server processes at the end, in MiB.
    pub memory_mib: f64,
}

impl Figure {
    /// The line that the terminal shows.
    pub fn row(&self) -> String {
        format!(
            "{:<34} {:>8} {:>10.0} {:>9.2} {:>9.2} {:>12.1} {:>12.1} {:>9.1}",
            self.scenario,
            self.operations,
            self.per_second,
            self.p50_ms,
            self.p99_ms,
            self.server_cpu_us,
            self.client_cpu_us,
            self.memory_mib
        )
    }

    /// The line above the rows.
    pub fn header() -> String {
        format!(
            "{:<34} {:>8} {:>10} {:>9} {:>9} {:>12} {:>12} {:>9}",
            "scenario", "ops", "ops/s", "p50 ms", "p99 ms", "server µs/op", "client µs/op", "MiB"
        )
    }
}

/// The latency below which `share` of all lie.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list in memory"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
