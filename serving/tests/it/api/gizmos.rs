//! The tiniest resource: one file and one registration make it complete.

use std::sync::LazyLock;

use machinery::resource::{ResourceInfo, Scope, VersionInfo};
use machinery::schema::Schema;
use serde_json::json;
use serving::resource::Resource;

/// A cluster-scoped kind with one version and no subresource.
pub struct Gizmos;

impl Resource for Gizmos {
    fn info(&self) -> &ResourceInfo {
        static INFO: LazyLock<ResourceInfo> = LazyLock::new(|| ResourceInfo {
            group: "gizmo.example.com",
            kind: "Gizmo",
            list_kind: "GizmoList",
            plural: "gizmos",
            singular: "gizmo",
            short_names: &[],
            categories: &[],
            scope: Scope::Cluster,
            versions: vec![VersionInfo {
                name: "v1",
                storage: true,
                deprecation_warning: None,
                schema: schema(),
                columns: vec![],
                selectable: vec![],
                lens: None,
            }],
            status: false,
            scale: None,
            history: false,
        });
        &INFO
    }
}

fn schema() -> Schema {
    Schema::from_json_schema(&json!({
        "title": "Gizmo",
        "type": "object",
        "properties": { "spec": { "type": "object", "properties": { "note": { "type": "string" } } } },
    }))
    .expect("the schema is structural")
}
