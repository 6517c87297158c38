//! The schemas of `meta/v1` types that every object carries.

use super::Schema;

pub(super) fn object_meta() -> Schema {
    todo!()
}
