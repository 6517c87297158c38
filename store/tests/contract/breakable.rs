//! Postgres servers that a test may break, and what it breaks them with.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use store::StoreConfig;
use store::private_postgres::{PrivatePostgres, PrivatePostgresOptions, Shutdown};
use store::testing::{OWNER, RUNTIME, TestDatabase, directory, options, prepare};

use crate::support::PATIENCE;

/// How large the tests of faults are, beside their smallest size: `FAULT_SCALE`, 1 when not set.
pub(crate) fn scale() -> u32 {
    let asked = std::env::var("FAULT_SCALE").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// The configuration of one of several stores: every other one lets batches commit before they are
/// durable, whatever the disk.
pub(crate) fn config(url: impl Into<String>, number: usize) -> StoreConfig {
    let mut config = StoreConfig::new(url);
    if number % 2 == 1 {
        config.slow_flush = Duration::ZERO;
    }
    config
}

/// A Postgres of the test's own, with one migrated database.
pub(crate) struct Breakable {
    /// `None` while it is stopped, and when it did not start.
    postgres: Option<PrivatePostgres>,
    pub(crate) database: TestDatabase,
    pub(crate) dir: PathBuf,
    options: PrivatePostgresOptions,
}

impl Breakable {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// With settings as in `postgresql.conf`.
    pub(crate) fn with(name: &str, settings: &[(&str, &str)]) -> Self {
        let dir = directory(format!("{}-{name}", std::process::id()));
        Self::at(dir, settings)
    }

    /// In a directory that may have been prepared.
    pub(crate) fn at(dir: PathBuf, settings: &[(&str, &str)]) -> Self {
        let this = Self::run(dir, settings);
        prepare(this.postgres(), "objects").unwrap();
        this
    }

    /// What a directory holds already.
    pub(crate) fn run(dir: PathBuf, settings: &[(&str, &str)]) -> Self {
        let mut options = options(false);
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        options.settings.extend(settings);
        let postgres = PrivatePostgres::start(&dir, &options).unwrap();
        let database = TestDatabase {
            url: postgres.url("objects", RUNTIME),
            owner_url: postgres.url("objects", OWNER),
            admin_url: postgres.url("objects", postgres.superuser()),
            name: "objects".to_owned(),
        };
        Self {
            postgres: Some(postgres),
            database,
            dir,
            options,
        }
    }

    pub(crate) fn postgres(&self) -> &PrivatePostgres {
        self.postgres.as_ref().expect("postgres runs")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.canonicalize().unwrap().join("socket")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Runs statements as the superuser.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let said = self.postgres().psql("objects", statements).unwrap();
        said.trim().to_owned()
    }

    pub(crate) fn stop(&mut self, shutdown: Shutdown) {
        if let Some(mut postgres) = self.postgres.take() {
            postgres.stop_with(shutdown).unwrap();
        }
    }

    pub(crate) fn start(&mut self) {
        self.try_start().unwrap();
    }

    pub(crate) fn try_start(&mut self) -> Result<(), String> {
        let started = PrivatePostgres::start(&self.dir, &self.options);
        self.postgres = Some(started.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Forgets a server that has ended by itself.
    pub(crate) fn forget(&mut self) {
        // Stopping fails, since nothing runs; the thread that waited for it has ended.
        drop(
            self.postgres
                .take()
                .map(|mut p| p.stop_with(Shutdown::Immediate)),
        );
    }

    /// Changes a setting of the running server.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.sql("SELECT pg_reload_conf()");
        // Sessions read the configuration when they are told, one after the other.
        let deadline = Instant::now() + PATIENCE;
        while self.sql(&format!("SHOW {name}")) != value {
            assert!(Instant::now() < deadline, "{name} is {value}");
        }
    }

    /// Runs a program of the same version.
    pub(crate) fn tool(&self, program: &str, args: &[&str]) -> Output {
        run(self.postgres().bin_dir().join(program), args)
    }

    /// A streaming standby of this server, which reaches it through `upstream`'s socket.
    pub(crate) fn standby(&self, name: &str, upstream: &Path, settings: &[(&str, &str)]) -> Self {
        let dir = directory(format!("{}-{name}", std::process::id()));
        self.copy_to(&dir);
        let data = dir.join("data").display().to_string();
        std::fs::write(dir.join("data/standby.signal"), "").unwrap();
        let like = format!("--reference={}", self.data().display());
        run("chown", &["-R", &like, &data]);
        let source = format!(
            "host={} port=5432 user=postgres application_name={name}",
            upstream.display()
        );
        let mut all = vec![
            ("primary_conninfo", source.as_str()),
            ("hot_standby", "on"),
            ("wal_retrieve_retry_interval", "100ms"),
            ("wal_receiver_status_interval", "1s"),
        ];
        all.extend(settings);
        Self::run(dir, &all)
    }

    /// A base backup of this server in `dir`.
    pub(crate) fn copy_to(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        let (data, socket) = (dir.join("data"), self.socket());
        let (data, socket) = (data.display().to_string(), socket.display().to_string());
        let args = [
            "-h", &socket, "-p", "5432", "-U", "postgres", "-D", &data, "-X", "stream", "-c",
            "fast",
        ];
        self.tool("pg_basebackup", &args);
        let like = format!("--reference={}", self.data().display());
        run("chown", &["-R", &like, &data]);
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if let Some(mut postgres) = self.postgres.take() {
            let _ = postgres.stop_with(Shutdown::Immediate);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs a program, which must succeed.
pub(crate) fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Output {
    let output = Command::new(program.as_ref()).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        program.as_ref().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Sends a signal to a process of the test's own.
pub(crate) fn signal(pid: impl Display, name: &str) {
    run("kill", &[&format!("-{name}"), &pid.to_string()]);
}

/// A small file system, which root can mount; for a disk that gets full.
pub(crate) struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Takes a folder of a stopped server's data; `None` where nothing can be mounted, which needs
    /// root.
    pub(crate) fn take(server: &Breakable, folder: &str, size: &str) -> Option<Self> {
        let dir = server.dir.canonicalize().unwrap().join("small");
        std::fs::create_dir_all(&dir).unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=700"),
                "none",
            ])
            .arg(&dir)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: no small disk can be mounted here, which needs root");
            return None;
        }
        let (from, to) = (server.data().join(folder), dir.display().to_string());
        run("chown", &[&format!("--reference={}", from.display()), &to]);
        run("cp", &["-a", &format!("{}/.", from.display()), &to]);
        std::fs::remove_dir_all(&from).unwrap();
        std::os::unix::fs::symlink(&dir, &from).unwrap();
        Some(Self { dir })
    }

    /// Writes until nothing more fits.
    pub(crate) fn fill(&self) {
        use std::io::Write;
        let mut ballast = std::fs::File::create(self.dir.join("ballast")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.dir.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server may be about to end in it.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).output();
    }
}

/// Numbers that look random, the same ones in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// At least 0 and below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// The value below which `part` in a hundred of the times are.
pub(crate) fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}
