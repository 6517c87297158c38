//! YAML as Kubernetes reads it: one document, converted to what JSON can say.
//!
//! The limits are tighter than JSON's, because an alias costs three bytes and may stand for
//! a million: nesting beyond [`super::json::KEPT_DEPTH`] and more than a few thousand
//! repeated nodes are refused. kubectl itself sends JSON.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::options::DuplicateKeyPolicy;

use super::Decoded;
use super::json::KEPT_DEPTH;
use crate::error::ApiError;

/// How many nodes aliases may add to a document in total.
const MAX_REPEATED_NODES: usize = 5_000;

/// How many nodes a document may have. A node costs microseconds here, which a body full of
/// the shortest ones would turn into seconds.
const MAX_NODES: usize = 250_000;

/// Decodes one document. Duplicate keys are reported as [`super::json::decode`] does.
pub fn decode(body: &[u8]) -> Result<Decoded, ApiError> {
    read(body)
        .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))
}

fn read(body: &[u8]) -> Result<Decoded, String> {
    let text = std::str::from_utf8(body).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    let place = Place::default();
    let seed = NodeSeed { place: &place };
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |node| {
        seed.deserialize(node)
    })
    .map_err(|error| describe(&error))?;
    Ok(Decoded {
        value,
        duplicates: place.duplicates.into_inner(),
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: KEPT_DEPTH,
            flow_nesting_limit: KEPT_DEPTH + 1,
            max_events: 2 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_documents: 1,
        },
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPEATED_NODES,
        },
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Limits are told in Kubernetes' words.
fn describe(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let lower = text.to_lowercase();
    if lower.contains("depth") || lower.contains("nesting") || lower.contains("recursion") {
        return format!("exceeded max depth: {text}");
    }
    if lower.contains("alias") || lower.contains("anchor") {
        return format!("yaml: document contains excessive aliasing: {text}");
    }
    format!("yaml: {text}")
}

/// Where the reader is, and the duplicates that it has met.
#[derive(Default)]
struct Place {
    path: RefCell<String>,
    duplicates: RefCell<Vec<String>>,
}

impl Place {
    /// Runs `work` one step further down.
    fn below<T>(&self, step: &str, is_key: bool, work: impl FnOnce() -> T) -> T {
        let length = self.push(step, is_key);
        let result = work();
        self.path.borrow_mut().truncate(length);
        result
    }

    fn push(&self, step: &str, is_key: bool) -> usize {
        let mut path = self.path.borrow_mut();
        let length = path.len();
        if is_key && length > 0 {
            path.push('.');
        }
        path.push_str(step);
        length
    }

    fn report_duplicate(&self) {
        let path = self.path.borrow();
        let mut duplicates = self.duplicates.borrow_mut();
        if duplicates.len() < super::json::MAX_DUPLICATES && !duplicates.contains(&path) {
            duplicates.push(path.clone());
        }
    }
}

struct NodeSeed<'a> {
    place: &'a Place,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, node: D) -> Result<Value, D::Error> {
        node.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node that JSON can say")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, node: D) -> Result<Value, D::Error> {
        node.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "Go reads such an integer as a float too"
        )]
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "Go reads such an integer as a float too"
        )]
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if let Some(whole) = as_whole(value) {
            return Ok(Value::from(whole));
        }
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("json: unsupported value: a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let step = format!("[{}]", out.len());
            let seed = NodeSeed { place: self.place };
            match self
                .place
                .below(&step, false, || items.next_element_seed(seed))?
            {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = members.next_key_seed(KeySeed)? {
            let seed = NodeSeed { place: self.place };
            let value = self.place.below(&key, true, || {
                if out.contains_key(&key) {
                    self.place.report_duplicate();
                }
                members.next_value_seed(seed)
            })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// Keys are strings in JSON: a scalar of another type is written as one.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, node: D) -> Result<String, D::Error> {
        let place = Place::default();
        match node.deserialize_any(NodeSeed { place: &place })? {
            Value::String(text) => Ok(text),
            Value::Bool(value) => Ok(value.to_string()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Null => Ok("null".to_owned()),
            Value::Array(_) | Value::Object(_) => {
                Err(D::Error::custom("a collection cannot be a key in JSON"))
            }
        }
    }
}

/// `1.0` and `1e3` are written as integers by Go's YAML to JSON conversion.
fn as_whole(value: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() != 0.0 || value.abs() > EXACT {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole and within 2^53: exact"
    )]
    Some(value as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refusal(text: &str) -> String {
        let error = decode(text.as_bytes()).unwrap_err();
        assert_eq!(error.code(), 400);
        error.to_string()
    }

    #[test]
    fn a_manifest_is_read() {
        let text = "apiVersion: custom.example.com/v1\nkind: Widget\nmetadata:\n  name: my-widget\n  \
                    labels: {a: \"1\", b: x}\nspec:\n  replicas: 3\n  image: nginx:1.27 # which\n";
        let decoded = decode(text.as_bytes()).unwrap();
        assert_eq!(
            decoded.value,
            json!({
                "apiVersion": "custom.example.com/v1", "kind": "Widget",
                "metadata": {"name": "my-widget", "labels": {"a": "1", "b": "x"}},
                "spec": {"replicas": 3, "image": "nginx:1.27"},
            })
        );
        assert!(decoded.duplicates.is_empty());
    }

    #[test]
    fn scalars_mean_what_they_mean_in_go() {
        let text = "octal: 010\nyes: on\nstring: \"010\"\nfloat: 1.0\nexp: 1e3\nhalf: 0.5\nnone: ~\n\
                    empty:\nbig: 9223372036854775807\ndate: 2026-01-01\ntime: 12:30:45\n7: seven\n";
        assert_eq!(
            decode(text.as_bytes()).unwrap().value,
            json!({
                "octal": 8, "true": true, "string": "010", "float": 1, "exp": 1000, "half": 0.5,
                "none": null, "empty": null, "big": i64::MAX, "date": "2026-01-01",
                "time": "12:30:45", "7": "seven",
            })
        );
    }

    #[test]
    fn json_is_yaml() {
        let text = r#"{"a": [1, {"b": null}], "c": "x: y"}"#;
        assert_eq!(
            decode(text.as_bytes()).unwrap().value,
            json!({"a": [1, {"b": null}], "c": "x: y"})
        );
    }

    #[test]
    fn the_last_duplicate_wins_and_its_path_is_reported() {
        let text = "spec:\n  color: a\n  color: b\n  list:\n  - x: 1\n    x: 2\n";
        let decoded = decode(text.as_bytes()).unwrap();
        assert_eq!(decoded.duplicates, ["spec.color", "spec.list[0].x"]);
        assert_eq!(decoded.value["spec"]["color"], json!("b"));
        assert_eq!(decoded.value["spec"]["list"][0]["x"], json!(2));
    }

    #[test]
    fn aliases_work_within_reason() {
        let text = "a: &x {k: v}\nb: *x\n";
        assert_eq!(
            decode(text.as_bytes()).unwrap().value,
            json!({"a": {"k": "v"}, "b": {"k": "v"}})
        );
    }

    #[test]
    fn a_billion_laughs_are_refused_at_once() {
        let mut text = String::from("a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n");
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            text.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![below; 9].join(",")
            ));
        }
        let started = std::time::Instant::now();
        assert!(refusal(&text).contains("excessive aliasing"));
        assert!(started.elapsed().as_millis() < 500);
    }

    #[test]
    fn a_body_full_of_tiny_nodes_is_refused() {
        let text = "- a\n".repeat(MAX_NODES + 1);
        assert!(refusal(&text).contains("error converting YAML to JSON"));
    }

    #[test]
    fn great_depth_is_refused_in_both_styles() {
        let flow = format!("a: {}{}", "[".repeat(10_001), "]".repeat(10_001));
        assert!(refusal(&flow).contains("max depth"), "{}", refusal(&flow));
        assert!(refusal(&"[".repeat(1_000_000)).contains("max depth"));
        let block = "- ".repeat(10_001);
        assert!(refusal(&block).contains("max depth"), "{}", refusal(&block));
        let mut nested = String::new();
        for level in 0..1_000 {
            nested.push_str(&" ".repeat(level));
            nested.push_str("a:\n");
        }
        assert!(
            refusal(&nested).contains("max depth"),
            "{}",
            refusal(&nested)
        );
    }

    #[test]
    fn depth_within_the_limit_is_read_on_an_ordinary_stack() {
        let text = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
        assert!(decode(text.as_bytes()).is_ok());
    }

    #[test]
    fn broken_documents_are_refused() {
        for text in [
            "a: [",
            "a: b: c",
            "a: 1\n---\nb: 2\n",
            "a: .nan",
            "[a]: 1",
            "*x",
        ] {
            refusal(text);
        }
        assert_eq!(decode(b"a: \xff").unwrap_err().code(), 400);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[-a\\[\\]{}:,&*! \n\"'|>#%@`0-9.]{0,40}") {
            drop(decode(text.as_bytes()));
        }
    }
}
