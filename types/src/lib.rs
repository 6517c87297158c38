//! The published shapes of the Widget API, one module for each version.
//!
//! Plain data for any kube-rs user: `kube::Api<widget_types::v1::Widget>` works as it stands.
//! What the fields say here is what `kubectl explain` prints, so the doc comments are part of the
//! API. Rules that need more than a shape (an image reference, requests within limits) are the
//! server's; nothing here knows a server, a store or a client.
//!
//! The binary that links this crate picks the Kubernetes version of `k8s-openapi`.

pub mod v1;
pub mod v1alpha1;

/// API group of every version.
pub const GROUP: &str = "custom.example.com";
/// Kind of a single object.
pub const KIND: &str = "Widget";
/// Resource name in URLs and RBAC rules.
pub const PLURAL: &str = "widgets";

/// Defines an enum of words with the schema of a plain string enumeration.
///
/// A derived schema would turn each documented variant into a `oneOf` branch, which a structural
/// OpenAPI schema does not allow.
macro_rules! word_enum {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every word that the API accepts, in the order of the lifecycle.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word that stands for this value in the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_id() -> std::borrow::Cow<'static, str> {
                concat!(module_path!(), "::", stringify!($name)).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": Self::WORDS })
            }
        }
    };
}
use word_enum;

#[cfg(test)]
mod tests {
    use k8s_openapi::schemars::schema_for;
    use kube::Resource;
    use serde_json::{Value, json};

    use super::*;

    fn full_v1() -> Value {
        json!({
            "apiVersion": "custom.example.com/v1",
            "kind": "Widget",
            "metadata": { "name": "my-widget", "namespace": "default" },
            "spec": {
                "replicas": 0,
                "image": "nginx:1.27",
                "color": "#00ff00",
                "resources": { "requests": { "cpu": "100m" }, "limits": { "cpu": "1" } },
            },
            "status": {
                "replicas": 3,
                "availableReplicas": 2,
                "selector": "app.kubernetes.io/name=widget",
                "phase": "Running",
                "observedGeneration": 9_007_199_254_740_993_i64,
                "lastUpdated": "2026-01-02T03:04:05Z",
                "conditions": [{
                    "type": "Available",
                    "status": "True",
                    "reason": "MinimumReplicasAvailable",
                    "message": "",
                    "lastTransitionTime": "2026-01-02T03:04:05Z",
                }],
            },
        })
    }

    fn full_v1alpha1() -> Value {
        json!({
            "apiVersion": "custom.example.com/v1alpha1",
            "kind": "Widget",
            "metadata": { "name": "my-widget", "namespace": "default" },
            "spec": {
                "size": 100,
                "repository": "registry.example:5000/team/app",
                "tag": "v2",
                "digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
                "color": "blue",
            },
            "status": { "ready": 1, "state": "pending", "updatedAt": "2026-01-02T03:04:05Z" },
        })
    }

    #[test]
    fn a_full_object_of_each_version_round_trips_unchanged() {
        let widget: v1::Widget = serde_json::from_value(full_v1()).unwrap();
        assert_eq!(serde_json::to_value(widget).unwrap(), full_v1());
        let widget: v1alpha1::Widget = serde_json::from_value(full_v1alpha1()).unwrap();
        assert_eq!(serde_json::to_value(widget).unwrap(), full_v1alpha1());
    }

    #[test]
    fn unset_replicas_are_not_zero_replicas() {
        let unset: v1::WidgetSpec = serde_json::from_value(json!({"image": "nginx"})).unwrap();
        let zero: v1::WidgetSpec =
            serde_json::from_value(json!({"image": "nginx", "replicas": 0})).unwrap();
        assert_eq!(unset.replicas, None);
        assert_eq!(zero.replicas, Some(0));
        assert_eq!(
            serde_json::to_value(unset).unwrap(),
            json!({"image": "nginx"})
        );
    }

    #[test]
    fn both_versions_are_one_resource_of_one_group() {
        assert_eq!(v1::Widget::group(&()), GROUP);
        assert_eq!(v1::Widget::kind(&()), KIND);
        assert_eq!(v1::Widget::plural(&()), PLURAL);
        assert_eq!(v1::Widget::api_version(&()), "custom.example.com/v1");
        assert_eq!(
            v1alpha1::Widget::api_version(&()),
            "custom.example.com/v1alpha1"
        );
        assert_eq!(v1alpha1::Widget::plural(&()), PLURAL);
    }

    #[test]
    fn every_field_is_described() {
        for schema in [schema_for!(v1::Widget), schema_for!(v1alpha1::Widget)] {
            let schema = schema.to_value();
            for part in ["WidgetSpec", "WidgetStatus"] {
                let definition = &schema["$defs"][part];
                assert!(definition["description"].is_string(), "{part}: {schema:#}");
                for (name, field) in definition["properties"].as_object().unwrap() {
                    let text = field["description"].as_str().unwrap_or_default();
                    assert!(!text.is_empty(), "{part}.{name} has no description");
                }
            }
        }
    }

    #[test]
    fn schema_publishes_defaults_enums_and_list_keys() {
        let v1 = schema_for!(v1::Widget).to_value();
        let spec = &v1["$defs"]["WidgetSpec"];
        assert_eq!(spec["properties"]["replicas"]["default"], json!(1));
        assert_eq!(spec["properties"]["color"]["default"], json!("blue"));
        assert_eq!(spec["required"], json!(["image"]));
        let status = &v1["$defs"]["WidgetStatus"]["properties"];
        assert_eq!(
            status["phase"]["enum"],
            json!(["Pending", "Running", "Failed"])
        );
        assert_eq!(status["conditions"]["x-kubernetes-list-type"], json!("map"));
        assert_eq!(
            status["conditions"]["x-kubernetes-list-map-keys"],
            json!(["type"])
        );
        let old = schema_for!(v1alpha1::Widget).to_value();
        let spec = &old["$defs"]["WidgetSpec"];
        assert_eq!(spec["properties"]["size"]["default"], json!(1));
        assert_eq!(spec["required"], json!(["repository"]));
        let state = &old["$defs"]["WidgetStatus"]["properties"]["state"];
        assert_eq!(state["enum"], json!(["pending", "running", "failed"]));
    }
}
