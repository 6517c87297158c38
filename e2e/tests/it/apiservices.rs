//! The platform is registered with the aggregator.

use anyhow::Result;
use e2e::harness;

#[test]
fn both_versions_are_available() -> Result<()> {
    let cluster = harness::shared()?;
    for version in ["v1", "v1alpha1"] {
        let name = format!("{version}.custom.example.com");
        let service = cluster.kubectl().json(&["get", "apiservice", &name])?;
        let available = service["status"]["conditions"]
            .as_array()
            .and_then(|all| {
                all.iter()
                    .find(|condition| condition["type"] == "Available")
            })
            .map(|condition| condition["status"].clone());
        assert_eq!(available, Some("True".into()), "{name}: {service:#}");
    }
    Ok(())
}
