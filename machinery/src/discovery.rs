//! Discovery documents, derived from the registered resources.

use serde_json::Value;

use crate::resource::ResourceInfo;

/// APIGroupList: `/apis`.
pub fn group_list(_resources: &[&ResourceInfo]) -> Value {
    todo!()
}

/// APIGroup: `/apis/<group>`, or `None` when no resource is in the group.
pub fn group(_resources: &[&ResourceInfo], _group: &str) -> Option<Value> {
    todo!()
}

/// APIResourceList: `/apis/<group>/<version>`, or `None` when nothing is served there.
pub fn resource_list(_resources: &[&ResourceInfo], _group: &str, _version: &str) -> Option<Value> {
    todo!()
}

/// APIGroupDiscoveryList v2: `/apis` when aggregated discovery is asked for.
pub fn aggregated(_resources: &[&ResourceInfo]) -> Value {
    todo!()
}
