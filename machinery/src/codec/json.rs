//! JSON as Kubernetes reads it.
//!
//! A parser of our own, because a request body is hostile: it may be a million brackets deep
//! (no recursion here, and none later: see [`KEPT_DEPTH`]), hold invalid UTF-8 (replaced, as
//! Go does) or name a key twice (the last wins, and strict validation wants the path).
//! Create of a 1 KiB object spends a few microseconds here.

mod scan;

use scan::{Scanner, end};
use serde_json::{Map, Value};

use super::Decoded;
use crate::error::ApiError;

/// The deepest nesting that is read at all, as in Go.
pub const MAX_DEPTH: usize = 10_000;

/// The deepest nesting that is kept. Everything below is checked for syntax and replaced by
/// an empty container, so that no later step (and no drop) recurses deeply. No published
/// schema goes this deep: what is lost here would be pruned, and
/// [`Schema::check_types`](crate::schema::Schema::check_types) refuses it where a schema
/// keeps unknown fields.
pub const KEPT_DEPTH: usize = 256;

/// How many duplicate keys are reported.
pub(super) const MAX_DUPLICATES: usize = 100;

/// Decodes one document. Case-sensitive; the last of duplicate keys wins and is reported;
/// invalid UTF-8 and lone surrogates become U+FFFD; depth is limited to 10,000 (400).
pub fn decode(body: &[u8]) -> Result<Decoded, ApiError> {
    let parser = Parser {
        scanner: Scanner { body, at: 0 },
        stack: Vec::new(),
        duplicates: Vec::new(),
    };
    parser
        .run()
        .map_err(|error| ApiError::bad_request(format!("json parse error: {error}")))
}

/// A container that is being read.
enum Frame {
    Array(Vec<Value>),
    Object {
        members: Map<String, Value>,
        key: String,
    },
}

impl Frame {
    fn into_value(self) -> Value {
        match self {
            Self::Array(items) => Value::Array(items),
            Self::Object { members, .. } => Value::Object(members),
        }
    }

    fn into_empty_value(self) -> Value {
        match self {
            Self::Array(_) => Value::Array(Vec::new()),
            Self::Object { .. } => Value::Object(Map::new()),
        }
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    stack: Vec<Frame>,
    duplicates: Vec<String>,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Decoded, String> {
        loop {
            let Some(mut value) = self.begin_value()? else {
                continue;
            };
            // The value is whole: hand it to its container, and that one, when it closes, to its own.
            loop {
                if self.stack.is_empty() {
                    return self.finish(value);
                }
                match self.attach(value)? {
                    Some(closed) => value = closed,
                    None => break,
                }
            }
        }
    }

    fn finish(mut self, value: Value) -> Result<Decoded, String> {
        match self.scanner.next_token() {
            None => Ok(Decoded {
                value,
                duplicates: self.duplicates,
            }),
            Some(byte) => Err(self.scanner.unexpected(byte, "after top-level value")),
        }
    }

    /// Reads a scalar or an empty container; `None` when a container was opened and its
    /// first value follows.
    fn begin_value(&mut self) -> Result<Option<Value>, String> {
        let Some(byte) = self.scanner.next_token() else {
            return Err(end());
        };
        match byte {
            b'"' => {
                self.scanner.at += 1;
                Ok(Some(Value::String(self.scanner.read_string()?)))
            }
            b'{' => self.open_object(),
            b'[' => self.open_array(),
            b'-' | b'0'..=b'9' => self.scanner.read_number().map(Some),
            b't' => self.scanner.read_word(b"true", Value::Bool(true)).map(Some),
            b'f' => self
                .scanner
                .read_word(b"false", Value::Bool(false))
                .map(Some),
            b'n' => self.scanner.read_word(b"null", Value::Null).map(Some),
            other => Err(self
                .scanner
                .unexpected(other, "looking for beginning of value")),
        }
    }

    fn open_object(&mut self) -> Result<Option<Value>, String> {
        self.descend()?;
        match self.scanner.next_token() {
            Some(b'}') => {
                self.scanner.at += 1;
                Ok(Some(Value::Object(Map::new())))
            }
            Some(b'"') => {
                let key = self.read_key()?;
                self.stack.push(Frame::Object {
                    members: Map::new(),
                    key,
                });
                Ok(None)
            }
            Some(byte) => Err(self
                .scanner
                .unexpected(byte, "looking for beginning of object key string")),
            None => Err(end()),
        }
    }

    fn open_array(&mut self) -> Result<Option<Value>, String> {
        self.descend()?;
        if self.scanner.next_token() == Some(b']') {
            self.scanner.at += 1;
            return Ok(Some(Value::Array(Vec::new())));
        }
        self.stack.push(Frame::Array(Vec::new()));
        Ok(None)
    }

    fn descend(&mut self) -> Result<(), String> {
        self.scanner.at += 1;
        if self.stack.len() >= MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        Ok(())
    }

    /// Adds a value to the open container; returns that container when it closes.
    fn attach(&mut self, value: Value) -> Result<Option<Value>, String> {
        let (close, place) = match self.stack.last_mut() {
            Some(Frame::Array(items)) => {
                items.push(value);
                (b']', "after array element")
            }
            Some(Frame::Object { members, key }) => {
                let duplicate = match members.entry(std::mem::take(key)) {
                    serde_json::map::Entry::Vacant(entry) => {
                        entry.insert(value);
                        None
                    }
                    serde_json::map::Entry::Occupied(mut entry) => {
                        entry.insert(value);
                        Some(entry.key().clone())
                    }
                };
                if let Some(key) = duplicate {
                    self.report_duplicate(key);
                }
                (b'}', "after object key:value pair")
            }
            None => return Ok(Some(value)),
        };
        match self.scanner.next_token() {
            Some(b',') => {
                self.scanner.at += 1;
                self.begin_next_member()?;
                Ok(None)
            }
            Some(byte) if byte == close => {
                self.scanner.at += 1;
                Ok(self.close())
            }
            Some(byte) => Err(self.scanner.unexpected(byte, place)),
            None => Err(end()),
        }
    }

    /// After a comma: in an object the next key is read, in an array nothing.
    fn begin_next_member(&mut self) -> Result<(), String> {
        if !matches!(self.stack.last(), Some(Frame::Object { .. })) {
            return Ok(());
        }
        match self.scanner.next_token() {
            Some(b'"') => {
                let next = self.read_key()?;
                if let Some(Frame::Object { key, .. }) = self.stack.last_mut() {
                    *key = next;
                }
                Ok(())
            }
            Some(byte) => Err(self
                .scanner
                .unexpected(byte, "looking for beginning of object key string")),
            None => Err(end()),
        }
    }

    fn close(&mut self) -> Option<Value> {
        let depth = self.stack.len();
        let frame = self.stack.pop()?;
        Some(if depth > KEPT_DEPTH {
            frame.into_empty_value()
        } else {
            frame.into_value()
        })
    }

    /// Reads a key and its colon; the cursor is at the opening quote.
    fn read_key(&mut self) -> Result<String, String> {
        self.scanner.at += 1;
        let key = self.scanner.read_string()?;
        match self.scanner.next_token() {
            Some(b':') => {
                self.scanner.at += 1;
                Ok(key)
            }
            Some(byte) => Err(self.scanner.unexpected(byte, "after object key")),
            None => Err(end()),
        }
    }

    fn report_duplicate(&mut self, key: String) {
        if self.duplicates.len() >= MAX_DUPLICATES {
            return;
        }
        let mut path = String::new();
        let last = self.stack.len().saturating_sub(1);
        for frame in self.stack.iter().take(last) {
            match frame {
                Frame::Array(items) => path.push_str(&format!("[{}]", items.len())),
                Frame::Object { key, .. } => push_key(&mut path, key),
            }
        }
        push_key(&mut path, &key);
        if !self.duplicates.contains(&path) {
            self.duplicates.push(path);
        }
    }
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        decode(text.as_bytes()).unwrap().value
    }

    fn refusal(body: &[u8]) -> String {
        let error = decode(body).unwrap_err();
        assert_eq!(error.code(), 400);
        error.to_string()
    }

    /// On a thread whose stack a recursion of this depth would overflow.
    fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(work)
            .unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_million_brackets_are_refused_and_the_process_survives() {
        on_a_small_stack(|| {
            assert!(refusal(&vec![b'['; 1_000_000]).contains("exceeded max depth"));
            assert!(refusal("{\"a\":".repeat(1_000_000).as_bytes()).contains("exceeded max depth"));
        });
    }

    #[test]
    fn depth_up_to_the_limit_is_read_and_cut() {
        on_a_small_stack(|| {
            for depth in [9_990, MAX_DEPTH] {
                let arrays = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                assert!(decode(arrays.as_bytes()).is_ok());
                let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
                assert!(decode(objects.as_bytes()).is_ok());
            }
        });
    }

    #[test]
    fn one_level_above_the_limit_is_refused() {
        let text = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert!(refusal(text.as_bytes()).contains("exceeded max depth"));
    }

    #[test]
    fn nothing_above_the_kept_depth_is_cut() {
        let text = format!("{}1{}", "[".repeat(KEPT_DEPTH), "]".repeat(KEPT_DEPTH));
        let expected = (0..KEPT_DEPTH).fold(json!(1), |inner, _| Value::Array(vec![inner]));
        assert!(value(&text) == expected);
    }

    #[test]
    fn the_last_duplicate_wins_and_its_path_is_reported_once() {
        let text = r#"{"spec":{"color":"a","color":"b","color":"c","list":[{"x":1},{"x":1,"x":2}]},"spec2":1}"#;
        let decoded = decode(text.as_bytes()).unwrap();
        assert_eq!(decoded.duplicates, ["spec.color", "spec.list[1].x"]);
        assert_eq!(decoded.value["spec"]["color"], json!("c"));
        assert_eq!(decoded.value["spec"]["list"][1]["x"], json!(2));
    }

    #[test]
    fn keys_that_differ_in_case_are_different() {
        let decoded = decode(br#"{"Spec":1,"spec":2}"#).unwrap();
        assert!(decoded.duplicates.is_empty());
        assert_eq!(decoded.value, json!({"Spec": 1, "spec": 2}));
    }

    #[test]
    fn numbers_keep_their_kind_and_value() {
        assert_eq!(value("9223372036854775807"), json!(i64::MAX));
        assert_eq!(value("-9223372036854775808"), json!(i64::MIN));
        assert_eq!(value("18446744073709551615"), json!(u64::MAX));
        assert_eq!(value("18446744073709551616"), json!(18446744073709551616.0));
        assert_eq!(value("-0"), json!(0));
        assert_eq!(value("1.5e3"), json!(1500.0));
        assert_eq!(value("0.1"), json!(0.1));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for text in [
            "01", "1.", ".5", "+1", "1e", "-", "NaN", "1e999", "0x10", "Infinity",
        ] {
            refusal(text.as_bytes());
        }
    }

    #[test]
    fn invalid_utf8_and_lone_surrogates_become_replacement_characters() {
        assert_eq!(
            decode(b"\"a\xff\xfeb\"").unwrap().value,
            json!("a\u{fffd}\u{fffd}b")
        );
        assert_eq!(value(r#""\ud800""#), json!("\u{fffd}"));
        assert_eq!(value(r#""\ud800\u0041""#), json!("\u{fffd}A"));
        assert_eq!(value(r#""\udc00\ud83d\ude00""#), json!("\u{fffd}\u{1f600}"));
    }

    #[test]
    fn nul_in_a_string_survives() {
        assert_eq!(value(r#""a\u0000b""#), json!("a\0b"));
    }

    #[test]
    fn broken_documents_are_refused_in_gos_words() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "unexpected end of JSON input"),
            (b"{\"a\"", "unexpected end of JSON input"),
            (
                b"garbage",
                "invalid character 'g' looking for beginning of value",
            ),
            (b"{} {}", "invalid character '{' after top-level value"),
            (
                b"{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            (b"[1 2]", "invalid character '2' after array element"),
            (b"{\"a\" 1}", "invalid character '1' after object key"),
            (b"\"a\nb\"", "invalid character '\\n' in string literal"),
            (
                b"\xef\xbb\xbf{}",
                "invalid character '\u{ef}' looking for beginning of value",
            ),
            (
                b"trux",
                "invalid character 'x' in literal true (expecting 'e')",
            ),
        ];
        for (body, text) in cases {
            assert!(refusal(body).contains(text), "{}", refusal(body));
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("finite", |f| f.is_finite())
                .prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(value in any_value()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let decoded = decode(text.as_bytes()).unwrap();
                prop_assert_eq!(&decoded.value, &value);
                prop_assert!(decoded.duplicates.is_empty());
            }
        }

        #[test]
        fn any_text_is_accepted_exactly_when_serde_json_accepts_it(
            text in r#"[\[\]{}:,"\\a-cu0-9eE.+\- ntrfalsu]{0,12}"#
        ) {
            let ours = decode(text.as_bytes());
            match serde_json::from_str::<Value>(&text) {
                Ok(_) => prop_assert!(ours.is_ok(), "{}", text),
                // serde_json refuses lone surrogates, where Go replaces them.
                Err(error) => prop_assert!(
                    ours.is_err() || text.contains("\\u"), "{}: {}", text, error
                ),
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(decode(&bytes));
        }
    }
}
