//! `cargo xtask bench`: the same load against ours and against what people use
//! instead, one server after the other, each with the machine and a durable database
//! to itself. The load driver is a program of its own; this starts what it drives.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use e2e::servers::{APISERVER, cargo, target_dir};
use serde_json::Value;

use server::Server;

/// Package and program of the load driver.
const DRIVER: &str = "bench";

/// What to measure.
#[derive(Args)]
pub(crate) struct Bench {
    /// Measure every peer too, with ours before and after
    #[arg(long, conflicts_with_all = ["peer", "measure"])]
    peers: bool,
    /// Measure these peers, with ours before and after
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "measure")]
    peer: Vec<Subject>,
    /// Measure exactly these, in this order: a piece of a longer measurement
    #[arg(long, value_enum, value_delimiter = ',')]
    measure: Vec<Subject>,
    /// Seconds that each timed scenario runs
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Few objects and watchers: only shows that everything works
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose names contain one of these
    #[arg(long)]
    only: Vec<String>,
    /// File for the results
    #[arg(long)]
    out: Option<PathBuf>,
    /// Keep what the file of results holds, and add to it
    #[arg(long)]
    add: bool,
    /// Directory for the charts
    #[arg(long)]
    charts: Option<PathBuf>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// One API server of ours.
    Ours,
    /// The Widget as a custom resource, on kube-apiserver and etcd.
    Crd,
    /// The same, with kine on Postgres in etcd's place.
    Kine,
    /// sample-apiserver on etcd.
    Sample,
}

impl Subject {
    /// What it is called in the results.
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Crd => "crd",
            Self::Kine => "kine",
            Self::Sample => "sample",
        }
    }
}

/// Builds what is needed, measures, shows, and leaves nothing running.
pub(crate) fn run(args: &Bench) -> Result<()> {
    let programs = build()?;
    let out = match &args.out {
        Some(file) => std::path::absolute(file)?,
        None => programs.join("bench-results.json"),
    };
    if !args.add && out.exists() {
        fs::remove_file(&out).with_context(|| format!("remove {}", out.display()))?;
    }
    for subject in subjects(args) {
        let name = round(&out, subject)?;
        println!("\n{name}");
        let driver = Driver {
            program: programs.join(DRIVER),
            name,
            out: &out,
            args,
        };
        driver.measure(subject, &programs)?;
    }
    let mut report = Command::new(programs.join(DRIVER));
    report.arg("report").arg("--in").arg(&out);
    if let Some(dir) = &args.charts {
        report.arg("--charts").arg(dir);
    }
    checked(&mut report)?;
    println!("\nresults: {}", out.display());
    Ok(())
}

/// Ours at both ends, so that a machine that changes shows.
fn subjects(args: &Bench) -> Vec<Subject> {
    let peers = match args.peers {
        true => vec![Subject::Crd, Subject::Kine, Subject::Sample],
        false => args.peer.clone(),
    };
    match (args.measure.is_empty(), peers.is_empty()) {
        (false, _) => args.measure.clone(),
        (true, true) => vec![Subject::Ours],
        (true, false) => [vec![Subject::Ours], peers, vec![Subject::Ours]].concat(),
    }
}

fn build() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release"]);
    command.args(["--package", DRIVER, "--package", APISERVER]);
    checked(&mut command)?;
    Ok(target_dir()?.join("release"))
}

/// A name that the file of results does not have yet: `ours#2`.
fn round(results: &Path, subject: Subject) -> Result<String> {
    let known: Value = match fs::read(results) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", results.display()))?,
        Err(_) => Value::Null,
    };
    let rounds = known.get("rounds").and_then(Value::as_array);
    let prefix = format!("{}#", subject.name());
    let is_its = |round: &&Value| {
        let name = round.get("name").and_then(Value::as_str);
        name.is_some_and(|name| name.starts_with(&prefix))
    };
    let count = rounds.into_iter().flatten().filter(is_its).count();
    Ok(format!("{prefix}{}", count + 1))
}

fn checked(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("run {program}"))?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}

/// The load driver for one round of one server.
struct Driver<'a> {
    program: PathBuf,
    name: String,
    out: &'a Path,
    args: &'a Bench,
}

impl Driver<'_> {
    /// Twice from an empty store: what writes leave behind is in no other figure.
    fn measure(&self, subject: Subject, programs: &Path) -> Result<()> {
        Server::run(subject, programs, |server| {
            self.drive(server, &["idle", "writes"], None, &[])
        })?;
        Server::run(subject, programs, |server| {
            self.drive(server, &["fill"], None, &[])?;
            let sql = server.sql()?;
            let started = Some(server.restart()?);
            let parts = ["cold", "lists", "watches", "grow"];
            self.drive(server, &parts, started, &sql)?;
            let started = Some(server.restart()?);
            self.drive(server, &["cold"], started, &[])?;
            server.restart()?;
            self.drive(server, &["huge"], None, &[])
        })
    }

    fn drive(
        &self,
        server: &Server,
        parts: &[&str],
        started: Option<u128>,
        sql: &[String],
    ) -> Result<()> {
        let mut command = Command::new(&self.program);
        let tls = server.tls()?;
        let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
            bail!("no client certificate")
        };
        command
            .args(["drive", "--name", &self.name, "--kind", server.kind()])
            .args(["--server", &server.address()?.to_string(), "--ca"])
            .arg(&tls.ca)
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .arg("--out")
            .arg(self.out)
            .args(["--seconds", &self.args.seconds.to_string()]);
        for pid in server.pids()? {
            command.args(["--pid", &pid.to_string()]);
        }
        for part in parts {
            command.args(["--part", part]);
        }
        for word in sql {
            // A word may begin with a hyphen.
            command.arg(format!("--sql={word}"));
        }
        if let Some(time) = started {
            command.args(["--started", &time.to_string()]);
        }
        for part in &self.args.only {
            command.args(["--only", part]);
        }
        if self.args.quick {
            command.arg("--quick");
        }
        checked(&mut command)
    }
}
