//! How a version of a kind looks at the hub, the one shape that is stored.

use crate::field::FieldError;
use crate::object::Object;

/// Conversion between one version and the hub.
///
/// The laws that every implementation keeps, over valid objects: `put(get(h), h) == h`,
/// `get(put(v, h)) == v`, `put(v2, put(v1, h)) == put(v2, h)` and `get(create(v)) == v`. Metadata
/// passes through untouched; `apiVersion` is set by each direction.
pub trait Lens: Send + Sync {
    /// The object as this version shows it. Never fails, whatever is stored.
    fn get(&self, hub: &Object) -> Object;

    /// A new hub object from what a client of this version wrote.
    ///
    /// # Errors
    /// Field errors, at the paths of this version.
    fn create(&self, version: &Object) -> Result<Object, Vec<FieldError>>;

    /// `old_hub` with everything that this version can say replaced by what the client wrote.
    ///
    /// # Errors
    /// Field errors, at the paths of this version.
    fn put(&self, version: &Object, old_hub: &Object) -> Result<Object, Vec<FieldError>>;

    /// The path at which this version shows the hub's field at `hub_path`.
    fn field_path(&self, hub_path: &str) -> String;
}
