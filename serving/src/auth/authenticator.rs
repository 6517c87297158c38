//! Authentication in upstream's order: front proxy, client certificate, token,
//! anonymous. The first that names a user decides; if none does and one
//! failed, the answer is 401.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use machinery::error::ApiError;

use super::certificate::{CaBundle, Verdict};
use super::front_proxy::Published;
use super::token::{TokenReviewer, bearer_token};
use super::user::UserInfo;
use crate::error::Error;
use crate::tls::POLL_INTERVAL;
use crate::wire::Connection;

/// How a server beside a kube-apiserver authenticates.
#[derive(Debug, Clone, Default)]
pub struct DelegatedOptions {
    /// CA of client certificates, instead of the one that kube-apiserver
    /// publishes; read again when it changes.
    pub client_ca_file: Option<PathBuf>,
    /// Believe every certificate of the front proxy's CA when kube-apiserver
    /// publishes an empty list of names.
    pub any_front_proxy_name: bool,
}

/// Finds out who sent a request.
pub struct Authenticator {
    published: Arc<Published>,
    /// Overrides the published client CA.
    own_client_ca: Option<Arc<ArcSwapOption<CaBundle>>>,
    tokens: Option<TokenReviewer>,
    /// Whether kube-apiserver's published authentication is awaited.
    delegated: bool,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("delegated", &self.delegated)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Client certificates of one CA, and nothing else: who has none is refused.
    pub fn standalone(client_ca: &[u8]) -> Result<Self, Error> {
        let ca = CaBundle::parse(client_ca).map_err(|detail| Error::Certificate {
            what: "the client CA".into(),
            detail,
        })?;
        Ok(Self {
            published: Arc::default(),
            own_client_ca: Some(Arc::new(ArcSwapOption::from_pointee(ca))),
            tokens: None,
            delegated: false,
        })
    }

    /// Everything that kube-apiserver vouches for. Needs a tokio runtime: what
    /// it publishes is followed from now on.
    pub async fn delegated(client: kube::Client, options: DelegatedOptions) -> Result<Self, Error> {
        let published = Arc::new(Published::default());
        let following = Arc::clone(&published);
        tokio::spawn(following.follow(client.clone(), options.any_front_proxy_name));
        let own_client_ca = match options.client_ca_file {
            None => None,
            Some(path) => Some(follow_file(path).await?),
        };
        let tokens = Some(TokenReviewer::new(client));
        Ok(Self {
            published,
            own_client_ca,
            tokens,
            delegated: true,
        })
    }

    /// Whether the front proxy can be recognised; before that the server is
    /// not ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.delegated || self.published.front_proxy.load().is_some()
    }

    /// The user of a request, or 401 for credentials that prove nothing.
    pub async fn authenticate(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
    ) -> Result<UserInfo, ApiError> {
        let mut failures = Vec::new();
        match self.by_certificate(connection, headers, &mut failures) {
            Some(user) => return Ok(user.with_authenticated_group()),
            None => match self.by_token(headers, &mut failures).await {
                Some(user) => return Ok(user.with_authenticated_group()),
                None if failures.is_empty() && self.delegated => {}
                None if failures.is_empty() => failures.push("no credentials".to_owned()),
                None => {}
            },
        }
        if !self.is_ready() && !connection.peer_certificates.is_empty() {
            // It may well be the front proxy, whose CA is not known yet: to refuse it would be to
            // tell its user that he has no right.
            let text = "authentication is not ready, please try again later";
            return Err(ApiError::service_unavailable(text, 1));
        }
        if failures.is_empty() {
            return Ok(UserInfo::anonymous());
        }
        Err(ApiError::unauthorized().with_internal(failures.join("; ")))
    }

    fn by_certificate(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        failures: &mut Vec<String>,
    ) -> Option<UserInfo> {
        if connection.peer_certificates.is_empty() {
            return None;
        }
        let proxy = self.published.front_proxy.load_full();
        let client_ca = match &self.own_client_ca {
            Some(own) => own.load_full(),
            None => self.published.client_ca.load_full(),
        };
        let verdict = Verdict::of(connection, proxy.clone(), client_ca);
        match (&verdict.proxy, proxy) {
            (Some(Ok(())), Some(proxy)) => match proxy.user(headers) {
                Ok(Some(user)) => return Some(user),
                Ok(None) => failures.push("the front proxy names nobody".to_owned()),
                Err(error) => failures.push(error),
            },
            (Some(Err(error)), _) => failures.push(format!("front proxy: {error}")),
            _ => {}
        }
        match &verdict.client {
            Some(Ok(user)) => user.clone(),
            Some(Err(error)) => {
                failures.push(format!("client certificate: {error}"));
                None
            }
            None => None,
        }
    }

    async fn by_token(&self, headers: &HeaderMap, failures: &mut Vec<String>) -> Option<UserInfo> {
        let (tokens, token) = (self.tokens.as_ref()?, bearer_token(headers)?);
        match tokens.review(token).await {
            Ok(Some(user)) => return Some(UserInfo::clone(&user)),
            Ok(None) => failures.push("the token is not good".to_owned()),
            Err(error) => failures.push(error),
        }
        None
    }
}

/// Reads a CA file, and again whenever it changes; a bad one changes nothing.
async fn follow_file(path: PathBuf) -> Result<Arc<ArcSwapOption<CaBundle>>, Error> {
    let failed = |source| Error::ReadFile {
        path: path.clone(),
        source,
    };
    let pem = tokio::fs::read(&path).await.map_err(failed)?;
    let ca = CaBundle::parse(&pem).map_err(|detail| Error::Certificate {
        what: path.display().to_string(),
        detail,
    })?;
    let current = Arc::new(ArcSwapOption::from_pointee(ca));
    let target = Arc::clone(&current);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let Ok(pem) = tokio::fs::read(&path).await else {
                continue;
            };
            if target.load().as_ref().is_some_and(|ca| ca.is_from(&pem)) {
                continue;
            }
            match CaBundle::parse(&pem) {
                Ok(ca) => target.store(Some(Arc::new(ca))),
                Err(error) => tracing::error!(error, file = %path.display(), "bad client CA"),
            }
        }
    });
    Ok(current)
}
