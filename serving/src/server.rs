//! Puts the parts together: store, registry, identity and wire become a server.

use std::{net::SocketAddr, sync::Arc};

use plumbing::{
    health::{Health, Probe, Weight},
    metrics::Registry as MetricsRegistry,
};
use store::Store;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    api::{Api, Features},
    auth::{Authenticator, Authorizer},
    documents::{Documents, ServerVersion},
    error::Error,
    flow::{Flow, MaxInFlight},
    http,
    metrics::Metrics,
    namespaces::NamespaceLookup,
    registry::Loaded,
    wire,
};

/// What a server is made of.
pub struct ServerBuilder {
    /// The resources that it serves, and where their objects are.
    pub loaded: Loaded,
    /// Finds out who asks.
    pub authenticator: Arc<Authenticator>,
    /// Decides what is allowed.
    pub authorizer: Arc<dyn Authorizer>,
    /// Knows which namespaces exist.
    pub namespaces: Arc<dyn NamespaceLookup>,
    /// What can be switched off.
    pub features: Features,
    /// Requests under way at once.
    pub max_in_flight: MaxInFlight,
    /// Makes the suffixes of generated names; [`random`] but in tests.
    pub name_source: fn() -> u64,
    /// Address, TLS, limits and times.
    pub wire: wire::ServerConfig,
    /// What `/version` and OpenAPI say.
    pub about: ServerVersion,
    /// The process's health checks; the server adds its own.
    pub health: Arc<Health>,
    /// The process's metrics; the server adds its own.
    pub metrics: Arc<MetricsRegistry>,
}

/// A number that nobody can guess.
#[must_use]
pub fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

/// A server that listens and whose caches are filled.
pub struct Server {
    wire: wire::Server,
    api: Arc<Api>,
    store: Arc<Store>,
}

impl ServerBuilder {
    /// Opens the listening socket.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub async fn start(self) -> Result<Server, Error> {
        let Loaded { store, served } = self.loaded;
        let documents = Documents::build(&self.about, &served.infos());
        let wire = wire::Server::bind(self.wire).await?;
        let api = Api {
            served,
            store: Arc::clone(&store),
            authenticator: self.authenticator,
            authorizer: self.authorizer,
            namespaces: self.namespaces,
            documents,
            features: self.features,
            flow: Flow::new(self.max_in_flight),
            name_source: self.name_source,
            health: self.health,
            metrics: Metrics::new(&self.metrics),
            metrics_registry: self.metrics,
            drain: wire.drain(),
        };
        Ok(Server {
            wire,
            api: Arc::new(api),
            store,
        })
    }
}

impl Server {
    /// The address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.wire.local_addr()
    }

    /// Serves until `shutdown` is cancelled and the stop has taken its course;
    /// then the store has finished its writes.
    ///
    /// # Errors
    ///
    /// When the workers cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        self.add_checks(&shutdown);
        let served = self.wire.run(http::configure(self.api), shutdown).await;
        self.store.shutdown().await;
        served
    }

    /// Readiness is about this process: is it started and not stopping? The
    /// database is told of and gates nothing, for an unavailable group would
    /// block the deletion of every namespace in the cluster.
    fn add_checks(&self, shutdown: &CancellationToken) {
        let health = &self.api.health;
        let stopping = shutdown.clone();
        health.add("shutdown", &[Probe::Readyz], Weight::Gating, move || {
            if stopping.is_cancelled() {
                Err("the process is stopping".to_owned())
            } else {
                Ok(())
            }
        });
        let authenticator = Arc::clone(&self.api.authenticator);
        health.add(
            "authentication",
            &[Probe::Readyz],
            Weight::Gating,
            move || {
                if authenticator.is_ready() {
                    Ok(())
                } else {
                    Err("the front proxy's certificate authority is not known yet".to_owned())
                }
            },
        );
        let store = Arc::clone(&self.store);
        health.add("database", &Probe::ALL, Weight::Informational, move || {
            if store.is_reachable() {
                Ok(())
            } else {
                Err("the database does not answer".to_owned())
            }
        });
    }
}
