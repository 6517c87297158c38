//! What a handler may know of the connection and of the head of its request.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::CertificateDer;

use crate::auth::Verdict;

/// One connection, shared by all its requests; handlers find it in the
/// request's extensions as `Arc<Connection>`.
#[derive(Debug)]
pub struct Connection {
    /// The other end of the TCP connection.
    pub peer: SocketAddr,
    /// Whether the bytes were encrypted.
    pub tls: bool,
    /// The client's certificate chain, leaf first, with proof that the client
    /// holds the key, and without any other check: who it is, is decided for
    /// each request.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// What authentication last found the certificate to prove.
    pub(crate) verdict: ArcSwapOption<Verdict>,
}

impl Connection {
    /// A connection without TLS.
    #[must_use]
    pub fn plain(peer: SocketAddr) -> Self {
        Self {
            tls: false,
            ..Self::encrypted(peer, Vec::new())
        }
    }

    /// A TLS connection whose client proved to hold the key of the chain's leaf.
    #[must_use]
    pub fn encrypted(peer: SocketAddr, peer_certificates: Vec<CertificateDer<'static>>) -> Self {
        Self {
            peer,
            tls: true,
            peer_certificates,
            verdict: ArcSwapOption::empty(),
        }
    }
}

/// A request's method, URI, version and headers in hyper's types; handlers
/// find it in the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestHead(pub Arc<http::request::Parts>);
