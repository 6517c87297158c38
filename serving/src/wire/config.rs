//! What the wire may be told. The defaults are those of production.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// TLS settings, see [`crate::tls`]. Without them the wire is plain
    /// HTTP/1.1, which only tests use.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Workers, which drive connections and run handlers; 0 means one for each core. Where there
    /// are one or two, the first is the thread that calls [`super::Server::run`].
    pub workers: usize,
    /// See [`Limits`].
    pub limits: Limits,
    /// See [`ShutdownTimes`].
    pub shutdown: ShutdownTimes,
}

impl ServerConfig {
    /// The defaults, on `listen`.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            workers: 0,
            limits: Limits::default(),
            shutdown: ShutdownTimes::default(),
        }
    }

    pub(super) fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            count => count,
        }
    }
}

/// Bounds of what one client, and all clients together, may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; further ones wait in the kernel's queue.
    pub connections: usize,
    /// TLS handshakes under way at once.
    pub handshakes: usize,
    /// Time for a TLS handshake, counted from the accepted connection.
    pub handshake_timeout: Duration,
    /// Time from a request's first byte to the end of its headers.
    pub header_timeout: Duration,
    /// Time that a connection may rest between requests.
    pub idle_timeout: Duration,
    /// Longest silence of a client in the middle of a request body.
    pub body_idle_timeout: Duration,
    /// Longest time that a client may take nothing of a response; then its stream is reset, or its
    /// HTTP/1.1 connection closed. Over HTTP/2 a piece of the body counts when all of it was taken:
    /// that is mostly 64 KiB, and an object of a watch at most.
    pub stall_timeout: Duration,
    /// Bytes of one request's headers, in both protocols.
    pub header_bytes: u32,
    /// Header lines of one HTTP/1.1 request.
    pub header_lines: usize,
    /// Streams open at once on one HTTP/2 connection.
    pub streams: u32,
    /// Silence after which an HTTP/2 peer is pinged.
    pub ping_interval: Duration,
    /// Time for the answer to that ping.
    pub ping_timeout: Duration,
    /// An HTTP/2 connection is asked to move (GOAWAY) when it is about this old, so that clients which
    /// keep theirs for ever spread over the replicas; what is under way on it goes on. Zero: never.
    pub connection_age: Duration,
    /// Requests that may wait for one worker; when all queues are full the
    /// answer is 429.
    pub queue: usize,
    /// Requests that one worker may have under way, watches apart; above it the answer is 429.
    pub under_way: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshakes: 1024,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            body_idle_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(60),
            header_bytes: 1024 * 1024,
            header_lines: 1024,
            streams: 2000,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(10),
            connection_age: Duration::from_secs(600),
            queue: 1024,
            under_way: 4096,
        }
    }
}

/// How a stop takes its course: serve on for `delay` while readiness is off,
/// then close, then wait at most `grace` for what is under way.
#[derive(Debug, Clone, Copy)]
pub struct ShutdownTimes {
    /// Time for endpoints to leave the load balancers.
    pub delay: Duration,
    /// Bound of the wait after that; what is left is cut.
    pub grace: Duration,
}

impl Default for ShutdownTimes {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            grace: Duration::from_secs(20),
        }
    }
}
