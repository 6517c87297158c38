//! What may go wrong while the server starts; a request's failure is an
//! [`ApiError`](machinery::error::ApiError) instead.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the server could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A worker thread could not be started, or its application could not be built.
    #[error("cannot start a worker: {0}")]
    Worker(String),
    /// A certificate, key or CA file could not be read.
    #[error("cannot read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A certificate or key was read but does not serve.
    #[error("{what} does not serve: {detail}")]
    Certificate {
        /// Which certificate or key.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The TLS configuration was refused.
    #[error("tls configuration was refused")]
    Tls(#[from] rustls::Error),
    /// The client of kube-apiserver could not be made.
    #[error("cannot make a client of kube-apiserver: {0}")]
    Client(String),
    /// The store could not be started.
    #[error("the store could not be started")]
    Store(#[from] store::StoreError),
}
