//! `custom.example.com/v1alpha1`: the first shape of a Widget, served for old clients.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of this version.
pub const VERSION: &str = "v1alpha1";
/// Group and version, as objects carry them.
pub const API_VERSION: &str = "custom.example.com/v1alpha1";

/// Desired state of a Widget.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "custom.example.com",
    version = "v1alpha1",
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
    doc = "Widget runs a number of equal pods of one image. This version is deprecated: use custom.example.com/v1."
)]
#[serde(rename_all = "camelCase")]
pub struct WidgetSpec {
    /// Number of desired pods, from 0 to 100. Defaults to 1; an explicit 0 is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", extend("default" = 1))]
    pub size: Option<i32>,

    /// Image repository that the pods run, `[host[:port]/]path`, without a tag and without a
    /// digest.
    pub repository: String,

    /// Tag of the image. Empty is the same as unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub tag: Option<String>,

    /// Digest of the image, `algo:hex`. Empty is the same as unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub digest: Option<String>,

    /// Color that the pods are told: a word of 1 to 32 lower-case letters, or `#rrggbb` in
    /// lower-case hexadecimal digits. Defaults to blue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("default" = "blue"))]
    pub color: Option<String>,
}

/// Observed state of a Widget, as its controller last saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WidgetStatus {
    /// Number of pods that are available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    pub ready: Option<i32>,

    /// Where the Widget stands: `pending` until every desired pod is available, then `running`;
    /// `failed` when its Deployment cannot make progress or is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "State")]
    pub state: Option<State>,

    /// Time at which another field of the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub updated_at: Option<Time>,
}

crate::word_enum! {
    /// Where a Widget stands.
    State {
        /// Not all desired pods are available yet.
        Pending = "pending",
        /// At least as many pods are available as are desired.
        Running = "running",
        /// The Deployment cannot make progress, or belongs to somebody else.
        Failed = "failed",
    }
}
