//! A few values that are dear to compute, for as long as somebody asks for them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Values that nobody asked for during this time are let go.
const UNUSED: Duration = Duration::from_secs(60);

pub(crate) struct Recent<K, V> {
    most: usize,
    values: Mutex<VecDeque<(K, Instant, V)>>,
}

impl<K, V: Clone> Recent<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            values: Mutex::default(),
        }
    }

    /// The value of a key that `fits`.
    pub(crate) fn find(&self, fits: impl Fn(&K) -> bool) -> Option<V> {
        self.values()
            .iter_mut()
            .find(|(key, ..)| fits(key))
            .map(|(_, used, value)| {
                *used = Instant::now();
                value.clone()
            })
    }

    /// The value of `key`, which is made if it is not there.
    pub(crate) fn find_or(&self, key: K, make: impl FnOnce() -> V) -> V
    where
        K: PartialEq,
    {
        let mut values = self.values();
        if let Some((_, used, value)) = values.iter_mut().find(|(known, ..)| *known == key) {
            *used = Instant::now();
            return value.clone();
        }
        let value = make();
        values.push_back((key, Instant::now(), value.clone()));
        if values.len() > self.most {
            values.pop_front();
        }
        value
    }

    /// Lets values go, those first that nobody has asked for the longest, until the rest has at most
    /// `most` bytes or is one. What has no bytes stays.
    pub(crate) fn shed(&self, most: usize, bytes_of: impl Fn(&V) -> usize) {
        let mut values = self.values();
        let mut by_use: Vec<_> = values
            .iter()
            .map(|(_, used, value)| (*used, bytes_of(value)))
            .filter(|(_, bytes)| *bytes > 0)
            .collect();
        by_use.sort_unstable();
        by_use.pop();
        let mut left: usize = values.iter().map(|(.., value)| bytes_of(value)).sum();
        for (used, bytes) in by_use {
            if left <= most {
                break;
            }
            left -= bytes;
            values.retain(|(_, at, value)| *at != used || bytes_of(value) == 0);
        }
    }

    pub(crate) fn trim(&self, now: Instant) {
        self.values()
            .retain(|(_, used, _)| now.saturating_duration_since(*used) < UNUSED);
    }

    /// The list is whole between any two statements, so a panic elsewhere cannot spoil it.
    fn values(&self) -> MutexGuard<'_, VecDeque<(K, Instant, V)>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_value_makes_room() {
        let recent = Recent::new(2);
        for key in 1..=3 {
            assert_eq!(recent.find_or(key, || key * 10), key * 10);
        }
        assert_eq!(recent.find(|key| *key == 1), None);
        assert_eq!(recent.find_or(3, || 0), 30);
    }

    #[test]
    fn the_values_that_were_used_last_stay_until_the_rest_is_small_enough() {
        let recent = Recent::new(5);
        for key in 1..=4 {
            recent.find_or(key, || 10 * key);
        }
        recent.shed(75, |value| *value);
        assert_eq!(recent.find(|key| *key <= 2), None);
        assert_eq!(recent.find(|key| *key == 3), Some(30));
        recent.find_or(5, || 0);
        recent.shed(5, |value| *value);
        assert_eq!(recent.find(|key| *key == 4), None, "nobody asked for it");
        assert_eq!(recent.find(|key| *key == 3), Some(30), "one is always kept");
        assert_eq!(
            recent.find(|key| *key == 5),
            Some(0),
            "it may be being made"
        );
    }

    #[test]
    fn an_unused_value_is_let_go() {
        let recent = Recent::new(2);
        recent.find_or(1, || 10);
        recent.trim(Instant::now() + UNUSED / 2);
        assert_eq!(recent.find(|key| *key == 1), Some(10));
        recent.trim(Instant::now() + UNUSED);
        assert_eq!(recent.find(|key| *key == 1), None);
    }
}
