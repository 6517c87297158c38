use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn patched(document: Value, patch: Value) -> Result<Value, ApiError> {
    let mut document = document;
    json_patch(&mut document, patch.to_string().as_bytes())?;
    Ok(document)
}

#[track_caller]
fn becomes(document: Value, patch: Value, expected: Value) {
    assert_eq!(patched(document, patch).unwrap(), expected);
}

#[track_caller]
fn is_unprocessable(document: Value, patch: Value) {
    let error = patched(document, patch).unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (422, Some(crate::error::Reason::Invalid))
    );
    let text = "the server rejected our request due to an error in our request";
    assert_eq!(error.to_string(), text);
}

/// The examples of RFC 6902, appendices A.1 to A.7.
#[test]
fn the_appendix_of_rfc_6902_holds() {
    becomes(
        json!({"foo": "bar"}),
        json!([{"op": "add", "path": "/baz", "value": "qux"}]),
        json!({"baz": "qux", "foo": "bar"}),
    );
    becomes(
        json!({"foo": ["bar", "baz"]}),
        json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
        json!({"foo": ["bar", "qux", "baz"]}),
    );
    becomes(
        json!({"baz": "qux", "foo": "bar"}),
        json!([{"op": "remove", "path": "/baz"}]),
        json!({"foo": "bar"}),
    );
    becomes(
        json!({"foo": ["bar", "qux", "baz"]}),
        json!([{"op": "remove", "path": "/foo/1"}]),
        json!({"foo": ["bar", "baz"]}),
    );
    becomes(
        json!({"baz": "qux", "foo": "bar"}),
        json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
        json!({"baz": "boo", "foo": "bar"}),
    );
    becomes(
        json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
        json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
        json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
    );
    becomes(
        json!({"foo": ["all", "grass", "cows", "eat"]}),
        json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
        json!({"foo": ["all", "cows", "eat", "grass"]}),
    );
}

/// The examples of RFC 6902, appendices A.8 to A.16; A.13 is further down.
#[test]
fn the_rest_of_the_appendix_of_rfc_6902_holds() {
    let tested = json!({"baz": "qux", "foo": ["a", 2, "c"]});
    becomes(
        tested.clone(),
        json!([
            {"op": "test", "path": "/baz", "value": "qux"},
            {"op": "test", "path": "/foo/1", "value": 2}
        ]),
        tested,
    );
    is_unprocessable(
        json!({"baz": "qux"}),
        json!([{"op": "test", "path": "/baz", "value": "bar"}]),
    );
    becomes(
        json!({"foo": "bar"}),
        json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
        json!({"foo": "bar", "child": {"grandchild": {}}}),
    );
    becomes(
        json!({"foo": "bar"}),
        json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
        json!({"foo": "bar", "baz": "qux"}),
    );
    is_unprocessable(
        json!({"foo": "bar"}),
        json!([{"op": "add", "path": "/baz/bat", "value": "qux"}]),
    );
    becomes(
        json!({"/": 9, "~1": 10}),
        json!([{"op": "test", "path": "/~01", "value": 10}]),
        json!({"/": 9, "~1": 10}),
    );
    is_unprocessable(
        json!({"/": 9, "~1": 10}),
        json!([{"op": "test", "path": "/~01", "value": "10"}]),
    );
    becomes(
        json!({"foo": ["bar"]}),
        json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
        json!({"foo": ["bar", ["abc", "def"]]}),
    );
}

/// A.13: of two `op` members the last counts, as in Go, and the duplicate is reported.
#[test]
fn a_duplicate_member_of_an_operation_is_reported() {
    let text = br#"[{"op": "add", "path": "/baz", "value": "qux", "op": "remove"}]"#;
    let patch = JsonPatch::parse(text).unwrap();
    assert_eq!(
        patch.strict_problems(),
        ["json patch duplicate field \"[0].op\""]
    );
    let mut document = json!({"baz": 1});
    patch.apply(&mut document).unwrap();
    assert_eq!(document, json!({}));
}

#[test]
fn an_unknown_member_of_an_operation_is_reported() {
    let patch = JsonPatch::parse(br#"[{"op": "test", "path": "/a", "xyz": 1}]"#).unwrap();
    assert_eq!(
        patch.strict_problems(),
        ["json patch unknown field \"[0].xyz\""]
    );
}

#[test]
fn more_cases_of_the_suite_hold() {
    becomes(json!({}), json!([]), json!({}));
    becomes(json!({}), json!(null), json!({}));
    let at = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
    becomes(json!({}), at("add", "/", json!(1)), json!({"": 1}));
    becomes(
        json!({"a": {}}),
        at("add", "/a/", json!(1)),
        json!({"a": {"": 1}}),
    );
    becomes(
        json!({"a": 1}),
        at("add", "/a", json!(null)),
        json!({"a": null}),
    );
    becomes(
        json!({"a": 1}),
        at("add", "", json!({"b": 2})),
        json!({"b": 2}),
    );
    becomes(json!({"a": 1}), at("replace", "", json!([1])), json!([1]));
    becomes(json!([]), at("add", "/0", json!("x")), json!(["x"]));
    becomes(json!(["a"]), at("add", "/1", json!("x")), json!(["a", "x"]));
    becomes(
        json!({"1e0": "x"}),
        at("test", "/1e0", json!("x")),
        json!({"1e0": "x"}),
    );
    becomes(
        json!({"a": [1, 2]}),
        at("test", "", json!({"a": [1, 2]})),
        json!({"a": [1, 2]}),
    );
    becomes(
        json!({"a": {"b": 1}}),
        json!([{"op": "copy", "from": "/a", "path": "/c"}, {"op": "remove", "path": "/a/b"}]),
        json!({"a": {}, "c": {"b": 1}}),
    );
    becomes(
        json!({"a": 1}),
        json!([{"op": "move", "from": "/a", "path": "/a"}]),
        json!({"a": 1}),
    );
    for patch in [
        at("add", "/2", json!("x")),
        at("add", "/bar", json!(1)),
        at("add", "/1e0", json!(1)),
        at("test", "/00", json!("a")),
        at("test", "/1", json!("a")),
        at("test", "/-", json!("a")),
        at("remove", "/1e0", json!(1)),
        at("replace", "/1", json!(1)),
        at("spam", "/0", json!(1)),
        json!([{"op": "copy", "from": "/9", "path": "/0"}]),
        json!([{"op": "move", "from": "/9", "path": "/0"}]),
        json!([{"op": "copy", "path": "/0"}]),
        json!([{"op": "move", "path": "/0"}]),
        json!([{"op": "add", "value": 1}]),
        json!([{"path": "/0", "value": 1}]),
        json!([null]),
    ] {
        is_unprocessable(json!(["a"]), patch);
    }
    is_unprocessable(
        json!({"a": {"b": 1}}),
        json!([{"op": "move", "from": "/a", "path": "/a/b"}]),
    );
}

#[test]
fn the_go_library_wins_in_what_clients_rely_on() {
    let at = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
    becomes(
        json!({"a": [1, 2]}),
        at("remove", "/a/-1", json!(null)),
        json!({"a": [1]}),
    );
    becomes(
        json!({"a": [1, 2]}),
        at("replace", "/a/-2", json!(0)),
        json!({"a": [0, 2]}),
    );
    becomes(
        json!({"a": [1, 2]}),
        at("add", "/a/-1", json!(3)),
        json!({"a": [1, 2, 3]}),
    );
    becomes(
        json!({"a": [1, 2]}),
        at("add", "/a/-3", json!(0)),
        json!({"a": [0, 1, 2]}),
    );
    is_unprocessable(json!({"a": [1, 2]}), at("remove", "/a/-3", json!(null)));
    is_unprocessable(json!({"a": [1, 2]}), at("add", "/a/-4", json!(null)));
    becomes(
        json!({"a": 1}),
        at("test", "/b", json!(null)),
        json!({"a": 1}),
    );
    becomes(
        json!({"a": null}),
        json!([{"op": "test", "path": "/a"}]),
        json!({"a": null}),
    );
    is_unprocessable(json!({"a": 1}), at("test", "/b", json!(1)));
    becomes(
        json!({"a": 1}),
        at("replace", "/b", json!(2)),
        json!({"a": 1, "b": 2}),
    );
}

#[test]
fn hostile_operations_are_unprocessable() {
    let at = |op: &str, path: &str| json!([{"op": op, "path": path, "value": 1}]);
    for patch in [
        at("zap", "/a"),
        at("add", "a"),
        at("add", "/a/9223372036854775808"),
        at("remove", "/a/18446744073709551616"),
        at("remove", ""),
        at("replace", ""),
        at("add", "/s/x"),
    ] {
        is_unprocessable(json!({"a": [1], "s": "text"}), patch);
    }
}

#[test]
fn what_is_no_patch_is_a_bad_request() {
    for text in [
        "{}",
        "[",
        "",
        "\"x\"",
        "[1]",
        r#"[{"op": 1}]"#,
        r#"[{"op":"add","path":[]}]"#,
    ] {
        let error = JsonPatch::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.code(), 400, "{text}");
    }
}

#[test]
fn too_many_operations_are_too_large() {
    let operations = |count: usize| {
        let text = vec![r#"{"op":"test","path":"/a"}"#; count].join(",");
        JsonPatch::parse(format!("[{text}]").as_bytes())
    };
    let mut document = json!({});
    operations(10_000).unwrap().apply(&mut document).unwrap();
    let error = operations(10_001).unwrap_err();
    assert_eq!(error.code(), 413);
    assert_eq!(
        error.to_string(),
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got \
         10001"
    );
}

#[test]
fn a_copy_bomb_is_stopped_early() {
    let copies: Vec<Value> = (0..29)
        .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"}))
        .collect();
    let begun = Instant::now();
    is_unprocessable(json!({"a": [1]}), Value::Array(copies));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_document_does_not_nest_without_end() {
    let copies: Vec<Value> = (0..12)
        .map(|power| json!({"op": "copy", "from": "/a", "path": "/a".repeat((1 << power) + 1)}))
        .collect();
    is_unprocessable(json!({"a": {}}), Value::Array(copies));
    let moves: Vec<Value> = (0..2_000)
        .flat_map(|_| {
            [
                json!({"op": "move", "from": "/a", "path": "/b/x"}),
                json!({"op": "move", "from": "/b", "path": "/a"}),
                json!({"op": "add", "path": "/b", "value": {}}),
            ]
        })
        .collect();
    is_unprocessable(json!({"a": 1, "b": {}}), Value::Array(moves));
}

#[test]
fn shifting_a_large_array_is_bounded() {
    let items: Vec<u8> = vec![0; 1_000_000];
    let inserts: Vec<Value> = (0..9_999)
        .map(|_| json!({"op": "add", "path": "/a/0", "value": 0}))
        .collect();
    let begun = Instant::now();
    is_unprocessable(json!({ "a": items }), Value::Array(inserts));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// The test cases of RFC 7386, appendix A, in its order.
#[test]
fn the_appendix_of_rfc_7386_holds() {
    for (original, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b"}),
            json!({"b": "c"}),
            json!({"a": "b", "b": "c"}),
        ),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": [{"b": "c"}]}),
            json!({"a": [1]}),
            json!({"a": [1]}),
        ),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!([1, 2]),
            json!({"a": "b", "c": null}),
            json!({"a": "b"}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ] {
        let mut document = original;
        merge_patch(&mut document, patch);
        assert_eq!(document, result);
    }
}

#[test]
fn only_an_object_is_a_merge_patch() {
    for text in ["null", "[]", "\"x\"", "", "{", "1"] {
        assert_eq!(
            MergePatch::parse(text.as_bytes()).unwrap_err().code(),
            400,
            "{text}"
        );
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
    assert_eq!(MergePatch::parse(deep.as_bytes()).unwrap_err().code(), 400);
    let twice = MergePatch::parse(br#"{"spec":{"a":1,"a":2}}"#).unwrap();
    assert_eq!(twice.strict_problems(), ["duplicate field \"spec.a\""]);
}

#[test]
fn a_patched_document_that_is_no_object_of_the_kind_is_invalid() {
    let error = undecodable(&json!({}), "Object 'Kind' is missing in '{}'");
    assert_eq!(error.code(), 422);
    assert_eq!(
        error.to_string(),
        " \"\" is invalid: patch: Invalid value: \"{}\": Object 'Kind' is missing in '{}'"
    );
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn operation() -> impl Strategy<Value = Value> {
    let path = "(/([abc]|-|-?[0-2])){0,4}";
    let kind = proptest::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]);
    (kind, path, path, json_value()).prop_map(
        |(kind, path, from, value)| json!({"op": kind, "path": path, "from": from, "value": value}),
    )
}

/// The members that must change, and to what, for `from` to become `to`.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Object::new();
    for member in from.keys().filter(|member| !to.contains_key(*member)) {
        patch.insert(member.clone(), Value::Null);
    }
    for (member, value) in to {
        match from.get(member) {
            Some(old) if old == value => {}
            Some(old) => {
                patch.insert(member.clone(), difference(old, value));
            }
            None => {
                patch.insert(member.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(member, value)| (member, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        scalar => scalar,
    }
}

proptest! {
    #[test]
    fn any_patch_applies_or_is_refused(
        document in json_value(), operations in proptest::collection::vec(operation(), 0..6)
    ) {
        if let Err(error) = patched(document, Value::Array(operations)) {
            prop_assert_eq!(error.code(), 422);
        }
    }

    #[test]
    fn any_text_is_a_patch_or_refused(text in r#"[\[\]{}":,a-d/0-9 opathvlue]{0,60}"#) {
        for error in [
            JsonPatch::parse(text.as_bytes()).err(),
            MergePatch::parse(text.as_bytes()).err(),
        ].into_iter().flatten() {
            prop_assert_eq!(error.code(), 400);
        }
    }

    #[test]
    fn what_was_added_is_found_and_can_be_removed(document in json_value(), value in json_value()) {
        prop_assume!(document.is_object());
        let added = patched(document.clone(), json!([
            {"op": "remove", "path": "/new"}, {"op": "add", "path": "/new", "value": value},
        ]));
        prop_assert!(added.is_err());
        let restored = patched(document.clone(), json!([
            {"op": "add", "path": "/new", "value": value},
            {"op": "test", "path": "/new", "value": value},
            {"op": "move", "from": "/new", "path": "/newer"},
            {"op": "copy", "from": "/newer", "path": "/new"},
            {"op": "test", "path": "/new", "value": value},
            {"op": "remove", "path": "/new"},
            {"op": "remove", "path": "/newer"},
        ]));
        prop_assert_eq!(restored.unwrap(), document);
    }

    #[test]
    fn a_difference_leads_from_one_document_to_the_other(a in json_value(), b in json_value()) {
        let (a, b) = (without_nulls(a), without_nulls(b));
        let mut document = a.clone();
        merge_patch(&mut document, difference(&a, &b));
        prop_assert_eq!(document, b);
    }

    #[test]
    fn a_merge_patch_applied_twice_is_applied_once(document in json_value(), patch in json_value()) {
        let mut once = document;
        merge_patch(&mut once, patch.clone());
        let mut twice = once.clone();
        merge_patch(&mut twice, patch);
        prop_assert_eq!(once, twice);
    }
}
