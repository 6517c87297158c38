//! Client certificates, judged for each request by the CAs of that moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::front_proxy::FrontProxy;
use super::user::UserInfo;
use crate::tls::parse_certificates;
use crate::wire::Connection;

/// How long a connection's verdict stands while the CAs stay the same; a
/// certificate that expires in an open connection is refused after it.
const VERDICT_TTL: Duration = Duration::from_secs(5);
/// Extra value by which upstream names the certificate that was shown.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// CA certificates that may vouch for clients.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CaBundle {
    pem: Vec<u8>,
    anchors: Vec<Anchor>,
}

#[derive(Debug, PartialEq, Eq)]
struct Anchor {
    anchor: TrustAnchor<'static>,
    not_before: i64,
    not_after: i64,
}

impl CaBundle {
    /// Reads a PEM bundle with at least one certificate.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let anchors: Result<Vec<_>, String> =
            parse_certificates(pem)?.iter().map(Anchor::new).collect();
        Ok(Self {
            pem: pem.to_vec(),
            anchors: anchors?,
        })
    }

    /// Whether this bundle was read from `pem`.
    pub(super) fn is_from(&self, pem: &[u8]) -> bool {
        self.pem == pem
    }

    /// Checks that a CA vouches, now, for a chain that may prove a client.
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        let now = UnixTime::now();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = |anchor: &&Anchor| anchor.not_before <= seconds && seconds <= anchor.not_after;
        let anchors: Vec<_> = self
            .anchors
            .iter()
            .filter(valid)
            .map(|anchor| anchor.anchor.clone())
            .collect();
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
        leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            now,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(|_| ())
        .map_err(|error| error.to_string())
    }
}

impl Anchor {
    fn new(certificate: &CertificateDer<'static>) -> Result<Self, String> {
        let anchor = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|error| error.to_string())?
            .to_owned();
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        Ok(Self {
            anchor,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// What a connection's certificate proves, kept with the connection.
#[derive(Debug)]
pub(crate) struct Verdict {
    proxy_by: Option<Arc<FrontProxy>>,
    client_by: Option<Arc<CaBundle>>,
    at: Instant,
    /// Whether the peer is the front proxy; `None` when nobody can be.
    pub(super) proxy: Option<Result<(), String>>,
    /// The user whom the client CA vouches for (`None` inside: it names
    /// nobody); `None` when there is no such CA.
    pub(super) client: Option<Result<Option<UserInfo>, String>>,
}

impl Verdict {
    /// The verdict on a connection that presented a certificate, under these
    /// authorities; a recent one is taken from the connection.
    pub(super) fn of(
        connection: &Connection,
        proxy: Option<Arc<FrontProxy>>,
        client_ca: Option<Arc<CaBundle>>,
    ) -> Arc<Self> {
        if let Some(known) = connection.verdict.load_full()
            && known.at.elapsed() < VERDICT_TTL
            && same(known.proxy_by.as_ref(), proxy.as_ref())
            && same(known.client_by.as_ref(), client_ca.as_ref())
        {
            return known;
        }
        let chain = &connection.peer_certificates;
        let verdict = Arc::new(Self {
            proxy: proxy.as_ref().map(|proxy| verify_proxy(proxy, chain)),
            client: client_ca.as_ref().map(|ca| {
                ca.verify(chain)?;
                user_of(chain)
            }),
            proxy_by: proxy,
            client_by: client_ca,
            at: Instant::now(),
        });
        connection.verdict.store(Some(Arc::clone(&verdict)));
        verdict
    }
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn verify_proxy(proxy: &FrontProxy, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    proxy.ca.verify(chain)?;
    let name = with_leaf(chain, |leaf| common_name(leaf).unwrap_or_default())?;
    if proxy.allows(&name) {
        Ok(())
    } else {
        Err(format!("{name:?} may not act as front proxy"))
    }
}

fn with_leaf<T>(
    chain: &[CertificateDer<'_>],
    read: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T, String> {
    let leaf = chain.first().ok_or("no certificate")?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    Ok(read(&parsed))
}

/// The last common name, which is the one that Go reads.
fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let subject = certificate.subject();
    let name = subject.iter_common_name().last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The user whom a verified chain names: common name and organizations.
fn user_of(chain: &[CertificateDer<'_>]) -> Result<Option<UserInfo>, String> {
    let id = chain
        .first()
        .map(|leaf| hex(&Sha256::digest(leaf)))
        .unwrap_or_default();
    with_leaf(chain, |leaf| {
        let name = common_name(leaf)?;
        let groups = leaf
            .subject()
            .iter_organization()
            .filter_map(|group| group.as_str().ok().map(str::to_owned))
            .collect();
        let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={id}")])];
        Some(UserInfo {
            name,
            uid: String::new(),
            groups,
            extra: extra.into(),
        })
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
