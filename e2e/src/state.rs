//! What one run owns, written down before it matters: a run that dies at any
//! moment leaves enough behind for the next start to clean up after it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cluster::Mode;
use crate::{paths, process};

/// The process whose end ends the run; none for `up`, which stays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl Owner {
    /// The running process `pid` as an owner.
    pub fn of(pid: u32) -> Result<Self> {
        let start_time = process::start_time(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self { pid, start_time })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        process::start_time(self.pid) == Some(self.start_time)
    }
}

/// The contents of `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Name of the run.
    pub name: String,
    /// What the run consists of.
    pub mode: Mode,
    /// Whose end ends the run.
    pub owner: Option<Owner>,
    /// Directory of the control plane's binaries; none when there is none.
    pub control_plane: Option<PathBuf>,
    /// Directory of the platform's binaries; none when the platform runs elsewhere.
    pub servers: Option<PathBuf>,
    /// This tool: the balancer is one of its subcommands.
    pub tool: PathBuf,
    /// A cluster that is not ours: the kubeconfig that the platform was installed with.
    pub external_kubeconfig: Option<PathBuf>,
    /// Whether data may be lost in a crash of the machine (tests only).
    pub volatile: bool,
    /// Ports by the name of what listens; kept over restarts.
    pub ports: BTreeMap<String, u16>,
    /// Directories outside the state directory that go with the run.
    pub directories: Vec<PathBuf>,
    /// Processes in the order of their start.
    pub processes: Vec<process::Record>,
}

impl State {
    /// The process of that name, running or not.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<&process::Record> {
        self.processes
            .iter()
            .find(|record| record.spec.name == name)
    }

    /// Whether that process was started and still runs.
    #[must_use]
    pub fn is_alive(&self, name: &str) -> bool {
        self.process(name).is_some_and(process::Record::is_alive)
    }

    /// Replaces the record of the same name, or adds one at the end.
    pub fn put_process(&mut self, record: process::Record) {
        match self
            .processes
            .iter_mut()
            .find(|known| known.spec.name == record.spec.name)
        {
            Some(known) => *known = record,
            None => self.processes.push(record),
        }
    }

    /// The port of that name, chosen on first use.
    pub fn port(&mut self, name: &str) -> Result<u16> {
        if let Some(port) = self.ports.get(name) {
            return Ok(*port);
        }
        let port = free_port(&self.ports)?;
        self.ports.insert(name.to_owned(), port);
        Ok(port)
    }
}

/// A port below the range of outgoing connections, so that none of those takes it
/// between here and the moment its server listens.
fn free_port(taken: &BTreeMap<String, u16>) -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .subsec_nanos();
    let start = u16::try_from((seed ^ std::process::id()) % u32::from(COUNT))?;
    (0..COUNT)
        .map(|step| FIRST + (start + step) % COUNT)
        .filter(|port| !taken.values().any(|used| used == port))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port between 20000 and 32000")
}

/// The directory of one run, locked against other commands while this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens and locks the directory of `name`; waits while another command holds it.
    pub fn lock(name: &str) -> Result<Self> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            bail!("a run's name is made of letters, digits and hyphens, not {name:?}");
        }
        let parent = paths::states()?;
        fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
        // Beside the directory, not in it: the directory goes away under the lock.
        let file = parent.join(format!(".{name}.lock"));
        loop {
            let lock = File::create(&file)?;
            lock.lock()
                .with_context(|| format!("lock the state of {name}"))?;
            // Whoever held it before may have removed the file with the run.
            let inode = lock.metadata()?.ino();
            if fs::metadata(&file).is_ok_and(|now| now.ino() == inode) {
                return Ok(Self {
                    path: parent.join(name),
                    _lock: lock,
                });
            }
        }
    }

    /// Where the run keeps everything.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and its lock file.
    pub fn remove(self) -> Result<()> {
        remove_all(&self.path)?;
        if let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) {
            let _ = fs::remove_file(parent.join(format!(".{}.lock", name.to_string_lossy())));
        }
        Ok(())
    }
}

/// Removes a directory that may be absent.
pub fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The state in a run's directory; none when there is no such run.
pub fn load(dir: &Path) -> Result<Option<State>> {
    let file = dir.join("state.json");
    match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is damaged", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// Replaces the state in a run's directory in one step.
pub fn save(dir: &Path, state: &State) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let draft = dir.join("state.json.new");
    fs::write(&draft, serde_json::to_vec_pretty(state)?)?;
    fs::rename(&draft, dir.join("state.json"))?;
    Ok(())
}

/// Names of all runs on this machine, dead ones included.
pub fn names() -> Result<Vec<String>> {
    let parent = paths::states()?;
    let Ok(entries) = fs::read_dir(&parent) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_one_run_differ_and_are_kept() {
        let mut taken = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let port = free_port(&taken).unwrap();
            assert!(!taken.values().any(|used| *used == port));
            taken.insert(name.to_owned(), port);
        }
    }

    #[test]
    fn a_name_cannot_leave_the_parent_directory() {
        assert!(StateDir::lock("../up").is_err());
        assert!(StateDir::lock("").is_err());
    }
}
