//! What of the system a private Postgres needs: a user, a short path, the programs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::failed;
use crate::error::StoreError;

/// The limit for the path of a unix socket is 107 bytes; Postgres adds `/.s.PGSQL.5432.lock`.
const LONGEST_SOCKET_DIR: usize = 85;

/// The user that Postgres runs as.
#[derive(Debug)]
pub(super) enum RunAs {
    /// Whoever we are.
    Ourselves,
    /// We are root.
    Other {
        uid: u32,
        gid: u32,
        /// Some directory above is closed to that user.
        hidden: bool,
    },
}

impl RunAs {
    pub(super) fn choose(dir: &Path) -> Result<Self, StoreError> {
        let ourselves = fs::metadata("/proc/self").map_err(|e| failed("reading the user", e))?;
        if ourselves.uid() != 0 {
            return Ok(Self::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(|e| failed("reading users", e))?;
        let ids = |wanted: &str| {
            users.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                (name == wanted).then_some((uid, gid))
            })
        };
        let (uid, gid) = ids("postgres")
            .or_else(|| ids("nobody"))
            .ok_or_else(|| failed("choosing a user", "neither postgres nor nobody exists"))?;
        let closed = |above: &Path| fs::metadata(above).is_ok_and(|m| m.mode() & 0o001 == 0);
        Ok(Self::Other {
            uid,
            gid,
            hidden: dir.ancestors().skip(1).any(closed),
        })
    }

    pub(super) fn own(&self, path: &Path) -> Result<(), StoreError> {
        if let Self::Other { uid, gid, .. } = self {
            std::os::unix::fs::chown(path, Some(*uid), Some(*gid))
                .map_err(|e| failed("giving away the directory", e))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(|e| failed("closing the directory", e))
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if let Self::Other { uid, gid, hidden } = self {
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"));
            command.arg("--clear-groups");
            if *hidden {
                command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
            }
        }
        command.arg("--").arg(program);
        command
    }
}

pub(super) fn socket_dir(dir: &Path) -> PathBuf {
    let inside = dir.join("socket");
    if inside.as_os_str().len() <= LONGEST_SOCKET_DIR {
        return inside;
    }
    let id = fs::metadata(dir)
        .map(|m| format!("{:x}-{:x}", m.dev(), m.ino()))
        .unwrap_or_default();
    std::env::temp_dir().join(format!("private-postgres-{id}"))
}

pub(super) fn find_binaries() -> Result<PathBuf, StoreError> {
    let has = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let configured = || {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        let dir = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        Some(dir).filter(has)
    };
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(has);
    let packaged = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let dirs = versions
            .filter_map(Result::ok)
            .map(|version| version.path().join("bin"));
        let version = |dir: &PathBuf| dir.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
        dirs.filter(has).max_by_key(version)
    };
    packaged()
        .or_else(on_path)
        .or_else(configured)
        .ok_or_else(|| {
            failed(
                "finding the programs",
                "install postgresql, or say where initdb and postgres are",
            )
        })
}
