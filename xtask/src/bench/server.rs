//! One server under test, whoever it is: started, reached, started again, ended.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use e2e::cluster::STANDALONE;
use e2e::peers::{self, Peer};
use e2e::process::Supervisor as _;
use e2e::{Cluster, Mode, Options, Tls};

use super::Subject;

/// The namespaces that the driver works in; ours has every one without being asked.
const NAMESPACES: [&str; 4] = ["bench-few", "bench-many", "bench-writes", "bench-watched"];

/// A server under test.
pub(super) enum Server {
    /// Ours.
    Ours(Cluster),
    /// Another, and the kind that it serves.
    Peer(Peer, &'static str),
}

impl Server {
    /// Starts one that is empty, lets it be measured, and ends it whatever comes of that.
    pub(super) fn run(
        subject: Subject,
        programs: &Path,
        measure: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        e2e::cluster::clean_dead()?;
        let name = format!("bench-{}", std::process::id());
        let measured = match subject {
            Subject::Ours => Self::ours(&name, programs),
            Subject::Crd => Self::peer(&name, peers::Kind::Crd, "widget"),
            Subject::Kine => Self::peer(&name, peers::Kind::Kine, "widget"),
            Subject::Sample => Self::peer(&name, peers::Kind::Sample, "flunder"),
        }
        .and_then(|server| measure(&server));
        let ended = Cluster::down(&name);
        measured?;
        ended.map(drop)
    }

    fn ours(name: &str, programs: &Path) -> Result<Self> {
        let options = Options {
            name: name.to_owned(),
            mode: Mode::Standalone,
            owner: Some(std::process::id()),
            servers: Some(programs.to_path_buf()),
            release: true,
            volatile: false,
            kubeconfig: None,
            tool: crate::program()?,
        };
        Cluster::up(&options).map(Self::Ours)
    }

    fn peer(name: &str, kind: peers::Kind, object: &'static str) -> Result<Self> {
        let options = peers::Options {
            name: name.to_owned(),
            kind,
            owner: std::process::id(),
            tool: crate::program()?,
        };
        Ok(Self::Peer(Peer::up(&options, &NAMESPACES)?, object))
    }

    /// The driver's word for the kind of the objects.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Ours(_) => "widget",
            Self::Peer(_, kind) => kind,
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Ours(cluster) => cluster.address(STANDALONE),
            Self::Peer(peer, _) => peer.address(),
        }
    }

    /// A client that may do everything.
    pub(super) fn tls(&self) -> Result<Tls> {
        match self {
            Self::Ours(cluster) => cluster.standalone_tls(),
            Self::Peer(peer, _) => peer.tls(),
        }
    }

    /// Its processes; what they start counts with them.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        match self {
            Self::Ours(cluster) => Ok(vec![cluster.process(STANDALONE)?.pid]),
            Self::Peer(peer, _) => peer.pids(),
        }
    }

    /// The words of a command that asks its Postgres; none when it has none of its own.
    pub(super) fn sql(&self) -> Result<Vec<String>> {
        match self {
            Self::Ours(cluster) => cluster.standalone_sql(),
            Self::Peer(..) => Ok(Vec::new()),
        }
    }

    /// Stops it and starts it again; tells when, in microseconds since 1970.
    pub(super) fn restart(&self) -> Result<u128> {
        match self {
            Self::Ours(cluster) => {
                cluster.stop(STANDALONE)?;
                let spec = cluster.process(STANDALONE)?.spec;
                let started = now()?;
                cluster.ensure(spec)?;
                Ok(started)
            }
            Self::Peer(peer, _) => {
                peer.stop()?;
                let started = now()?;
                peer.start()?;
                Ok(started)
            }
        }
    }
}

fn now() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())
}
