//! The cluster that the tests of this crate share.
//!
//! It is the one that `E2E_STATE` names (`cargo xtask test` starts it), or the one
//! of the kubeconfig in `E2E_KUBECONFIG` (kind, in CI), or else one that the first
//! test starts and that ends with the test process.

use std::env;
use std::ops::Deref;
use std::path::Path;
use std::process::Stdio;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, bail};

use crate::{Cluster, servers};

static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
static USERS: RwLock<()> = RwLock::new(());

/// The cluster, for as long as one test needs it in one way.
#[derive(Debug)]
pub struct Session<Guard> {
    cluster: &'static Cluster,
    _guard: Guard,
}

impl<Guard> Deref for Session<Guard> {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// The cluster for a test that leaves other tests in peace.
pub fn shared() -> Result<Session<RwLockReadGuard<'static, ()>>> {
    let guard = USERS.read().unwrap_or_else(PoisonError::into_inner);
    Ok(Session {
        cluster: cluster()?,
        _guard: guard,
    })
}

/// The cluster for a test that stops servers: no other test runs meanwhile.
pub fn exclusive() -> Result<Session<RwLockWriteGuard<'static, ()>>> {
    let guard = USERS.write().unwrap_or_else(PoisonError::into_inner);
    Ok(Session {
        cluster: cluster()?,
        _guard: guard,
    })
}

fn cluster() -> Result<&'static Cluster> {
    match CLUSTER.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(cluster) => Ok(cluster),
        Err(error) => bail!("no cluster to test: {error}"),
    }
}

fn find() -> Result<Cluster> {
    if let Some(dir) = env::var_os("E2E_STATE") {
        return Cluster::open(Path::new(&dir));
    }
    if let Some(kubeconfig) = env::var_os("E2E_KUBECONFIG") {
        return Ok(Cluster::external(Path::new(&kubeconfig)));
    }
    let pid = std::process::id().to_string();
    let output = servers::cargo()
        .args([
            "xtask",
            "up",
            "--name",
            &format!("test-{pid}"),
            "--owner",
            &pid,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo xtask up")?;
    if !output.status.success() {
        bail!("cargo xtask up failed");
    }
    let dir = String::from_utf8(output.stdout)?;
    Cluster::open(Path::new(dir.trim()))
}
