//! What the objects of a server look like. Every kind gets about 1 KiB: what an
//! object with some annotations weighs.

use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Value, json};

/// The kinds that servers under test serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Ours, and the custom resource of the same shape.
    Widget,
    /// The one of sample-apiserver.
    Flunder,
}

impl Kind {
    fn api_version(self) -> &'static str {
        match self {
            Self::Widget => "custom.example.com/v1",
            Self::Flunder => "wardle.example.com/v1alpha1",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Widget => "widgets",
            Self::Flunder => "flunders",
        }
    }

    /// Path of all objects in a namespace.
    pub fn in_namespace(self, namespace: &str) -> String {
        let (version, plural) = (self.api_version(), self.plural());
        format!("/apis/{version}/namespaces/{namespace}/{plural}")
    }

    /// Path of all objects.
    pub fn everywhere(self) -> String {
        format!("/apis/{}/{}", self.api_version(), self.plural())
    }

    /// An object of that name; `step` makes one differ from the next.
    pub fn object(self, name: &str, step: usize) -> Value {
        let (kind, spec) = match self {
            Self::Widget => (
                "Widget",
                json!({
                    "replicas": step % 100,
                    "image": "registry.example.com/team/app:1.2.3",
                    "color": "green",
                }),
            ),
            Self::Flunder => (
                "Flunder",
                json!({
                    "reference": "registry.example.com/team/app:1.2.3",
                    "referenceType": "Flunder",
                }),
            ),
        };
        json!({
            "apiVersion": self.api_version(),
            "kind": kind,
            "metadata": {
                "name": name,
                "labels": {"app": "bench", "step": (step % 100).to_string()},
                "annotations": {"example.com/description": "x".repeat(600)},
            },
            "spec": spec,
        })
    }
}

/// As it goes over the wire.
pub fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// A merge patch that changes one label.
pub fn patch(step: &str) -> Bytes {
    body(&json!({"metadata": {"labels": {"step": step}}}))
}
