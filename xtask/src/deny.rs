//! cargo-deny, built once into the cache: a check that is skipped where its tool
//! is missing is no check.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use e2e::paths;
use e2e::servers::cargo;

const VERSION: &str = "0.20.2";

/// Checks bans, licences and sources of all dependencies by deny.toml. Advisories
/// are left to the hosted workflow: their database is fetched from elsewhere.
pub(crate) fn check() -> Result<()> {
    println!("== bans, licences and sources");
    let status = Command::new(tool()?)
        .args(["check", "bans", "licenses", "sources"])
        .current_dir(paths::workspace())
        .status()
        .context("run cargo-deny")?;
    if !status.success() {
        bail!("cargo deny found something");
    }
    Ok(())
}

fn tool() -> Result<PathBuf> {
    let root = paths::cache()?.join("tools");
    let program = root.join("bin/cargo-deny");
    let known = Command::new(&program)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    if known.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION)) {
        return Ok(program);
    }
    println!("== cargo-deny {VERSION}: built once, some minutes");
    let status = cargo()
        .args(["install", "--locked", "--version", VERSION, "--root"])
        .arg(&root)
        .arg("cargo-deny")
        // Apart from the workspace, whose lock and features are not its own.
        .current_dir(std::env::temp_dir())
        .status()
        .context("run cargo install")?;
    if !status.success() {
        bail!("cargo-deny could not be built");
    }
    Ok(program)
}
