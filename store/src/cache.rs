//! A collection in memory: the current objects and the ring of events, fed by the log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use imbl::OrdSet;
use tokio::sync::{Notify, OnceCell};
use uuid::Uuid;

use crate::failpoints::{Point, pass};
use crate::history::Stretch;
use crate::load::{Loaded, PastEvent};
use crate::log::LoggedEvent;
use crate::recent::Recent;
use crate::ring::Ring;
use crate::shared::{CollectionStats, Feed};
use crate::snapshot::Snapshot;
use crate::store::StoreConfig;
use crate::types::{Entry, Event, EventKind, Key, Project, Revision, Stored};
use crate::watcher::Scope;

/// Watchers of a scope without events are woken this often all the same, counted in events of
/// the collection and in parts of the ring's time, so that their cursors stay in the ring.
const SWEEP: usize = 4096;
const SWEEP_PART: u32 = 3;
const KEPT_STATES: usize = 16;
const KEPT_STRETCHES: usize = 4;

/// A revision in one life of the database.
pub(crate) type Moment = (u64, Revision);
/// Revisions in one life of the database: after the first, up to the second.
pub(crate) type Reach = (u64, Revision, Revision);

/// An event, and when it was recorded.
type Timed<V> = (Instant, Arc<Event<V>>);

pub(crate) struct Cache<P: Project> {
    project: P,
    resource: i32,
    group: String,
    plural: String,
    current: ArcSwap<Snapshot<P::View>>,
    ring: RwLock<Ring<P::View>>,
    wakers: Mutex<HashMap<Scope, Arc<Notify>>>,
    unswept: AtomicUsize,
    sweep_time: Duration,
    swept: Mutex<Instant>,
    /// Past states, for the next page of a list.
    pub(crate) past: Recent<Moment, Arc<OnceCell<Snapshot<P::View>>>>,
    /// At most so many bytes of bodies are in memory for past states, unless one alone has more.
    past_bytes: usize,
    /// What was read below the ring, for others who are about as far behind.
    pub(crate) stretches: Recent<Reach, Arc<Stretch<P::View>>>,
}

impl<P: Project> Cache<P> {
    pub(crate) fn new(
        resource: i32,
        (group, plural): (&str, &str),
        project: P,
        config: &StoreConfig,
    ) -> Self {
        Self {
            project,
            resource,
            group: group.to_owned(),
            plural: plural.to_owned(),
            current: ArcSwap::from_pointee(Snapshot::new(OrdSet::new(), Revision::ZERO)),
            ring: RwLock::new(Ring::new(config.ring_bytes, config.ring_time)),
            wakers: Mutex::default(),
            unswept: AtomicUsize::new(0),
            sweep_time: config.ring_time / SWEEP_PART,
            swept: Mutex::new(Instant::now()),
            past: Recent::new(KEPT_STATES),
            past_bytes: config.ring_bytes,
            stretches: Recent::new(KEPT_STRETCHES),
        }
    }

    pub(crate) fn current(&self) -> Snapshot<P::View> {
        self.current.load().as_ref().clone()
    }

    /// Never blocks for long: writers hold it to append, readers to copy references.
    pub(crate) fn ring(&self) -> RwLockReadGuard<'_, Ring<P::View>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring<P::View>> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stored(
        &self,
        key: Key,
        uid: Uuid,
        revision: Revision,
        body: Option<Bytes>,
    ) -> Arc<Stored<P::View>> {
        let size = body.as_ref().map_or(0, Bytes::len);
        let view = match body {
            Some(body) => self.project.project(&key, revision, body),
            None => {
                tracing::error!(%key, %revision, "the stored body of an object cannot be read");
                self.project.unreadable(&key, revision)
            }
        };
        Arc::new(Stored {
            key,
            uid,
            revision,
            size,
            view,
        })
    }

    /// The bell that rings for events in `scope`.
    pub(crate) fn bell(&self, scope: &Scope) -> Arc<Notify> {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(wakers.entry(scope.clone()).or_default())
    }

    /// Takes the bell back; the last one of its scope removes it.
    pub(crate) fn return_bell(&self, scope: &Scope, bell: Arc<Notify>) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        drop(bell);
        if wakers
            .get(scope)
            .is_some_and(|left| Arc::strong_count(left) == 1)
        {
            wakers.remove(scope);
        }
    }

    fn wake(&self, events: &[Arc<Event<P::View>>]) {
        pass(Point::CacheWake);
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let unswept = self.unswept.fetch_add(events.len(), Ordering::Relaxed) + events.len();
        if unswept >= SWEEP {
            self.unswept.store(0, Ordering::Relaxed);
            wakers.values().for_each(|bell| bell.notify_waiters());
            return;
        }
        if let Some(bell) = wakers.get(&Scope::All) {
            bell.notify_waiters();
        }
        let narrow = wakers.len() > usize::from(wakers.contains_key(&Scope::All));
        for event in events.iter().filter(|_| narrow) {
            let key = event.key();
            for scope in [
                Scope::Namespace(Arc::clone(&key.namespace)),
                Scope::Object(key.clone()),
            ] {
                if let Some(bell) = wakers.get(&scope) {
                    bell.notify_waiters();
                }
            }
        }
    }

    /// Wakes all watchers if there were events and it is time, before the ring lets these go.
    fn sweep(&self, now: Instant) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*swept) < self.sweep_time {
            return;
        }
        *swept = now;
        if self.unswept.swap(0, Ordering::Relaxed) > 0 {
            let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            wakers.values().for_each(|bell| bell.notify_waiters());
        }
    }

    /// The events of a loaded collection, oldest first, sharing the objects with `heads`; and the
    /// revision after which there is none missing, if that is not all of them.
    fn rebuild(
        &self,
        heads: &OrdSet<Entry<P::View>>,
        past: Vec<PastEvent>,
        now: Instant,
    ) -> (Vec<Timed<P::View>>, Option<Revision>) {
        let mut broken = None;
        let mut states: HashMap<Key, Arc<Stored<P::View>>> = HashMap::new();
        let mut events = Vec::with_capacity(past.len());
        for event in past {
            let PastEvent {
                kind,
                revision,
                key,
                uid,
                last_state,
                previous,
                age,
            } = event;
            let later = states
                .remove(&key)
                .or_else(|| heads.get(&key).map(|e| Arc::clone(&e.0)));
            let current = match (last_state, later) {
                (Some(body), _) => self.stored(key.clone(), uid, revision, body),
                (None, Some(later)) if later.revision == revision => later,
                (None, _) => {
                    tracing::error!(%key, %revision, "the event log does not lead to the current object");
                    broken = Some(revision);
                    break;
                }
            };
            let previous = previous.map(|(at, body)| self.stored(key.clone(), uid, at, body));
            if let Some(previous) = &previous {
                states.insert(key, Arc::clone(previous));
            }
            let at = now.checked_sub(age).unwrap_or(now);
            events.push((
                at,
                Arc::new(Event {
                    kind,
                    revision,
                    previous,
                    current,
                }),
            ));
        }
        events.reverse();
        (events, broken)
    }
}

impl<P: Project> Feed for Cache<P> {
    fn apply(&self, events: &[LoggedEvent], position: Revision) {
        pass(Point::CacheApply);
        let before = self.current.load();
        let mut objects = before.objects().clone();
        let mut fresh = Vec::new();
        for event in events
            .iter()
            .filter(|event| event.resource == self.resource)
        {
            let LoggedEvent {
                kind,
                revision,
                key,
                uid,
                body,
                ..
            } = event.clone();
            let current = self.stored(key, uid, revision, body);
            let previous = match kind {
                EventKind::Deleted => objects.remove(&current.key),
                EventKind::Added | EventKind::Modified => {
                    objects.insert(Entry(Arc::clone(&current)))
                }
            };
            let previous = previous.map(|entry| entry.0);
            fresh.push(Arc::new(Event {
                kind,
                revision,
                previous,
                current,
            }));
        }
        // The ring first: who sees a snapshot finds all its events in the ring.
        self.ring_mut().push(&fresh, position, Instant::now());
        pass(Point::CachePushed);
        self.current
            .store(Arc::new(Snapshot::new(objects, position)));
        pass(Point::CacheStored);
        if !fresh.is_empty() {
            self.wake(&fresh);
        }
    }

    fn reset(&self, loaded: Loaded, position: Revision) {
        pass(Point::CacheReset);
        let start = loaded.start();
        let heads = loaded.heads.into_iter();
        let objects: OrdSet<_> = heads
            .map(|h| Entry(self.stored(h.key, h.uid, h.revision, h.body)))
            .collect();
        let (events, broken) = self.rebuild(&objects, loaded.events, Instant::now());
        let start = start.max(broken.unwrap_or_default());
        self.ring_mut().reset(start, events, position);
        pass(Point::CacheResetRing);
        self.current
            .store(Arc::new(Snapshot::new(objects, position)));
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.values().for_each(|bell| bell.notify_waiters());
    }

    fn trim(&self, now: Instant) {
        pass(Point::CacheTrim);
        self.sweep(now);
        self.ring_mut().trim(now);
        self.past.trim(now);
        self.past.shed(self.past_bytes, |state| {
            state.get().map_or(0, Snapshot::own_bytes)
        });
        self.stretches.trim(now);
    }

    fn sizes(&self) -> CollectionStats {
        let ring = self.ring();
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        CollectionStats {
            group: self.group.clone(),
            plural: self.plural.clone(),
            objects: self.current.load().len(),
            events: ring.len(),
            event_bytes: ring.bytes(),
            watchers: wakers
                .values()
                .map(|bell| Arc::strong_count(bell) - 1)
                .sum(),
        }
    }
}
