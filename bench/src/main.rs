//! Drives one API server over TLS and says what it cost: operations a second,
//! latency, and the CPU of all its processes per operation; and compares what came
//! of several servers. `cargo xtask bench` starts the servers and this program;
//! ratios, not absolute times, are what a shared machine can tell.

mod chart;
mod client;
mod database;
mod figure;
mod goals;
mod object;
mod processes;
mod report;
mod results;
mod scenarios;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::results::Results;

/// Load driver for API servers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure one part of one server
    Drive(Box<Drive>),
    /// Show what was measured: tables, and charts if asked for
    Report(Report),
}

#[derive(Args)]
struct Drive {
    /// What the server is called in the results.
    #[arg(long)]
    name: String,
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
    /// The kind that the server serves.
    #[arg(long, value_enum, default_value_t = object::Kind::Widget)]
    kind: object::Kind,
    /// What to measure, in this order.
    #[arg(long, value_enum, required = true)]
    part: Vec<scenarios::Part>,
    /// Only scenarios whose names contain one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Seconds that each timed scenario runs.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Few objects and watchers: only to see that everything works.
    #[arg(long)]
    quick: bool,
    /// When the processes were started, in microseconds since 1970.
    #[arg(long)]
    started: Option<u64>,
    /// The words of a command that runs the SQL statement given to it as its last argument.
    #[arg(long)]
    sql: Vec<String>,
    /// File of results, to which these are added.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
struct Report {
    /// File of results.
    #[arg(long = "in")]
    results: PathBuf,
    /// Directory for the charts.
    #[arg(long)]
    charts: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Drive(flags) => drive(*flags),
        Command::Report(flags) => {
            let results = Results::read(&flags.results)?;
            print!("{}", report::markdown(&results));
            match &flags.charts {
                Some(dir) => chart::write_all(&results, dir),
                None => Ok(()),
            }
        }
    }
}

fn drive(flags: Drive) -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider was installed already")?;
    let target = client::Target::new(&flags.server, &flags.ca, &flags.cert, &flags.key)?;
    let sizes = match flags.quick {
        true => scenarios::Sizes::quick(),
        false => scenarios::Sizes::full(),
    };
    let plan = scenarios::Plan {
        target,
        server: processes::Processes::new(flags.pid),
        kind: flags.kind,
        seconds: flags.seconds,
        sizes,
        started: flags.started.map(Duration::from_micros),
        database: (!flags.sql.is_empty()).then(|| database::Database::new(flags.sql)),
        only: flags.only,
        figures: RefCell::default(),
    };
    // One thread: the driver must leave the other cores to the server.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!("{}", figure::Figure::header());
    for part in flags.part {
        let outcome = runtime.block_on(plan.run(part));
        // What was measured before something broke is kept.
        let mut results = Results::read(&flags.out)?;
        results.add(&flags.name, plan.figures.take());
        results.write(&flags.out)?;
        outcome?;
    }
    Ok(())
}
