//! What makes the control plane a cluster that can run pods: fake nodes, played
//! by KWOK, and metrics-server, which reads the load that KWOK makes up.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{ControlPlane, LOOPBACK, METRICS, base64, flag};
use crate::process::Spec;

/// Fake nodes of a cluster.
const NODES: usize = 3;

impl ControlPlane {
    /// The nodes, the CRDs by which a test sets the load of pods, and what
    /// metrics-server needs before it starts.
    pub(super) fn install_manifests(&self) -> Result<()> {
        let kubectl = self.kubectl()?;
        let crds = [
            "kwok.x-k8s.io_clusterresourceusages.yaml",
            "kwok.x-k8s.io_metrics.yaml",
            "kwok.x-k8s.io_resourceusages.yaml",
        ];
        let mut manifests: Vec<String> = crds
            .iter()
            .map(|name| self.kwok_manifest(name))
            .collect::<Result<_>>()?;
        manifests.push(include_str!("../../manifests/metrics-server.yaml").to_owned());
        manifests.push(serde_json::to_string(&self.metrics_apiservice()?)?);
        for index in 0..NODES {
            manifests.push(serde_json::to_string(&node(&format!("node-{index}")))?);
        }
        kubectl.apply_server_side(&manifests.join("\n---\n"))?;
        kubectl.run(&[
            "wait",
            "crd",
            "--all",
            "--for=condition=Established",
            "--timeout=60s",
        ])?;
        let metric = self.kwok_manifest("metrics-resource.yaml")?;
        let usage = self.kwok_manifest("usage-from-annotation.yaml")?;
        kubectl.apply_server_side(&format!("{metric}\n---\n{usage}"))
    }

    fn kwok_manifest(&self, name: &str) -> Result<String> {
        let path = self.bin.join("kwok-manifests").join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    pub(super) fn kwok(&self) -> Result<Spec> {
        let kubeconfig = self.kubeconfig("kwok", "kwok", Some("system:masters"))?;
        let serving = self.loopback("kubelet", "localhost")?;
        let stages = [
            "node-initialize.yaml",
            "node-heartbeat-with-lease.yaml",
            "pod-ready.yaml",
            "pod-complete.yaml",
            "pod-delete.yaml",
        ];
        // A partial `options` zeroes what it leaves out, so everything is said.
        let options = json!({
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            "options": {
                "cidr": "10.0.0.0/16",
                "nodeIP": LOOPBACK,
                "nodePort": self.ports.kubelet,
                "serverAddress": format!("{LOOPBACK}:{}", self.ports.kubelet),
                "tlsCertFile": serving.cert,
                "tlsPrivateKeyFile": serving.key,
                "manageNodesWithAnnotationSelector": "kwok.x-k8s.io/node=fake",
                "enableDebuggingHandlers": true,
                "enablePodsOnNodeSyncListPager": false,
                "enablePodsOnNodeSyncStreamWatch": true,
                "nodeLeaseDurationSeconds": 40,
                "nodeLeaseParallelism": 4,
                "podPlayStageParallelism": 16,
                "nodePlayStageParallelism": 4,
                "podsOnNodeSyncParallelism": 4,
                "enableCRDs": ["Metric", "ResourceUsage", "ClusterResourceUsage"],
            },
        });
        let mut config = vec![serde_json::to_string(&options)?];
        for stage in stages {
            config.push(self.kwok_manifest(stage)?);
        }
        let file = self.dir.join("kwok.yaml");
        fs::write(&file, config.join("\n---\n"))?;
        let args = vec![flag("config", &file), flag("kubeconfig", &kubeconfig)];
        Ok(self.spec("kwok", self.ports.kubelet, args))
    }

    pub(super) fn metrics_server(&self) -> Result<Spec> {
        let config = self.kubeconfig("metrics-server", "metrics-server", None)?;
        let serving = self.loopback("metrics-server-serving", "metrics-server.kube-system.svc")?;
        let args = vec![
            flag("kubeconfig", &config),
            flag("authentication-kubeconfig", &config),
            flag("authorization-kubeconfig", &config),
            format!("--bind-address={LOOPBACK}"),
            format!("--secure-port={}", self.ports.metrics_server),
            flag("tls-cert-file", &serving.cert),
            flag("tls-private-key-file", &serving.key),
            "--metric-resolution=10s".to_owned(),
            "--kubelet-request-timeout=5s".to_owned(),
            "--kubelet-use-node-status-port".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--kubelet-certificate-authority={}", self.ca()),
        ];
        Ok(self.spec("metrics-server", self.ports.metrics_server, args))
    }

    fn metrics_apiservice(&self) -> Result<Value> {
        Ok(json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": METRICS},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64(&fs::read(self.ca())?),
                "service": {
                    "name": "metrics-server",
                    "namespace": "kube-system",
                    "port": self.ports.metrics_server,
                },
            },
        }))
    }
}

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {
                "kwok.x-k8s.io/node": "fake",
                "metrics.k8s.io/resource-metrics-path": format!("/metrics/nodes/{name}/metrics/resource"),
            },
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "type": "kwok",
            },
        },
    })
}
