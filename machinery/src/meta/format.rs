//! The formats of names, label keys and label values, and upstream's words for a breach.
//!
//! Each check first answers by a scan of the bytes, as nearly every value is well-formed; words
//! are put together for the others only.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
    and end with an alphanumeric character";
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character";

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

/// What is wrong with a name that must be a DNS subdomain; empty if nothing is.
#[must_use]
pub fn subdomain_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        problems.push(too_many_characters(SUBDOMAIN_MAX));
    }
    if !is_subdomain(name) {
        problems.push(mismatch(SUBDOMAIN_RULE, SUBDOMAIN, &["example.com"]));
    }
    problems
}

/// What is wrong with a name that must be a DNS label; empty if nothing is.
#[must_use]
pub fn label_problems(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > LABEL_MAX {
        problems.push(too_many_characters(LABEL_MAX));
    }
    if !is_label(name) {
        problems.push(if is_subdomain(name) {
            "must not contain dots".to_owned()
        } else {
            mismatch(LABEL_RULE, LABEL, &["my-name", "123-abc"])
        });
    }
    problems
}

/// What is wrong with a label key, which is also the format of finalizers; empty if nothing is.
#[must_use]
pub fn key_problems(key: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut problems = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')",
                mismatch(KEY_RULE, KEY, &examples)
            )];
        }
        Some((prefix, name)) => {
            problems.extend(prefix_problems(prefix));
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_many_bytes(LABEL_MAX)));
    }
    if !is_key_name(name) {
        problems.push(format!("name part {}", mismatch(KEY_RULE, KEY, &examples)));
    }
    problems
}

fn prefix_problems(prefix: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if prefix.is_empty() {
        problems.push("prefix part must be non-empty".to_owned());
        return problems;
    }
    if prefix.len() > SUBDOMAIN_MAX {
        problems.push(format!("prefix part {}", too_many_bytes(SUBDOMAIN_MAX)));
    }
    if !is_subdomain(prefix) {
        let problem = mismatch(SUBDOMAIN_RULE, SUBDOMAIN, &["example.com"]);
        problems.push(format!("prefix part {problem}"));
    }
    problems
}

/// What is wrong with a label value; empty if nothing is.
#[must_use]
pub fn value_problems(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(too_many_bytes(LABEL_MAX));
    }
    if !value.is_empty() && !is_key_name(value) {
        problems.push(mismatch(
            VALUE_RULE,
            VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// What is wrong with the base of a generated name; empty if nothing is. A dash at its end is
/// fine, as more follows.
#[must_use]
pub fn generate_name_problems(base: &str) -> Vec<String> {
    // Upstream puts an `a` in the place of the dash and of the byte before it.
    let kept = base.len().checked_sub(2).filter(|_| base.ends_with('-'));
    match kept.and_then(|kept| base.get(..kept)) {
        Some(rest) => subdomain_problems(&format!("{rest}a")),
        None => subdomain_problems(base),
    }
}

fn is_label(text: &str) -> bool {
    is_framed(
        text,
        |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'),
        |byte| byte == b'-',
    )
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_key_name(text: &str) -> bool {
    is_framed(
        text,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| matches!(byte, b'-' | b'_' | b'.'),
    )
}

/// Whether a text begins and ends with a `plain` byte and has only plain and `inner` ones.
fn is_framed(text: &str, plain: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| plain(*byte))
        && bytes.last().is_some_and(|byte| plain(*byte))
        && bytes.iter().all(|byte| plain(*byte) || inner(*byte))
}

fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn too_many_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn mismatch(rule: &str, pattern: &str, examples: &[&str]) -> String {
    let quoted: Vec<String> = examples
        .iter()
        .map(|example| format!("'{example}', "))
        .collect();
    format!(
        "{rule} (e.g. {}regex used for validation is '{pattern}')",
        quoted.join(" or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    #[test]
    fn a_bad_name_is_told_in_upstreams_words() {
        assert_eq!(
            subdomain_problems("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
              '-' or '.', and must start and end with an alphanumeric character (e.g. \
              'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            subdomain_problems(&"a".repeat(254)),
            ["must be no more than 253 characters"]
        );
        assert!(subdomain_problems(&"a".repeat(253)).is_empty());
        assert_eq!(label_problems("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn a_bad_label_key_is_told_in_upstreams_words() {
        assert_eq!(
            key_problems("a b"),
            [
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start \
              and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
              '123-abc', regex used for validation is \
              '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
        assert_eq!(key_problems("/a"), ["prefix part must be non-empty"]);
        assert_eq!(key_problems("a/b/c").len(), 1);
        assert_eq!(key_problems("").len(), 2);
        assert_eq!(
            value_problems(&"a".repeat(64)),
            ["must be no more than 63 bytes"]
        );
    }

    #[test]
    fn a_base_may_end_in_a_dash() {
        assert!(generate_name_problems("web-").is_empty());
        assert!(generate_name_problems("w-").is_empty());
        assert!(!generate_name_problems("-").is_empty());
        assert!(!generate_name_problems("G_").is_empty());
        assert!(!generate_name_problems("ü-x").is_empty());
        assert!(!generate_name_problems("ü-").is_empty());
        assert!(!generate_name_problems(&"a".repeat(300)).is_empty());
    }

    proptest! {
        #[test]
        fn the_scans_agree_with_the_patterns_that_the_messages_name(
            text in prop_oneof!["[-a-zA-Z0-9_./]{0,12}", "[-a.b]{0,6}", ".{0,6}"]
        ) {
            let anchored = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).unwrap();
            let one_line = !text.contains('\n');
            prop_assume!(one_line);
            prop_assert_eq!(is_label(&text), anchored(LABEL).is_match(&text));
            prop_assert_eq!(is_subdomain(&text), anchored(SUBDOMAIN).is_match(&text));
            prop_assert_eq!(is_key_name(&text), anchored(KEY).is_match(&text));
            prop_assert_eq!(value_problems(&text).is_empty(), anchored(VALUE).is_match(&text));
        }

        #[test]
        fn no_text_confuses_the_checks(text in ".*") {
            let _ = (key_problems(&text), label_problems(&text), generate_name_problems(&text));
        }
    }
}
