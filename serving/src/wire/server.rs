//! Accepting, serving and ending connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::ServiceConfig;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::coalesce::Flushed;
use super::config::{Limits, ServerConfig};
use super::connection::Connection;
use super::guard::{Activity, Guarded};
use super::handler::Handler;
use super::stall::unless_stalled;
use super::worker::{Queue, Workers};
use crate::error::Error;

/// Silence on a TCP connection after which the kernel asks for a sign of life;
/// three unanswered questions, 5 s apart, end it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Bytes written but never acknowledged end a connection after this time.
const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Pause after a failed accept, which means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for workers to drop what they hold when every connection has ended.
const LAST_POLLS: Duration = Duration::from_secs(1);
/// What is left of a handshake's time when the server begins to drain.
const LATE_HANDSHAKE: Duration = Duration::from_secs(1);
/// Response bytes that hyper takes from one stream's body before its client
/// has read them.
const SEND_BUFFER: usize = 256 * 1024;
/// Request bytes that one HTTP/2 stream, and one connection, may send ahead.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// A listening server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
    drain: CancellationToken,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) workers: Workers,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    handshakes: Semaphore,
    /// The stop was asked for; connections still open.
    pub(super) stopping: CancellationToken,
    /// Nothing new is accepted; what streams must end.
    drain: CancellationToken,
    /// Time is up.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Server {
    /// Opens the listening socket. Connections queue from now on.
    pub async fn bind(config: ServerConfig) -> Result<Self, Error> {
        let failed = |source| Error::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            config,
            drain: CancellationToken::new(),
        })
    }

    /// The address bound, with the port that the system picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Cancelled when a stop's delay is over: watches and other endless bodies
    /// must then end cleanly.
    #[must_use]
    pub fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Serves until `shutdown` is cancelled and the stop has taken its course.
    /// `app` configures the application of each worker. To be called within a
    /// [`tokio::task::LocalSet`]: where workers are few, the caller's thread is one of them.
    pub async fn run<F>(self, app: F, shutdown: CancellationToken) -> Result<(), Error>
    where
        F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let Self {
            listener,
            config,
            drain,
            ..
        } = self;
        let limits = config.limits.clone();
        let (workers, mut workers_ended) =
            Workers::start(config.worker_count(), &limits, app).await?;
        let shared = Arc::new(Shared {
            workers,
            tls: config.tls.clone().map(TlsAcceptor::from),
            handshakes: Semaphore::new(limits.handshakes),
            limits,
            stopping: shutdown.clone(),
            drain: drain.clone(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let stop = async {
            shutdown.cancelled().await;
            tokio::time::sleep(config.shutdown.delay).await;
        };
        tokio::select! {
            () = accept(&listener, &shared) => {}
            () = stop => {}
        }
        drop(listener);
        drain.cancel();
        shared.tasks.close();
        let wait = async {
            shared.tasks.wait().await;
        };
        if tokio::time::timeout(config.shutdown.grace, wait)
            .await
            .is_err()
        {
            tracing::warn!(
                connections = shared.tasks.len(),
                "cutting connections: time is up"
            );
            shared.cut.cancel();
            shared.tasks.wait().await;
        }
        drop(shared);
        // Handlers without a client were dropped; only a blocked one is left behind.
        let _ = tokio::time::timeout(LAST_POLLS, workers_ended.recv()).await;
        Ok(())
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => begin(shared, stream, peer, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives a connection to a worker.
fn begin(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
    // The worker's own runtime is to watch the socket.
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%peer, %error, "cannot hand over a connection");
            return;
        }
    };
    let its = Arc::clone(shared);
    let token = shared.tasks.token();
    shared.workers.place().begin(move |home| {
        tokio::task::spawn_local(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => connection(its, stream, peer, home.queue()).await,
                Err(error) => tracing::warn!(%peer, %error, "cannot watch a connection"),
            }
            drop((place, home, token));
        });
    });
}

/// One connection from accept to end, on a worker's thread.
async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, worker: Arc<Queue>) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, %error, "cannot set socket options");
    }
    let served = async {
        match &shared.tls {
            None => serve_http1(&shared, stream, Connection::plain(peer), worker).await,
            Some(acceptor) => match handshake(&shared, acceptor, stream).await {
                Ok(stream) => serve_tls(&shared, stream, peer, worker).await,
                Err(error) => tracing::debug!(%peer, %error, "tls handshake failed"),
            },
        }
    };
    tokio::select! {
        () = served => {}
        () = shared.cut.cancelled() => {}
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED))
}

/// Runs the streams of a connection where the connection is.
#[derive(Clone, Copy)]
struct OnThisThread {
    stall_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for OnThisThread
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(unless_stalled(self.stall_timeout, stream));
    }
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Bounded in time, and shortly so once the server drains.
async fn handshake(
    shared: &Shared,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<TlsStream> {
    let accepted = async {
        let _place = shared
            .handshakes
            .acquire()
            .await
            .map_err(io::Error::other)?;
        acceptor.accept(stream).await
    };
    let drained = async {
        shared.drain.cancelled().await;
        tokio::time::sleep(LATE_HANDSHAKE).await;
    };
    tokio::select! {
        accepted = tokio::time::timeout(shared.limits.handshake_timeout, accepted) => accepted?,
        () = drained => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

async fn serve_tls(shared: &Arc<Shared>, stream: TlsStream, peer: SocketAddr, worker: Arc<Queue>) {
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
    let connection = Connection::encrypted(peer, chain);
    if session.alpn_protocol() == Some(b"h2") {
        serve_http2(shared, stream, connection, worker).await;
    } else {
        serve_http1(shared, stream, connection, worker).await;
    }
}

async fn serve_http1<IO>(shared: &Arc<Shared>, io: IO, connection: Connection, worker: Arc<Queue>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let activity = Activity::default();
    let io = Guarded::http1(
        io,
        activity.clone(),
        limits.header_timeout,
        limits.idle_timeout,
    );
    let header_bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(limits.header_lines)
        .max_header_size(header_bytes)
        .max_buf_size(header_bytes.saturating_add(16 * 1024));
    let handler = Handler::new(shared, connection, activity, worker);
    let service = service_fn(move |request| handler.clone().call(request));
    let served = builder
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let driven = drive(
        served,
        shared.drain.cancelled(),
        http1::UpgradeableConnection::graceful_shutdown,
    );
    unless_stalled(limits.stall_timeout, driven).await;
}

async fn serve_http2<IO>(shared: &Arc<Shared>, io: IO, connection: Connection, worker: Arc<Queue>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let activity = Activity::default();
    let io = Guarded::http2(io, activity.clone(), limits.header_timeout);
    let mut builder = http2::Builder::new(OnThisThread {
        stall_timeout: limits.stall_timeout,
    });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .max_pending_accept_reset_streams(usize::try_from(limits.streams).ok())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    let end = ended(shared.drain.clone(), activity.clone(), limits);
    let handler = Handler::new(shared, connection, activity, worker);
    let service = service_fn(move |request| handler.clone().call(request));
    let served = Flushed::new(io, |io| builder.serve_connection(TokioIo::new(io), service));
    drive(served, end, |served| {
        http2::Connection::graceful_shutdown(served.get_mut().connection.as_mut());
    })
    .await;
}

/// When an HTTP/2 connection must end: the drain begins, it is old, or nobody has asked for anything
/// for long. Whoever only answers pings keeps no place from others.
async fn ended(drain: CancellationToken, activity: Activity, limits: &Limits) {
    let aged = async {
        match limits.connection_age {
            Duration::ZERO => std::future::pending().await,
            age => tokio::time::sleep(about(age)).await,
        }
    };
    tokio::select! {
        () = drain.cancelled() => {}
        () = aged => {}
        () = activity.rested(limits.idle_timeout) => {}
    }
}

/// A tenth more or less, so that connections of one age do not move at one moment.
fn about(age: Duration) -> Duration {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let tenths_of_percent = u32::try_from(random % 201).unwrap_or(100);
    age * (900 + tenths_of_percent) / 1000
}

/// Polls a connection to its end; when its time has come, HTTP/2 says GOAWAY
/// and HTTP/1.1 closes after the request under way.
async fn drive<C, G, E>(served: C, end: impl Future<Output = ()>, graceful_shutdown: G)
where
    C: Future<Output = Result<(), E>>,
    G: FnOnce(Pin<&mut C>),
    E: std::fmt::Display,
{
    let mut served = pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = end => {
            graceful_shutdown(served.as_mut());
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
