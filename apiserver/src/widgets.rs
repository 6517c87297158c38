//! The Widget resource: one unit struct, described as data.

mod lens;
mod rules;

use std::sync::LazyLock;

use jiff::Timestamp;
use machinery::Object;
use machinery::field::FieldError;
use machinery::object;
use machinery::resource::{Column, ResourceInfo, Scope, SelectableField, VersionInfo};
use machinery::scale::ScalePaths;
use machinery::schema::Schema;
use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};
use serving::resource::Resource;
use widget_conversion::oci::Reference;
use widget_types::{GROUP, KIND, PLURAL, v1, v1alpha1};

/// `custom.example.com` Widgets.
pub(crate) struct Widgets;

impl Resource for Widgets {
    fn info(&self) -> &ResourceInfo {
        static INFO: LazyLock<ResourceInfo> = LazyLock::new(describe);
        &INFO
    }

    fn prepare_create(&self, hub: &mut Object) {
        rules::normalise(hub);
    }

    fn prepare_update(&self, new: &mut Object, _old: &Object) {
        rules::normalise(new);
    }

    fn validate(&self, hub: &Object) -> Vec<FieldError> {
        rules::validate(hub)
    }

    /// What was wrong before, and is as it was, blocks no other change: neither a rule that became
    /// stricter nor a half-repaired object stops a status or a finalizer.
    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = rules::validate(new);
        if !errors.is_empty() {
            let known = rules::validate(old);
            errors.retain(|error| !known.contains(error));
        }
        errors
    }
}

fn describe() -> ResourceInfo {
    ResourceInfo {
        group: GROUP,
        kind: KIND,
        list_kind: "WidgetList",
        plural: PLURAL,
        singular: "widget",
        short_names: &["wd"],
        categories: &["all", "custom"],
        scope: Scope::Namespaced,
        versions: vec![describe_v1(), describe_v1alpha1()],
        status: true,
        scale: Some(ScalePaths {
            spec_replicas: "/spec/replicas",
            status_replicas: "/status/replicas",
            label_selector: "/status/selector",
        }),
        history: true,
    }
}

fn describe_v1() -> VersionInfo {
    VersionInfo {
        name: v1::VERSION,
        storage: true,
        deprecation_warning: None,
        schema: schema_of::<v1::Widget>(),
        columns: vec![
            DESIRED.column(|widget, _| cell(widget, "/spec/replicas", json!(1))),
            AVAILABLE.column(|widget, _| cell(widget, "/status/availableReplicas", json!(0))),
            PHASE.column(|widget, _| cell(widget, "/status/phase", json!("<unknown>"))),
            COLOR.column(|widget, _| cell(widget, "/spec/color", json!(""))),
            IMAGE.column(|widget, _| cell(widget, "/spec/image", json!(""))),
        ],
        selectable: vec![
            SelectableField {
                label: "spec.color",
                pointer: "/spec/color",
                hub_pointer: |hub| text(hub, "/spec/color"),
            },
            SelectableField {
                label: "spec.image",
                pointer: "/spec/image",
                hub_pointer: |hub| text(hub, "/spec/image"),
            },
            SelectableField {
                label: "status.phase",
                pointer: "/status/phase",
                hub_pointer: |hub| text(hub, "/status/phase"),
            },
        ],
        lens: None,
    }
}

fn describe_v1alpha1() -> VersionInfo {
    VersionInfo {
        name: v1alpha1::VERSION,
        storage: false,
        deprecation_warning: Some(
            "custom.example.com/v1alpha1 Widget is deprecated; use custom.example.com/v1 Widget",
        ),
        schema: schema_of::<v1alpha1::Widget>(),
        columns: vec![
            DESIRED.column(|widget, _| cell(widget, "/spec/size", json!(1))),
            AVAILABLE.column(|widget, _| cell(widget, "/status/ready", json!(0))),
            PHASE.column(|widget, _| cell(widget, "/status/state", json!("<unknown>"))),
            COLOR.column(|widget, _| cell(widget, "/spec/color", json!(""))),
            IMAGE.column(|widget, _| Value::from(image_of_parts(widget))),
        ],
        selectable: vec![
            SelectableField {
                label: "spec.color",
                pointer: "/spec/color",
                hub_pointer: |hub| text(hub, "/spec/color"),
            },
            SelectableField {
                label: "spec.repository",
                pointer: "/spec/repository",
                hub_pointer: |hub| {
                    let image = text(hub, "/spec/image")?;
                    let repository = Reference::parse(&image).map(|found| found.repository.len());
                    Some(image.get(..repository.unwrap_or(image.len()))?.to_owned())
                },
            },
            SelectableField {
                label: "status.state",
                pointer: "/status/state",
                hub_pointer: |hub| Some(lens::state_of_phase(&text(hub, "/status/phase")?)),
            },
        ],
        lens: Some(Box::new(lens::V1alpha1)),
    }
}

/// A column that both versions have, each with a way of its own to fill it.
struct Heading {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    description: &'static str,
    priority: i32,
}

const DESIRED: Heading = Heading {
    name: "Desired",
    kind: "integer",
    format: "int32",
    description: "Number of desired pods.",
    priority: 0,
};
const AVAILABLE: Heading = Heading {
    name: "Available",
    kind: "integer",
    format: "int32",
    description: "Number of pods that are available.",
    priority: 0,
};
const PHASE: Heading = Heading {
    name: "Phase",
    kind: "string",
    format: "",
    description: "Where the Widget stands.",
    priority: 0,
};
const COLOR: Heading = Heading {
    name: "Color",
    kind: "string",
    format: "",
    description: "Color that the pods are told.",
    priority: 0,
};
const IMAGE: Heading = Heading {
    name: "Image",
    kind: "string",
    format: "",
    description: "Image that the pods run.",
    priority: 1,
};

impl Heading {
    fn column(&self, value: fn(&Object, Timestamp) -> Value) -> Column {
        Column {
            name: self.name,
            kind: self.kind,
            format: self.format,
            description: self.description,
            priority: self.priority,
            value,
        }
    }
}

fn cell(widget: &Object, pointer: &str, absent: Value) -> Value {
    object::pointer(widget, pointer).cloned().unwrap_or(absent)
}

fn text(object: &Object, pointer: &str) -> Option<String> {
    object::pointer(object, pointer)?
        .as_str()
        .map(ToOwned::to_owned)
}

fn image_of_parts(widget: &Object) -> String {
    let part = |name: &str| object::pointer(widget, name).and_then(Value::as_str);
    let repository = part("/spec/repository").unwrap_or_default();
    Reference {
        repository,
        tag: part("/spec/tag"),
        digest: part("/spec/digest"),
    }
    .join()
}

fn schema_of<T: JsonSchema>() -> Schema {
    let mut document = schema_for!(T).to_value();
    // Typed clients read a quantity as text, but people write `cpu: 1`.
    const QUANTITY: &str = "/$defs/io.k8s.apimachinery.pkg.api.resource.Quantity";
    if let Some(Value::Object(quantity)) = document.pointer_mut(QUANTITY) {
        let description = "An amount: a number, then perhaps a suffix such as m, k, M, Ki or Gi.";
        quantity.insert("description".to_owned(), Value::from(description));
        quantity.insert("x-kubernetes-int-or-string".to_owned(), Value::Bool(true));
    }
    Schema::from_json_schema(&document).expect("published types are structural, as a test shows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selectable_field_has_one_value_whether_read_from_the_hub_or_the_version() {
        let hub = json!({
            "apiVersion": v1::API_VERSION, "kind": KIND, "metadata": {"name": "w"},
            "spec": {"image": "host:5000/a:1", "color": "red"}, "status": {"phase": "Running"},
        });
        let full = hub.as_object().unwrap().clone();
        let mut empty = full.clone();
        empty.remove("status");
        empty.insert("spec".to_owned(), json!({}));
        let mut malformed = full.clone();
        malformed["spec"]["image"] = json!("a b:c");
        for version in &Widgets.info().versions {
            for hub in [&full, &empty, &malformed] {
                let shown = version
                    .lens
                    .as_ref()
                    .map_or_else(|| hub.clone(), |lens| lens.get(hub));
                for field in &version.selectable {
                    let value = text(&shown, field.pointer);
                    assert_eq!((field.hub_pointer)(hub), value, "{}", field.label);
                }
            }
        }
    }

    #[test]
    fn v1_is_preferred_and_stored_and_v1alpha1_is_deprecated() {
        let info = Widgets.info();
        let names: Vec<&str> = info.versions.iter().map(|version| version.name).collect();
        assert_eq!(names, ["v1", "v1alpha1"]);
        assert_eq!(info.storage_version().name, "v1");
        assert!(info.storage_version().deprecation_warning.is_none());
        assert!(
            info.version("v1alpha1")
                .unwrap()
                .deprecation_warning
                .is_some()
        );
    }
}
