//! A client of either protocol on one TLS connection.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::Leaf;

/// The two protocols that every promise of the wire covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

pub const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits `future`, or fails the test.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it took too long")
}

/// How to reach a server.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub roots: Vec<CertificateDer<'static>>,
    pub identity: Option<Arc<CertifiedKey>>,
}

/// Presents one certificate, whatever the server hints.
#[derive(Debug)]
struct Present(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Present {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// A leaf's certificate with a key, which need not be its own.
pub fn identity(leaf: &Leaf, key: &Leaf) -> Arc<CertifiedKey> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key.key_der())
        .unwrap();
    Arc::new(CertifiedKey::new(vec![leaf.der.clone()], key))
}

impl Target {
    /// This server, reached with a client certificate.
    pub fn as_client(&self, leaf: &Leaf) -> Self {
        Self {
            identity: Some(identity(leaf, leaf)),
            ..self.clone()
        }
    }

    pub async fn tls(&self, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(Present(self.identity.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.address).await?;
        // As every client of the API does: a lone request waits for no acknowledgement.
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    pub async fn connect(&self, protocol: Protocol) -> Client {
        self.try_connect(protocol)
            .await
            .expect("the server accepts")
    }

    pub async fn try_connect(&self, protocol: Protocol) -> anyhow::Result<Client> {
        let alpn = match protocol {
            Protocol::Http1 => "http/1.1",
            Protocol::Http2 => "h2",
        };
        let stream = self.tls(&[alpn]).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned()?.into();
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(async move { drop(connection.with_upgrades().await) });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .max_header_list_size(4 * 1024 * 1024)
                    .handshake(io)
                    .await?;
                tokio::spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
        };
        Ok(Client {
            sender,
            socket,
            protocol,
        })
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One connection.
pub struct Client {
    sender: Sender,
    socket: std::net::TcpStream,
    protocol: Protocol,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Fails when the server was first.
        drop(self.socket.shutdown(std::net::Shutdown::Both));
    }
}

impl Client {
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// A request builder whose URI suits the protocol.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let builder = Request::builder().method(method);
        match self.protocol {
            Protocol::Http1 => builder.uri(path).header("host", "localhost"),
            Protocol::Http2 => builder.uri(format!("https://localhost{path}")),
        }
    }

    pub async fn get(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        let request = self.request("GET", path).body(Full::default()).unwrap();
        self.send(request).await
    }

    /// Many GETs at a time over HTTP/2; the bodies.
    pub async fn get_all(&self, path: &str, count: usize) -> Vec<String> {
        let Sender::Http2(sender) = &self.sender else {
            panic!("HTTP/1.1 asks for one thing at a time");
        };
        let each = (0..count).map(|_| {
            let request = self.request("GET", path).body(Full::default()).unwrap();
            let answer = sender.clone().send_request(request);
            async {
                read(within(answer).await.expect("the server answers"))
                    .await
                    .1
            }
        });
        futures::future::join_all(each).await
    }

    /// Status and whole body.
    pub async fn fetch(&mut self, request: Request<Full<Bytes>>) -> (u16, String) {
        let response = within(self.send(request))
            .await
            .expect("the server answers");
        read(response).await
    }

    /// Ends the TCP connection without a farewell of the protocol.
    pub fn cut(self) {
        drop(self);
    }
}

/// Status and whole body.
pub async fn read(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = within(response.into_body().collect())
        .await
        .expect("a whole body")
        .to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
