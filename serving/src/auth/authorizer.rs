//! May they? kube-apiserver decides, and its word stands for ten seconds.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authorization::v1::{
    FieldSelectorAttributes, LabelSelectorAttributes, NonResourceAttributes,
    ResourceAttributes as ReviewedResource, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldSelectorRequirement, LabelSelectorRequirement,
};
use kube::Api;
use kube::api::PostParams;
use machinery::error::ApiError;
use moka::future::Cache;

use super::attributes::{Attributes, Requirement, ResourceAttributes, Target};
use super::client::review;
use super::user::MASTERS;

/// How long a decision stands, whichever it was, as upstream.
const TTL: Duration = Duration::from_secs(10);
const CAPACITY: u64 = 8192;
/// Requests with more of the caller's own bytes than this are asked about
/// every time, so that nobody fills the cache with giants.
const LARGEST_CACHED: usize = 10_000;
/// Paths that anybody may see, even one whom kube-apiserver cannot judge now.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// An authorizer's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The request may go on.
    Allow,
    /// It may not, for this reason (which may be empty).
    Deny(String),
}

/// Decides about requests.
pub trait Authorizer: Send + Sync {
    /// The decision, or a 500 when it cannot be had. Ask [`authorize`] instead,
    /// which knows what needs no decision.
    fn decide<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, ApiError>>;
}

/// Passes what `authorizer` allows, `system:masters`, and the health and
/// version paths; everything else is a 403 in upstream's words.
pub async fn authorize(
    authorizer: &dyn Authorizer,
    attributes: &Attributes,
) -> Result<(), ApiError> {
    if attributes.user.is_in(MASTERS) {
        return Ok(());
    }
    if let Target::Path(path) = &attributes.target
        && OPEN_PATHS.contains(&path.as_str())
    {
        return Ok(());
    }
    match authorizer.decide(attributes).await? {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(attributes.forbidden(&reason)),
    }
}

/// Nobody but `system:masters`: for a server without a cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct MastersOnly;

impl Authorizer for MastersOnly {
    fn decide<'a>(
        &'a self,
        _attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, ApiError>> {
        Box::pin(async { Ok(Decision::Deny(String::new())) })
    }
}

/// Asks kube-apiserver by SubjectAccessReview.
pub struct DelegatedAuthorizer {
    client: kube::Client,
    decisions: Cache<Attributes, Decision>,
}

impl std::fmt::Debug for DelegatedAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DelegatedAuthorizer")
    }
}

impl DelegatedAuthorizer {
    /// Asks through `client`.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        let decisions = Cache::builder()
            .max_capacity(CAPACITY)
            .time_to_live(TTL)
            .build();
        Self { client, decisions }
    }

    async fn ask(&self, attributes: &Attributes) -> Result<Decision, String> {
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let question = question(attributes);
        let answer = review(api.create(&PostParams::default(), &question)).await?;
        Ok(decision(answer.status.unwrap_or_default()))
    }

    async fn cached(&self, attributes: &Attributes) -> Result<Decision, String> {
        if attributes.size() > LARGEST_CACHED {
            return self.ask(attributes).await;
        }
        if let Some(decision) = self.decisions.get(attributes).await {
            return Ok(decision);
        }
        // Requests that ask the same at the same time wait for one answer.
        self.decisions
            .try_get_with_by_ref(attributes, self.ask(attributes))
            .await
            .map_err(|error| error.as_ref().clone())
    }
}

impl Authorizer for DelegatedAuthorizer {
    fn decide<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, ApiError>> {
        Box::pin(async move {
            self.cached(attributes).await.map_err(|error| {
                ApiError::internal("the request could not be authorized").with_internal(error)
            })
        })
    }
}

fn decision(status: SubjectAccessReviewStatus) -> Decision {
    if status.allowed && status.denied != Some(true) {
        return Decision::Allow;
    }
    Decision::Deny(status.reason.unwrap_or_default())
}

fn question(attributes: &Attributes) -> SubjectAccessReview {
    let user = &attributes.user;
    let mut spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: text(&user.uid),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()),
        ..SubjectAccessReviewSpec::default()
    };
    let verb = Some(attributes.verb.clone());
    match &attributes.target {
        Target::Path(path) => {
            let path = Some(path.clone());
            spec.non_resource_attributes = Some(NonResourceAttributes { path, verb });
        }
        Target::Resource(target) => {
            spec.resource_attributes = Some(reviewed_resource(target, verb));
        }
    }
    SubjectAccessReview {
        spec,
        ..SubjectAccessReview::default()
    }
}

fn reviewed_resource(target: &ResourceAttributes, verb: Option<String>) -> ReviewedResource {
    let fields = requirements(&target.field_selector, |key, operator, values| {
        FieldSelectorRequirement {
            key,
            operator,
            values,
        }
    });
    let labels = requirements(&target.label_selector, |key, operator, values| {
        LabelSelectorRequirement {
            key,
            operator,
            values,
        }
    });
    ReviewedResource {
        verb,
        group: text(&target.group),
        version: text(&target.version),
        resource: text(&target.resource),
        subresource: text(&target.subresource),
        namespace: text(&target.namespace),
        name: text(&target.name),
        field_selector: fields.map(|requirements| FieldSelectorAttributes {
            requirements: Some(requirements),
            ..FieldSelectorAttributes::default()
        }),
        label_selector: labels.map(|requirements| LabelSelectorAttributes {
            requirements: Some(requirements),
            ..LabelSelectorAttributes::default()
        }),
    }
}

fn requirements<T>(
    selector: &[Requirement],
    build: impl Fn(String, String, Option<Vec<String>>) -> T,
) -> Option<Vec<T>> {
    let build = |one: &Requirement| {
        let values = (!one.values.is_empty()).then(|| one.values.clone());
        build(one.key.clone(), one.operator.clone(), values)
    };
    (!selector.is_empty()).then(|| selector.iter().map(build).collect())
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UserInfo;

    #[test]
    fn denied_beats_allowed() {
        let status = |allowed, denied| SubjectAccessReviewStatus {
            allowed,
            denied,
            ..SubjectAccessReviewStatus::default()
        };
        assert_eq!(decision(status(true, None)), Decision::Allow);
        assert_eq!(decision(status(true, Some(false))), Decision::Allow);
        assert_eq!(
            decision(status(true, Some(true))),
            Decision::Deny(String::new())
        );
        assert_eq!(decision(status(false, None)), Decision::Deny(String::new()));
    }

    #[tokio::test]
    async fn masters_and_health_need_no_decision() {
        let user = |group: &str| UserInfo {
            name: "u".into(),
            groups: vec![group.into()],
            ..UserInfo::default()
        };
        for (user, path, passes) in [
            (user("system:masters"), "/metrics", true),
            (user("dev"), "/metrics", false),
            (user("dev"), "/healthz", true),
            (UserInfo::anonymous(), "/readyz", true),
            (UserInfo::anonymous(), "/version", true),
            (UserInfo::anonymous(), "/healthz/", false),
            (UserInfo::anonymous(), "/version/../metrics", false),
        ] {
            let attributes = Attributes::path(user, "get", path);
            let result = authorize(&MastersOnly, &attributes).await;
            assert_eq!(result.is_ok(), passes, "{attributes:?}");
        }
    }
}
