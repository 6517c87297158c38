//! The `scale` subresource: an `autoscaling/v1` Scale as a view of any object.

use serde_json::Value;

use crate::error::ApiError;
use crate::field::FieldError;
use crate::object::{self, Object};

/// `apiVersion` of a Scale.
pub const API_VERSION: &str = "autoscaling/v1";
/// Kind of a Scale.
pub const KIND: &str = "Scale";

/// Where in the hub a Scale's values are, as JSON pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas: `/spec/replicas`.
    pub spec_replicas: &'static str,
    /// Replicas that exist: `/status/replicas`.
    pub status_replicas: &'static str,
    /// Label selector of the pods, serialized: `/status/selector`.
    pub label_selector: &'static str,
}

/// The Scale of a hub object, with its name, uid and resourceVersion.
#[must_use]
pub fn to_scale(hub: &Object, paths: &ScalePaths) -> Object {
    let mut metadata = Object::new();
    for member in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(text) = object::metadata_text(hub, member) {
            metadata.insert(member.to_owned(), Value::from(text));
        }
    }
    let mut spec = Object::new();
    let desired = integer(hub, paths.spec_replicas);
    if desired != 0 {
        spec.insert("replicas".to_owned(), Value::from(desired));
    }
    let mut status = Object::new();
    status.insert(
        "replicas".to_owned(),
        Value::from(integer(hub, paths.status_replicas)),
    );
    let selector = object::pointer(hub, paths.label_selector).and_then(Value::as_str);
    if let Some(selector) = selector.filter(|text| !text.is_empty()) {
        status.insert("selector".to_owned(), Value::from(selector));
    }
    let mut scale = Object::new();
    object::set_type(&mut scale, API_VERSION, KIND);
    scale.insert("metadata".to_owned(), Value::Object(metadata));
    scale.insert("spec".to_owned(), Value::Object(spec));
    scale.insert("status".to_owned(), Value::Object(status));
    scale
}

fn integer(hub: &Object, pointer: &str) -> i64 {
    object::pointer(hub, pointer)
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// Writes a Scale's desired replicas, and its resourceVersion as a precondition, into the hub.
///
/// # Errors
/// 400 if the body is no Scale.
pub fn apply_scale(hub: &mut Object, scale: &Object, paths: &ScalePaths) -> Result<(), ApiError> {
    check_type(scale)?;
    let replicas = desired_replicas(scale)?;
    object::set_pointer(hub, paths.spec_replicas, Value::from(replicas));
    Ok(())
}

/// The replicas that a Scale asks for; absent is 0.
///
/// # Errors
/// 400 if it is no 32-bit integer.
pub fn desired_replicas(scale: &Object) -> Result<i32, ApiError> {
    match object::pointer(scale, "/spec/replicas") {
        None => Ok(0),
        Some(value) => value.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| {
            ApiError::bad_request(
                "json: cannot unmarshal value into Go struct field ScaleSpec.spec.replicas of type int32",
            )
        }),
    }
}

fn check_type(scale: &Object) -> Result<(), ApiError> {
    let api_version = object::api_version(scale).unwrap_or_default();
    let kind = object::kind(scale).unwrap_or_default();
    let fits = |actual: &str, wanted: &str| actual.is_empty() || actual == wanted;
    if fits(api_version, API_VERSION) && fits(kind, KIND) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "wrong object passed to scale, expected apiVersion={API_VERSION}, kind={KIND}, \
         got apiVersion={api_version}, kind={kind}"
    )))
}

/// The rules of a Scale by itself.
#[must_use]
pub fn validate(scale: &Object) -> Vec<FieldError> {
    match desired_replicas(scale) {
        Ok(replicas) if replicas < 0 => vec![FieldError::invalid(
            "spec.replicas",
            replicas,
            "must be greater than or equal to 0",
        )],
        _ => vec![],
    }
}
