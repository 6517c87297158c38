//! `cargo xtask robust`: random histories against real replicas under faults, and
//! the proof that they would find a bug: bugs planted on purpose must be caught.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use e2e::paths;
use e2e::servers::{APISERVER, target_dir};

use crate::test;

/// Package, folder and program that does it.
pub(crate) const DRIVER: &str = "robust";

/// Longest time that a planted bug may stay uncaught.
const PLANTED_MINUTES: u64 = 10;

/// Planted bugs that are caught within seconds: enough to see on every push that the checkers work.
const QUICK: [&str; 3] = ["no-compare-and-swap", "nul-byte-lost", "resume-skips-one"];

/// Where the servers' source names what can be planted and what can be made to fail.
const PLANTED_TABLE: &str = "store/src/planted.rs";
const FAILPOINT_TABLE: &str = "store/src/failpoints.rs";

/// What to run.
#[derive(Args)]
pub(crate) struct Robust {
    /// How many histories
    #[arg(long, default_value_t = 100)]
    histories: u64,
    /// Seed of the first; each later one has the next number
    #[arg(long)]
    seed: Option<u64>,
    /// Plant this bug on purpose, or `all` in turn; each must be caught
    #[arg(long)]
    planted: Option<String>,
    /// Stop after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Run nothing: judge this history once more, which an earlier run has kept
    #[arg(long)]
    judge: Vec<PathBuf>,
}

/// Builds what is needed and runs it; an error when anything was found, or a planted bug was not.
pub(crate) fn run(args: &Robust) -> Result<()> {
    test::build()?;
    let built = target_dir()?.join("debug");
    let driver = built.join(DRIVER);
    if !args.judge.is_empty() {
        return judge(args, &driver, &built);
    }
    let servers = keep(&built.join(APISERVER))?;
    match args.planted.as_deref() {
        None => histories(args, &driver, &servers),
        Some(name) => planted(args, &driver, &servers, name),
    }
}

/// Histories with programs that are built already; whether nothing was found.
pub(crate) fn run_built(programs: &Path, histories: u64) -> Result<bool> {
    let mut command = command(&programs.join(DRIVER), programs)?;
    remember(&mut command, histories);
    Ok(command.status().context("run the histories")?.success())
}

/// The planted bugs that every run of the tests has to catch, or a long one.
pub(crate) fn planted_bugs(long: bool) -> Vec<String> {
    if long {
        names(PLANTED_TABLE)
    } else {
        QUICK.map(str::to_owned).to_vec()
    }
}

/// Whether a bug is caught in time by programs that are built already.
pub(crate) fn is_caught(programs: &Path, bug: &str) -> Result<bool> {
    catch(&programs.join(DRIVER), programs, bug, PLANTED_MINUTES, None)
}

fn histories(args: &Robust, driver: &Path, servers: &Path) -> Result<()> {
    let mut command = command(driver, servers)?;
    remember(&mut command, args.histories);
    if let Some(minutes) = args.minutes {
        command.args(["--minutes", &minutes.to_string()]);
    }
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if !command.status().context("run the histories")?.success() {
        bail!("the histories found something");
    }
    Ok(())
}

fn judge(args: &Robust, driver: &Path, servers: &Path) -> Result<()> {
    let mut command = command(driver, servers)?;
    for file in &args.judge {
        command.arg("--judge").arg(file);
    }
    if !command.status().context("judge histories")?.success() {
        bail!("the histories show something");
    }
    Ok(())
}

/// Seeds that failed once are run first, and new ones are added.
fn remember(command: &mut Command, histories: u64) {
    command
        .args(["--histories", &histories.to_string()])
        .arg("--seeds")
        .arg(paths::workspace().join("robust/seeds"));
}

/// Each planted bug must be caught, within the time for one.
fn planted(args: &Robust, driver: &Path, servers: &Path, name: &str) -> Result<()> {
    let known = names(PLANTED_TABLE);
    let chosen: Vec<&String> = match name {
        "all" => known.iter().collect(),
        name => known.iter().filter(|known| *known == name).collect(),
    };
    if chosen.is_empty() {
        bail!(
            "no bug has the name {name}; there are: {}",
            known.join(", ")
        );
    }
    let minutes = args.minutes.unwrap_or(PLANTED_MINUTES);
    let mut missed = Vec::new();
    for bug in &chosen {
        println!("== planted {bug}");
        if !catch(driver, servers, bug, minutes, args.seed)? {
            missed.push(bug.as_str());
        }
    }
    println!(
        "{} of {} planted bugs caught",
        chosen.len() - missed.len(),
        chosen.len()
    );
    if !missed.is_empty() {
        bail!("not caught: {}", missed.join(", "));
    }
    Ok(())
}

/// Runs histories against servers with a bug until it is caught.
fn catch(
    driver: &Path,
    servers: &Path,
    bug: &str,
    minutes: u64,
    seed: Option<u64>,
) -> Result<bool> {
    let mut command = command(driver, servers)?;
    command
        .args(["--planted", bug])
        .args(["--histories", "100000"])
        .args(["--minutes", &minutes.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    Ok(command.status().context("run the histories")?.success())
}

fn command(driver: &Path, servers: &Path) -> Result<Command> {
    let mut command = Command::new(driver);
    command
        .arg("--servers")
        .arg(servers)
        .arg("--out")
        .arg(target_dir()?.join("robust/failures"))
        .arg("--tool")
        .arg(crate::program()?);
    let failpoints = names(FAILPOINT_TABLE);
    if !failpoints.is_empty() {
        command.args(["--failpoints", &failpoints.join(",")]);
    }
    Ok(command)
}

/// Copies a program into a directory of its own: a build may replace it while histories go on.
/// Returns the directory.
fn keep(program: &Path) -> Result<PathBuf> {
    let dir = target_dir()?.join("robust/servers");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let file: OsString = program.file_name().context("a program has a name")?.into();
    let target = dir.join(file);
    // Beside it first: what still runs from there keeps its file.
    let draft = dir.join("new");
    std::fs::copy(program, &draft).with_context(|| format!("copy {}", program.display()))?;
    std::fs::rename(&draft, &target)?;
    Ok(dir)
}

/// The names in a table of the servers' source: `Word = "name"…`, one a line.
fn names(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(paths::workspace().join(file)).unwrap_or_default();
    names_in(&text)
}

fn names_in(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let (word, rest) = line.trim().split_once("= \"")?;
        let is_entry = word.trim_end().chars().all(char::is_alphanumeric);
        let (name, _) = rest.split_once('"')?;
        is_entry.then(|| name.to_owned())
    };
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_off_a_table_in_the_source() {
        let text = "/// Like `x = \"no\"`.\nbugs! {\n    AckEarly = \"ack-early\": \"text\",\n    \
                    B2 = \"b.two\",\n}\nlet a = \"none\";\n#[cfg(feature = \"planted\")]\n";
        assert_eq!(names_in(text), ["ack-early", "b.two"]);
    }
}
