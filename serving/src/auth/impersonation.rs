//! `Impersonate-*`: acting as somebody else, for those who may.

use std::collections::BTreeMap;

use http::HeaderMap;
use machinery::error::ApiError;

use super::attributes::{Attributes, ResourceAttributes, Target};
use super::authorizer::{Authorizer, authorize};
use super::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo, extra_key, header_text};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user as whom the request acts: `user`, or whom the headers name if
/// `user` may impersonate each part of them.
pub async fn impersonate(
    authorizer: &dyn Authorizer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, ApiError> {
    let Some(mut wanted) = wanted(headers)? else {
        return Ok(user);
    };
    for target in targets(&wanted) {
        let attributes = Attributes {
            user: user.clone(),
            verb: "impersonate".to_owned(),
            target: Target::Resource(Box::new(target)),
        };
        authorize(authorizer, &attributes).await?;
    }
    if let (true, Some((namespace, _))) = (wanted.groups.is_empty(), service_account(&wanted.name))
    {
        wanted.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let implied = if wanted.name == ANONYMOUS {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !wanted.is_in(AUTHENTICATED) && !wanted.is_in(UNAUTHENTICATED) {
        wanted.groups.push(implied.to_owned());
    }
    Ok(wanted)
}

fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let texts = |name: &str| -> Result<Vec<String>, ApiError> {
        headers
            .get_all(name)
            .iter()
            .map(|value| header_text(value).map_err(bad))
            .collect()
    };
    let first = |name: &str| texts(name).map(|all| all.into_iter().next().unwrap_or_default());
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(suffix) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            extra
                .entry(extra_key(suffix))
                .or_default()
                .push(header_text(value).map_err(bad)?);
        }
    }
    let wanted = UserInfo {
        name: first(USER)?,
        uid: first(UID)?,
        groups: texts(GROUP)?,
        extra,
    };
    if wanted == UserInfo::default() {
        return Ok(None);
    }
    if wanted.name.is_empty() {
        return Err(bad(
            "groups, a uid or extras are impersonated without a user".to_owned(),
        ));
    }
    Ok(Some(wanted))
}

fn bad(message: String) -> ApiError {
    ApiError::bad_request(message)
}

/// Namespace and name in a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let good = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    good.then_some((namespace, name))
}

/// Everything that the verb `impersonate` must be allowed on.
fn targets(wanted: &UserInfo) -> Vec<ResourceAttributes> {
    let target = |group: &str, resource: &str, name: &str| ResourceAttributes {
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..ResourceAttributes::default()
    };
    let authentication = "authentication.k8s.io";
    let mut targets = vec![match service_account(&wanted.name) {
        Some((namespace, name)) => ResourceAttributes {
            namespace: namespace.to_owned(),
            ..target("", "serviceaccounts", name)
        },
        None => target("", "users", &wanted.name),
    }];
    targets.extend(
        wanted
            .groups
            .iter()
            .map(|group| target("", "groups", group)),
    );
    for (key, value) in wanted
        .extra
        .iter()
        .flat_map(|(k, all)| all.iter().map(move |v| (k, v)))
    {
        let subresource = key.clone();
        let one = target(authentication, "userextras", value);
        targets.push(ResourceAttributes { subresource, ..one });
    }
    if !wanted.uid.is_empty() {
        targets.push(target(authentication, "uids", &wanted.uid));
    }
    targets
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;
    use crate::auth::Decision;

    /// Allows `impersonate` on one resource and name.
    struct Only(&'static str, &'static str);

    impl Authorizer for Only {
        fn decide<'a>(
            &'a self,
            attributes: &'a Attributes,
        ) -> BoxFuture<'a, Result<Decision, ApiError>> {
            let Target::Resource(target) = &attributes.target else {
                panic!("not a resource")
            };
            assert_eq!(attributes.verb, "impersonate");
            let allowed = target.resource == self.0 && target.name == self.1;
            let decision = if allowed {
                Decision::Allow
            } else {
                Decision::Deny(String::new())
            };
            Box::pin(async { Ok(decision) })
        }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn robot() -> UserInfo {
        UserInfo {
            name: "robot".into(),
            ..UserInfo::default()
        }
    }

    #[tokio::test]
    async fn every_part_of_the_impersonated_user_needs_permission() {
        let only = Only("users", "bob");
        let bob = impersonate(&only, robot(), &headers(&[(USER, "bob")]))
            .await
            .unwrap();
        assert_eq!(
            (bob.name.as_str(), &bob.groups[..]),
            ("bob", &[AUTHENTICATED.into()][..])
        );
        for more in [
            (GROUP, "system:masters"),
            (UID, "1"),
            ("impersonate-extra-scope", "all"),
        ] {
            let error = impersonate(&only, robot(), &headers(&[(USER, "bob"), more])).await;
            assert_eq!(error.unwrap_err().code(), 403, "{more:?}");
        }
        let error = impersonate(&only, robot(), &headers(&[(USER, "eve")]))
            .await
            .unwrap_err();
        assert_eq!(error.code(), 403);
    }

    #[tokio::test]
    async fn a_group_without_a_user_is_a_bad_request() {
        let asked = headers(&[(GROUP, "system:masters")]);
        let error = impersonate(&Only("", ""), robot(), &asked)
            .await
            .unwrap_err();
        assert_eq!(error.code(), 400);
    }

    #[tokio::test]
    async fn an_impersonated_service_account_is_in_its_groups() {
        let only = Only("serviceaccounts", "sa");
        let asked = headers(&[(USER, "system:serviceaccount:ns:sa")]);
        let user = impersonate(&only, robot(), &asked).await.unwrap();
        assert_eq!(
            user.groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                AUTHENTICATED
            ]
        );
    }

    #[tokio::test]
    async fn nobody_is_impersonated_without_the_headers() {
        let user = impersonate(&Only("", ""), robot(), &HeaderMap::new())
            .await
            .unwrap();
        assert_eq!(user, robot());
    }
}
