//! The v1alpha1 lens in the machinery's terms.

use machinery::Object;
use machinery::field::FieldError;
use machinery::lens::Lens;
use serde_json::{Value, json};
use widget_conversion::{LensError, v1alpha1};

use super::rules;

/// Sees Widgets as v1alpha1 does.
pub(super) struct V1alpha1;

impl Lens for V1alpha1 {
    fn get(&self, hub: &Object) -> Object {
        v1alpha1::get(hub)
    }

    fn create(&self, version: &Object) -> Result<Object, Vec<FieldError>> {
        self.put(version, &Object::new())
    }

    fn put(&self, version: &Object, old_hub: &Object) -> Result<Object, Vec<FieldError>> {
        let errors = match v1alpha1::put(version, old_hub) {
            Ok(hub) => return Ok(hub),
            Err(errors) => errors,
        };
        // A client is told of all its mistakes at once: also of those that the hub's rules find
        // in the rest of the object.
        let mut all: Vec<FieldError> = errors.iter().map(field_error).collect();
        if let Ok(hub) = v1alpha1::put(&without(version, &errors), old_hub) {
            all.extend(rules::validate(&hub).into_iter().map(|mut error| {
                error.field = self.field_path(&error.field);
                error
            }));
        }
        Err(all)
    }

    fn field_path(&self, hub_path: &str) -> String {
        v1alpha1::field_path(hub_path)
    }
}

/// What v1alpha1 calls a phase; an unknown one has the same name.
pub(super) fn state_of_phase(phase: &str) -> String {
    let mut hub = Object::new();
    hub.insert("status".to_owned(), json!({ "phase": phase }));
    let shown = v1alpha1::get(&hub);
    let state = shown.get("status").and_then(|status| status.get("state"));
    state.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The object with something harmless in place of what the lens refused.
fn without(version: &Object, errors: &[LensError]) -> Object {
    let mut version = version.clone();
    let is_refused = |part: &str| errors.iter().any(|error| path_of(error).starts_with(part));
    if is_refused("spec.")
        && let Some(Value::Object(spec)) = version.get_mut("spec")
    {
        spec.insert("repository".to_owned(), Value::from("image"));
        spec.remove("tag");
        spec.remove("digest");
    }
    if is_refused("status.")
        && let Some(Value::Object(status)) = version.get_mut("status")
    {
        status.remove("state");
    }
    version
}

fn path_of(error: &LensError) -> &'static str {
    match error {
        LensError::Required { path, .. }
        | LensError::Invalid { path, .. }
        | LensError::NotSupported { path, .. } => path,
    }
}

fn field_error(error: &LensError) -> FieldError {
    match error {
        LensError::Required { path, detail } => FieldError::required(*path, *detail),
        LensError::Invalid {
            path,
            value,
            detail,
        } => FieldError::invalid(*path, value.clone(), *detail),
        LensError::NotSupported {
            path,
            value,
            supported,
        } => FieldError::not_supported(*path, value.clone(), supported),
    }
}
