//! Databases for tests: one private Postgres for each test process, one database for each test; and
//! what a test's machine itself is late by.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use crate::schema::migrate;

/// Owns the schema in tests.
pub const OWNER: &str = "store_owner";
/// Runs the store in tests.
pub const RUNTIME: &str = "store_runtime";
const TEMPLATE: &str = "migrated";
const PREFIX: &str = "store-test-";

static POSTGRES: OnceLock<PrivatePostgres> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A migrated, empty database.
#[derive(Clone, Debug)]
pub struct TestDatabase {
    /// For [`crate::StoreConfig`].
    pub url: String,
    /// As the role that owns the schema.
    pub owner_url: String,
    /// As the superuser.
    pub admin_url: String,
    /// Its name.
    pub name: String,
}

/// A fresh database in this process' Postgres, which ends with the process.
pub fn database() -> TestDatabase {
    let postgres = shared_postgres();
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {OWNER}");
    postgres
        .psql("postgres", &create)
        .expect("a template is copied");
    TestDatabase {
        url: postgres.url(&name, RUNTIME),
        owner_url: postgres.url(&name, OWNER),
        admin_url: postgres.url(&name, postgres.superuser()),
        name,
    }
}

/// This process' Postgres. It does not flush: tests that crash it need one of their own.
pub fn shared_postgres() -> &'static PrivatePostgres {
    POSTGRES.get_or_init(|| {
        remove_leftovers();
        let postgres = PrivatePostgres::start(&directory(std::process::id()), &options(false))
            .expect("postgres starts");
        prepare(&postgres, TEMPLATE).expect("the template is migrated");
        postgres
    })
}

/// How late threads of this process come to their turn: what a busy machine, or one that stands
/// still, adds to any time that is measured meanwhile.
#[derive(Debug)]
pub struct Lag {
    worst: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
}

impl Lag {
    /// By a thread that only sleeps, until this is dropped.
    pub fn watch() -> Self {
        const PAUSE: Duration = Duration::from_millis(1);
        let (worst, stop) = <(Arc<Mutex<Duration>>, Arc<AtomicBool>)>::default();
        let this = Self {
            worst: Arc::clone(&worst),
            stop: Arc::clone(&stop),
        };
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(PAUSE);
                let late = began.elapsed().saturating_sub(PAUSE);
                let mut worst = worst.lock().unwrap_or_else(PoisonError::into_inner);
                *worst = late.max(*worst);
            }
        });
        this
    }

    /// The worst since it was asked last.
    pub fn take(&self) -> Duration {
        std::mem::take(&mut *self.worst.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Options for a test's Postgres.
pub fn options(fsync: bool) -> PrivatePostgresOptions {
    let settings = [
        ("max_connections", "300"),
        ("shared_buffers", "32MB"),
        ("full_page_writes", if fsync { "on" } else { "off" }),
        ("autovacuum", "off"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    PrivatePostgresOptions {
        fsync,
        bin_dir: None,
        settings: settings.into(),
    }
}

/// Creates and migrates a database in a test's own Postgres.
pub fn prepare(postgres: &PrivatePostgres, database: &str) -> Result<(), StoreError> {
    postgres.create_database(database, OWNER)?;
    let url = postgres.url(database, OWNER);
    // Callers may be inside a runtime, where blocking on another is not allowed.
    let migrated = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .expect("a runtime is built")
            .block_on(migrate(&url, RUNTIME))
    });
    migrated.join().expect("migrations do not panic")
}

/// A directory for this process, under the system's temporary one; a later process removes it.
pub fn directory(id: impl std::fmt::Display) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{id}"))
}

/// Removes what test processes left behind that have ended.
fn remove_leftovers() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = id
            .and_then(|id| id.split('-').next())
            .filter(|pid| !pid.is_empty());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // The postgres in it ends with its process; what it still holds goes next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
