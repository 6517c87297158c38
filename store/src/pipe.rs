//! One generation of connections for writes, and the batches on their way through it.
//!
//! A batch commits without waiting for the disk, on the leader's connection; a barrier, one tiny
//! commit that does wait, on another connection, proves it and all batches before it. Meanwhile the
//! leader goes on with the next batch, so the disk holds up neither it nor other processes. Only
//! what a barrier has proved is published and answered, in the order of the batches, and then told to
//! other processes.
//!
//! The connections are opened together and are lost together. What was not proved by then may or
//! may not have survived: nothing of it was told to anybody, and all of it is found out anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, pending, try_join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::apply::{self, Applied, Header, Mark};
use crate::attempt::{ANSWER_TIMEOUT, Attempt, attempt};
use crate::link::{Backend, Failure, Link, classify, timed_out, within};
use crate::shared::Shared;
use crate::writer::Queued;

/// Connections for barriers. One more than is out at a time lets the next begin at once.
const BARRIERS: usize = 2;
/// What has been applied and is not proved yet is bounded; then the leader waits.
const MOST_UNPROVED: usize = 5000;
const MOST_UNPROVED_BYTES: usize = 64 * 1024 * 1024;
/// The speed of the disk is looked at this often, while there are writes.
const GAUGE: Duration = Duration::from_secs(1);
const GAUGED: usize = 8;

/// A batch that was applied and is not proved durable yet.
pub(crate) struct Flight {
    pub(crate) batch: Vec<Queued>,
    pub(crate) header: Header,
    pub(crate) began: Instant,
    pub(crate) applied: Applied,
    bytes: usize,
}

/// What happened next.
pub(crate) enum Step {
    /// The leader's connection has finished with this batch.
    Tried(Vec<Queued>, Attempt),
    /// These are durable.
    Proved(Vec<Flight>),
    /// The generation is lost.
    Lost(sqlx::Error),
}

/// What a connection for barriers has done.
struct Flushed {
    link: Link,
    did: Did,
    done: Result<(), sqlx::Error>,
}

enum Did {
    /// Proved all flights before the one with this number.
    Prove {
        until: u64,
        took: Duration,
        /// What is to be told to others.
        news: Option<Mark>,
    },
    Tell,
}

pub(crate) struct Pipe {
    shared: Arc<Shared>,
    /// Not while it is at a batch.
    leader: Option<Link>,
    /// The server process behind it.
    pub(crate) backend: Backend,
    attempt: Option<BoxFuture<'static, Attempt>>,
    /// The batch of the attempt.
    trying: Arc<Vec<Queued>>,
    began: Instant,
    header: Option<Header>,
    idle: Vec<Link>,
    barriers: FuturesUnordered<BoxFuture<'static, Flushed>>,
    flights: VecDeque<Flight>,
    /// The number of the first of the flights, and of the first that no barrier covers.
    first: u64,
    uncovered: u64,
    unproved: (usize, usize),
    gauge: Gauge,
}

impl Pipe {
    /// Opens all connections; `leader` is the first of them.
    pub(crate) async fn open(shared: &Arc<Shared>, leader: Link) -> Result<Self, sqlx::Error> {
        let opening = (0..BARRIERS).map(|_| async {
            let link = Link::open(shared).await?;
            if link.epoch != leader.epoch {
                return Err(timed_out());
            }
            // The first prepares the statement, the second tells how fast the disk is.
            let mut link = link;
            flush(&mut link, Mark::default()).await?;
            let took = flush(&mut link, Mark::default()).await?;
            Ok((link, took))
        });
        let mut gauge = Gauge::new();
        let mut idle = Vec::new();
        for (link, took) in try_join_all(opening).await? {
            gauge.note(took);
            idle.push(link);
        }
        Ok(Self {
            shared: Arc::clone(shared),
            backend: leader.backend.clone(),
            leader: Some(leader),
            attempt: None,
            trying: Arc::default(),
            began: Instant::now(),
            header: None,
            idle,
            barriers: FuturesUnordered::new(),
            flights: VecDeque::new(),
            first: 0,
            uncovered: 0,
            unproved: (0, 0),
            gauge,
        })
    }

    /// Whether the leader's connection is free and there is room behind it.
    pub(crate) fn is_free(&self) -> bool {
        let (writes, bytes) = self.unproved;
        self.leader.is_some() && writes < MOST_UNPROVED && bytes < MOST_UNPROVED_BYTES
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.leader.is_some() && self.flights.is_empty()
    }

    /// Whether all has been proved and told.
    pub(crate) fn is_done(&self) -> bool {
        self.is_quiet() && self.barriers.is_empty()
    }

    /// Whether the disk is so slow that the lock must not be held while it works.
    pub(crate) fn is_slow(&self) -> bool {
        self.gauge.best() > self.shared.config.slow_flush
    }

    /// Has the leader's connection apply a batch; an empty one only asks whether it is alive.
    pub(crate) fn start(&mut self, header: Header, batch: Vec<Queued>) {
        let Some(link) = self.leader.take() else {
            return;
        };
        self.trying = Arc::new(batch);
        self.began = Instant::now();
        self.header = Some(header);
        let trying = Arc::clone(&self.trying);
        let attempt = attempt(Arc::clone(&self.shared), link, header, trying);
        self.attempt = Some(Box::pin(attempt));
    }

    /// Takes up a batch that was applied and needs proof.
    pub(crate) fn launch(&mut self, batch: Vec<Queued>, attempt: (Header, Instant, Applied)) {
        let (header, began, applied) = attempt;
        let sizes = batch
            .iter()
            .map(|queued| queued.write.operation.body().len());
        let bytes = sizes.sum();
        self.unproved.0 += batch.len();
        self.unproved.1 += bytes;
        self.flights.push_back(Flight {
            batch,
            header,
            began,
            applied,
            bytes,
        });
    }

    /// Begins a barrier for what has none yet, or to see how fast the disk is.
    pub(crate) fn flush(&mut self) {
        let next = self.first + u64::try_from(self.flights.len()).unwrap_or(0);
        let gauging = self.attempt.is_some() && self.barriers.is_empty() && self.gauge.is_old();
        if self.uncovered == next && !gauging {
            return;
        }
        let Some(link) = self.idle.pop() else {
            return;
        };
        let mark = self.flights.iter().rev().find_map(|flight| {
            Some(Mark {
                revision: flight.applied.newest()?,
                batch: flight.header.number,
            })
        });
        self.uncovered = next;
        self.barriers.push(Box::pin(prove(link, mark, next)));
    }

    /// Waits for what is on its way. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Step {
        tokio::select! {
            Some(flushed) = self.barriers.next(), if !self.barriers.is_empty() => self.flushed(flushed),
            attempt = finished(&mut self.attempt) => {
                self.attempt = None;
                // The attempt has let go of it.
                let batch = Arc::into_inner(std::mem::take(&mut self.trying)).unwrap_or_default();
                Step::Tried(batch, attempt)
            }
        }
    }

    /// Gives the leader's connection back.
    pub(crate) fn keep(&mut self, attempt: Attempt) {
        self.leader = Some(attempt.link);
    }

    fn flushed(&mut self, flushed: Flushed) -> Step {
        let Flushed { link, did, done } = flushed;
        if let Err(error) = done {
            return Step::Lost(error);
        }
        let Did::Prove { until, took, news } = did else {
            self.idle.push(link);
            return Step::Proved(Vec::new());
        };
        self.gauge.note(took);
        match news.filter(|_| self.shared.accompanied.load(Ordering::Relaxed)) {
            Some(mark) => self.barriers.push(Box::pin(tell(link, mark))),
            None => self.idle.push(link),
        }
        let mut proved = Vec::new();
        while self.first < until
            && let Some(flight) = self.flights.pop_front()
        {
            self.first += 1;
            self.unproved.0 -= flight.batch.len();
            self.unproved.1 -= flight.bytes;
            proved.push(flight);
        }
        Step::Proved(proved)
    }

    /// Closes all connections; returns the batches that were not proved, in order, and last the
    /// one that was being tried.
    pub(crate) fn close(self) -> Vec<(Vec<Queued>, Header, Instant)> {
        let Self {
            attempt,
            trying,
            flights,
            began,
            header,
            ..
        } = self;
        drop(attempt);
        let flights = flights.into_iter();
        let mut unproved: Vec<_> = flights.map(|f| (f.batch, f.header, f.began)).collect();
        let trying = Arc::into_inner(trying).unwrap_or_default();
        if let Some(header) = header
            && !trying.is_empty()
        {
            unproved.push((trying, header, began));
        }
        unproved
    }
}

async fn finished(attempt: &mut Option<BoxFuture<'static, Attempt>>) -> Attempt {
    match attempt {
        Some(attempt) => attempt.await,
        None => pending().await,
    }
}

/// One barrier; how long it took.
async fn flush(link: &mut Link, mark: Mark) -> Result<Duration, sqlx::Error> {
    let began = Instant::now();
    within(ANSWER_TIMEOUT, apply::barrier(link, mark)).await?;
    Ok(began.elapsed())
}

/// A barrier for all flights before the one with number `until`, the newest of which is marked.
async fn prove(mut link: Link, news: Option<Mark>, until: u64) -> Flushed {
    let flushed = flush(&mut link, news.unwrap_or_default()).await;
    let took = flushed.as_ref().copied().unwrap_or_default();
    Flushed {
        link,
        did: Did::Prove { until, took, news },
        done: flushed.map(drop),
    }
}

async fn tell(mut link: Link, mark: Mark) -> Flushed {
    let mut done = within(ANSWER_TIMEOUT, apply::tell(&mut link, mark)).await;
    let full = |error| matches!(classify(error), Failure::Refused { code, .. } if code == apply::QUEUE_FULL);
    if done.as_ref().is_err_and(full) {
        tracing::warn!("the queue of notifications is full: others learn of writes by polling");
        done = Ok(());
    }
    Flushed {
        link,
        did: Did::Tell,
        done,
    }
}

/// How fast the disk is: the best of the last barriers, since others wait for a processor too.
struct Gauge {
    last: VecDeque<Duration>,
    at: Instant,
}

impl Gauge {
    fn new() -> Self {
        Self {
            last: VecDeque::new(),
            at: Instant::now(),
        }
    }

    fn note(&mut self, took: Duration) {
        self.last.push_back(took);
        if self.last.len() > GAUGED {
            self.last.pop_front();
        }
        self.at = Instant::now();
    }

    fn best(&self) -> Duration {
        self.last.iter().min().copied().unwrap_or_default()
    }

    fn is_old(&self) -> bool {
        self.at.elapsed() > GAUGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_as_fast_as_the_best_of_its_last_barriers() {
        let mut gauge = Gauge::new();
        gauge.note(Duration::from_micros(100));
        for _ in 1..GAUGED {
            gauge.note(Duration::from_millis(3));
        }
        assert_eq!(gauge.best(), Duration::from_micros(100));
        gauge.note(Duration::from_millis(2));
        assert_eq!(gauge.best(), Duration::from_millis(2));
    }
}
