//! Bodies in and out: JSON, YAML and Kubernetes' protobuf.

pub mod json;
pub mod protobuf;
pub(crate) mod protowire;
pub mod yaml;

use serde_json::Value;

use crate::{error::ApiError, negotiate::Format, object::Object};

/// A decoded request body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The document.
    pub value: Value,
    /// Paths of keys that stood more than once (`spec.color`); the last one won.
    pub duplicates: Vec<String>,
}

/// Metadata of a list, a Table or a bookmark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListMeta {
    /// The revision at which the list is complete.
    pub resource_version: String,
    /// Where the next page starts, when there is one.
    pub continue_token: Option<String>,
    /// How many objects follow this page, when that is known.
    pub remaining_item_count: Option<i64>,
    /// The shard selector, when the list is one of several shards.
    pub shard_selector: Option<String>,
}

impl ListMeta {
    /// The `metadata` member of a list.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut metadata = Object::new();
        if !self.resource_version.is_empty() {
            metadata.insert(
                "resourceVersion".to_owned(),
                self.resource_version.as_str().into(),
            );
        }
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".to_owned(), token.as_str().into());
        }
        if let Some(count) = self.remaining_item_count {
            metadata.insert("remainingItemCount".to_owned(), count.into());
        }
        if let Some(selector) = &self.shard_selector {
            let info = serde_json::json!({ "selector": selector });
            metadata.insert("shardInfo".to_owned(), info);
        }
        Value::Object(metadata)
    }
}

/// Decodes a body of the given format (see [`crate::negotiate::body_format`]). No resource is
/// published in protobuf: such a body is refused (415).
pub fn decode(format: Format, body: &[u8]) -> Result<Decoded, ApiError> {
    match format {
        Format::Json => json::decode(body),
        Format::Yaml => yaml::decode(body),
        Format::Protobuf => Err(ApiError::unsupported_media_type(&[
            "application/json",
            "application/yaml",
        ])),
    }
}

/// Encodes a value as JSON (pretty on request) or YAML. Protobuf falls back to JSON: its
/// few messages are written by [`protobuf`].
pub fn encode<T: serde::Serialize>(value: &T, format: Format, pretty: bool) -> Vec<u8> {
    let encoded = match format {
        Format::Yaml => return encode_yaml(value),
        Format::Json | Format::Protobuf if pretty => serde_json::to_vec_pretty(value),
        Format::Json | Format::Protobuf => serde_json::to_vec(value),
    };
    let mut body = encoded.expect("API objects have string keys and no failing serializer");
    body.push(b'\n');
    body
}

fn encode_yaml<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let options =
        serde_saphyr::ser_options! { prefer_block_scalars: false, compact_list_indent: true };
    serde_saphyr::to_string_with_options(value, options)
        .expect("API objects have string keys and no failing serializer")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn list_metadata_says_only_what_is_known() {
        let whole = ListMeta {
            resource_version: "7".into(),
            ..ListMeta::default()
        };
        assert_eq!(whole.to_value(), json!({"resourceVersion": "7"}));
        let page = ListMeta {
            resource_version: "7".into(),
            continue_token: Some("abc".into()),
            remaining_item_count: Some(3),
            shard_selector: Some("s".into()),
        };
        assert_eq!(
            page.to_value(),
            json!({"resourceVersion": "7", "continue": "abc", "remainingItemCount": 3, "shardInfo": {"selector": "s"}})
        );
    }

    #[test]
    fn a_protobuf_body_is_unsupported() {
        assert_eq!(
            decode(Format::Protobuf, b"k8s\0garbage")
                .unwrap_err()
                .code(),
            415
        );
    }

    #[test]
    fn yaml_looks_as_people_write_it() {
        let value = json!({"spec": {"list": ["a", "1", "yes"], "size": 1}, "empty": {}});
        let text = String::from_utf8(encode(&value, Format::Yaml, false)).unwrap();
        assert_eq!(
            text,
            "empty: {}\nspec:\n  list:\n  - a\n  - \"1\"\n  - \"yes\"\n  size: 1\n"
        );
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            ".{0,20}",
            "[-+.0-9_oxeE:~ #'\"&*!|>%@`?,]{0,8}",
            prop::sample::select(vec![
                "yes",
                "no",
                "on",
                "off",
                "y",
                "n",
                "true",
                "null",
                "~",
                "",
                " ",
                "010",
                "0o7",
                "1e3",
                ".inf",
                ".nan",
                "=",
                "<<",
                "-",
                "---",
                "...",
                "2026-01-01",
                "12:30:45",
                "a\nb\n",
                "\u{feff}",
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_in_any_format_is_read_back(
            members in prop::collection::btree_map(any_text(), any_text(), 0..6),
            number in any::<i64>(),
        ) {
            let labels: Object =
                members.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
            let value = json!({"labels": labels, "list": [number, null, true, [], {}]});
            for format in [Format::Json, Format::Yaml] {
                let body = encode(&value, format, false);
                let read = decode(format, &body).unwrap().value;
                prop_assert_eq!(&read, &value, "{}", String::from_utf8_lossy(&body));
            }
        }
    }
}
