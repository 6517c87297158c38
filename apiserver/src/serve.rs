//! `serve`: beside a kube-apiserver, and what both ways of serving have in common.

use std::net::SocketAddr;
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
use serving::registry::Registry;
use serving::server::{self, Server, ServerBuilder};
use serving::tls::{self, CertResolver, CertificateFiles};
use serving::waiting;
use serving::wire::{Limits, ServerConfig, ShutdownTimes};
use store::{Store, StoreConfig};
use tokio_util::sync::CancellationToken;

use crate::cli::{Requests, Serve, Shutdown};
use crate::widgets::Widgets;

/// Between attempts to connect to a database that is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

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
    let Some(store) = reach(store, &wire, &stop).await? else {
        return Ok(());
    };
    let server = start(store, identity, wire, &listen.requests).await?;
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

/// Connects to the database. While it is away the port is open and says so: a process that ended
/// instead would be started ever more seldom. `None` when `stop` comes first.
pub(crate) async fn reach(
    config: StoreConfig,
    wire: &ServerConfig,
    stop: &CancellationToken,
) -> Result<Option<Arc<Store>>> {
    match Store::connect(config.clone()).await {
        Err(error) if error.is_passing() => {
            let error = anyhow::Error::from(error);
            tracing::warn!(error = format!("{error:#}"), "waiting for the database");
        }
        connected => return Ok(Some(connected?)),
    }
    let connecting = async {
        loop {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            match Store::connect(config.clone()).await {
                Err(error) if error.is_passing() => {}
                connected => return Some(connected),
            }
        }
    };
    let reached = async {
        tokio::select! {
            connected = connecting => connected,
            () = stop.cancelled() => None,
        }
    };
    let connected = waiting::serve_while(wire.clone(), reached).await?;
    Ok(connected.transpose()?)
}

/// Fills the caches and opens the port.
pub(crate) async fn start(
    store: Arc<Store>,
    identity: Identity,
    wire: ServerConfig,
    requests: &Requests,
) -> Result<Server> {
    let builder = ServerBuilder {
        registry: Registry::new().register(Arc::new(Widgets)),
        store,
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
