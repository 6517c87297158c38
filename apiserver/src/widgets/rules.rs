//! What a Widget must keep to beyond its shape, over the hub.
//!
//! The schema says nothing of these rules, so that each is told once and in the words of this
//! file.

use machinery::Object;
use machinery::field::{FieldError, FieldPath};
use machinery::label_selector::LabelSelector;
use machinery::object;
use machinery::quantity::Quantity;
use serde_json::{Map, Value};
use widget_conversion::oci::Reference;

const MAX_REPLICAS: i64 = 100;
const MAX_COLOR_WORD: usize = 32;
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// Resources of a container that have names without a domain.
const STANDARD_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Writes a quantity that was given as a number as text, which is what typed clients read.
pub(super) fn normalise(hub: &mut Object) {
    let spec = hub
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("resources"));
    let Some(Value::Object(resources)) = spec else {
        return;
    };
    for list in ["limits", "requests"] {
        let Some(Value::Object(quantities)) = resources.get_mut(list) else {
            continue;
        };
        for quantity in quantities.values_mut() {
            if let Value::Number(number) = quantity {
                *quantity = Value::String(number.to_string());
            }
        }
    }
}

/// Everything that is wrong with a Widget.
pub(super) fn validate(hub: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_spec(hub, &mut errors);
    validate_status(hub, &mut errors);
    errors
}

fn validate_spec(hub: &Object, errors: &mut Vec<FieldError>) {
    if let Some(replicas) = object::pointer(hub, "/spec/replicas").and_then(Value::as_i64) {
        if replicas < 0 {
            errors.push(FieldError::invalid("spec.replicas", replicas, NOT_NEGATIVE));
        } else if replicas > MAX_REPLICAS {
            let detail = "replicas cannot exceed 100";
            errors.push(FieldError::invalid("spec.replicas", replicas, detail));
        }
    }
    if let Some(image) = text(hub, "/spec/image") {
        if image.is_empty() {
            errors.push(FieldError::required("spec.image", ""));
        } else if Reference::parse(image).is_none() {
            let detail = "must be an OCI reference [host[:port]/]path[:tag][@algo:hex]";
            errors.push(FieldError::invalid("spec.image", image, detail));
        }
    }
    if let Some(color) = text(hub, "/spec/color")
        && !is_color(color)
    {
        let detail = "must match ^[a-z]{1,32}$ or ^#[0-9a-f]{6}$";
        errors.push(FieldError::invalid("spec.color", color, detail));
    }
    if let Some(Value::Object(resources)) = object::pointer(hub, "/spec/resources") {
        validate_resources(resources, &FieldPath::new("spec.resources"), errors);
    }
}

fn text<'a>(hub: &'a Object, pointer: &str) -> Option<&'a str> {
    object::pointer(hub, pointer).and_then(Value::as_str)
}

fn is_color(text: &str) -> bool {
    match text.strip_prefix('#') {
        Some(hex) => {
            hex.len() == 6
                && hex
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        }
        None => {
            (1..=MAX_COLOR_WORD).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_lowercase())
        }
    }
}

fn validate_resources(
    resources: &Map<String, Value>,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let limits = resources.get("limits").and_then(Value::as_object);
    let requests = resources.get("requests").and_then(Value::as_object);
    for (name, quantities) in [("limits", limits), ("requests", requests)] {
        for (resource, value) in quantities.into_iter().flatten() {
            validate_quantity(resource, value, &path.child(name).key(resource), errors);
        }
    }
    for (resource, request) in requests.into_iter().flatten() {
        let Some(limit) = limits.and_then(|limits| limits.get(resource)) else {
            continue;
        };
        if let (Some(requested), Some(allowed)) = (read_quantity(request), read_quantity(limit))
            && requested > allowed
        {
            let limit = limit.as_str().unwrap_or_default();
            let detail = format!("must be less than or equal to {resource} limit of {limit}");
            errors.push(FieldError::invalid(
                path.child("requests"),
                request.clone(),
                detail,
            ));
        }
    }
}

fn read_quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn validate_quantity(
    resource: &str,
    value: &Value,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let is_named = STANDARD_RESOURCES.contains(&resource)
        || resource.starts_with("hugepages-")
        || resource.contains('/');
    if !is_named {
        let detail = "must be a standard resource for containers";
        errors.push(FieldError::invalid(path, resource, detail));
    }
    match read_quantity(value) {
        Some(quantity) if quantity.is_negative() => {
            errors.push(FieldError::invalid(path, value.clone(), NOT_NEGATIVE));
        }
        Some(_) => {}
        None => {
            let detail = "quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
            errors.push(FieldError::invalid(path, value.clone(), detail));
        }
    }
}

fn validate_status(hub: &Object, errors: &mut Vec<FieldError>) {
    for name in ["replicas", "availableReplicas", "observedGeneration"] {
        let value = object::pointer(hub, &format!("/status/{name}")).and_then(Value::as_i64);
        if let Some(value) = value.filter(|value| *value < 0) {
            errors.push(FieldError::invalid(
                format!("status.{name}"),
                value,
                NOT_NEGATIVE,
            ));
        }
    }
    if let Some(selector) = text(hub, "/status/selector")
        && let Err(error) = LabelSelector::parse(selector)
    {
        errors.push(FieldError::invalid(
            "status.selector",
            selector,
            error.to_string(),
        ));
    }
    let path = FieldPath::new("status.conditions");
    let conditions = object::pointer(hub, "/status/conditions").and_then(Value::as_array);
    let mut seen = Vec::new();
    for (index, condition) in conditions.into_iter().flatten().enumerate() {
        let path = path.index(index);
        let kind = condition
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if seen.contains(&kind) {
            let mut key = Map::new();
            key.insert("type".to_owned(), Value::from(kind));
            errors.push(FieldError::duplicate(&path, key));
        }
        seen.push(kind);
        validate_condition(condition, &path, errors);
    }
}

fn validate_condition(condition: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    let member = |name: &str| condition.get(name).and_then(Value::as_str);
    for name in ["type", "reason"] {
        if member(name) == Some("") {
            errors.push(FieldError::required(path.child(name), "must be set"));
        }
    }
    if let Some(status) = member("status")
        && !STATUSES.contains(&status)
    {
        errors.push(FieldError::not_supported(
            path.child("status"),
            status,
            &STATUSES,
        ));
    }
}

#[cfg(test)]
mod tests {
    use machinery::lens::Lens;
    use serde_json::json;

    use super::super::Widgets;
    use super::super::lens::V1alpha1;
    use super::*;
    use serving::resource::Resource;

    fn hub(spec: Value, status: Value) -> Object {
        let hub = json!({
            "apiVersion": "custom.example.com/v1", "kind": "Widget",
            "metadata": {"name": "w"}, "spec": spec, "status": status,
        });
        hub.as_object().unwrap().clone()
    }

    fn errors(spec: Value, status: Value) -> Vec<String> {
        validate(&hub(spec, status))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// The errors of a Widget that a v1alpha1 client writes.
    fn old_errors(spec: Value) -> Vec<String> {
        let version = json!({
            "apiVersion": "custom.example.com/v1alpha1", "kind": "Widget",
            "metadata": {"name": "w"}, "spec": spec,
        });
        let created = V1alpha1.create(version.as_object().unwrap());
        let errors = created.map_or_else(
            |errors| errors,
            |hub| {
                let in_version = |mut error: FieldError| {
                    error.field = V1alpha1.field_path(&error.field);
                    error
                };
                validate(&hub).into_iter().map(in_version).collect()
            },
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_mistakes_are_told_at_once_in_fixed_words() {
        let spec = json!({"replicas": 101, "image": "not an image", "color": "Blue"});
        assert_eq!(
            errors(spec, json!({"phase": "Running"})),
            [
                "spec.replicas: Invalid value: 101: replicas cannot exceed 100",
                "spec.image: Invalid value: \"not an image\": \
                 must be an OCI reference [host[:port]/]path[:tag][@algo:hex]",
                "spec.color: Invalid value: \"Blue\": must match ^[a-z]{1,32}$ or ^#[0-9a-f]{6}$",
            ]
        );
        assert_eq!(
            old_errors(json!({"size": 101, "repository": "nginx:1", "tag": "2", "color": ""})),
            [
                "spec.repository: Invalid value: \"nginx:1\": \
                 must not hold a tag or a digest: these are spec.tag and spec.digest",
                "spec.size: Invalid value: 101: replicas cannot exceed 100",
                "spec.color: Invalid value: \"\": must match ^[a-z]{1,32}$ or ^#[0-9a-f]{6}$",
            ]
        );
    }

    #[test]
    fn both_versions_give_the_same_verdict() {
        let replicas = [
            json!(null),
            json!(-1),
            json!(0),
            json!(100),
            json!(101),
            json!(i32::MAX),
        ];
        let images = [
            "nginx",
            "nginx:1",
            "",
            "UPPER",
            "localhost:5000/a",
            "a b",
            "a@sha256:00",
        ];
        let colors = ["blue", "", "#00ff00", "#00FF00", "#fff", "Blue", "é"];
        for replicas in &replicas {
            for image in images {
                for color in colors {
                    let new = json!({"replicas": replicas, "image": image, "color": color});
                    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
                    let (repository, tag) = match name.rsplit_once(':') {
                        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
                        _ => (name, ""),
                    };
                    let old = json!({
                        "size": replicas, "repository": repository, "tag": tag,
                        "digest": digest, "color": color,
                    });
                    let count = errors(new.clone(), json!(null)).len();
                    assert_eq!(count, old_errors(old).len(), "{new}");
                }
            }
        }
    }

    #[test]
    fn colors_are_short_lower_case_words_or_hex() {
        for good in ["a", "blue", &"z".repeat(32), "#000000", "#0a1b2f"] {
            assert!(is_color(good), "{good}");
        }
        for bad in [
            "",
            "#",
            "#00000",
            "#0000000",
            "#00000G",
            "#ABCDEF",
            "Blue",
            "b1",
            "bl ue",
            &"z".repeat(33),
            "blåå",
        ] {
            assert!(!is_color(bad), "{bad}");
        }
    }

    #[test]
    fn requests_stay_within_limits_and_quantities_are_quantities() {
        let resources = json!({
            "limits": {"cpu": "500m", "memory": "1Gi", "gpu": "1"},
            "requests": {"cpu": "1", "memory": "1024Mi", "ephemeral-storage": "-1", "example.com/gpu": "x"},
        });
        assert_eq!(
            errors(json!({"image": "a", "resources": resources}), json!(null)),
            [
                "spec.resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                "spec.resources.requests[ephemeral-storage]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.resources.requests[example.com/gpu]: Invalid value: \"x\": quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                "spec.resources.requests: Invalid value: \"1\": must be less than or equal to cpu limit of 500m",
            ]
        );
    }

    #[test]
    fn a_quantity_given_as_a_number_is_stored_as_text() {
        let resources = json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": 0.5}});
        let mut widget = hub(json!({"image": "a", "resources": resources}), json!(null));
        normalise(&mut widget);
        assert_eq!(
            widget["spec"]["resources"],
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5"}})
        );
        assert_eq!(validate(&widget), []);
    }

    #[test]
    fn status_keeps_to_its_rules() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "", "message": "", "lastTransitionTime": null});
        let status = json!({
            "replicas": -1, "selector": "a in (",
            "conditions": [condition("Available", "True"), condition("Available", "yes")],
        });
        let errors = errors(json!({"image": "a"}), status);
        assert_eq!(
            errors[0],
            "status.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert!(
            errors[1].starts_with("status.selector: Invalid value: \"a in (\": "),
            "{errors:?}"
        );
        assert_eq!(
            errors[2..],
            [
                "status.conditions[0].reason: Required value: must be set",
                "status.conditions[1]: Duplicate value: {\"type\":\"Available\"}",
                "status.conditions[1].reason: Required value: must be set",
                "status.conditions[1].status: Unsupported value: \"yes\": \
                 supported values: \"False\", \"True\", \"Unknown\"",
            ]
        );
    }

    #[test]
    fn an_old_mistake_does_not_stop_another_change() {
        let old = hub(json!({"image": "a b", "replicas": 3}), json!({}));
        let mut new = old.clone();
        new["status"] = json!({"replicas": 3});
        assert_eq!(Widgets.validate_update(&new, &old), []);
        new["spec"]["image"] = json!("c d");
        assert_eq!(Widgets.validate_update(&new, &old).len(), 1);
    }
}
