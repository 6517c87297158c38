//! What the tasks of one store share, and the one place where events enter the caches.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::failpoints::{Point, pass};
use crate::link::{Epoch, Link, timed_out};
use crate::load::{Everything, Loaded};
use crate::log::LoggedEvent;
use crate::planted::{self, Bug};
use crate::probe::Probe;
use crate::store::StoreConfig;
use crate::survey::Survey;
use crate::types::Revision;
use crate::writer::Queued;

/// What a client is told to wait when the database is away.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// A collection, as the log sees it.
pub(crate) trait Feed: Send + Sync {
    /// Takes in the events of its resource among `events`; all up to `position` have now been seen.
    fn apply(&self, events: &[LoggedEvent], position: Revision);
    /// Replaces everything.
    fn reset(&self, loaded: Loaded, position: Revision);
    /// Lets old events go.
    fn trim(&self, now: Instant);
    /// How many objects and events, and how many bytes of events.
    fn sizes(&self) -> CollectionStats;
}

/// How much a collection holds in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionStats {
    /// API group.
    pub group: String,
    /// Plural name.
    pub plural: String,
    /// Current objects.
    pub objects: usize,
    /// Events in the ring.
    pub events: usize,
    /// Bytes of the events' bodies.
    pub event_bytes: usize,
    /// Open watchers.
    pub watchers: usize,
}

pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) options: PgConnectOptions,
    pub(crate) queue: mpsc::Sender<Queued>,
    pub(crate) probes: mpsc::Sender<Probe>,
    /// Whether writes are taken: the leader has its connections, or will in a moment.
    pub(crate) writable: watch::Sender<bool>,
    /// Whether other processes follow the log.
    pub(crate) accompanied: AtomicBool,
    /// Whether a process of the version before may follow it, which shows what is not durable yet.
    pub(crate) has_elders: AtomicBool,
    /// Whether commits wait for a standby. Such a wait can be broken off, and what was notified of
    /// may then be lost with the primary.
    pub(crate) has_standbys: AtomicBool,
    /// Whether the tail has a connection.
    pub(crate) tailing: watch::Sender<bool>,
    pub(crate) applied: watch::Sender<Revision>,
    pub(crate) epoch: ArcSwapOption<Epoch>,
    /// The database whose epoch was loaded last, also while its epoch is in doubt.
    pub(crate) followed: ArcSwapOption<String>,
    pub(crate) survey: ArcSwapOption<Survey>,
    /// Asks the tail to look into the log now.
    pub(crate) look: Notify,
    /// Asks the tail to bring in also what nobody has said to be durable.
    pub(crate) settle: Notify,
    /// How often the tail has lost its connection.
    pub(crate) reconnects: AtomicU64,
    /// Asks the tail to find out anew which database this is.
    pub(crate) doubt: Notify,
    /// The connection that a start began with, until the writes take it over.
    first: Mutex<Option<Link>>,
    pub(crate) stop: CancellationToken,
    /// The writes that were queued before the stop are done: the tail ends too.
    pub(crate) end: CancellationToken,
    /// Prefix of the ids of this process' batches.
    pub(crate) writer: i64,
    /// How many it has made.
    pub(crate) batches: AtomicI64,
    compacted: AtomicI64,
    floor: AtomicI64,
    /// Up to here revisions are known to have been allotted to batches that are visible.
    allotted: AtomicI64,
    /// Up to here every revision has been taken in or was never used: at or above what is applied.
    /// Changes while the feeds are locked.
    tip: AtomicI64,
    feeds: Mutex<Feeds>,
}

#[derive(Default)]
struct Feeds {
    by_resource: HashMap<i32, Arc<dyn Feed>>,
    /// Where the log was, once a second, for the last `ring_time`.
    marks: VecDeque<(Instant, Revision)>,
    /// The newest event taken in, and the batch that wrote it.
    seen: (Revision, i64),
    spoil: planted::Spoil,
}

impl Shared {
    pub(crate) fn new(
        config: StoreConfig,
        options: PgConnectOptions,
        queue: mpsc::Sender<Queued>,
        probes: mpsc::Sender<Probe>,
    ) -> Self {
        let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self {
            config,
            options,
            queue,
            probes,
            writable: watch::Sender::new(false),
            accompanied: AtomicBool::new(true),
            has_elders: AtomicBool::new(true),
            has_standbys: AtomicBool::new(true),
            tailing: watch::Sender::new(false),
            applied: watch::Sender::new(Revision::ZERO),
            epoch: ArcSwapOption::empty(),
            followed: ArcSwapOption::empty(),
            survey: ArcSwapOption::empty(),
            look: Notify::new(),
            settle: Notify::new(),
            reconnects: AtomicU64::new(0),
            doubt: Notify::new(),
            first: Mutex::default(),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
            writer: i64::try_from(high >> 33).unwrap_or(0),
            batches: AtomicI64::new(0),
            compacted: AtomicI64::new(0),
            floor: AtomicI64::new(0),
            allotted: AtomicI64::new(0),
            tip: AtomicI64::new(0),
            feeds: Mutex::default(),
        }
    }

    pub(crate) fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// A connection, the one that a start began with if nobody has it.
    pub(crate) async fn first_link(&self) -> Result<Link, sqlx::Error> {
        let first = self.first().take();
        match first {
            Some(link) => Ok(link),
            None => Link::open(self).await,
        }
    }

    /// Gives it to whoever needs one next: opening one takes Postgres milliseconds.
    pub(crate) fn put_first_link(&self, link: Link) {
        *self.first() = Some(link);
    }

    /// Fails where it leads to another database than the one that the caches hold, and has the tail
    /// find out which one that is.
    pub(crate) fn ensure_known(&self, link: &Link) -> Result<(), sqlx::Error> {
        if self.epoch.load().as_deref() == Some(&link.epoch) {
            return Ok(());
        }
        self.doubt.notify_one();
        Err(timed_out())
    }

    fn first(&self) -> MutexGuard<'_, Option<Link>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to here the caches lack nothing. What is shown is the newest event's revision all the
    /// same: of revisions that were never used, other processes may not know.
    pub(crate) fn tip(&self) -> Revision {
        Revision::new(self.tip.load(Ordering::Acquire))
    }

    /// Waits until everything up to `revision` is in the caches; false when `wait` is over first.
    pub(crate) async fn reach(&self, revision: Revision, wait: Duration) -> bool {
        pass(Point::Reach);
        if self.applied() >= revision {
            return true;
        }
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= revision);
        matches!(tokio::time::timeout(wait, reached).await, Ok(Ok(_)))
    }

    pub(crate) fn compacted(&self) -> Revision {
        Revision::new(self.compacted.load(Ordering::Acquire))
    }

    pub(crate) fn note_compacted(&self, revision: Revision) {
        let before = self.compacted.fetch_max(revision.get(), Ordering::AcqRel);
        if planted::is(Bug::DeleteDroppedAtCompaction) && before < revision.get() {
            self.feeds().spoil.swallow_deletion();
        }
    }

    /// The newest event taken in, and the batch that wrote it.
    pub(crate) fn seen(&self) -> (Revision, i64) {
        self.feeds().seen
    }

    /// Whether no task panicked in the middle of a change to the caches. If one did, they take in
    /// nothing more and have to be loaded anew.
    pub(crate) fn is_whole(&self) -> bool {
        !self.feeds.is_poisoned()
    }

    /// A planted bug: at a reconnect, the first event that comes is lost.
    pub(crate) fn swallow_next(&self) {
        let reconnected = self.reconnects.load(Ordering::Relaxed) > 0;
        if reconnected && planted::is(Bug::EventSwallowedAtReconnect) {
            self.feeds().spoil.swallow_event();
        }
    }

    /// Has the tail read the log, which is complete and durable up to `position`.
    pub(crate) fn look_up_to(&self, position: Revision) {
        self.allotted.fetch_max(position.get(), Ordering::AcqRel);
        self.look.notify_one();
    }

    pub(crate) fn allotted(&self) -> Revision {
        Revision::new(self.allotted.load(Ordering::Acquire))
    }

    /// Writes over a version from before the floor keep its body with their event.
    pub(crate) fn floor(&self) -> Revision {
        Revision::new(self.floor.load(Ordering::Acquire))
    }

    pub(crate) fn add_feed(&self, resource: i32, feed: Arc<dyn Feed>) {
        self.feeds().by_resource.insert(resource, feed);
    }

    pub(crate) fn resources(&self) -> Vec<i32> {
        self.feeds().by_resource.keys().copied().collect()
    }

    pub(crate) fn sizes(&self) -> Vec<CollectionStats> {
        self.feeds()
            .by_resource
            .values()
            .map(|feed| feed.sizes())
            .collect()
    }

    /// Takes in events that follow each other in the log, all that there are up to `tip`; those that
    /// are already in are left out. With `base` it does so only if the caches are exactly there.
    /// Returns whether it did.
    pub(crate) fn apply(
        &self,
        base: Option<Revision>,
        mut events: Vec<LoggedEvent>,
        tip: Revision,
    ) -> bool {
        let mut feeds = self.feeds();
        let known = self.tip();
        if !self.is_whole() || base.is_some_and(|base| base != known) {
            return false;
        }
        if tip <= known {
            return true;
        }
        events.retain(|event| event.revision > known);
        let Some(position) = events.last().map(|newest| newest.revision) else {
            self.tip.store(tip.get(), Ordering::Release);
            return true;
        };
        feeds.spoil.take(&mut events);
        for feed in feeds.by_resource.values() {
            feed.apply(&events, position);
        }
        if let Some(newest) = events.last() {
            feeds.seen = (newest.revision, newest.batch);
        }
        self.tip.store(tip.get(), Ordering::Release);
        self.applied.send_replace(position);
        pass(Point::Published);
        true
    }

    /// Puts freshly loaded collections in place of whatever the caches hold.
    pub(crate) fn reset(&self, everything: Everything) {
        let Everything {
            collections: loaded,
            position,
            newest,
            compacted,
            floor,
        } = everything;
        let mut feeds = self.feeds();
        feeds.seen = newest;
        self.compacted.store(compacted.get(), Ordering::Release);
        self.allotted.store(position.get(), Ordering::Release);
        self.floor.store(floor.get(), Ordering::Release);
        feeds.marks.clear();
        for (resource, one) in loaded {
            if let Some(feed) = feeds.by_resource.get(&resource) {
                feed.reset(one, position);
            }
        }
        self.tip.store(position.get(), Ordering::Release);
        self.applied.send_replace(position);
        self.feeds.clear_poison();
    }

    /// Once a second: lets old events go and moves the floor.
    pub(crate) fn tick(&self, now: Instant) {
        let mut feeds = self.feeds();
        let applied = self.applied();
        feeds.marks.push_back((now, applied));
        while let Some((at, revision)) = feeds.marks.front().copied() {
            if now.saturating_duration_since(at) < self.config.ring_time {
                break;
            }
            feeds.marks.pop_front();
            self.floor.fetch_max(revision.get(), Ordering::AcqRel);
        }
        for feed in feeds.by_resource.values() {
            feed.trim(now);
        }
    }

    /// The map itself is whole whatever happened; see [`Shared::is_whole`] for what is in it.
    fn feeds(&self) -> MutexGuard<'_, Feeds> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
