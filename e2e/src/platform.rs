//! The platform as it is installed: Postgres, two API servers behind the balancer,
//! the APIServices that send the aggregator there, and the controller.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::certs::{Authority, Leaf, Pair, Pki};
use crate::control_plane::{ControlPlane, base64, flag};
use crate::http::{self, Tls};
use crate::kubectl::Kubectl;
use crate::paths;
use crate::postgres::{OWNER, Postgres, RUNTIME};
use crate::process::{Spec, Supervisor};
use crate::servers::{APISERVER, CONTROLLER};
use crate::state::State;

/// API servers of a cluster.
pub const REPLICAS: usize = 2;

/// Name of the balancer's process.
pub const BALANCER: &str = "balancer";

/// Served versions, as in deploy/base/apiservices.yaml.
const APISERVICES: [(&str, u16); 2] = [("v1", 100), ("v1alpha1", 10)];

const GROUP: &str = "custom.example.com";
const NAMESPACE: &str = "widget-system";
const START_LIMIT: Duration = Duration::from_secs(60);

/// What of deploy/base applies to servers that run outside the cluster.
const MANIFESTS: [&str; 5] = [
    "namespace.yaml",
    "service-accounts.yaml",
    "rbac-apiserver.yaml",
    "rbac-controller.yaml",
    "rbac-users.yaml",
];

/// Name of the process of one API server.
#[must_use]
pub fn replica_name(index: usize) -> String {
    format!("{APISERVER}-{index}")
}

/// The platform of one run.
#[derive(Debug)]
pub struct Platform<'a> {
    control_plane: &'a ControlPlane,
    postgres: &'a Postgres,
    servers: PathBuf,
    tool: PathBuf,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    replicas: [u16; REPLICAS],
    balancer: u16,
    controller: u16,
}

impl<'a> Platform<'a> {
    /// The platform beside `control_plane`, on `postgres`.
    pub fn new(
        state: &mut State,
        control_plane: &'a ControlPlane,
        postgres: &'a Postgres,
    ) -> Result<Self> {
        let ports = Ports {
            replicas: [state.port(&replica_name(0))?, state.port(&replica_name(1))?],
            balancer: state.port(BALANCER)?,
            controller: state.port(CONTROLLER)?,
        };
        let servers = state.servers.clone().context("the run has no servers")?;
        Ok(Self {
            control_plane,
            postgres,
            servers,
            tool: state.tool.clone(),
            ports,
        })
    }

    /// Starts everything and waits until the APIServices are Available.
    pub fn start(&self, run: &dyn Supervisor) -> Result<()> {
        migrate(&self.servers, self.postgres)?;
        self.install_manifests()?;
        for (index, port) in self.ports.replicas.iter().enumerate() {
            run.ensure(self.replica(index, *port)?)?;
            self.wait_ready(run, &replica_name(index), *port)?;
        }
        run.ensure(self.balancer()?)?;
        self.wait_ready(run, BALANCER, self.ports.balancer)?;
        self.install_apiservices()?;
        run.ensure(self.controller()?)?;
        let address = local(self.ports.controller);
        run.wait_ready(CONTROLLER, START_LIMIT, &mut || {
            http::get_plain(address, "/readyz", Duration::from_secs(1))
                .is_ok_and(|answer| answer.code == 200)
        })
    }

    fn wait_ready(&self, run: &dyn Supervisor, name: &str, port: u16) -> Result<()> {
        let config = Tls::anonymous(&self.ca()).config()?;
        run.wait_ready(name, START_LIMIT, &mut || is_ready(local(port), &config))
    }

    fn ca(&self) -> PathBuf {
        self.control_plane.pki().authority(Authority::Widget)
    }

    fn replica(&self, index: usize, port: u16) -> Result<Spec> {
        let name = replica_name(index);
        let pki = self.control_plane.pki();
        let serving = serving(pki)?;
        let kubeconfig = self.control_plane.kubeconfig(APISERVER, APISERVER, None)?;
        let admin = self.control_plane.admin_tls()?;
        let direct = Tls {
            ca: self.ca(),
            ..admin
        };
        let address = format!("127.0.0.1:{port}");
        Ok(Spec {
            program: self.servers.join(APISERVER),
            args: vec![
                "serve".to_owned(),
                format!("--database-url={}", self.postgres.url(RUNTIME)),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={port}"),
                flag("tls-cert-file", &serving.cert),
                flag("tls-private-key-file", &serving.key),
                flag("kubeconfig", &kubeconfig),
                "--log-format=json".to_owned(),
            ],
            kubeconfig: Some(pki.kubeconfig(&name, &format!("https://{address}"), &direct)?),
            tls: Some(direct),
            address: Some(address),
            name,
            ..Spec::default()
        })
    }

    fn balancer(&self) -> Result<Spec> {
        let address = format!("127.0.0.1:{}", self.ports.balancer);
        let admin = self.control_plane.admin_tls()?;
        let mut args = vec![
            "balancer".to_owned(),
            format!("--listen={address}"),
            flag("ca", &self.ca()),
        ];
        args.extend(
            self.ports
                .replicas
                .iter()
                .map(|port| format!("127.0.0.1:{port}")),
        );
        Ok(Spec {
            name: BALANCER.to_owned(),
            program: self.tool.clone(),
            args,
            address: Some(address),
            tls: Some(Tls {
                ca: self.ca(),
                ..admin
            }),
            ..Spec::default()
        })
    }

    fn controller(&self) -> Result<Spec> {
        let kubeconfig = self
            .control_plane
            .kubeconfig(CONTROLLER, CONTROLLER, None)?;
        let address = format!("127.0.0.1:{}", self.ports.controller);
        Ok(Spec {
            name: CONTROLLER.to_owned(),
            program: self.servers.join(CONTROLLER),
            args: vec![
                flag("kubeconfig", &kubeconfig),
                format!("--metrics-bind-address={address}"),
                format!("--lease-namespace={NAMESPACE}"),
                "--log-format=json".to_owned(),
            ],
            address: Some(address),
            ..Spec::default()
        })
    }

    /// The manifests of deploy/base, with the users of the certificates as further
    /// subjects beside the service accounts.
    fn install_manifests(&self) -> Result<()> {
        let kubectl = self.control_plane.kubectl()?;
        let base = paths::workspace().join("deploy/base");
        let mut documents = Vec::new();
        for name in MANIFESTS {
            let path = base.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            documents.push(text);
        }
        let objects = to_json(&kubectl, &documents.join("\n---\n"))?;
        // A namespace has to exist before what lies in it.
        let (namespaces, others): (Vec<Value>, Vec<Value>) = objects
            .into_iter()
            .map(add_users)
            .partition(|object| object.get("kind").is_some_and(|kind| kind == "Namespace"));
        for list in [namespaces, others] {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": list});
            kubectl.apply_server_side(&list.to_string())?;
        }
        Ok(())
    }

    fn install_apiservices(&self) -> Result<()> {
        let kubectl = self.control_plane.kubectl()?;
        let bundle = base64(&fs::read(self.ca())?);
        let mut items = vec![json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": APISERVER, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        })];
        for (version, priority) in APISERVICES {
            items.push(json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": format!("{version}.{GROUP}")},
                "spec": {
                    "group": GROUP,
                    "version": version,
                    "groupPriorityMinimum": 1000,
                    "versionPriority": priority,
                    "caBundle": bundle,
                    "service": {
                        "name": APISERVER,
                        "namespace": NAMESPACE,
                        "port": self.ports.balancer,
                    },
                },
            }));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        kubectl.apply_server_side(&list.to_string())?;
        wait_available(&kubectl)
    }
}

/// Waits until both APIServices are Available.
pub fn wait_available(kubectl: &Kubectl) -> Result<()> {
    let names = APISERVICES.map(|(version, _)| format!("apiservice/{version}.{GROUP}"));
    let limit = format!("--timeout={}s", START_LIMIT.as_secs());
    let mut args = vec!["wait", "--for=condition=Available", &limit];
    args.extend(names.iter().map(String::as_str));
    kubectl.run(&args)?;
    Ok(())
}

/// Whether the API server at `address` says that it is ready.
pub(crate) fn is_ready(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    http::get(address, config, "/readyz", Duration::from_secs(1))
        .is_ok_and(|answer| answer.code == 200)
}

/// Brings the schema up to date, as the role that owns it.
fn migrate(servers: &Path, postgres: &Postgres) -> Result<()> {
    let output = Command::new(servers.join(APISERVER))
        .arg("migrate")
        .arg(format!("--database-url={}", postgres.url(OWNER)))
        .arg(format!("--runtime-role={RUNTIME}"))
        .output()
        .with_context(|| format!("run {APISERVER} migrate"))?;
    if !output.status.success() {
        bail!(
            "{APISERVER} migrate: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn serving(pki: &Pki) -> Result<Pair> {
    let service = format!("{APISERVER}.{NAMESPACE}.svc");
    let leaf = Leaf {
        file: "widget-apiserver-serving",
        common_name: &service,
        organization: None,
        hosts: &[&service, "localhost", "127.0.0.1"],
    };
    pki.issue(Authority::Widget, &leaf)
}

fn to_json(kubectl: &Kubectl, manifests: &str) -> Result<Vec<Value>> {
    let args = [
        "create",
        "--dry-run=client",
        "--validate=false",
        "-o",
        "json",
        "-f",
        "-",
    ];
    let text = kubectl.run_with_input(&args, manifests)?;
    let mut objects = Vec::new();
    for document in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let document = document?;
        match document.get("items").and_then(Value::as_array) {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(document),
        }
    }
    Ok(objects)
}

/// Gives each right of one of our service accounts also to the user of that name.
fn add_users(mut object: Value) -> Value {
    if let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) {
        let users: Vec<Value> = subjects
            .iter()
            .filter(|subject| subject.get("kind").is_some_and(|kind| kind == "ServiceAccount"))
            .filter_map(|subject| subject.get("name"))
            .map(|name| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}))
            .collect();
        subjects.extend(users);
    }
    object
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_gets_the_user_beside_the_service_account() {
        let binding =
            json!({"subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "n"}]});
        let subjects = add_users(binding)["subjects"].as_array().unwrap().clone();
        assert_eq!(subjects.len(), 2);
        assert_eq!(subjects[1]["kind"], "User");
        assert_eq!(subjects[1]["name"], "a");
    }

    #[test]
    fn an_object_without_subjects_stays_as_it_is() {
        assert_eq!(add_users(json!({"kind": "Role"})), json!({"kind": "Role"}));
    }
}
