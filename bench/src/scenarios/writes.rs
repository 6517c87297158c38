//! Requests for one object: by 1, 16 and 64 clients at once.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::{FEW, Plan, WRITES};
use crate::figure::Figure;
use crate::object::{body, patch};

/// Objects that are made, read and deleted before anything is measured.
const WARM_UP: usize = 300;

/// How many clients ask at once.
const CLIENTS: [usize; 3] = [1, 16, 64];

impl Plan {
    pub(super) async fn writes(&self) -> Result<()> {
        self.warm_up().await?;
        for clients in CLIENTS {
            let scenario = named("create", clients);
            self.measure(&scenario, self.create(&scenario, clients))
                .await;
        }
        for clients in CLIENTS {
            let scenario = named("update", clients);
            self.measure(&scenario, self.update(&scenario, clients))
                .await;
        }
        for clients in CLIENTS {
            let scenario = named("merge patch", clients);
            self.measure(&scenario, self.merge_patch(&scenario, clients))
                .await;
        }
        for clients in CLIENTS {
            let scenario = named("get", clients);
            self.measure(&scenario, self.get(&scenario, clients)).await;
        }
        Ok(())
    }

    /// The first requests to a server cost it more than all later ones; kube-apiserver
    /// even lets the first create of a new kind wait for two seconds.
    pub(super) async fn warm_up(&self) -> Result<()> {
        let connection = self.target.connect().await?;
        let collection = self.kind.in_namespace(WRITES);
        for step in 0..WARM_UP {
            let object = body(&self.kind.object(&format!("warm-up-{step}"), step));
            connection.call(Method::POST, &collection, object).await?;
            let path = format!("{collection}/warm-up-{step}");
            connection.call(Method::GET, &path, Bytes::new()).await?;
            connection.call(Method::DELETE, &path, Bytes::new()).await?;
        }
        Ok(())
    }

    /// Writes to objects of the small list, so that the store's size stays. What filling it left for
    /// the disk to do is done first: it would count as slowness of a large store.
    pub(super) async fn write_latency(&self, scenario: &str) -> Result<Figure> {
        let synced = Command::new("sync").status().await.context("run sync")?;
        ensure!(synced.success(), "sync failed");
        let collection = &self.kind.in_namespace(FEW);
        self.timed(scenario, 16, |connection, client, step| async move {
            let path = format!("{collection}/object-{client:06}");
            let patch = patch(&format!("p{step}"));
            connection.call(Method::PATCH, &path, patch).await.map(drop)
        })
        .await
    }

    async fn create(&self, scenario: &str, clients: usize) -> Result<Figure> {
        let path = &self.kind.in_namespace(WRITES);
        self.timed(scenario, clients, |connection, client, step| async move {
            let name = format!("create-{clients}-{client}-{step}");
            let object = body(&self.kind.object(&name, step));
            connection.call(Method::POST, path, object).await.map(drop)
        })
        .await
    }

    /// Each client owns one object, so that no update conflicts.
    async fn update(&self, scenario: &str, clients: usize) -> Result<Figure> {
        let collection = &self.kind.in_namespace(WRITES);
        let objects = self.own_objects(clients).await?;
        let versions: Vec<_> = objects.into_iter().map(Mutex::new).collect();
        let versions = &versions;
        self.timed(scenario, clients, |connection, client, step| async move {
            let slot = versions.get(client).context("a client without an object")?;
            let mut current = slot.lock().await;
            let name = own(clients, client);
            let mut object = self.kind.object(&name, step + 1);
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                let version = resource_version(&current)?;
                metadata.insert("resourceVersion".to_owned(), Value::from(version));
            }
            let path = format!("{collection}/{name}");
            *current = connection.call(Method::PUT, &path, body(&object)).await?;
            Ok(())
        })
        .await
    }

    async fn merge_patch(&self, scenario: &str, clients: usize) -> Result<Figure> {
        self.own_objects(clients).await?;
        let collection = &self.kind.in_namespace(WRITES);
        self.timed(scenario, clients, |connection, client, step| async move {
            let path = format!("{collection}/{}", own(clients, client));
            let patch = patch(&format!("p{step}"));
            connection.call(Method::PATCH, &path, patch).await.map(drop)
        })
        .await
    }

    async fn get(&self, scenario: &str, clients: usize) -> Result<Figure> {
        self.own_objects(clients).await?;
        let collection = &self.kind.in_namespace(WRITES);
        self.timed(scenario, clients, |connection, client, _| async move {
            let path = format!("{collection}/{}", own(clients, client));
            let object = connection.call(Method::GET, &path, Bytes::new());
            object.await.map(drop)
        })
        .await
    }

    /// The objects that each client owns, made unless they are there.
    async fn own_objects(&self, clients: usize) -> Result<Vec<Bytes>> {
        let collection = self.kind.in_namespace(WRITES);
        let connection = self.target.connect().await?;
        let mut objects = Vec::new();
        for client in 0..clients {
            let name = own(clients, client);
            let path = format!("{collection}/{name}");
            let known = connection.call(Method::GET, &path, Bytes::new()).await;
            objects.push(match known {
                Ok(object) => object,
                Err(_) => {
                    let object = body(&self.kind.object(&name, 0));
                    connection.call(Method::POST, &collection, object).await?
                }
            });
        }
        Ok(objects)
    }
}

fn named(verb: &str, clients: usize) -> String {
    match clients {
        1 => format!("{verb}, 1 client"),
        _ => format!("{verb}, {clients} clients"),
    }
}

/// Name of the object that only this client changes.
fn own(clients: usize, client: usize) -> String {
    format!("update-{clients}-{client}")
}

/// The resourceVersion of an object as it came over the wire.
pub(super) fn resource_version(object: &[u8]) -> Result<String> {
    let object: Value = serde_json::from_slice(object)?;
    let version = object.pointer("/metadata/resourceVersion");
    let version = version.and_then(Value::as_str).context("no version")?;
    Ok(version.to_owned())
}
