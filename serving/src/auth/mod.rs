//! Who asks, and may they?
//!
//! Both answers belong to kube-apiserver: it vouches for users by its
//! front-proxy certificate, reviews tokens, and decides by SubjectAccessReview.
//! What it cannot be asked is refused. [`Authenticator::standalone`] and
//! [`MastersOnly`] serve where there is no kube-apiserver at all.

mod attributes;
mod authenticator;
mod authorizer;
mod certificate;
mod client;
mod front_proxy;
mod impersonation;
mod token;
mod user;

pub use attributes::{Attributes, Requirement, ResourceAttributes, Target};
pub use authenticator::{Authenticator, DelegatedOptions};
pub use authorizer::{Authorizer, Decision, DelegatedAuthorizer, MastersOnly, authorize};
pub use client::kube_client;
pub use impersonation::impersonate;
pub use user::UserInfo;

pub(crate) use certificate::Verdict;
