//! `custom.example.com/v1`: the preferred version, and the shape that is stored.

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of this version.
pub const VERSION: &str = "v1";
/// Group and version, as objects carry them.
pub const API_VERSION: &str = "custom.example.com/v1";

/// Desired state of a Widget.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "custom.example.com",
    version = "v1",
    kind = "Widget",
    plural = "widgets",
    singular = "widget",
    shortname = "wd",
    category = "all",
    category = "custom",
    namespaced,
    status = "WidgetStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Widget runs a number of equal pods of one image."
)]
#[serde(rename_all = "camelCase")]
pub struct WidgetSpec {
    /// Number of desired pods, from 0 to 100. Defaults to 1; an explicit 0 is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", extend("default" = 1))]
    pub replicas: Option<i32>,

    /// OCI image reference that the pods run: `[host[:port]/]path[:tag][@algo:hex]`.
    pub image: String,

    /// Color that the pods are told: a word of 1 to 32 lower-case letters, or `#rrggbb` in
    /// lower-case hexadecimal digits. Defaults to blue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("default" = "blue"))]
    pub color: Option<String>,

    /// Compute resources of each pod's container. A request may not exceed its limit. CPU requests
    /// are what a CPU-based autoscaler divides by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ResourceRequirements")]
    pub resources: Option<ResourceRequirements>,
}

/// Observed state of a Widget, as its controller last saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WidgetStatus {
    /// Number of pods that the Widget's Deployment has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    pub replicas: Option<i32>,

    /// Number of pods that are available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    pub available_replicas: Option<i32>,

    /// Label selector of the Widget's pods in its string form. Autoscalers read it by the scale
    /// subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub selector: Option<String>,

    /// Where the Widget stands: `Pending` until every desired pod is available, then `Running`;
    /// `Failed` when its Deployment cannot make progress or is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Phase")]
    pub phase: Option<Phase>,

    /// The `metadata.generation` that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// Time at which another field of this status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub last_updated: Option<Time>,

    /// Conditions of the types `Available`, `Progressing` and `Degraded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<Condition>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Option<Vec<Condition>>,
}

crate::word_enum! {
    /// Where a Widget stands.
    Phase {
        /// Not all desired pods are available yet.
        Pending = "Pending",
        /// At least as many pods are available as are desired.
        Running = "Running",
        /// The Deployment cannot make progress, or belongs to somebody else.
        Failed = "Failed",
    }
}
