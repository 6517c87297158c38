//! What people use instead of the platform, started bare: a custom resource on
//! kube-apiserver, with etcd or kine behind it, and sample-apiserver. No controllers,
//! no nodes: only what answers a client of the resource.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ClientConfig;
use serde_json::json;

use crate::cluster::{Cluster, Mode};
use crate::control_plane::{ControlPlane, flag};
use crate::http::{self, Tls};
use crate::kubectl::Kubectl;
use crate::postgres::{self, OWNER, Postgres};
use crate::process::{Spec, Supervisor};
use crate::state::{self, Owner, State, StateDir};
use crate::{binaries, paths};

const START_LIMIT: Duration = Duration::from_secs(120);

const LOOPBACK: &str = "127.0.0.1";
const KUBE_APISERVER: &str = "kube-apiserver";
const ETCD: &str = "etcd";
const KINE: &str = "kine";
const SAMPLE: &str = "sample-apiserver";
const SAMPLE_ETCD: &str = "sample-etcd";

/// A peer of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Widget as a custom resource on kube-apiserver and etcd.
    Crd,
    /// The same, with kine on Postgres in etcd's place.
    Kine,
    /// sample-apiserver on an etcd of its own, with its own kind. It asks a
    /// kube-apiserver for namespaces and admission, which no request waits for.
    Sample,
}

/// How to start a peer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the run.
    pub name: String,
    /// Which peer.
    pub kind: Kind,
    /// The process whose end ends the run.
    pub owner: u32,
    /// The program that has the subcommand `keep`.
    pub tool: PathBuf,
}

/// A peer that runs; [`Cluster::down`] ends it.
#[derive(Debug)]
pub struct Peer {
    kind: Kind,
    cluster: Cluster,
    control_plane: ControlPlane,
    programs: PathBuf,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    sample: u16,
    sample_etcd: u16,
    sample_etcd_peer: u16,
}

impl Peer {
    /// Builds what it needs and starts it, durable and empty.
    pub fn up(options: &Options, namespaces: &[&str]) -> Result<Self> {
        let bin = binaries::ensure()?;
        let programs = binaries::ensure_peers()?;
        let lock = StateDir::lock(&options.name)?;
        let dir = lock.path().to_path_buf();
        let mut state = new_state(options, bin)?;
        let control_plane = ControlPlane::new(&dir, &mut state)?;
        let ports = Ports {
            sample: state.port(SAMPLE)?,
            sample_etcd: state.port(SAMPLE_ETCD)?,
            sample_etcd_peer: state.port("sample-etcd-peer")?,
        };
        if options.kind == Kind::Kine {
            state.directories = vec![Postgres::new(&dir)?.dir().to_path_buf()];
        }
        state::save(&dir, &state)?;
        let peer = Self {
            kind: options.kind,
            cluster: Cluster::open(&dir)?,
            control_plane,
            programs,
            ports,
        };
        peer.cluster
            .ensure(crate::cluster::keeper(&options.tool, &options.name))?;
        drop(lock);
        peer.start_first(namespaces)?;
        Ok(peer)
    }

    /// Where clients of the resource ask.
    pub fn address(&self) -> Result<SocketAddr> {
        self.cluster.address(self.server())
    }

    /// A client that may do everything.
    pub fn tls(&self) -> Result<Tls> {
        self.control_plane.admin_tls()
    }

    /// The processes whose CPU and memory are the peer's.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let pid = |name: &&str| Ok(self.cluster.process(name)?.pid);
        self.counted().iter().map(pid).collect()
    }

    /// Stops every process that counts.
    pub fn stop(&self) -> Result<()> {
        for name in self.counted().iter().rev() {
            self.cluster.stop(name)?;
        }
        Ok(())
    }

    /// Starts what [`Self::stop`] stopped, all at once and without waiting for anything.
    pub fn start(&self) -> Result<()> {
        for name in self.counted() {
            let record = self.cluster.process(name)?;
            self.cluster.ensure(record.spec)?;
        }
        Ok(())
    }

    fn server(&self) -> &'static str {
        match self.kind {
            Kind::Crd | Kind::Kine => KUBE_APISERVER,
            Kind::Sample => SAMPLE,
        }
    }

    fn counted(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Crd => &[ETCD, KUBE_APISERVER],
            Kind::Kine => &[postgres::NAME, KINE, KUBE_APISERVER],
            Kind::Sample => &[SAMPLE_ETCD, SAMPLE],
        }
    }

    fn start_first(&self, namespaces: &[&str]) -> Result<()> {
        let run = &self.cluster;
        let kube_apiserver = self.control_plane.kube_apiserver()?;
        match self.kind {
            Kind::Crd | Kind::Sample => run.ensure(self.control_plane.etcd()?)?,
            Kind::Kine => {
                let postgres = Postgres::new(run.dir())?;
                postgres.init(false)?;
                run.ensure(postgres.spec())?;
                postgres.wait_ready(START_LIMIT)?;
                postgres.create_database()?;
                run.ensure(self.kine(&postgres)?)?;
            }
        }
        run.ensure(kube_apiserver)?;
        self.control_plane.wait_kube_apiserver(run)?;
        let kubectl = self.control_plane.kubectl()?;
        create_namespaces(&kubectl, namespaces)?;
        match self.kind {
            Kind::Crd | Kind::Kine => create_resource(&kubectl),
            Kind::Sample => self.start_sample(),
        }
    }

    fn kine(&self, postgres: &Postgres) -> Result<Spec> {
        let pair = self.control_plane.etcd_pair()?;
        let address = format!("{LOOPBACK}:{}", self.control_plane.etcd_port());
        Ok(Spec {
            name: KINE.to_owned(),
            program: self.programs.join(KINE),
            args: vec![
                format!("--endpoint={}", postgres.url(OWNER)),
                format!("--listen-address=tcp://{address}"),
                flag("server-cert-file", &pair.cert),
                flag("server-key-file", &pair.key),
                "--metrics-bind-address=0".to_owned(),
            ],
            address: Some(address),
            ..Spec::default()
        })
    }

    fn start_sample(&self) -> Result<()> {
        let run = &self.cluster;
        let (port, peer_port) = (self.ports.sample_etcd, self.ports.sample_etcd_peer);
        run.ensure(
            self.control_plane
                .etcd_named(SAMPLE_ETCD, port, peer_port)?,
        )?;
        run.ensure(self.sample()?)?;
        let config = self.tls()?.config()?;
        let address = self.address()?;
        Supervisor::wait_ready(run, SAMPLE, START_LIMIT, &mut || is_ready(address, &config))
    }

    fn sample(&self) -> Result<Spec> {
        let serving = self.control_plane.loopback(SAMPLE, "localhost")?;
        let etcd = self.control_plane.etcd_pair()?;
        let kubeconfig = self.control_plane.admin_kubeconfig()?;
        let ca = self.tls()?.ca;
        let address = format!("{LOOPBACK}:{}", self.ports.sample);
        Ok(Spec {
            name: SAMPLE.to_owned(),
            program: self.programs.join(SAMPLE),
            args: vec![
                format!("--bind-address={LOOPBACK}"),
                format!("--secure-port={}", self.ports.sample),
                flag("tls-cert-file", &serving.cert),
                flag("tls-private-key-file", &serving.key),
                flag("client-ca-file", &ca),
                format!(
                    "--etcd-servers=https://{LOOPBACK}:{}",
                    self.ports.sample_etcd
                ),
                flag("etcd-cafile", &ca),
                flag("etcd-certfile", &etcd.cert),
                flag("etcd-keyfile", &etcd.key),
                flag("kubeconfig", &kubeconfig),
                flag("authentication-kubeconfig", &kubeconfig),
                flag("authorization-kubeconfig", &kubeconfig),
            ],
            address: Some(address),
            ..Spec::default()
        })
    }
}

fn new_state(options: &Options, bin: PathBuf) -> Result<State> {
    Ok(State {
        name: options.name.clone(),
        mode: Mode::ControlPlane,
        owner: Some(Owner::of(options.owner)?),
        control_plane: Some(bin),
        servers: None,
        tool: options.tool.clone(),
        external_kubeconfig: None,
        volatile: false,
        ports: std::collections::BTreeMap::new(),
        directories: Vec::new(),
        processes: Vec::new(),
    })
}

fn is_ready(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    http::get(address, config, "/readyz", Duration::from_secs(2))
        .is_ok_and(|answer| answer.code == 200)
}

fn create_namespaces(kubectl: &Kubectl, names: &[&str]) -> Result<()> {
    let items: Vec<_> = names
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    kubectl.apply_server_side(&list.to_string())
}

/// Applies the custom resource and waits until it is served.
fn create_resource(kubectl: &Kubectl) -> Result<()> {
    let file: &Path = &paths::workspace().join("e2e/controlplane/peers/widget-crd.yaml");
    let manifest = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    kubectl.apply_server_side(&manifest)?;
    let limit = format!("--timeout={}s", START_LIMIT.as_secs());
    let name = "crd/widgets.custom.example.com";
    kubectl.run(&["wait", name, "--for=condition=Established", &limit])?;
    let path = "/apis/custom.example.com/v1/widgets";
    let served = kubectl.until(START_LIMIT, &["get", "--raw", path], |_| true);
    served.map(drop)
}
