//! All objects of one kind, in memory and kept current.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ReadError, WatchError, WriteError};
use crate::types::{Event, Key, Project, Revision, Stored, Write};

/// All objects of one registered (group, plural).
pub struct Collection<P: Project>(P);

impl<P: Project> Collection<P> {
    /// Writes and waits until the write is durable and in this process' cache.
    ///
    /// Once queued the write goes on even if this future is dropped.
    pub async fn write(&self, _write: Write) -> Result<Revision, WriteError> {
        unimplemented!()
    }

    /// What the cache holds now; needs no database.
    pub fn snapshot(&self) -> Snapshot<P::View> {
        unimplemented!()
    }

    /// A snapshot that has every write acknowledged, by any process, before the call.
    pub async fn consistent(&self) -> Result<Snapshot<P::View>, ReadError> {
        unimplemented!()
    }

    /// A snapshot at `revision` or later, waiting for it at most `wait`.
    pub async fn at_least(
        &self,
        _revision: Revision,
        _wait: Duration,
    ) -> Result<Snapshot<P::View>, ReadError> {
        unimplemented!()
    }

    /// The collection exactly as it was at `revision`.
    pub async fn at(&self, _revision: Revision) -> Result<Snapshot<P::View>, ReadError> {
        unimplemented!()
    }

    /// Watches everything after `after`; a revision in the future is waited for in silence.
    pub fn watch(&self, _after: Revision) -> Result<Watcher<P>, WatchError> {
        unimplemented!()
    }

    /// As [`Collection::watch`], but only events in `scope` wake the watcher and are returned.
    pub fn watch_scope(&self, _after: Revision, _scope: Scope) -> Result<Watcher<P>, WatchError> {
        unimplemented!()
    }
}

/// Which keys a watcher looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole collection.
    All,
    /// One namespace.
    Namespace(Arc<str>),
    /// One object.
    Object(Key),
}

/// A collection at one revision; cheap to clone, never changes.
pub struct Snapshot<V>(PhantomData<V>);

impl<V> Snapshot<V> {
    /// Which state this is.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// One object.
    pub fn get(&self, _key: &Key) -> Option<&Arc<Stored<V>>> {
        unimplemented!()
    }

    /// Number of objects in all namespaces.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }

    /// The objects of one namespace, or of all, in key order, strictly after `start_after`.
    pub fn range<'a>(
        &'a self,
        _namespace: Option<&str>,
        _start_after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Stored<V>>> + use<'a, V> {
        std::iter::empty()
    }
}

/// A cursor over a collection's events. It holds no buffer: a slow one costs nobody anything.
pub struct Watcher<P: Project>(PhantomData<P>);

impl<P: Project> Watcher<P> {
    /// The next events, at least one and at most `max`, in order. Cancel-safe.
    pub async fn next_batch(
        &mut self,
        _max: usize,
    ) -> Result<Vec<Arc<Event<P::View>>>, WatchError> {
        unimplemented!()
    }

    /// Every event up to here has been returned: a bookmark may name it. Advances without events.
    pub fn position(&mut self) -> Revision {
        unimplemented!()
    }
}
