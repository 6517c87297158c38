//! The table of what is served. Routes, discovery, OpenAPI and storage iterate
//! it, so a resource that stands in it lacks none of them.

use std::sync::Arc;

use machinery::resource::ResourceInfo;
use store::{Collection, Store, StoreError};

use crate::{
    resource::Resource,
    view::{Projection, Version},
};

/// The resources of an API server, before their collections are opened.
#[derive(Default, Clone)]
pub struct Registry {
    resources: Vec<Arc<dyn Resource>>,
}

impl Registry {
    /// A registry that serves nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a resource.
    #[must_use]
    pub fn register(mut self, resource: Arc<dyn Resource>) -> Self {
        self.resources.push(resource);
        self
    }

    /// The descriptions of all resources, in the order of registration.
    #[must_use]
    pub fn infos(&self) -> Vec<&ResourceInfo> {
        self.resources
            .iter()
            .map(|resource| resource.info())
            .collect()
    }

    /// Opens every resource's collection; to be called before the store starts.
    ///
    /// # Errors
    ///
    /// When the store refuses a collection.
    pub async fn open(self, store: &Store) -> Result<Served, StoreError> {
        let mut entries = Vec::with_capacity(self.resources.len());
        for resource in &self.resources {
            let info = resource.info();
            let projection = Projection(Arc::clone(resource));
            let collection = store.register(info.group, info.plural, projection).await?;
            entries.push(Arc::new(Entry {
                resource: Arc::clone(resource),
                collection,
            }));
        }
        Ok(Served { entries })
    }
}

/// A resource with its collection.
pub struct Entry {
    /// What the resource says of itself.
    pub resource: Arc<dyn Resource>,
    /// Its objects.
    pub collection: Arc<Collection<Projection>>,
}

impl Entry {
    /// Names, scope and versions.
    #[must_use]
    pub fn info(&self) -> &ResourceInfo {
        self.resource.info()
    }
}

/// Every resource, in the order of registration.
pub struct Served {
    entries: Vec<Arc<Entry>>,
}

impl Served {
    /// The resource that a URL names, if it is served in that version.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Entry>> {
        let names =
            |entry: &&Arc<Entry>| entry.info().group == group && entry.info().plural == plural;
        let entry = self.entries.iter().find(names)?;
        Version::named(entry.info(), version)
            .is_some()
            .then_some(entry)
    }

    /// All resources.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }
}
