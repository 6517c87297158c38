//! One blocking GET over TLS: enough to ask a server whether it is ready, to read
//! its metrics, and to see what an HTTP client without Kubernetes' help sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::{Deserialize, Serialize};

use crate::certs::Pair;

/// What a client needs to reach a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// PEM certificates that the server's chain must lead to.
    pub ca: PathBuf,
    /// PEM client certificate; anonymous without.
    pub cert: Option<PathBuf>,
    /// Its PEM key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// A client without a certificate.
    #[must_use]
    pub fn anonymous(ca: &Path) -> Self {
        Self {
            ca: ca.to_path_buf(),
            cert: None,
            key: None,
        }
    }

    /// A client with a certificate.
    #[must_use]
    pub fn client(ca: &Path, pair: &Pair) -> Self {
        Self {
            ca: ca.to_path_buf(),
            cert: Some(pair.cert.clone()),
            key: Some(pair.key.clone()),
        }
    }

    /// The configuration of a TLS client.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_file_iter(&self.ca)
            .with_context(|| format!("read {}", self.ca.display()))?
        {
            roots.add(cert?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
            _ => config.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

/// Status code and body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// Body as text.
    pub body: String,
}

/// GETs `path` from `address` over HTTP/1.1; each read and write has `timeout`.
pub fn get(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    path: &str,
    timeout: Duration,
) -> Result<Answer> {
    let tcp = connect(address, timeout)?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, tcp);
    exchange(&mut stream, path)
}

/// GETs `path` from `address` without TLS.
pub fn get_plain(address: SocketAddr, path: &str, timeout: Duration) -> Result<Answer> {
    exchange(&mut connect(address, timeout)?, path)
}

fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, timeout)?;
    tcp.set_read_timeout(Some(timeout))?;
    tcp.set_write_timeout(Some(timeout))?;
    Ok(tcp)
}

fn exchange(stream: &mut (impl Read + Write), path: &str) -> Result<Answer> {
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    stream.flush()?;
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        // Many servers end the connection without TLS' own goodbye.
        if error.kind() != std::io::ErrorKind::UnexpectedEof {
            return Err(error.into());
        }
    }
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer has no end of headers")?;
    let code = head
        .split(' ')
        .nth(1)
        .context("the answer has no status code")?
        .parse()?;
    Ok(Answer {
        code,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_into_code_and_body() {
        let answer = parse("HTTP/1.0 200 OK\r\nA: b\r\n\r\nok\r\n\r\n").unwrap();
        assert_eq!(
            answer,
            Answer {
                code: 200,
                body: "ok\r\n\r\n".into()
            }
        );
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(parse("HTTP/1.0 200 OK\r\nA: b\r\n").is_err());
        assert!(parse("").is_err());
    }
}
