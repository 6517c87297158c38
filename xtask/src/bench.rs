//! `cargo xtask bench`: the load driver against one server that has the machine,
//! and a Postgres of its own that is durable, to itself.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use e2e::cluster::STANDALONE;
use e2e::servers::{APISERVER, cargo, target_dir};
use e2e::{Cluster, Mode, Options};

/// Package and program of the load driver.
const DRIVER: &str = "bench";

/// What to measure.
#[derive(Args)]
pub(crate) struct Bench {
    /// Flags of the load driver (--seconds, --objects, --watchers, --out)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

/// Builds both programs with optimizations, measures, and leaves nothing running.
pub(crate) fn run(args: &Bench) -> Result<()> {
    let build = [
        "build",
        "--release",
        "--package",
        DRIVER,
        "--package",
        APISERVER,
    ];
    if !cargo()
        .args(build)
        .status()
        .context("run cargo build")?
        .success()
    {
        bail!("cargo build failed");
    }
    let programs = target_dir()?.join("release");
    let name = format!("bench-{}", std::process::id());
    let cluster = Cluster::up(&Options {
        name: name.clone(),
        mode: Mode::Standalone,
        owner: Some(std::process::id()),
        servers: Some(programs.clone()),
        release: true,
        volatile: false,
        kubeconfig: None,
        tool: crate::program()?,
    })?;
    let measured = drive(
        &cluster,
        Command::new(programs.join(DRIVER)).args(&args.flags),
    );
    Cluster::down(&name)?;
    measured
}

fn drive(cluster: &Cluster, driver: &mut Command) -> Result<()> {
    let server = cluster.process(STANDALONE)?;
    let tls = cluster.standalone_tls()?;
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
        bail!("no client certificate")
    };
    let status = driver
        .arg("--server")
        .arg(cluster.address(STANDALONE)?.to_string())
        .arg("--pid")
        .arg(server.pid.to_string())
        .arg("--ca")
        .arg(&tls.ca)
        .arg("--cert")
        .arg(cert)
        .arg("--key")
        .arg(key)
        .status()
        .context("run the load driver")?;
    if !status.success() {
        bail!("the load driver failed: {status}");
    }
    Ok(())
}
