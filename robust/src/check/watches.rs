//! Watches against the log: ordered, unique, without gaps, resumable on another
//! replica, true to the selector, to the type and to the content of each event;
//! bookmarks neither early nor back; the end of the initial events marked once.

use serde_json::{Value, json};

use super::{Case, Violation};
use crate::record::{Frame, Mode, Start, Stream, Time, Watch, name, revision};
use crate::truth::{DELETED, Expected, Truth};

/// How a bookmark says that the initial events are over.
const MARK: &str = "/metadata/annotations/k8s.io~1initial-events-end";

/// All watchers of a history.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let watches = case.history.watches.iter().enumerate();
    watches
        .flat_map(|(number, watch)| follow(case, number, watch))
        .collect()
}

fn follow(case: &Case<'_>, number: usize, watch: &Watch) -> Vec<Violation> {
    let truth = case.truth;
    let expected = truth.frames(&watch.selector);
    let mut violations = Vec::new();
    let mut position = None;
    for (leg, stream) in watch.streams.iter().enumerate() {
        let mut reader = Reader {
            case,
            truth,
            expected: &expected,
            watch,
            stream,
            may_panic: case.history.plan.may_panic(stream.replica),
            position: None,
            found: Vec::new(),
        };
        reader.read();
        let Reader {
            position: reached,
            found,
            ..
        } = reader;
        position = reached.or(position);
        violations.extend(found.into_iter().map(|(rule, detail)| {
            let of = format!(
                "watcher {number} ({:?}), connection {leg} to replica {} from {:?}: {detail}",
                watch.selector, stream.replica, stream.start
            );
            Violation::new(rule, of)
        }));
    }
    let last = expected.last().map_or(0, |expected| expected.revision);
    if violations.is_empty() && position.is_none_or(|position| position < last) {
        let ends: Vec<_> = watch.streams.iter().map(|stream| &stream.end).collect();
        let detail = format!(
            "watcher {number} ({:?}) has come to {position:?} and never to {last}; \
             its connections ended so: {ends:?}",
            watch.selector
        );
        violations.push(Violation::new("watch: complete", detail));
    }
    violations
}

/// Reads one connection's frames against what should have come.
struct Reader<'a> {
    case: &'a Case<'a>,
    truth: &'a Truth,
    expected: &'a [Expected],
    watch: &'a Watch,
    stream: &'a Stream,
    may_panic: bool,
    /// All up to here has been seen; none before the initial events are over.
    position: Option<i64>,
    found: Vec<(&'static str, String)>,
}

impl Reader<'_> {
    fn read(&mut self) {
        if let Start::After(revision) = self.stream.start {
            self.position = Some(revision);
        }
        if let Some(code) = self.stream.refused {
            self.refusal(code, Time::MAX);
        }
        let mut frames = self.stream.frames.iter();
        if let Start::State(mode) = self.stream.start {
            self.initial(mode, &mut frames);
        }
        for frame in frames {
            // After the first mistake the rest says nothing new.
            if !self.found.is_empty() {
                return;
            }
            match frame.kind.as_str() {
                "BOOKMARK" => self.bookmark(frame),
                "ERROR" => self.error(frame),
                _ => self.event(frame),
            }
        }
    }

    fn wrong(&mut self, rule: &'static str, detail: String) {
        self.found.push((rule, detail));
    }

    /// Objects as ADDED, each once and in order, then the bookmark that ends them.
    fn initial(&mut self, mode: Mode, frames: &mut std::slice::Iter<'_, Frame>) {
        let mut shown: Vec<&Value> = Vec::new();
        let mark = loop {
            match frames.next() {
                Some(frame) if frame.kind == "ADDED" => shown.push(&frame.object),
                Some(frame) if frame.kind == "ERROR" => return self.error(frame),
                Some(frame) if frame.object.pointer(MARK).is_some() => break frame,
                Some(frame) => {
                    let detail = format!("{} among the initial events", frame.kind);
                    return self.wrong("watch: initial events", detail);
                }
                // It was cut off before the end: what came must be versions of objects.
                None => return self.versions(&shown),
            }
        };
        let Some(at) = revision(&mark.object) else {
            return self.wrong("watch: bookmark", "the mark names no revision".to_owned());
        };
        let fold = self.truth.fold(at);
        let selected = fold
            .values()
            .filter(|event| self.watch.selector.matches(&event.body));
        let wanted: Vec<Value> = selected.map(|event| event.shown()).collect();
        if !shown.iter().copied().eq(&wanted) {
            let brief =
                |object: &Value| format!("{}@{}", name(object), revision(object).unwrap_or(0));
            let shown: Vec<_> = shown.into_iter().map(brief).collect();
            let wanted: Vec<_> = wanted.iter().map(brief).collect();
            let detail = format!("the state at {at} is {wanted:?}, but it shows {shown:?}");
            return self.wrong("watch: initial events", detail);
        }
        if matches!(mode, Mode::NotOlderThan(least) if at < least) {
            return self.wrong(
                "watch: initial events",
                format!("the state is that at {at}"),
            );
        }
        self.position = Some(at);
    }

    fn versions(&mut self, shown: &[&Value]) {
        let is_version = |object: &Value| {
            let event = revision(object).and_then(|revision| self.truth.event(revision));
            event.is_some_and(|event| event.kind != DELETED && event.shown() == *object)
        };
        if let Some(object) = shown.iter().find(|object| !is_version(object)) {
            let detail = format!("{object} was never written");
            self.wrong("watch: content", detail);
        }
    }

    /// What should come next.
    fn next(&self) -> Option<&Expected> {
        let position = self.position.unwrap_or(0);
        let place = self
            .expected
            .partition_point(|expected| expected.revision <= position);
        self.expected.get(place)
    }

    fn event(&mut self, frame: &Frame) {
        let position = self.position.unwrap_or(0);
        let Some(at) = revision(&frame.object) else {
            return self.wrong("watch: content", "an event without revision".to_owned());
        };
        let what = format!("{} {} at {at}", frame.kind, name(&frame.object));
        let is_expected = self.expected.iter().any(|expected| expected.revision == at);
        let next = self.next().map(|next| next.revision);
        if self.truth.event(at).is_none() {
            return self.wrong(
                "watch: phantom",
                format!("{what}, which the log does not have"),
            );
        }
        if !is_expected {
            return self.wrong("watch: filter", format!("{what}, which is not selected"));
        }
        if at <= position {
            let seen = self.stream.frames.iter();
            let times = seen
                .filter(|seen| seen.kind != "BOOKMARK" && revision(&seen.object) == Some(at))
                .count();
            let rule = if times > 1 {
                "watch: unique"
            } else {
                "watch: order"
            };
            return self.wrong(rule, format!("{what} after {position}"));
        }
        if next != Some(at) {
            return self.wrong("watch: gap", format!("{what}, but {next:?} comes next"));
        }
        let Some(expected) = self.next().cloned() else {
            return;
        };
        if expected.kind != frame.kind {
            return self.wrong("watch: type", format!("{what}, which is {}", expected.kind));
        }
        if expected.object != frame.object {
            let (shown, wanted) = (&frame.object, &expected.object);
            let detail = format!("{what} shows {shown}, but the log has {wanted}");
            return self.wrong("watch: content", detail);
        }
        self.position = Some(at);
    }

    fn bookmark(&mut self, frame: &Frame) {
        let position = self.position.unwrap_or(0);
        let Some(at) = revision(&frame.object) else {
            return self.wrong("watch: bookmark", "it names no revision".to_owned());
        };
        if frame.object.pointer(MARK).is_some() {
            return self.wrong(
                "watch: initial events",
                "their end is marked again".to_owned(),
            );
        }
        let bare = json!({"resourceVersion": at.to_string()});
        if frame.object.get("metadata") != Some(&bare) || frame.object.get("spec").is_some() {
            return self.wrong("watch: bookmark", format!("it carries {}", frame.object));
        }
        if at < position {
            return self.wrong("watch: bookmark", format!("{at} goes back from {position}"));
        }
        if at > position && at > self.truth.last_allotted {
            return self.wrong("watch: bookmark", format!("{at} was never allotted"));
        }
        if let Some(next) = self
            .next()
            .map(|next| next.revision)
            .filter(|next| *next <= at)
        {
            return self.wrong(
                "watch: bookmark",
                format!("{at} is early: {next} has not come"),
            );
        }
        self.position = Some(at);
    }

    fn error(&mut self, frame: &Frame) {
        let code = frame.object.get("code").and_then(Value::as_u64);
        match code.and_then(|code| u16::try_from(code).ok()) {
            Some(code) => self.refusal(code, frame.at),
            None => self.wrong("watch: error", frame.object.to_string()),
        }
    }

    /// A 410 needs that what comes next was compacted when it was told, or that a panic spoiled the
    /// caches. No replica is away until what it lacks is dropped: what is younger than a history is
    /// kept, and each history begins when all replicas have come to its beginning.
    fn refusal(&mut self, code: u16, at: Time) {
        match code {
            410 if self.may_panic => {}
            410 => {
                let from = self.position.unwrap_or_else(|| self.least_state());
                let compacted = self.case.compacted_by(at);
                if from >= compacted {
                    let detail = format!("410 at {from}, but only up to {compacted} is compacted");
                    self.wrong("watch: expired", detail);
                }
            }
            429 | 503 | 504 => {}
            500 if self.may_panic => {}
            _ => self.wrong("watch: error", format!("ended with {code}")),
        }
    }

    /// The state that it began with, if it did, is not older.
    fn least_state(&self) -> i64 {
        match self.stream.start {
            Start::After(revision) => revision,
            Start::State(Mode::Consistent) => self.case.acknowledged_before(self.stream.invoked),
            Start::State(Mode::NotOlderThan(revision) | Mode::Exact(revision)) => revision,
            Start::State(Mode::Any) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
