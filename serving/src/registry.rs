//! The table of what is served. Routes, discovery, OpenAPI and storage iterate
//! it, so a resource that stands in it lacks none of them.

use std::sync::Arc;

use machinery::resource::ResourceInfo;
use store::{Collection, Store, StoreConfig, StoreError};

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

    /// Connects to the database, opens every resource's collection and fills the caches.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached, or is not one that this program can serve from.
    pub async fn load(&self, config: StoreConfig) -> Result<Loaded, StoreError> {
        let store = Store::connect(config).await?;
        let served = self.open(&store).await?;
        store.start().await?;
        Ok(Loaded { store, served })
    }

    async fn open(&self, store: &Store) -> Result<Served, StoreError> {
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

/// A store that has started, and the collections in it.
pub struct Loaded {
    /// One process' view of the database.
    pub store: Arc<Store>,
    /// What is served from it.
    pub served: Served,
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

    /// The descriptions of all resources, in the order of registration.
    #[must_use]
    pub fn infos(&self) -> Vec<&ResourceInfo> {
        self.entries.iter().map(|entry| entry.info()).collect()
    }

    /// All resources.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }
}
