//! The leader of the writes: gathers what is queued, has Postgres apply it in one transaction, and
//! answers.
//!
//! One batch is in flight at a time; what arrives meanwhile makes the next one, so batches grow
//! with load and a lone write waits for nobody.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::apply::{self, Applied, Header, Outcome};
use crate::error::WriteError;
use crate::link::{Failure, Link, classify, timed_out};
use crate::log::LoggedEvent;
use crate::shared::{RETRY, Shared};
use crate::types::{EventKind, Operation, Revision, Write};

/// A batch has at most this many writes.
const MOST_WRITES: usize = 512;
/// A batch has at most this many bytes of bodies, unless a single write is larger.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A batch that is not answered by then has an unknown outcome.
const APPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// An outcome that is still unknown this long after the batch began stays so for the client.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(4800);
/// Between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often a batch that lost against another transaction is tried again.
const RETRIES: u32 = 5;
/// Batches of one process are numbered within this many bits.
const COUNTER_BITS: u32 = 31;

/// A write on its way.
pub(crate) struct Queued {
    pub(crate) resource: i32,
    pub(crate) write: Write,
    pub(crate) reply: oneshot::Sender<Result<Revision, WriteError>>,
}

impl Queued {
    /// Whoever asked may have gone; the write stands all the same.
    fn answer(self, result: Result<Revision, WriteError>) {
        let _ = self.reply.send(result);
    }
}

/// Whether a batch is one of this process.
pub(crate) fn is_own(shared: &Shared, batch: i64) -> bool {
    batch >> COUNTER_BITS == shared.writer
}

/// A batch whose outcome is unknown.
struct Doubt {
    batch: Vec<Queued>,
    number: i64,
    /// Its revisions are above this one.
    before: Revision,
    deadline: Instant,
}

pub(crate) struct Leader {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Queued>,
    /// Taken from the queue and not yet tried.
    pending: VecDeque<Queued>,
    batches: i64,
    /// How many of the next writes go one by one, because one of them spoils a batch.
    alone: usize,
}

impl Leader {
    pub(crate) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Queued>) -> Self {
        Self {
            shared,
            queue,
            pending: VecDeque::new(),
            batches: 0,
            alone: 0,
        }
    }

    /// `connected` is told when writes are accepted for the first time.
    pub(crate) async fn run(mut self, connected: oneshot::Sender<()>) {
        let mut connected = Some(connected);
        while let Some(mut link) = self.connect().await {
            self.shared.writable.store(true, Ordering::Release);
            if let Some(connected) = connected.take() {
                let _ = connected.send(());
            }
            while let Some(same) = self.serve(link).await {
                link = same;
            }
            self.shared.writable.store(false, Ordering::Release);
            if self.queue.is_closed() && self.queue.is_empty() && self.pending.is_empty() {
                return;
            }
        }
        self.refuse_waiting();
    }

    /// A connection to the database that the caches hold; refuses writes while there is none.
    /// `None` when the store stops.
    async fn connect(&mut self) -> Option<Link> {
        loop {
            match Link::open(&self.shared.options).await {
                Ok(link) if self.is_known(&link) => return Some(link),
                Ok(_) => self.shared.doubt.notify_one(),
                Err(error) => tracing::debug!(%error, "no connection for writes"),
            }
            self.refuse_waiting();
            tokio::select! {
                () = sleep(RECONNECT_PAUSE) => {}
                () = self.shared.stop.cancelled() => return None,
            }
        }
    }

    fn is_known(&self, link: &Link) -> bool {
        self.shared.epoch.load().as_deref() == Some(&link.epoch)
    }

    fn refuse_waiting(&mut self) {
        while let Ok(queued) = self.queue.try_recv() {
            self.pending.push_back(queued);
        }
        for queued in self.pending.drain(..) {
            queued.answer(Err(WriteError::Unavailable { retry: RETRY }));
        }
    }

    /// Answers one batch, or finds out that the link is lost or the store stops: then `None`.
    async fn serve(&mut self, mut link: Link) -> Option<Link> {
        if self.pending.is_empty() && !self.gather(&mut link).await {
            return None;
        }
        while self.pending.len() < MOST_WRITES {
            let Ok(queued) = self.queue.try_recv() else {
                break;
            };
            self.pending.push_back(queued);
        }
        let batch = self.next_batch();
        if batch.is_empty() {
            return Some(link);
        }
        // If the tail is lost, this link may be too: better to know before than after.
        if !*self.shared.tailing.borrow() && !is_alive(&mut link).await {
            self.pending.extend(batch);
            return None;
        }
        self.apply(link, batch).await
    }

    /// Waits for a write; false when there will be none, or the link has become doubtful.
    async fn gather(&mut self, link: &mut Link) -> bool {
        let mut tailing = self.shared.tailing.subscribe();
        tailing.mark_unchanged();
        loop {
            tokio::select! {
                received = self.queue.recv() => return match received {
                    Some(queued) => { self.pending.push_back(queued); true }
                    None => false,
                },
                _ = tailing.changed() => {
                    if !*tailing.borrow_and_update() && !is_alive(link).await {
                        return false;
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

    async fn apply(&mut self, mut link: Link, batch: Vec<Queued>) -> Option<Link> {
        let began = Instant::now();
        // All that the batch may write comes after it; the caches may be further by the time of doubt.
        let before = self.shared.applied();
        let mut attempt = 0;
        let (number, error) = loop {
            let number = self.number();
            let header = Header {
                number,
                floor: self.shared.floor(),
                notify: self.shared.accompanied.load(Ordering::Relaxed),
            };
            let applying = apply::apply(&mut link, header, &batch);
            match timeout(APPLY_TIMEOUT, applying)
                .await
                .unwrap_or_else(|_| Err(timed_out()))
            {
                Ok(applied) => {
                    self.finish(batch, number, applied);
                    return Some(link);
                }
                Err(error) => match classify(&error) {
                    Failure::Refused { code, .. } if attempt < RETRIES && is_transient(&code) => {
                        attempt += 1;
                        self.prepare_retry(&mut link, &code, attempt).await;
                    }
                    Failure::Refused { code, .. } if batch.len() > 1 && !is_passing(&code) => {
                        // One write must not fail its neighbours.
                        self.alone = batch.len();
                        batch
                            .into_iter()
                            .rev()
                            .for_each(|queued| self.pending.push_front(queued));
                        return Some(link);
                    }
                    Failure::Refused { code, message } => {
                        self.refuse(batch, &code, &message);
                        return Some(link).filter(|_| code != apply::OTHER_LIFE);
                    }
                    Failure::Lost => break (number, error),
                },
            }
        };
        tracing::warn!(%error, writes = batch.len(), "connection lost during a batch of writes");
        let doubt = Doubt {
            batch,
            number,
            before,
            deadline: began + RESOLVE_TIMEOUT,
        };
        self.resolve(link, doubt).await
    }

    fn number(&mut self) -> i64 {
        self.batches = (self.batches + 1) & ((1 << COUNTER_BITS) - 1);
        (self.shared.writer << COUNTER_BITS) | self.batches
    }

    async fn prepare_retry(&self, link: &mut Link, code: &str, attempt: u32) {
        if code == apply::NO_PARTITION {
            let extended = apply::extend_events(&mut link.connection).await;
            if let Err(error) = extended {
                tracing::error!(%error, "no room in the event log, and none could be made");
            }
        }
        sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
    }

    fn refuse(&self, batch: Vec<Queued>, code: &str, message: &str) {
        let error = match code {
            apply::OTHER_LIFE => {
                self.shared.doubt.notify_one();
                WriteError::Unavailable { retry: RETRY }
            }
            _ if is_passing(code) => {
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

    /// Brings a committed batch into the caches and answers.
    fn finish(&self, batch: Vec<Queued>, number: i64, applied: Applied) {
        let Applied { base, outcomes } = applied;
        let done = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Done(_)));
        let count = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
        let position = Revision::new(base.get().saturating_add(count));
        let pairs = || batch.iter().zip(&outcomes);
        let events = pairs().filter_map(|(queued, outcome)| match outcome {
            Outcome::Done(revision) => Some(event_of(queued, *revision)),
            _ => None,
        });
        if done && !self.shared.apply(Some(base), events.collect(), position) {
            // Others wrote in between; the tail reads all of it.
            tracing::trace!(batch = number, "own writes are read back from the log");
            self.shared.look_up_to(position);
        }
        for (queued, outcome) in batch.into_iter().zip(outcomes) {
            queued.answer(outcome.into_result());
        }
    }

    /// Finds out what became of a batch whose connection broke. What was applied is answered; what
    /// was not is tried again; what stays unknown is answered so.
    async fn resolve(&mut self, lost: Link, doubt: Doubt) -> Option<Link> {
        let Doubt {
            batch,
            number,
            before,
            deadline,
        } = doubt;
        self.shared.writable.store(false, Ordering::Release);
        let Link {
            connection,
            backend,
            ..
        } = lost;
        drop(connection);
        let mut done = None;
        while done.is_none() && Instant::now() < deadline {
            let asking = async {
                let mut link = Link::open(&self.shared.options).await?;
                let known = self.is_known(&link);
                if !known {
                    self.shared.doubt.notify_one();
                    return Err(timed_out());
                }
                let found = apply::resolve(&mut link, &backend, number, before).await?;
                Ok((link, found))
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, asking).await {
                Ok(Ok(found)) => done = Some(found),
                Ok(Err(error)) => tracing::debug!(%error, "outcome not found out yet"),
                Err(_) => {}
            }
            if done.is_none() {
                // What was queued behind a batch in doubt was never sent.
                self.refuse_waiting();
                sleep(RECONNECT_PAUSE).await;
            }
        }
        let Some((link, found)) = done else {
            tracing::warn!(
                writes = batch.len(),
                "the outcome of a batch of writes stays unknown"
            );
            for queued in batch {
                queued.answer(Err(WriteError::OutcomeUnknown));
            }
            return None;
        };
        self.shared.look.notify_one();
        for queued in batch.into_iter().rev() {
            match found.get(&(queued.resource, queued.write.key.clone())) {
                Some(revision) => queued.answer(Ok(*revision)),
                None => self.pending.push_front(queued),
            }
        }
        self.shared.writable.store(true, Ordering::Release);
        Some(link)
    }
}

fn event_of(queued: &Queued, revision: Revision) -> LoggedEvent {
    let operation = &queued.write.operation;
    LoggedEvent {
        resource: queued.resource,
        kind: match operation {
            Operation::Create { .. } => EventKind::Added,
            Operation::Update { .. } => EventKind::Modified,
            Operation::Delete { .. } => EventKind::Deleted,
        },
        revision,
        key: queued.write.key.clone(),
        uid: operation.uid(),
        body: operation.body().clone(),
    }
}

/// Nothing about the writes themselves: another life, resources, intervention, read-only.
fn is_passing(code: &str) -> bool {
    let classes = ["53", "57", "58", "25"];
    code == apply::OTHER_LIFE || is_transient(code) || classes.iter().any(|c| code.starts_with(c))
}

fn is_transient(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03" | apply::NO_PARTITION)
}

async fn is_alive(link: &mut Link) -> bool {
    let asked = sqlx::query("SELECT 1").execute(&mut link.connection);
    matches!(timeout(Duration::from_secs(1), asked).await, Ok(Ok(_)))
}
