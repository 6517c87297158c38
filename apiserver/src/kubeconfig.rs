//! The kubeconfig that a standalone server writes for its administrator.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certs::Leaf;

const NAME: &str = "widget-standalone";

/// A kubeconfig for `https://address`, as JSON, which is YAML too. All certificates are inside, so
/// the file can be copied.
pub(crate) fn render(address: std::net::SocketAddr, ca: &str, client: &Leaf) -> Value {
    let encode = |pem: &str| STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": NAME,
            "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": encode(ca),
            },
        }],
        "users": [{
            "name": NAME,
            "user": {
                "client-certificate-data": encode(&client.certificate),
                "client-key-data": encode(&client.key),
            },
        }],
        "contexts": [{
            "name": NAME,
            "context": { "cluster": NAME, "user": NAME, "namespace": "default" },
        }],
        "current-context": NAME,
    })
}
