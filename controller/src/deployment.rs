//! The Deployment that a Widget wants, and whether the one that exists is it.
//!
//! "Is it" asks two things of the fields that server-side apply lets us own: each
//! one that we want has our value, and we own none that we no longer want. What
//! other managers own is theirs and is not looked at.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Resource;
use serde_json::{Map, Value, json};
use widget_types::v1::Widget;

use crate::names::{COLOR_VARIABLE, CONTAINER, CONTROLLER, labels};
use crate::quantity::milli;

/// What unset replicas mean.
pub(crate) const DEFAULT_REPLICAS: i32 = 1;
const DEFAULT_COLOR: &str = "blue";

/// Fields that tell the members of a list apart, the stronger first.
const MEMBER_KEYS: [&str; 2] = ["uid", "name"];

/// How a Deployment of the Widget's name stands to the Widget.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ownership<'a> {
    /// There is none.
    Absent,
    /// The Widget controls it.
    Ours(&'a Deployment),
    /// A deleted Widget of the same name controlled it, so that it is on its way
    /// to the garbage collector.
    Predecessor,
    /// Somebody else's: never to be touched.
    Foreign,
}

impl<'a> Ownership<'a> {
    /// Judges by the controller reference alone, as every Kubernetes controller.
    pub(crate) fn of(widget: &Widget, deployment: Option<&'a Deployment>) -> Self {
        let Some(deployment) = deployment else {
            return Self::Absent;
        };
        let owners = deployment.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.into_iter().find(|o| o.controller == Some(true)) else {
            return Self::Foreign;
        };
        if widget.metadata.uid.as_deref() == Some(owner.uid.as_str()) {
            return Self::Ours(deployment);
        }
        let same_name = widget.metadata.name.as_deref() == Some(owner.name.as_str());
        let group = owner.api_version.split('/').next().unwrap_or_default();
        if same_name && owner.kind == widget_types::KIND && group == widget_types::GROUP {
            Self::Predecessor
        } else {
            Self::Foreign
        }
    }
}

/// Number of pods that the Widget asks for.
pub(crate) fn desired_replicas(widget: &Widget) -> i32 {
    widget.spec.replicas.unwrap_or(DEFAULT_REPLICAS)
}

/// The body of the apply: exactly the fields that the controller owns.
pub(crate) fn desired(widget: &Widget) -> Value {
    let name = widget.metadata.name.as_deref().unwrap_or_default();
    let labels = json!(labels(name));
    let color = widget.spec.color.as_deref().unwrap_or(DEFAULT_COLOR);
    let mut container = json!({
        "name": CONTAINER,
        "image": widget.spec.image,
        "env": [{"name": COLOR_VARIABLE, "value": color}],
    });
    let resources = widget.spec.resources.as_ref().map(|r| json!(r));
    if let (Some(container), Some(resources)) = (container.as_object_mut(), resources)
        && !is_empty(&resources)
    {
        container.insert("resources".to_owned(), resources);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": widget.metadata.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": Widget::api_version(&()),
                "kind": Widget::kind(&()),
                "name": name,
                "uid": widget.metadata.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "replicas": desired_replicas(widget),
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container]},
            },
        },
    })
}

/// True when applying `desired` would change nothing.
pub(crate) fn is_applied(desired: &Value, observed: &Deployment) -> bool {
    let Some(owned) = owned_fields(observed) else {
        return false;
    };
    owns_nothing_else(owned, desired)
        && serde_json::to_value(observed).is_ok_and(|o| covers(&o, desired))
}

/// Cuts from a Deployment what the controller never reads, before it is cached:
/// all but the metadata of one that no Widget controls, and other managers' fields.
pub(crate) fn trim(deployment: &mut Deployment) {
    if let Some(entries) = &mut deployment.metadata.managed_fields {
        entries.retain(is_our_apply);
    }
    let mut owners = deployment.metadata.owner_references.iter().flatten();
    if !owners.any(|owner| owner.kind == widget_types::KIND) {
        deployment.metadata.annotations = None;
        deployment.metadata.labels = None;
        deployment.metadata.managed_fields = None;
        deployment.spec = DeploymentSpec::default();
        deployment.status = None;
    }
}

fn is_our_apply(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(CONTROLLER)
        && entry.operation.as_deref() == Some("Apply")
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

fn owned_fields(observed: &Deployment) -> Option<&Value> {
    let entries = observed.metadata.managed_fields.as_ref()?;
    let entry = entries.iter().find(|entry| is_our_apply(entry))?;
    entry.fields_v1.as_ref().map(|fields| &fields.0)
}

/// True when every path of a `FieldsV1` tree leads to something in `desired`.
fn owns_nothing_else(owned: &Value, desired: &Value) -> bool {
    let Some(owned) = owned.as_object() else {
        return true;
    };
    owned.iter().all(|(path, below)| {
        let Some((kind, key)) = path.split_once(':') else {
            return true; // "." is the member itself
        };
        let found = match kind {
            "f" => desired.get(key),
            "k" => find_member(desired, &parse(key)),
            "v" => find_member(desired, &parse(key)),
            _ => None,
        };
        found.is_some_and(|found| owns_nothing_else(below, found))
    })
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// The member of a list that has all fields of `key`, or that equals it.
fn find_member<'a>(list: &'a Value, key: &Value) -> Option<&'a Value> {
    let mut members = list.as_array()?.iter();
    members.find(|member| match key.as_object() {
        Some(fields) => fields.iter().all(|(k, v)| member.get(k) == Some(v)),
        None => *member == key,
    })
}

/// True when `observed` holds everything of `desired`, whatever else it holds.
fn covers(observed: &Value, desired: &Value) -> bool {
    match desired {
        Value::Object(fields) => fields.iter().all(|(key, desired)| {
            let observed = observed.get(key);
            match key.as_str() {
                "limits" | "requests" => covers_quantities(observed, desired),
                _ => covers_field(observed, desired),
            }
        }),
        Value::Array(members) => members.iter().all(|desired| {
            let key = MEMBER_KEYS
                .into_iter()
                .find(|key| desired.get(key).is_some());
            let key = key.map(|key| (key, &desired[key]));
            let found = observed
                .as_array()
                .into_iter()
                .flatten()
                .find(|member| match key {
                    Some((key, value)) => member.get(key) == Some(value),
                    None => *member == desired,
                });
            found.is_some_and(|member| covers(member, desired))
        }),
        scalar => observed == scalar,
    }
}

fn covers_field(observed: Option<&Value>, desired: &Value) -> bool {
    match observed {
        Some(observed) => covers(observed, desired),
        None => is_empty(desired),
    }
}

fn covers_quantities(observed: Option<&Value>, desired: &Value) -> bool {
    let none = Map::new();
    let observed = observed.and_then(Value::as_object).unwrap_or(&none);
    let mut desired = desired.as_object().into_iter().flatten();
    desired.all(|(name, desired)| {
        let Some(observed) = observed.get(name) else {
            return false;
        };
        let sizes = (quantity(observed), quantity(desired));
        observed == desired || matches!(sizes, (Some(a), Some(b)) if a == b)
    })
}

fn quantity(value: &Value) -> Option<i128> {
    value.as_str().and_then(milli)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(members) => members.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{applied, widget};

    #[test]
    fn what_was_applied_is_applied_whatever_the_server_added() {
        let widget = widget(|_| {});
        let mut observed = applied(&widget);
        let spec = &mut observed.spec;
        spec.revision_history_limit = Some(10);
        let pod = spec.template.spec.as_mut().unwrap();
        pod.restart_policy = Some("Always".to_owned());
        pod.containers[0].image_pull_policy = Some("Always".to_owned());
        assert!(is_applied(&desired(&widget), &observed));
    }

    #[test]
    fn a_value_that_somebody_changed_is_not_applied() {
        let widget = widget(|_| {});
        let mut observed = applied(&widget);
        observed.spec.replicas = Some(7);
        assert!(!is_applied(&desired(&widget), &observed));
        let mut observed = applied(&widget);
        observed.metadata.labels.as_mut().unwrap().clear();
        assert!(!is_applied(&desired(&widget), &observed));
    }

    #[test]
    fn quantities_are_compared_by_size() {
        let with_cpu = |cpu: &'static str| {
            widget(move |w| {
                let limits = json!({"limits": {"cpu": cpu}});
                w.spec.resources = Some(serde_json::from_value(limits).unwrap());
            })
        };
        let observed = applied(&with_cpu("100m"));
        assert!(is_applied(&desired(&with_cpu("0.1")), &observed));
        assert!(!is_applied(&desired(&with_cpu("0.2")), &observed));
    }

    #[test]
    fn a_field_that_is_no_longer_wanted_is_a_difference() {
        let before = widget(|w| {
            let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
            w.spec.resources = Some(serde_json::from_value(limits).unwrap());
        });
        let after = widget(|_| {});
        assert!(!is_applied(&desired(&after), &applied(&before)));
    }

    #[test]
    fn fields_of_other_managers_are_no_difference() {
        let widget = widget(|_| {});
        let mut observed = applied(&widget);
        let pod = observed.spec.template.spec.as_mut();
        let container = &mut pod.unwrap().containers[0];
        let limits = json!({"limits": {"cpu": "2"}});
        container.resources = Some(serde_json::from_value(limits).unwrap());
        assert!(is_applied(&desired(&widget), &observed));
    }

    #[test]
    fn a_deployment_without_our_field_manager_is_applied_again() {
        let widget = widget(|_| {});
        let mut observed = applied(&widget);
        observed.metadata.managed_fields = None;
        assert!(!is_applied(&desired(&widget), &observed));
    }

    #[test]
    fn ownership_is_the_controller_reference() {
        let ours = widget(|_| {});
        let deployment = applied(&ours);
        assert!(matches!(
            Ownership::of(&ours, Some(&deployment)),
            Ownership::Ours(_)
        ));
        assert!(matches!(Ownership::of(&ours, None), Ownership::Absent));
        let reborn = widget(|w| w.metadata.uid = Some("uid-2".to_owned()));
        assert!(matches!(
            Ownership::of(&reborn, Some(&deployment)),
            Ownership::Predecessor
        ));
        let mut foreign = deployment;
        foreign.metadata.owner_references = None;
        assert!(matches!(
            Ownership::of(&ours, Some(&foreign)),
            Ownership::Foreign
        ));
    }

    #[test]
    fn only_what_is_read_is_cached() {
        let widget = widget(|_| {});
        let mut deployment = applied(&widget);
        let foreign_entry = ManagedFieldsEntry {
            manager: Some("kubectl".to_owned()),
            ..ManagedFieldsEntry::default()
        };
        let entries = deployment.metadata.managed_fields.as_mut().unwrap();
        entries.push(foreign_entry);
        trim(&mut deployment);
        assert_eq!(deployment, applied(&widget));
        deployment.metadata.owner_references = None;
        trim(&mut deployment);
        assert_eq!(deployment.spec, DeploymentSpec::default());
        assert!(deployment.metadata.name.is_some());
    }
}
