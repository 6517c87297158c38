//! Starting a run, or what of it does not run; ending it without a trace; and
//! cleaning up after runs that were killed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Cluster, Mode, STANDALONE, STOP_LIMIT};
use crate::control_plane::{ControlPlane, flag};
use crate::platform::Platform;
use crate::postgres::{self, Postgres};
use crate::process::{self, Record, Spec, Supervisor};
use crate::state::{self, Owner, State, StateDir};
use crate::{binaries, paths, servers};

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
            cluster.ensure(keeper(&options.tool, &options.name))?;
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

    /// Ends a run and removes everything of it; returns whether there was one.
    pub fn down(name: &str) -> Result<bool> {
        let lock = StateDir::lock(name)?;
        let existed = lock.path().exists();
        end(lock)?;
        Ok(existed)
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
        self.explain(control_plane.start_controllers(self))?;
        timer.lap("controllers and nodes");
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
            let port = state.port(STANDALONE)?;
            state.directories = vec![self.standalone_dir()];
            state::save(&self.dir, &state)?;
            (
                port,
                state.servers.clone().context("the run has no servers")?,
            )
        };
        let address = format!("127.0.0.1:{port}");
        self.ensure(Spec {
            name: STANDALONE.to_owned(),
            program: servers.join(servers::APISERVER),
            args: vec![
                "standalone".to_owned(),
                flag("data-dir", &self.standalone_dir()),
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
pub(crate) fn keeper(tool: &Path, name: &str) -> Spec {
    Spec {
        name: "keeper".to_owned(),
        program: tool.to_path_buf(),
        args: vec!["keep".to_owned(), format!("--name={name}")],
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
            let uninstalled = install(state.external_kubeconfig.as_deref(), "uninstall.sh");
            if let Err(error) = uninstalled {
                // Its cluster may be gone for good: that must not keep the record for ever.
                eprintln!("the platform may still be installed: {error:#}");
            }
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
