//! The controller's metrics.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WriteLabels {
    verb: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ErrorLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WatchLabels {
    resource: &'static str,
}

/// Handles to all of them; clones count in the same place.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) reconciles: Counter,
    pub(crate) stale: Counter,
    errors: Family<ErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    watch_errors: Family<WatchLabels, Counter>,
    pub(crate) lease_writes: Counter,
    pub(crate) leader: Gauge,
    pub(crate) queue_depth: Gauge,
    last_success: Gauge<f64, AtomicU64>,
    duration: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Counter::default(),
            stale: Counter::default(),
            errors: Family::default(),
            writes: Family::default(),
            watch_errors: Family::default(),
            lease_writes: Counter::default(),
            leader: Gauge::default(),
            queue_depth: Gauge::default(),
            last_success: Gauge::default(),
            // From 1 ms to about 16 s.
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
        };
        metrics.register(registry.sub_registry_with_prefix("widget_controller"));
        metrics
    }

    /// Counts a write that is about to be sent.
    pub(crate) fn count_write(&self, verb: &'static str, resource: &'static str) {
        let labels = WriteLabels { verb, resource };
        self.writes.get_or_create(&labels).inc();
    }

    /// Counts a reconcile that failed.
    pub(crate) fn count_error(&self, reason: &'static str) {
        self.errors.get_or_create(&ErrorLabels { reason }).inc();
    }

    /// Counts a watch that broke.
    pub(crate) fn count_watch_error(&self, resource: &'static str) {
        let labels = WatchLabels { resource };
        self.watch_errors.get_or_create(&labels).inc();
    }

    /// Counts a reconcile that ended, and how.
    pub(crate) fn count_reconcile(&self, took: Duration, succeeded: bool) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
        if succeeded {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            self.last_success.set(now.unwrap_or_default().as_secs_f64());
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "reconciles",
            "Reconciles that ended, however they ended",
            self.reconciles.clone(),
        );
        registry.register(
            "stale_reconciles",
            "Reconciles put off because the cache had not seen an own write yet",
            self.stale.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciles that failed and are retried, by reason",
            self.errors.clone(),
        );
        registry.register(
            "writes",
            "Writes sent to the API server for Widgets, by verb and resource",
            self.writes.clone(),
        );
        registry.register(
            "watch_errors",
            "Watches that broke and are begun again, by resource",
            self.watch_errors.clone(),
        );
        registry.register(
            "lease_writes",
            "Writes of the leader election's Lease",
            self.lease_writes.clone(),
        );
        registry.register("leader", "1 while this process leads", self.leader.clone());
        registry.register(
            "queue_depth",
            "Widgets that wait for a worker",
            self.queue_depth.clone(),
        );
        registry.register(
            "last_success_timestamp_seconds",
            "When a reconcile last succeeded, in seconds since the epoch",
            self.last_success.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long reconciles take",
            self.duration.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_verb_and_resource() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.count_write("apply", "deployments");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "widget_controller_writes_total{verb=\"apply\",resource=\"deployments\"} 1\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("\nwidget_controller_leader 0\n"), "{text}");
    }
}
