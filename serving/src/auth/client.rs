//! The client of kube-apiserver, and the bound of every question put to it.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::error::Error;

/// The longest that a request waits for kube-apiserver's word.
const DEADLINE: Duration = Duration::from_secs(5);

/// A client from a kubeconfig file, or from the pod's service account. It
/// goes straight to the address given: proxies of the environment are not for
/// questions of trust, and redirects are not followed.
pub async fn kube_client(kubeconfig: Option<&Path>) -> Result<kube::Client, Error> {
    let failed = |error: &dyn std::error::Error| Error::Client(error.to_string());
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| failed(&error))?
        }
        None => kube::Config::incluster().map_err(|error| failed(&error))?,
    };
    config.proxy_url = None;
    config.connect_timeout = Some(DEADLINE);
    kube::Client::try_from(config).map_err(|error| failed(&error))
}

/// Awaits an answer of kube-apiserver, but not for long.
pub(super) async fn review<T>(
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("kube-apiserver did not answer: {error}")),
        Err(_) => Err(format!("kube-apiserver did not answer within {DEADLINE:?}")),
    }
}
