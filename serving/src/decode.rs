//! From a request body to an object of the version that the URL names.

use machinery::{Object, codec, error::ApiError, negotiate::Format};
use serde_json::Value;

use crate::view::Version;

/// A decoded body with what a strict reader would refuse in it.
pub struct Input {
    /// The object: types checked, unknown fields pruned, not yet defaulted.
    pub object: Object,
    /// `unknown field "spec.x"`, `duplicate field "spec.y"`.
    pub problems: Vec<String>,
}

/// Decodes a body as an object of a version.
///
/// # Errors
///
/// 400 when it is no such object.
pub fn decode_object(version: Version<'_>, format: Format, body: &[u8]) -> Result<Input, ApiError> {
    let decoded = codec::decode(format, body)?;
    let duplicates = decoded
        .duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"));
    let duplicates: Vec<String> = duplicates.collect();
    let mut object = match decoded.value {
        Value::Object(object) => object,
        Value::Null => Object::new(),
        other => return Err(wrong_shape(version, &other)),
    };
    check_kind(version, &mut object)?;
    check_types(version, &object)?;
    let mut problems = prune(version, &mut object);
    problems.extend(duplicates);
    Ok(Input { object, problems })
}

/// Refuses values of the wrong type.
///
/// # Errors
///
/// 400 naming the field.
pub fn check_types(version: Version<'_>, object: &Object) -> Result<(), ApiError> {
    version
        .info
        .schema
        .check_types(object, &version.resource.group_version_kind(version.info))
}

/// Drops the fields that the version does not know, and tells of each.
pub fn prune(version: Version<'_>, object: &mut Object) -> Vec<String> {
    let unknown = version.info.schema.prune(object);
    unknown
        .iter()
        .map(|path| format!("unknown field {path:?}"))
        .collect()
}

/// An absent kind or version is the one of the URL; another is refused.
///
/// # Errors
///
/// 400 naming both.
pub fn check_kind(version: Version<'_>, object: &mut Object) -> Result<(), ApiError> {
    let text = |member: &str| {
        object
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let expected = version.api_version();
    if !api_version.is_empty() && api_version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if !kind.is_empty() && kind != version.resource.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: no kind {kind:?} is registered for version {expected:?}",
            version.info.name, version.resource.kind
        )));
    }
    let absent = |member: &str| {
        object
            .get(member)
            .is_none_or(|value| value.is_null() || value == "")
    };
    let (no_version, no_kind) = (absent("apiVersion"), absent("kind"));
    if no_version {
        object.insert("apiVersion".to_owned(), Value::from(expected));
    }
    if no_kind {
        object.insert("kind".to_owned(), Value::from(version.resource.kind));
    }
    Ok(())
}

fn wrong_shape(version: Version<'_>, value: &Value) -> ApiError {
    let shape = match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        _ => "number",
    };
    let (kind, name) = (version.resource.kind, version.info.name);
    ApiError::bad_request(format!(
        "{kind} in version {name:?} cannot be handled as a {kind}: json: cannot unmarshal {shape} into Go value of type {name}.{kind}"
    ))
}

/// The error of strict field validation on create and update.
#[must_use]
pub fn strict_error(version: Version<'_>, problems: &[String]) -> ApiError {
    let (kind, name) = (version.resource.kind, version.info.name);
    ApiError::bad_request(format!(
        "{kind} in version {name:?} cannot be handled as a {kind}: {}",
        strict_text(problems)
    ))
}

/// What is wrong for a strict reader, as one sentence.
#[must_use]
pub fn strict_text(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}
