//! The one file that decides HTTP codes, Status reasons and the wording of errors.
//!
//! What the client reads (`status`) and what the log reads (`internal`) are two fields: a message
//! that would tell a client about the inside of the server never enters the Status.

use std::borrow::Cow;

use crate::field::FieldError;
use crate::names::{GroupKind, GroupResource};
use crate::quote::quote;

mod status;

pub use status::{Reason, Status, StatusCause, StatusDetails, StatusMetadata};

use status::details_of;

/// A failure of an API request: what the client is told, and what only the log is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.status.message)]
pub struct ApiError(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    status: Status,
    internal: Option<String>,
}

fn retry_details(retry_after_seconds: u32) -> StatusDetails {
    StatusDetails {
        retry_after_seconds,
        ..StatusDetails::default()
    }
}

/// How a client is told that it wrote over a state that it had not seen.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl ApiError {
    fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        let status = Status {
            message: message.into(),
            reason: Some(reason),
            code,
            ..Status::bare("Failure")
        };
        Self(Box::new(Parts {
            status,
            internal: None,
        }))
    }

    fn with_details(mut self, details: StatusDetails) -> Self {
        self.0.status.details = Some(details);
        self
    }

    /// The request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// The credentials given are none that the server knows.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// The user may not do this; `resource` is empty for paths outside every resource.
    #[must_use]
    pub fn forbidden(resource: &GroupResource, name: &str, message: &str) -> Self {
        let text = if resource.is_empty() {
            format!("forbidden: {message}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {message}")
        } else {
            format!("{resource} {} is forbidden: {message}", quote(name))
        };
        Self::new(403, Reason::Forbidden, text).with_details(details_of(resource, name))
    }

    /// Nothing may be created in a namespace that is going away.
    #[must_use]
    pub fn namespace_terminating(resource: &GroupResource, name: &str, namespace: &str) -> Self {
        let message = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        Self::forbidden(resource, name, &message).with_cause(StatusCause {
            reason: Cow::Borrowed("NamespaceTerminating"),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        })
    }

    /// No object of that name.
    #[must_use]
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            404,
            Reason::NotFound,
            format!("{resource} {} not found", quote(name)),
        )
        .with_details(details_of(resource, name))
    }

    /// No such path: nothing is served there.
    #[must_use]
    pub fn generic_not_found() -> Self {
        Self::new(
            404,
            Reason::NotFound,
            "the server could not find the requested resource",
        )
        .with_details(StatusDetails::default())
    }

    /// The name is taken.
    #[must_use]
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            409,
            Reason::AlreadyExists,
            format!("{resource} {} already exists", quote(name)),
        )
        .with_details(details_of(resource, name))
    }

    /// Every generated name that was tried is taken; the client may try again at once.
    #[must_use]
    pub fn generate_name_conflict(resource: &GroupResource, name: &str) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        let details = StatusDetails {
            retry_after_seconds: 1,
            ..details_of(resource, name)
        };
        Self::new(409, Reason::AlreadyExists, message).with_details(details)
    }

    /// The write contradicts the state of the object.
    #[must_use]
    pub fn conflict(resource: &GroupResource, name: &str, message: &str) -> Self {
        let text = format!(
            "Operation cannot be fulfilled on {resource} {}: {message}",
            quote(name)
        );
        Self::new(409, Reason::Conflict, text).with_details(details_of(resource, name))
    }

    /// The client wrote over a state that it had not seen: the stock conflict.
    #[must_use]
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(resource, name, MODIFIED)
    }

    /// The object breaks rules; all of them are told at once.
    #[must_use]
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let mut message = format!("{kind} {} is invalid", quote(name));
        let texts = distinct_texts(errors);
        match texts.as_slice() {
            [] => {}
            [only] => message.extend([": ", only]),
            several => message.extend([": [", &several.join(", "), "]"]),
        }
        let causes = errors.iter().map(cause_of).collect();
        let details = StatusDetails {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes,
            ..StatusDetails::default()
        };
        Self::new(422, Reason::Invalid, message).with_details(details)
    }

    /// The request is well-formed but cannot be carried out; no single field is to blame.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, Reason::Invalid, message).with_details(StatusDetails::default())
    }

    /// The resource exists but does not know the verb.
    #[must_use]
    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {}",
            quote(&resource.to_string())
        );
        Self::new(405, Reason::MethodNotAllowed, message).with_details(details_of(resource, ""))
    }

    /// No representation that the client accepts can be served.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            accepted.join(", ")
        );
        Self::new(406, Reason::NotAcceptable, message)
    }

    /// The body is in a format that is not understood here.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// What was asked for lies before the retained history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// The body exceeds a limit.
    #[must_use]
    pub fn request_entity_too_large(message: &str) -> Self {
        Self::new(
            413,
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: {message}"),
        )
    }

    /// The client must slow down.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message)
            .with_details(retry_details(retry_after_seconds))
    }

    /// The request took too long; it may still complete.
    #[must_use]
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}"))
            .with_details(retry_details(retry_after_seconds))
    }

    /// The client asked for a revision that has not been assigned yet.
    #[must_use]
    pub fn too_large_resource_version(asked: i64, current: i64) -> Self {
        Self::timeout(
            &format!("Too large resource version: {asked}, current: {current}"),
            1,
        )
        .with_cause(StatusCause {
            reason: Cow::Borrowed("ResourceVersionTooLarge"),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        })
    }

    /// The server cannot answer now and nothing was done.
    pub fn service_unavailable(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
            .with_details(retry_details(retry_after_seconds))
    }

    /// The server failed. `log_message` is for the log alone.
    pub fn internal(log_message: impl Into<String>) -> Self {
        Self::new(
            500,
            Reason::InternalError,
            "Internal error occurred: the server could not complete the request",
        )
        .with_details(StatusDetails::default())
        .with_internal(log_message)
    }

    /// What is stored of the object cannot be read, or is not what was written.
    #[must_use]
    pub fn store_read_error(resource: &GroupResource, name: &str) -> Self {
        let message = format!("failed to read {resource} {} from the storage", quote(name));
        Self::new(500, Reason::StorageReadError, message)
            .with_details(details_of(resource, name))
            .with_cause(StatusCause {
                reason: Cow::Borrowed("UnexpectedServerResponse"),
                message: "the stored object is lost, damaged or cannot be decoded".to_owned(),
                field: String::new(),
            })
    }

    /// Adds what only the log is told.
    #[must_use]
    pub fn with_internal(mut self, log_message: impl Into<String>) -> Self {
        self.0.internal = Some(log_message.into());
        self
    }

    /// Adds a cause to the details.
    #[must_use]
    pub fn with_cause(mut self, cause: StatusCause) -> Self {
        self.0
            .status
            .details
            .get_or_insert_default()
            .causes
            .push(cause);
        self
    }

    /// Adds the token with which a client may go on with an expired list.
    #[must_use]
    pub fn with_continue(mut self, token: impl Into<String>) -> Self {
        self.0.status.metadata.continue_token = token.into();
        self
    }

    /// What the client is told.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// What only the log is told.
    #[must_use]
    pub fn internal_message(&self) -> Option<&str> {
        self.0.internal.as_deref()
    }

    /// The Status, to be encoded.
    #[must_use]
    pub fn into_status(self) -> Status {
        self.0.status
    }

    /// HTTP code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.0.status.code
    }

    /// Class of the failure.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.0.status.reason
    }

    /// Seconds for the `Retry-After` header, where one is due.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        let seconds = self.0.status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then_some(seconds)
    }
}

fn cause_of(error: &FieldError) -> StatusCause {
    StatusCause {
        reason: Cow::Borrowed(error.kind.cause()),
        message: error.body(),
        field: error.field.clone(),
    }
}

fn distinct_texts(errors: &[FieldError]) -> Vec<String> {
    let mut seen = std::collections::HashSet::with_capacity(errors.len());
    errors
        .iter()
        .map(ToString::to_string)
        .filter(|text| seen.insert(text.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn widgets() -> GroupResource {
        GroupResource::new("custom.example.com", "widgets")
    }

    #[test]
    fn not_found_has_upstreams_shape() {
        let body =
            serde_json::to_value(ApiError::not_found(&widgets(), "a").into_status()).unwrap();
        assert_eq!(
            body,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "widgets.custom.example.com \"a\" not found", "reason": "NotFound",
                "details": {"name": "a", "group": "custom.example.com", "kind": "widgets"}, "code": 404
            })
        );
    }

    #[test]
    fn a_final_delete_is_a_success_without_code_and_reason() {
        let body = serde_json::to_value(Status::deleted(&widgets(), "a", "u-1")).unwrap();
        assert_eq!(
            body,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": "a", "group": "custom.example.com", "kind": "widgets", "uid": "u-1"}
            })
        );
    }

    #[test]
    fn invalid_tells_every_error_once_in_the_message_and_each_as_a_cause() {
        let kind = GroupKind::new("custom.example.com", "Widget");
        let first = FieldError::invalid("spec.replicas", 101, "replicas cannot exceed 100");
        let second = FieldError::required("spec.image", "");
        let error = ApiError::invalid(&kind, "w", &[first.clone(), second, first]);
        assert_eq!(
            error.to_string(),
            "Widget.custom.example.com \"w\" is invalid: [spec.replicas: Invalid value: 101: \
             replicas cannot exceed 100, spec.image: Required value]"
        );
        let details = error.status().details.as_ref().unwrap();
        assert_eq!(details.causes.len(), 3);
        assert_eq!(details.causes[0].reason, "FieldValueInvalid");
        assert_eq!(details.causes[0].field, "spec.replicas");
        assert_eq!((error.code(), error.reason()), (422, Some(Reason::Invalid)));
    }

    #[test]
    fn one_field_error_stands_without_brackets() {
        let kind = GroupKind::new("", "Pod");
        let error = ApiError::invalid(&kind, "", &[FieldError::required("metadata.name", "no")]);
        assert_eq!(
            error.to_string(),
            "Pod \"\" is invalid: metadata.name: Required value: no"
        );
        assert_eq!(
            ApiError::invalid(&kind, "p", &[]).to_string(),
            "Pod \"p\" is invalid"
        );
    }

    #[test]
    fn a_future_revision_is_a_timeout_with_a_cause_and_a_retry() {
        let error = ApiError::too_large_resource_version(12, 10);
        assert_eq!(
            error.to_string(),
            "Timeout: Too large resource version: 12, current: 10"
        );
        assert_eq!((error.code(), error.retry_after()), (504, Some(1)));
        assert_eq!(
            error.status().details.as_ref().unwrap().causes[0].reason,
            "ResourceVersionTooLarge"
        );
    }

    #[test]
    fn forbidden_names_what_it_can() {
        let nothing = GroupResource::new("", "");
        assert_eq!(
            ApiError::forbidden(&nothing, "", "no").to_string(),
            "forbidden: no"
        );
        assert_eq!(
            ApiError::forbidden(&widgets(), "", "no").to_string(),
            "widgets.custom.example.com is forbidden: no"
        );
        let terminating = ApiError::namespace_terminating(&widgets(), "w", "old");
        assert_eq!(
            terminating.to_string(),
            "widgets.custom.example.com \"w\" is forbidden: unable to create new content in \
             namespace old because it is being terminated"
        );
        assert_eq!(
            terminating.status().details.as_ref().unwrap().causes[0].reason,
            "NamespaceTerminating"
        );
    }

    #[test]
    fn what_only_the_log_reads_is_not_in_the_status() {
        let error = ApiError::internal("password of the database is wrong");
        assert_eq!(
            error.internal_message(),
            Some("password of the database is wrong")
        );
        assert!(
            !serde_json::to_string(error.status())
                .unwrap()
                .contains("password")
        );
    }

    #[test]
    fn a_status_survives_its_encoding() {
        let status = ApiError::expired("too old")
            .with_continue("abc")
            .into_status();
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
