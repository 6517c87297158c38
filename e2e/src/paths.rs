//! Where things lie: the repository, the cache of built binaries, and the state
//! of what runs. Nothing is ever written into the source tree.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The repository that this is run in, as cargo says, and else the one it was compiled in: clones
/// share a target directory, so the program may be another clone's.
#[must_use]
pub fn workspace() -> PathBuf {
    let run_in = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let crate_dir = run_in.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    crate_dir.parent().unwrap_or(&crate_dir).to_path_buf()
}

/// Binaries that take minutes to build and are shared by all clones.
pub fn cache() -> Result<PathBuf> {
    base("XDG_CACHE_HOME", ".cache")
}

/// Parent of one directory per run.
pub fn states() -> Result<PathBuf> {
    base("XDG_STATE_HOME", ".local/state")
}

fn base(variable: &str, under_home: &str) -> Result<PathBuf> {
    let base = match env::var_os(variable).map(PathBuf::from) {
        Some(path) if path.is_absolute() => path,
        _ => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(under_home),
    };
    Ok(base.join("widget-platform"))
}
