//! A term of work: from the first list to the last reconcile.
//!
//! Caches live as long as the term, so that a new leader never decides on what it
//! saw before its predecessor's last write.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{Stream, StreamExt, select};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use widget_types::v1::Widget;

use crate::deployment;
use crate::error::ControllerError;
use crate::events::Recorder;
use crate::metrics::Metrics;
use crate::queue::{Key, Next, Queue};
use crate::reconcile::Context;
use crate::watch::{Trigger, watch};

/// Widgets worked on at a time.
const CONCURRENCY: usize = 8;
/// How long reconciles in flight have when the process stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// What a term needs from the process.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) client: Client,
    pub(crate) identity: String,
    pub(crate) metrics: Metrics,
    /// True while the caches of a running term hold everything.
    pub(crate) synced: Arc<AtomicBool>,
}

/// How a term ends.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// Finish what is in flight and start nothing.
    pub(crate) stop: CancellationToken,
    /// Drop everything: somebody else may lead.
    pub(crate) lost: CancellationToken,
}

type Finished = (Key, Result<Next, ControllerError>, Duration);

/// Reconciles until one of the ends comes.
pub(crate) async fn run(process: Process, ends: Ends) {
    let metrics = process.metrics.clone();
    let (widgets, widget_triggers) = watch(
        Api::<Widget>::all(process.client.clone()),
        |widget| widget.metadata.managed_fields = None,
        "widgets",
        metrics.clone(),
    );
    let (deployments, deployment_triggers) = watch(
        Api::<Deployment>::all(process.client.clone()),
        deployment::trim,
        "deployments",
        metrics.clone(),
    );
    let context = Context {
        recorder: Recorder::new(process.client.clone(), process.identity, metrics.clone()),
        client: process.client,
        widgets,
        deployments,
        metrics,
    };
    let triggers = select(
        widget_triggers.map(|trigger| (Source::Widgets, trigger)),
        deployment_triggers.map(|trigger| (Source::Deployments, trigger)),
    );
    let term = Term {
        context: Arc::new(context),
        queue: Queue::default(),
        running: JoinSet::new(),
        keys: HashMap::new(),
        listed: Listed::default(),
    };
    term.work(Box::pin(triggers), &process.synced, &ends).await;
    process.synced.store(false, Ordering::Relaxed);
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Widgets,
    Deployments,
}

/// Which caches hold a whole list.
#[derive(Debug, Default)]
struct Listed {
    widgets: bool,
    deployments: bool,
}

struct Term {
    context: Arc<Context>,
    queue: Queue,
    running: JoinSet<Finished>,
    /// Whom a task works on, should it break off without saying.
    keys: HashMap<Id, Key>,
    listed: Listed,
}

impl Term {
    async fn work(
        mut self,
        mut triggers: impl Stream<Item = (Source, Trigger)> + Unpin,
        synced: &AtomicBool,
        ends: &Ends,
    ) {
        loop {
            if self.listed.widgets && self.listed.deployments {
                synced.store(true, Ordering::Relaxed);
                self.start_work();
            }
            let depth = i64::try_from(self.queue.depth()).unwrap_or(i64::MAX);
            self.context.metrics.queue_depth.set(depth);
            let due = self.queue.next_due();
            tokio::select! {
                biased;
                () = ends.lost.cancelled() => break,
                () = ends.stop.cancelled() => break,
                Some(joined) = self.running.join_next_with_id() => self.finish(joined),
                Some((source, trigger)) = triggers.next() => self.take(source, trigger),
                () = sleep_until(due), if due.is_some() => {}
            }
        }
        self.end(ends).await;
    }

    fn take(&mut self, source: Source, trigger: Trigger) {
        match trigger {
            Trigger::One(key) => match source {
                // A Deployment is anybody's; a Widget that is gone needs no work.
                Source::Deployments if self.context.widgets.get(&key).is_none() => {}
                _ => self.queue.add(key),
            },
            Trigger::All => {
                match source {
                    Source::Widgets => self.listed.widgets = true,
                    Source::Deployments => self.listed.deployments = true,
                }
                for key in self.context.widgets.keys() {
                    self.queue.add(key);
                }
            }
        }
    }

    fn start_work(&mut self) {
        while self.running.len() < CONCURRENCY {
            let Some(key) = self.queue.pop(Instant::now()) else {
                return;
            };
            let context = Arc::clone(&self.context);
            let span = tracing::info_span!("reconcile", widget = %key);
            let of = key.clone();
            let work = async move {
                let begun = Instant::now();
                let result = context.reconcile(&key).await;
                if let Err(error) = &result {
                    log_failure(error);
                }
                (key, result, begun.elapsed())
            };
            let task = self.running.spawn(work.instrument(span));
            self.keys.insert(task.id(), of);
        }
    }

    fn finish(&mut self, joined: Result<(Id, Finished), JoinError>) {
        let metrics = &self.context.metrics;
        let (key, next) = match joined {
            Ok((id, (key, result, took))) => {
                self.keys.remove(&id);
                metrics.count_reconcile(took, result.is_ok());
                if let Err(error) = &result {
                    metrics.count_error(error.kind());
                }
                (key, result.unwrap_or(Next::Failure))
            }
            Err(error) => {
                let Some(key) = self.keys.remove(&error.id()) else {
                    return;
                };
                metrics.count_error("panic");
                tracing::error!(%key, %error, "reconcile broke off");
                (key, Next::Failure)
            }
        };
        self.queue.finish(key, next, Instant::now());
    }

    async fn end(mut self, ends: &Ends) {
        let drained = async { while self.running.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = ends.lost.cancelled() => {}
            () = drained => {}
            () = tokio::time::sleep(DRAIN_LIMIT) => {
                tracing::info!("reconciles in flight are dropped");
            }
        }
        self.running.shutdown().await;
        self.context.metrics.queue_depth.set(0);
    }
}

/// A person must look at a refusal; the rest passes.
fn log_failure(error: &ControllerError) {
    let text = error.describe();
    match error.kind() {
        "refused" => tracing::warn!(error = text, "reconcile refused, trying again"),
        "conflict" => tracing::debug!(error = text, "reconcile overtaken, looking again"),
        _ => tracing::info!(error = text, "reconcile failed, trying again"),
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
