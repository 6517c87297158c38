//! What all actors of one history share: the servers, the clock, what has been
//! seen so far, and the record of it all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Client, Target};
use crate::old;
use crate::plan::{Basis, Plan};
use crate::record::{Record, Time, revision};
use crate::truth::Truth;

/// How many states of an object are remembered.
const MEMORY: usize = 8;
/// How many revisions are remembered.
const REVISIONS: usize = 200;

/// One history while it happens.
pub struct Scene {
    /// What is to happen.
    pub plan: Plan,
    /// Namespace of its objects.
    pub namespace: String,
    /// A consistent list's revision before the first request.
    pub beginning: i64,
    /// How many steps have begun.
    pub steps: watch::Sender<u64>,
    /// The truth, once all writes are over: how far watchers have to come.
    pub goal: watch::Sender<Option<Arc<Truth>>>,
    targets: Vec<Target>,
    began: Instant,
    requests: AtomicU64,
    seen: Mutex<Seen>,
    records: Mutex<Vec<Record>>,
}

#[derive(Default)]
struct Seen {
    objects: BTreeMap<String, VecDeque<Value>>,
    revisions: VecDeque<i64>,
}

impl Scene {
    /// A history that begins now.
    #[must_use]
    pub fn new(plan: Plan, namespace: String, beginning: i64, targets: Vec<Target>) -> Self {
        Self {
            plan,
            namespace,
            beginning,
            steps: watch::Sender::new(0),
            goal: watch::Sender::new(None),
            targets,
            began: Instant::now(),
            requests: AtomicU64::new(0),
            seen: Mutex::default(),
            records: Mutex::default(),
        }
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::try_from(self.began.elapsed().as_micros()).unwrap_or(Time::MAX)
    }

    /// Clients of all replicas, for one actor.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.targets.iter().cloned().map(Client::new).collect()
    }

    /// An audit id that no other request has; also what writes leave in objects.
    pub fn audit(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.namespace)
    }

    /// Adds a request to the record and remembers what it showed.
    pub fn note(&self, record: Record) {
        if let Some(body) = record.outcome.success() {
            self.remember(body);
        }
        lock(&self.records).push(record);
    }

    /// Remembers an object or the items of a list.
    pub fn remember(&self, body: &Value) {
        let mut seen = lock(&self.seen);
        if let Some(revision) = revision(body) {
            seen.revisions.push_back(revision);
            if seen.revisions.len() > REVISIONS {
                seen.revisions.pop_front();
            }
        }
        let alone = std::slice::from_ref(body);
        let items = body.get("items").and_then(Value::as_array);
        for object in items.map_or(alone, Vec::as_slice) {
            if object.get("kind").is_some_and(|kind| kind == "Widget") && !old::is_old(object) {
                let name = crate::record::name(object).to_owned();
                let states = seen.objects.entry(name).or_default();
                states.push_back(object.clone());
                if states.len() > MEMORY {
                    states.pop_front();
                }
            }
        }
    }

    /// A state of an object that some client has seen.
    #[must_use]
    pub fn known(&self, name: &str, basis: Basis) -> Option<Value> {
        let seen = lock(&self.seen);
        let states = seen.objects.get(name)?;
        let state = match basis {
            Basis::Stale => states.get(states.len() / 2),
            Basis::Fresh | Basis::Known => states.back(),
            Basis::None => None,
        };
        state.cloned()
    }

    /// The newest revision that any client has seen.
    #[must_use]
    pub fn newest(&self) -> i64 {
        let seen = lock(&self.seen);
        let newest = seen.revisions.iter().max();
        newest.copied().unwrap_or(self.beginning)
    }

    /// A revision that some client has seen, `draw` of all of them.
    #[must_use]
    pub fn some_revision(&self, draw: u64) -> i64 {
        let seen = lock(&self.seen);
        let count = u64::try_from(seen.revisions.len()).unwrap_or(0);
        let index = draw.checked_rem(count).unwrap_or(0);
        let index = usize::try_from(index).unwrap_or(0);
        seen.revisions
            .get(index)
            .copied()
            .unwrap_or(self.beginning)
            .max(self.beginning)
    }

    /// All that was noted.
    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut lock(&self.records))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
