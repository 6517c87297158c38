//! The token with which a client asks for the next page of a list.
//!
//! It holds the revision of the first page and the last key that was sent, relative to what was
//! listed: a token used in another namespace lists that namespace only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

const VERSION: &str = "meta.k8s.io/v1";

/// The revision of a token that goes on at the latest revision, inconsistently.
const LATEST: i64 = -1;

/// How the client is told that its page is gone, with a token to go on inconsistently.
pub const INCONSISTENT: &str = "The provided continue parameter is too old to display a \
    consistent list result. You can start a new list without the continue parameter, or use the \
    continue token in this response to retrieve the remainder of the results. Continuing with \
    the provided token results in an inconsistent list - objects that were created, modified, or \
    deleted between the time the first chunk was returned and now may show up in the list.";

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContinueToken {
    /// Revision of the first page; `None` goes on at the latest one.
    pub revision: Option<i64>,
    start: String,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(default)]
    v: std::borrow::Cow<'a, str>,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: std::borrow::Cow<'a, str>,
}

impl ContinueToken {
    /// The token after the object `name`. `namespace` is that of the object in a list over all
    /// namespaces, and `None` in a list of one namespace or of cluster-scoped objects.
    #[must_use]
    pub fn after(revision: i64, namespace: Option<&str>, name: &str) -> Self {
        let start = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        Self {
            revision: Some(revision),
            start,
        }
    }

    /// The same place, to go on at the latest revision.
    #[must_use]
    pub fn at_latest(&self) -> Self {
        Self {
            revision: None,
            start: self.start.clone(),
        }
    }

    /// The 410 for a list whose revision is no longer retained: it holds the token to go on.
    #[must_use]
    pub fn expired(&self) -> ApiError {
        ApiError::expired(INCONSISTENT).with_continue(self.at_latest().encode())
    }

    /// The key after which the list goes on, as (namespace, name), for a list over all namespaces.
    #[must_use]
    pub fn start_in_all(&self) -> (&str, &str) {
        self.start.split_once('/').unwrap_or((&self.start, ""))
    }

    /// The name after which the list goes on in one namespace, or among cluster-scoped objects.
    #[must_use]
    pub fn start_in_one(&self) -> &str {
        &self.start
    }

    /// The token as clients carry it.
    #[must_use]
    pub fn encode(&self) -> String {
        let wire = Wire {
            v: VERSION.into(),
            rv: self.revision.unwrap_or(LATEST),
            start: self.start.as_str().into(),
        };
        let text = serde_json::to_string(&wire).expect("text and numbers always encode");
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 if it is none of ours, whatever is wrong with it.
    pub fn decode(token: &str) -> Result<Self, ApiError> {
        read(token)
            .map_err(|problem| ApiError::bad_request(format!("invalid continue token: {problem}")))
    }
}

fn read(token: &str) -> Result<ContinueToken, String> {
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|error| format!("continue key is not valid: {error}"))?;
    let wire: Wire<'_> = serde_json::from_slice(&bytes)
        .map_err(|error| format!("continue key is not valid: {error}"))?;
    if wire.v != VERSION {
        return Err(format!(
            "continue key is not valid: server does not recognize this encoded version {}",
            wire.v
        ));
    }
    if wire.rv == 0 {
        return Err(
            "continue key is not valid: incorrect encoded start resourceVersion \
                    (version meta.k8s.io/v1)"
                .to_owned(),
        );
    }
    if wire.start.is_empty() {
        return Err(
            "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"
                .to_owned(),
        );
    }
    if !is_clean(&wire.start) {
        return Err(format!("continue key is not valid: {}", wire.start));
    }
    let revision = (wire.rv > 0).then_some(wire.rv);
    Ok(ContinueToken {
        revision,
        start: wire.start.into_owned(),
    })
}

/// Whether a key names only what lies below the list.
fn is_clean(start: &str) -> bool {
    start
        .split('/')
        .all(|step| !matches!(step, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(json: &str) -> String {
        URL_SAFE_NO_PAD.encode(json)
    }

    #[test]
    fn a_token_names_the_place_in_both_kinds_of_list() {
        let token = ContinueToken::after(7, Some("default"), "w");
        assert_eq!(token.start_in_all(), ("default", "w"));
        let token = ContinueToken::after(7, None, "w");
        assert_eq!(token.start_in_one(), "w");
        assert_eq!(token.start_in_all(), ("w", ""));
    }

    #[test]
    fn what_is_no_token_of_ours_is_a_bad_request() {
        let cases = [
            "garbage!".to_owned(),
            "Z2FyYmFnZQ".to_owned(),
            encoded("[]"),
            encoded(r#"{"v":"v9","rv":1,"start":"a"}"#),
            encoded(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            encoded(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            encoded(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../other/o0"}"#),
            encoded(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#),
            encoded(r#"{"v":"meta.k8s.io/v1","rv":"1","start":"a"}"#),
        ];
        for token in cases {
            let error = ContinueToken::decode(&token).unwrap_err();
            assert_eq!(error.code(), 400, "{token}");
            assert!(
                error
                    .to_string()
                    .starts_with("invalid continue token: continue key")
            );
        }
    }

    #[test]
    fn an_expired_list_says_how_to_go_on() {
        let error = ContinueToken::after(7, None, "w").expired();
        assert_eq!(
            (error.code(), error.reason()),
            (410, Some(crate::error::Reason::Expired))
        );
        let next = ContinueToken::decode(&error.status().metadata.continue_token).unwrap();
        assert_eq!((next.revision, next.start_in_one()), (None, "w"));
    }

    proptest! {
        #[test]
        fn a_token_survives_its_encoding(
            revision in 1..=i64::MAX,
            namespace in proptest::option::of("[a-z][a-z0-9]{0,20}"),
            name in "[a-z][a-z0-9.-]{0,30}[a-z0-9]",
        ) {
            let token = ContinueToken::after(revision, namespace.as_deref(), &name);
            prop_assert_eq!(&ContinueToken::decode(&token.encode()).unwrap(), &token);
            let latest = token.at_latest();
            prop_assert_eq!(&ContinueToken::decode(&latest.encode()).unwrap(), &latest);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*", json in r#"\{"v":"meta.k8s.io/v1","rv":-?[0-9]{1,20},"start":"[a./]{0,6}"\}"#) {
            for token in [text, encoded(&json)] {
                if let Err(error) = ContinueToken::decode(&token) {
                    prop_assert_eq!(error.code(), 400);
                }
            }
        }
    }
}
