//! Worker threads: each has a runtime of its own, drives connections, and holds the actix-web
//! application, whose services cannot leave their thread.
//!
//! A request is answered on the thread of its connection as long as that one is not busier than
//! another: handing a lone request over would cost more than answering it. The requests of a busy
//! connection spread over all threads.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_http::Request;
use actix_service::IntoServiceFactory;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Service, ServiceFactory, ServiceResponse};
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpResponse};
use futures::FutureExt;
use hyper::body::Incoming;
use machinery::error::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;

use super::body::{Piece, StreamBody, WireBody};
use super::config::Limits;
use super::connection::Connection;
use super::convert::{actix_request, status_response, wire_response};
use super::upgrade::Upgrade;
use crate::error::Error;

/// Pieces of a body that may lie between a worker and hyper.
const PIECES: usize = 4;

/// A worker takes a connection's request itself unless another one has at least this many fewer
/// under way.
const LEAD: usize = 4;
/// With more workers than this, the caller's thread is left to the store and to accepting.
const FEW: usize = 2;

/// Something to begin on a worker's thread.
type Errand = Box<dyn FnOnce() + Send>;

/// One request on its way to a worker.
pub(super) struct Job {
    pub(super) parts: http::request::Parts,
    pub(super) body: Incoming,
    pub(super) connection: Arc<Connection>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What a worker gives back.
pub(super) struct Answer {
    pub(super) response: http::Response<WireBody>,
    pub(super) upgrade: Option<Upgrade>,
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        Self {
            response: status_response(&error),
            upgrade: None,
        }
    }
}

/// The worker threads.
pub(super) struct Workers {
    queues: Vec<Arc<Queue>>,
    most_under_way: usize,
}

/// One worker, as those see it who have work for it.
pub(super) struct Queue {
    jobs: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    /// As many as there are new connections, which are counted elsewhere.
    errands: mpsc::UnboundedSender<Errand>,
    /// Places of requests that it may have queued or under way.
    places: Arc<Semaphore>,
    connections: AtomicUsize,
}

/// What a worker is given, as it sees it.
struct Intake {
    jobs: mpsc::Receiver<(Job, OwnedSemaphorePermit)>,
    errands: mpsc::UnboundedReceiver<Errand>,
}

/// A connection's place on a worker, until it is dropped.
pub(super) struct Home(Arc<Queue>);

impl Home {
    /// The worker.
    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.0)
    }

    /// Has it called on the worker's thread, within its `LocalSet`.
    pub(super) fn begin(self, errand: impl FnOnce(Self) + Send + 'static) {
        let queue = self.queue();
        // A worker that has ended has no use for it either.
        let _ = queue.errands.send(Box::new(|| errand(self)));
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` workers, each with its own application built by `app`. With few, the first
    /// is the calling thread itself, where the store lives; that must be in a `LocalSet`.
    /// The receiver ends once all workers have ended, which they do when this
    /// value is dropped and their requests are done.
    pub(super) async fn start<F>(
        count: usize,
        limits: &Limits,
        app: F,
    ) -> Result<(Self, mpsc::Receiver<()>), Error>
    where
        F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let (alive, ended) = mpsc::channel(1);
        let mut queues = Vec::with_capacity(count);
        for index in 0..count {
            let (queue, intake) = Queue::new(limits);
            queues.push(Arc::new(queue));
            let (started, start) = oneshot::channel();
            let (app, alive) = (app.clone(), alive.clone());
            let worker = Worker {
                app,
                body_idle: limits.body_idle_timeout,
                intake,
                started,
            };
            if index == 0 && count <= FEW {
                tokio::task::spawn_local(async move {
                    worker.run().await;
                    drop(alive);
                });
            } else {
                worker.start_thread(index, alive)?;
            }
            start
                .await
                .map_err(|_| Error::Worker("the application panicked".into()))??;
        }
        let workers = Self {
            queues,
            most_under_way: limits.under_way,
        };
        Ok((workers, ended))
    }

    /// A place for a new connection, where the fewest are.
    pub(super) fn place(&self) -> Home {
        let queue = self
            .queues
            .iter()
            .min_by_key(|queue| queue.connections.load(Ordering::Relaxed))
            .expect("there is a worker");
        queue.connections.fetch_add(1, Ordering::Relaxed);
        Home(Arc::clone(queue))
    }

    /// Hands over a request of a connection at home at `home`; drops it and says false when all
    /// have as much as they may have.
    #[must_use]
    pub(super) fn dispatch(&self, home: &Arc<Queue>, job: Job) -> bool {
        let under_way = |queue: &Arc<Queue>| self.most_under_way - queue.places.available_permits();
        let own = under_way(home);
        let least = self.queues.iter().min_by_key(|queue| under_way(queue));
        let queue = match least {
            Some(least) if own >= self.most_under_way || under_way(least) + LEAD <= own => least,
            _ => home,
        };
        let place = Arc::clone(&queue.places).try_acquire_owned();
        place.is_ok_and(|place| queue.jobs.try_send((job, place)).is_ok())
    }
}

impl Queue {
    fn new(limits: &Limits) -> (Self, Intake) {
        let (jobs, job_receiver) = mpsc::channel(limits.queue);
        let (errands, errand_receiver) = mpsc::unbounded_channel();
        let queue = Self {
            jobs,
            errands,
            places: Arc::new(Semaphore::new(limits.under_way)),
            connections: AtomicUsize::new(0),
        };
        let intake = Intake {
            jobs: job_receiver,
            errands: errand_receiver,
        };
        (queue, intake)
    }
}

/// A worker that has yet to be started.
struct Worker<F> {
    app: F,
    body_idle: Duration,
    intake: Intake,
    started: oneshot::Sender<Result<(), Error>>,
}

impl<F> Worker<F>
where
    F: Fn(&mut ServiceConfig) + Send + 'static,
{
    fn start_thread(self, index: usize, alive: mpsc::Sender<()>) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::Worker(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                runtime.block_on(LocalSet::new().run_until(self.run()));
                drop(alive);
            })
            .map_err(failed)?;
        Ok(())
    }

    async fn run(self) {
        let Self {
            app,
            body_idle,
            mut intake,
            started,
        } = self;
        let service = App::new()
            .configure(|config| app(config))
            .into_factory()
            .new_service(AppConfig::default());
        let service = match service.await {
            Ok(service) => Rc::new(service),
            Err(()) => {
                let error = Error::Worker("the application refused to start".into());
                // Whoever started this worker has gone if this fails.
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let (job, place) = tokio::select! {
                biased;
                job = intake.jobs.recv() => match job {
                    Some(job) => job,
                    None => break,
                },
                Some(errand) = intake.errands.recv() => {
                    errand();
                    continue;
                }
            };
            let service = Rc::clone(&service);
            tasks.spawn_local(async move {
                serve(service, body_idle, job).await;
                drop(place);
            });
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    }
}

async fn serve<S, E>(service: Rc<S>, body_idle: Duration, job: Job)
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = E>,
    E: Into<actix_web::Error>,
{
    let Job {
        parts,
        body,
        connection,
        mut answer,
    } = job;
    let request = actix_request(parts, body, body_idle, connection);
    let call = AssertUnwindSafe(async { service.call(request).await.map_err(Into::into) });
    let outcome = tokio::select! {
        biased;
        outcome = call.catch_unwind() => outcome,
        // The client is gone: the handler stops where it stands.
        () = answer.closed() => return,
    };
    let response = match outcome {
        Ok(Ok(response)) => response.into_parts().1,
        Ok(Err(error)) => HttpResponse::from_error(error),
        Err(panic) => {
            let text = panic_text(panic.as_ref());
            let error = ApiError::internal("the handler panicked")
                .with_internal(format!("a handler panicked: {text}"));
            let _ = answer.send(error.into());
            return;
        }
    };
    let (mut head, body) = response.into_parts();
    let stream = head.extensions_mut().remove::<StreamBody>();
    let upgrade = head.extensions_mut().remove::<Upgrade>();
    let (body, pump) = match stream {
        Some(stream) => (stream.into(), None),
        None => wire_body(body),
    };
    let answered = answer.send(Answer {
        response: wire_response(&head, body),
        upgrade,
    });
    if let (Ok(()), Some((body, pieces))) = (answered, pump) {
        pump_body(body, pieces).await;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

type Pump = (BoxBody, mpsc::Sender<Piece>);

fn wire_body(body: BoxBody) -> (WireBody, Option<Pump>) {
    if matches!(body.size(), BodySize::None | BodySize::Sized(0)) {
        return (WireBody::empty(), None);
    }
    match body.try_into_bytes() {
        Ok(bytes) => (WireBody::once(bytes), None),
        Err(body) => {
            let (sender, receiver) = mpsc::channel(PIECES);
            (WireBody::worker(receiver), Some((body, sender)))
        }
    }
}

/// Moves a body's pieces to hyper until it ends or hyper drops its side.
async fn pump_body(mut body: BoxBody, pieces: mpsc::Sender<Piece>) {
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_next(cx));
        let piece = tokio::select! {
            biased;
            () = pieces.closed() => return,
            next = AssertUnwindSafe(next).catch_unwind() => match next {
                Ok(Some(Ok(bytes))) => Piece::Data(bytes),
                Ok(Some(Err(error))) => Piece::Failed(error.to_string()),
                Ok(None) => Piece::End,
                Err(panic) => Piece::Failed(panic_text(panic.as_ref()).to_owned()),
            },
        };
        let last = !matches!(piece, Piece::Data(_));
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}
