//! Discovery documents, derived from the registered resources.

use std::borrow::Cow;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::resource::{ResourceInfo, VersionInfo};

/// What every resource can do.
const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// What a subresource can do.
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];

/// What a subresource can do that is only looked at.
const READ_VERBS: &[&str] = &["get"];

/// APIGroupList: `/apis`.
#[must_use]
pub fn group_list(resources: &[&ResourceInfo]) -> Value {
    let groups: Vec<_> = group_names(resources)
        .into_iter()
        .map(|name| group_body(resources, name))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// APIGroup: `/apis/<group>`, or `None` when no resource is in the group.
#[must_use]
pub fn group(resources: &[&ResourceInfo], group: &str) -> Option<Value> {
    let name = group_names(resources)
        .into_iter()
        .find(|name| *name == group)?;
    let mut body = group_body(resources, name);
    if let Value::Object(members) = &mut body {
        members.insert("kind".to_owned(), "APIGroup".into());
        members.insert("apiVersion".to_owned(), "v1".into());
    }
    Some(body)
}

/// APIResourceList: `/apis/<group>/<version>`, or `None` when nothing is served there.
#[must_use]
pub fn resource_list(resources: &[&ResourceInfo], group: &str, version: &str) -> Option<Value> {
    let mut listed: Vec<_> = resources_of(resources, group, version)
        .flat_map(|(info, version)| legacy_entries(info, version))
        .collect();
    if listed.is_empty() {
        return None;
    }
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    let listed: Vec<_> = listed.into_iter().map(|(_, entry)| entry).collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{group}/{version}"),
        "resources": listed,
    }))
}

/// APIGroupDiscoveryList v2: `/apis` when aggregated discovery is asked for.
#[must_use]
pub fn aggregated(resources: &[&ResourceInfo]) -> Value {
    let items: Vec<_> = group_names(resources)
        .into_iter()
        .map(|group| {
            let versions: Vec<_> = version_names(resources, group)
                .into_iter()
                .map(|version| aggregated_version(resources, group, version))
                .collect();
            json!({"metadata": {"name": group}, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

/// The ETag of a document, in its quotes.
#[must_use]
pub fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hash(body))
}

/// The upper-case hexadecimal hash by which a document is known.
pub(crate) fn hash(body: &[u8]) -> String {
    Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}

fn group_body(resources: &[&ResourceInfo], group: &str) -> Value {
    let versions: Vec<_> = version_names(resources, group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or(Value::Null);
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

fn legacy_entries(info: &ResourceInfo, version: &VersionInfo) -> Vec<(String, Value)> {
    let mut entry = json!({
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.is_namespaced(),
        "kind": info.kind,
        "verbs": VERBS,
        "storageVersionHash": info.storage_version_hash(),
    });
    add_names(&mut entry, info);
    let mut entries = vec![(info.plural.to_owned(), entry)];
    for subresource in subresources(info, version) {
        let name = format!("{}/{}", info.plural, subresource.name);
        let mut entry = json!({
            "name": name,
            "singularName": "",
            "namespaced": info.is_namespaced(),
            "kind": subresource.kind,
            "verbs": subresource.verbs,
        });
        if let (true, Value::Object(members)) = (subresource.is_foreign, &mut entry) {
            members.insert("group".to_owned(), subresource.group.into());
            members.insert("version".to_owned(), subresource.version.into());
        }
        entries.push((name, entry));
    }
    entries
}

fn aggregated_version(resources: &[&ResourceInfo], group: &str, version: &str) -> Value {
    let mut listed: Vec<_> = resources_of(resources, group, version).collect();
    listed.sort_by_key(|(info, _)| info.plural);
    let listed: Vec<_> = listed
        .into_iter()
        .map(|(info, version)| aggregated_entry(info, version))
        .collect();
    json!({"version": version, "resources": listed, "freshness": "Current"})
}

fn aggregated_entry(info: &ResourceInfo, version: &VersionInfo) -> Value {
    let mut entry = json!({
        "resource": info.plural,
        "responseKind": {"group": info.group, "version": version.name, "kind": info.kind},
        "scope": if info.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": VERBS,
    });
    add_names(&mut entry, info);
    let below: Vec<_> = subresources(info, version)
        .map(|subresource| {
            let kind = json!({
                "group": subresource.group,
                "version": subresource.version,
                "kind": subresource.kind,
            });
            json!({"subresource": subresource.name, "responseKind": kind, "verbs": subresource.verbs})
        })
        .collect();
    if let (false, Value::Object(members)) = (below.is_empty(), &mut entry) {
        members.insert("subresources".to_owned(), below.into());
    }
    entry
}

fn add_names(entry: &mut Value, info: &ResourceInfo) {
    for (key, names) in [
        ("shortNames", info.short_names),
        ("categories", info.categories),
    ] {
        if let (false, Value::Object(members)) = (names.is_empty(), &mut *entry) {
            members.insert(key.to_owned(), json!(names));
        }
    }
}

struct Subresource {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: Cow<'static, str>,
    verbs: &'static [&'static str],
    /// The kind is of another group than the resource.
    is_foreign: bool,
}

fn subresources(info: &ResourceInfo, version: &VersionInfo) -> impl Iterator<Item = Subresource> {
    let scale = info.scale.is_some().then_some(Subresource {
        name: "scale",
        group: "autoscaling",
        version: "v1",
        kind: crate::scale::KIND.into(),
        verbs: SUBRESOURCE_VERBS,
        is_foreign: true,
    });
    let status = info.status.then_some(Subresource {
        name: "status",
        group: info.group,
        version: version.name,
        kind: info.kind.into(),
        verbs: SUBRESOURCE_VERBS,
        is_foreign: false,
    });
    let history = info.history.then(|| Subresource {
        name: "history",
        group: info.group,
        version: version.name,
        kind: crate::history::kind(info).into(),
        verbs: READ_VERBS,
        is_foreign: false,
    });
    history.into_iter().chain(scale).chain(status)
}

fn group_names(resources: &[&ResourceInfo]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for info in resources {
        if !names.contains(&info.group) {
            names.push(info.group);
        }
    }
    names
}

/// The versions of a group in the order of preference.
pub(crate) fn version_names(resources: &[&ResourceInfo], group: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for version in resources
        .iter()
        .filter(|info| info.group == group)
        .flat_map(|i| &i.versions)
    {
        if !names.contains(&version.name) {
            names.push(version.name);
        }
    }
    names
}

/// The resources that are served in a version of a group.
pub(crate) fn resources_of<'a>(
    resources: &'a [&'a ResourceInfo],
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = (&'a ResourceInfo, &'a VersionInfo)> {
    resources
        .iter()
        .filter(move |info| info.group == group)
        .filter_map(move |info| Some((*info, info.version(version)?)))
}

/// All pairs of a group and a version that are served.
pub(crate) fn group_versions(resources: &[&ResourceInfo]) -> Vec<(&'static str, &'static str)> {
    group_names(resources)
        .into_iter()
        .flat_map(|group| {
            version_names(resources, group)
                .into_iter()
                .map(move |version| (group, version))
        })
        .collect()
}
