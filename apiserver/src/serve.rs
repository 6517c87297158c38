//! `serve`: beside a kube-apiserver, and what both ways of serving have in common.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use plumbing::health::Health;
use plumbing::metrics::Registry as MetricsRegistry;
use plumbing::shutdown;
use serving::api::Features;
use serving::auth::{
    Authenticator, Authorizer, DelegatedAuthorizer, DelegatedOptions, kube_client,
};
use serving::documents::ServerVersion;
use serving::flow::MaxInFlight;
use serving::namespaces::{ClusterNamespaces, NamespaceLookup};
use serving::registry::{Loaded, Registry};
use serving::server::{self, Server, ServerBuilder};
use serving::tls::{self, CertResolver, CertificateFiles};
use serving::waiting;
use serving::wire::{Limits, ServerConfig, ShutdownTimes};
use store::{StoreConfig, StoreError};
use tokio_util::sync::CancellationToken;

use crate::cli::{Requests, Serve, Shutdown};
use crate::widgets::Widgets;

/// Between attempts to load from a database that is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// A load that takes longer is waited for with the port open.
const USUAL_LOAD: Duration = Duration::from_secs(1);

/// Who may do what, and where: the answers of a kube-apiserver, or of a server without one.
pub(crate) struct Identity {
    pub authenticator: Authenticator,
    pub authorizer: Arc<dyn Authorizer>,
    pub namespaces: Arc<dyn NamespaceLookup>,
}

/// Where to listen, with which certificate, and how to stop.
pub(crate) struct Listen {
    pub address: SocketAddr,
    pub certificate: CertificateFiles,
    pub shutdown: Shutdown,
    pub requests: Requests,
}

/// Serves until a signal ends the process.
pub(crate) async fn run(args: Serve) -> Result<()> {
    let stop = shutdown::signal().context("cannot listen for signals")?;
    let client = kube_client(args.kubeconfig.as_deref()).await?;
    let options = DelegatedOptions {
        client_ca_file: args.client_ca_file,
        ..DelegatedOptions::default()
    };
    let identity = Identity {
        authenticator: Authenticator::delegated(client.clone(), options).await?,
        authorizer: Arc::new(DelegatedAuthorizer::new(client.clone())),
        namespaces: Arc::new(ClusterNamespaces::watch(client)),
    };
    let listen = Listen {
        address: SocketAddr::new(args.bind_address, args.secure_port),
        certificate: CertificateFiles {
            certificate: args.tls_cert_file,
            key: args.tls_private_key_file,
        },
        shutdown: args.shutdown,
        requests: args.requests,
    };
    let store = StoreConfig {
        retention: args.history_retention,
        compaction_interval: args.compaction_interval,
        ..StoreConfig::new(args.database_url)
    };
    let wire = listen.wire().await?;
    let Some(loaded) = reach(store, &wire, &stop).await? else {
        return Ok(());
    };
    let server = start(loaded, identity, wire, &listen.requests).await?;
    tracing::info!(address = %server.local_addr(), "serving");
    Ok(server.run(stop).await?)
}

impl Listen {
    /// Reads the certificate, and from then on reads it again when it changes.
    pub(crate) async fn wire(&self) -> Result<ServerConfig> {
        let certificate = CertResolver::load(self.certificate.clone()).await?;
        tokio::spawn(Arc::clone(&certificate).watch(tls::POLL_INTERVAL));
        Ok(ServerConfig {
            tls: Some(tls::server_config(certificate)?),
            shutdown: ShutdownTimes {
                delay: self.shutdown.shutdown_delay_duration,
                grace: self.shutdown.shutdown_timeout,
            },
            limits: Limits {
                connection_age: self.requests.max_connection_age,
                ..Limits::default()
            },
            ..ServerConfig::new(self.address)
        })
    }
}

/// Connects to the database and loads what is in it. While that takes longer than usual, the port is
/// open and says so: a process that ended instead would be started ever more seldom. `None` when
/// `stop` comes first.
pub(crate) async fn reach(
    config: StoreConfig,
    wire: &ServerConfig,
    stop: &CancellationToken,
) -> Result<Option<Loaded>> {
    let loading = async {
        let mut is_first = true;
        loop {
            match load(config.clone()).await {
                Err(error) if error.is_passing() => {
                    if std::mem::take(&mut is_first) {
                        let error = anyhow::Error::from(error);
                        tracing::warn!(error = format!("{error:#}"), "waiting for the database");
                    }
                }
                loaded => return Some(loaded),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    };
    let mut reached = pin!(async {
        tokio::select! {
            loaded = loading => loaded,
            () = stop.cancelled() => None,
        }
    });
    let loaded = match tokio::time::timeout(USUAL_LOAD, &mut reached).await {
        Ok(loaded) => loaded,
        Err(_) => waiting::serve_while(wire.clone(), reached).await?,
    };
    Ok(loaded.transpose()?)
}

/// One attempt of it.
pub(crate) async fn load(config: StoreConfig) -> Result<Loaded, StoreError> {
    let registry = Registry::new().register(Arc::new(Widgets));
    registry.load(config).await
}

/// Opens the port.
pub(crate) async fn start(
    loaded: Loaded,
    identity: Identity,
    wire: ServerConfig,
    requests: &Requests,
) -> Result<Server> {
    let builder = ServerBuilder {
        loaded,
        authenticator: Arc::new(identity.authenticator),
        authorizer: identity.authorizer,
        namespaces: identity.namespaces,
        features: Features {
            sharded_list_and_watch: requests.sharded_list_and_watch,
        },
        max_in_flight: MaxInFlight {
            reading: requests.max_requests_inflight,
            mutating: requests.max_mutating_requests_inflight,
        },
        name_source: server::random,
        wire,
        about: ServerVersion {
            title: "Widget API".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        health: Arc::new(Health::new()),
        metrics: Arc::new(MetricsRegistry::new()),
    };
    Ok(builder.start().await?)
}
