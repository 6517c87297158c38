//! The work queue: which Widget to look at next.
//!
//! A plain data structure with the time as an argument. A key is in it once
//! however often it is added, is never worked on twice at a time, and comes back
//! by itself after a failure, later each time.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff;

/// A Widget, and the Deployment of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// When a key is to come back after it was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When it is added again.
    Change,
    /// After this time at the latest, without counting as a failure.
    After(Duration),
    /// After a delay that grows with each failure in a row.
    Failure,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    ready: VecDeque<Key>,
    /// The keys in `ready`.
    waiting: HashSet<Key>,
    /// The keys being worked on; true when added again in the meantime.
    running: HashMap<Key, bool>,
    later: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    /// Adds a key that changed. One that is worked on comes again afterwards.
    pub(crate) fn add(&mut self, key: Key) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
            return;
        }
        if let Some(due) = self.due.remove(&key) {
            self.later.remove(&(due, key.clone()));
        }
        if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Takes a key to work on; [`Queue::finish`] gives it back.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Key> {
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), false);
        Some(key)
    }

    /// Ends the work on a key.
    pub(crate) fn finish(&mut self, key: Key, next: Next, now: Instant) {
        let again = self.running.remove(&key).unwrap_or(false);
        let delay = match next {
            Next::Failure => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                Some(backoff::delay(*failures))
            }
            Next::After(delay) => Some(delay),
            Next::Change => {
                self.failures.remove(&key);
                None
            }
        };
        match delay {
            // A failure is not hurried by a change: it may be what causes it.
            Some(delay) if !again || next == Next::Failure => {
                let due = now + delay;
                self.due.insert(key.clone(), due);
                self.later.insert((due, key));
            }
            _ if again => self.add(key),
            _ => {}
        }
    }

    /// When the next delayed key becomes ready.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    /// Keys that wait for a worker.
    pub(crate) fn depth(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_key_waits_once_and_keys_are_served_in_order() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for name in ["a", "b", "a"] {
            queue.add(key(name));
        }
        assert_eq!(queue.depth(), 2);
        assert_eq!(queue.pop(now), Some(key("a")));
        assert_eq!(queue.pop(now), Some(key("b")));
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_key_that_changes_while_worked_on_comes_again_afterwards() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.pop(now);
        queue.add(key("a"));
        assert_eq!(queue.pop(now), None, "never twice at a time");
        queue.finish(key("a"), Next::Change, now);
        assert_eq!(queue.pop(now), Some(key("a")));
        queue.finish(key("a"), Next::Change, now);
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_failed_key_comes_back_by_itself_and_later_each_time() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.add(key("a"));
        let mut delays = Vec::new();
        for _ in 0..8 {
            assert_eq!(queue.pop(now), Some(key("a")));
            queue.finish(key("a"), Next::Failure, now);
            assert_eq!(queue.pop(now), None);
            let due = queue.next_due().unwrap();
            delays.push(due - now);
            now = due;
        }
        assert!(delays[0] <= SECOND && delays[7] > SECOND, "{delays:?}");
        queue.pop(now);
        queue.finish(key("a"), Next::Change, now);
        queue.add(key("a"));
        queue.pop(now);
        queue.finish(key("a"), Next::Failure, now);
        assert!(queue.next_due().unwrap() - now <= SECOND, "success forgets");
    }

    #[test]
    fn a_change_hurries_a_key_that_waits_for_its_time() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.pop(now);
        queue.finish(key("a"), Next::After(SECOND), now);
        assert_eq!(queue.pop(now), None);
        queue.add(key("a"));
        assert_eq!(queue.pop(now), Some(key("a")));
        queue.finish(key("a"), Next::Change, now);
        assert_eq!(queue.pop(now + SECOND), None);
    }
}
