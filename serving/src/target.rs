//! Which resource, version and object a request is about.

use std::sync::Arc;

use machinery::{names::GroupResource, resource::ResourceInfo};
use store::Key;

use crate::{
    registry::{Entry, Served},
    request_info::RequestInfo,
    view::Version,
};

/// A resource in the version that the URL names; owned, so that a stream can
/// keep it.
#[derive(Clone)]
pub struct Target {
    /// The resource and its objects.
    pub entry: Arc<Entry>,
    version: usize,
}

impl Target {
    /// The target of a request, if it is served.
    #[must_use]
    pub fn find(served: &Served, info: &RequestInfo) -> Option<Self> {
        let entry = served.find(&info.group, &info.version, &info.resource)?;
        let version = Version::named(entry.info(), &info.version)?.index();
        Some(Self {
            entry: Arc::clone(entry),
            version,
        })
    }

    /// The resource's description.
    #[must_use]
    pub fn info(&self) -> &ResourceInfo {
        self.entry.info()
    }

    /// The version that the client speaks.
    #[must_use]
    pub fn version(&self) -> Version<'_> {
        Version::at(self.info(), self.version).unwrap_or_else(|| Version::hub(self.info()))
    }

    /// How messages name the resource.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        self.info().group_resource()
    }

    /// The key of an object.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}
