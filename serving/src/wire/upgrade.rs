//! Leaving HTTP: a handler takes over the connection (WebSocket on a watch).

use std::fmt;
use std::future::Future;

use futures::future::BoxFuture;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

/// The raw connection after a 101, as tokio's traits.
pub type UpgradedIo = TokioIo<Upgraded>;

/// What to run on the connection once the 101 is written. A handler answers
/// 101 with the headers of its protocol and puts this into the response's
/// extensions. HTTP/1.1 only: over HTTP/2 the answer becomes a 400.
pub struct Upgrade(Box<dyn FnOnce(UpgradedIo) -> BoxFuture<'static, ()> + Send>);

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgrade")
    }
}

impl Upgrade {
    /// `run` owns the connection and ends when it is done, or when the wire
    /// drains ([`super::Server::drain`]).
    pub fn new<F, T>(run: F) -> Self
    where
        F: FnOnce(UpgradedIo) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self(Box::new(move |io| Box::pin(run(io))))
    }

    pub(super) async fn run(self, upgrade: OnUpgrade) {
        match upgrade.await {
            Ok(upgraded) => (self.0)(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "the client left before the upgrade"),
        }
    }
}
