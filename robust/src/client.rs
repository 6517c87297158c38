//! A client of one replica over TLS and HTTP/2 that always says what may have
//! become of a request: answered, never sent, or lost on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::record::Outcome;

/// A replica that takes no connection for this long is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// An answer that takes longer never comes: servers answer every request sooner.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// How a replica is reached: address, and credentials out of its kubeconfig.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Target {
    /// From the kubeconfig that the replica wrote.
    pub fn new(address: SocketAddr, kubeconfig: &[u8]) -> Result<Self> {
        let config: Value = serde_json::from_slice(kubeconfig).context("the kubeconfig")?;
        let pem = |pointer: &str| -> Result<Vec<u8>> {
            let data = config.pointer(pointer).and_then(Value::as_str);
            Ok(STANDARD.decode(data.with_context(|| format!("no {pointer}"))?)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        let ca = pem("/clusters/0/cluster/certificate-authority-data")?;
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            address,
            connector: TlsConnector::from(Arc::new(tls)),
        })
    }
}

/// One request.
pub struct Ask {
    /// Verb.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Of the body.
    pub media: &'static str,
    /// JSON; null for none.
    pub body: Value,
    /// Under which the server notes what it does.
    pub audit: String,
}

impl Ask {
    /// A GET.
    #[must_use]
    pub fn get(path: String, audit: &str) -> Self {
        Self {
            method: Method::GET,
            path,
            media: "application/json",
            body: Value::Null,
            audit: audit.to_owned(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The request never left.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(why) => Self::NotSent(why),
            Failure::Lost(why) => Self::Lost(why),
        }
    }
}

/// A connection to one replica, made when it is needed and made anew when it broke.
pub struct Client {
    target: Target,
    sender: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            sender: Mutex::new(None),
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&self, ask: Ask) -> Outcome {
        let answering = async {
            let response = self.send(ask).await?;
            let code = response.status().as_u16();
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| Failure::Lost(error.to_string()))?;
            let body = serde_json::from_slice(&body.to_bytes());
            let body = body.map_err(|error| Failure::Lost(format!("{code}: {error}")))?;
            Ok(Outcome::Answered { code, body })
        };
        match timeout(ANSWER_LIMIT, answering).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(failure)) => Failure::into(failure),
            Err(_) => {
                *self.sender.lock().await = None;
                Outcome::Lost("no answer".to_owned())
            }
        }
    }

    /// Sends a request; the answer's body is still to be read.
    pub async fn send(&self, ask: Ask) -> Result<Response<Incoming>, Failure> {
        let not_sent = |error: anyhow::Error| Failure::NotSent(format!("{error:#}"));
        let mut sender = self.sender().await.map_err(not_sent)?;
        let body = match ask.body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };
        let request = Request::builder()
            .method(ask.method)
            .uri(format!("https://{}{}", self.target.address, ask.path))
            .header("accept", "application/json")
            .header("content-type", ask.media)
            .header("audit-id", ask.audit)
            .body(Full::new(body))
            .map_err(|error| Failure::NotSent(error.to_string()))?;
        let sent = sender.send_request(request).await;
        sent.map_err(|error| Failure::Lost(error.to_string()))
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>> {
        let mut held = self.sender.lock().await;
        if let Some(sender) = held.as_mut()
            && !sender.is_closed()
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        *held = None;
        let sender = timeout(CONNECT_LIMIT, self.connect())
            .await
            .context("connecting takes too long")??;
        *held = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.target.address)
            .await
            .context("connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.target.address.ip());
        let stream = self.target.connector.connect(name, stream).await;
        let stream = stream.context("TLS handshake")?;
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        sender.ready().await?;
        Ok(sender)
    }
}
