//! The six operations of a JSON patch, within limits.
//!
//! Where RFC 6902 and the Go library of kube-apiserver differ, the library wins in what clients
//! rely on: a negative index counts from the end, `test` for null passes on a missing member, and
//! `replace` of a missing member adds it.

use serde_json::Value;

use super::operation::Operation;
use super::pointer::{Index, Pointer, element, find, find_mut, index};

/// How much `copy` may add to a document, in bytes of its JSON.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// How deep an operation may reach; what every later step walks is bounded by it.
const MAX_DEPTH: usize = 1_000;

/// How many elements all operations together may shift and visit: a patch is a request, not a
/// program.
const MAX_WORK: usize = 50_000_000;

pub(super) fn apply(document: &mut Value, operations: &[Operation]) -> Result<(), String> {
    let mut run = Run {
        document,
        copied: 0,
        work: 0,
    };
    operations
        .iter()
        .try_for_each(|operation| run.perform(operation))
}

struct Run<'a> {
    document: &'a mut Value,
    copied: usize,
    work: usize,
}

impl Run<'_> {
    fn perform(&mut self, operation: &Operation) -> Result<(), String> {
        let kind = operation.kind.as_deref().unwrap_or("unknown");
        let path = || pointer("path", operation.path.as_deref());
        let from = || pointer("from", operation.from.as_deref());
        let done = match kind {
            "add" => self.add(&path()?, operation.value.clone()),
            "remove" => self.remove(&path()?).map(drop),
            "replace" => self.replace(&path()?, operation.value.clone()),
            "move" => self.move_value(&from()?, &path()?),
            "copy" => self.copy_value(&from()?, &path()?),
            "test" => self.test(&path()?, &operation.value),
            other => return Err(format!("unexpected kind: {other}")),
        };
        done.map_err(|problem| {
            let path = operation.path.as_deref().unwrap_or_default();
            format!("{kind} operation does not apply at \"{path}\": {problem}")
        })
    }

    fn add(&mut self, path: &Pointer, value: Value) -> Result<(), String> {
        self.measure(path, &value)?;
        let Some((parents, last)) = path.split() else {
            return self.replace_root(value);
        };
        match find_mut(self.document, parents).ok_or("the path is missing")? {
            Value::Object(members) => {
                members.insert(last.to_owned(), value);
            }
            Value::Array(items) => {
                let position = match index(last).ok_or("no proper array index")? {
                    Index::End => items.len(),
                    Index::Front(position) => position,
                    Index::Back(distance) => items
                        .len()
                        .saturating_add(1)
                        .checked_sub(distance)
                        .ok_or("out of range")?,
                };
                if position > items.len() {
                    return Err("the index is out of range".to_owned());
                }
                spend(&mut self.work, items.len().saturating_sub(position))?;
                items.insert(position, value);
            }
            _ => return Err("the path leads into a scalar".to_owned()),
        }
        Ok(())
    }

    fn replace_root(&mut self, value: Value) -> Result<(), String> {
        if !value.is_object() && !value.is_array() {
            return Err("the root must be an object or an array".to_owned());
        }
        *self.document = value;
        Ok(())
    }

    fn remove(&mut self, path: &Pointer) -> Result<Value, String> {
        let (parents, last) = path.split().ok_or("the root cannot be removed")?;
        match find_mut(self.document, parents).ok_or("the path is missing")? {
            Value::Object(members) => members
                .remove(last)
                .ok_or_else(|| "the member is missing".to_owned()),
            Value::Array(items) => {
                let position = element(items.len(), last).ok_or("no such element")?;
                spend(&mut self.work, items.len().saturating_sub(position))?;
                Ok(items.remove(position))
            }
            _ => Err("the path leads into a scalar".to_owned()),
        }
    }

    fn replace(&mut self, path: &Pointer, value: Value) -> Result<(), String> {
        self.measure(path, &value)?;
        let Some((parents, last)) = path.split() else {
            return self.replace_root(value);
        };
        match find_mut(self.document, parents).ok_or("the path is missing")? {
            Value::Object(members) => {
                members.insert(last.to_owned(), value);
            }
            Value::Array(items) => {
                let position = element(items.len(), last).ok_or("no such element")?;
                let place = items.get_mut(position).ok_or("no such element")?;
                *place = value;
            }
            _ => return Err("the path leads into a scalar".to_owned()),
        }
        Ok(())
    }

    fn move_value(&mut self, from: &Pointer, path: &Pointer) -> Result<(), String> {
        if from.contains(path) {
            return Err("a value cannot move into itself".to_owned());
        }
        let value = self.remove(from)?;
        self.add(path, value)
    }

    fn copy_value(&mut self, from: &Pointer, path: &Pointer) -> Result<(), String> {
        let value = from.target(self.document).ok_or("the source is missing")?;
        self.copied = self.copied.saturating_add(encoded_size(value));
        if self.copied > MAX_COPIED {
            return Err(format!("copies add more than {MAX_COPIED} bytes"));
        }
        let value = value.clone();
        self.add(path, value)
    }

    fn test(&self, path: &Pointer, expected: &Value) -> Result<(), String> {
        let actual = match path.split() {
            None => Some(&*self.document),
            Some((parents, last)) => {
                match find(self.document, parents).ok_or("the path is missing")? {
                    Value::Object(members) => members.get(last),
                    Value::Array(items) => {
                        let position = element(items.len(), last).ok_or("no such element")?;
                        items.get(position)
                    }
                    _ => return Err("the path leads into a scalar".to_owned()),
                }
            }
        };
        if actual.unwrap_or(&Value::Null) == expected {
            Ok(())
        } else {
            Err("the value is another".to_owned())
        }
    }

    /// Refuses a value that would nest too deeply at `path`, and counts it as work.
    fn measure(&mut self, path: &Pointer, value: &Value) -> Result<(), String> {
        let mut size = 0;
        let depth = measure(value, &mut size);
        spend(&mut self.work, size)?;
        if path.len().saturating_add(depth) > MAX_DEPTH {
            return Err(format!("the document would nest deeper than {MAX_DEPTH}"));
        }
        Ok(())
    }
}

/// The depth of a value; its elements are added to `size`.
fn measure(value: &Value, size: &mut usize) -> usize {
    *size = size.saturating_add(1);
    let deepest = match value {
        Value::Object(members) => members.values().map(|inner| measure(inner, size)).max(),
        Value::Array(items) => items.iter().map(|inner| measure(inner, size)).max(),
        _ => return 0,
    };
    deepest.unwrap_or(0).saturating_add(1)
}

fn encoded_size(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("a JSON value always encodes");
    counter.0
}

fn pointer(member: &str, text: Option<&str>) -> Result<Pointer, String> {
    let text = text.ok_or_else(|| format!("operation has no {member}"))?;
    Pointer::parse(text).ok_or_else(|| format!("{member} \"{text}\" is no JSON pointer"))
}

fn spend(work: &mut usize, amount: usize) -> Result<(), String> {
    *work = work.saturating_add(amount);
    if *work > MAX_WORK {
        Err("the patch is too much work".to_owned())
    } else {
        Ok(())
    }
}
