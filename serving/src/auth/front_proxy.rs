//! The front proxy: kube-apiserver's aggregator, which says in headers whom it
//! speaks for. What it may say, and how it proves itself, stands in the
//! ConfigMap `kube-system/extension-apiserver-authentication`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::TryStreamExt;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};

use super::certificate::CaBundle;
use super::user::{UserInfo, extra_key, header_text};

/// Where kube-apiserver publishes its authentication.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// A verified front proxy's rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrontProxy {
    pub(super) ca: CaBundle,
    allowed_names: Vec<String>,
    username_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// Reads the ConfigMap's data. An empty list of names would let every
    /// certificate of that CA pose as anybody, so it needs `any_name`.
    fn parse(data: &BTreeMap<String, String>, any_name: bool) -> Result<Self, String> {
        let ca = data
            .get("requestheader-client-ca-file")
            .map(String::as_str)
            .unwrap_or_default();
        let proxy = Self {
            ca: CaBundle::parse(ca.as_bytes())
                .map_err(|error| format!("requestheader-client-ca-file: {error}"))?,
            allowed_names: names(data, "requestheader-allowed-names")?,
            username_headers: names(data, "requestheader-username-headers")?,
            uid_headers: names(data, "requestheader-uid-headers")?,
            group_headers: names(data, "requestheader-group-headers")?,
            extra_prefixes: names(data, "requestheader-extra-headers-prefix")?,
        };
        if proxy.username_headers.is_empty() {
            return Err("requestheader-username-headers is empty".to_owned());
        }
        if proxy.allowed_names.is_empty() && !any_name {
            return Err("requestheader-allowed-names is empty, which would allow any".to_owned());
        }
        Ok(proxy)
    }

    /// Whether a certificate of this common name is the front proxy's.
    pub(super) fn allows(&self, common_name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|name| name == common_name)
    }

    /// The user whom the headers name. Only to be believed from the proxy.
    pub(super) fn user(&self, headers: &HeaderMap) -> Result<Option<UserInfo>, String> {
        let Some(name) = first(headers, &self.username_headers)? else {
            return Ok(None);
        };
        let mut groups = Vec::new();
        for value in self
            .group_headers
            .iter()
            .flat_map(|header| headers.get_all(header))
        {
            groups.push(header_text(value)?);
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let suffix = |prefix: &String| header.as_str().strip_prefix(&prefix.to_lowercase());
            if let Some(suffix) = self.extra_prefixes.iter().find_map(suffix) {
                extra
                    .entry(extra_key(suffix))
                    .or_default()
                    .push(header_text(value)?);
            }
        }
        let uid = first(headers, &self.uid_headers)?.unwrap_or_default();
        Ok(Some(UserInfo {
            name,
            uid,
            groups,
            extra,
        }))
    }
}

/// The first value that is not blank, as upstream trims it.
fn first(headers: &HeaderMap, names: &[String]) -> Result<Option<String>, String> {
    for value in names.iter().filter_map(|name| headers.get(name)) {
        let text = header_text(value)?;
        if !text.trim().is_empty() {
            return Ok(Some(text.trim().to_owned()));
        }
    }
    Ok(None)
}

fn names(data: &BTreeMap<String, String>, key: &str) -> Result<Vec<String>, String> {
    let Some(json) = data.get(key).filter(|json| !json.is_empty()) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(json).map_err(|error| format!("{key}: {error}"))
}

/// What the ConfigMap said last.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) front_proxy: ArcSwapOption<FrontProxy>,
    pub(super) client_ca: ArcSwapOption<CaBundle>,
}

impl Published {
    /// Takes over one state of the ConfigMap; what is bad leaves the last good
    /// value, and an equal value is left alone.
    fn apply(&self, data: &BTreeMap<String, String>, any_name: bool) {
        match FrontProxy::parse(data, any_name) {
            Ok(new) if self.front_proxy.load().as_deref() == Some(&new) => {}
            Ok(new) => {
                tracing::info!("the front proxy's authentication was read");
                self.front_proxy.store(Some(Arc::new(new)));
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "{NAMESPACE}/{NAME} does not describe the front proxy"
                );
            }
        }
        let pem = data
            .get("client-ca-file")
            .map(String::as_bytes)
            .unwrap_or_default();
        if pem.is_empty() {
            self.client_ca.store(None);
        } else if !self
            .client_ca
            .load()
            .as_ref()
            .is_some_and(|ca| ca.is_from(pem))
        {
            match CaBundle::parse(pem) {
                Ok(ca) => self.client_ca.store(Some(Arc::new(ca))),
                Err(error) => tracing::error!(error, "client-ca-file of {NAME} is bad"),
            }
        }
    }

    /// Header authentication is off from now on.
    fn clear(&self) {
        tracing::error!("{NAMESPACE}/{NAME} is gone: nobody is believed by headers");
        self.front_proxy.store(None);
        self.client_ca.store(None);
    }

    /// Follows the ConfigMap for ever.
    pub(super) async fn follow(self: Arc<Self>, client: kube::Client, any_name: bool) {
        let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut seen = false;
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Apply(map) | watcher::Event::InitApply(map))) => {
                    seen = true;
                    self.apply(&map.data.unwrap_or_default(), any_name);
                }
                Ok(Some(watcher::Event::Init)) => seen = false,
                Ok(Some(watcher::Event::InitDone)) if seen => {}
                Ok(Some(watcher::Event::Delete(_) | watcher::Event::InitDone)) => self.clear(),
                Ok(None) => return,
                // The stream goes on after its backoff; the last good state stays.
                Err(error) => tracing::info!(%error, "watching {NAMESPACE}/{NAME} again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> BTreeMap<String, String> {
        let ca = rcgen::generate_simple_self_signed(vec!["ca".into()]).unwrap();
        [
            ("requestheader-client-ca-file", ca.cert.pem()),
            (
                "requestheader-allowed-names",
                r#"["front-proxy-client"]"#.into(),
            ),
            (
                "requestheader-username-headers",
                r#"["X-Remote-User"]"#.into(),
            ),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#.into()),
            (
                "requestheader-group-headers",
                r#"["X-Remote-Group"]"#.into(),
            ),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#.into(),
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                *name,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn headers_name_user_uid_groups_and_extras() {
        let proxy = FrontProxy::parse(&published(), false).unwrap();
        let user = proxy
            .user(&headers(&[
                ("x-remote-user", "älice"),
                ("x-remote-uid", "7"),
                ("x-remote-group", "b"),
                ("x-remote-group", "a"),
                ("x-remote-extra-example.org%2fscope", "one"),
                ("x-remote-extra-example.org%2fscope", "two"),
            ]))
            .unwrap()
            .unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("älice", "7"));
        assert_eq!(user.groups, ["b", "a"]);
        assert_eq!(user.extra["example.org/scope"], ["one", "two"]);
    }

    #[test]
    fn without_a_user_the_other_headers_name_nobody() {
        let proxy = FrontProxy::parse(&published(), false).unwrap();
        let masters = headers(&[("x-remote-user", " "), ("x-remote-group", "system:masters")]);
        assert_eq!(proxy.user(&masters).unwrap(), None);
    }

    #[test]
    fn an_empty_list_of_names_needs_to_be_allowed() {
        let mut data = published();
        data.insert("requestheader-allowed-names".into(), "[]".into());
        assert!(FrontProxy::parse(&data, false).is_err());
        assert!(FrontProxy::parse(&data, true).unwrap().allows("anybody"));
    }

    #[test]
    fn garbage_keeps_the_last_good_state_and_a_missing_map_clears_it() {
        let state = Published::default();
        state.apply(&BTreeMap::new(), false);
        assert!(state.front_proxy.load().is_none());
        let good = published();
        state.apply(&good, false);
        let first = state.front_proxy.load_full().unwrap();
        for (key, bad) in [
            ("requestheader-client-ca-file", ""),
            ("requestheader-client-ca-file", "garbage"),
            ("requestheader-username-headers", "["),
            ("requestheader-username-headers", "[]"),
        ] {
            let mut data = good.clone();
            data.insert(key.into(), bad.into());
            state.apply(&data, false);
            assert!(Arc::ptr_eq(&first, &state.front_proxy.load_full().unwrap()));
        }
        state.apply(&good, false);
        assert!(Arc::ptr_eq(&first, &state.front_proxy.load_full().unwrap()));
        state.clear();
        assert!(state.front_proxy.load().is_none());
    }
}
