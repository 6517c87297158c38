//! The API server in this process, over real HTTPS and a real Postgres.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use machinery::error::ApiError;
use plumbing::health::Health;
use plumbing::metrics::Registry as MetricsRegistry;
use serde_json::Value;
use serving::api::Features;
use serving::auth::{Attributes, Authenticator, Authorizer, Decision};
use serving::documents::ServerVersion;
use serving::flow::MaxInFlight;
use serving::namespaces::{NamespaceLookup, Phase};
use serving::registry::Registry;
use serving::server::{ServerBuilder, random};
use serving::tls::{CertResolver, CertificateFiles, server_config};
use serving::wire::ServerConfig;
use store::{Store, StoreConfig, testing};
use tokio_util::sync::CancellationToken;

use super::gadgets::Gadgets;
use super::gizmos::Gizmos;
use crate::wire::certificates::Authority;
use crate::wire::client::{Client, PATIENCE, Protocol, Target, within};

/// A running server with a database of its own.
pub struct Server {
    /// How a member of `system:masters` reaches it.
    pub masters: Target,
    /// How somebody without any right reaches it.
    pub nobody: Target,
    /// How alice reaches it, whose rights are in [`Alice`].
    pub alice: Target,
    /// How somebody of `system:masters` reaches it whose name no database stores.
    pub odd: Target,
    /// Begins the stop.
    pub shutdown: CancellationToken,
    /// Its store.
    pub store: Arc<Store>,
}

/// Namespaces called `absent…` do not exist, those called `terminating…` go.
struct Namespaces;

impl NamespaceLookup for Namespaces {
    fn phase<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Phase, ApiError>> {
        let phase = match name {
            name if name.starts_with("absent") => Phase::Absent,
            name if name.starts_with("terminating") => Phase::Terminating,
            _ => Phase::Active,
        };
        Box::pin(async move { Ok(phase) })
    }
}

/// Alice may do what `verb resource/subresource namespace name` lists; `*` is
/// anything.
struct Alice;

const ALICE: [&str; 8] = [
    "get gadgets alice *",
    "create gadgets alice *",
    "delete gadgets alice broken",
    "get gadgets/status alice *",
    "get gadgets/history audited *",
    "list gadgets alice only",
    "watch gadgets alice only",
    "impersonate users * carol",
];

impl Authorizer for Alice {
    fn decide<'a>(&'a self, asked: &'a Attributes) -> BoxFuture<'a, Result<Decision, ApiError>> {
        let serving::auth::Target::Resource(target) = &asked.target else {
            return Box::pin(async { Ok(Decision::Deny("paths are not for alice".to_owned())) });
        };
        let slash = if target.subresource.is_empty() {
            ""
        } else {
            "/"
        };
        let resource = format!("{}{slash}{}", target.resource, target.subresource);
        let asked_for = [&asked.verb, &resource, &target.namespace, &target.name];
        let allows = |rule: &&str| {
            let mut parts = rule.split(' ').zip(asked_for);
            parts.all(|(allowed, asked)| allowed == "*" || allowed == asked)
        };
        let allowed = asked.user.name == "alice" && ALICE.iter().any(allows);
        let decision = if allowed {
            Decision::Allow
        } else {
            Decision::Deny(String::new())
        };
        Box::pin(async move { Ok(decision) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Server {
    /// The server that most tests share; each uses a namespace of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            // It outlives the runtime of the test that happens to be first.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    sender
                        .send(Self::start(testing::database().url, |_| {}).await)
                        .unwrap();
                    std::future::pending::<()>().await;
                });
            });
            receiver.recv().unwrap()
        })
    }

    /// Starts a server on a database.
    pub async fn start(database_url: String, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_on(StoreConfig::new(&database_url), change).await
    }

    /// Starts a server on a store with other settings.
    pub async fn start_on(config: StoreConfig, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_with(config, |builder| change(&mut builder.wire)).await
    }

    /// Starts a server that ignores `shardSelector`.
    pub async fn start_without_shards(database_url: String) -> Self {
        Self::start_with(StoreConfig::new(&database_url), |builder| {
            builder.features.sharded_list_and_watch = false;
        })
        .await
    }

    /// Starts a server of other parts.
    pub async fn start_with(config: StoreConfig, change: impl FnOnce(&mut ServerBuilder)) -> Self {
        let registry = Registry::new()
            .register(Arc::new(Gadgets))
            .register(Arc::new(Gizmos));
        let loaded = registry.load(config).await.expect("the store");
        let store = Arc::clone(&loaded.store);
        let (serving, clients) = (Authority::new("serving"), Authority::new("clients"));
        let directory = std::env::temp_dir().join(format!("serving-test-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let files = CertificateFiles {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        };
        let leaf = serving.server();
        std::fs::write(&files.certificate, &leaf.pem).unwrap();
        std::fs::write(&files.key, &leaf.key_pem).unwrap();
        let mut wire = ServerConfig::new("127.0.0.1:0".parse().unwrap());
        wire.tls = Some(server_config(CertResolver::load(files).await.unwrap()).unwrap());
        // Nobody follows these files here.
        std::fs::remove_dir_all(&directory).unwrap();
        wire.workers = 2;
        let mut builder = ServerBuilder {
            loaded,
            authenticator: Arc::new(Authenticator::standalone(clients.pem.as_bytes()).unwrap()),
            authorizer: Arc::new(Alice),
            namespaces: Arc::new(Namespaces),
            features: Features::default(),
            max_in_flight: MaxInFlight::default(),
            name_source: random,
            wire,
            about: ServerVersion {
                title: "Gadgets".to_owned(),
                version: "0.1.0".to_owned(),
            },
            health: Arc::new(Health::new()),
            metrics: Arc::new(MetricsRegistry::new()),
        };
        change(&mut builder);
        let server = builder.start().await.expect("the server starts");
        let target = Target {
            address: server.local_addr(),
            roots: vec![serving.der.clone()],
            identity: None,
        };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        crate::thread::spawn(|| server.run(stop));
        Self {
            masters: target.as_client(&clients.client("admin", &["system:masters"])),
            nobody: target.as_client(&clients.client("nobody", &[])),
            alice: target.as_client(&clients.client("alice", &[])),
            odd: target.as_client(&clients.client("ad\0min", &["system:masters"])),
            shutdown,
            store,
        }
    }
}

/// A response that was read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// A header field, or empty.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// `code reason`, as a Status says it.
    pub fn verdict(&self) -> String {
        let body = self.json();
        assert_eq!(body["kind"], "Status", "{body}");
        assert_eq!(body["code"], self.code, "{body}");
        format!(
            "{} {}",
            self.code,
            body["reason"].as_str().unwrap_or_default()
        )
    }

    /// The message of a Status.
    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The object, which must have been answered with `code`.
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

/// A client of the API over one connection.
pub struct Api {
    client: tokio::sync::Mutex<Client>,
    target: Target,
}

impl Api {
    /// A member of `system:masters` at the shared server.
    pub async fn masters() -> Self {
        Self::of(&Server::shared().masters).await
    }

    pub async fn of(target: &Target) -> Self {
        let client = target.connect(Protocol::Http2).await;
        Self {
            client: tokio::sync::Mutex::new(client),
            target: target.clone(),
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let body = within(response.into_body().collect())
            .await
            .expect("a whole body")
            .to_bytes();
        Answer {
            code,
            headers,
            body,
        }
    }

    /// Sends a request and returns before the body is read.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut client = self.client.lock().await;
        let mut request = client.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        within(client.send(request))
            .await
            .expect("the server answers")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(
            "PUT",
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Answer {
        let kind = [("content-type", "application/merge-patch+json")];
        self.send("PATCH", path, &kind, patch.to_string()).await
    }

    pub async fn json_patch(&self, path: &str, patch: &Value) -> Answer {
        let kind = [("content-type", "application/json-patch+json")];
        self.send("PATCH", path, &kind, patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.send(
            "DELETE",
            path,
            &[("content-type", "application/json")],
            options.to_string(),
        )
        .await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    /// Opens a watch in another representation.
    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let response = self.open("GET", path, &[("accept", accept)], "").await;
        assert_eq!(response.status(), 200, "{path}");
        Watch {
            headers: response.headers().clone(),
            body: response.into_body(),
            read: Vec::new(),
        }
    }

    /// Another connection of the same client.
    pub async fn again(&self) -> Self {
        Self::of(&self.target).await
    }
}

/// An open watch.
pub struct Watch {
    pub headers: HeaderMap,
    body: Incoming,
    read: Vec<u8>,
}

impl Watch {
    /// The next event, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        self.next_within(PATIENCE).await
    }

    /// The next event, for which the server may take its time.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Value> {
        let next = tokio::time::timeout(patience, self.read_event());
        next.await.expect("an event in time")
    }

    async fn read_event(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            self.read_more().await?;
        }
    }

    /// The next frame of a protobuf watch, without its length.
    pub async fn next_frame(&mut self) -> Option<Vec<u8>> {
        within(self.read_frame()).await
    }

    async fn read_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    self.read.drain(..length + 4);
                    return Some(frame);
                }
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Option<()> {
        let frame = self
            .body
            .frame()
            .await?
            .expect("the stream goes on or ends cleanly");
        if let Some(data) = frame.data_ref() {
            self.read.extend_from_slice(data);
        }
        Some(())
    }

    /// `TYPE name` of the next event.
    pub async fn summary(&mut self) -> String {
        let event = self.next().await.expect("the stream goes on");
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

/// A namespace that no other test uses.
pub fn fresh_namespace() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("ns-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The collection of gadgets of a namespace.
pub fn gadgets(namespace: &str) -> String {
    format!("/apis/gadget.example.com/v1/namespaces/{namespace}/gadgets")
}

/// The same collection in the older version.
pub fn old_gadgets(namespace: &str) -> String {
    format!("/apis/gadget.example.com/v1alpha1/namespaces/{namespace}/gadgets")
}

/// A gadget's body.
pub fn gadget(name: &str, spec: Value) -> Value {
    serde_json::json!({
        "apiVersion": "gadget.example.com/v1",
        "kind": "Gadget",
        "metadata": { "name": name },
        "spec": spec,
    })
}
