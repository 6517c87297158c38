//! The coordinates by which Kubernetes names kinds and resources.

use std::borrow::Cow;
use std::fmt;

/// A name that is nearly always known at compile time.
pub type Text = Cow<'static, str>;

/// A resource of a group, without a version: what authorization and most messages speak of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group; empty for the core group.
    pub group: Text,
    /// Plural, lower-case resource name.
    pub resource: Text,
}

/// A kind of a group, without a version: what validation errors speak of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group; empty for the core group.
    pub group: Text,
    /// Kind in CamelCase.
    pub kind: Text,
}

/// A kind in one version of its group: what a body says it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    pub group: Text,
    /// Version within the group, such as `v1`.
    pub version: Text,
    /// Kind in CamelCase.
    pub kind: Text,
}

/// A resource in one version of its group: what a URL names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// API group; empty for the core group.
    pub group: Text,
    /// Version within the group, such as `v1`.
    pub version: Text,
    /// Plural, lower-case resource name.
    pub resource: Text,
}

impl GroupResource {
    /// Names `resource` of `group`.
    pub fn new(group: impl Into<Text>, resource: impl Into<Text>) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
        }
    }

    /// Whether nothing is named, as for paths outside every resource.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.group.is_empty() && self.resource.is_empty()
    }
}

impl GroupKind {
    /// Names `kind` of `group`.
    pub fn new(group: impl Into<Text>, kind: impl Into<Text>) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
        }
    }
}

impl GroupVersionKind {
    /// Names `kind` in `version` of `group`.
    pub fn new(group: impl Into<Text>, version: impl Into<Text>, kind: impl Into<Text>) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// Reads the `apiVersion` and `kind` of a body; `None` if `apiVersion` has more than one slash.
    #[must_use]
    pub fn from_api_version(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = match api_version.split_once('/') {
            None => ("", api_version),
            Some((_, version)) if version.contains('/') => return None,
            Some(pair) => pair,
        };
        Some(Self::new(
            group.to_owned(),
            version.to_owned(),
            kind.to_owned(),
        ))
    }

    /// The `apiVersion` that a body of this kind carries.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The kind without its version.
    #[must_use]
    pub fn group_kind(&self) -> GroupKind {
        GroupKind {
            group: self.group.clone(),
            kind: self.kind.clone(),
        }
    }
}

impl GroupVersionResource {
    /// Names `resource` in `version` of `group`.
    pub fn new(
        group: impl Into<Text>,
        version: impl Into<Text>,
        resource: impl Into<Text>,
    ) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }
    }

    /// The resource without its version.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        GroupResource {
            group: self.group.clone(),
            resource: self.resource.clone(),
        }
    }
}

/// `group/version`, or the version alone in the core group.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_dotted(f, &self.resource, &self.group)
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_dotted(f, &self.kind, &self.group)
    }
}

fn write_dotted(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    if group.is_empty() {
        f.write_str(name)
    } else {
        write!(f, "{name}.{group}")
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}, Resource={}",
            self.group, self.version, self.resource
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_kubernetes_shows_them() {
        assert_eq!(
            GroupResource::new("custom.example.com", "widgets").to_string(),
            "widgets.custom.example.com"
        );
        assert_eq!(GroupResource::new("", "pods").to_string(), "pods");
        assert_eq!(
            GroupKind::new("custom.example.com", "Widget").to_string(),
            "Widget.custom.example.com"
        );
        assert_eq!(
            GroupVersionKind::new("apps", "v1", "Deployment").to_string(),
            "apps/v1, Kind=Deployment"
        );
        assert_eq!(
            GroupVersionResource::new("", "v1", "pods").to_string(),
            "/v1, Resource=pods"
        );
    }

    #[test]
    fn an_api_version_is_split_at_its_only_slash() {
        let read = GroupVersionKind::from_api_version("apps/v1", "Deployment");
        assert_eq!(
            read,
            Some(GroupVersionKind::new("apps", "v1", "Deployment"))
        );
        assert_eq!(read.unwrap().api_version(), "apps/v1");
        let core = GroupVersionKind::from_api_version("v1", "Pod").unwrap();
        assert_eq!(core, GroupVersionKind::new("", "v1", "Pod"));
        assert_eq!(core.api_version(), "v1");
        assert_eq!(GroupVersionKind::from_api_version("a/b/c", "Pod"), None);
    }
}
