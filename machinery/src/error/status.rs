//! Kubernetes' `Status` object, the body of every failure.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::GroupResource;

/// Machine-readable class of a failure, as in `status.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is Kubernetes' own word for itself")]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    StorageReadError,
    Expired,
    ServiceUnavailable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One cause of a failure, usually one field's error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCause {
    /// Cause type, such as `FieldValueInvalid`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// Text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field, if the cause is about one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What a Status is about, for machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub group: Cow<'static, str>,
    /// Resource, or kind where upstream says so.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Cow<'static, str>,
    /// Object's uid, in the answer to a final delete.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The parts of the failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds to wait before the next try; 0 says nothing.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// List metadata of a Status: an expired list says here how to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusMetadata {
    /// Token with which the client may go on inconsistently.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    /// Revision to which the Status belongs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
}

/// Kubernetes' `Status` object: the body of every failure and of some successes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    pub kind: Cow<'static, str>,
    /// Always `v1`.
    pub api_version: Cow<'static, str>,
    /// See [`StatusMetadata`].
    #[serde(default)]
    pub metadata: StatusMetadata,
    /// `Success` or `Failure`.
    pub status: Cow<'static, str>,
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Class of the failure; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// See [`StatusDetails`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// HTTP code; 0 (absent) where upstream leaves it out.
    #[serde(default, skip_serializing_if = "is_zero_code")]
    pub code: u16,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands references to predicates"
)]
fn is_zero(seconds: &u32) -> bool {
    *seconds == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands references to predicates"
)]
fn is_zero_code(code: &u16) -> bool {
    *code == 0
}

impl Status {
    /// The answer to a delete that removed the object.
    #[must_use]
    pub fn deleted(resource: &GroupResource, name: &str, uid: &str) -> Self {
        let mut details = details_of(resource, name);
        uid.clone_into(&mut details.uid);
        Self {
            details: Some(details),
            ..Self::bare("Success")
        }
    }

    pub(super) fn bare(status: &'static str) -> Self {
        Self {
            kind: Cow::Borrowed("Status"),
            api_version: Cow::Borrowed("v1"),
            metadata: StatusMetadata::default(),
            status: Cow::Borrowed(status),
            message: String::new(),
            reason: None,
            details: None,
            code: 0,
        }
    }
}

pub(super) fn details_of(resource: &GroupResource, name: &str) -> StatusDetails {
    StatusDetails {
        name: name.to_owned(),
        group: resource.group.clone(),
        kind: resource.resource.clone(),
        ..StatusDetails::default()
    }
}
