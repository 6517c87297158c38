//! TLS: the serving certificate, replaced without a restart, and client
//! certificates, asked for but judged later.
//!
//! A client may present any certificate, as with kube-apiserver: the handshake
//! proves only that the client holds its key. Whether a CA vouches for it is
//! asked for each request ([`crate::auth`]), so that CAs may change under open
//! connections, and a stranger's certificate does no harm to a good token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// How often certificate files are read again. Kubernetes swaps a mounted
/// Secret by a symbolic link, which file notification misses.
pub const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// A certificate chain and its key, in PEM files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
}

struct Loaded {
    certified: Arc<CertifiedKey>,
    digest: [u8; 32],
}

/// Serves the newest good certificate that the files held.
pub struct CertResolver {
    files: CertificateFiles,
    current: ArcSwap<Loaded>,
}

impl std::fmt::Debug for CertResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertResolver")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl CertResolver {
    /// Reads the files for the first time; they must be good.
    pub async fn load(files: CertificateFiles) -> Result<Arc<Self>, Error> {
        let (certificate, key) = read(&files).await?;
        let loaded = parse(&files, &certificate, &key)?;
        Ok(Arc::new(Self {
            files,
            current: ArcSwap::from_pointee(loaded),
        }))
    }

    /// Reads the files again and again, as long as it is polled. Bad ones are
    /// logged once and change nothing.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        let mut refused = None;
        loop {
            tokio::time::sleep(interval).await;
            let failure = self.reload().await.err().map(|error| {
                std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
            });
            if let Some(error) = failure.as_ref().filter(|_| refused != failure) {
                tracing::error!(
                    error,
                    "serving with the old certificate: the new one is bad"
                );
            }
            refused = failure;
        }
    }

    /// Reads the files; true when they hold something new.
    async fn reload(&self) -> Result<bool, Error> {
        let (certificate, key) = read(&self.files).await?;
        if digest(&certificate, &key) == self.current.load().digest {
            return Ok(false);
        }
        self.current
            .store(Arc::new(parse(&self.files, &certificate, &key)?));
        tracing::info!(file = %self.files.certificate.display(), "serving a new certificate");
        Ok(true)
    }
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::ReadFile {
        path: path.to_owned(),
        source,
    };
    tokio::fs::read(path).await.map_err(failed)
}

async fn read(files: &CertificateFiles) -> Result<(Vec<u8>, Vec<u8>), Error> {
    Ok((
        read_file(&files.certificate).await?,
        read_file(&files.key).await?,
    ))
}

fn digest(certificate: &[u8], key: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((certificate.len() as u64).to_be_bytes());
    hasher.update(certificate);
    hasher.update(key);
    hasher.finalize().into()
}

fn parse(files: &CertificateFiles, certificate: &[u8], key: &[u8]) -> Result<Loaded, Error> {
    let refuse = |path: &Path, detail: String| Error::Certificate {
        what: path.display().to_string(),
        detail,
    };
    let chain =
        parse_certificates(certificate).map_err(|detail| refuse(&files.certificate, detail))?;
    let private = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| refuse(&files.key, error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|error| refuse(&files.certificate, error.to_string()))?;
    Ok(Loaded {
        certified: Arc::new(certified),
        digest: digest(certificate, key),
    })
}

/// The certificates of a PEM bundle; at least one, or an error.
pub(crate) fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, client certificates requested, no
/// early data.
pub fn server_config(certificate: Arc<CertResolver>) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(AnyClient(Arc::clone(&provider)));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Requests a certificate, demands none, and checks of a given one only that
/// the client holds its key.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
