//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386) as kube-apiserver applies them.
//!
//! A patch is read once and may be applied several times: a write that loses a race is tried
//! again on the newer object.

mod apply;
mod operation;
mod pointer;

use serde_json::Value;

pub use operation::JsonPatch;

use crate::codec;
use crate::error::ApiError;
use crate::field::FieldError;
use crate::names::GroupKind;
use crate::object::Object;

/// Applies a JSON patch in text form. After an error the document is in no particular state.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations, 422 if an operation does not apply.
pub fn json_patch(document: &mut Value, patch: &[u8]) -> Result<(), ApiError> {
    JsonPatch::parse(patch)?.apply(document)
}

/// A merge patch, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePatch {
    patch: Object,
    duplicates: Vec<String>,
}

impl MergePatch {
    /// Reads a merge patch. Only an object can change an object into an object.
    ///
    /// # Errors
    /// 400 for what is no JSON object.
    pub fn parse(patch: &[u8]) -> Result<Self, ApiError> {
        let decoded = codec::json::decode(patch)?;
        match decoded.value {
            Value::Object(patch) => Ok(Self {
                patch,
                duplicates: decoded.duplicates,
            }),
            _ => Err(ApiError::bad_request("Invalid JSON Patch")),
        }
    }

    /// Applies it.
    pub fn apply(&self, document: &mut Value) {
        merge_patch(document, Value::Object(self.patch.clone()));
    }

    /// What strict validation reports about the patch itself.
    #[must_use]
    pub fn strict_problems(&self) -> Vec<String> {
        self.duplicates
            .iter()
            .map(|path| format!("duplicate field \"{path}\""))
            .collect()
    }
}

/// Merges a patch into a document: members that are null go, objects merge, all else replaces.
pub fn merge_patch(document: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *document = patch;
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Object::new());
    }
    let members = document
        .as_object_mut()
        .expect("it was made an object above");
    for (member, value) in patch {
        if value.is_null() {
            members.remove(&member);
        } else {
            merge_patch(members.entry(member).or_insert(Value::Null), value);
        }
    }
}

/// The error for a patched document that is no object of the kind, as told by whatever failed to
/// decode it.
#[must_use]
pub fn undecodable(patched: &Value, problem: &str) -> ApiError {
    let error = FieldError::invalid("patch", patched.to_string(), problem);
    ApiError::invalid(&GroupKind::new("", ""), "", &[error])
}

#[cfg(test)]
mod tests;
