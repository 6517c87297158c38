//! Whether a namespace exists, for the rule that nothing is created in one
//! that does not, or that is about to go.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use machinery::{error::ApiError, meta::format};

/// The longest that a request waits for kube-apiserver's word.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a namespace is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none of that name.
    Absent,
    /// Objects may be created in it.
    Active,
    /// It is being deleted.
    Terminating,
}

/// Looks namespaces up.
pub trait NamespaceLookup: Send + Sync {
    /// The phase of a namespace, or a failure when it cannot be known.
    fn phase<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Phase, ApiError>>;
}

/// For a server without a cluster: every namespace exists.
#[derive(Debug, Clone, Copy, Default)]
pub struct EveryNamespace;

impl NamespaceLookup for EveryNamespace {
    fn phase<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<Phase, ApiError>> {
        Box::pin(async { Ok(Phase::Active) })
    }
}

type Phases = HashMap<String, Phase>;

/// The cluster's namespaces: a watch, and for one that the watch has not seen,
/// a question to kube-apiserver.
pub struct ClusterNamespaces {
    api: Api<Namespace>,
    known: Arc<RwLock<Phases>>,
}

impl std::fmt::Debug for ClusterNamespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterNamespaces")
    }
}

impl ClusterNamespaces {
    /// Watches the namespaces from now on; needs a tokio runtime.
    #[must_use]
    pub fn watch(client: kube::Client) -> Self {
        let api: Api<Namespace> = Api::all(client);
        let known = Arc::default();
        tokio::spawn(follow(api.clone(), Arc::clone(&known)));
        Self { api, known }
    }

    async fn ask(&self, name: &str) -> Result<Phase, ApiError> {
        // What no namespace is called would become another path of kube-apiserver's.
        if !format::label_problems(name).is_empty() {
            return Ok(Phase::Absent);
        }
        match tokio::time::timeout(DEADLINE, self.api.get_opt(name)).await {
            Ok(Ok(Some(namespace))) => Ok(phase_of(&namespace)),
            Ok(Ok(None)) => Ok(Phase::Absent),
            Ok(Err(error)) => Err(unknown(name, &error.to_string())),
            Err(_) => Err(unknown(name, "kube-apiserver did not answer in time")),
        }
    }
}

fn unknown(name: &str, why: &str) -> ApiError {
    ApiError::internal("the namespace could not be looked up")
        .with_internal(format!("namespace {name:?} could not be looked up: {why}"))
}

impl NamespaceLookup for ClusterNamespaces {
    fn phase<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Phase, ApiError>> {
        Box::pin(async move {
            let known = self
                .known
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(name)
                .copied();
            match known {
                Some(phase) => Ok(phase),
                None => self.ask(name).await,
            }
        })
    }
}

fn phase_of(namespace: &Namespace) -> Phase {
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if namespace.metadata.deletion_timestamp.is_some() || phase == Some("Terminating") {
        Phase::Terminating
    } else {
        Phase::Active
    }
}

async fn follow(api: Api<Namespace>, known: Arc<RwLock<Phases>>) {
    let mut listed = Phases::new();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            // The stream goes on after its backoff; what is known stays known.
            Err(error) => {
                tracing::info!(%error, "watching namespaces again");
                continue;
            }
        };
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(one) => {
                listed.insert(one.name_any(), phase_of(&one));
            }
            watcher::Event::InitDone => *known = std::mem::take(&mut listed),
            watcher::Event::Apply(one) => {
                known.insert(one.name_any(), phase_of(&one));
            }
            watcher::Event::Delete(one) => {
                known.remove(&one.name_any());
            }
        }
    }
}
