//! What must hold of a history, each in a file of its own: verdicts of writes
//! and their effects, deletions of collections, reads against the log, order in real time, linearizability
//! of each object, and watches.

pub mod collection;
pub mod linear;
pub mod order;
pub mod reads;
pub mod table;
pub mod watches;
pub mod writes;

use std::collections::BTreeMap;
use std::fmt;

use crate::plan::Fault;
use crate::record::{Call, History, Outcome, Record, Time, revision};
use crate::truth::{Event, Truth};

/// One thing that must not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule was broken.
    pub rule: &'static str,
    /// How, for a person.
    pub detail: String,
}

impl Violation {
    /// Says what broke which rule.
    pub fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self {
            rule,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// A history with its truth, and which events each request made.
pub struct Case<'a> {
    /// What clients saw.
    pub history: &'a History,
    /// What the log says.
    pub truth: &'a Truth,
    by_audit: BTreeMap<&'a str, Vec<&'a Event>>,
    /// When what had been acknowledged; both rise.
    acknowledged: Vec<(Time, i64)>,
    /// Before it, only what is older than the history was compacted.
    compacting_since: Time,
}

impl<'a> Case<'a> {
    /// Brings the two together.
    #[must_use]
    pub fn new(history: &'a History, truth: &'a Truth) -> Self {
        let mut by_audit: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in &truth.events {
            if let Some(audit) = &event.audit_id {
                by_audit.entry(audit).or_default().push(event);
            }
        }
        let mut case = Self {
            history,
            truth,
            by_audit,
            acknowledged: Vec::new(),
            compacting_since: compacting_since(history),
        };
        case.acknowledged = case.acknowledgements();
        case
    }

    /// The events that a request made.
    #[must_use]
    pub fn events_of(&self, record: &Record) -> &[&'a Event] {
        self.by_audit
            .get(record.audit.as_str())
            .map_or(&[], Vec::as_slice)
    }

    /// Every consistent read that begins at this time is at this revision or later.
    #[must_use]
    pub fn acknowledged_before(&self, time: Time) -> i64 {
        let place = self.acknowledged.partition_point(|(at, _)| *at < time);
        let before = place
            .checked_sub(1)
            .and_then(|last| self.acknowledged.get(last));
        before.map_or(self.history.beginning, |(_, revision)| *revision)
    }

    /// What no client may have been told before this time to be gone is at this revision or later.
    #[must_use]
    pub fn compacted_by(&self, time: Time) -> i64 {
        let compacted = self.truth.compacted;
        if time < self.compacting_since {
            compacted.min(self.history.beginning)
        } else {
            compacted
        }
    }

    fn acknowledgements(&self) -> Vec<(Time, i64)> {
        let records = self.history.records.iter();
        let writes = records.filter(|record| record.call.is_write());
        let mut acknowledged: Vec<(Time, i64)> = writes
            .filter(|record| record.outcome.success().is_some())
            .filter_map(|record| {
                let events = self.events_of(record).iter();
                Some((record.returned, events.map(|event| event.revision).max()?))
            })
            .collect();
        acknowledged.sort_unstable();
        let mut newest = self.history.beginning;
        for (_, revision) in &mut acknowledged {
            newest = newest.max(*revision);
            *revision = newest;
        }
        acknowledged
    }
}

/// When the history's own compaction began; 0 when nobody noted that. The replicas' own go no
/// further than its beginning: what they may let go is older.
fn compacting_since(history: &History) -> Time {
    let faults = history.plan.faults.iter();
    let compactions: Vec<String> = faults
        .filter(|trouble| matches!(trouble.fault, Fault::Compact { .. }))
        .map(|trouble| format!("{:?}", trouble.fault))
        .collect();
    let mut log = history.log.iter();
    let began = log.find(|(_, what)| compactions.contains(what));
    began.map_or(0, |(at, _)| *at)
}

/// Everything that is wrong with a history.
#[must_use]
pub fn check(history: &History, truth: &Truth) -> Vec<Violation> {
    let case = Case::new(history, truth);
    let mut violations = table::check(truth);
    violations.extend(writes::check(&case));
    violations.extend(collection::check(&case));
    violations.extend(reads::check(&case));
    violations.extend(order::check(&case));
    violations.extend(linear::check(&case));
    violations.extend(watches::check(&case));
    violations.extend(available(history));
    violations
}

/// Where nothing goes wrong, every request has a definite answer.
fn available(history: &History) -> Vec<Violation> {
    let is_answered = |record: &&Record| record.outcome.code().is_some_and(|code| code < 500);
    let unanswered = history.records.iter().filter(|record| !is_answered(record));
    let of_record = |record: &Record| Violation::new("available", brief(record));
    match history.plan.is_calm() {
        true => unanswered.map(of_record).collect(),
        false => Vec::new(),
    }
}

/// A request in few words.
#[must_use]
pub fn brief(record: &Record) -> String {
    let outcome = match &record.outcome {
        Outcome::Answered { code, body } => {
            let revision = revision(body);
            let revision = revision.map_or_else(String::new, |r| format!(" at {r}"));
            format!("{code}{revision}")
        }
        Outcome::NotSent(why) => format!("not sent ({why})"),
        Outcome::Lost(why) => format!("unknown ({why})"),
    };
    let call = match &record.call {
        Call::Create { name, .. } => format!("create {name}"),
        Call::Write {
            name,
            part,
            change,
            expected,
            ..
        } => {
            let expected = expected.map_or_else(String::new, |e| format!(" over {e}"));
            format!("{change:?} {name} {part:?}{expected}")
        }
        Call::Delete {
            name,
            expected,
            uid,
        } => {
            format!("delete {name} expected {expected:?} uid {}", uid.is_some())
        }
        Call::DeleteCollection { selector } => {
            format!("delete collection {selector:?}")
        }
        Call::Get { name, mode } => format!("get {name} {mode:?}"),
        Call::List {
            mode,
            selector,
            limit,
        } => {
            format!("list {mode:?} {selector:?} limit {limit:?}")
        }
    };
    format!(
        "{} [{}..{} µs] client {} replica {}: {call} -> {outcome}",
        record.audit, record.invoked, record.returned, record.client, record.replica
    )
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Hand-made histories.

    use super::*;
    use crate::plan::{Offer, Plan};
    use crate::record::{Time, Watch};

    /// A history of these requests and watches that began at revision 0.
    pub(crate) fn history(records: Vec<Record>, watches: Vec<Watch>) -> History {
        History {
            plan: Plan {
                names: vec!["x".to_owned(), "y".to_owned()],
                ..Plan::draw(1, &Offer::default())
            },
            namespace: "n".to_owned(),
            beginning: 0,
            records,
            watches,
            log: Vec::new(),
        }
    }

    /// A request by one client that took these times.
    pub(crate) fn record(
        audit: &str,
        call: Call,
        (invoked, returned): (Time, Time),
        outcome: Outcome,
    ) -> Record {
        Record {
            audit: audit.to_owned(),
            client: 0,
            replica: 0,
            call,
            invoked,
            returned,
            outcome,
        }
    }

    /// The rules that were broken.
    pub(crate) fn rules(violations: &[Violation]) -> Vec<&'static str> {
        violations.iter().map(|violation| violation.rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{history, record, rules};
    use super::*;
    use crate::plan::{Fault, Trouble};
    use crate::record::Mode;

    fn get(audit: &str, outcome: Outcome) -> Record {
        let call = Call::Get {
            name: "x".to_owned(),
            mode: Mode::Consistent,
        };
        record(audit, call, (0, 1), outcome)
    }

    fn answered(code: u16) -> Outcome {
        Outcome::Answered {
            code,
            body: serde_json::Value::Null,
        }
    }

    #[test]
    fn without_a_fault_nothing_may_be_unavailable_and_with_one_it_may() {
        let records = vec![
            get("a", answered(404)),
            get("b", answered(503)),
            get("c", Outcome::Lost("cut".to_owned())),
        ];
        let mut history = history(records, Vec::new());
        history.plan.faults.clear();
        let found = rules(&check(&history, &Truth::default()));
        assert_eq!(found, ["available", "available"]);
        history.plan.faults.push(Trouble {
            after: 0,
            fault: Fault::Compact { behind: 0 },
        });
        let found = rules(&check(&history, &Truth::default()));
        assert_eq!(found, ["available", "available"]);
        history.plan.faults.push(Trouble {
            after: 0,
            fault: Fault::Terminate { nth: 0 },
        });
        assert_eq!(rules(&check(&history, &Truth::default())), [""; 0]);
    }

    #[test]
    fn a_whole_history_is_judged_by_every_checker() {
        use crate::truth::fixture::{event, truth};
        use crate::truth::{ADDED, MODIFIED};
        // A lost update: the second write of the log replaced a version that was gone.
        let mut truth = truth(vec![
            event(1, ADDED, "x", "a"),
            event(2, MODIFIED, "x", "b"),
            event(3, MODIFIED, "x", "c"),
        ]);
        truth.events[2].previous_revision = Some(1);
        let found = check(&history(Vec::new(), Vec::new()), &truth);
        let found = rules(&found);
        assert!(found.contains(&"log: compare and swap"), "{found:?}");
        assert!(found.contains(&"write: asked for"), "{found:?}");
    }
}
