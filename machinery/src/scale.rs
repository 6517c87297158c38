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

/// Writes a Scale's desired replicas into the hub.
///
/// # Errors
/// 400 if the body is no Scale.
pub fn apply_scale(hub: &mut Object, scale: &Object, paths: &ScalePaths) -> Result<(), ApiError> {
    check_type(scale)?;
    let replicas = desired_replicas(scale)?;
    object::set_pointer(hub, paths.spec_replicas, Value::from(replicas));
    Ok(())
}

/// The replicas that a Scale asks for; absent is 0, as 0 is left out when a Scale is written.
///
/// # Errors
/// 400 if `spec` is no object or holds no 32-bit integer.
pub fn desired_replicas(scale: &Object) -> Result<i32, ApiError> {
    let spec = match scale.get("spec") {
        None | Some(Value::Null) => return Ok(0),
        Some(Value::Object(spec)) => spec,
        Some(other) => return Err(mismatch(other, "Scale.spec", "v1.ScaleSpec")),
    };
    match spec.get("replicas") {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .ok_or_else(|| mismatch(value, "ScaleSpec.spec.replicas", "int32")),
    }
}

fn mismatch(value: &Value, field: &str, wanted: &str) -> ApiError {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    ApiError::bad_request(format!(
        "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {found} into \
         Go struct field {field} of type {wanted}"
    ))
}

fn check_type(scale: &Object) -> Result<(), ApiError> {
    let text = |member: &str| match scale.get(member) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(mismatch(other, &format!("Scale.{member}"), "string")),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let fits = |actual: &str, wanted: &str| actual.is_empty() || actual == wanted;
    if !fits(api_version, API_VERSION) || !fits(kind, KIND) {
        return Err(ApiError::bad_request(format!(
            "wrong object passed to scale: expected apiVersion={API_VERSION}, kind={KIND}, got \
             apiVersion={api_version}, kind={kind}"
        )));
    }
    match scale.get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(other) => Err(mismatch(other, "Scale.metadata", "v1.ObjectMeta")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const PATHS: ScalePaths = ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        label_selector: "/status/selector",
    };

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_scale_shows_the_object_behind_it() {
        let hub = object(json!({
            "metadata": {
                "name": "w", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "T", "labels": {"a": "b"}, "generation": 3
            },
            "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "a=b"}
        }));
        assert_eq!(
            Value::Object(to_scale(&hub, &PATHS)),
            json!({
                "apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {
                    "name": "w", "namespace": "n", "uid": "u", "resourceVersion": "7",
                    "creationTimestamp": "T"
                },
                "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "a=b"}
            })
        );
    }

    #[test]
    fn no_replicas_are_left_out_of_spec_and_not_of_status() {
        let hub = object(json!({"metadata": {"name": "w"}, "spec": {"replicas": 0}}));
        let scale = to_scale(&hub, &PATHS);
        assert_eq!(scale.get("spec"), Some(&json!({})));
        assert_eq!(scale.get("status"), Some(&json!({"replicas": 0})));
    }

    #[test]
    fn only_a_scale_scales() {
        for body in [
            json!({"kind": "Pod"}),
            json!({"apiVersion": "autoscaling/v2"}),
            json!({"kind": 1}),
            json!({"metadata": []}),
            json!({"spec": "x"}),
            json!({"spec": {"replicas": "3"}}),
            json!({"spec": {"replicas": 1.5}}),
            json!({"spec": {"replicas": 2_147_483_648_i64}}),
        ] {
            let mut hub = object(json!({"spec": {"replicas": 1}}));
            let before = hub.clone();
            let error = apply_scale(&mut hub, &object(body.clone()), &PATHS).unwrap_err();
            assert_eq!(error.code(), 400, "{body}");
            assert_eq!(hub, before);
        }
    }

    #[test]
    fn a_negative_scale_is_invalid() {
        let errors = validate(&object(json!({"spec": {"replicas": -1}})));
        assert_eq!(
            errors[0].to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert!(validate(&object(json!({"spec": {}}))).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_scaled_is_shown(replicas in 0..=i32::MAX, before in 0..=i32::MAX) {
            let mut hub = object(json!({"spec": {"replicas": before, "color": "blue"}}));
            let scale = object(json!({"spec": {"replicas": replicas}}));
            apply_scale(&mut hub, &scale, &PATHS).unwrap();
            prop_assert_eq!(desired_replicas(&to_scale(&hub, &PATHS)).unwrap(), replicas);
            prop_assert_eq!(object::pointer(&hub, "/spec/color"), Some(&json!("blue")));
        }
    }
}
