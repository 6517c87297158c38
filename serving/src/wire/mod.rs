//! The wire: TCP, TLS, HTTP/1.1 and HTTP/2 by hyper, requests by actix-web.
//!
//! Each of a few worker threads has a runtime of its own, the connections that hyper drives there,
//! and the actix-web application. A request goes through a bounded queue: to the connection's own
//! worker, with no hop between threads, or to another one when that has less to do; so the requests
//! of one HTTP/2 connection use all cores. The answer goes back over a channel and hyper writes it.
//! A handler that streams much puts a [`StreamBody`] into its response's extensions: hyper polls
//! that directly.
//!
//! When the client goes away, the handler's future and the body are dropped at
//! once. A handler that has begun a write lets a task of its own finish it:
//! `tokio::spawn` inside a handler goes to the worker's runtime and outlives the request.
//!
//! Why not actix-web's own server: `docs/adr/0002-wire.md`.

mod body;
mod coalesce;
mod config;
mod connection;
mod convert;
mod framing;
mod guard;
mod handler;
mod server;
mod stall;
mod upgrade;
mod worker;

pub use body::{BoxError, StreamBody};
pub use config::{Limits, ServerConfig, ShutdownTimes};
pub use connection::{Connection, RequestHead};
pub use server::Server;
pub use upgrade::{Upgrade, UpgradedIo};
