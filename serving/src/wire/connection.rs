//! What a handler may know of the connection and of the head of its request.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

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
}

impl Connection {
    pub(super) fn plain(peer: SocketAddr) -> Self {
        Self {
            peer,
            tls: false,
            peer_certificates: Vec::new(),
        }
    }
}

/// A request's method, URI, version and headers in hyper's types; handlers
/// find it in the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestHead(pub Arc<http::request::Parts>);
