//! The store's vocabulary: revisions, keys, objects, events and writes.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

/// A point in the one order of all writes to the store.
///
/// Revisions are unique and rise with visibility: who sees one sees all below it. They are not
/// dense. 0 is before everything and is never the revision of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(i64);

impl Revision {
    /// Before the first write.
    pub const ZERO: Self = Self(0);

    /// Wraps the integer; which integers a client may name is not the store's business.
    pub const fn new(revision: i64) -> Self {
        Self(revision)
    }

    /// The integer, for the one function that makes it a resourceVersion.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object's place within its collection. Ordered by bytes, namespace first, as Postgres does
/// under the C collation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for a cluster-scoped object.
    pub namespace: Arc<str>,
    /// Unique within the namespace.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// How stored bytes become what the cache holds.
///
/// Called once for each version of an object in each process, on the store's own tasks: it must
/// neither block nor panic, whatever the bytes are.
pub trait Project: Send + Sync + 'static {
    /// What readers and watchers are handed.
    type View: Send + Sync + 'static;

    /// The view of `body` as written at `revision`. For a deletion it is the last state of the
    /// object at the revision of its deletion.
    fn project(&self, key: &Key, revision: Revision, body: Bytes) -> Self::View;

    /// What takes the place of a view where the body is lost, or is not the one that was stored.
    fn unreadable(&self, key: &Key, revision: Revision) -> Self::View;
}

/// One version of one object.
#[derive(Debug)]
pub struct Stored<V> {
    /// Where it is.
    pub key: Key,
    /// Tells it from an earlier object under the same key.
    pub uid: Uuid,
    /// The write that made this version.
    pub revision: Revision,
    /// Size of the stored body, for accounting; 0 where it cannot be read.
    pub size: usize,
    /// What [`Project`] made of the body.
    pub view: V,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The key was free before.
    Added,
    /// The same object, by uid, has a new version.
    Modified,
    /// The key is free again.
    Deleted,
}

/// One write, as watchers see it.
#[derive(Debug)]
pub struct Event<V> {
    /// What happened.
    pub kind: EventKind,
    /// When, in the order of writes.
    pub revision: Revision,
    /// The version before; `None` exactly for [`EventKind::Added`].
    pub previous: Option<Arc<Stored<V>>>,
    /// The version after; for [`EventKind::Deleted`] the last state, at the deletion's revision.
    pub current: Arc<Stored<V>>,
}

impl<V> Event<V> {
    /// The object's key.
    pub fn key(&self) -> &Key {
        &self.current.key
    }
}

/// Who made a write; kept with its event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The authenticated user.
    pub user: String,
    /// The field manager, when one is known.
    pub manager: String,
    /// The API verb.
    pub verb: String,
    /// The id under which the request is audited.
    pub audit_id: String,
}

/// What to do with a key, always under a condition, so that a late duplicate does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Only if the key is free.
    Create {
        /// Of the new object.
        uid: Uuid,
        /// Of the new object.
        body: Bytes,
    },
    /// Only if the key holds this object at exactly this revision.
    Update {
        /// Of the object that is there.
        uid: Uuid,
        /// The version that was read.
        expected: Revision,
        /// The new version.
        body: Bytes,
    },
    /// Only if the key holds this object at exactly this revision.
    Delete {
        /// Of the object that is there.
        uid: Uuid,
        /// The version that was read.
        expected: Revision,
        /// The last state, which the event carries.
        body: Bytes,
    },
}

impl Operation {
    pub(crate) fn code(&self) -> i16 {
        match self {
            Self::Create { .. } => 0,
            Self::Update { .. } => 1,
            Self::Delete { .. } => 2,
        }
    }

    pub(crate) fn uid(&self) -> Uuid {
        match self {
            Self::Create { uid, .. } | Self::Update { uid, .. } | Self::Delete { uid, .. } => *uid,
        }
    }

    pub(crate) fn expected(&self) -> Option<Revision> {
        match self {
            Self::Create { .. } => None,
            Self::Update { expected, .. } | Self::Delete { expected, .. } => Some(*expected),
        }
    }

    /// Has it expect another version.
    pub(crate) fn expect(&mut self, version: Revision) {
        if let Self::Update { expected, .. } | Self::Delete { expected, .. } = self {
            *expected = version;
        }
    }

    pub(crate) fn body(&self) -> &Bytes {
        match self {
            Self::Create { body, .. } | Self::Update { body, .. } | Self::Delete { body, .. } => {
                body
            }
        }
    }
}

/// One conditional write to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What is written.
    pub key: Key,
    /// How.
    pub operation: Operation,
    /// By whom.
    pub provenance: Provenance,
}

/// An entry of a collection's map: compared by its key alone.
pub(crate) struct Entry<V>(pub(crate) Arc<Stored<V>>);

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> std::borrow::Borrow<Key> for Entry<V> {
    fn borrow(&self) -> &Key {
        &self.0.key
    }
}

impl<V> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl<V> Eq for Entry<V> {}

impl<V> PartialOrd for Entry<V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<V> Ord for Entry<V> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}
