//! Label selectors in text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
//!
//! The grammar and its errors are those of Kubernetes. A key that an object does not have
//! satisfies `!=`, `notin` and `!key`, and nothing else.

use std::fmt;

use crate::error::ApiError;
use crate::field::FieldError;
use crate::meta::format::{key_problems, value_problems};
use crate::object::Object;

mod lexer;

use lexer::{Lexer, Token};

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`.
    DoubleEquals,
    /// `key!=a`.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`.
    GreaterThan,
    /// `key<1`.
    LessThan,
}

/// One term of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted and without duplicates.
    values: Vec<String>,
}

/// A conjunction of requirements; without any it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Reads a selector.
    ///
    /// # Errors
    /// 400 if it does not follow the grammar, or a key or value is malformed.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Parser::new(text).parse().map_err(ApiError::bad_request)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The terms, in the order of their keys.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object is selected whose labels `lookup` knows.
    pub fn matches<S: AsRef<str>>(&self, lookup: impl Fn(&str) -> Option<S>) -> bool {
        self.requirements.iter().all(|requirement| {
            requirement.matches(lookup(&requirement.key).as_ref().map(AsRef::as_ref))
        })
    }

    /// Whether an object is selected, by the labels in its metadata.
    #[must_use]
    pub fn matches_object(&self, object: &Object) -> bool {
        if self.is_empty() {
            return true;
        }
        let labels = crate::object::labels(object);
        self.matches(|key| labels.and_then(|labels| labels.get(key)?.as_str()))
    }
}

impl Requirement {
    /// The label's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, sorted.
    #[must_use]
    pub fn values(&self) -> &[String] {
        &self.values
    }

    fn matches(&self, actual: Option<&str>) -> bool {
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => {
                actual.is_some_and(|value| self.has(value))
            }
            Operator::NotIn | Operator::NotEquals => !actual.is_some_and(|value| self.has(value)),
            Operator::Exists => actual.is_some(),
            Operator::DoesNotExist => actual.is_none(),
            Operator::GreaterThan => self.compare(actual) == Some(std::cmp::Ordering::Greater),
            Operator::LessThan => self.compare(actual) == Some(std::cmp::Ordering::Less),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values
            .binary_search_by(|known| known.as_str().cmp(value))
            .is_ok()
    }

    fn compare(&self, actual: Option<&str>) -> Option<std::cmp::Ordering> {
        let actual: i64 = actual?.parse().ok()?;
        let bound: i64 = self.values.first()?.parse().ok()?;
        Some(actual.cmp(&bound))
    }

    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        values.sort_unstable();
        values.dedup();
        let mut errors = Vec::new();
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            errors.extend(
                values
                    .iter()
                    .enumerate()
                    .filter(|(_, v)| v.parse::<i64>().is_err())
                    .map(|(index, value)| {
                        let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                        FieldError::invalid(format!("values[{index}]"), value.as_str(), rule)
                    }),
            );
        }
        for (index, value) in values.iter().enumerate() {
            let problems = value_problems(value);
            if !problems.is_empty() {
                let field = format!("values[{index}][{key}]");
                errors.push(FieldError::invalid(
                    field,
                    value.as_str(),
                    problems.join("; "),
                ));
            }
        }
        match errors.as_slice() {
            [] => Ok(Self {
                key: key.to_owned(),
                operator,
                values,
            }),
            [only] => Err(only.to_string()),
            several => {
                let texts: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(format!("[{}]", texts.join(", ")))
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// A recursive-descent parser with one token of lookahead. `in` and `notin` are operators only
/// where an operator is due, and words everywhere else.
struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Token<'a>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        let next = lexer.next_token();
        Self { lexer, next }
    }

    fn take(&mut self) -> Token<'a> {
        std::mem::replace(&mut self.next, self.lexer.next_token())
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.next {
                Token::Word(_) | Token::Not => {}
                Token::End => return Ok(requirements),
                other => {
                    return Err(format!(
                        "found '{other}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
            let requirement = self
                .parse_requirement()
                .map_err(|problem| format!("unable to parse requirement: {problem}"))?;
            requirements.push(requirement);
            match self.take() {
                Token::End => return Ok(requirements),
                Token::Comma if matches!(self.next, Token::Word(_) | Token::Not) => {}
                Token::Comma => {
                    return Err(format!(
                        "found '{}', expected: identifier after ','",
                        self.next
                    ));
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn parse_requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.next == Token::Not;
        if negated {
            self.take();
        }
        let key = match self.take() {
            Token::Word(key) => key,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        let problems = key_problems(key);
        if !problems.is_empty() {
            // Upstream has no field path at this point and says so.
            return Err(FieldError::invalid("<nil>", key, problems.join("; ")).to_string());
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, vec![]);
        }
        if matches!(self.next, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, vec![]);
        }
        let operator = parse_operator(self.take())?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.parse_values()?,
            _ => vec![self.parse_exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn parse_exact_value(&mut self) -> Result<String, String> {
        if matches!(self.next, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            Token::Word(value) => Ok(value.to_owned()),
            other => Err(format!("found '{other}', expected: identifier")),
        }
    }

    /// `(a,b)`; a place between commas that holds nothing is the empty value.
    fn parse_values(&mut self) -> Result<Vec<String>, String> {
        match self.take() {
            Token::Open => {}
            other => return Err(format!("found '{other}' expected: '('")),
        }
        if !matches!(self.next, Token::Word(_) | Token::Comma | Token::Close) {
            return Err(format!(
                "found '{}', expected: ',', ')' or identifier",
                self.next
            ));
        }
        let mut values = Vec::new();
        loop {
            match self.next {
                Token::Word(value) => {
                    values.push(value.to_owned());
                    self.take();
                }
                Token::Comma | Token::Close => values.push(String::new()),
                other => return Err(format!("found '{other}', expected: ',', or identifier")),
            }
            match self.take() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

fn parse_operator(token: Token<'_>) -> Result<Operator, String> {
    match token {
        Token::Word("in") => Ok(Operator::In),
        Token::Word("notin") => Ok(Operator::NotIn),
        Token::Equals => Ok(Operator::Equals),
        Token::DoubleEquals => Ok(Operator::DoubleEquals),
        Token::NotEquals => Ok(Operator::NotEquals),
        Token::Greater => Ok(Operator::GreaterThan),
        Token::Less => Ok(Operator::LessThan),
        other => Err(format!(
            "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
        )),
    }
}

#[cfg(test)]
mod tests;
