//! The keys and certificates of one run: its CAs, and one certificate for every
//! process and user. Made once; a restart finds them as they were.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::http::Tls;

/// The authorities of a run. Each signs for one purpose, as in a real cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Clients and servers of the control plane.
    Cluster,
    /// The aggregator's own client certificate, and nothing else.
    FrontProxy,
    /// Serving certificates of the platform's API servers.
    Widget,
}

impl Authority {
    fn file(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Widget => "widget-ca",
        }
    }
}

/// What a certificate says.
#[derive(Clone, Debug, Default)]
pub struct Leaf<'a> {
    /// File name without extension.
    pub file: &'a str,
    /// Common name: the user name of a client.
    pub common_name: &'a str,
    /// Organization: the group of a client.
    pub organization: Option<&'a str>,
    /// Host names and addresses of a server; a client has none.
    pub hosts: &'a [&'a str],
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// PEM certificate.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// The directory that holds them all.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Opens the directory, creating the authorities and the service-account key on first use.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let pki = Self {
            dir: dir.to_path_buf(),
        };
        for authority in [Authority::Cluster, Authority::FrontProxy, Authority::Widget] {
            if !pki.authority(authority).exists() {
                let key = KeyPair::generate()?;
                let cert = authority_params(authority)?.self_signed(&key)?;
                pki.write(authority.file(), &cert.pem(), &key)?;
            }
        }
        let accounts = pki.service_accounts();
        if !accounts.cert.exists() {
            let key = KeyPair::generate()?;
            write_private(&accounts.key, key.serialize_pem().as_bytes())?;
            write_private(&accounts.cert, key.public_key_pem().as_bytes())?;
        }
        Ok(pki)
    }

    /// Certificate file of an authority.
    #[must_use]
    pub fn authority(&self, authority: Authority) -> PathBuf {
        self.pair(authority.file()).cert
    }

    /// Certificate and key files of an authority.
    #[must_use]
    pub fn authority_pair(&self, authority: Authority) -> Pair {
        self.pair(authority.file())
    }

    /// The bare key pair of service-account tokens: `cert` holds the public key.
    #[must_use]
    pub fn service_accounts(&self) -> Pair {
        self.pair("service-account")
    }

    /// The certificate of `leaf`, made on first use.
    pub fn issue(&self, authority: Authority, leaf: &Leaf<'_>) -> Result<Pair> {
        let pair = self.pair(leaf.file);
        if !pair.cert.exists() {
            let key = KeyPair::generate()?;
            let cert = leaf_params(leaf)?.signed_by(&key, &self.issuer(authority)?)?;
            self.write(leaf.file, &cert.pem(), &key)?;
        }
        Ok(pair)
    }

    /// Writes the kubeconfig `file` for the API server at `server`.
    pub fn kubeconfig(&self, file: &str, server: &str, tls: &Tls) -> Result<PathBuf> {
        let path = self.dir.join(format!("{file}.kubeconfig"));
        // JSON is YAML, and needs no writer of its own.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": {
                "server": server,
                "certificate-authority": tls.ca,
            }}],
            "users": [{"name": file, "user": {
                "client-certificate": tls.cert,
                "client-key": tls.key,
            }}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": file}}],
            "current-context": "local",
        });
        write_private(&path, &serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }

    fn pair(&self, file: &str) -> Pair {
        Pair {
            cert: self.dir.join(format!("{file}.crt")),
            key: self.dir.join(format!("{file}.key")),
        }
    }

    fn issuer(&self, authority: Authority) -> Result<Issuer<'static, KeyPair>> {
        let pem = fs::read_to_string(self.pair(authority.file()).key)?;
        Ok(Issuer::new(
            authority_params(authority)?,
            KeyPair::from_pem(&pem)?,
        ))
    }

    /// The certificate comes last: its presence means that the pair is whole.
    fn write(&self, file: &str, cert: &str, key: &KeyPair) -> Result<()> {
        let pair = self.pair(file);
        write_private(&pair.key, key.serialize_pem().as_bytes())?;
        write_private(&pair.cert, cert.as_bytes())
    }
}

/// Replaces a file that only its owner may read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .with_context(|| format!("write {}", draft.display()))?;
    file.write_all(bytes)?;
    fs::rename(&draft, path)?;
    Ok(())
}

fn authority_params(authority: Authority) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("local {}", authority.file()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    Ok(params)
}

fn leaf_params(leaf: &Leaf<'_>) -> Result<CertificateParams> {
    let hosts: Vec<String> = leaf.hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params
        .distinguished_name
        .push(DnType::CommonName, leaf.common_name);
    if let Some(organization) = leaf.organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !leaf.hosts.is_empty() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
