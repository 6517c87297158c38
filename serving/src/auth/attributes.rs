//! What authorization decides about.

use machinery::error::ApiError;
use machinery::names::GroupResource;
use machinery::quote::quote;

use super::user::UserInfo;

/// One request, as far as its permission depends on it. Two requests that
/// differ anywhere here never share a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Who asks.
    pub user: UserInfo,
    /// Kubernetes' verb, or the method in lower case for a path.
    pub verb: String,
    /// What is asked for.
    pub target: Target,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Something that is no resource: discovery, OpenAPI, health, metrics.
    Path(String),
    /// A resource.
    Resource(Box<ResourceAttributes>),
}

/// A resource and the part of it that is asked for; empty means all, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ResourceAttributes {
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, such as `status`.
    pub subresource: String,
    /// Namespace; empty for all, and for resources without.
    pub namespace: String,
    /// Object's name; for lists and watches of one name, that name.
    pub name: String,
    /// The field selector's requirements.
    pub field_selector: Vec<Requirement>,
    /// The label selector's requirements.
    pub label_selector: Vec<Requirement>,
}

/// One requirement of a selector in Kubernetes' structured form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Field path or label key.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    pub values: Vec<String>,
}

impl Attributes {
    /// Attributes of a request for a path.
    #[must_use]
    pub fn path(user: UserInfo, verb: &str, path: &str) -> Self {
        Self {
            user,
            verb: verb.to_owned(),
            target: Target::Path(path.to_owned()),
        }
    }

    /// The 403 in upstream's words, with the authorizer's `reason` at the end.
    #[must_use]
    pub fn forbidden(&self, reason: &str) -> ApiError {
        let who = format!("User {} cannot {}", quote(&self.user.name), self.verb);
        let (resource, name, mut message) = match &self.target {
            Target::Path(path) => {
                let message = format!("{who} path {}", quote(path));
                (GroupResource::new("", ""), "", message)
            }
            Target::Resource(target) => {
                let slash = if target.subresource.is_empty() {
                    ""
                } else {
                    "/"
                };
                let whole = format!("{}{slash}{}", target.resource, target.subresource);
                let scope = match target.namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {}", quote(namespace)),
                };
                let (whole, group) = (quote(&whole), quote(&target.group));
                let message = format!("{who} resource {whole} in API group {group} {scope}");
                let resource = GroupResource::new(target.group.clone(), target.resource.clone());
                (resource, target.name.as_str(), message)
            }
        };
        if !reason.is_empty() {
            message.push_str(": ");
            message.push_str(reason);
        }
        ApiError::forbidden(&resource, name, &message)
    }

    /// Bytes that the caller chose, which bound what a cache may keep.
    pub(super) fn size(&self) -> usize {
        let user = &self.user;
        let extra = user
            .extra
            .iter()
            .map(|(key, values)| key.len() + length(values));
        let who = user.name.len() + user.uid.len() + length(&user.groups) + extra.sum::<usize>();
        let what = match &self.target {
            Target::Path(path) => path.len(),
            Target::Resource(target) => {
                let requirements = target.field_selector.iter().chain(&target.label_selector);
                let selectors = requirements
                    .map(|one| one.key.len() + one.operator.len() + length(&one.values));
                target.namespace.len()
                    + target.name.len()
                    + target.resource.len()
                    + target.subresource.len()
                    + target.group.len()
                    + target.version.len()
                    + selectors.sum::<usize>()
            }
        };
        who + what + self.verb.len()
    }
}

fn length(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserInfo {
        UserInfo {
            name: name.into(),
            ..UserInfo::default()
        }
    }

    #[test]
    fn refusals_speak_as_kube_apiserver_does() {
        let resource = |subresource: &str, namespace: &str, name: &str| Attributes {
            user: user("alice"),
            verb: "get".into(),
            target: Target::Resource(Box::new(ResourceAttributes {
                group: "g.io".into(),
                version: "v1".into(),
                resource: "things".into(),
                subresource: subresource.into(),
                namespace: namespace.into(),
                name: name.into(),
                ..ResourceAttributes::default()
            })),
        };
        for (attributes, message) in [
            (
                resource("", "", ""),
                "things.g.io is forbidden: User \"alice\" cannot get resource \"things\" in API \
                 group \"g.io\" at the cluster scope: no",
            ),
            (
                resource("status", "default", "x"),
                "things.g.io \"x\" is forbidden: User \"alice\" cannot get resource \
                 \"things/status\" in API group \"g.io\" in the namespace \"default\": no",
            ),
            (
                Attributes::path(user("alice"), "get", "/metrics"),
                "forbidden: User \"alice\" cannot get path \"/metrics\": no",
            ),
        ] {
            let error = attributes.forbidden("no");
            assert_eq!(error.status().message, message);
            assert_eq!(error.code(), 403);
        }
    }
}
