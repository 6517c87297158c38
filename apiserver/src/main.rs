//! `widget-apiserver`: the Widget API from Postgres, beside a kube-apiserver or on its own.
//!
//! All that is Widgets' own is in `widgets`; the rest of this crate is flags and putting together.

mod certs;
mod cli;
mod files;
mod kubeconfig;
mod serve;
mod standalone;
mod widgets;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Cli, Command, Telemetry};
use plumbing::telemetry;
use tokio::task::LocalSet;

/// Most of what a request does beside Postgres and TLS is to make and drop small JSON values; what
/// that saves is in `docs/perf.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name under which logs and traces are collected.
const SERVICE: &str = "widget-apiserver";

fn main() -> ExitCode {
    // One thread for the store; the server has threads of its own where there are cores for them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(LocalSet::new().run_until(start(Cli::parse()))),
        Err(error) => {
            eprintln!("{SERVICE}: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(cli: Cli) -> ExitCode {
    let settings = match &cli.command {
        Command::Migrate(migrate) => &migrate.telemetry,
        Command::Serve(serve) => &serve.telemetry,
        Command::Standalone(standalone) => &standalone.telemetry,
    };
    let guard = match start_telemetry(settings) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{SERVICE}: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let code = match run(cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the server ends");
            ExitCode::FAILURE
        }
    };
    guard.flush().await;
    code
}

fn start_telemetry(settings: &Telemetry) -> Result<telemetry::Guard> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a provider of cryptography is installed already"))?;
    let endpoint = settings.otlp_endpoint.as_deref();
    Ok(telemetry::init(SERVICE, settings.log_format, endpoint)?)
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Migrate(migrate) => {
            store::migrate(&migrate.database_url, &migrate.runtime_role)
                .await
                .context("cannot migrate the database")?;
            tracing::info!("the database schema is up to date");
            Ok(())
        }
        Command::Serve(serve) => serve::run(*serve).await,
        Command::Standalone(standalone) => standalone::run(standalone).await,
    }
}
