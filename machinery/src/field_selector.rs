//! Field selectors: comma-separated `field=value` and `field!=value` terms.

use std::fmt;

use crate::error::ApiError;

/// How a term compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `=` or `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

/// One term of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The field's label, such as `metadata.name`.
    pub field: String,
    /// How it compares.
    pub operator: Operator,
    /// The value, unescaped. An absent field has the empty value.
    pub value: String,
}

/// A conjunction of terms; without any it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// The selector of one object by name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let term = Term {
            field: "metadata.name".to_owned(),
            operator: Operator::Equals,
            value: name.to_owned(),
        };
        Self { terms: vec![term] }
    }

    /// Reads a selector. In values, `\,`, `\=` and `\\` stand for the character itself.
    ///
    /// # Errors
    /// 400 if a term has no operator or an escape is malformed.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::with_capacity(parts.len());
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, operator, value)) = split_term(part) else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let value = unescape(value).map_err(|problem| {
                ApiError::bad_request(format!("invalid field selector: {problem}"))
            })?;
            // A term of nothing selects everything.
            if !field.is_empty() || !value.is_empty() {
                terms.push(Term {
                    field: field.to_owned(),
                    operator,
                    value,
                });
            }
        }
        Ok(Self { terms })
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms, in the order of their text.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Refuses fields that the resource does not declare; `metadata.name` and
    /// `metadata.namespace` always are.
    ///
    /// # Errors
    /// 400 for the first field that is not declared.
    pub fn check_supported(&self, declared: &[&str]) -> Result<(), ApiError> {
        let is_known = |field: &str| {
            matches!(field, "metadata.name" | "metadata.namespace") || declared.contains(&field)
        };
        match self.terms.iter().find(|term| !is_known(&term.field)) {
            None => Ok(()),
            Some(term) => Err(ApiError::bad_request(format!(
                "field label not supported: {}",
                term.field
            ))),
        }
    }

    /// Whether an object is selected whose fields `lookup` knows.
    pub fn matches<S: AsRef<str>>(&self, lookup: impl Fn(&str) -> Option<S>) -> bool {
        self.terms.iter().all(|term| {
            let actual = lookup(&term.field);
            let equal = actual.as_ref().map_or("", AsRef::as_ref) == term.value;
            equal == (term.operator == Operator::Equals)
        })
    }

    /// The value that the selector requires of a field, if it requires one.
    #[must_use]
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.field == field && term.operator == Operator::Equals)
            .map(|term| term.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let operator = if term.operator == Operator::Equals {
                "="
            } else {
                "!="
            };
            write!(f, "{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut escaped = false;
    let mut rest = text;
    let mut at = 0;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                let (part, tail) = rest.split_at(index - at);
                parts.push(part);
                rest = tail.strip_prefix(',').unwrap_or(tail);
                at = index + 1;
            }
            _ => {}
        }
    }
    parts.push(rest);
    parts
}

/// Splits at the first operator; the field's side knows no escapes.
fn split_term(part: &str) -> Option<(&str, Operator, &str)> {
    let at = part.find('=')?;
    let (left, right) = part.split_at(at);
    let right = right.strip_prefix('=').unwrap_or(right);
    match left.strip_suffix('!') {
        Some(field) => Some((field, Operator::NotEquals, right)),
        None => Some((
            left,
            Operator::Equals,
            right.strip_prefix('=').unwrap_or(right),
        )),
    }
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid escape sequence: \\{c}")),
                None => return Err("invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => {
                return Err(format!("unescaped character in value: {}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn select(text: &str, name: &str) -> bool {
        FieldSelector::parse(text)
            .unwrap()
            .matches(|field| (field == "metadata.name").then_some(name))
    }

    #[test]
    fn terms_compare_and_absent_fields_are_empty() {
        assert!(select("metadata.name=a", "a"));
        assert!(select("metadata.name==a", "a"));
        assert!(!select("metadata.name!=a", "a"));
        assert!(select("metadata.name!=a,spec.color!=red,spec.color=", "b"));
        assert!(!select("spec.color=red", "a"));
        assert!(select("", "a"));
        assert!(select(",,=,!=", "a"));
    }

    #[test]
    fn escapes_stand_for_the_character_itself() {
        assert!(select(r"metadata.name=a\,b\=c\\d", r"a,b=c\d"));
        assert!(select(r"metadata.name!=a\,b,metadata.name=x", "x"));
    }

    #[test]
    fn malformed_selectors_are_bad_requests_in_upstreams_words() {
        let cases = [
            ("zzz", "invalid selector: 'zzz'; can't understand 'zzz'"),
            (
                r"a=b\c",
                r"invalid field selector: invalid escape sequence: \c",
            ),
            (
                r"a=b\",
                r"invalid field selector: invalid escape sequence: \",
            ),
            (
                "a=b=c",
                "invalid field selector: unescaped character in value: 61",
            ),
            (
                "a===b",
                "invalid field selector: unescaped character in value: 61",
            ),
        ];
        for (text, message) in cases {
            let error = FieldSelector::parse(text).unwrap_err();
            assert_eq!((error.code(), error.to_string().as_str()), (400, message));
        }
    }

    #[test]
    fn an_undeclared_field_is_not_supported() {
        let selector = FieldSelector::parse("metadata.name=a,spec.size=3").unwrap();
        assert_eq!(
            selector
                .check_supported(&["spec.color"])
                .unwrap_err()
                .to_string(),
            "field label not supported: spec.size"
        );
        let declared = FieldSelector::parse("metadata.namespace=a,spec.color=red").unwrap();
        assert!(declared.check_supported(&["spec.color"]).is_ok());
    }

    #[test]
    fn a_required_value_is_that_of_an_equality() {
        let selector = FieldSelector::parse("metadata.name=x,metadata.namespace!=y").unwrap();
        assert_eq!(selector.required_value("metadata.name"), Some("x"));
        assert_eq!(selector.required_value("metadata.namespace"), None);
    }

    proptest! {
        #[test]
        fn a_selector_survives_its_text(
            terms in proptest::collection::vec(("[a-z.]{1,10}", any::<bool>(), ".{0,10}"), 0..5)
        ) {
            let text = terms
                .iter()
                .map(|(field, equals, value)| {
                    format!("{field}{}{}", if *equals { "=" } else { "!=" }, escape(value))
                })
                .collect::<Vec<_>>()
                .join(",");
            let selector = FieldSelector::parse(&text).unwrap();
            prop_assert_eq!(selector.terms().len(), terms.len());
            for (field, equals, value) in &terms {
                let operator = if *equals { Operator::Equals } else { Operator::NotEquals };
                let found = selector.terms().iter().any(|term| {
                    &term.field == field && term.operator == operator && &term.value == value
                });
                prop_assert!(found);
            }
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn any_text_is_read_or_refused(text in r"[a\\,=! \n\u{fc}]{0,30}") {
            if let Err(error) = FieldSelector::parse(&text) {
                prop_assert_eq!(error.code(), 400);
            }
        }
    }
}
