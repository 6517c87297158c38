//! What the server owns and checks in the metadata of every object, whatever its kind.

pub mod deletion;
pub mod format;
mod prepare;
mod validate;

pub use prepare::{
    CreateContext, bump_generation_if_spec_changed, dedup_owner_references, generate_name,
    keep_only_status, prepare_create, prepare_update, reset_status, retain_status, tidy,
};
pub use validate::{
    check_name_and_namespace, check_revision, check_uid, validate_metadata,
    validate_metadata_update,
};

/// A point in time as metadata holds it: RFC 3339 in UTC with whole seconds.
#[must_use]
pub fn timestamp(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
