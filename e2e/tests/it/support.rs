//! What every test needs: kubectl as its user runs it, a namespace of its own,
//! and conditions that are awaited and never slept for.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Cluster, Mode, http};
use serde_json::Value;

/// How long a condition may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// kubectl as a user types it: one command line, and flags that always apply.
#[derive(Clone)]
pub struct Kubectl {
    kubectl: e2e::kubectl::Kubectl,
    flags: Vec<String>,
}

impl Kubectl {
    /// kubectl as the cluster's administrator.
    pub fn admin(cluster: &Cluster) -> Self {
        Self {
            kubectl: cluster.kubectl(),
            flags: Vec::new(),
        }
    }

    /// The same with a flag, such as `--namespace=x`.
    pub fn with(&self, flag: impl Into<String>) -> Self {
        let mut changed = self.clone();
        changed.flags.push(flag.into());
        changed
    }

    /// The command, for tests that need its streams.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = self.kubectl.command();
        command.args(split(arguments)).args(&self.flags);
        command
    }

    /// Runs `kubectl <arguments>`; a failure holds what it printed.
    pub fn run(&self, arguments: &str) -> Result<String> {
        self.run_with(arguments, "")
    }

    /// The same with standard input, for `-f -`.
    pub fn run_with(&self, arguments: &str, input: &str) -> Result<String> {
        let output = self.output(arguments, input)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl {arguments}: {}\n{stdout}{stderr}",
            output.status
        );
        Ok(stdout)
    }

    pub fn json(&self, arguments: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.run(&format!("{arguments} -o json"))?,
        )?)
    }

    /// What `kubectl get --raw <path>` prints.
    pub fn json_raw(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.run(&format!("get --raw {path}"))?,
        )?)
    }

    /// Runs a command that must fail, and gives what it said.
    pub fn refused(&self, arguments: &str) -> Result<String> {
        self.refused_with(arguments, "")
    }

    /// The same with standard input.
    pub fn refused_with(&self, arguments: &str, input: &str) -> Result<String> {
        let output = self.output(arguments, input)?;
        if output.status.success() {
            bail!(
                "kubectl {arguments} was accepted: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn output(&self, arguments: &str, input: &str) -> Result<Output> {
        let words = split(arguments);
        let words: Vec<&str> = words
            .iter()
            .chain(&self.flags)
            .map(String::as_str)
            .collect();
        self.kubectl.output(&words, input)
    }
}

/// Whether the test may reach past the API: into processes, logs and ports.
pub fn is_local(cluster: &Cluster) -> bool {
    let local = cluster.mode() == Mode::Local;
    if !local {
        eprintln!("skipped: this test needs the local control plane");
    }
    local
}

/// What the controller's metrics endpoint says.
pub fn controller_metrics(cluster: &Cluster) -> Result<String> {
    let address = cluster.address("widget-controller")?;
    Ok(http::get_plain(address, "/metrics", Duration::from_secs(5))?.body)
}

/// The program of clients/go, built once.
pub fn go_clients() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| build_go_clients().map_err(|error| format!("{error:#}")));
    program
        .as_deref()
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn build_go_clients() -> Result<PathBuf> {
    let program = e2e::servers::target_dir()?.join("e2e-clients");
    let source = e2e::paths::workspace().join("e2e/clients/go");
    let status = Command::new("go")
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            "-o",
        ])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .status()
        .context("run go")?;
    ensure!(status.success(), "go build failed");
    Ok(program)
}

/// Splits a command line at spaces; single quotes hold a word together.
fn split(arguments: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for character in arguments.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                begun = true;
            }
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// A namespace that goes when the test ends.
pub struct Namespace {
    pub name: String,
    admin: Kubectl,
}

impl Namespace {
    pub fn create(cluster: &Cluster, purpose: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{purpose}-{}-{number}", std::process::id());
        let admin = Kubectl::admin(cluster);
        admin.run(&format!("create namespace {name}"))?;
        Ok(Self { name, admin })
    }

    /// kubectl as administrator in this namespace.
    pub fn kubectl(&self) -> Kubectl {
        self.admin.with(format!("--namespace={}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.admin.run(&format!(
            "delete namespace {} --wait=false --ignore-not-found",
            self.name
        ));
    }
}

/// Waits until `check` is true; its last error says why it was not.
pub fn eventually(
    what: &str,
    patience: Duration,
    mut check: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let outcome = check();
        match outcome {
            Ok(true) => return Ok(()),
            Ok(false) if start.elapsed() > patience => bail!("{what}: not within {patience:?}"),
            Err(error) if start.elapsed() > patience => {
                return Err(error.context(format!("{what}: not within {patience:?}")));
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The value at a JSON pointer, or null.
pub fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    static NULL: Value = Value::Null;
    value.pointer(pointer).unwrap_or(&NULL)
}

/// A v1 Widget as its user writes it.
pub fn widget(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: custom.example.com/v1\nkind: Widget\nmetadata:\n  name: {name}\nspec:\n  \
         replicas: {replicas}\n  image: registry.example.com/app:1.0\n  color: green\n"
    )
}

/// A v1alpha1 Widget as its user writes it.
pub fn old_widget(name: &str, size: u32) -> String {
    format!(
        "apiVersion: custom.example.com/v1alpha1\nkind: Widget\nmetadata:\n  name: {name}\nspec:\n  \
         size: {size}\n  repository: registry.example.com/app\n  tag: \"1.0\"\n"
    )
}

pub fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
