use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn select(selector: &str, labels: &[(&str, &str)]) -> bool {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    LabelSelector::parse(selector)
        .unwrap()
        .matches(|key| labels.get(key))
}

#[test]
fn every_operator_selects() {
    let labels = [("a", "b"), ("n", "5"), ("e", "")];
    for selector in [
        "",
        "a=b",
        "a==b",
        "a!=c",
        "a",
        "!z",
        "a in (b,c)",
        "a notin (c)",
        "n>4",
        "n<6",
        "e=",
        "e in (,x)",
        "e in ()",
        " a = b , ! z ",
        "in notin (in)",
        "a=b,n=5,e",
    ] {
        assert!(select(selector, &labels), "{selector}");
    }
    for selector in [
        "a=c",
        "a!=b",
        "!a",
        "z",
        "a in (c)",
        "a notin (b)",
        "n>5",
        "n<5",
        "a>1",
        "z>1",
        "e!=",
    ] {
        assert!(!select(selector, &labels), "{selector}");
    }
}

#[test]
fn an_absent_key_satisfies_only_the_negations() {
    for selector in ["z!=a", "z notin (a)", "!z"] {
        assert!(select(selector, &[]), "{selector}");
    }
    for selector in ["z=a", "z in (a)", "z", "z>1", "z=", "z in ()"] {
        assert!(!select(selector, &[]), "{selector}");
    }
}

#[test]
fn malformed_selectors_are_bad_requests_in_upstreams_words() {
    let cases = [
        (
            "a in (",
            "unable to parse requirement: found '', expected: ',', ')' or identifier",
        ),
        (
            "a===b",
            "unable to parse requirement: found '=', expected: identifier",
        ),
        (
            "a in b",
            "unable to parse requirement: found 'b' expected: '('",
        ),
        (
            "a in (b",
            "unable to parse requirement: found '', expected: ',' or ')'",
        ),
        ("a,", "found '', expected: identifier after ','"),
        (
            ",a",
            "found ',', expected: !, identifier, or 'end of string'",
        ),
        (
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' \
             operators, the value must be an integer",
        ),
    ];
    for (text, message) in cases {
        let error = LabelSelector::parse(text).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (400, message),
            "{text}"
        );
    }
    let long = LabelSelector::parse(&format!("a={}", "x".repeat(64))).unwrap_err();
    assert!(
        long.to_string()
            .starts_with("unable to parse requirement: values[0][a]: Invalid")
    );
    let key = LabelSelector::parse("a/b/c=d").unwrap_err();
    assert!(
        key.to_string()
            .starts_with("unable to parse requirement: <nil>: Invalid value")
    );
}

#[test]
fn a_nul_is_no_end_of_the_selector() {
    assert_eq!(LabelSelector::parse("\0,a=b").unwrap_err().code(), 400);
    assert_eq!(LabelSelector::parse("a=b\0").unwrap_err().code(), 400);
}

#[test]
fn twenty_thousand_terms_are_read_and_matched_in_time() {
    let text: Vec<String> = (0..20_000).map(|index| format!("k{index}!=v")).collect();
    let begun = Instant::now();
    let selector = LabelSelector::parse(&text.join(",")).unwrap();
    assert!(selector.matches(|_| Some("w")));
    let spent = begun.elapsed();
    assert!(spent < Duration::from_secs(1), "{spent:?}");
}

#[test]
fn an_object_is_selected_by_its_labels() {
    let object = json!({"metadata": {"labels": {"a": "b"}}});
    let object = object.as_object().unwrap();
    assert!(LabelSelector::parse("a=b").unwrap().matches_object(object));
    assert!(!LabelSelector::parse("a=c").unwrap().matches_object(object));
    assert!(
        LabelSelector::parse("")
            .unwrap()
            .matches_object(&Object::new())
    );
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let word = "[a-z0-9]{1,5}";
    let values = proptest::collection::vec("[a-z0-9]{0,3}", 1..4);
    let operator = prop_oneof![
        Just(Operator::In),
        Just(Operator::NotIn),
        Just(Operator::Equals),
        Just(Operator::DoubleEquals),
        Just(Operator::NotEquals),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
        Just(Operator::GreaterThan),
        Just(Operator::LessThan),
    ];
    (word, operator, values, any::<u32>()).prop_map(|(key, operator, values, number)| {
        let values = match operator {
            Operator::In | Operator::NotIn => values,
            Operator::Exists | Operator::DoesNotExist => vec![],
            Operator::GreaterThan | Operator::LessThan => vec![number.to_string()],
            _ => values.into_iter().take(1).collect(),
        };
        Requirement::new(&key, operator, values).unwrap()
    })
}

proptest! {
    #[test]
    fn a_selector_survives_its_text(requirements in proptest::collection::vec(requirement(), 0..5)) {
        let mut requirements = requirements;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        let selector = LabelSelector { requirements };
        prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn any_text_is_read_or_refused(text in r"[a-c1 =!<>(),./\t\u{0}\u{fc}in]{0,30}") {
        if let Err(error) = LabelSelector::parse(&text) {
            prop_assert_eq!(error.code(), 400);
        }
    }

    #[test]
    fn a_negation_selects_what_its_opposite_does_not(
        value in proptest::option::of("[a-z]{0,2}"), wanted in "[a-z]{0,2}"
    ) {
        for (positive, negative) in [
            (format!("k={wanted}"), format!("k!={wanted}")),
            (format!("k in ({wanted})"), format!("k notin ({wanted})")),
            ("k".to_owned(), "!k".to_owned()),
        ] {
            let selected = |text: &str| {
                LabelSelector::parse(text).unwrap().matches(|_| value.as_deref())
            };
            prop_assert_ne!(selected(&positive), selected(&negative));
        }
    }
}
