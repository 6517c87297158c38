//! PartialObjectMetadata: objects reduced to their metadata.

use serde_json::Value;

use crate::{codec::ListMeta, negotiate::MetaVersion, object::Object};

/// The metadata of an object as PartialObjectMetadata.
#[must_use]
pub fn from_object(object: &Object, version: MetaVersion) -> Object {
    let mut partial = Object::new();
    partial.insert("apiVersion".to_owned(), version.api_version().into());
    partial.insert("kind".to_owned(), "PartialObjectMetadata".into());
    let metadata = object.get("metadata").cloned();
    partial.insert(
        "metadata".to_owned(),
        metadata.unwrap_or_else(|| Value::Object(Object::new())),
    );
    partial
}

/// Writes an object's PartialObjectMetadata as JSON, without building it.
pub fn write_json(out: &mut Vec<u8>, object: &Object, version: MetaVersion) {
    write_type(out, "PartialObjectMetadata", version);
    match object.get("metadata") {
        Some(metadata) => write_value(out, metadata),
        None => out.extend_from_slice(b"{}"),
    }
    out.push(b'}');
}

/// Writes PartialObjectMetadata around metadata that is JSON already.
pub fn write_raw(out: &mut Vec<u8>, metadata: &[u8], version: MetaVersion) {
    write_type(out, "PartialObjectMetadata", version);
    out.extend_from_slice(metadata);
    out.push(b'}');
}

/// Everything of a PartialObjectMetadataList before its items: items (comma separated) and
/// `]}` follow.
pub fn write_list_head(out: &mut Vec<u8>, meta: &ListMeta, version: MetaVersion) {
    write_type(out, "PartialObjectMetadataList", version);
    write_value(out, &meta.to_value());
    out.extend_from_slice(br#","items":["#);
}

/// `{"kind":…,"apiVersion":…,"metadata":`
pub(crate) fn write_type(out: &mut Vec<u8>, kind: &str, version: MetaVersion) {
    for part in [
        r#"{"kind":""#,
        kind,
        r#"","apiVersion":""#,
        version.api_version(),
        r#"","metadata":"#,
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes a value as compact JSON.
pub(crate) fn write_value<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a JSON value is written to memory");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn widget() -> Object {
        let widget = json!({"kind": "Widget", "metadata": {"name": "w"}, "spec": {"color": "red"}});
        widget.as_object().unwrap().clone()
    }

    #[test]
    fn only_the_metadata_is_kept() {
        let expected = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "w"},
        });
        assert_eq!(
            Value::Object(from_object(&widget(), MetaVersion::V1)),
            expected
        );
        let mut out = Vec::new();
        write_json(&mut out, &widget(), MetaVersion::V1);
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    }

    #[test]
    fn a_list_holds_partial_objects() {
        let meta = ListMeta {
            resource_version: "5".into(),
            ..ListMeta::default()
        };
        let mut out = Vec::new();
        write_list_head(&mut out, &meta, MetaVersion::V1Beta1);
        write_json(&mut out, &widget(), MetaVersion::V1Beta1);
        out.push(b',');
        write_raw(&mut out, b"{}", MetaVersion::V1Beta1);
        out.extend_from_slice(b"]}");
        assert_eq!(
            serde_json::from_slice::<Value>(&out).unwrap(),
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1beta1",
                "metadata": {"resourceVersion": "5"},
                "items": [
                    {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1beta1", "metadata": {"name": "w"}},
                    {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1beta1", "metadata": {}},
                ],
            })
        );
    }
}
