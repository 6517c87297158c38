//! A private Postgres: its own data directory, reachable only through a Unix
//! socket in a directory that only its user can enter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::packages;
use crate::process::{Spec, StopSignal, wait_until};

/// Name of its process within a run.
pub const NAME: &str = "postgres";

/// Role that owns the schema; only migrations use it.
pub const OWNER: &str = "widget_owner";

/// Role of the running API servers: no DDL.
pub const RUNTIME: &str = "widget_server";

/// Database that both use.
pub const DATABASE: &str = "widgets";

/// The port only names the socket file.
const PORT: u16 = 5432;

/// Longest socket directory: the kernel allows 107 bytes with the file name.
const LONGEST_SOCKET_DIR: usize = 85;

/// A Postgres server of one run.
#[derive(Clone, Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    /// Unprivileged user to run as; none when this process is unprivileged itself.
    user: Option<&'static str>,
}

impl Postgres {
    /// The server of the run whose state lies in `state_dir`.
    pub fn new(state_dir: &Path) -> Result<Self> {
        let bin = packages::postgres_bin_dir()?;
        let user = match (packages::is_root(), has_user("postgres")) {
            (false, _) => None,
            (true, true) => Some("postgres"),
            (true, false) => Some("nobody"),
        };
        Ok(Self {
            bin,
            dir: private_dir(state_dir, NAME),
            user,
        })
    }

    /// Everything the server writes; goes away with the run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Connection URL for a role.
    #[must_use]
    pub fn url(&self, role: &str) -> String {
        self.url_of(DATABASE, role)
    }

    fn url_of(&self, database: &str, role: &str) -> String {
        format!(
            "postgres://{role}@localhost/{database}?host={}&port={PORT}",
            self.dir.display()
        )
    }

    /// Creates the data directory on first use. `volatile` gives up durability.
    pub fn init(&self, volatile: bool) -> Result<()> {
        let data = self.data();
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        if let Some(user) = self.user {
            checked(Command::new("chown").arg(format!("{user}:")).arg(&self.dir))?;
        }
        checked(Command::new("chmod").arg("0700").arg(&self.dir))?;
        // Not to stand with half a directory after an interruption: into a draft first.
        let draft = self.dir.join("data.new");
        crate::state::remove_all(&draft)?;
        checked(
            self.command("initdb")
                .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
                .args([
                    "--locale=C.UTF-8",
                    "--no-sync",
                    "--no-instructions",
                    "--pgdata",
                ])
                .arg(&draft),
        )?;
        let config = draft.join("postgresql.conf");
        let mut text = fs::read_to_string(&config)?;
        text.push_str(&format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\nport = {PORT}\n\
             max_connections = 200\nshared_buffers = 256MB\nlog_line_prefix = '%m [%p] %a '\n",
            self.dir.display()
        ));
        if volatile {
            text.push_str("fsync = off\nfull_page_writes = off\n");
        }
        fs::write(&config, text)?;
        fs::rename(draft, data)?;
        Ok(())
    }

    /// How to start the server.
    #[must_use]
    pub fn spec(&self) -> Spec {
        let command = self.command("postgres");
        let args = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned());
        let data = self.data().display().to_string();
        Spec {
            name: NAME.to_owned(),
            program: PathBuf::from(command.get_program()),
            args: args.chain(["-D".to_owned(), data]).collect(),
            address: Some(self.dir.display().to_string()),
            env: vec![("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
            stop: StopSignal::Int,
            ..Spec::default()
        }
    }

    /// Waits until the server takes connections.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        if !wait_until(limit, || self.psql("postgres", "select 1").is_ok()) {
            self.psql("postgres", "select 1")
                .context("Postgres takes no connections")?;
        }
        Ok(())
    }

    /// Creates the roles and the database where they are absent.
    pub fn create_database(&self) -> Result<()> {
        for role in [OWNER, RUNTIME] {
            let known = format!("select 1 from pg_roles where rolname = '{role}'");
            if self.psql("postgres", &known)?.is_empty() {
                self.psql("postgres", &format!("create role {role} login"))?;
            }
        }
        let known = format!("select 1 from pg_database where datname = '{DATABASE}'");
        if self.psql("postgres", &known)?.is_empty() {
            self.psql(
                "postgres",
                &format!("create database {DATABASE} owner {OWNER}"),
            )?;
        }
        Ok(())
    }

    /// Runs one statement as the superuser and returns its bare output.
    pub fn psql(&self, database: &str, statement: &str) -> Result<String> {
        let mut command = self.command("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--username=postgres", "--host"])
            .arg(&self.dir)
            .args([
                "--port",
                &PORT.to_string(),
                "--dbname",
                database,
                "--command",
                statement,
            ]);
        Ok(checked(&mut command)?.trim().to_owned())
    }

    /// Writes all of the database, as its owner sees it, into a file; returns where.
    pub fn dump(&self) -> Result<PathBuf> {
        let file = self.dir.join("dump.sql");
        let mut command = self.command("pg_dump");
        checked(command.arg("--file").arg(&file).arg(self.url(OWNER)))?;
        Ok(file)
    }

    /// Replaces the database, whoever uses it, by what a dump holds. It is whole when it gets its
    /// name: nobody finds one without a schema.
    pub fn restore(&self, dump: &Path) -> Result<()> {
        let restored = &format!("{DATABASE}_restored");
        let admin = |statement: String| self.psql("postgres", &statement);
        admin(format!("drop database if exists {restored}"))?;
        admin(format!("create database {restored} owner {OWNER}"))?;
        let mut command = self.command("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--single-transaction"])
            .args(["--set=ON_ERROR_STOP=1", "--file"])
            .arg(dump)
            .arg(self.url_of(restored, OWNER));
        checked(&mut command)?;
        admin(format!("drop database {DATABASE} with (force)"))?;
        admin(format!("alter database {restored} rename to {DATABASE}")).map(drop)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("/usr/bin/setpriv");
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={}", group_of(user)))
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        };
        command.current_dir("/").env("LC_ALL", "C.UTF-8");
        command
    }
}

/// Where a Postgres of a run can keep its files: in the run's directory, unless
/// that is too long a path for a socket, or root's (Postgres refuses to run as
/// root, and another user cannot enter root's home).
#[must_use]
pub fn private_dir(state_dir: &Path, name: &str) -> PathBuf {
    let dir = state_dir.join(name);
    let base = match packages::is_root() {
        true => PathBuf::from("/var/lib"),
        false if dir.as_os_str().len() > LONGEST_SOCKET_DIR => std::env::temp_dir(),
        false => return dir,
    };
    let hash = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    let hash: String = hash
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    base.join(format!("widget-platform-{name}-{hash}"))
}

fn passwd_field(user: &str, field: usize) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(field).map(str::to_owned)
}

fn has_user(user: &str) -> bool {
    passwd_field(user, 0).is_some()
}

fn group_of(user: &str) -> String {
    passwd_field(user, 3).unwrap_or_else(|| user.to_owned())
}

fn checked(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn a_private_server_starts_serves_and_stops() -> Result<()> {
        let state = std::env::temp_dir().join(format!("widget-pg-{}", std::process::id()));
        fs::create_dir_all(&state)?;
        let postgres = Postgres::new(&state)?;
        postgres.init(true)?;
        let record = process::spawn(&postgres.spec(), &state)?;
        postgres.wait_ready(Duration::from_secs(30))?;
        // Twice: a second `up` finds everything there.
        postgres.create_database()?;
        postgres.create_database()?;
        let owner = "select pg_get_userbyid(datdba) from pg_database where datname = 'widgets'";
        assert_eq!(postgres.psql(DATABASE, owner)?, OWNER);
        record.stop(Duration::from_secs(20))?;
        assert!(
            !postgres.dir().join("data/postmaster.pid").exists(),
            "it stopped cleanly"
        );
        crate::state::remove_all(postgres.dir())?;
        crate::state::remove_all(&state)
    }
}
