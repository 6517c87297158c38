//! Proves on real processes what no unit test can: random histories of many
//! clients against several replicas, under faults, judged by checkers that know
//! only what clients saw and what the history table says.
//!
//! `cargo xtask robust` builds the servers and starts this program.

mod bodies;
mod check;
mod client;
mod drive;
mod effect;
mod fault;
mod follow;
mod lab;
mod old;
mod plan;
mod planted;
mod proxy;
mod record;
mod report;
mod rng;
mod run;
mod scene;
mod selector;
mod truth;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::lab::{Lab, Setup};
use crate::plan::{Offer, Plan};
use crate::planted::Bug;
use crate::report::{Kept, Report, Seeds};
use crate::run::Judged;

/// Random histories against real replicas under faults.
#[derive(Parser)]
struct Flags {
    /// Directory of the API server's program.
    #[arg(long)]
    servers: PathBuf,
    /// How many histories.
    #[arg(long, default_value_t = 100)]
    histories: u64,
    /// Seed of the first one; each later one has the next number. Drawn from the clock if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Stop after this many minutes, whatever has been done by then.
    #[arg(long)]
    minutes: Option<u64>,
    /// Name of a planted bug; the run succeeds when a rule that is about it is broken.
    #[arg(long)]
    planted: Option<String>,
    /// Failpoints that the servers were built with.
    #[arg(long, value_delimiter = ',')]
    failpoints: Vec<String>,
    /// File of seeds that failed once; they are run first.
    #[arg(long)]
    seeds: Option<PathBuf>,
    /// Where histories that fail are written.
    #[arg(long)]
    out: PathBuf,
    /// The program whose subcommand `keep` ends what a killed run leaves.
    #[arg(long)]
    tool: Option<PathBuf>,
    /// Runs nothing, and judges histories that were kept once more.
    #[arg(long)]
    judge: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match begin() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<bool> {
    let flags = Flags::parse();
    if !flags.judge.is_empty() {
        return judge_again(&flags.judge);
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider was installed already")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(histories(&flags))
}

/// Runs histories; true when the run says what it should.
async fn histories(flags: &Flags) -> Result<bool> {
    let planted = flags.planted.as_deref().map(Bug::find).transpose()?;
    let seed = match flags.seed {
        Some(seed) => seed,
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            u64::from(now.subsec_nanos()) + now.as_secs() % 1_000 * 1_000_000_000
        }
    };
    println!("seed {seed}, {} histories", flags.histories);
    let setup = Setup {
        servers: flags.servers.clone(),
        tool: flags.tool.clone(),
        planted: flags.planted.clone(),
    };
    let offer = Offer {
        failpoints: flags.failpoints.clone(),
    };
    let seeds = Seeds::read(flags.seeds.as_deref())?;
    let mut queue: Vec<u64> = Vec::new();
    if flags.seed.is_none() && flags.planted.is_none() {
        queue.extend(&seeds.known);
    }
    queue.extend((0..flags.histories).map(|number| seed.wrapping_add(number)));
    let deadline = flags
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let mut report = Report::new(&flags.out, planted);
    let mut lab = Arc::new(Lab::start(&setup).await?);
    for (number, seed) in (0_u64..).zip(queue) {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            println!("stopped after {number} histories: the time is over");
            break;
        }
        let began = Instant::now();
        let judged = run::run(&lab, Plan::draw(seed, &offer), number).await;
        let judged = judged.with_context(|| format!("seed {seed}"));
        let mut judged = match judged {
            Ok(judged) => judged,
            Err(error) => {
                lab.keep_logs(&flags.out.join("logs"))?;
                end(lab)?;
                return Err(error);
            }
        };
        judge_logs(&lab, &mut judged)?;
        report.add(seed, began.elapsed(), &judged)?;
        if judged.violations.is_empty() {
            continue;
        }
        lab.keep_logs(&flags.out.join(format!("logs-{seed}")))?;
        if report.is_caught() {
            break;
        }
        if planted.is_none() {
            seeds.add(seed, &judged.violations)?;
        }
        // What went wrong may go on being wrong: the next history gets new servers.
        end(lab)?;
        lab = Arc::new(Lab::start(&setup).await?);
    }
    end(lab)?;
    Ok(report.close(seed))
}

/// Judges kept histories by what the checkers know now; true when nothing is wrong.
fn judge_again(files: &[PathBuf]) -> Result<bool> {
    let mut is_sound = true;
    for file in files {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let kept: Kept = serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no history", file.display()))?;
        let violations = check::check(&kept.history, &kept.truth);
        println!("{}: {} violations", file.display(), violations.len());
        for violation in &violations {
            println!("* {}: {}", violation.rule, violation.detail);
        }
        is_sound &= violations.is_empty();
    }
    Ok(is_sound)
}

fn judge_logs(lab: &Lab, judged: &mut Judged) -> Result<()> {
    let panics = lab.panics()?;
    let violations = panics
        .into_iter()
        .map(|panic| check::Violation::new("server: no panic", panic));
    judged.violations.extend(violations);
    Ok(())
}

fn end(lab: Arc<Lab>) -> Result<()> {
    let lab = Arc::into_inner(lab).context("a fault still goes on")?;
    lab.end()
}
