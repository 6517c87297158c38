//! Real time, over all objects at once: who begins after somebody has been told
//! of a revision gets a later one by writing, and sees at least it by a
//! consistent read. One sweep over the times of all requests and frames.

use super::{Case, Violation, brief};
use crate::record::{Call, Mode, Record, Start, Stream, Time, revision};

/// One moment of the sweep. Answers come before questions of the same instant:
/// only what is strictly later is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Asks(usize),
    Tells { written: i64, shown: i64 },
}

/// What a question must come to.
struct Question {
    what: String,
    /// Its revision must be above all that was told before; else only not below.
    writes: bool,
    got: i64,
}

/// All of a history.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut sweep = Sweep::default();
    for record in &case.history.records {
        if record.call.is_write() {
            sweep.write(case, record);
        } else {
            sweep.read(record);
        }
    }
    for stream in case.history.watches.iter().flat_map(|watch| &watch.streams) {
        sweep.stream(stream);
    }
    sweep.run()
}

#[derive(Default)]
struct Sweep {
    questions: Vec<Question>,
    moments: Vec<(Time, Moment)>,
}

impl Sweep {
    fn write(&mut self, case: &Case<'_>, record: &Record) {
        let events = case.events_of(record);
        for event in events {
            self.ask(record.invoked, brief(record), event.revision, true);
        }
        // A deletion of a collection begins with a consistent list and answers with it.
        let listed = match &record.call {
            Call::DeleteCollection { .. } => record.outcome.success().and_then(revision),
            _ => None,
        };
        if let Some(at) = listed {
            self.ask(record.invoked, brief(record), at, false);
        }
        let last = events.iter().map(|event| event.revision).max().max(listed);
        if let Some(last) = last.filter(|_| record.outcome.success().is_some()) {
            self.tell(record.returned, last, last);
        }
    }

    fn read(&mut self, record: &Record) {
        let Some(body) = record.outcome.success() else {
            return;
        };
        match &record.call {
            Call::List { mode, .. } => {
                let first = body.get(0).unwrap_or(body);
                let Some(at) = revision(first) else { return };
                if *mode == Mode::Consistent {
                    self.ask(record.invoked, brief(record), at, false);
                }
                self.tell(record.returned, at, at);
            }
            _ => {
                if let Some(at) = revision(body) {
                    self.tell(record.returned, at, at);
                }
            }
        }
    }

    fn stream(&mut self, stream: &Stream) {
        let mark = stream.frames.iter().find(|frame| {
            let end = "/metadata/annotations/k8s.io~1initial-events-end";
            frame.kind == "BOOKMARK" && frame.object.pointer(end).is_some()
        });
        if let (Start::State(Mode::Consistent), Some(mark)) = (stream.start, mark)
            && let Some(at) = revision(&mark.object)
        {
            let what = format!("a watch of replica {} from the state", stream.replica);
            self.ask(stream.invoked, what, at, false);
        }
        for frame in &stream.frames {
            let Some(at) = revision(&frame.object) else {
                continue;
            };
            let is_bookmark = frame.kind == "BOOKMARK";
            // Who starts in the future is told nothing by what repeats it.
            if is_bookmark && stream.start == Start::After(at) {
                continue;
            }
            // A bookmark may name a revision that no event has.
            let shown = if is_bookmark { 0 } else { at };
            self.tell(frame.at, at, shown);
        }
    }

    fn ask(&mut self, at: Time, what: String, got: i64, writes: bool) {
        self.moments.push((at, Moment::Asks(self.questions.len())));
        self.questions.push(Question { what, writes, got });
    }

    fn tell(&mut self, at: Time, written: i64, shown: i64) {
        self.moments.push((at, Moment::Tells { written, shown }));
    }

    fn run(mut self) -> Vec<Violation> {
        self.moments.sort_unstable();
        let (mut allotted, mut visible) = (0, 0);
        let mut violations = Vec::new();
        for (at, moment) in &self.moments {
            match moment {
                Moment::Tells { written, shown } => {
                    allotted = allotted.max(*written);
                    visible = visible.max(*shown);
                }
                Moment::Asks(index) => {
                    let Some(question) = self.questions.get(*index) else {
                        continue;
                    };
                    let Question { what, got, .. } = question;
                    if question.writes && *got <= allotted {
                        let detail = format!("{what} got {got}, but {allotted} was known at {at}");
                        violations.push(Violation::new("order: write", detail));
                    } else if !question.writes && *got < visible {
                        let detail = format!("{what} is at {got}, but {visible} was seen at {at}");
                        violations.push(Violation::new("order: stale read", detail));
                    }
                }
            }
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{history, record, rules};
    use super::*;
    use crate::record::{Frame, Outcome, Watch};
    use crate::selector::Selector;
    use crate::truth::fixture::{event, truth};
    use crate::truth::{ADDED, MODIFIED, Truth};

    fn log() -> Truth {
        truth(vec![
            event(1, ADDED, "x", "a"),
            event(2, MODIFIED, "x", "b"),
        ])
    }

    fn create(op: &str, times: (Time, Time)) -> Record {
        let body = json!({"kind": "Status"});
        let call = Call::Create {
            name: "x".to_owned(),
            body: Value::Null,
        };
        record(op, call, times, Outcome::Answered { code: 200, body })
    }

    fn list(at: i64, mode: Mode, times: (Time, Time)) -> Record {
        let body = json!({"metadata": {"resourceVersion": at.to_string()}, "items": []});
        let call = Call::List {
            mode,
            selector: Selector::All,
            limit: None,
        };
        record("l", call, times, Outcome::Answered { code: 200, body })
    }

    fn judge(records: Vec<Record>, watches: Vec<Watch>) -> Vec<&'static str> {
        let history = history(records, watches);
        rules(&check(&Case::new(&history, &log())))
    }

    #[test]
    fn revisions_that_follow_real_time_are_accepted() {
        let records = vec![
            create("a", (0, 10)),
            create("b", (20, 30)),
            list(2, Mode::Consistent, (40, 50)),
        ];
        assert_eq!(judge(records, vec![]), Vec::<&str>::new());
        // At the same time, either order is right.
        let records = vec![create("a", (0, 30)), create("b", (5, 20))];
        assert_eq!(judge(records, vec![]), Vec::<&str>::new());
    }

    #[test]
    fn a_later_write_with_an_earlier_revision_is_found() {
        let records = vec![create("b", (0, 10)), create("a", (20, 30))];
        assert_eq!(judge(records, vec![]), ["order: write"]);
    }

    #[test]
    fn a_stale_consistent_list_is_found_and_a_stale_one_at_0_is_fine() {
        let writes = || vec![create("a", (0, 10)), create("b", (20, 30))];
        let with = |list| [writes(), vec![list]].concat();
        let stale = list(1, Mode::Consistent, (40, 50));
        assert_eq!(judge(with(stale), vec![]), ["order: stale read"]);
        let any = list(1, Mode::Any, (40, 50));
        assert_eq!(judge(with(any), vec![]), Vec::<&str>::new());
    }

    #[test]
    fn a_write_below_a_bookmark_is_found_unless_the_watch_began_in_the_future() {
        let bookmark = Frame {
            at: 15,
            kind: "BOOKMARK".to_owned(),
            object: json!({"metadata": {"resourceVersion": "7"}}),
        };
        let of = |start| Watch {
            selector: Selector::All,
            streams: vec![Stream {
                replica: 1,
                start,
                invoked: 0,
                frames: vec![bookmark.clone()],
                refused: None,
                end: String::new(),
            }],
        };
        let records = || vec![create("a", (0, 10)), create("b", (20, 30))];
        let early = of(Start::After(1));
        assert_eq!(judge(records(), vec![early]), ["order: write"]);
        let future = of(Start::After(7));
        assert_eq!(judge(records(), vec![future]), Vec::<&str>::new());
    }

    #[test]
    fn a_list_that_shows_less_than_a_watch_did_before_is_found() {
        let frame = Frame {
            at: 35,
            kind: "MODIFIED".to_owned(),
            object: log().events[1].shown(),
        };
        let stream = Stream {
            replica: 1,
            start: Start::After(1),
            invoked: 0,
            frames: vec![frame],
            refused: None,
            end: String::new(),
        };
        let watch = Watch {
            selector: Selector::All,
            streams: vec![stream],
        };
        let records = vec![create("a", (0, 10)), list(1, Mode::Consistent, (40, 50))];
        assert_eq!(judge(records, vec![watch]), ["order: stale read"]);
    }
}
