//! The leader of the writes: gathers what is queued, has Postgres apply it in one transaction, and
//! answers.
//!
//! One batch is applied at a time; what arrives meanwhile makes the next one, so batches grow with
//! load and a lone write waits for nobody. What has been applied waits for proof that it is durable
//! while the next batch is applied, unless the disk is fast: see [`crate::pipe`].

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::Instant;

use crate::apply::{self, Applied, Header, Outcome};
use crate::attempt::{Attempt, Tried};
use crate::error::WriteError;
use crate::failpoints::{Point, pass};
use crate::log::LoggedEvent;
use crate::pipe::{Pipe, Step};
use crate::planted::{self, Bug};
use crate::shared::{RETRY, Shared};
use crate::types::{EventKind, Operation, Revision, Write};

/// A batch has at most this many writes.
const MOST_WRITES: usize = 512;
/// A batch has at most this many bytes of bodies, unless a single write is larger.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// When the last write of another process is this long ago, nobody waits for the lock.
const COMPANY: Duration = Duration::from_secs(1);
/// Batches of one process are numbered within this many bits.
const COUNTER_BITS: u32 = 31;

/// A write on its way.
pub(crate) struct Queued {
    pub(crate) resource: i32,
    pub(crate) write: Write,
    pub(crate) reply: Option<oneshot::Sender<Result<Revision, WriteError>>>,
    /// How often the connection was lost while it was tried, without effect.
    pub(crate) losses: u32,
}

impl Queued {
    /// Whoever asked may have gone; the write stands all the same.
    pub(crate) fn answer(mut self, result: Result<Revision, WriteError>) {
        self.answer_early(result);
    }

    fn answer_early(&mut self, result: Result<Revision, WriteError>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }
}

/// Whether a batch is one of this process.
pub(crate) fn is_own(shared: &Shared, batch: i64) -> bool {
    batch >> COUNTER_BITS == shared.writer
}

pub(crate) struct Leader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: OwnedMutexGuard<mpsc::Receiver<Queued>>,
    /// Taken from the queue and not yet tried.
    pub(crate) pending: VecDeque<Queued>,
    /// How many of the next writes go one by one, because one of them spoils a batch.
    pub(crate) alone: usize,
    /// When another process was last seen to have written in between.
    company: Option<Instant>,
}

/// Why a generation of connections is over.
pub(crate) enum Ending {
    /// Nothing is left to do.
    Stopped,
    /// It is lost, in the middle of this batch if there is one.
    Lost(Option<(Vec<Queued>, Header, Instant)>),
}

impl Leader {
    pub(crate) fn new(shared: Arc<Shared>, queue: OwnedMutexGuard<mpsc::Receiver<Queued>>) -> Self {
        Self {
            shared,
            queue,
            pending: VecDeque::new(),
            alone: 0,
            company: None,
        }
    }

    /// Answers writes until the connections are lost or the store stops.
    pub(crate) async fn serve(&mut self, pipe: &mut Pipe) -> Ending {
        let mut tailing = self.shared.tailing.subscribe();
        tailing.mark_unchanged();
        loop {
            while self.pending.len() < MOST_WRITES
                && let Ok(queued) = self.queue.try_recv()
            {
                self.pending.push_back(queued);
            }
            if pipe.is_free() && !self.pending.is_empty() {
                let batch = self.next_batch();
                pipe.start(self.header(pipe, batch.len()), batch);
            }
            pipe.flush();
            if pipe.is_done() && self.is_done() {
                return Ending::Stopped;
            }
            let waiting = pipe.is_free() && !self.queue.is_closed();
            tokio::select! {
                step = pipe.next() => if let Some(ending) = self.take(pipe, step) {
                    return ending;
                },
                Some(queued) = self.queue.recv(), if waiting => self.pending.push_back(queued),
                Ok(()) = tailing.changed() => {
                    if !*tailing.borrow_and_update() && pipe.is_free() {
                        pipe.start(self.header(pipe, 0), Vec::new());
                    }
                }
                () = self.shared.stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
        }
    }

    /// At most one write for each key; the rest stays in order.
    fn next_batch(&mut self) -> Vec<Queued> {
        let mut keys = HashSet::new();
        let mut bytes = 0;
        let mut batch: Vec<Queued> = Vec::new();
        let mut rest = VecDeque::new();
        let most = if self.alone > 0 { 1 } else { MOST_WRITES };
        self.alone = self.alone.saturating_sub(1);
        for queued in self.pending.drain(..) {
            let size = queued.write.operation.body().len();
            let fits = batch.is_empty() || bytes + size <= MOST_BYTES && batch.len() < most;
            // A key that waits keeps later writes to it waiting too.
            if keys.insert((queued.resource, queued.write.key.clone())) && fits {
                bytes += size;
                batch.push(queued);
            } else {
                rest.push_back(queued);
            }
        }
        self.pending = rest;
        batch
    }

    fn header(&mut self, pipe: &Pipe, writes: usize) -> Header {
        let made = self.shared.batches.fetch_add(1, Ordering::Relaxed) + 1;
        let number = (self.shared.writer << COUNTER_BITS) | (made & ((1 << COUNTER_BITS) - 1));
        let durable = self.is_to_wait(pipe, writes);
        Header {
            number,
            seen: self.shared.applied(),
            floor: self.shared.floor(),
            durable,
            notify: durable && self.shared.accompanied.load(Ordering::Relaxed),
        }
    }

    /// Whether the commit of a batch itself is to wait for the disk. That costs one answer less,
    /// but keeps everybody else waiting too.
    fn is_to_wait(&self, pipe: &Pipe, writes: usize) -> bool {
        if self.shared.has_elders.load(Ordering::Relaxed) {
            return true;
        }
        let in_company = self.company.is_some_and(|at| at.elapsed() < COMPANY);
        pipe.is_quiet() && (!pipe.is_slow() || writes == 1 && !in_company)
    }

    /// What has become of a batch; says so when the connections are lost.
    fn take(&mut self, pipe: &mut Pipe, step: Step) -> Option<Ending> {
        match step {
            Step::Proved(flights) => {
                for flight in flights {
                    self.finish(flight.batch, flight.header.number, flight.applied);
                }
                None
            }
            Step::Lost(error) => {
                tracing::warn!(%error, "connection lost before writes were known to be durable");
                Some(Ending::Lost(None))
            }
            Step::Tried(batch, attempt) => self.take_tried(pipe, batch, attempt),
        }
    }

    fn take_tried(
        &mut self,
        pipe: &mut Pipe,
        batch: Vec<Queued>,
        mut attempt: Attempt,
    ) -> Option<Ending> {
        let tried = std::mem::replace(&mut attempt.tried, Tried::NotSent);
        let (header, began) = (attempt.header, attempt.began);
        match tried {
            Tried::Applied(applied) => {
                pipe.keep(attempt);
                self.take_applied(pipe, batch, (header, began, applied));
                None
            }
            Tried::Refused { code, .. } if batch.len() > 1 && !apply::is_passing(&code) => {
                // One write must not fail its neighbours.
                self.alone = batch.len();
                self.put_back(batch);
                pipe.keep(attempt);
                None
            }
            Tried::Refused { code, message } => {
                self.refuse(batch, &code, &message);
                pipe.keep(attempt);
                (code == apply::OTHER_LIFE).then_some(Ending::Lost(None))
            }
            Tried::NotSent => {
                self.put_back(batch);
                Some(Ending::Lost(None))
            }
            Tried::Lost(error) => {
                tracing::warn!(%error, writes = batch.len(), "connection lost during a batch of writes");
                Some(Ending::Lost(Some((batch, header, began))))
            }
        }
    }

    fn take_applied(
        &mut self,
        pipe: &mut Pipe,
        mut batch: Vec<Queued>,
        (header, began, applied): (Header, Instant, Applied),
    ) {
        if batch.is_empty() {
            return;
        }
        let rests_on_durable = |outcome: &Outcome| match outcome {
            Outcome::Exists(current) | Outcome::Conflict(current) => *current <= header.seen,
            Outcome::Done(_) | Outcome::Missing => false,
        };
        // A commit that wrote nothing waits for nothing; and what it saw may be undone by a crash.
        let waited = header.durable && applied.newest().is_some();
        if waited || applied.outcomes.iter().all(rests_on_durable) {
            self.finish(batch, header.number, applied);
            return;
        }
        if planted::is(Bug::PublishBeforeBarrier) {
            self.publish(&batch, header.number, &applied);
        }
        if planted::is(Bug::AckBeforeBarrier) {
            for (queued, outcome) in batch.iter_mut().zip(&applied.outcomes) {
                queued.answer_early(outcome.into_result());
            }
        }
        pipe.launch(batch, (header, began, applied));
    }

    pub(crate) fn put_back(&mut self, batch: Vec<Queued>) {
        for queued in batch.into_iter().rev() {
            self.pending.push_front(queued);
        }
    }

    fn refuse(&self, batch: Vec<Queued>, code: &str, message: &str) {
        let error = match code {
            apply::OTHER_LIFE => {
                self.shared.doubt.notify_one();
                WriteError::Unavailable { retry: RETRY }
            }
            _ if apply::is_passing(code) => {
                tracing::warn!(code, message, "the database cannot write");
                WriteError::Unavailable { retry: RETRY }
            }
            _ => {
                tracing::error!(code, message, "the database refused a write");
                WriteError::Refused(message.to_owned())
            }
        };
        for queued in batch {
            queued.answer(Err(error.clone()));
        }
    }

    /// Brings a durable batch into the caches and answers.
    fn finish(&mut self, batch: Vec<Queued>, number: i64, applied: Applied) {
        self.publish(&batch, number, &applied);
        pass(Point::Answer);
        for (mut queued, outcome) in batch.into_iter().zip(applied.outcomes) {
            match outcome {
                Outcome::Conflict(current) if planted::is(Bug::NoCompareAndSwap) => {
                    queued.write.operation.expect(current);
                    self.pending.push_front(queued);
                }
                _ => queued.answer(outcome.into_result()),
            }
        }
    }

    fn publish(&mut self, batch: &[Queued], number: i64, applied: &Applied) {
        let Some(newest) = applied.newest() else {
            return;
        };
        let Applied { base, outcomes } = applied;
        // A revision was allotted to each, also to those that were not applied.
        let count = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
        let tip = Revision::new(base.get().saturating_add(count));
        let events = batch
            .iter()
            .zip(outcomes)
            .filter_map(|(queued, outcome)| match outcome {
                Outcome::Done(revision) => Some(event_of(queued, *revision, number)),
                _ => None,
            });
        pass(Point::PublishOwn);
        if !self.shared.apply(Some(*base), events.collect(), tip) {
            // Others wrote in between; the tail reads all of it.
            tracing::trace!(batch = number, "own writes are read back from the log");
            self.company = Some(Instant::now());
            self.shared.look_up_to(newest);
        }
    }
}

fn event_of(queued: &Queued, revision: Revision, batch: i64) -> LoggedEvent {
    let operation = &queued.write.operation;
    LoggedEvent {
        resource: queued.resource,
        kind: match operation {
            Operation::Create { .. } => EventKind::Added,
            Operation::Update { .. } => EventKind::Modified,
            Operation::Delete { .. } => EventKind::Deleted,
        },
        revision,
        batch,
        key: queued.write.key.clone(),
        uid: operation.uid(),
        body: Some(operation.body().clone()),
    }
}
