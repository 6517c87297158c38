//! A collection at one revision.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;

use crate::types::{Entry, Event, Key, Revision, Stored};

/// A collection at one revision; cheap to clone, never changes.
pub struct Snapshot<V> {
    objects: OrdSet<Entry<V>>,
    revision: Revision,
    own_bytes: usize,
}

impl<V> Clone for Snapshot<V> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            revision: self.revision,
            own_bytes: self.own_bytes,
        }
    }
}

impl<V> std::fmt::Debug for Snapshot<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Snapshot({} objects at {})",
            self.objects.len(),
            self.revision
        )
    }
}

impl<V> Snapshot<V> {
    pub(crate) fn new(objects: OrdSet<Entry<V>>, revision: Revision) -> Self {
        Self::of_the_past(objects, revision, 0)
    }

    /// Where bodies were read from the database only for it, `own_bytes` is their size.
    pub(crate) fn of_the_past(
        objects: OrdSet<Entry<V>>,
        revision: Revision,
        own_bytes: usize,
    ) -> Self {
        Self {
            objects,
            revision,
            own_bytes,
        }
    }

    /// Bytes of bodies that are in memory for this state alone.
    pub(crate) fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    pub(crate) fn objects(&self) -> &OrdSet<Entry<V>> {
        &self.objects
    }

    /// Which state this is: it holds all writes up to this revision and none after.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Arc<Stored<V>>> {
        self.objects.get(key).map(|entry| &entry.0)
    }

    /// Number of objects in all namespaces.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects of one namespace, or of all, in key order, strictly after `start_after`.
    pub fn range<'a>(
        &'a self,
        namespace: Option<&str>,
        start_after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Stored<V>>> + use<'a, V> {
        let namespace: Option<Arc<str>> = namespace.map(Arc::from);
        let first = namespace.as_ref().map(|n| Key::new(Arc::clone(n), ""));
        // No object has an empty name: the namespace's first possible key is before all of it.
        let from = match (first, start_after) {
            (Some(first), Some(after)) if *after < first => Bound::Included(first),
            (_, Some(after)) => Bound::Excluded(after.clone()),
            (Some(first), None) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        self.objects
            .range::<(Bound<Key>, Bound<Key>), Key>((from, Bound::Unbounded))
            .map(|entry| &entry.0)
            .take_while(move |stored| {
                namespace
                    .as_ref()
                    .is_none_or(|namespace| stored.key.namespace == *namespace)
            })
    }

    /// The state before these events, which are newest first, all after `revision` and none
    /// missing.
    pub(crate) fn undo(mut self, newest_first: &[Arc<Event<V>>], revision: Revision) -> Self {
        for event in newest_first {
            // Those that this snapshot does not hold yet need no undoing.
            if event.revision > self.revision {
                continue;
            }
            match &event.previous {
                Some(previous) => self.objects.insert(Entry(Arc::clone(previous))),
                None => self.objects.remove(event.key()),
            };
        }
        self.revision = revision;
        self
    }
}
