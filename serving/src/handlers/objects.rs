//! The objects of a list, found as they are needed.
//!
//! A snapshot shares its objects with the cache, so holding it costs nothing however large it is;
//! what is selected is not collected but looked for in turns that each take well under a
//! millisecond.

use std::sync::Arc;

use store::{Key, Snapshot, Stored};

use super::selection::Selection;
use crate::view::View;

/// Objects looked at in one turn. The first time that a selector looks at one, it is parsed.
const TURN: usize = 256;

/// Objects counted in one turn.
const COUNTED: usize = 10_000;

/// Some objects, in the order of their keys.
pub(super) type Batch = Vec<Arc<Stored<View>>>;

/// What is still to come of a list.
#[derive(Clone)]
pub(super) enum Objects {
    /// Everything after a key that is selected.
    Selected(Search),
    /// These, from a place on.
    Listed(Arc<[Arc<Stored<View>>]>, usize),
}

/// A way through a snapshot.
#[derive(Clone)]
pub(super) struct Search {
    selection: Arc<Selection>,
    snapshot: Snapshot<View>,
    after: Option<Key>,
    is_over: bool,
}

impl Objects {
    /// What a selection selects after a key.
    pub(super) fn selected(
        selection: &Arc<Selection>,
        snapshot: Snapshot<View>,
        after: Option<Key>,
    ) -> Self {
        Self::Selected(Search {
            selection: Arc::clone(selection),
            snapshot,
            after,
            is_over: false,
        })
    }

    /// These objects.
    pub(super) fn listed(objects: Batch) -> Self {
        Self::Listed(objects.into(), 0)
    }

    /// The next ones; none may have been found yet, and `None` is the end.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        match self {
            Self::Selected(search) => search.next_batch(),
            Self::Listed(objects, place) => {
                let batch: Batch = objects.iter().skip(*place).take(TURN).cloned().collect();
                *place += batch.len();
                (!batch.is_empty()).then_some(batch)
            }
        }
    }

    /// The first `most`, leaving others on the worker their turns.
    pub(super) async fn take(&mut self, most: usize) -> Batch {
        let mut taken = Batch::new();
        while taken.len() < most
            && let Some(batch) = self.next_batch()
        {
            taken.extend(batch);
            tokio::task::yield_now().await;
        }
        taken.truncate(most);
        taken
    }

    /// How many there are after a key, when everything is selected.
    pub(super) async fn count_after(&self, key: &Key) -> usize {
        let Self::Selected(search) = self else {
            return 0;
        };
        let (mut count, mut after) = (0, Some(key.clone()));
        loop {
            let rest = search
                .selection
                .candidates(&search.snapshot, after.as_ref());
            let (counted, last) = rest.take(COUNTED).fold((0, None), |(count, _), stored| {
                (count + 1, Some(&stored.key))
            });
            count += counted;
            if counted < COUNTED {
                return count;
            }
            after = last.cloned();
            tokio::task::yield_now().await;
        }
    }
}

impl Search {
    fn next_batch(&mut self) -> Option<Batch> {
        if self.is_over {
            return None;
        }
        let mut looked = 0;
        let mut last = None;
        let mut batch = Batch::new();
        for stored in self
            .selection
            .candidates(&self.snapshot, self.after.as_ref())
        {
            if looked == TURN {
                break;
            }
            looked += 1;
            last = Some(&stored.key);
            if self.selection.matches(stored) {
                batch.push(Arc::clone(stored));
            }
        }
        self.is_over = looked < TURN;
        self.after = last.cloned().or_else(|| self.after.take());
        Some(batch)
    }
}
