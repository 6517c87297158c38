//! CPU and memory of the server's processes, as `/proc` tells them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// `/proc/<pid>/stat` counts CPU time in ticks of 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// The server's processes: some roots and all their descendants.
pub struct Processes {
    roots: Vec<u32>,
}

struct Stat {
    parent: u32,
    /// CPU of the process itself, ended threads included.
    own: Duration,
    /// CPU of its children that have ended.
    children: Duration,
}

impl Processes {
    /// Counts these processes and whatever they started.
    pub fn new(roots: Vec<u32>) -> Self {
        Self { roots }
    }

    /// The driver itself.
    pub fn own() -> Self {
        Self::new(vec![std::process::id()])
    }

    /// CPU time used so far, that of ended and reaped children included.
    ///
    /// The scheduler's nanoseconds cover only threads that still run, the ticks all of
    /// them: the larger of the two is the better.
    pub fn cpu(&self) -> Duration {
        self.tree()
            .iter()
            .map(|(pid, stat)| scheduled(*pid).unwrap_or_default().max(stat.own) + stat.children)
            .sum()
    }

    /// Proportional set size in KiB: shared memory counts once.
    pub fn memory(&self) -> u64 {
        self.sum("smaps_rollup", "Pss:")
    }

    /// Resident memory in KiB: pages that several processes share count for each.
    pub fn resident(&self) -> u64 {
        self.sum("status", "VmRSS:")
    }

    /// The most that was resident since [`Self::forget_peak`], in KiB.
    pub fn peak(&self) -> u64 {
        self.sum("status", "VmHWM:")
    }

    /// Begins to look for the peak anew.
    pub fn forget_peak(&self) -> Result<()> {
        for pid in self.tree().keys() {
            let file = format!("/proc/{pid}/clear_refs");
            if Path::new(&file).exists() {
                fs::write(&file, "5").with_context(|| format!("write {file}"))?;
            }
        }
        Ok(())
    }

    fn sum(&self, file: &str, field: &str) -> u64 {
        self.tree()
            .keys()
            .filter_map(|pid| {
                let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
                let line = text.lines().find(|line| line.starts_with(field))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum()
    }

    fn tree(&self) -> HashMap<u32, Stat> {
        let mut all: HashMap<u32, Stat> = numbers(Path::new("/proc"))
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

/// CPU time that all cores together have spent on anything, whoever it was for.
pub fn machine_cpu() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks = first.split_whitespace().skip(1);
    let ticks = ticks.filter_map(|field| field.parse::<u32>().ok());
    // Idle and waiting for a disk are the fourth and fifth; those of guests are in the others.
    let busy = ticks.take(8).enumerate();
    let busy = busy.filter(|(index, _)| !matches!(index, 3 | 4));
    busy.map(|(_, ticks)| TICK * ticks).sum()
}

/// Names in a directory that are numbers.
fn numbers(dir: &Path) -> impl Iterator<Item = u32> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
}

/// CPU time of all threads that run now.
fn scheduled(pid: u32) -> Option<Duration> {
    let mut nanoseconds = 0;
    for thread in numbers(Path::new(&format!("/proc/{pid}/task"))) {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok();
        // A thread that ends in between counts with the ticks.
        let first = text.as_deref().and_then(|text| text.split(' ').next());
        nanoseconds += first.and_then(|number| number.parse::<u64>().ok())?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// Fields after the command's closing parenthesis, as proc(5) numbers them.
fn read_stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |range: std::ops::Range<usize>| -> Option<Duration> {
        let fields = fields.get(range)?.iter();
        let ticks: u32 = fields.filter_map(|field| field.parse::<u32>().ok()).sum();
        Some(TICK * ticks)
    };
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: ticks(11..13)?,
        children: ticks(13..15)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Until so much CPU time was used, however busy the machine is.
    fn burn(time: Duration) {
        let start = Instant::now();
        while scheduled(std::process::id()).unwrap_or_default() < time {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn ticks_and_the_schedulers_nanoseconds_agree() {
        burn(Duration::from_millis(200));
        let pid = std::process::id();
        // Tests run as threads, and those that have ended count only as ticks.
        let threads = scheduled(pid).unwrap_or_default();
        let ticks = read_stat(pid).unwrap().own;
        assert!(threads <= ticks + 3 * TICK, "{threads:?} {ticks:?}");
    }

    #[test]
    fn the_cpu_of_a_child_counts_also_after_its_end() {
        let children = || read_stat(std::process::id()).unwrap().children;
        let before = children();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let status = std::process::Command::new("sh")
            .args(["-c", script])
            .status();
        assert!(status.unwrap().success());
        assert!(children() > before + 2 * TICK);
        assert!(Processes::own().cpu() >= children());
    }

    #[test]
    fn the_machine_is_busy_with_at_least_this_process() {
        let (before, own) = (machine_cpu(), Processes::own().cpu());
        burn(Duration::from_millis(200));
        let used = Processes::own().cpu() - own;
        assert!(machine_cpu() + 4 * TICK >= before + used, "{used:?}");
        assert!(machine_cpu() > before);
    }

    #[test]
    fn the_peak_shows_memory_that_was_given_back() {
        let own = Processes::own();
        own.forget_peak().unwrap();
        let before = own.resident();
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        assert!(own.peak() > before + (48 << 10), "{} {before}", own.peak());
        assert!(own.memory() > 0);
    }
}
