//! Request and watch metrics under the names that kube-apiserver gives them,
//! so that its dashboards and alerts fit. Labels come from the registry, never
//! from what clients send, so their number is bounded.

use std::sync::atomic::AtomicU64;

use plumbing::metrics::Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use store::Store;

use crate::{registry::Served, request_info::RequestInfo, target::Target};

/// Upstream's buckets of request durations, in seconds.
const DURATION_BUCKETS: [f64; 24] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StorageLabels {
    storage_cluster_id: &'static str,
}

/// Upstream numbers its etcd clusters alike.
const STORAGE: StorageLabels = StorageLabels {
    storage_cluster_id: "postgres-0",
};

/// The metrics of an API server.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<CodeLabels, Counter>,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    long_running: Family<RequestLabels, Gauge>,
    in_flight: Family<KindLabels, Gauge>,
    watch_events: Family<WatchLabels, Counter>,
    objects: Family<ObjectLabels, Gauge>,
    storage_up: Gauge,
    storage_bytes: Family<StorageLabels, Gauge>,
    dead_rows: Family<StorageLabels, Gauge>,
    notification_queue: Family<StorageLabels, Gauge<f64, AtomicU64>>,
    transaction_age: Family<StorageLabels, Gauge>,
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            long_running: Family::default(),
            in_flight: Family::default(),
            watch_events: Family::default(),
            objects: Family::default(),
            storage_up: Gauge::default(),
            storage_bytes: Family::default(),
            dead_rows: Family::default(),
            notification_queue: Family::default(),
            transaction_age: Family::default(),
        };
        let known = metrics.clone();
        registry.register(move |registry| {
            register_survey(registry, &known);
            registry.register(
                "apiserver_request",
                "Requests by verb, resource and HTTP code",
                known.requests,
            );
            registry.register(
                "apiserver_request_duration_seconds",
                "Time to the response, in seconds; watches are left out",
                known.durations,
            );
            registry.register(
                "apiserver_longrunning_requests",
                "Watches that are open",
                known.long_running,
            );
            registry.register(
                "apiserver_current_inflight_requests",
                "Requests under way",
                known.in_flight,
            );
            registry.register(
                "apiserver_watch_events",
                "Events sent to watchers",
                known.watch_events,
            );
            registry.register(
                "apiserver_storage_objects",
                "Objects in the watch cache",
                known.objects,
            );
            registry.register(
                "apiserver_storage_up",
                "Whether the database answered lately: 1 or 0",
                known.storage_up,
            );
        });
        metrics
    }

    /// Counts a request as under way until the value is dropped.
    #[must_use]
    pub fn begin(&self, info: &RequestInfo) -> InFlight {
        let is_read = matches!(
            info.verb.as_str(),
            "get" | "list" | "watch" | "head" | "options"
        );
        let request_kind = if is_read { "readOnly" } else { "mutating" };
        let gauge = self
            .in_flight
            .get_or_create_owned(&KindLabels { request_kind });
        gauge.inc();
        InFlight(gauge)
    }

    /// Records a response.
    pub fn record(&self, info: &RequestInfo, target: Option<&Target>, code: u16, seconds: f64) {
        let labels = labels(info, target);
        let RequestLabels {
            verb,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
        } = labels.clone();
        let with_code = CodeLabels {
            verb,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
            code,
        };
        self.requests.get_or_create(&with_code).inc();
        if !info.is_long_running() {
            self.durations.get_or_create(&labels).observe(seconds);
        }
    }

    /// Counts one open watch and its events.
    #[must_use]
    pub fn watch(&self, info: &RequestInfo, target: &Target) -> WatchMeter {
        let version = target.version();
        let (group, kind) = (version.resource.group, version.resource.kind);
        let events = self.watch_events.get_or_create_owned(&WatchLabels {
            group,
            version: version.info.name,
            kind,
        });
        let open = self
            .long_running
            .get_or_create_owned(&labels(info, Some(target)));
        open.inc();
        WatchMeter {
            events,
            open: InFlight(open),
        }
    }

    /// Brings the figures up to date that are read rather than counted.
    pub fn refresh(&self, served: &Served, store: &Store) {
        self.storage_up.set(i64::from(store.is_reachable()));
        if let Some(survey) = store.survey() {
            self.storage_bytes.get_or_create(&STORAGE).set(survey.bytes);
            self.dead_rows.get_or_create(&STORAGE).set(survey.dead_rows);
            let usage = survey.notification_queue;
            self.notification_queue.get_or_create(&STORAGE).set(usage);
            let age = survey.transaction_age;
            self.transaction_age.get_or_create(&STORAGE).set(age);
        }
        for entry in served.iter() {
            let resource = entry.info().group_resource().to_string();
            let count = i64::try_from(entry.collection.snapshot().len()).unwrap_or(i64::MAX);
            self.objects
                .get_or_create(&ObjectLabels { resource })
                .set(count);
        }
    }
}

/// What the database says of its health; absent until it has been asked.
fn register_survey(registry: &mut prometheus_client::registry::Registry, known: &Metrics) {
    registry.register(
        "apiserver_storage_size_bytes",
        "Size of the database's tables and indexes",
        known.storage_bytes.clone(),
    );
    registry.register(
        "apiserver_storage_dead_rows",
        "Old versions of objects' rows that vacuum could not remove yet",
        known.dead_rows.clone(),
    );
    registry.register(
        "apiserver_storage_notification_queue_usage",
        "How full Postgres' queue of notifications is, from 0 to 1",
        known.notification_queue.clone(),
    );
    registry.register(
        "apiserver_storage_transaction_age",
        "Transactions since the oldest row that vacuum has not frozen; writes stop at 2,000 million",
        known.transaction_age.clone(),
    );
}

/// Something that is counted while it exists.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The metrics of one open watch.
pub struct WatchMeter {
    events: Counter,
    #[expect(
        dead_code,
        reason = "held for its drop, which counts the watch as closed"
    )]
    open: InFlight,
}

impl WatchMeter {
    /// Counts events that were sent.
    pub fn add(&self, events: u64) {
        self.events.inc_by(events);
    }
}

fn labels(info: &RequestInfo, target: Option<&Target>) -> RequestLabels {
    let (group, version, resource) = match target {
        Some(target) => {
            let version = target.version();
            (
                version.resource.group,
                version.info.name,
                version.resource.plural,
            )
        }
        None => ("", "", ""),
    };
    let subresource = match info.subresource.as_str() {
        "status" => "status",
        "scale" => "scale",
        "history" => "history",
        _ => "",
    };
    let scope = match (
        info.is_resource,
        info.named_by_path,
        info.namespace.is_empty(),
    ) {
        (false, ..) => "",
        (true, true, _) => "resource",
        (true, false, false) => "namespace",
        (true, false, true) => "cluster",
    };
    RequestLabels {
        verb: verb(info),
        group,
        version,
        resource,
        subresource,
        scope,
        component: "apiserver",
    }
}

/// Upstream's spelling; what is none of its verbs is `other`.
fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        _ => "other",
    }
}
