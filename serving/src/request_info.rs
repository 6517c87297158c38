//! What a request asks for, read from its method, path and query alone.
//!
//! Authorization, dispatch and metrics all read this one value, so what was
//! authorised is what is executed. Paths are percent-decoded once and never
//! normalised: `..`, an empty segment or an encoded slash stay what they are
//! and name nothing that exists.

use machinery::{error::ApiError, options};

/// Query parameters in the order of the URL, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a raw query string as Go's `url.ParseQuery` does: a pair that
    /// holds a semicolon or a broken escape is dropped, the others stay.
    #[must_use]
    pub fn parse(raw: &str) -> Self {
        let pairs = raw
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Self(
            pairs
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode_query(key)?, decode_query(value)?))
                })
                .collect(),
        )
    }

    /// The first value of a parameter, as Go's `Values.Get`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All pairs, for the option parsers of `machinery`.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Whether a boolean parameter is set: present and neither `0` nor `false`.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

/// The attributes of a request that authorization and dispatch decide by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// False for discovery, OpenAPI, health and every unknown path.
    pub is_resource: bool,
    /// The decoded path, as authorization of non-resource URLs sees it.
    pub path: String,
    /// Kubernetes' verb (`list`, `deletecollection`); the method in lower case
    /// for non-resource paths; empty for a method that maps to no verb.
    pub verb: String,
    /// API group, empty for the core group.
    pub group: String,
    /// API version of the URL.
    pub version: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Part after the object's name, such as `status`.
    pub subresource: String,
    /// Empty for a request over all namespaces and for cluster-scoped ones.
    pub namespace: String,
    /// Name in the URL, or the one that `fieldSelector=metadata.name=` pins.
    pub name: String,
    /// Whether the URL itself carries the name.
    pub named_by_path: bool,
    /// True when the path is one that only GET knows and the method is another.
    pub is_method_odd: bool,
    /// True when there are more segments than any route has.
    pub has_surplus_segments: bool,
    /// Raw selectors of the verbs that take them, for authorization by selector.
    pub field_selector: Option<String>,
    /// See `field_selector`.
    pub label_selector: Option<String>,
}

impl RequestInfo {
    /// Reads a request line.
    ///
    /// # Errors
    ///
    /// 400 when the path holds a broken percent escape or bytes that are not
    /// UTF-8.
    pub fn parse(method: &str, raw_path: &str, query: &Query) -> Result<Self, ApiError> {
        let path = decode_path(raw_path).ok_or_else(|| {
            ApiError::bad_request(format!("invalid URL escape in path {raw_path:?}"))
        })?;
        let mut info = Self {
            verb: method.to_ascii_lowercase(),
            path,
            ..Self::default()
        };
        let path = info.path.clone();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let is_literal = path.starts_with('/')
            && !path.starts_with("//")
            && segments.iter().all(|s| !s.is_empty());
        match segments.split_first() {
            Some((&"apis", [group, version, rest @ ..])) if is_literal && !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                info.read_resource(method, rest, query);
            }
            Some((&"api", [version, rest @ ..])) if is_literal && !rest.is_empty() => {
                info.version = (*version).to_owned();
                info.read_resource(method, rest, query);
            }
            _ => {}
        }
        Ok(info)
    }

    fn read_resource(&mut self, method: &str, rest: &[&str], query: &Query) {
        let mut rest = rest;
        let mut is_watch_prefix = false;
        if let Some((&"watch", after)) = rest.split_first() {
            if after.is_empty() {
                return;
            }
            is_watch_prefix = true;
            rest = after;
        }
        self.is_resource = true;
        if let ["namespaces", namespace, after @ ..] = rest {
            self.namespace = (*namespace).to_owned();
            // A namespace itself is an object of another server.
            rest = if after.is_empty() { rest } else { after };
        }
        let mut parts = rest.iter().map(|part| (*part).to_owned());
        self.resource = parts.next().unwrap_or_default();
        self.name = parts.next().unwrap_or_default();
        self.subresource = parts.next().unwrap_or_default();
        self.has_surplus_segments = parts.next().is_some();
        self.named_by_path = !self.name.is_empty();
        // As upstream, whatever the method: what is authorised below the prefix is a watch.
        self.verb = if is_watch_prefix {
            "watch".to_owned()
        } else {
            verb_of(method).to_owned()
        };
        self.is_method_odd = is_watch_prefix && !matches!(method, "GET" | "HEAD");
        self.refine_collection_verb(query);
    }

    /// `get` and `delete` without a name are verbs of the collection.
    fn refine_collection_verb(&mut self, query: &Query) {
        if !self.named_by_path {
            match self.verb.as_str() {
                "get" => {
                    self.verb = if options::is_watch(query.pairs()) {
                        "watch"
                    } else {
                        "list"
                    }
                    .to_owned()
                }
                "delete" => self.verb = "deletecollection".to_owned(),
                _ => {}
            }
        }
        if !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            return;
        }
        self.field_selector = query
            .get("fieldSelector")
            .filter(|s| !s.is_empty())
            .map(ToOwned::to_owned);
        self.label_selector = query
            .get("labelSelector")
            .filter(|s| !s.is_empty())
            .map(ToOwned::to_owned);
        if self.name.is_empty() {
            self.name = self
                .field_selector
                .as_deref()
                .and_then(name_pinned_by)
                .unwrap_or_default();
        }
    }

    /// Watches outlive the request deadline and are counted apart.
    #[must_use]
    pub fn is_long_running(&self) -> bool {
        self.is_resource && self.verb == "watch"
    }

    /// Names that no URL path segment may carry.
    #[must_use]
    pub fn invalid_segment(&self) -> Option<String> {
        let name = self.name.as_str();
        match name {
            "." | ".." if self.named_by_path => Some(format!(
                "invalid resource name {name:?}: [may not be '{name}']"
            )),
            _ if self.named_by_path && name.contains('%') => Some(format!(
                "invalid resource name {name:?}: [may not contain '%']"
            )),
            _ => None,
        }
    }
}

/// The name when a field selector demands exactly one, as upstream's
/// `RequiresExactMatch("metadata.name")`.
fn name_pinned_by(selector: &str) -> Option<String> {
    let parsed = machinery::field_selector::FieldSelector::parse(selector).ok()?;
    parsed
        .required_value("metadata.name")
        .filter(|name| is_path_segment(name))
        .map(ToOwned::to_owned)
}

fn is_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

fn verb_of(method: &str) -> &'static str {
    match method {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

fn decode_path(raw: &str) -> Option<String> {
    decode(raw, false)
}

fn decode_query(raw: &str) -> Option<String> {
    decode(raw, true)
}

fn decode(raw: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    if plus_is_space {
        Some(String::from_utf8_lossy(&bytes).into_owned())
    } else {
        String::from_utf8(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(method: &str, url: &str) -> RequestInfo {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        RequestInfo::parse(method, path, &Query::parse(query)).unwrap()
    }

    /// verb, namespace, resource, subresource, name
    fn summary(method: &str, url: &str) -> String {
        let i = info(method, url);
        if !i.is_resource {
            return format!("{} {}", i.verb, i.path);
        }
        let surplus = if i.has_surplus_segments {
            " surplus"
        } else {
            ""
        };
        format!(
            "{} {}/{}/{}/{}{surplus}",
            i.verb, i.namespace, i.resource, i.subresource, i.name
        )
    }

    #[test]
    fn requests_map_to_the_attributes_that_kubernetes_gives_them() {
        let base = "/apis/g.example/v1";
        for (method, url, expected) in [
            ("GET", "/apis", "get /apis"),
            ("GET", "/apis/g.example/v1", "get /apis/g.example/v1"),
            ("HEAD", "/healthz", "head /healthz"),
            ("GET", "{}/gizmos", "list /gizmos//"),
            ("GET", "{}/gizmos?watch=1", "watch /gizmos//"),
            ("GET", "{}/gizmos?watch=zzz", "watch /gizmos//"),
            ("GET", "{}/gizmos?watch", "watch /gizmos//"),
            ("GET", "{}/gizmos?watch=0&watch=1", "list /gizmos//"),
            ("GET", "{}/gizmos?watch=False", "list /gizmos//"),
            ("GET", "{}/watch/namespaces/a/gizmos", "watch a/gizmos//"),
            ("GET", "{}/namespaces/a/gizmos", "list a/gizmos//"),
            ("GET", "{}/namespaces/a/gizmos/x", "get a/gizmos//x"),
            ("GET", "{}/namespaces/a/gizmos/x?watch=1", "get a/gizmos//x"),
            (
                "PUT",
                "{}/namespaces/a/gizmos/x/status",
                "update a/gizmos/status/x",
            ),
            (
                "PATCH",
                "{}/namespaces/a/gizmos/x/scale",
                "patch a/gizmos/scale/x",
            ),
            ("POST", "{}/namespaces/a/gizmos", "create a/gizmos//"),
            (
                "DELETE",
                "{}/namespaces/a/gizmos",
                "deletecollection a/gizmos//",
            ),
            ("DELETE", "{}/namespaces/a/gizmos/x", "delete a/gizmos//x"),
            ("TRACE", "{}/namespaces/a/gizmos/x", " a/gizmos//x"),
            (
                "GET",
                "{}/namespaces/a/gizmos?fieldSelector=metadata.name%3Dx",
                "list a/gizmos//x",
            ),
            (
                "GET",
                "{}/namespaces/a/gizmos?fieldSelector=metadata.name%21%3Dx",
                "list a/gizmos//",
            ),
            ("GET", "{}/namespaces/../gizmos", "list ../gizmos//"),
            ("GET", "{}/namespaces/a/gizmos/%2e%2e", "get a/gizmos//.."),
            (
                "GET",
                "{}/namespaces/default%2Fx/gizmos",
                "get default/x//gizmos",
            ),
            (
                "GET",
                "{}/namespaces//gizmos",
                "get /apis/g.example/v1/namespaces//gizmos",
            ),
            ("GET", "/{}/gizmos", "get //apis/g.example/v1/gizmos"),
            ("GET", "{}/gizmos/", "get /apis/g.example/v1/gizmos/"),
            (
                "GET",
                "{}/namespaces/a/gizmos/x/status/y",
                "get a/gizmos/status/x surplus",
            ),
        ] {
            assert_eq!(
                summary(method, &url.replace("{}", base)),
                expected,
                "{method} {url}"
            );
        }
    }

    #[test]
    fn below_the_watch_prefix_every_method_asks_for_a_watch() {
        let base = "/apis/g.example/v1/watch/namespaces/a/gizmos/x";
        for (method, is_odd) in [
            ("GET", false),
            ("HEAD", false),
            ("POST", true),
            ("DELETE", true),
        ] {
            assert_eq!(summary(method, base), "watch a/gizmos//x");
            assert_eq!(info(method, base).is_method_odd, is_odd, "{method}");
        }
    }

    #[test]
    fn a_broken_escape_is_a_bad_request() {
        for path in ["/apis/%zz", "/apis/%2", "/apis/%ff"] {
            let error = RequestInfo::parse("GET", path, &Query::default()).unwrap_err();
            assert_eq!(error.code(), 400, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_request_is_read_or_refused(
            method in "[A-Z]{0,8}",
            path in "/?(apis|api|[a-z.]*)(/([a-z]{0,3}|namespaces|watch|%2e|%2F|\\.\\.|%z|é)){0,7}/?",
            query in "(&?(watch|fieldSelector|labelSelector|x)(=[a-z0-9=%!,;.+]{0,8})?){0,4}",
        ) {
            let query = Query::parse(&query);
            if let Ok(info) = RequestInfo::parse(&method, &path, &query) {
                prop_assert!(info.is_resource || info.verb == method.to_ascii_lowercase());
                // What lists and what watches is told apart here and nowhere else.
                let is_watch = options::is_watch(query.pairs());
                prop_assert!(info.verb != "list" || !is_watch);
                prop_assert!(info.resource.is_empty() || path.contains(&info.resource) || path.contains('%'));
            }
        }
    }

    #[test]
    fn queries_decode_as_go_does() {
        let query = Query::parse("a=1+2&b=%41&c=%zz&d;e=1&f");
        let pairs: Vec<_> = query
            .pairs()
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(pairs, [("a", "1 2"), ("b", "A"), ("f", "")]);
    }
}
