//! What the machine must have installed besides Rust: Go and Postgres.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Oldest Postgres that the store is written for.
const OLDEST_POSTGRES: u32 = 15;

/// Directory with `initdb`, `postgres` and `psql`; installs Debian's package when
/// there is none and this runs as root.
pub fn postgres_bin_dir() -> Result<PathBuf> {
    if let Some(dir) = find_postgres() {
        return Ok(dir);
    }
    if !is_root() || !exists_in_path("apt-get") {
        bail!(
            "PostgreSQL {OLDEST_POSTGRES} or later is needed and was not found. Install it \
             (Debian, Ubuntu: `sudo apt-get install postgresql`), or name the directory of its \
             programs in PG_BIN_DIR"
        );
    }
    eprintln!("installing PostgreSQL (apt-get install postgresql)");
    apt_get(&["update", "-qq"])?;
    apt_get(&[
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        "postgresql",
    ])?;
    find_postgres().context("the postgresql package brought no PostgreSQL that is new enough")
}

/// The `go` client, with a message that says what to install.
pub fn require_go() -> Result<()> {
    if !exists_in_path("go") {
        bail!("Go 1.26 or later is needed to build the control plane: see https://go.dev/dl");
    }
    Ok(())
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_ascii_whitespace().nth(1))
            == Some("0")
    })
}

fn find_postgres() -> Option<PathBuf> {
    if let Some(dir) = env::var_os("PG_BIN_DIR") {
        return Some(PathBuf::from(dir));
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .chain(postgres_in_path())
        .filter(|(version, bin)| *version >= OLDEST_POSTGRES && is_whole(bin))
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn is_whole(bin: &Path) -> bool {
    ["initdb", "postgres", "psql"]
        .iter()
        .all(|program| bin.join(program).exists())
}

fn postgres_in_path() -> Option<(u32, PathBuf)> {
    let dir = find_in_path("postgres")?.parent()?.to_path_buf();
    let output = Command::new(dir.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text
        .split_ascii_whitespace()
        .nth(2)?
        .split('.')
        .next()?
        .parse()
        .ok()?;
    Some((version, dir))
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file())
}

fn exists_in_path(program: &str) -> bool {
    find_in_path(program).is_some()
}

fn apt_get(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()
        .context("run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed", args.join(" "));
    }
    Ok(())
}
