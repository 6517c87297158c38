//! One run: finding it again, reaching its parts, changing it under a test.

mod lifecycle;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control_plane::ControlPlane;
use crate::http::Tls;
use crate::kubectl::Kubectl;
use crate::platform;
use crate::postgres::{self, Postgres};
use crate::process::{self, Record, Spec, Supervisor};
use crate::state::{self, State};
use crate::{certs, logs, paths};

pub(crate) use lifecycle::keeper;
pub use lifecycle::{Options, clean_dead};

/// How long a process may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// Name of the process of the platform without a cluster.
pub const STANDALONE: &str = "widget-apiserver-standalone";

/// What a run consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A control plane of our own, and the platform in it.
    Local,
    /// A control plane of our own, and nothing else.
    ControlPlane,
    /// One API server without any cluster.
    Standalone,
    /// The platform in a cluster that exists.
    External,
}

/// A run that was started.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    state: Mutex<State>,
}

/// One line of `status`.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// Name within the run.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Whether it runs.
    pub alive: bool,
    /// Where it listens.
    pub address: Option<String>,
    /// kubeconfig by which it is reached directly.
    pub kubeconfig: Option<PathBuf>,
    /// Certificate files by which it is reached directly.
    pub tls: Option<Tls>,
    /// Its log.
    pub log: PathBuf,
}

impl Cluster {
    /// The platform in a cluster that this tool did not start.
    #[must_use]
    pub fn external(kubeconfig: &Path) -> Self {
        let state = State {
            name: "external".to_owned(),
            mode: Mode::External,
            owner: None,
            control_plane: None,
            servers: None,
            tool: PathBuf::new(),
            external_kubeconfig: Some(kubeconfig.to_path_buf()),
            volatile: false,
            ports: BTreeMap::new(),
            directories: Vec::new(),
            processes: Vec::new(),
        };
        Self {
            dir: PathBuf::new(),
            state: Mutex::new(state),
        }
    }

    /// The run in a state directory.
    pub fn open(dir: &Path) -> Result<Self> {
        let state = state::load(dir)?;
        let state = state.with_context(|| format!("nothing runs from {}", dir.display()))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            state: Mutex::new(state),
        })
    }

    /// The run of that name; none when there is none.
    pub fn find(name: &str) -> Result<Option<Self>> {
        let dir = paths::states()?.join(name);
        if !dir.join("state.json").exists() {
            return Ok(None);
        }
        Self::open(&dir).map(Some)
    }

    /// Where the run keeps its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the run consists of.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.state().mode
    }

    /// kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        match self.mode() {
            Mode::External => self.state().external_kubeconfig.clone().unwrap_or_default(),
            Mode::Standalone => self.standalone_dir().join("kubeconfig"),
            Mode::Local | Mode::ControlPlane => self.dir.join("pki/admin.kubeconfig"),
        }
    }

    /// Directory to put first into PATH: the control plane's kubectl.
    #[must_use]
    pub fn bin_dir(&self) -> Option<PathBuf> {
        self.state().control_plane.clone()
    }

    /// kubectl as the administrator.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        let program = self
            .bin_dir()
            .map_or_else(|| "kubectl".into(), |dir| dir.join("kubectl"));
        Kubectl::new(&program, &self.kubeconfig())
    }

    /// kubectl as a user with a client certificate and, at first, no rights.
    pub fn kubectl_as(&self, user: &str, group: Option<&str>) -> Result<Kubectl> {
        let control_plane = ControlPlane::new(&self.dir, &mut self.state())?;
        let kubeconfig = control_plane.kubeconfig(&format!("user-{user}"), user, group)?;
        let program = self
            .bin_dir()
            .context("the run has no control plane")?
            .join("kubectl");
        Ok(Kubectl::new(&program, &kubeconfig))
    }

    /// Client certificate of the administrator, for direct connections to
    /// kube-apiserver; the platform's servers have another CA ([`Spec::tls`]).
    pub fn admin_tls(&self) -> Result<Tls> {
        ControlPlane::new(&self.dir, &mut self.state())?.admin_tls()
    }

    /// Client certificate files for the server of a standalone run, taken out of
    /// its kubeconfig.
    pub fn standalone_tls(&self) -> Result<Tls> {
        let path = self.kubeconfig();
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let config: Value = serde_json::from_slice(&text)?;
        let file = |pointer: &str, name: &str| -> Result<PathBuf> {
            let data = config.pointer(pointer).and_then(Value::as_str);
            let data = data.with_context(|| format!("{} has no {pointer}", path.display()))?;
            let file = self.dir.join(name);
            certs::write_private(
                &file,
                &base64::engine::general_purpose::STANDARD.decode(data)?,
            )?;
            Ok(file)
        };
        Ok(Tls {
            ca: file("/clusters/0/cluster/certificate-authority-data", "ca.crt")?,
            cert: Some(file("/users/0/user/client-certificate-data", "client.crt")?),
            key: Some(file("/users/0/user/client-key-data", "client.key")?),
        })
    }

    /// The words of a command that runs an SQL statement, given as its last argument,
    /// in the Postgres of a standalone run, which writes where it listens.
    pub fn standalone_sql(&self) -> Result<Vec<String>> {
        let file = self.standalone_dir().join("postgres/data/postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let line = |number: usize| text.lines().nth(number).map(str::trim);
        let (Some(port), Some(socket)) = (line(3), line(4)) else {
            anyhow::bail!("{} names no socket", file.display())
        };
        let psql = crate::packages::postgres_bin_dir()?.join("psql");
        let words = format!(
            "{} --no-psqlrc --quiet --tuples-only --no-align --username=postgres \
             --host={socket} --port={port} --dbname=postgres --command",
            psql.display()
        );
        Ok(words.split_whitespace().map(str::to_owned).collect())
    }

    /// The process of that name as it was started last.
    pub fn process(&self, name: &str) -> Result<Record> {
        let state = self.state();
        state
            .process(name)
            .cloned()
            .with_context(|| format!("the run has no process {name}"))
    }

    /// The API servers; empty when they run in someone else's cluster.
    #[must_use]
    pub fn replicas(&self) -> Vec<Record> {
        let state = self.state();
        (0..platform::REPLICAS)
            .filter_map(|index| state.process(&platform::replica_name(index)).cloned())
            .collect()
    }

    /// Address of a process that listens on a TCP port.
    pub fn address(&self, name: &str) -> Result<SocketAddr> {
        let address = self
            .process(name)?
            .spec
            .address
            .context("it has no address")?;
        address
            .parse()
            .with_context(|| format!("{name} listens on {address}, no TCP port"))
    }

    /// Kills a process with SIGKILL and waits until it is gone.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.process(name)?.kill()
    }

    /// Stops a process as its supervisor would.
    pub fn stop(&self, name: &str) -> Result<()> {
        self.process(name)?.stop(STOP_LIMIT)
    }

    /// Stops a process in its tracks (SIGSTOP): it still exists and answers nothing.
    pub fn freeze(&self, name: &str) -> Result<()> {
        self.process(name)?.signal("STOP")
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self, name: &str) -> Result<()> {
        self.process(name)?.signal("CONT")
    }

    /// Starts a process again as it was started last, and waits until it is ready.
    pub fn start(&self, name: &str) -> Result<()> {
        let record = self.process(name)?;
        self.ensure(record.spec)?;
        self.wait_ready(name)
    }

    /// Waits until a process does what it is there for.
    pub fn wait_ready(&self, name: &str) -> Result<()> {
        if name == postgres::NAME {
            return self.postgres()?.wait_ready(STOP_LIMIT);
        }
        let address = self.address(name)?;
        let config = match self.process(name)?.spec.tls {
            Some(tls) => Some(Tls::anonymous(&tls.ca).config()?),
            None => None,
        };
        Supervisor::wait_ready(self, name, STOP_LIMIT, &mut || match &config {
            Some(config) => platform::is_ready(address, config),
            None => std::net::TcpStream::connect(address).is_ok(),
        })
    }

    /// Waits until both APIServices are Available.
    pub fn wait_available(&self) -> Result<()> {
        platform::wait_available(&self.kubectl())
    }

    /// Runs one SQL statement in the platform's database as the superuser.
    pub fn psql(&self, statement: &str) -> Result<String> {
        self.postgres()?.psql(postgres::DATABASE, statement)
    }

    /// Dumps the platform's database; returns where.
    pub fn dump_database(&self) -> Result<PathBuf> {
        self.postgres()?.dump()
    }

    /// Replaces the platform's database under its servers by a dump.
    pub fn restore_database(&self, dump: &Path) -> Result<()> {
        self.postgres()?.restore(dump)
    }

    /// WARN and ERROR lines of the platform's servers.
    #[must_use]
    pub fn complaints(&self) -> Vec<logs::Complaint> {
        logs::complaints(&self.state().processes)
    }

    /// All processes of the run.
    #[must_use]
    pub fn status(&self) -> Vec<ProcessStatus> {
        let status = |record: &Record| ProcessStatus {
            name: record.spec.name.clone(),
            pid: record.pid,
            alive: record.is_alive(),
            address: record.spec.address.clone(),
            kubeconfig: record.spec.kubeconfig.clone(),
            tls: record.spec.tls.clone(),
            log: record.log.clone(),
        };
        self.state().processes.iter().map(status).collect()
    }

    /// The lock is never held while anything waits.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn postgres(&self) -> Result<Postgres> {
        Postgres::new(&self.dir)
    }

    /// Its server runs a Postgres in there.
    fn standalone_dir(&self) -> PathBuf {
        postgres::private_dir(&self.dir, "standalone")
    }

    /// Adds the end of the log of every process that died to an error.
    fn explain(&self, result: Result<()>) -> Result<()> {
        let dead: Vec<String> = self
            .state()
            .processes
            .iter()
            .filter(|record| !record.is_alive())
            .map(|record| {
                let (name, log) = (&record.spec.name, record.log.display());
                format!("{name} ended; the end of {log}:\n{}", record.log_tail())
            })
            .collect();
        result.with_context(|| match dead.is_empty() {
            true => format!("logs are in {}", self.dir.join("logs").display()),
            false => dead.join("\n"),
        })
    }
}

impl Supervisor for Cluster {
    /// A process whose program was replaced on disk is started anew from that.
    fn ensure(&self, spec: Spec) -> Result<()> {
        let known = self.state().process(&spec.name).cloned();
        if let Some(record) = known.filter(Record::is_staying_alive) {
            if !record.is_outdated() {
                return Ok(());
            }
            record.stop(STOP_LIMIT)?;
        }
        let record = process::spawn(&spec, &self.dir)?;
        let mut state = self.state();
        state.put_process(record);
        state::save(&self.dir, &state)
    }

    fn is_alive(&self, name: &str) -> bool {
        self.state().is_alive(name)
    }
}
