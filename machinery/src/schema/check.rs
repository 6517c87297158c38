//! What a schema does to an object.

use super::Schema;
use crate::{error::ApiError, field::FieldError, names::GroupVersionKind, object::Object};

pub(super) fn check_types(
    _schema: &Schema,
    _object: &Object,
    _kind: &GroupVersionKind,
) -> Result<(), ApiError> {
    todo!()
}

pub(super) fn prune(_schema: &Schema, _object: &mut Object) -> Vec<String> {
    todo!()
}

pub(super) fn apply_defaults(_schema: &Schema, _object: &mut Object) {
    todo!()
}

pub(super) fn validate(_schema: &Schema, _object: &Object) -> Vec<FieldError> {
    todo!()
}
