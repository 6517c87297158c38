//! The Kubernetes control plane itself: etcd, kube-apiserver, kube-controller-manager,
//! kube-scheduler, KWOK with its fake nodes, and metrics-server.

mod nodes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;

use crate::certs::{Authority, Leaf, Pair, Pki};
use crate::http::{self, Tls};
use crate::kubectl::Kubectl;
use crate::process::{Spec, Supervisor};
use crate::state::State;

/// How long any one part may take to come up on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// APIService of metrics-server.
const METRICS: &str = "v1beta1.metrics.k8s.io";

const LOOPBACK: &str = "127.0.0.1";

/// Where the parts of one run find each other.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    bin: PathBuf,
    pki: Pki,
    volatile: bool,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    kube_apiserver: u16,
    kube_controller_manager: u16,
    kube_scheduler: u16,
    kubelet: u16,
    metrics_server: u16,
}

impl ControlPlane {
    /// The control plane of the run in `dir`; chooses its ports and makes its certificates.
    pub fn new(dir: &Path, state: &mut State) -> Result<Self> {
        let bin = state
            .control_plane
            .clone()
            .context("the run has no control plane")?;
        let ports = Ports {
            etcd: state.port("etcd")?,
            etcd_peer: state.port("etcd-peer")?,
            kube_apiserver: state.port("kube-apiserver")?,
            kube_controller_manager: state.port("kube-controller-manager")?,
            kube_scheduler: state.port("kube-scheduler")?,
            kubelet: state.port("kwok")?,
            metrics_server: state.port("metrics-server")?,
        };
        let pki = Pki::open(&dir.join("pki"))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            bin,
            pki,
            volatile: state.volatile,
            ports,
        })
    }

    /// Keys and certificates of the run.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Address of kube-apiserver.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{LOOPBACK}:{}", self.ports.kube_apiserver)
    }

    /// kubeconfig of the cluster's administrator.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.pki
            .kubeconfig("admin", &self.server(), &self.admin_tls()?)
    }

    /// kubeconfig of a user with a client certificate; `file` names it.
    pub fn kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let leaf = Leaf {
            file,
            common_name: user,
            organization: group,
            hosts: &[],
        };
        let pair = self.pki.issue(Authority::Cluster, &leaf)?;
        let tls = Tls::client(&self.pki.authority(Authority::Cluster), &pair);
        self.pki.kubeconfig(file, &self.server(), &tls)
    }

    /// Client certificate of the cluster's administrator.
    pub fn admin_tls(&self) -> Result<Tls> {
        let leaf = Leaf {
            file: "admin",
            common_name: "kubernetes-admin",
            organization: Some("system:masters"),
            hosts: &[],
        };
        let pair = self.pki.issue(Authority::Cluster, &leaf)?;
        Ok(Tls::client(&self.pki.authority(Authority::Cluster), &pair))
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Ok(Kubectl::new(
            &self.bin.join("kubectl"),
            &self.admin_kubeconfig()?,
        ))
    }

    /// Starts with what nothing else can run without.
    pub fn start(&self, run: &dyn Supervisor) -> Result<()> {
        run.ensure(self.etcd()?)?;
        run.ensure(self.kube_apiserver()?)?;
        self.wait_kube_apiserver(run)?;
        run.ensure(self.kube_scheduler()?)?;
        self.install_manifests()?;
        run.ensure(self.kwok()?)?;
        run.ensure(self.metrics_server()?)
    }

    /// Starts the controllers and waits until the fake nodes are Ready and
    /// metrics-server serves its API. Comes after the platform: controllers learn
    /// of a group that appears later only half a minute after it did.
    pub fn start_controllers(&self, run: &dyn Supervisor) -> Result<()> {
        run.ensure(self.kube_controller_manager()?)?;
        let kubectl = self.kubectl()?;
        let limit = format!("--timeout={}s", START_LIMIT.as_secs());
        kubectl.run(&["wait", "node", "--all", "--for=condition=Ready", &limit])?;
        let service = format!("apiservice/{METRICS}");
        kubectl.run(&["wait", &service, "--for=condition=Available", &limit])?;
        Ok(())
    }

    pub(crate) fn loopback(&self, file: &str, host: &str) -> Result<Pair> {
        let hosts = ["localhost", LOOPBACK, host];
        let leaf = Leaf {
            file,
            common_name: file,
            organization: None,
            hosts: &hosts,
        };
        self.pki.issue(Authority::Cluster, &leaf)
    }

    fn ca(&self) -> String {
        self.pki.authority(Authority::Cluster).display().to_string()
    }

    fn spec(&self, name: &str, port: u16, args: Vec<String>) -> Spec {
        Spec {
            name: name.to_owned(),
            program: self.bin.join(name),
            args,
            address: Some(format!("{LOOPBACK}:{port}")),
            ..Spec::default()
        }
    }

    pub(crate) fn etcd(&self) -> Result<Spec> {
        self.etcd_named("etcd", self.ports.etcd, self.ports.etcd_peer)
    }

    /// An etcd of that name, which is also the name of its data directory.
    pub(crate) fn etcd_named(&self, name: &str, port: u16, peer_port: u16) -> Result<Spec> {
        let pair = self.etcd_pair()?;
        let client = format!("https://{LOOPBACK}:{port}");
        let peer = format!("https://{LOOPBACK}:{peer_port}");
        let data = self.dir.join(name);
        let mut args = vec![
            "--name=local".to_owned(),
            flag("data-dir", &data),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=local={peer}"),
            "--log-level=warn".to_owned(),
        ];
        for prefix in ["", "peer-"] {
            args.push(flag(&format!("{prefix}cert-file"), &pair.cert));
            args.push(flag(&format!("{prefix}key-file"), &pair.key));
            args.push(format!("--{prefix}trusted-ca-file={}", self.ca()));
            args.push(format!("--{prefix}client-cert-auth"));
        }
        if self.volatile {
            args.push("--unsafe-no-fsync".to_owned());
        }
        Ok(Spec {
            name: name.to_owned(),
            ..self.spec("etcd", port, args)
        })
    }

    /// By which etcd, or what stands in its place, and its clients know each other.
    pub(crate) fn etcd_pair(&self) -> Result<Pair> {
        self.loopback("etcd", "etcd")
    }

    /// Port of what kube-apiserver stores in.
    pub(crate) fn etcd_port(&self) -> u16 {
        self.ports.etcd
    }

    pub(crate) fn kube_apiserver(&self) -> Result<Spec> {
        let pki = &self.pki;
        let serving = self.loopback("kube-apiserver", "kubernetes.default.svc")?;
        let etcd = self.etcd_pair()?;
        let kubelet = Leaf {
            file: "kube-apiserver-kubelet-client",
            common_name: "kube-apiserver-kubelet-client",
            organization: Some("system:masters"),
            hosts: &[],
        };
        let kubelet = pki.issue(Authority::Cluster, &kubelet)?;
        let proxy = Leaf {
            file: "front-proxy-client",
            common_name: "front-proxy-client",
            ..Leaf::default()
        };
        let proxy = pki.issue(Authority::FrontProxy, &proxy)?;
        let accounts = pki.service_accounts();
        let args = vec![
            format!("--bind-address={LOOPBACK}"),
            format!("--secure-port={}", self.ports.kube_apiserver),
            // No pod here reaches the Service `kubernetes`, and loopback may not stand in it.
            "--endpoint-reconciler-type=none".to_owned(),
            flag("tls-cert-file", &serving.cert),
            flag("tls-private-key-file", &serving.key),
            format!("--client-ca-file={}", self.ca()),
            format!("--etcd-servers=https://{LOOPBACK}:{}", self.ports.etcd),
            format!("--etcd-cafile={}", self.ca()),
            flag("etcd-certfile", &etcd.cert),
            flag("etcd-keyfile", &etcd.key),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            flag("service-account-key-file", &accounts.cert),
            flag("service-account-signing-key-file", &accounts.key),
            flag(
                "requestheader-client-ca-file",
                &pki.authority(Authority::FrontProxy),
            ),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-uid-headers=X-Remote-Uid".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            flag("proxy-client-cert-file", &proxy.cert),
            flag("proxy-client-key-file", &proxy.key),
            flag("kubelet-client-certificate", &kubelet.cert),
            flag("kubelet-client-key", &kubelet.key),
            format!("--kubelet-certificate-authority={}", self.ca()),
            "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
        ];
        Ok(self.spec("kube-apiserver", self.ports.kube_apiserver, args))
    }

    pub(crate) fn wait_kube_apiserver(&self, run: &dyn Supervisor) -> Result<()> {
        let config = self.admin_tls()?.config()?;
        let address = ([127, 0, 0, 1], self.ports.kube_apiserver).into();
        run.wait_ready("kube-apiserver", START_LIMIT, &mut || {
            http::get(address, &config, "/readyz", Duration::from_secs(2))
                .is_ok_and(|answer| answer.code == 200)
        })
    }

    fn kube_controller_manager(&self) -> Result<Spec> {
        let user = "system:kube-controller-manager";
        let config = self.kubeconfig("kube-controller-manager", user, None)?;
        let serving = self.loopback("kube-controller-manager-serving", "localhost")?;
        let ca = self.pki.authority_pair(Authority::Cluster);
        let mut args = component_args(&config, &serving, self.ports.kube_controller_manager);
        args.extend([
            "--use-service-account-credentials".to_owned(),
            // Its default lies outside the run, and it would create that.
            flag("flex-volume-plugin-dir", &self.dir.join("volume-plugins")),
            flag(
                "service-account-private-key-file",
                &self.pki.service_accounts().key,
            ),
            flag("root-ca-file", &ca.cert),
            flag("cluster-signing-cert-file", &ca.cert),
            flag("cluster-signing-key-file", &ca.key),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            // A test of the HPA takes seconds with these, and minutes without.
            "--horizontal-pod-autoscaler-sync-period=5s".to_owned(),
            "--horizontal-pod-autoscaler-downscale-stabilization=20s".to_owned(),
            "--horizontal-pod-autoscaler-initial-readiness-delay=5s".to_owned(),
            "--horizontal-pod-autoscaler-cpu-initialization-period=5s".to_owned(),
        ]);
        Ok(self.spec(
            "kube-controller-manager",
            self.ports.kube_controller_manager,
            args,
        ))
    }

    fn kube_scheduler(&self) -> Result<Spec> {
        let config = self.kubeconfig("kube-scheduler", "system:kube-scheduler", None)?;
        let serving = self.loopback("kube-scheduler-serving", "localhost")?;
        let args = component_args(&config, &serving, self.ports.kube_scheduler);
        Ok(self.spec("kube-scheduler", self.ports.kube_scheduler, args))
    }
}

/// `--name=path`.
pub(crate) fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn component_args(kubeconfig: &Path, serving: &Pair, port: u16) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig),
        flag("authentication-kubeconfig", kubeconfig),
        flag("authorization-kubeconfig", kubeconfig),
        format!("--bind-address={LOOPBACK}"),
        format!("--secure-port={port}"),
        flag("tls-cert-file", &serving.cert),
        flag("tls-private-key-file", &serving.key),
        "--leader-elect=false".to_owned(),
    ]
}

/// Standard base64, as `caBundle` wants it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
