//! `standalone`: a Widget API for one person on one machine. No cluster, no root, nothing to set
//! up: Postgres, certificates and a kubeconfig are in the data directory.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use plumbing::shutdown;
use serving::auth::{Authenticator, MastersOnly};
use serving::namespaces::EveryNamespace;
use serving::registry::Loaded;
use serving::tls::CertificateFiles;
use serving::wire::ServerConfig;
use store::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use store::{StoreConfig, StoreError};
use tokio_util::sync::CancellationToken;

use crate::certs::{Authority, Leaf};
use crate::cli::Standalone;
use crate::serve::{self, Identity, Listen};
use crate::{files, kubeconfig};

const DATABASE: &str = "widgets";
const OWNER: &str = "widget_owner";
const RUNTIME: &str = "widget_server";

/// What the server and its administrator prove who they are by.
struct Credentials {
    ca: String,
    admin: Leaf,
    serving: CertificateFiles,
}

/// Serves until a signal ends the process; then Postgres has ended too.
pub(crate) async fn run(args: Standalone) -> Result<()> {
    let stop = shutdown::signal().context("cannot listen for signals")?;
    let dir = &args.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let _lock = files::lock(&dir.join("lock"))?;
    let tls = dir.join("tls");
    // Keys take their time, and so does Postgres.
    let credentials = tokio::task::spawn_blocking(move || make_credentials(&tls));
    if let Some(url) = &args.database_url {
        let credentials = credentials.await.context("making keys broke off")??;
        let wire = listen(&args, &credentials).wire().await?;
        return match serve::reach(store_config(&args, url), &wire, &stop).await? {
            Some(loaded) => serve_from(&args, (loaded, wire), &credentials, stop).await,
            None => Ok(()),
        };
    }
    let postgres = start_postgres(&args).await?;
    let served = async {
        let loaded = load(&args, &postgres).await?;
        let credentials = credentials.await.context("making keys broke off")??;
        let wire = listen(&args, &credentials).wire().await?;
        serve_from(&args, (loaded, wire), &credentials, stop).await
    }
    .await;
    let stopped = tokio::task::spawn_blocking(move || postgres.stop()).await;
    served.and(
        stopped
            .context("stopping postgres broke off")?
            .map_err(Into::into),
    )
}

async fn start_postgres(args: &Standalone) -> Result<PrivatePostgres> {
    let dir = args.data_dir.join("postgres");
    let options = PrivatePostgresOptions {
        bin_dir: args.postgres_bin_dir.clone(),
        ..PrivatePostgresOptions::default()
    };
    let started = tokio::task::spawn_blocking(move || PrivatePostgres::start(&dir, &options)).await;
    Ok(started.context("starting postgres broke off")??)
}

/// Loads from a Postgres of this server's own, whose schema it makes.
async fn load(args: &Standalone, postgres: &PrivatePostgres) -> Result<Loaded> {
    let config = store_config(args, &postgres.url(DATABASE, RUNTIME));
    // Every start but the first, and the one after an upgrade, finds everything there.
    match serve::load(config.clone()).await {
        Err(error) if error.needs_migration() => {}
        loaded => return Ok(loaded?),
    }
    let owner = postgres.url(DATABASE, OWNER);
    let mut migrated = store::migrate(&owner, RUNTIME).await;
    if migrated.as_ref().is_err_and(StoreError::is_nothing_there) {
        postgres.create_database(DATABASE, OWNER)?;
        migrated = store::migrate(&owner, RUNTIME).await;
    }
    migrated.context("cannot migrate the database")?;
    Ok(serve::load(config).await?)
}

fn store_config(args: &Standalone, database_url: &str) -> StoreConfig {
    StoreConfig {
        retention: args.history_retention,
        compaction_interval: args.compaction_interval,
        ..StoreConfig::new(database_url)
    }
}

async fn serve_from(
    args: &Standalone,
    (loaded, wire): (Loaded, ServerConfig),
    credentials: &Credentials,
    stop: CancellationToken,
) -> Result<()> {
    let identity = Identity {
        authenticator: Authenticator::standalone(credentials.ca.as_bytes())?,
        authorizer: Arc::new(MastersOnly),
        namespaces: Arc::new(EveryNamespace),
    };
    let server = serve::start(loaded, identity, wire, &args.requests).await?;
    let path = args.data_dir.join("kubeconfig");
    let config = kubeconfig::render(server.local_addr(), &credentials.ca, &credentials.admin);
    files::write_private(&path, format!("{config:#}\n").as_bytes())?;
    tracing::info!(address = %server.local_addr(), kubeconfig = %path.display(), "serving");
    Ok(server.run(stop).await?)
}

fn listen(args: &Standalone, credentials: &Credentials) -> Listen {
    Listen {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, args.secure_port)),
        certificate: credentials.serving.clone(),
        shutdown: args.shutdown.clone(),
        requests: args.requests.clone(),
    }
}

fn make_credentials(dir: &Path) -> Result<Credentials> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let authority = Authority::load_or_create(&dir.join("ca.pem"))?;
    let leaf = authority.issue_serving()?;
    let serving = CertificateFiles {
        certificate: dir.join("serving.crt"),
        key: dir.join("serving.key"),
    };
    files::write_private(&serving.certificate, leaf.certificate.as_bytes())?;
    files::write_private(&serving.key, leaf.key.as_bytes())?;
    Ok(Credentials {
        ca: authority.certificate().to_owned(),
        admin: authority.issue_client("standalone-admin", "system:masters")?,
        serving,
    })
}
