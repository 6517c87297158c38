//! Certificates of a standalone server: a CA that is kept, and leaves that are new at each start.
//!
//! Keeping only the CA means that nothing else can expire unnoticed or disagree with it, and a
//! kubeconfig that was copied away goes on working.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::parse_x509_certificate;

use crate::files;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// A CA that is about to expire is replaced; leaves must not outlive it.
const CA_RENEWAL: Duration = Duration::from_secs(2 * 365 * 24 * 60 * 60);
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The CA of one standalone server.
pub(crate) struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub(crate) struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// The CA kept in `path` (certificate and key together, so that they cannot disagree), or a
    /// new one if there is none or its time is nearly over.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(pem) => {
                let (authority, expires) =
                    Self::parse(&pem).with_context(|| format!("{} is damaged", path.display()))?;
                if expires > SystemTime::now() + CA_RENEWAL {
                    return Ok(authority);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
        let (authority, pem) = Self::create()?;
        files::write_private(path, pem.as_bytes())?;
        Ok(authority)
    }

    fn parse(pem: &[u8]) -> Result<(Self, SystemTime)> {
        let certificate = CertificateDer::from_pem_slice(pem)?;
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(pem)?)?;
        let (_, parsed) = parse_x509_certificate(&certificate)?;
        let expires = u64::try_from(parsed.validity().not_after.timestamp())?;
        let text = std::str::from_utf8(pem)?;
        let (_, certificate_pem) = text
            .split_once("-----END PRIVATE KEY-----\n")
            .ok_or_else(|| anyhow!("no key"))?;
        let authority = Self {
            certificate_pem: certificate_pem.to_owned(),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
        };
        Ok((
            authority,
            SystemTime::UNIX_EPOCH + Duration::from_secs(expires),
        ))
    }

    fn create() -> Result<(Self, String)> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "widget-apiserver standalone CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        set_validity(&mut params, CA_LIFETIME);
        let key = KeyPair::generate()?;
        let certificate_pem = params.self_signed(&key)?.pem();
        let pem = format!("{}{certificate_pem}", key.serialize_pem());
        Ok((
            Self {
                certificate_pem,
                issuer: Issuer::new(params, key),
            },
            pem,
        ))
    }

    /// The CA's certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for a server on this machine.
    pub(crate) fn issue_serving(&self) -> Result<Leaf> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        let addresses = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        params
            .subject_alt_names
            .extend(addresses.map(SanType::IpAddress));
        params
            .distinguished_name
            .push(DnType::CommonName, "widget-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A certificate for a client that is `user` in `group`.
    pub(crate) fn issue_client(&self, user: &str, group: &str) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Leaf> {
        set_validity(&mut params, LEAF_LIFETIME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Leaf {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

/// From yesterday, in case that a clock was set back.
fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + lifetime).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_kept_and_the_leaves_name_who_they_are_for() {
        let dir = files::TestDir::new("certs");
        let path = dir.path().join("ca.pem");
        let first = Authority::load_or_create(&path).unwrap();
        let second = Authority::load_or_create(&path).unwrap();
        assert_eq!(first.certificate(), second.certificate());
        assert!(!second.certificate().contains("PRIVATE"));

        let client = second.issue_client("admin", "system:masters").unwrap();
        let der = CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap();
        let (_, parsed) = parse_x509_certificate(&der).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=admin, O=system:masters");
        assert_eq!(
            parsed.issuer().to_string(),
            "CN=widget-apiserver standalone CA"
        );

        let serving = second.issue_serving().unwrap();
        let der = CertificateDer::from_pem_slice(serving.certificate.as_bytes()).unwrap();
        let (_, parsed) = parse_x509_certificate(&der).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 3);
    }

    #[test]
    fn a_damaged_ca_is_an_error_and_not_replaced() {
        let dir = files::TestDir::new("damaged");
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "garbage").unwrap();
        assert!(Authority::load_or_create(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"garbage");
    }
}
