//! Child processes that outlive the command that started them.
//!
//! A pid alone says nothing once its process is gone, so each record also holds
//! the start time that the kernel reports; and every child carries the state
//! directory in its environment, which finds those that were spawned just before
//! a crash and never recorded. Nothing else is ever signalled.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::http::Tls;

/// Environment variable that marks a process as part of one run.
pub const MARKER: &str = "WIDGET_PLATFORM_STATE";

const POLL: Duration = Duration::from_millis(20);

/// What even a busy kernel needs to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How a process is asked to stop before it is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// What servers take as a request for a graceful stop.
    #[default]
    Term,
    /// Postgres' fast shutdown: it would wait for its clients on TERM.
    Int,
}

impl StopSignal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
        }
    }
}

/// A process to be started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Spec {
    /// Name within the run: `kube-apiserver`, `widget-apiserver-0`.
    pub name: String,
    /// Program, absolute.
    pub program: PathBuf,
    /// Arguments after the program.
    pub args: Vec<String>,
    /// Variables beyond those of this process.
    pub env: Vec<(String, String)>,
    /// Where it listens.
    pub address: Option<String>,
    /// kubeconfig by which a person reaches it directly.
    pub kubeconfig: Option<PathBuf>,
    /// Certificate files by which a client reaches it directly.
    pub tls: Option<Tls>,
    /// How to ask it to stop.
    pub stop: StopSignal,
}

/// A process that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// How it was started.
    pub spec: Spec,
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, which tells it from a later process with the same pid.
    pub start_time: u64,
    /// Standard output and error, appended over restarts.
    pub log: PathBuf,
}

impl Record {
    /// Whether this very process still runs (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// As [`Self::is_alive`], but waits out a process that is just being killed.
    #[must_use]
    pub fn is_staying_alive(&self) -> bool {
        if self.is_alive() && is_dying(self.pid) {
            return !self.wait_gone(KILL_LIMIT);
        }
        self.is_alive()
    }

    /// Whether its program was replaced on disk since it started.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid))
            .is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"))
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`, `CONT`) if this very process still runs.
    pub fn signal(&self, name: &str) -> Result<()> {
        if self.is_alive() {
            signal(self.pid, name)?;
        }
        Ok(())
    }

    /// Asks the process to stop, and kills it when it has not within `limit`.
    pub fn stop(&self, limit: Duration) -> Result<()> {
        self.signal(self.spec.stop.name())?;
        if !self.wait_gone(limit) {
            self.kill()?;
        }
        Ok(())
    }

    /// Kills the process and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal("KILL")?;
        if !self.wait_gone(Duration::from_secs(10)) {
            bail!(
                "{} (pid {}) survived SIGKILL for 10 s",
                self.spec.name,
                self.pid
            );
        }
        Ok(())
    }

    /// Waits until the process is gone; false when it is still there after `limit`.
    #[must_use]
    pub fn wait_gone(&self, limit: Duration) -> bool {
        wait_until(limit, || !self.is_alive())
    }

    /// The last lines of the log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let start = lines.len().saturating_sub(15);
        lines.get(start..).unwrap_or_default().join("\n")
    }
}

/// Who starts processes and knows how they are: the run that they belong to.
pub trait Supervisor {
    /// Starts `spec` unless it runs already.
    fn ensure(&self, spec: Spec) -> Result<()>;

    /// Whether the process of that name runs.
    fn is_alive(&self, name: &str) -> bool;

    /// Waits until `ready` holds for the process of that name; an error when it
    /// ends before, or when `limit` has passed.
    fn wait_ready(
        &self,
        name: &str,
        limit: Duration,
        ready: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let mut alive = true;
        let mut is_ready = false;
        wait_until(limit, || {
            alive = self.is_alive(name);
            is_ready = alive && ready();
            is_ready || !alive
        });
        match (is_ready, alive) {
            (true, _) => Ok(()),
            (false, true) => bail!("{name} is not ready within {limit:?}"),
            (false, false) => bail!("{name} has ended"),
        }
    }
}

/// Starts `spec` in a process group of its own (a Ctrl-C in the terminal is not
/// for it), with its output appended to a log in `state_dir`.
pub fn spawn(spec: &Spec, state_dir: &Path) -> Result<Record> {
    let logs = state_dir.join("logs");
    fs::create_dir_all(&logs)?;
    let log = logs.join(format!("{}.log", spec.name));
    let out: File = OpenOptions::new().create(true).append(true).open(&log)?;
    let mut child = Command::new(&spec.program)
        .args(&spec.args)
        .envs(spec.env.iter().map(|(key, value)| (key, value)))
        .env(MARKER, state_dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {} ({})", spec.name, spec.program.display()))?;
    let pid = child.id();
    let start_time = start_time(pid).with_context(|| format!("{} ended at once", spec.name))?;
    // Reaped by this process if it lives long enough, by init otherwise.
    std::thread::spawn(move || child.wait());
    Ok(Record {
        spec: spec.clone(),
        pid,
        start_time,
        log,
    })
}

/// Kills every process that carries `state_dir` as its marker, except this one:
/// what a crash left unrecorded. Returns how many there were.
pub fn sweep(state_dir: &Path) -> Result<usize> {
    let mut found = std::collections::BTreeSet::new();
    let deadline = Instant::now() + KILL_LIMIT;
    let mut was_empty = false;
    loop {
        let pids = marked(state_dir);
        // A process in the middle of exec shows no environment: one look is not enough.
        if pids.is_empty() && was_empty {
            return Ok(found.len());
        }
        was_empty = pids.is_empty();
        found.extend(pids.iter().copied());
        for pid in &pids {
            // It may have ended by itself in between: then there is nothing to do.
            let _ = signal(*pid, "KILL");
        }
        if Instant::now() > deadline {
            bail!("processes {pids:?} survive SIGKILL");
        }
        sleep(POLL);
    }
}

fn marked(state_dir: &Path) -> Vec<u32> {
    let marker = format!("{MARKER}={}", state_dir.display());
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id() && start_time(*pid).is_some())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| {
                env.split(|byte| *byte == 0)
                    .any(|var| var == marker.as_bytes())
            })
        })
        .collect()
}

/// Start time of a running process in clock ticks since boot; none for one that is gone or a zombie.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start_time(&stat)
}

/// The second field is the command in parentheses and may itself hold spaces and
/// parentheses, so fields are counted from the last closing one. A zombie whose
/// other threads still run still holds its ports.
fn parse_start_time(stat: &str) -> Option<u64> {
    let fields = fields_from_state(stat)?;
    let state = *fields.first()?;
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if state == "X" || (state == "Z" && threads <= 1) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn fields_from_state(stat: &str) -> Option<Vec<&str>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().collect())
}

/// Whether a process has a SIGKILL before it or is already on its way out: it is
/// there, but not for long.
fn is_dying(pid: u32) -> bool {
    const EXITING: u64 = 0x4;
    const SIGKILL: u64 = 1 << 8;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = fields_from_state(&stat).and_then(|fields| fields.get(6)?.parse::<u64>().ok());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("SigPnd:")
                .or(line.strip_prefix("ShdPnd:"))
        })
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .fold(0, |all, mask| all | mask);
    flags.is_some_and(|flags| flags & EXITING != 0) || pending & SIGKILL != 0
}

/// By the shell's built-in `kill`: the system call would need `unsafe`.
fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .context("run kill")?;
    if !status.success() && start_time(pid).is_some() {
        bail!("cannot send SIG{name} to process {pid}");
    }
    Ok(())
}

/// Polls `done` until it holds or `limit` has passed; returns whether it held.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str) -> Spec {
        Spec {
            name: name.into(),
            program: "/bin/sleep".into(),
            args: vec!["600".into()],
            ..Spec::default()
        }
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("widget-process-{name}-{}", std::process::id()))
    }

    #[test]
    fn start_time_is_read_behind_a_hostile_command_name() {
        let stat = |state, threads| {
            format!(
                "42 (a) S 1 (b) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 {threads} 18 777 20"
            )
        };
        assert_eq!(parse_start_time(&stat("R", 1)), Some(777));
        assert_eq!(parse_start_time(&stat("Z", 1)), None);
        assert_eq!(
            parse_start_time(&stat("Z", 2)),
            Some(777),
            "its threads still run"
        );
    }

    #[test]
    fn a_process_is_stopped_and_then_no_longer_alive() {
        let dir = scratch("stop");
        let record = spawn(&sleeper("sleeper"), &dir).unwrap();
        assert!(record.is_alive());
        record.stop(Duration::from_secs(5)).unwrap();
        assert!(!record.is_alive());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn another_process_under_a_recorded_pid_is_left_alone() {
        let dir = scratch("foreign");
        let mut record = spawn(&sleeper("sleeper"), &dir).unwrap();
        let real = record.clone();
        record.start_time += 1;
        record.stop(Duration::from_secs(1)).unwrap();
        assert!(real.is_alive());
        real.kill().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_child_that_was_never_recorded_is_swept() {
        let dir = scratch("sweep");
        let record = spawn(&sleeper("sleeper"), &dir).unwrap();
        assert_eq!(sweep(&dir).unwrap(), 1);
        assert!(!record.is_alive());
        fs::remove_dir_all(dir).unwrap();
    }
}
