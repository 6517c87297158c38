//! A resource described as plain data: routes, discovery, OpenAPI, Table and storage all derive
//! from it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::lens::Lens;
use crate::names::{self, GroupKind, GroupResource, GroupVersionKind};
use crate::object::Object;
use crate::scale::ScalePaths;
use crate::schema::Schema;

/// Whether objects live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every object is in a namespace.
    Namespaced,
    /// Names are unique in the whole cluster.
    Cluster,
}

/// Everything that the machinery needs to know of a resource.
pub struct ResourceInfo {
    /// API group.
    pub group: &'static str,
    /// Kind of one object.
    pub kind: &'static str,
    /// Kind of a list of them.
    pub list_kind: &'static str,
    /// Resource name in URLs.
    pub plural: &'static str,
    /// Name of one for people.
    pub singular: &'static str,
    /// Abbreviations that kubectl understands.
    pub short_names: &'static [&'static str],
    /// Groups such as `all` in which kubectl lists it.
    pub categories: &'static [&'static str],
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// The versions served; the first is the preferred one.
    pub versions: Vec<VersionInfo>,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Where the `scale` subresource finds its values, if there is one.
    pub scale: Option<ScalePaths>,
    /// Whether there is a `history` subresource: who wrote what, from the store's log.
    pub history: bool,
}

/// One served version of a resource.
pub struct VersionInfo {
    /// Such as `v1`.
    pub name: &'static str,
    /// Whether this is the hub, the shape that is stored.
    pub storage: bool,
    /// Text of the `Warning` header that users of this version get.
    pub deprecation_warning: Option<&'static str>,
    /// Shape of an object.
    pub schema: Schema,
    /// Columns of its Table, beside those that every Table has.
    pub columns: Vec<Column>,
    /// What field selectors may name, beside `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<SelectableField>,
    /// How this version looks at the hub; `None` for the hub itself.
    pub lens: Option<Box<dyn Lens>>,
}

/// One column of a Table.
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date` and so on.
    pub kind: &'static str,
    /// OpenAPI format; may be empty.
    pub format: &'static str,
    /// Text for people.
    pub description: &'static str,
    /// 0 is always shown, higher ones only in wide output.
    pub priority: i32,
    /// The cell for an object in this version's shape, at the given time.
    pub value: fn(&Object, Timestamp) -> Value,
}

/// A field that field selectors may name.
pub struct SelectableField {
    /// As the client writes it: `spec.color`.
    pub label: &'static str,
    /// JSON pointer to it in this version's shape: `/spec/color`.
    pub pointer: &'static str,
    /// Its value computed from the hub, so that selecting converts no object.
    pub hub_pointer: fn(&Object) -> Option<String>,
}

impl ResourceInfo {
    /// Group and plural.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.plural)
    }

    /// Group and kind.
    #[must_use]
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.group, self.kind)
    }

    /// Group, version and kind of an object in `version`.
    #[must_use]
    pub fn group_version_kind(&self, version: &VersionInfo) -> GroupVersionKind {
        GroupVersionKind::new(self.group, version.name, self.kind)
    }

    /// `apiVersion` of an object in `version`.
    #[must_use]
    pub fn api_version(&self, version: &VersionInfo) -> String {
        names::api_version(self.group, version.name)
    }

    /// The served version of that name.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&VersionInfo> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The hub.
    ///
    /// # Panics
    /// If no version is marked as the storage version, which is a mistake in the registration.
    #[must_use]
    pub fn storage_version(&self) -> &VersionInfo {
        self.versions
            .iter()
            .find(|version| version.storage)
            .expect("a registered resource has a storage version")
    }

    /// Whether objects live in namespaces.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// What discovery says in `storageVersionHash`: it changes when the storage version does.
    #[must_use]
    pub fn storage_version_hash(&self) -> String {
        let storage = self.storage_version();
        let digest = Sha256::digest(format!("{}/{}/{}", self.group, storage.name, self.kind));
        STANDARD.encode(digest.iter().copied().take(8).collect::<Vec<u8>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ResourceInfo {
        let version = |name, storage| VersionInfo {
            name,
            storage,
            deprecation_warning: None,
            schema: Schema::default(),
            columns: vec![],
            selectable: vec![],
            lens: None,
        };
        ResourceInfo {
            group: "custom.example.com",
            kind: "Thing",
            list_kind: "ThingList",
            plural: "things",
            singular: "thing",
            short_names: &[],
            categories: &[],
            scope: Scope::Cluster,
            versions: vec![version("v2", false), version("v1", true)],
            status: false,
            scale: None,
            history: false,
        }
    }

    #[test]
    fn a_resource_knows_its_names() {
        let info = info();
        let preferred = info.version("v2").unwrap();
        assert_eq!(info.api_version(preferred), "custom.example.com/v2");
        assert_eq!(
            info.group_resource().to_string(),
            "things.custom.example.com"
        );
        assert_eq!(
            info.group_version_kind(preferred).to_string(),
            "custom.example.com/v2, Kind=Thing"
        );
        assert_eq!(info.storage_version().name, "v1");
        assert!(info.version("v3").is_none() && !info.is_namespaced());
    }

    /// The first 8 bytes of the SHA-256 of `custom.example.com/v1/Thing`, in base 64.
    #[test]
    fn the_storage_version_hash_is_computed_as_upstream_computes_it() {
        assert_eq!(info().storage_version_hash(), "T1mvLZF0Yjw=");
    }
}
