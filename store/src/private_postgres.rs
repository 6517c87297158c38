//! A Postgres of one's own: for `standalone`, and for tests.
//!
//! It listens on a unix socket that only this user can reach, and stops when this process ends,
//! however it ends. Postgres refuses to run as root, so root runs it as another user.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::StoreError;

mod system;

use system::{RunAs, find_binaries, socket_dir};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Postgres takes some 50 ms to start.
const POLL: Duration = Duration::from_millis(2);
const PORT: u16 = 5432;

/// How a [`PrivatePostgres`] runs.
#[derive(Clone, Debug)]
pub struct PrivatePostgresOptions {
    /// Off only where losing the data is no harm.
    pub fsync: bool,
    /// Where `initdb` and `postgres` are; found by itself when not given.
    pub bin_dir: Option<PathBuf>,
    /// Further settings, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

impl Default for PrivatePostgresOptions {
    fn default() -> Self {
        Self {
            fsync: true,
            bin_dir: None,
            settings: Vec::new(),
        }
    }
}

/// How clients are treated when Postgres stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Disconnect them, write everything down, end.
    Fast,
    /// End as in a crash: the next start recovers.
    Immediate,
}

/// A running Postgres. Stopped by [`PrivatePostgres::stop`], and also when it is dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    dir: PathBuf,
    socket: PathBuf,
    bin: PathBuf,
    user: RunAs,
    /// Lives as long as the server process.
    running: Option<JoinHandle<()>>,
}

impl PrivatePostgres {
    /// Starts the Postgres of `dir`, which is made if it does not exist. Whatever an earlier,
    /// crashed process left running there is stopped first. Blocks until connections are accepted.
    pub fn start(dir: &Path, options: &PrivatePostgresOptions) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| failed("creating the directory", e))?;
        let dir = dir
            .canonicalize()
            .map_err(|e| failed("reading the directory", e))?;
        let bin = match &options.bin_dir {
            Some(given) => given.clone(),
            None => find_binaries()?,
        };
        let user = RunAs::choose(&dir)?;
        let socket = socket_dir(&dir);
        for path in [&dir, &socket] {
            fs::create_dir_all(path).map_err(|e| failed("creating the directory", e))?;
            user.own(path)?;
        }
        let mut this = Self {
            dir,
            socket,
            bin,
            user,
            running: None,
        };
        this.stop_leftover()?;
        if !this.data().join("PG_VERSION").exists() {
            this.initialize(options)?;
        }
        this.launch(options)?;
        Ok(this)
    }

    /// The URL of `database` as `role`; neither needs a password.
    pub fn url(&self, database: &str, role: &str) -> String {
        format!(
            "postgres://{role}@localhost/{database}?host={}&port={PORT}",
            self.socket.display()
        )
    }

    /// The superuser's name.
    pub fn superuser(&self) -> &'static str {
        "postgres"
    }

    /// Where `psql`, `pg_dump` and the like of the same version are.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The directory of the unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket
    }

    /// Creates `database`, owned by `owner`, and the role `owner` unless they exist.
    pub fn create_database(&self, database: &str, owner: &str) -> Result<(), StoreError> {
        let (database, owner) = (database.replace('\'', "''"), owner.replace('\'', "''"));
        let statements = format!(
            "SELECT format('CREATE ROLE %I LOGIN CREATEROLE', '{owner}') \
             WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{owner}') \\gexec\n\
             SELECT format('CREATE DATABASE %I OWNER %I', '{database}', '{owner}') \
             WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}') \\gexec\n",
        );
        self.psql("postgres", &statements).map(drop)
    }

    /// Runs statements as the superuser and returns what psql prints.
    pub fn psql(&self, database: &str, statements: &str) -> Result<String, StoreError> {
        let input = self
            .dir
            .join(format!("psql-{}.sql", uuid::Uuid::new_v4().simple()));
        fs::write(&input, statements).map_err(|e| failed("writing statements", e))?;
        let file = fs::File::open(&input).map_err(|e| failed("reading statements", e))?;
        let output = Command::new(self.bin.join("psql"))
            .args([
                "-qAtX",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                self.superuser(),
                "-d",
                database,
            ])
            .args(["-p", &PORT.to_string(), "-h"])
            .arg(&self.socket)
            .stdin(file)
            .output()
            .map_err(|e| failed("running psql", e));
        let removed = fs::remove_file(&input).map_err(|e| failed("removing statements", e));
        let text = stdout_of("running psql", output?)?;
        removed.map(|()| text)
    }

    /// Stops in the fast mode and waits for the end.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.stop_with(Shutdown::Fast)
    }

    /// Stops and waits for the end; [`PrivatePostgres::start`] on the directory continues.
    pub fn stop_with(&mut self, shutdown: Shutdown) -> Result<(), StoreError> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let mode = match shutdown {
            Shutdown::Fast => "fast",
            Shutdown::Immediate => "immediate",
        };
        self.pg_ctl_stop(mode)?;
        running
            .join()
            .map_err(|_| failed("stopping", "its thread panicked"))
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn pg_ctl_stop(&self, mode: &str) -> Result<(), StoreError> {
        let output = self
            .command("pg_ctl")
            .args(["stop", "-w", "-t", "60", "-m", mode, "-D"])
            .arg(self.data())
            .output()
            .map_err(|e| failed("running pg_ctl", e))?;
        stdout_of("stopping", output).map(drop)
    }

    fn stop_leftover(&self) -> Result<(), StoreError> {
        let Ok(lock) = fs::read_to_string(self.data().join("postmaster.pid")) else {
            return Ok(());
        };
        let pid = lock.lines().next().unwrap_or_default().trim();
        let works_here = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|d| d == self.data());
        if works_here {
            self.pg_ctl_stop("fast")
        } else {
            Ok(())
        }
    }

    fn initialize(&self, options: &PrivatePostgresOptions) -> Result<(), StoreError> {
        let mut command = self.command("initdb");
        command.args([
            "-U",
            self.superuser(),
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ]);
        command.arg(self.data());
        // initdb flushes each of a thousand files; one flush of all takes a fraction of that.
        command.arg("--no-sync");
        let output = command.output().map_err(|e| failed("running initdb", e))?;
        stdout_of("initdb", output)?;
        if !options.fsync {
            return Ok(());
        }
        let output = Command::new("sync")
            .arg("--file-system")
            .arg(self.data())
            .output()
            .map_err(|e| failed("running sync", e))?;
        stdout_of("sync", output).map(drop)
    }

    fn launch(&mut self, options: &PrivatePostgresOptions) -> Result<(), StoreError> {
        let log = fs::File::create(self.dir.join("postgres.log"))
            .map_err(|e| failed("creating the log", e))?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.socket);
        command.args([
            "-c",
            "listen_addresses=",
            "-c",
            "unix_socket_permissions=0700",
        ]);
        command.args([
            "-c",
            &format!("port={PORT}"),
            "-c",
            &format!("fsync={}", options.fsync),
        ]);
        for (name, value) in &options.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let errors = log.try_clone().map_err(|e| failed("creating the log", e))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let (started, child) = mpsc::channel();
        // The kernel sends the death signal when the thread that spawned ends, not the process:
        // hence a thread that lives as long as Postgres.
        let running = thread::spawn(move || {
            let spawned = command.spawn();
            let (answer, child) = match spawned {
                Ok(child) => (Ok(child.id()), Some(child)),
                Err(error) => (Err(error), None),
            };
            let _ = started.send(answer);
            if let Some(mut child) = child {
                wait_for(&mut child);
            }
        });
        match child.recv() {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(failed("starting", error)),
            Err(error) => return Err(failed("starting", error)),
        }
        self.running = Some(running);
        self.await_ready()
    }

    fn await_ready(&mut self) -> Result<(), StoreError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let state = status.lines().nth(7).map(str::trim);
            if matches!(state, Some("ready" | "standby")) {
                return Ok(());
            }
            let ended = self.running.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || Instant::now() > deadline {
                if ended {
                    self.running = None;
                }
                let log = fs::read_to_string(self.dir.join("postgres.log")).unwrap_or_default();
                return Err(failed("starting", log.trim()));
            }
            thread::sleep(POLL);
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.user.command(&self.bin.join(program));
        command
            .current_dir("/")
            .env("HOME", &self.dir)
            .env("LC_ALL", "C");
        for name in [
            "PGDATA",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGDATABASE",
            "PGOPTIONS",
        ] {
            command.env_remove(name);
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop_with(Shutdown::Fast) {
            tracing::warn!(%error, "a private postgres was not stopped");
        }
    }
}

fn wait_for(child: &mut Child) {
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "cannot wait for the private postgres");
    }
}

fn stdout_of(doing: &'static str, output: Output) -> Result<String, StoreError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = if errors.trim().is_empty() {
        String::from_utf8_lossy(&output.stdout)
    } else {
        errors
    };
    Err(failed(doing, format!("{}: {}", output.status, said.trim())))
}

fn failed(doing: &'static str, detail: impl Display) -> StoreError {
    StoreError::Postgres {
        doing,
        detail: detail.to_string(),
    }
}
