//! One process' view of the database: its configuration, its tasks, its collections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::apply::extend_events;
use crate::cache::Cache;
use crate::collection::Collection;
use crate::compaction::{self, Compacted};
use crate::error::StoreError;
use crate::failpoints::{Point, at};
use crate::link::{Failure, Link, classify, connect_options, set_up, timed_out, within};
use crate::probe::{self, Probe};
use crate::schema;
use crate::shared::{CollectionStats, Shared};
use crate::survey::Survey;
use crate::tail::Tail;
use crate::types::{Project, Revision};
use crate::writer::{Leader, Queued};

/// Each step of the first connection takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How a [`Store`] behaves; [`StoreConfig::new`] has the defaults for production.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `postgres://…` of the primary, as the runtime role.
    pub database_url: String,
    /// How long history can be read: exact reads and watch starts.
    pub retention: Duration,
    /// How long events stay in memory.
    pub ring_time: Duration,
    /// At most this many bytes of bodies are in memory for events alone, and as many for states of
    /// the past, for each collection.
    pub ring_bytes: usize,
    /// At most this many writes wait; more are refused.
    pub queue: usize,
    /// How often this process tries to compact.
    pub compaction_interval: Duration,
    /// Where the disk takes longer than this to flush, batches commit before they are durable and
    /// are told of after a barrier; where it is faster, each batch waits for its own flush.
    pub slow_flush: Duration,
}

impl StoreConfig {
    /// The defaults for production.
    pub fn new(database_url: impl Into<String>) -> Self {
        Self {
            database_url: database_url.into(),
            retention: Duration::from_secs(15 * 60),
            ring_time: Duration::from_secs(5 * 60),
            ring_bytes: 32 * 1024 * 1024,
            queue: 8192,
            compaction_interval: Duration::from_secs(60),
            slow_flush: Duration::from_micros(700),
        }
    }
}

/// One process' view of the database.
pub struct Store {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    /// What the tasks read from, until they are started.
    inputs: Mutex<Option<(mpsc::Receiver<Queued>, mpsc::Receiver<Probe>)>>,
}

impl Store {
    /// Connects as the runtime role; refuses a schema that it does not know, and a standby.
    pub async fn connect(config: StoreConfig) -> Result<Arc<Self>, StoreError> {
        use sqlx::{Connection, postgres::PgConnection};

        let options = connect_options(&config.database_url)?;
        let failed = |doing| move |source| StoreError::Database { doing, source };
        let connecting = PgConnection::connect_with(&options);
        let mut connection = within(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(failed("connecting"))?;
        within(CONNECT_TIMEOUT, set_up(&mut connection))
            .await
            .map_err(failed("setting up the session"))?;
        timeout(CONNECT_TIMEOUT, schema::verify(&mut connection))
            .await
            .unwrap_or_else(|_| Err(failed("reading the schema's version")(timed_out())))?;
        let (queue, queued) = mpsc::channel(config.queue.max(1));
        let (probes, probed) = mpsc::channel(probe::QUEUE);
        let store = Self {
            shared: Arc::new(Shared::new(config, options, queue, probes)),
            tasks: TaskTracker::new(),
            inputs: Mutex::new(Some((queued, probed))),
        };
        let opening = within(CONNECT_TIMEOUT, Link::of(connection, &store.shared));
        let mut link = opening.await.map_err(refused)?;
        within(CONNECT_TIMEOUT, extend_events(&mut link.connection))
            .await
            .map_err(failed("extending the event log"))?;
        store.shared.put_first_link(link);
        Ok(Arc::new(store))
    }

    /// Adds a collection; before [`Store::start`].
    pub async fn register<P: Project>(
        &self,
        group: &str,
        plural: &str,
        project: P,
    ) -> Result<Arc<Collection<P>>, StoreError> {
        if self.inputs().is_none() {
            return Err(StoreError::Misuse(
                "collections are registered before the store is started",
            ));
        }
        let mut link = self.shared.first_link().await.map_err(refused)?;
        let registering = async {
            at(Point::RegisterSend).await?;
            let resource: i32 = sqlx::query_scalar("SELECT store.register_resource($1, $2)")
                .bind(group)
                .bind(plural)
                .fetch_one(&mut link.connection)
                .await?;
            at(Point::RegisterAnswer).await?;
            Ok(resource)
        };
        let resource = registering.await.map_err(|source| StoreError::Database {
            doing: "registering a resource",
            source,
        })?;
        self.shared.put_first_link(link);
        let cache = Arc::new(Cache::new(
            resource,
            (group, plural),
            project,
            &self.shared.config,
        ));
        self.shared.add_feed(resource, Arc::clone(&cache) as _);
        Ok(Arc::new(Collection::new(
            Arc::clone(&self.shared),
            cache,
            resource,
        )))
    }

    /// Loads all collections and starts the tasks; returns when reads and writes can be served.
    pub async fn start(&self) -> Result<(), StoreError> {
        let inputs = self.inputs().take();
        let Some((queued, probed)) = inputs else {
            return Err(StoreError::Misuse("the store is started once"));
        };
        // Whatever ends the writes, or keeps them from beginning, ends the tail.
        let end = self.shared.end.clone().drop_guard();
        let (ready, loaded) = oneshot::channel();
        let ready = Arc::new(Mutex::new(Some(ready)));
        self.supervise("tail", move |shared| {
            Tail::new(shared, Arc::clone(&ready)).run()
        });
        let failed = |source| StoreError::Database {
            doing: "loading the collections",
            source,
        };
        loaded
            .await
            .unwrap_or(Err(sqlx::Error::WorkerCrashed))
            .map_err(failed)?;
        let mut writable = self.shared.writable.subscribe();
        let (queued, end) = (Arc::new(AsyncMutex::new(queued)), Arc::new(end));
        self.supervise("writes", move |shared| {
            let (queued, end) = (Arc::clone(&queued), Arc::clone(&end));
            async move {
                Leader::new(shared, queued.lock_owned().await).run().await;
                drop(end);
            }
        });
        let probed = Arc::new(AsyncMutex::new(probed));
        self.supervise("reads", move |shared| {
            probe::run(shared, Arc::clone(&probed))
        });
        self.supervise("compaction", compaction::run);
        self.tasks.close();
        let stop = self.shared.stop.clone();
        tokio::select! {
            _ = writable.wait_for(|writable| *writable) => Ok(()),
            () = stop.cancelled() => Err(failed(sqlx::Error::WorkerCrashed)),
        }
    }

    /// Runs a task until it ends. One that panics is started again; what it had in hand is answered
    /// as unknown, and caches that it left half changed are loaded anew.
    fn supervise<F>(&self, name: &'static str, task: impl Fn(Arc<Shared>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            while let Err(error) = tokio::spawn(task(Arc::clone(&shared))).await {
                if !error.is_panic() {
                    return;
                }
                tracing::error!(%error, task = name, "a task of the store panicked");
                shared.doubt.notify_one();
                sleep(RESTART_PAUSE).await;
            }
        });
    }

    /// Finishes the queued writes, then ends all tasks. Later writes are refused; snapshots and
    /// watchers keep what they have.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Everything up to here is in this process' caches.
    pub fn applied(&self) -> Revision {
        self.shared.applied()
    }

    /// Whether this process has its connections to the database.
    pub fn is_reachable(&self) -> bool {
        *self.shared.tailing.borrow() && *self.shared.writable.borrow()
    }

    /// The oldest revision that exact reads and watches can start from.
    pub fn compacted(&self) -> Revision {
        self.shared.compacted()
    }

    /// How much each collection holds in memory, for metrics.
    pub fn stats(&self) -> Vec<CollectionStats> {
        self.shared.sizes()
    }

    /// What the last pass of compaction saw of the database's health, also if another process was
    /// at it; none before the first.
    pub fn survey(&self) -> Option<Survey> {
        self.shared.survey.load().as_deref().copied()
    }

    /// One pass of compaction now; `None` when another process is at it. The store does this by
    /// itself, every [`StoreConfig::compaction_interval`].
    pub async fn compact(&self) -> Result<Option<Compacted>, StoreError> {
        let pass = compaction::pass(&self.shared).await;
        pass.map_err(|source| StoreError::Database {
            doing: "compacting",
            source,
        })
    }

    fn inputs(
        &self,
    ) -> std::sync::MutexGuard<'_, Option<(mpsc::Receiver<Queued>, mpsc::Receiver<Probe>)>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no connection.
fn refused(source: sqlx::Error) -> StoreError {
    match classify(&source) {
        Failure::Refused { code, .. } if code == "25006" => StoreError::Standby,
        _ => StoreError::Database {
            doing: "connecting",
            source,
        },
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
