//! The platform's own programs, built by cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths;

/// Package and program of the API server.
pub const APISERVER: &str = "widget-apiserver";

/// Package and program of the controller.
pub const CONTROLLER: &str = "widget-controller";

/// Builds both programs and returns their directory.
pub fn build(release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", APISERVER, "--package", CONTROLLER]);
    if release {
        command.arg("--release");
    }
    let status = command.status().context("run cargo build")?;
    if !status.success() {
        bail!("cargo build failed");
    }
    Ok(target_dir()?.join(if release { "release" } else { "debug" }))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let dir = metadata.get("target_directory").and_then(Value::as_str);
    Ok(Path::new(dir.context("cargo metadata names no target directory")?).to_path_buf())
}

/// cargo, in the workspace.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    command
}
