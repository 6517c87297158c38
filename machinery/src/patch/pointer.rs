//! JSON pointers (RFC 6901) as JSON patches use them.

use serde_json::Value;

/// The steps from the root of a document to a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    steps: Vec<String>,
}

/// A place in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    /// `-`: behind the last element.
    End,
    /// From the front.
    Front(usize),
    /// From the end: 1 is the last element, or behind it when something is added.
    Back(usize),
}

impl Pointer {
    /// Reads a pointer; `None` if it does not begin with a slash. The empty one is the root.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { steps: vec![] });
        }
        let steps = text.strip_prefix('/')?.split('/').map(unescape).collect();
        Some(Self { steps })
    }

    /// The steps to the container and the last one; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[String], &str)> {
        self.steps
            .split_last()
            .map(|(last, parents)| (parents, last.as_str()))
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The value at this place.
    pub(super) fn target<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        find(document, &self.steps)
    }

    /// Whether `other` lies below this place.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.steps.len() > self.steps.len() && other.steps.starts_with(&self.steps)
    }
}

/// The place that `steps` lead to.
pub(super) fn find<'a>(document: &'a Value, steps: &[String]) -> Option<&'a Value> {
    steps.iter().try_fold(document, |at, step| match at {
        Value::Object(members) => members.get(step),
        Value::Array(items) => items.get(element(items.len(), step)?),
        _ => None,
    })
}

/// The place that `steps` lead to, to be changed.
pub(super) fn find_mut<'a>(document: &'a mut Value, steps: &[String]) -> Option<&'a mut Value> {
    steps.iter().try_fold(document, |at, step| match at {
        Value::Object(members) => members.get_mut(step),
        Value::Array(items) => {
            let index = element(items.len(), step)?;
            items.get_mut(index)
        }
        _ => None,
    })
}

/// The position of an existing element of an array of that length.
pub(super) fn element(length: usize, step: &str) -> Option<usize> {
    let position = match index(step)? {
        Index::End => return None,
        Index::Front(position) => position,
        Index::Back(distance) => length.checked_sub(distance)?,
    };
    (position < length).then_some(position)
}

/// Reads an array index. As in Go, a negative one counts from the end.
pub(super) fn index(step: &str) -> Option<Index> {
    if step == "-" {
        return Some(Index::End);
    }
    let (digits, back) = match step.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (step, false),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    match digits.parse().ok()? {
        0 => Some(Index::Front(0)),
        distance if back => Some(Index::Back(distance)),
        position => Some(Index::Front(position)),
    }
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}
