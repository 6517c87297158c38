//! What a resource has to say for itself. Everything else is derived.

use machinery::{Object, field::FieldError, resource::ResourceInfo};

/// A kind served by this API server: its description as data, and pure hooks.
///
/// Routes, discovery, OpenAPI, Table, selectors and storage are derived from
/// [`Resource::info`]; a unit struct that implements this trait and one call of
/// [`crate::registry::Registry::register`] make a resource complete.
pub trait Resource: Send + Sync + 'static {
    /// Names, scope, versions, schema, columns and subresources.
    fn info(&self) -> &ResourceInfo;

    /// Normalises a new object (in the hub's shape) before it is validated.
    fn prepare_create(&self, _hub: &mut Object) {}

    /// Normalises a changed object before it is validated against the old one.
    fn prepare_update(&self, _new: &mut Object, _old: &Object) {}

    /// Rules that the schema cannot express, over the hub's shape; all
    /// violations at once.
    fn validate(&self, _hub: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// Rules for a change; those of [`Resource::validate`] unless overridden.
    fn validate_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        self.validate(new)
    }
}
