//! Finding out what became of batches whose connections broke.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::apply::{self, Header, Unresolved};
use crate::error::WriteError;
use crate::generations::RECONNECT_PAUSE;
use crate::link::{Backend, Link, within};
use crate::planted::{self, Bug};
use crate::shared::{RETRY, Shared};
use crate::types::Revision;
use crate::writer::{Leader, Queued};

/// An outcome that is still unknown this long after the batch began stays so for the client.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(4800);

/// A write that has so often been lost with its connection, without effect, is refused: it may be
/// what ends them.
const MOST_LOSSES: u32 = 3;

/// Batches whose outcome is unknown, in their order.
pub(crate) struct Doubt {
    backend: Backend,
    batches: Vec<(Vec<Queued>, i64, Instant)>,
    /// Their revisions are above this one.
    after: Revision,
}

impl Doubt {
    /// `None` when there is nothing to find out.
    pub(crate) fn new(
        backend: Backend,
        unproved: impl Iterator<Item = (Vec<Queued>, Header, Instant)>,
    ) -> Option<Self> {
        let mut after = Revision::new(i64::MAX);
        let batches: Vec<_> = unproved
            .map(|(batch, header, began)| {
                // All that a batch may write comes after what had been seen when it began.
                after = after.min(header.seen);
                (batch, header.number, began + RESOLVE_TIMEOUT)
            })
            .collect();
        (!batches.is_empty()).then_some(Self {
            backend,
            batches,
            after,
        })
    }

    /// Answers the batches whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        self.batches.retain_mut(|(batch, _, deadline)| {
            if *deadline > now {
                return true;
            }
            let writes = batch.len();
            tracing::warn!(writes, "the outcome of a batch of writes stays unknown");
            for queued in batch.drain(..) {
                queued.answer(Err(WriteError::OutcomeUnknown));
            }
            false
        });
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.batches.iter().map(|(.., deadline)| *deadline).min()
    }

    async fn ask(&self, shared: &Shared) -> Result<(Link, apply::Found), sqlx::Error> {
        let mut link = Link::open(shared).await?;
        shared.ensure_known(&link)?;
        let numbers: Vec<i64> = self.batches.iter().map(|(_, number, _)| *number).collect();
        let unresolved = Unresolved {
            backend: &self.backend,
            numbers: &numbers,
            after: self.after,
            seen: shared.applied(),
            notify: shared.accompanied.load(Ordering::Relaxed),
        };
        let found = apply::resolve(&mut link, &unresolved).await?;
        Ok((link, found))
    }
}

impl Leader {
    /// Finds out what became of batches. What was applied is durable then, and answered; what was
    /// not is tried again, a few times; what stays unknown is answered so.
    pub(crate) async fn resolve(&mut self, mut doubt: Doubt) -> Option<Link> {
        if planted::is(Bug::UnresolvedIsFailed) {
            let batches = doubt.batches.into_iter();
            for queued in batches.flat_map(|(batch, ..)| batch) {
                queued.answer(Err(WriteError::Unavailable { retry: RETRY }));
            }
            return None;
        }
        let shared = Arc::clone(&self.shared);
        while let Some(deadline) = doubt.next_deadline() {
            let left = deadline.saturating_duration_since(Instant::now());
            let asking = within(left, doubt.ask(&shared));
            match self.hold(asking).await {
                Ok((link, found)) => {
                    self.settle(doubt, &found);
                    return Some(link);
                }
                Err(error) => tracing::debug!(%error, "outcome not found out yet"),
            }
            doubt.expire();
            // What was queued behind a batch in doubt was never sent.
            self.refuse_waiting();
            sleep(RECONNECT_PAUSE).await;
        }
        None
    }

    fn settle(&mut self, doubt: Doubt, found: &apply::Found) {
        if let Some(newest) = found.values().max() {
            self.shared.look_up_to(*newest);
        }
        for (batch, number, _) in doubt.batches.into_iter().rev() {
            let mut again = Vec::new();
            for mut queued in batch {
                match found.get(&(number, queued.resource, queued.write.key.clone())) {
                    Some(revision) if !planted::is(Bug::ResolvedTriedAgain) => {
                        queued.answer(Ok(*revision));
                    }
                    _ => {
                        queued.losses += 1;
                        if queued.losses < MOST_LOSSES {
                            again.push(queued);
                        } else {
                            queued.answer(Err(WriteError::Unavailable { retry: RETRY }));
                        }
                    }
                }
            }
            if again.iter().any(|queued| queued.losses > 1) {
                // One of them may be why, and must not take the others with it.
                self.alone += again.len();
            }
            self.put_back(again);
        }
    }
}
