//! One process' view of the database.

use std::sync::Arc;
use std::time::Duration;

use crate::collection::Collection;
use crate::error::StoreError;
use crate::types::{Project, Revision};

/// How a [`Store`] behaves; [`StoreConfig::new`] has the defaults for production.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `postgres://…` of the primary, as the runtime role.
    pub database_url: String,
    /// How long history can be read: exact reads and watch starts.
    pub retention: Duration,
    /// How long events stay in memory.
    pub ring_time: Duration,
    /// At most this many bytes of bodies are in memory for events alone, for each collection.
    pub ring_bytes: usize,
    /// At most this many writes wait; more are refused.
    pub queue: usize,
    /// How often this process tries to compact.
    pub compaction_interval: Duration,
}

impl StoreConfig {
    /// The defaults for production.
    pub fn new(database_url: impl Into<String>) -> Self {
        Self {
            database_url: database_url.into(),
            retention: Duration::from_secs(15 * 60),
            ring_time: Duration::from_secs(5 * 60),
            ring_bytes: 256 * 1024 * 1024,
            queue: 8192,
            compaction_interval: Duration::from_secs(60),
        }
    }
}

/// One process' view of the database.
pub struct Store {}

impl Store {
    /// Connects as the runtime role; refuses a schema that it does not know, and a standby.
    pub async fn connect(_config: StoreConfig) -> Result<Arc<Self>, StoreError> {
        unimplemented!()
    }

    /// Adds a collection; before [`Store::start`].
    pub async fn register<P: Project>(
        &self,
        _group: &str,
        _plural: &str,
        _project: P,
    ) -> Result<Arc<Collection<P>>, StoreError> {
        unimplemented!()
    }

    /// Loads all collections and starts the tasks; returns when reads can be served.
    pub async fn start(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Finishes the queued writes, then ends all tasks. Later writes are refused.
    pub async fn shutdown(&self) {
        unimplemented!()
    }

    /// Everything up to here is in this process' caches.
    pub fn applied(&self) -> Revision {
        unimplemented!()
    }

    /// Whether the database answered lately.
    pub fn is_reachable(&self) -> bool {
        unimplemented!()
    }

    /// The oldest revision that exact reads and watches can start from.
    pub fn compacted(&self) -> Revision {
        unimplemented!()
    }
}
