//! How far a watch has come, so that nothing is decided on a cache that is older
//! than the controller's own last write.
//!
//! resourceVersions of one resource are numbers that grow with each write, and
//! may be compared as such (KEP-5504). A deletion counts too, so that a cache which
//! no longer holds an object is told from one that does not hold it yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::queue::Key;

/// Own writes are forgotten in bulk when there are this many of them.
const MANY_WRITES: usize = 4096;

/// The progress of one watch, and the own writes that it has yet to deliver.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: u64,
    /// The newest of a list that is still coming in.
    listed: u64,
    /// What had been written when that list began: it holds that.
    written_before_list: u64,
    newest_write: u64,
    writes: HashMap<Key, u64>,
}

impl Cursor {
    /// Moves with an event that the cache has taken in.
    pub(crate) fn observe<K: ResourceExt>(&self, event: &Event<K>) {
        let mut state = self.lock();
        match event {
            Event::Apply(object) | Event::Delete(object) => {
                state.seen = state.seen.max(revision(object).unwrap_or(0));
            }
            Event::Init => {
                state.listed = 0;
                state.written_before_list = state.newest_write;
            }
            Event::InitApply(object) => {
                state.listed = state.listed.max(revision(object).unwrap_or(0));
            }
            Event::InitDone => {
                state.seen = state.seen.max(state.listed).max(state.written_before_list);
            }
        }
    }

    /// Remembers a write to the object of `key` that the API server answered with
    /// `object`.
    pub(crate) fn wrote(&self, key: &Key, object: &impl ResourceExt) {
        let Some(written) = revision(object) else {
            return;
        };
        let mut state = self.lock();
        state.newest_write = state.newest_write.max(written);
        if state.writes.len() >= MANY_WRITES {
            let seen = state.seen;
            state.writes.retain(|_, written| *written > seen);
        }
        state.writes.insert(key.clone(), written);
    }

    /// True when the cache holds the last own write to the object of `key`, or
    /// what came after it.
    pub(crate) fn has_seen_writes(&self, key: &Key) -> bool {
        let mut state = self.lock();
        match state.writes.get(key) {
            Some(written) if *written > state.seen => false,
            _ => {
                state.writes.remove(key);
                true
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server whose resourceVersions are not numbers cannot be compared with.
fn revision(object: &impl ResourceExt) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::widget;
    use widget_types::v1::Widget;

    fn at(revision: &str) -> Widget {
        widget(|w| w.metadata.resource_version = Some(revision.to_owned()))
    }

    fn key(name: &str) -> Key {
        Key {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_cache_is_stale_until_it_has_the_own_write() {
        let cursor = Cursor::default();
        cursor.observe(&Event::Apply(at("99")));
        assert!(cursor.has_seen_writes(&key("a")));
        cursor.wrote(&key("a"), &at("100"));
        assert!(!cursor.has_seen_writes(&key("a")));
        assert!(cursor.has_seen_writes(&key("b")));
        cursor.observe(&Event::Apply(at("100")));
        assert!(cursor.has_seen_writes(&key("a")));
    }

    #[test]
    fn a_deletion_after_the_write_ends_the_wait() {
        let cursor = Cursor::default();
        cursor.wrote(&key("a"), &at("9"));
        cursor.observe(&Event::Delete(at("10")));
        assert!(cursor.has_seen_writes(&key("a")));
    }

    #[test]
    fn a_list_holds_what_was_written_before_it_began() {
        let cursor = Cursor::default();
        cursor.wrote(&key("a"), &at("10"));
        cursor.observe(&Event::<Widget>::Init);
        cursor.wrote(&key("b"), &at("12"));
        cursor.observe(&Event::InitApply(at("7")));
        assert!(!cursor.has_seen_writes(&key("a")), "the list is not done");
        cursor.observe(&Event::<Widget>::InitDone);
        assert!(cursor.has_seen_writes(&key("a")));
        assert!(!cursor.has_seen_writes(&key("b")));
    }

    #[test]
    fn numbers_are_compared_not_texts() {
        let cursor = Cursor::default();
        cursor.observe(&Event::Apply(at("9")));
        cursor.wrote(&key("a"), &at("10"));
        assert!(!cursor.has_seen_writes(&key("a")));
    }
}
