//! `widget-controller`: makes a Deployment of each Widget and tells in the Widget's
//! status how it fares.
//!
//! It speaks only the Kubernetes API. `plan` decides, as a pure function of what
//! was observed; everything else carries observations to it and writes from it.

mod api;
mod backoff;
mod cursor;
mod deployment;
mod error;
mod events;
#[cfg(test)]
mod fixtures;
mod lease;
mod metrics;
mod names;
mod plan;
mod quantity;
mod queue;
mod reconcile;
mod run;
mod status;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use plumbing::health::{Health, Probe, Weight};
use plumbing::http::serve_ops;
use plumbing::metrics::Registry;
use plumbing::telemetry::{self, LogFormat};
use tokio_util::sync::CancellationToken;

use crate::lease::{ApiLeases, Elector};
use crate::metrics::Metrics;
use crate::names::CONTROLLER;
use crate::run::{Ends, Process, run};

/// How long a connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a Deployment of each Widget and reports its status.
#[derive(Debug, Parser)]
#[command(name = CONTROLLER, version)]
struct Arguments {
    /// Kubeconfig of the cluster; without it, `$KUBECONFIG`, `~/.kube/config`, or
    /// the service account of the pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,

    /// Address of /metrics, /healthz, /livez and /readyz (plain HTTP).
    #[arg(long, default_value = "127.0.0.1:8081")]
    metrics_bind_address: SocketAddr,

    /// Work only while holding the Lease `widget-controller`.
    #[arg(
        long,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true",
        require_equals = true
    )]
    leader_elect: bool,

    /// Namespace of the Lease.
    #[arg(long, default_value = "widget-system")]
    lease_namespace: String,

    /// OTLP gRPC endpoint for traces; without one, none are made.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,

    /// `json` or `text`.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // An error means that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let endpoint = arguments.otlp_endpoint.as_deref();
    let guard = telemetry::init(CONTROLLER, arguments.log_format, endpoint)?;
    let result = control(arguments).await;
    guard.flush().await;
    result
}

async fn control(arguments: Arguments) -> anyhow::Result<()> {
    let stop = plumbing::shutdown::signal().context("cannot listen to signals")?;
    let client = connect(arguments.kubeconfig).await?;
    let registry = Arc::new(Registry::new());
    let metrics = registry.register(Metrics::new);
    let process = Process {
        client: client.clone(),
        identity: identity(),
        metrics: metrics.clone(),
        synced: Arc::new(AtomicBool::new(false)),
    };
    let leases = Api::namespaced(client, &arguments.lease_namespace);
    let leases = ApiLeases::new(leases, metrics);
    let elector = Elector::new(leases, process.identity.clone());

    let health = Arc::new(Health::new());
    let renewal = elector.renewal();
    let live = [Probe::Healthz, Probe::Livez];
    health.add("leader-election", &live, Weight::Gating, move || {
        renewal.check()
    });
    let (leader, synced) = (process.metrics.leader.clone(), Arc::clone(&process.synced));
    let ready = [Probe::Readyz];
    health.add("informer-sync", &ready, Weight::Informational, move || {
        if leader.get() == 0 || synced.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("the first lists are not complete".to_owned())
        }
    });
    // Operators can look until the work has ended.
    let ended = CancellationToken::new();
    let address = arguments.metrics_bind_address;
    let ops = serve_ops(address, registry, health, ended.clone())?;
    tracing::info!(address = %ops.address, identity = process.identity, "started");

    if arguments.leader_elect {
        lead(elector, process, stop).await;
    } else {
        process.metrics.leader.set(1);
        let lost = CancellationToken::new();
        run(process, Ends { stop, lost }).await;
    }
    ended.cancel();
    ops.stopped().await;
    tracing::info!("stopped");
    Ok(())
}

/// Works while it leads, campaigns while it does not.
async fn lead(mut elector: Elector<ApiLeases>, process: Process, stop: CancellationToken) {
    while elector.acquire(&stop).await {
        process.metrics.leader.set(1);
        let ends = Ends {
            stop: stop.clone(),
            lost: CancellationToken::new(),
        };
        let mut term = tokio::spawn(run(process.clone(), ends.clone()));
        let ended = tokio::select! {
            () = elector.hold() => {
                ends.lost.cancel();
                (&mut term).await
            }
            ended = &mut term => ended,
        };
        process.metrics.leader.set(0);
        if let Err(error) = ended {
            tracing::error!(%error, "the work broke off");
        }
        // Another's Lease is left alone.
        elector.release().await;
    }
}

async fn connect(kubeconfig: Option<PathBuf>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await.context("no cluster to speak to")?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).context("cannot make a client of the cluster's configuration")
}

/// A name that no other process has: the host's, and a random part.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(63).collect();
    format!("{host}_{}", uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_their_documented_defaults() {
        let arguments = Arguments::parse_from([CONTROLLER]);
        assert!(arguments.leader_elect);
        assert_eq!(arguments.lease_namespace, "widget-system");
        assert_eq!(arguments.metrics_bind_address.to_string(), "127.0.0.1:8081");
        assert_eq!(arguments.log_format, LogFormat::Json);
    }

    #[test]
    fn leader_election_can_be_turned_off() {
        let off = Arguments::parse_from([CONTROLLER, "--leader-elect=false"]);
        assert!(!off.leader_elect);
        let on = Arguments::parse_from([CONTROLLER, "--leader-elect"]);
        assert!(on.leader_elect);
    }
}
