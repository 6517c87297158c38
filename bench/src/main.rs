//! Drives one API server over TLS and says what it cost: operations a second,
//! latency, and the CPU of all its processes per operation. `cargo xtask bench`
//! starts the server and this program; ratios, not absolute times, are what a
//! shared machine can tell.

mod client;
mod measure;
mod scenarios;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

/// Load driver for an API server that serves Widgets.
#[derive(Parser)]
struct Flags {
    /// Host and port of the server.
    #[arg(long)]
    server: String,
    /// PEM file of the CA that signed the server's certificate.
    #[arg(long)]
    ca: PathBuf,
    /// PEM file of the client's certificate.
    #[arg(long)]
    cert: PathBuf,
    /// PEM file of the client's private key.
    #[arg(long)]
    key: PathBuf,
    /// Process ids whose CPU, with all their descendants', counts as the server's.
    #[arg(long, required = true)]
    pid: Vec<u32>,
    /// Seconds that each timed scenario runs.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Objects of the list scenarios.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Watchers of the fan-out scenario.
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Also writes the figures as JSON to this file.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider was installed already")?;
    // One thread: the driver must leave the other cores to the server.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let target = client::Target::new(&flags.server, &flags.ca, &flags.cert, &flags.key)?;
        let plan = scenarios::Plan {
            target,
            server: measure::Processes::new(flags.pid),
            seconds: flags.seconds,
            objects: flags.objects,
            watchers: flags.watchers,
        };
        let figures = plan.run().await?;
        if let Some(out) = &flags.out {
            std::fs::write(out, serde_json::to_vec_pretty(&figures)?)?;
        }
        Ok(())
    })
}
