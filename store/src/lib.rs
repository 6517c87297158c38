//! Objects at revisions on Postgres: writes, snapshots, event log, watch cache.
//!
//! A [`Store`] is one process' view of one database; any number of processes share the database
//! with equal rights. A [`Collection`] is all objects of one registered (group, plural).
//!
//! What holds, on every process:
//! 1. The order of revisions is the order in which writes become visible.
//! 2. A watch from r sees every later event once and in order, or is told that r is gone.
//! 3. A consistent read sees every write acknowledged before it began.
//! 4. A revision never has two contents.
//! 5. What was acknowledged or shown survives a crash.
//! 6. Folding the log gives the current table.

mod apply;
mod attempt;
mod cache;
mod collection;
mod compaction;
mod doubt;
mod error;
mod generations;
mod history;
mod link;
mod load;
mod log;
mod notices;
mod pipe;
mod probe;
mod recent;
mod ring;
mod schema;
mod shared;
mod snapshot;
mod store;
mod sum;
mod survey;
mod tail;
mod types;
mod watcher;
mod writer;

#[cfg(feature = "failpoints")]
pub mod failpoints;
#[cfg(not(feature = "failpoints"))]
mod failpoints;
pub mod planted;
pub mod private_postgres;
#[cfg(feature = "testing")]
pub mod testing;

pub use collection::Collection;
pub use compaction::Compacted;
pub use error::{ReadError, StoreError, WatchError, WriteError};
pub use history::Recorded;
pub use schema::migrate;
pub use shared::CollectionStats;
pub use snapshot::Snapshot;
pub use store::{Store, StoreConfig};
pub use survey::Survey;
pub use types::{Event, EventKind, Key, Operation, Project, Provenance, Revision, Stored, Write};
pub use watcher::{Scope, Watcher};

/// The largest body that is stored.
pub const MAX_BODY: usize = 3 * 1024 * 1024 / 2;
