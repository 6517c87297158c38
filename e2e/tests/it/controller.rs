//! A Widget, its Deployment, its pods, and the cluster's own controllers.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::harness;

use crate::support::{
    Kubectl, Namespace, PATIENCE, at, controller_metrics, eventually, is_local, widget,
};

#[test]
fn a_widget_gets_its_pods_and_takes_them_along() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "pods")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 3))?;
    kubectl.run("wait widget/my-widget --for=jsonpath={.status.phase}=Running --timeout=60s")?;
    let seen = kubectl.json("get widget my-widget")?;
    assert_eq!(at(&seen, "/status/availableReplicas"), 3);
    assert_eq!(at(&seen, "/status/replicas"), 3);
    assert_eq!(
        at(&seen, "/status/observedGeneration"),
        at(&seen, "/metadata/generation")
    );
    let selector = at(&seen, "/status/selector")
        .as_str()
        .context("no selector")?
        .to_owned();
    let pods = kubectl.run(&format!("get pods -l {selector} -o name"))?;
    assert_eq!(pods.lines().count(), 3, "{pods}");
    let deployment = kubectl.json("get deployment my-widget")?;
    assert_eq!(
        at(&deployment, "/metadata/ownerReferences/0/uid"),
        at(&seen, "/metadata/uid")
    );

    kubectl.run("delete widget my-widget")?;
    eventually(
        "the garbage collector removes the Deployment and the pods",
        PATIENCE,
        || {
            Ok(kubectl
                .run("get deployments,pods -o name")?
                .trim()
                .is_empty())
        },
    )
}

#[test]
fn deleting_a_namespace_removes_its_widgets() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "gone")?;
    let kubectl = namespace.kubectl();
    for name in ["a", "b", "c"] {
        kubectl.run_with("apply -f -", &widget(name, 1))?;
    }
    kubectl.run(&format!(
        "delete namespace {} --timeout=90s",
        namespace.name
    ))?;
    let left = kubectl.run("get widgets -o name")?;
    assert!(left.trim().is_empty(), "{left}");
    let refusal = kubectl.refused_with("create -f -", &widget("late", 1))?;
    assert!(refusal.contains("NotFound"), "{refusal}");
    Ok(())
}

#[test]
fn a_deployment_that_is_not_the_widgets_is_left_alone() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "foreign")?;
    let kubectl = namespace.kubectl();
    kubectl.run("create deployment my-widget --image=foreign:1 --replicas=1")?;
    let before = kubectl.json("get deployment my-widget")?;
    kubectl.run_with("apply -f -", &widget("my-widget", 2))?;
    kubectl.run("wait widget/my-widget --for=condition=Degraded --timeout=60s")?;
    let seen = kubectl.json("get widget my-widget")?;
    assert_eq!(at(&seen, "/status/phase"), "Failed");
    let degraded = seen["status"]["conditions"]
        .as_array()
        .context("no conditions")?
        .iter()
        .find(|c| c["type"] == "Degraded")
        .context("not degraded")?
        .clone();
    assert_eq!(degraded["reason"], "DeploymentConflict");
    eventually("an Event", PATIENCE, || {
        Ok(kubectl.run("get events")?.contains("DeploymentConflict"))
    })?;
    let after = kubectl.json("get deployment my-widget")?;
    assert_eq!(
        at(&before, "/metadata/generation"),
        at(&after, "/metadata/generation")
    );
    assert_eq!(at(&before, "/spec"), at(&after, "/spec"));
    Ok(())
}

#[test]
fn a_changed_widget_changes_its_deployment() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "rollout")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 1))?;
    kubectl.run("wait widget/my-widget --for=jsonpath={.status.phase}=Running --timeout=60s")?;
    kubectl.run("patch widget my-widget --type=merge -p '{\"spec\":{\"image\":\"app:2\",\"color\":\"#00ff00\"}}'")?;
    eventually("the Deployment follows", PATIENCE, || {
        let deployment = kubectl.json("get deployment my-widget")?;
        let container = at(&deployment, "/spec/template/spec/containers/0").clone();
        Ok(container["image"] == "app:2" && container["env"][0]["value"] == "#00ff00")
    })?;
    kubectl.run("wait widget/my-widget --for=jsonpath={.status.phase}=Running --timeout=60s")?;
    Ok(())
}

/// The controller's writes, from its own metrics, and the newest revision.
fn writes_and_revision(cluster: &e2e::Cluster, kubectl: &Kubectl) -> Result<(f64, String)> {
    let metrics = controller_metrics(cluster)?;
    let writes = metrics
        .lines()
        .filter(|line| line.starts_with("widget_controller_writes_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>();
    let raw: serde_json::Value = serde_json::from_str(
        &kubectl.run("get --raw /apis/custom.example.com/v1/widgets?limit=1")?,
    )?;
    Ok((
        writes,
        at(&raw, "/metadata/resourceVersion")
            .as_str()
            .context("no revision")?
            .to_owned(),
    ))
}

#[test]
fn at_rest_the_controller_writes_nothing() -> Result<()> {
    let cluster = harness::exclusive()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let namespace = Namespace::create(&cluster, "rest")?;
    let kubectl = namespace.kubectl();
    for name in ["a", "b", "c"] {
        kubectl.run_with("apply -f -", &widget(name, 2))?;
    }
    for name in ["a", "b", "c"] {
        kubectl.run(&format!(
            "wait widget/{name} --for=jsonpath={{.status.phase}}=Running --timeout=60s"
        ))?;
    }
    eventually(
        "the namespaces of other tests are gone",
        2 * PATIENCE,
        || {
            let namespaces = kubectl.run("get namespaces -o name")?;
            Ok(namespaces
                .lines()
                .filter(|name| name.contains("/e2e-"))
                .count()
                == 1)
        },
    )?;
    let mut before = writes_and_revision(&cluster, &kubectl)?;
    eventually("the platform comes to rest", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(3));
        let now = writes_and_revision(&cluster, &kubectl)?;
        let still = now == before;
        before = now;
        Ok(still)
    })?;
    std::thread::sleep(Duration::from_secs(60));
    assert_eq!(writes_and_revision(&cluster, &kubectl)?, before);
    Ok(())
}
