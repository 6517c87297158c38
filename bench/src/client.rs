//! The smallest HTTP/2 client that can load a server: a few TLS connections,
//! requests multiplexed over them, bodies read as they come.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Flow-control windows large enough that the client never slows the server.
const WINDOW: u32 = 16 * 1024 * 1024;

/// What objects are asked for as.
pub const JSON: &str = "application/json";

/// What tables are asked for as.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Where the server is and who asks.
#[derive(Clone)]
pub struct Target {
    address: String,
    connector: TlsConnector,
}

impl Target {
    /// Reads the certificates; nothing is connected yet.
    pub fn new(address: &str, ca: &Path, cert: &Path, key: &Path) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            address: address.to_owned(),
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Opens as many connections as `streams` requests at once need, with at most
    /// `each` of them on one.
    pub async fn connections(&self, streams: usize, each: usize) -> Result<Vec<Connection>> {
        try_join_all((0..streams.div_ceil(each)).map(|_| self.connect())).await
    }

    /// Opens one HTTP/2 connection.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let host = self
            .address
            .rsplit_once(':')
            .map_or(&*self.address, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned())?;
        let stream = self
            .connector
            .connect(name, stream)
            .await
            .context("TLS handshake")?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Connection {
            sender,
            authority: self.address.clone(),
        })
    }
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    /// Sends a request and gives the answer once its head is there; any answer
    /// but a success is an error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        self.request(method, path, JSON, body).await
    }

    /// The same, with the whole body.
    pub async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let response = self.send(method, path, body).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    /// Reads, and only counts the body's bytes as they come.
    pub async fn count(&self, path: &str, accept: &str) -> Result<usize> {
        let response = self
            .request(Method::GET, path, accept, Bytes::new())
            .await?;
        let mut body = response.into_body();
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            count += frame?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(count > 0, "{path}: empty");
        Ok(count)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let mut builder = Request::builder()
            .method(method.clone())
            .uri(format!("https://{}{path}", self.authority))
            .header("accept", accept);
        if !body.is_empty() {
            let media = match method {
                Method::PATCH => "application/merge-patch+json",
                _ => JSON,
            };
            builder = builder.header("content-type", media);
        }
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(builder.body(Full::new(body))?).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::bail!(
                "{method} {path}: {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(response)
    }
}
