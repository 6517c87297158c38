//! What happened: every request with the times around it, every watch frame.
//! This is all that the checkers know besides the history table.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Plan;
use crate::selector::Selector;

/// Microseconds since the history began; one clock for all clients.
pub type Time = u64;

/// One request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Under which the server notes its writes.
    pub audit: String,
    /// The client; clients do one thing at a time.
    pub client: usize,
    /// The replica that was asked.
    pub replica: usize,
    /// What was asked.
    pub call: Call,
    /// Just before it was sent.
    pub invoked: Time,
    /// When the answer, or its failure, was known.
    pub returned: Time,
    /// What came of it.
    pub outcome: Outcome,
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The object's own URL.
    Main,
    /// Its status.
    Status,
    /// Its scale.
    Scale,
}

/// How a body changes what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// PUT.
    Replace,
    /// Merge patch.
    Merge,
    /// JSON patch.
    Json,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// resourceVersion unset.
    Consistent,
    /// resourceVersion 0.
    Any,
    /// At this revision or later.
    NotOlderThan(i64),
    /// At this revision.
    Exact(i64),
}

/// What was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Call {
    /// POST.
    Create { name: String, body: Value },
    /// PUT or PATCH. `expected` is the resourceVersion in the body.
    Write {
        name: String,
        part: Part,
        change: Change,
        body: Value,
        expected: Option<i64>,
    },
    /// DELETE with its preconditions.
    Delete {
        name: String,
        uid: Option<String>,
        expected: Option<i64>,
    },
    /// DELETE of a collection.
    DeleteCollection { selector: Selector },
    /// GET of an object.
    Get { name: String, mode: Mode },
    /// LIST; in pages, the body of the outcome is an array of them.
    List {
        mode: Mode,
        selector: Selector,
        limit: Option<u8>,
    },
}

impl Call {
    /// The one object that it is about.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Create { name, .. }
            | Self::Write { name, .. }
            | Self::Delete { name, .. }
            | Self::Get { name, .. } => Some(name),
            Self::DeleteCollection { .. } | Self::List { .. } => None,
        }
    }

    /// Whether it may change anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Get { .. } | Self::List { .. })
    }
}

/// What came of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// A whole answer.
    Answered { code: u16, body: Value },
    /// It never left: nothing can have come of it.
    NotSent(String),
    /// The connection was lost, or no answer came: anything may have come of it.
    Lost(String),
}

impl Outcome {
    /// The body of a success.
    #[must_use]
    pub fn success(&self) -> Option<&Value> {
        match self {
            Self::Answered { code, body } if (200..300).contains(code) => Some(body),
            _ => None,
        }
    }

    /// The code of an answer.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Answered { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the write must not have been applied.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Answered { code, .. } => (400..500).contains(code) || *code == 503,
            Self::NotSent(_) => true,
            Self::Lost(_) => false,
        }
    }
}

/// Where a connection of a watcher began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With what comes after a revision.
    After(i64),
    /// With the state, as fresh as this, then what comes after it.
    State(Mode),
}

/// One line of a watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// When it was read.
    pub at: Time,
    /// ADDED, MODIFIED, DELETED, BOOKMARK, ERROR.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it carries.
    pub object: Value,
}

/// One connection of a watcher.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// The replica that was asked.
    pub replica: usize,
    /// Where it began.
    pub start: Start,
    /// When it was asked for.
    pub invoked: Time,
    /// All that came.
    pub frames: Vec<Frame>,
    /// Status code if the watch was refused.
    pub refused: Option<u16>,
    /// Why it ended.
    pub end: String,
}

/// One watcher over all its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// What it sees.
    pub selector: Selector,
    /// Its connections; each goes on where the one before ended.
    pub streams: Vec<Stream>,
}

/// One history after it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// What was to happen.
    pub plan: Plan,
    /// Namespace of its objects.
    pub namespace: String,
    /// A consistent list's revision before the first request.
    pub beginning: i64,
    /// Every request.
    pub records: Vec<Record>,
    /// Every watcher.
    pub watches: Vec<Watch>,
    /// What was done to the servers, and when.
    pub log: Vec<(Time, String)>,
}

/// `metadata.resourceVersion` as a number.
#[must_use]
pub fn revision(object: &Value) -> Option<i64> {
    let text = object.pointer("/metadata/resourceVersion")?.as_str()?;
    text.parse().ok()
}

/// `metadata.name`.
#[must_use]
pub fn name(object: &Value) -> &str {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    name.unwrap_or_default()
}
