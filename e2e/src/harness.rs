//! The cluster that the tests of this crate share.
//!
//! It is the one that `E2E_STATE` names (`cargo xtask test` starts it), or the one
//! of the kubeconfig in `E2E_KUBECONFIG` (kind, in CI), or else one that the first
//! test starts and that ends with the test process.

use std::env;
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, bail};

use crate::kubectl::Kubectl;
use crate::{Cluster, servers};

static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
static USERS: RwLock<()> = RwLock::new(());
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

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

impl<Guard> Session<Guard> {
    /// A new namespace, deleted when the value is dropped.
    pub fn namespace(&self, prefix: &str) -> Result<Namespace> {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        let kubectl = self.cluster.kubectl();
        kubectl.run(&["create", "namespace", &name])?;
        Ok(Namespace { name, kubectl })
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

/// A namespace of one test.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    kubectl: Kubectl,
}

impl Namespace {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// kubectl's arguments with the namespace in front.
    #[must_use]
    pub fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["--namespace", self.name.as_str()], args].concat()
    }

    /// Runs kubectl as the administrator in this namespace.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(&self.args(args))
    }

    /// As [`Kubectl::run_with_input`], in this namespace.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        self.kubectl.run_with_input(&self.args(args), input)
    }

    /// As [`Kubectl::fail`], in this namespace.
    pub fn fail(&self, args: &[&str], input: &str) -> Result<String> {
        self.kubectl.fail(&self.args(args), input)
    }

    /// As [`Kubectl::json`], in this namespace.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        self.kubectl.json(&self.args(args))
    }

    /// As [`Kubectl::until`], in this namespace.
    pub fn until(
        &self,
        limit: std::time::Duration,
        args: &[&str],
        accept: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.kubectl.until(limit, &self.args(args), accept)
    }

    /// `kubectl apply` in this namespace.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.run_with_input(&["apply", "-f", "-"], manifest)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not waited for: the tests of deletion do that, and the cluster goes away anyway.
        let mut command: Command = self.kubectl.command();
        command.args([
            "delete",
            "namespace",
            &self.name,
            "--wait=false",
            "--ignore-not-found",
        ]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
