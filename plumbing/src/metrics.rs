//! A registry of metrics that handlers can read while the process registers,
//! with the process's own figures under the names every Prometheus client uses.

use std::fmt;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry as PrometheusRegistry;

/// The media type of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Linux reports CPU and start times in this unit on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// All metrics of a process.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<PrometheusRegistry>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that holds the process's own metrics.
    #[must_use]
    pub fn new() -> Self {
        let mut inner = PrometheusRegistry::default();
        inner.register_collector(Box::new(ProcessCollector));
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Registers metrics; the closure's result is handed back.
    pub fn register<T>(&self, register: impl FnOnce(&mut PrometheusRegistry) -> T) -> T {
        register(&mut self.lock())
    }

    /// Every metric as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let encoded = prometheus_client::encoding::text::encode(&mut text, &self.lock());
        encoded.expect("a collector fails only when its writer does, and a String never does");
        text
    }

    fn lock(&self) -> MutexGuard<'_, PrometheusRegistry> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads `/proc/self` at each scrape; a figure that cannot be read is left out.
#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let times = stat.as_deref().and_then(parse_stat);
        if let Some(times) = times {
            let metric = ConstCounter::new(times.cpu_seconds);
            let name = "process_cpu_seconds";
            let help = "User and system CPU time spent, in seconds";
            emit(&mut encoder, name, help, &metric)?;
        }
        let boot = fs::read_to_string("/proc/stat").ok();
        let boot = boot.as_deref().and_then(parse_boot_time);
        if let (Some(times), Some(boot)) = (times, boot) {
            let metric = ConstGauge::new(boot + times.started_after_boot);
            let help = "Start time of the process, in seconds since the epoch";
            emit(&mut encoder, "process_start_time_seconds", help, &metric)?;
        }
        let status = fs::read_to_string("/proc/self/status").ok();
        if let Some(bytes) = status.as_deref().and_then(parse_resident) {
            let metric = ConstGauge::new(bytes);
            let help = "Resident memory, in bytes";
            emit(&mut encoder, "process_resident_memory_bytes", help, &metric)?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory being read.
            let open = entries.count().saturating_sub(1);
            let metric = ConstGauge::new(i64::try_from(open).unwrap_or(i64::MAX));
            let help = "Number of open file descriptors";
            emit(&mut encoder, "process_open_fds", help, &metric)?;
        }
        Ok(())
    }
}

fn emit(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(descriptor)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ProcessTimes {
    cpu_seconds: f64,
    started_after_boot: f64,
}

/// Fields 14, 15 and 22 of `/proc/self/stat`, counted after the command's name,
/// which may itself hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<ProcessTimes> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let field = |number: usize| -> Option<f64> {
        let text = rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?;
        text.parse::<f64>().ok()
    };
    Some(ProcessTimes {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
        started_after_boot: field(22)? / TICKS_PER_SECOND,
    })
}

fn parse_boot_time(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn parse_resident(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn the_process_is_measured_under_the_usual_names() {
        let text = Registry::new().encode();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let line = text.lines().find(|line| line.starts_with(name));
            let value: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value >= 0.0, "{name} {value}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn registered_metrics_are_encoded() {
        let registry = Registry::new();
        let counter = registry.register(|registry| {
            let counter = Counter::<u64>::default();
            registry.register("things", "Things seen", counter.clone());
            counter
        });
        counter.inc();
        assert!(registry.encode().contains("\nthings_total 1\n"));
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 4 0 12300 0 0";
        let times = parse_stat(stat).unwrap();
        assert_eq!(times.cpu_seconds, 3.0);
        assert_eq!(times.started_after_boot, 123.0);
    }
}
