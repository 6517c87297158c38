//! What the watch cache keeps of each object: the bytes that clients are sent.
//!
//! The hub's JSON, with `resourceVersion` spliced in, is made once when a
//! revision arrives; GET, list and watch hand out the same bytes. Everything
//! else (other versions, metadata alone, selectable fields) is derived when it
//! is first asked for and then shared. An object that nobody selects or
//! converts costs its JSON and some 64 bytes.

mod raw;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use machinery::{
    Object,
    codec::protobuf,
    names,
    negotiate::MetaVersion,
    object, partial,
    resource::{ResourceInfo, VersionInfo},
};
use serde_json::Value;
use store::{Key, Project, Revision};

use crate::resource::Resource;

/// One version of a resource, by its place in [`ResourceInfo::versions`].
#[derive(Clone, Copy)]
pub struct Version<'a> {
    /// The resource.
    pub resource: &'a ResourceInfo,
    /// The version.
    pub info: &'a VersionInfo,
    index: usize,
}

impl<'a> Version<'a> {
    /// The served version of that name.
    #[must_use]
    pub fn named(resource: &'a ResourceInfo, name: &str) -> Option<Self> {
        Self::at(
            resource,
            resource
                .versions
                .iter()
                .position(|version| version.name == name)?,
        )
    }

    /// The version at a place among [`ResourceInfo::versions`].
    #[must_use]
    pub fn at(resource: &'a ResourceInfo, index: usize) -> Option<Self> {
        Some(Self {
            resource,
            info: resource.versions.get(index)?,
            index,
        })
    }

    /// Its place among [`ResourceInfo::versions`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The storage version.
    #[must_use]
    pub fn hub(resource: &'a ResourceInfo) -> Self {
        let info = resource.storage_version();
        let index = resource.versions.iter().position(|version| version.storage);
        Self {
            resource,
            info,
            index: index.unwrap_or_default(),
        }
    }

    /// `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        names::api_version(self.resource.group, self.info.name)
    }

    /// A hub object in the shape of this version.
    #[must_use]
    pub fn shape(&self, hub: Object) -> Object {
        match &self.info.lens {
            Some(lens) => lens.get(&hub),
            None => hub,
        }
    }
}

/// Makes [`View`]s of one resource for its collection in the store.
pub struct Projection(pub Arc<dyn Resource>);

impl Project for Projection {
    type View = View;

    fn project(&self, key: &Key, revision: Revision, body: Bytes) -> View {
        View::of_stored(self.0.info(), revision, &body).unwrap_or_else(|| {
            tracing::error!(%key, %revision, "a stored object cannot be decoded");
            self.unreadable(key, revision)
        })
    }

    fn unreadable(&self, _key: &Key, revision: Revision) -> View {
        View {
            is_readable: false,
            ..View::of_body(revision, b"{}")
        }
    }
}

/// An object at a revision, ready to be served.
pub struct View {
    /// The hub's JSON with `resourceVersion`.
    served: Bytes,
    /// Where the splice begins; it ends `splice_length` bytes further on.
    splice_start: usize,
    splice_length: usize,
    /// False when defaults were added that the stored bytes lack.
    is_as_stored: bool,
    is_readable: bool,
    derived: OnceLock<Box<Derived>>,
}

/// A copy shares the bytes and derives the rest anew.
impl Clone for View {
    fn clone(&self) -> Self {
        Self {
            served: self.served.clone(),
            splice_start: self.splice_start,
            splice_length: self.splice_length,
            is_as_stored: self.is_as_stored,
            is_readable: self.is_readable,
            derived: OnceLock::new(),
        }
    }
}

struct Derived {
    selectable: OnceLock<Selectable>,
    versions: Box<[OnceLock<Bytes>]>,
    partial_json: OnceLock<Bytes>,
    partial_envelope: OnceLock<Bytes>,
}

/// What selectors look at, without parsing the object again.
#[derive(Default)]
pub struct Selectable {
    labels: Box<[(Box<str>, Box<str>)]>,
    /// By version.
    fields: Box<[FieldValues]>,
}

/// Values in the order of [`VersionInfo::selectable`].
type FieldValues = Box<[Option<Box<str>>]>;

impl View {
    /// A view of stored bytes; defaults that are newer than they are added. `None` for bytes that
    /// are no object.
    #[must_use]
    pub fn of_stored(info: &ResourceInfo, revision: Revision, body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        if info.storage_version().schema.is_complete(text).ok()? {
            let view = Self::of_body(revision, body);
            // Text with blanks was not written here.
            if view.splice_length > 0 {
                return Some(view);
            }
        }
        let hub = serde_json::from_slice(body).ok()?;
        Some(match with_missing_defaults(info, hub, body) {
            Some(completed) => Self {
                is_as_stored: false,
                ..Self::of_body(revision, &completed)
            },
            None => Self::of_body(revision, body),
        })
    }

    /// A view of the bytes that were just written, which have all defaults.
    #[must_use]
    pub fn of_body(revision: Revision, body: &[u8]) -> Self {
        let (served, splice_start, splice_length) =
            raw::splice(body, &machinery::revision::format(revision.get()));
        Self {
            served,
            splice_start,
            splice_length,
            is_as_stored: true,
            is_readable: true,
            derived: OnceLock::new(),
        }
    }

    /// The same object under a later revision: what a watcher is told when the
    /// object left its selection.
    #[must_use]
    pub fn at(&self, revision: Revision) -> Self {
        Self::of_body(revision, &self.body())
    }

    /// Whether there is an object to serve. One that is lost, damaged or cannot be decoded is
    /// selected by nothing, and all that can be done to it is to delete it as such.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Whether writing `body` would change nothing.
    #[must_use]
    pub fn is_stored_as(&self, body: &[u8]) -> bool {
        let (start, end) = (self.splice_start, self.splice_start + self.splice_length);
        self.is_as_stored
            && body.len() + self.splice_length == self.served.len()
            && self.served.get(..start) == body.get(..start)
            && self.served.get(end..) == body.get(start..)
    }

    /// The JSON without `resourceVersion`.
    fn body(&self) -> Vec<u8> {
        let end = self.splice_start + self.splice_length;
        let parts = [self.served.get(..self.splice_start), self.served.get(end..)];
        parts.into_iter().flatten().flatten().copied().collect()
    }

    /// The object in the hub's shape, with `resourceVersion`.
    #[must_use]
    pub fn hub(&self) -> Object {
        serde_json::from_slice(&self.served).unwrap_or_default()
    }

    /// The object in a version's shape.
    #[must_use]
    pub fn object(&self, version: Version<'_>) -> Object {
        version.shape(self.hub())
    }

    /// The object's JSON in a version, shared by all who ask.
    #[must_use]
    pub fn json(&self, version: Version<'_>) -> Bytes {
        if version.info.lens.is_none() {
            return self.served.clone();
        }
        let encode = || Bytes::from(serde_json::to_vec(&self.object(version)).unwrap_or_default());
        match self.derived(version.resource).versions.get(version.index) {
            Some(cell) => cell.get_or_init(encode).clone(),
            None => encode(),
        }
    }

    /// Writes what [`Self::json`] gives, and keeps nothing of it: a list of everything must not
    /// double what the cache holds.
    pub fn write_json(&self, out: &mut Vec<u8>, version: Version<'_>) {
        if version.info.lens.is_none() {
            out.extend_from_slice(&self.served);
            return;
        }
        let kept = self.derived.get();
        let kept = kept.and_then(|derived| derived.versions.get(version.index)?.get());
        match kept {
            Some(json) => out.extend_from_slice(json),
            // A map whose keys are texts is always written.
            None => drop(serde_json::to_writer(out, &self.object(version))),
        }
    }

    /// The object's metadata as JSON, which is the same in all versions.
    #[must_use]
    pub fn metadata_json(&self) -> &[u8] {
        let from = self.splice_start.saturating_sub(1);
        let text = self.served.get(from..).filter(|_| self.splice_length > 0);
        text.and_then(|text| text.get(..raw::object_length(text)?))
            .unwrap_or(b"{}")
    }

    /// PartialObjectMetadata of `meta.k8s.io/v1` as JSON.
    #[must_use]
    pub fn partial_json(&self, info: &ResourceInfo) -> Bytes {
        let cell = &self.derived(info).partial_json;
        cell.get_or_init(|| {
            let mut out = Vec::new();
            partial::write_raw(&mut out, self.metadata_json(), MetaVersion::V1);
            out.into()
        })
        .clone()
    }

    /// The bare PartialObjectMetadata message in protobuf.
    #[must_use]
    pub fn partial_protobuf(&self) -> Vec<u8> {
        let metadata = serde_json::from_slice(self.metadata_json());
        let metadata = metadata.unwrap_or_else(|_| Value::Object(Object::new()));
        let object = Object::from_iter([("metadata".to_owned(), metadata)]);
        protobuf::partial_object_metadata_message(&object)
    }

    /// PartialObjectMetadata of `meta.k8s.io/v1` in its protobuf envelope, as
    /// watches send it.
    #[must_use]
    pub fn partial_envelope(&self, info: &ResourceInfo) -> Bytes {
        let cell = &self.derived(info).partial_envelope;
        cell.get_or_init(|| protobuf::partial_object_metadata(&self.hub(), MetaVersion::V1).into())
            .clone()
    }

    /// Labels and declared fields.
    #[must_use]
    pub fn selectable(&self, info: &ResourceInfo) -> &Selectable {
        self.derived(info)
            .selectable
            .get_or_init(|| Selectable::of(info, &self.hub()))
    }

    fn derived(&self, info: &ResourceInfo) -> &Derived {
        self.derived.get_or_init(|| {
            Box::new(Derived {
                selectable: OnceLock::new(),
                versions: info.versions.iter().map(|_| OnceLock::new()).collect(),
                partial_json: OnceLock::new(),
                partial_envelope: OnceLock::new(),
            })
        })
    }
}

impl Selectable {
    fn of(info: &ResourceInfo, hub: &Object) -> Self {
        let labels = object::labels(hub).into_iter().flatten();
        let labels =
            labels.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())));
        let fields = info.versions.iter().map(|version| {
            let values = version
                .selectable
                .iter()
                .map(|field| (field.hub_pointer)(hub));
            values
                .map(|value| value.map(String::into_boxed_str))
                .collect()
        });
        Self {
            labels: labels.collect(),
            fields: fields.collect(),
        }
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| name.as_ref() == key)
            .map(|(_, value)| value.as_ref())
    }

    /// The value of a declared field in a version; absent is empty, as in Go.
    #[must_use]
    pub fn field(&self, version: Version<'_>, label: &str) -> Option<&str> {
        let place = version
            .info
            .selectable
            .iter()
            .position(|field| field.label == label)?;
        let value = self.fields.get(version.index)?.get(place)?;
        Some(value.as_deref().unwrap_or_default())
    }
}

/// The body with the hub's defaults, or `None` when it has them all.
fn with_missing_defaults(info: &ResourceInfo, mut hub: Object, body: &[u8]) -> Option<Vec<u8>> {
    info.storage_version().schema.apply_defaults(&mut hub);
    let completed = serde_json::to_vec(&Value::Object(hub)).ok()?;
    (completed != body).then_some(completed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(body: &str) -> String {
        let view = View::of_body(Revision::new(7), body.as_bytes());
        assert!(view.is_stored_as(body.as_bytes()));
        assert_eq!(view.body(), body.as_bytes());
        String::from_utf8(view.served.to_vec()).unwrap()
    }

    #[test]
    fn the_resource_version_becomes_a_member_of_the_top_level_metadata() {
        assert_eq!(
            spliced(r#"{"metadata":{}}"#),
            r#"{"metadata":{"resourceVersion":"7"}}"#
        );
        assert_eq!(
            spliced(
                r#"{"a":{"metadata":{"x":"\"metadata\":{"}},"kind":"metadata","metadata":{"name":"n"},"z":1}"#
            ),
            r#"{"a":{"metadata":{"x":"\"metadata\":{"}},"kind":"metadata","metadata":{"resourceVersion":"7","name":"n"},"z":1}"#
        );
    }

    #[test]
    fn the_metadata_stands_alone() {
        for (body, expected) in [
            (
                r#"{"metadata":{"annotations":{"a":"}\"{\\"},"name":"n"},"spec":{"metadata":{}}}"#,
                r#"{"resourceVersion":"7","annotations":{"a":"}\"{\\"},"name":"n"}"#,
            ),
            (r#"{"metadata":{}}"#, r#"{"resourceVersion":"7"}"#),
            ("{}", "{}"),
            ("", "{}"),
        ] {
            let view = View::of_body(Revision::new(7), body.as_bytes());
            assert_eq!(String::from_utf8_lossy(view.metadata_json()), expected);
        }
    }

    #[test]
    fn another_body_is_another_object() {
        let view = View::of_body(Revision::new(7), br#"{"metadata":{"name":"n"}}"#);
        for other in [
            r#"{"metadata":{"name":"m"}}"#,
            r#"{"metadata":{"name":"nn"}}"#,
            "{}",
            "",
        ] {
            assert!(!view.is_stored_as(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_later_revision_replaces_the_earlier_one() {
        let view =
            View::of_body(Revision::new(9), br#"{"metadata":{"name":"n"}}"#).at(Revision::new(10));
        assert_eq!(
            view.served,
            br#"{"metadata":{"resourceVersion":"10","name":"n"}}"#.as_slice()
        );
    }
}
