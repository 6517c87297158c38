//! What the platform's neighbours say about it, and that its manifests are
//! what a real kube-apiserver accepts.

use anyhow::Result;
use e2e::harness;

use crate::support::{Kubectl, assert_holds, is_local};

#[test]
fn kube_apiserver_logs_no_error_about_the_group() -> Result<()> {
    let cluster = harness::shared()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let log = std::fs::read_to_string(cluster.process("kube-apiserver")?.log)?;
    let bad: Vec<_> = log
        .lines()
        .skip_while(|line| !line.contains("custom.example.com"))
        .filter(|line| line.contains("custom.example.com"))
        .filter(|line| {
            [
                "OpenAPI",
                "openapi",
                "Rate Limited Requeue",
                "_v2",
                "FailedDiscoveryCheck",
            ]
            .iter()
            .any(|word| line.contains(word))
                && (line.starts_with('E') || line.starts_with('W') || line.contains("Requeue"))
        })
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    Ok(())
}

#[test]
fn the_cluster_s_openapi_holds_no_renamed_definition() -> Result<()> {
    let cluster = harness::shared()?;
    let swagger = Kubectl::admin(&cluster).json_raw("/openapi/v2")?;
    let definitions = swagger["definitions"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let renamed: Vec<_> = definitions
        .keys()
        .filter(|name| name.ends_with("_v2"))
        .collect();
    assert!(renamed.is_empty(), "{renamed:?}");
    assert!(
        definitions.keys().any(|name| name.ends_with("v1.Widget")),
        "the Widget is missing"
    );
    Ok(())
}

#[test]
fn every_manifest_is_accepted_by_the_cluster() -> Result<()> {
    let cluster = harness::shared()?;
    let admin = Kubectl::admin(&cluster);
    let root = e2e::paths::workspace().join("deploy");
    for overlay in ["base", "overlays/kind", "overlays/database-secret"] {
        let path = root.join(overlay);
        let said = admin.run(&format!(
            "apply --server-side --force-conflicts --dry-run=server --validate=strict -k {}",
            path.display()
        ))?;
        assert_holds(
            &said,
            &["apiservice", "widget-apiserver", "serverside-applied"],
        );
    }
    Ok(())
}
