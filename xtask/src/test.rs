//! `cargo xtask test`: what must hold before a change goes in, cheapest first.
//!
//! All test programs come from one build of the whole workspace and are run from
//! here one by one: selecting packages would change their features and compile
//! half of the dependencies twice.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use e2e::process::MARKER;
use e2e::servers::{cargo, target_dir};
use e2e::{Cluster, Mode, Options};
use serde_json::Value;

use crate::{deny, robust};

/// Generated cases for each conversion law.
const LENS_CASES: &str = "100000";
const LONG_LENS_CASES: &str = "1000000";

/// Random histories that `cargo xtask robust` runs more of.
const HISTORIES: u64 = 100;
const LONG_HISTORIES: u64 = 1000;

/// How large the tests of faults are.
const FAULT_SCALE: &str = "1";
const LONG_FAULT_SCALE: &str = "10";

/// What only tests compile in: places that fail when told to, bugs on purpose, and the tests of
/// faults. One set for everything that is built for tests, so that it is built once.
const FEATURES: [&str; 8] = [
    "store/failpoints",
    "store/faults",
    "store/planted",
    "serving/failpoints",
    "serving/faults",
    "serving/planted",
    "widget-apiserver/failpoints",
    "widget-apiserver/planted",
];

/// Package whose tests need the control plane.
const END_TO_END: &str = "e2e";

/// Its one test program that does; the others are unit tests.
const END_TO_END_TARGET: &str = "it";

/// What to test.
#[derive(Args)]
pub(crate) struct Test {
    /// More generated cases, and the tests marked as long
    #[arg(long)]
    long: bool,
    /// Only the tests of the package in this folder, or those whose name contains this
    filter: Option<String>,
}

impl Test {
    /// Whether the filter names this package, and not its tests.
    fn names(&self, package_dir: &Path) -> bool {
        self.filter
            .as_deref()
            .is_some_and(|filter| package_dir.ends_with(filter))
    }
}

/// A test program that cargo built.
#[derive(Debug)]
pub(crate) struct Program {
    package_dir: PathBuf,
    target: String,
    executable: PathBuf,
}

#[derive(Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    /// Tests that failed, to be named once more at the end.
    names: Vec<String>,
}

impl Count {
    fn fail(&mut self, name: String) {
        self.failed += 1;
        self.names.push(name);
    }

    /// Adds the summary in a line of libtest's, if it is one, or the name of a test that failed.
    fn add_line(&mut self, line: &str) -> bool {
        let failed = line.strip_prefix("test ");
        if let Some(name) = failed.and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.names.push(name.to_owned());
        }
        let Some(summary) = line.strip_prefix("test result: ") else {
            return false;
        };
        let number = |label: &str| -> u64 {
            summary
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(label)?.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        true
    }
}

/// Runs everything and prints the closing line; the exit code says whether all is well.
pub(crate) fn run(args: &Test) -> ExitCode {
    let start = Instant::now();
    let mut count = Count::default();
    let result = steps(args, &mut count);
    if let Err(error) = &result {
        // A step that is no test counts as one that failed.
        count.failed = count.failed.max(1);
        eprintln!("error: {error:#}");
    }
    for name in &count.names {
        println!("failed: {name}");
    }
    println!("took {} s", start.elapsed().as_secs());
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn steps(args: &Test, count: &mut Count) -> Result<()> {
    if args.filter.is_none() {
        check("formatting", &["fmt", "--all", "--check"])?;
        check(
            "lints",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--features",
                &FEATURES.join(","),
                "--",
                "--deny",
                "warnings",
            ],
        )?;
        deny::check()?;
    }
    let mut programs = build()?;
    if programs
        .iter()
        .any(|program| args.names(&program.package_dir))
    {
        programs.retain(|program| args.names(&program.package_dir));
    }
    let (end_to_end, others): (Vec<Program>, Vec<Program>) =
        programs.into_iter().partition(|program| {
            program.package_dir.ends_with(END_TO_END) && program.target == END_TO_END_TARGET
        });
    for program in &others {
        run_program(program, args, &[], count)?;
    }
    if args.filter.is_none() {
        run_doc_tests(args, count)?;
    }
    for program in &end_to_end {
        run_end_to_end(program, args, count)?;
    }
    if args
        .filter
        .as_deref()
        .is_none_or(|filter| filter == robust::DRIVER)
    {
        run_histories(args, count)?;
    }
    Ok(())
}

/// Random histories under faults, and planted bugs that they must find: each is one test.
fn run_histories(args: &Test, count: &mut Count) -> Result<()> {
    let programs = target_dir()?.join("debug");
    let mut add = |what: &str, passed| match passed {
        true => count.passed += 1,
        false => count.fail(what.to_owned()),
    };
    let histories = if args.long { LONG_HISTORIES } else { HISTORIES };
    let passed = timed("histories", || robust::run_built(&programs, histories))?;
    add("histories", passed);
    for bug in robust::planted_bugs(args.long) {
        let what = format!("planted {bug}");
        add(&what, timed(&what, || robust::is_caught(&programs, &bug))?);
    }
    Ok(())
}

/// Does a step, and tells how long it took.
fn timed<T>(what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {what}");
    let began = Instant::now();
    let done = step();
    println!("== {what} took {:.1} s", began.elapsed().as_secs_f64());
    done
}

fn check(what: &str, args: &[&str]) -> Result<()> {
    timed(what, || {
        if !cargo().args(args).status().context("run cargo")?.success() {
            bail!("cargo {} failed", args.join(" "));
        }
        Ok(())
    })
}

/// Builds all targets of the workspace, for tests.
pub(crate) fn build() -> Result<Vec<Program>> {
    timed("build", build_programs)
}

fn build_programs() -> Result<Vec<Program>> {
    let mut child = cargo()
        .args(["build", "--workspace", "--lib", "--bins", "--tests"])
        .args(["--features", &FEATURES.join(",")])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo build")?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut programs = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let message: Value = serde_json::from_str(&line?)?;
        programs.extend(test_program(&message));
    }
    if !child.wait()?.success() {
        bail!("cargo build failed");
    }
    programs.sort_by(|a, b| (&a.package_dir, &a.target).cmp(&(&b.package_dir, &b.target)));
    Ok(programs)
}

fn test_program(message: &Value) -> Option<Program> {
    let is_test = message.pointer("/profile/test")?.as_bool()?;
    let executable = message.get("executable")?.as_str()?;
    let manifest = message.get("manifest_path")?.as_str()?;
    let target = message.pointer("/target/name")?.as_str()?;
    is_test.then(|| Program {
        package_dir: Path::new(manifest)
            .parent()
            .unwrap_or(Path::new("/"))
            .to_path_buf(),
        target: target.to_owned(),
        executable: PathBuf::from(executable),
    })
}

/// Runs one program as cargo would: in its package's folder.
fn run_program(
    program: &Program,
    args: &Test,
    env: &[(&str, &Path)],
    count: &mut Count,
) -> Result<()> {
    let package = program
        .package_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let what = format!("{package} ({})", program.target);
    let mut command = Command::new(&program.executable);
    command
        .current_dir(&program.package_dir)
        .env("CARGO_MANIFEST_DIR", &program.package_dir)
        .envs(env.iter().copied());
    if !args.names(&program.package_dir) {
        command.args(&args.filter);
    }
    if args.long {
        command.arg("--include-ignored");
    }
    timed(&what, || count_tests(&mut command, args, count))
}

fn run_doc_tests(args: &Test, count: &mut Count) -> Result<()> {
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--doc", "--quiet"])
        .args(["--features", &FEATURES.join(",")]);
    timed("documentation", || count_tests(&mut command, args, count))
}

/// Streams the output on and reads the summaries in it. A program that fails
/// without a summary (it crashed) counts as one failure.
fn count_tests(command: &mut Command, args: &Test, count: &mut Count) -> Result<()> {
    let (cases, scale) = if args.long {
        (LONG_LENS_CASES, LONG_FAULT_SCALE)
    } else {
        (LENS_CASES, FAULT_SCALE)
    };
    let mut child = command
        .env("LENS_CASES", cases)
        .env("FAULT_SCALE", scale)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", command.get_program().to_string_lossy()))?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let failed_before = count.failed;
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        count.add_line(&line);
        writeln!(out, "{line}")?;
    }
    if !child.wait()?.success() && count.failed == failed_before {
        let program = command.get_program().to_string_lossy();
        count.fail(format!("{program}, without a summary"));
    }
    Ok(())
}

/// Starts a cluster of its own, which goes away with this process at the latest.
fn run_end_to_end(program: &Program, args: &Test, count: &mut Count) -> Result<()> {
    println!("== control plane");
    let cluster = Cluster::up(&Options {
        name: format!("test-{}", std::process::id()),
        mode: Mode::Local,
        owner: Some(std::process::id()),
        servers: Some(target_dir()?.join("debug")),
        release: false,
        volatile: true,
        kubeconfig: None,
        tool: crate::program()?,
    })?;
    // With the marker, what the program leaves running ends with the cluster.
    let env = [("E2E_STATE", cluster.dir()), (MARKER, cluster.dir())];
    let result = run_program(program, args, &env, count);
    let unexpected = unexpected_complaints(program, &cluster);
    if count.failed > 0 {
        keep_logs(&cluster)?;
    }
    let name = cluster
        .dir()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Cluster::down(&name)?;
    result?;
    let unexpected = unexpected?;
    let whole = args.filter.is_none() || args.names(&program.package_dir);
    if whole && !unexpected.is_empty() {
        bail!(
            "the servers warned of what no test provoked:\n{}",
            unexpected.join("\n")
        );
    }
    Ok(())
}

/// WARN and ERROR lines that match no line of `expected-logs.txt`, each kind once.
fn unexpected_complaints(program: &Program, cluster: &Cluster) -> Result<Vec<String>> {
    let file = program.package_dir.join("expected-logs.txt");
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let expected: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    // State is re-read: the tests may have restarted servers.
    let cluster = Cluster::open(cluster.dir())?;
    let mut kinds: BTreeMap<(String, String), (String, usize)> = BTreeMap::new();
    for complaint in cluster.complaints() {
        if expected.iter().any(|part| complaint.line.contains(part)) {
            continue;
        }
        let kind = (complaint.process.clone(), message(&complaint.line));
        let entry = kinds
            .entry(kind)
            .or_insert_with(|| (complaint.line.clone(), 0));
        entry.1 += 1;
    }
    Ok(kinds
        .into_iter()
        .map(|((process, _), (line, times))| format!("{process} ({times} times): {line}"))
        .collect())
}

/// What tells one kind of log line from another.
fn message(line: &str) -> String {
    serde_json::from_str::<Value>(line)
        .ok()
        .and_then(|entry| {
            let message = entry
                .pointer("/fields/message")
                .or_else(|| entry.get("message"))?;
            message.as_str().map(str::to_owned)
        })
        .unwrap_or_else(|| line.to_owned())
}

/// The logs of a run that failed outlive it, until the next one.
fn keep_logs(cluster: &Cluster) -> Result<()> {
    let target = target_dir()?.join("e2e-logs");
    e2e::state::remove_all(&target)?;
    std::fs::create_dir_all(&target)?;
    for entry in std::fs::read_dir(cluster.dir().join("logs"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    eprintln!("logs of the failed run: {}", target.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let mut count = Count::default();
        assert!(count.add_line("test result: ok. 3 passed; 0 failed; 1 ignored; finished in 0.1s"));
        assert!(count.add_line("test result: FAILED. 2 passed; 4 failed; 0 ignored"));
        assert!(!count.add_line("test a::b ... ok"));
        assert!(!count.add_line("test a::c ... FAILED"));
        assert_eq!((count.passed, count.failed), (5, 4));
        assert_eq!(count.names, ["a::c"]);
    }
}
