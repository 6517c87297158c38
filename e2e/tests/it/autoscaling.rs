//! The cluster's own autoscaler and disruption controller on Widgets.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::harness;
use serde_json::{Value, json};

use crate::support::{
    Kubectl, Namespace, PATIENCE, assert_holds, at, eventually, is_local, widget,
};

const AUTOSCALER: &str = r"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: my-widget}
spec:
  scaleTargetRef: {apiVersion: custom.example.com/v1, kind: Widget, name: my-widget}
  minReplicas: 1
  maxReplicas: 4
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
";

fn replicas(kubectl: &Kubectl) -> Result<i64> {
    at(&kubectl.json("get widget my-widget")?, "/spec/replicas")
        .as_i64()
        .context("no replicas")
}

/// Says what the fake node reports as each pod's CPU use.
fn set_load(kubectl: &Kubectl, usage: &str) -> Result<()> {
    kubectl.run(&format!(
        "annotate pods --all --overwrite kwok.x-k8s.io/usage-cpu={usage}"
    ))?;
    Ok(())
}

#[test]
fn an_autoscaler_scales_a_widget_up_under_load_and_down_after() -> Result<()> {
    let cluster = harness::shared()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let namespace = Namespace::create(&cluster, "hpa")?;
    let kubectl = namespace.kubectl();
    let manifest = widget("my-widget", 1)
        .replace("  color: green\n", "  resources: {requests: {cpu: 100m}}\n");
    kubectl.run_with("apply -f -", &manifest)?;
    kubectl.run("wait widget/my-widget --for=jsonpath={.status.phase}=Running --timeout=60s")?;
    set_load(&kubectl, "150m")?;
    kubectl.run_with("apply -f -", AUTOSCALER)?;
    eventually("the autoscaler scales up", Duration::from_secs(180), || {
        set_load(&kubectl, "150m")?;
        Ok(replicas(&kubectl)? >= 3)
    })?;
    eventually("the Widget has the pods", PATIENCE, || {
        Ok(at(
            &kubectl.json("get widget my-widget")?,
            "/status/availableReplicas",
        )
        .as_i64()
            >= Some(3))
    })?;
    eventually(
        "the autoscaler scales down",
        Duration::from_secs(180),
        || {
            set_load(&kubectl, "1m")?;
            Ok(replicas(&kubectl)? == 1)
        },
    )?;
    let autoscaler = kubectl.json("get hpa my-widget")?;
    let conditions = autoscaler["status"]["conditions"]
        .as_array()
        .context("no conditions")?;
    assert!(
        conditions
            .iter()
            .any(|c| c["type"] == "AbleToScale" && c["status"] == "True"),
        "{autoscaler:#}"
    );
    Ok(())
}

#[test]
fn the_scale_of_the_old_version_is_read_and_written() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "oldscale")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 2))?;
    // From then on the controller leaves the resourceVersion alone.
    kubectl.run("wait widget/my-widget --for=jsonpath={.status.phase}=Running --timeout=60s")?;
    let path = format!(
        "/apis/custom.example.com/v1alpha1/namespaces/{}/widgets/my-widget/scale",
        namespace.name
    );
    let mut scale: Value = serde_json::from_str(&kubectl.run(&format!("get --raw {path}"))?)?;
    assert_eq!(at(&scale, "/kind"), "Scale");
    assert_eq!(at(&scale, "/apiVersion"), "autoscaling/v1");
    assert_eq!(at(&scale, "/spec/replicas"), 2);
    scale["spec"]["replicas"] = json!(3);
    let written: Value = serde_json::from_str(
        &kubectl.run_with(&format!("replace --raw {path} -f -"), &scale.to_string())?,
    )?;
    assert_eq!(at(&written, "/spec/replicas"), 3);
    let refusal =
        kubectl.refused_with(&format!("replace --raw {path} -f -"), &scale.to_string())?;
    assert_holds(&refusal, &["the object has been modified"]);
    kubectl.run("patch widgets.v1alpha1.custom.example.com my-widget --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":4}}'")?;
    assert_eq!(replicas(&kubectl)?, 4);
    kubectl.run("scale widgets.v1alpha1.custom.example.com my-widget --replicas=1")?;
    assert_eq!(replicas(&kubectl)?, 1);
    Ok(())
}

#[test]
fn a_disruption_budget_in_percent_counts_by_the_widgets_scale() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "pdb")?;
    let kubectl = namespace.kubectl();
    // The Deployment of that name is foreign, so the controller makes no pods:
    // the bare pods below are all that the Widget owns.
    kubectl.run("create deployment my-widget --image=foreign:1 --replicas=0")?;
    kubectl.run_with("apply -f -", &widget("my-widget", 4))?;
    let uid = at(&kubectl.json("get widget my-widget")?, "/metadata/uid")
        .as_str()
        .context("no uid")?
        .to_owned();
    for index in 0..4 {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("bare-{index}"), "labels": {"bare": "yes"}, "ownerReferences": [{
                "apiVersion": "custom.example.com/v1", "kind": "Widget", "name": "my-widget", "uid": uid, "controller": true}]},
            "spec": {"containers": [{"name": "main", "image": "app:1"}]}});
        kubectl.run_with("create -f -", &pod.to_string())?;
    }
    kubectl.run("wait pods -l bare=yes --for=condition=Ready --timeout=60s")?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "bare"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"bare": "yes"}}}});
    kubectl.run_with("create -f -", &budget.to_string())?;
    eventually("the budget resolves the Widget's scale", PATIENCE, || {
        let status = at(&kubectl.json("get pdb bare")?, "/status").clone();
        Ok(status["expectedPods"] == 4
            && status["desiredHealthy"] == 2
            && status["disruptionsAllowed"] == 2)
    })
}
