//! A Widget and the Deployment that an API server would hold after its apply, for
//! the scenario tests.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::api::ObjectMeta;
use serde_json::{Map, Value};
use widget_types::v1::{Widget, WidgetSpec};

use crate::deployment::desired;
use crate::names::CONTROLLER;

/// A Widget of three replicas, generation 1, no status yet.
pub(crate) fn widget(change: impl FnOnce(&mut Widget)) -> Widget {
    let mut widget = Widget {
        metadata: ObjectMeta {
            name: Some("my-widget".to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some("uid-1".to_owned()),
            resource_version: Some("100".to_owned()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: WidgetSpec {
            replicas: Some(3),
            image: "nginx:1.27".to_owned(),
            color: Some("blue".to_owned()),
            resources: None,
        },
        status: None,
    };
    change(&mut widget);
    widget
}

/// The Deployment right after its apply: no pods, not yet seen by its controller.
pub(crate) fn applied(widget: &Widget) -> Deployment {
    let body = desired(widget);
    let mut owned = field_set(&body);
    for key in ["f:apiVersion", "f:kind"] {
        owned.as_object_mut().unwrap().remove(key);
    }
    let metadata = owned["f:metadata"].as_object_mut().unwrap();
    metadata.remove("f:name");
    metadata.remove("f:namespace");
    let mut deployment: Deployment = serde_json::from_value(body).unwrap();
    deployment.metadata.uid = Some("uid-d".to_owned());
    deployment.metadata.resource_version = Some("50".to_owned());
    deployment.metadata.generation = Some(1);
    deployment.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(CONTROLLER.to_owned()),
        operation: Some("Apply".to_owned()),
        fields_v1: Some(FieldsV1(owned)),
        ..ManagedFieldsEntry::default()
    }]);
    deployment
}

/// The same Deployment with all its pods up.
pub(crate) fn rolled_out(widget: &Widget) -> Deployment {
    let mut deployment = applied(widget);
    let replicas = widget.spec.replicas;
    deployment.status = Some(DeploymentStatus {
        replicas,
        available_replicas: replicas,
        updated_replicas: replicas,
        observed_generation: Some(1),
        ..DeploymentStatus::default()
    });
    deployment
}

/// What server-side apply writes to managedFields for `value`.
fn field_set(value: &Value) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(fields) => {
            for (key, below) in fields {
                set.insert(format!("f:{key}"), field_set(below));
            }
        }
        Value::Array(members) => {
            for member in members {
                let key = ["uid", "name"]
                    .into_iter()
                    .find(|k| member.get(k).is_some());
                let key = key.unwrap();
                let path = serde_json::json!({ key: member[key] });
                let mut below = field_set(member);
                let fields = below.as_object_mut().unwrap();
                fields.insert(".".to_owned(), Value::Object(Map::new()));
                set.insert(format!("k:{path}"), below);
            }
        }
        _ => {}
    }
    Value::Object(set)
}
