//! One run: starting it, finding it again, changing it under a test, ending it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::control_plane::ControlPlane;
use crate::http::Tls;
use crate::kubectl::Kubectl;
use crate::platform::{self, Platform};
use crate::postgres::{self, Postgres};
use crate::process::{self, Record, Spec, Supervisor};
use crate::state::{self, Owner, State, StateDir};
use crate::{binaries, logs, paths, servers};

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

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the run: letters, digits, hyphens.
    pub name: String,
    /// What it consists of.
    pub mode: Mode,
    /// The process whose end ends the run; none for a run that stays.
    pub owner: Option<u32>,
    /// Directory of servers that are built already; built when absent.
    pub servers: Option<PathBuf>,
    /// Whether to build servers with optimizations.
    pub release: bool,
    /// Whether a crash of the machine may lose data: faster, for tests.
    pub volatile: bool,
    /// kubeconfig of the cluster that exists ([`Mode::External`]).
    pub kubeconfig: Option<PathBuf>,
    /// The program that has the subcommands `balancer` and `keep`.
    pub tool: PathBuf,
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
    /// Starts a run, or what of it does not run (any more).
    pub fn up(options: &Options) -> Result<Self> {
        clean_dead()?;
        let lock = StateDir::lock(&options.name)?;
        let dir = lock.path().to_path_buf();
        if let Some(known) = state::load(&dir)?
            && known.mode != options.mode
        {
            bail!(
                "{} runs in another mode: end it first (cargo xtask down)",
                options.name
            );
        }
        let state = prepare(&dir, options)?;
        state::save(&dir, &state)?;
        let cluster = Self {
            dir,
            state: Mutex::new(state),
        };
        if options.owner.is_some() {
            cluster.ensure(keeper(options))?;
        }
        match options.mode {
            Mode::Local => cluster.start_local(true)?,
            Mode::ControlPlane => cluster.start_local(false)?,
            Mode::Standalone => cluster.start_standalone()?,
            Mode::External => install(options.kubeconfig.as_deref(), "install.sh")?,
        }
        drop(lock);
        Ok(cluster)
    }

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

    /// Ends a run and removes everything of it; returns whether there was one.
    pub fn down(name: &str) -> Result<bool> {
        let lock = StateDir::lock(name)?;
        let existed = lock.path().exists();
        end(lock)?;
        Ok(existed)
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

    fn start_local(&self, with_platform: bool) -> Result<()> {
        let mut timer = Timer::new();
        let control_plane = ControlPlane::new(&self.dir, &mut self.state())?;
        let postgres = with_platform.then(|| self.start_postgres()).transpose()?;
        if postgres.is_some() {
            timer.lap("Postgres");
        }
        self.explain(control_plane.start(self))?;
        timer.lap("control plane");
        if let Some(postgres) = &postgres {
            postgres.create_database()?;
            let platform = Platform::new(&mut self.state(), &control_plane, postgres)?;
            self.explain(platform.start(self))?;
            timer.lap("platform");
        }
        self.explain(control_plane.wait_settled())?;
        timer.lap("nodes and metrics");
        state::save(&self.dir, &self.state())
    }

    fn start_postgres(&self) -> Result<Postgres> {
        let postgres = self.postgres()?;
        {
            let mut state = self.state();
            state.directories = vec![postgres.dir().to_path_buf()];
            state::save(&self.dir, &state)?;
        }
        postgres.init(self.state().volatile)?;
        self.ensure(postgres.spec())?;
        self.explain(postgres.wait_ready(STOP_LIMIT))?;
        Ok(postgres)
    }

    fn start_standalone(&self) -> Result<()> {
        let (port, servers) = {
            let mut state = self.state();
            (
                state.port(STANDALONE)?,
                state.servers.clone().context("the run has no servers")?,
            )
        };
        let address = format!("127.0.0.1:{port}");
        self.ensure(Spec {
            name: STANDALONE.to_owned(),
            program: servers.join(servers::APISERVER),
            args: vec![
                "standalone".to_owned(),
                crate::control_plane::flag("data-dir", &self.standalone_dir()),
                format!("--secure-port={port}"),
            ],
            kubeconfig: Some(self.standalone_dir().join("kubeconfig")),
            address: Some(address),
            ..Spec::default()
        })?;
        let kubectl = self.kubectl();
        let ready = kubectl.until(STOP_LIMIT, &["get", "--raw", "/readyz"], |text| {
            text == "ok"
        });
        self.explain(ready.map(|_| ()))
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

fn prepare(dir: &Path, options: &Options) -> Result<State> {
    let known = state::load(dir)?;
    let needs_control_plane = matches!(options.mode, Mode::Local | Mode::ControlPlane);
    let needs_servers = matches!(options.mode, Mode::Local | Mode::Standalone);
    let servers = match &options.servers {
        Some(dir) => Some(dir.clone()),
        None if needs_servers => Some(servers::build(options.release)?),
        None => None,
    };
    let control_plane = needs_control_plane.then(binaries::ensure).transpose()?;
    Ok(State {
        name: options.name.clone(),
        mode: options.mode,
        owner: options.owner.map(Owner::of).transpose()?,
        control_plane,
        servers,
        tool: options.tool.clone(),
        external_kubeconfig: options.kubeconfig.clone(),
        volatile: options.volatile,
        ports: known
            .as_ref()
            .map(|known| known.ports.clone())
            .unwrap_or_default(),
        directories: known
            .as_ref()
            .map(|known| known.directories.clone())
            .unwrap_or_default(),
        processes: known.map(|known| known.processes).unwrap_or_default(),
    })
}

/// Ends the run when its owner is killed.
fn keeper(options: &Options) -> Spec {
    Spec {
        name: "keeper".to_owned(),
        program: options.tool.clone(),
        args: vec!["keep".to_owned(), format!("--name={}", options.name)],
        ..Spec::default()
    }
}

/// Ends every run whose owner is gone: what a killed test left behind.
pub fn clean_dead() -> Result<()> {
    for name in state::names()? {
        let dir = paths::states()?.join(&name);
        if is_dead(&dir) {
            let lock = StateDir::lock(&name)?;
            // It may have become another run's while this waited.
            if lock.path().exists() && is_dead(&dir) {
                eprintln!("cleaning up after {name}, which was killed");
                end(lock)?;
            }
        }
    }
    Ok(())
}

/// A directory without a readable state is what a crash leaves of a start or an end.
fn is_dead(dir: &Path) -> bool {
    match state::load(dir) {
        Ok(Some(state)) => state.owner.is_some_and(|owner| !owner.is_alive()),
        Ok(None) | Err(_) => true,
    }
}

/// In the reverse order of the start: nothing loses what it depends on before it
/// has stopped itself.
fn end(lock: StateDir) -> Result<()> {
    let dir = lock.path().to_path_buf();
    let state = state::load(&dir).ok().flatten();
    if let Some(state) = &state {
        if state.mode == Mode::External {
            install(state.external_kubeconfig.as_deref(), "uninstall.sh")?;
        }
        stop_all(&state.processes)?;
    }
    process::sweep(&dir)?;
    for directory in state.iter().flat_map(|state| &state.directories) {
        state::remove_all(directory)?;
    }
    lock.remove()
}

/// The platform stops gracefully and in order; the control plane keeps nothing
/// that outlives it, so it is killed.
fn stop_all(processes: &[Record]) -> Result<()> {
    let graceful = |record: &&Record| {
        record.spec.name.starts_with("widget-") || record.spec.name == postgres::NAME
    };
    let mut stopped = HashSet::new();
    for record in processes.iter().rev().filter(graceful) {
        // A frozen process cannot take its leave.
        record.signal("CONT")?;
        record.stop(STOP_LIMIT)?;
        stopped.insert(record.pid);
    }
    // The keeper may be the one that does this.
    stopped.insert(std::process::id());
    for record in processes
        .iter()
        .rev()
        .filter(|record| !stopped.contains(&record.pid))
    {
        record.kill()?;
    }
    Ok(())
}

fn install(kubeconfig: Option<&Path>, script: &str) -> Result<()> {
    let kubeconfig = kubeconfig.context("no kubeconfig was given")?;
    let path = paths::workspace().join("deploy").join(script);
    let status = Command::new(&path)
        .arg("kind")
        .env("KUBECONFIG", fs::canonicalize(kubeconfig)?)
        .status()
        .with_context(|| format!("run {}", path.display()))?;
    if !status.success() {
        bail!("{} failed", path.display());
    }
    Ok(())
}

/// Says how long each part of a start took.
struct Timer {
    start: Instant,
}

impl Timer {
    fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn lap(&mut self, what: &str) {
        eprintln!("  {what}: {:.1} s", self.start.elapsed().as_secs_f64());
        self.start = Instant::now();
    }
}
