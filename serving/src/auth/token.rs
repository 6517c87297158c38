//! Bearer tokens, which only kube-apiserver can judge.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Api;
use kube::api::PostParams;
use moka::future::Cache;
use sha2::{Digest, Sha256};

use super::client::review;
use super::user::UserInfo;

/// How long an answer is believed, whatever it was, as upstream.
const TTL: Duration = Duration::from_secs(10);
const CAPACITY: u64 = 8192;

/// Reviews tokens and remembers the answers for a short while.
pub(super) struct TokenReviewer {
    client: kube::Client,
    /// By the token's digest; `None` is a bad token.
    known: Cache<[u8; 32], Option<Arc<UserInfo>>>,
}

impl TokenReviewer {
    pub(super) fn new(client: kube::Client) -> Self {
        let known = Cache::builder()
            .max_capacity(CAPACITY)
            .time_to_live(TTL)
            .build();
        Self { client, known }
    }

    /// The token's user, or `None` for a token that is not good.
    pub(super) async fn review(&self, token: &str) -> Result<Option<Arc<UserInfo>>, String> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.known
            .try_get_with(digest, self.ask(token))
            .await
            .map_err(|error| error.as_ref().clone())
    }

    async fn ask(&self, token: &str) -> Result<Option<Arc<UserInfo>>, String> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = review(api.create(&PostParams::default(), &question)).await?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(UserInfo {
            name,
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })))
    }
}

/// The token of an `Authorization: Bearer` header.
pub(super) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim_start().split(' ').next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_holds_a_token() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("Bearer abc def", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, header.parse().unwrap());
            assert_eq!(bearer_token(&headers), token, "{header}");
        }
    }
}
