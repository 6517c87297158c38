//! Every verdict is honest: what was acknowledged is in the log once and is what
//! was asked for, what was refused is not in it, and nothing is in it that nobody
//! asked for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Case, Violation, brief};
use crate::effect::{self, Essence};
use crate::record::{Call, Outcome, Part, Record, revision};
use crate::truth::{ADDED, DELETED, Event};

/// All writes of a history.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut askers: BTreeMap<&str, &Record> = BTreeMap::new();
    for record in case.history.records.iter().filter(|r| r.call.is_write()) {
        askers.insert(&record.audit, record);
        violations.extend(verdict(case, record));
    }
    for event in &case.truth.events {
        let asker = event.audit_id.as_deref().and_then(|id| askers.get(id));
        let Some(record) = asker else {
            let detail = format!(
                "the event at {} of {} has audit id {:?}, which is no request's",
                event.revision, event.name, event.audit_id
            );
            violations.push(Violation::new("write: asked for", detail));
            continue;
        };
        violations.extend(effect_of(case, record, event));
    }
    violations
}

fn verdict(case: &Case<'_>, record: &Record) -> Option<Violation> {
    let events = case.events_of(record);
    let revisions: Vec<i64> = events.iter().map(|event| event.revision).collect();
    let said = |rule, what: &str| {
        let detail = format!("{} — {what}; its events: {revisions:?}", brief(record));
        Some(Violation::new(rule, detail))
    };
    if matches!(record.call, Call::DeleteCollection { .. }) {
        // It answers for many objects: [`super::collection`].
        return None;
    }
    match &record.outcome {
        outcome if outcome.is_refused() && !events.is_empty() => {
            said("write: refused", "a refused write was applied")
        }
        Outcome::Answered { code: 500, .. } if !case.history.plan.may_panic(record.replica) => {
            said("write: verdict", "an internal error")
        }
        _ if events.len() > 1 => said("write: once", "it was applied more than once"),
        Outcome::Answered {
            code: 200..300,
            body,
        } => match events {
            [event] => acknowledged(record, event, body)
                .and_then(|what| said("write: acknowledged", &what)),
            _ if is_nothing_to_do(case, record, body) => None,
            _ => said("write: acknowledged", "it is not in the log"),
        },
        _ => None,
    }
}

/// What is wrong with an answer, given the event that it is about.
fn acknowledged(record: &Record, event: &Event, body: &Value) -> Option<String> {
    let is_status = body.get("kind").is_some_and(|kind| kind == "Status");
    if !is_status && revision(body) != Some(event.revision) {
        return Some(format!("the event is at {}", event.revision));
    }
    let is_object = body.get("kind").is_some_and(|kind| kind == "Widget");
    let wanted = event.shown_as(body);
    (is_object && *body != wanted)
        .then(|| format!("{} answered {body}, but the log has {wanted}", record.audit))
}

/// Whether the write, applied to the state that its answer shows, changes nothing.
fn is_nothing_to_do(case: &Case<'_>, record: &Record, body: &Value) -> bool {
    let shown = revision(body).and_then(|revision| case.truth.event(revision));
    let Some(event) = shown.filter(|event| event.kind != DELETED) else {
        return false;
    };
    if record.call.name() != Some(&event.name) {
        return false;
    }
    let wanted = effect::apply(&record.call, Some(&event.body));
    wanted.is_some_and(|(essence, gone)| !gone && essence == Essence::of(&event.body))
}

/// Whether an event is what its request makes of the version before.
fn effect_of(case: &Case<'_>, record: &Record, event: &Event) -> Option<Violation> {
    let said = |what: String| {
        let detail = format!(
            "{} — {what}; the event at {} is {}",
            brief(record),
            event.revision,
            event.body
        );
        Some(Violation::new("write: effect", detail))
    };
    if record.call.name().is_some_and(|name| name != event.name) {
        return said(format!("it changed {}", event.name));
    }
    let (Call::Write { expected, .. } | Call::Delete { expected, .. }) = &record.call else {
        return compare(case, record, event).and_then(said);
    };
    if expected.is_some() && *expected != event.previous_revision {
        return said(format!("it replaced {:?}", event.previous_revision));
    }
    if let Call::Delete { uid: Some(uid), .. } = &record.call
        && *uid != event.uid
    {
        return said(format!("it deleted uid {}", event.uid));
    }
    compare(case, record, event).and_then(said)
}

fn compare(case: &Case<'_>, record: &Record, event: &Event) -> Option<String> {
    let previous = match event.previous_revision {
        None => None,
        // A link to nothing is the log's own violation.
        Some(revision) => Some(&case.truth.event(revision)?.body),
    };
    let Some((wanted, gone)) = effect::apply(&record.call, previous) else {
        return Some(format!("it cannot be applied to {previous:?}"));
    };
    let found = Essence::of(&event.body);
    let is_creation = matches!(record.call, Call::Create { .. });
    if gone != (event.kind == DELETED) || is_creation != (event.kind == ADDED) {
        return Some(format!("the event is of kind {}", event.kind));
    }
    // The status of a new object is nobody's yet.
    let is_scale = matches!(
        record.call,
        Call::Write {
            part: Part::Scale,
            ..
        }
    );
    (found != wanted).then(|| format!("wanted {wanted:?} (scale: {is_scale})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{history, record, rules};
    use super::*;
    use crate::record::Change;
    use crate::truth::fixture::{event, truth};
    use crate::truth::{MODIFIED, Truth};

    fn create(name: &str, op: &str) -> Call {
        Call::Create {
            name: name.to_owned(),
            body: event(0, ADDED, name, op).body,
        }
    }

    fn replace(name: &str, op: &str, expected: i64) -> Call {
        Call::Write {
            name: name.to_owned(),
            part: Part::Main,
            change: Change::Replace,
            body: event(0, ADDED, name, op).body,
            expected: Some(expected),
        }
    }

    fn ok(event: &Event) -> Outcome {
        Outcome::Answered {
            code: 200,
            body: event.shown(),
        }
    }

    fn refused(code: u16) -> Outcome {
        Outcome::Answered {
            code,
            body: json!({"kind": "Status"}),
        }
    }

    /// A creation at 1 and a replacement of it at 2.
    fn good() -> (Truth, Vec<Record>) {
        let truth = truth(vec![
            event(1, ADDED, "x", "a"),
            event(2, MODIFIED, "x", "b"),
        ]);
        let records = vec![
            record("a", create("x", "a"), (0, 1), ok(&truth.events[0])),
            record("b", replace("x", "b", 1), (2, 3), ok(&truth.events[1])),
        ];
        (truth, records)
    }

    fn judge(truth: &Truth, records: Vec<Record>) -> Vec<&'static str> {
        let history = history(records, Vec::new());
        rules(&check(&Case::new(&history, truth)))
    }

    #[test]
    fn honest_verdicts_are_accepted() {
        let (truth, mut records) = good();
        records.push(record("c", create("x", "c"), (4, 5), refused(409)));
        records.push(record("d", replace("x", "d", 1), (4, 5), refused(503)));
        let lost = Outcome::Lost("cut".to_owned());
        records.push(record("e", replace("x", "e", 2), (4, 5), lost));
        assert_eq!(judge(&truth, records), Vec::<&str>::new());
    }

    #[test]
    fn an_acknowledged_write_that_is_not_in_the_log_is_found() {
        let (mut truth, records) = good();
        truth.events.pop();
        assert_eq!(judge(&truth, records), ["write: acknowledged"]);
    }

    #[test]
    fn an_answer_with_another_revision_or_content_than_the_log_is_found() {
        let (truth, mut records) = good();
        records[1].outcome = ok(&truth.events[0]);
        assert_eq!(judge(&truth, records), ["write: acknowledged"]);
        let (truth, mut records) = good();
        let mut other = truth.events[1].clone();
        other.body["spec"]["color"] = json!("blue");
        records[1].outcome = ok(&other);
        assert_eq!(judge(&truth, records), ["write: acknowledged"]);
    }

    #[test]
    fn a_refused_write_that_was_applied_is_found() {
        for outcome in [
            refused(409),
            refused(503),
            refused(429),
            Outcome::NotSent("refused".to_owned()),
        ] {
            let (truth, mut records) = good();
            records[1].outcome = outcome;
            assert_eq!(judge(&truth, records), ["write: refused"]);
        }
    }

    #[test]
    fn a_write_of_unknown_outcome_may_have_been_applied_once_but_not_twice() {
        let (mut truth, mut records) = good();
        records[1].outcome = refused(504);
        assert_eq!(judge(&truth, records.clone()), Vec::<&str>::new());
        let mut again = truth.events[1].clone();
        again.revision = 3;
        again.previous_revision = Some(2);
        truth.events.push(again);
        assert!(judge(&truth, records).contains(&"write: once"));
    }

    #[test]
    fn a_write_over_another_version_than_its_client_read_is_found() {
        let (mut truth, mut records) = good();
        truth.events.push(event(3, MODIFIED, "x", "c"));
        truth.events[2].previous_revision = Some(2);
        let outcome = ok(&truth.events[2]);
        records.push(record("c", replace("x", "c", 1), (4, 5), outcome));
        assert_eq!(judge(&truth, records), ["write: effect"]);
    }

    #[test]
    fn a_write_that_does_something_else_or_that_nobody_asked_for_is_found() {
        let (mut truth, mut records) = good();
        truth.events[1].body["spec"]["color"] = json!("green");
        records[1].outcome = ok(&truth.events[1]);
        assert_eq!(judge(&truth, records), ["write: effect"]);
        let (truth, mut records) = good();
        records.pop();
        assert_eq!(judge(&truth, records), ["write: asked for"]);
    }

    #[test]
    fn an_internal_error_is_no_verdict() {
        let (truth, mut records) = good();
        records.push(record("c", create("y", "c"), (4, 5), refused(500)));
        assert_eq!(judge(&truth, records), ["write: verdict"]);
    }
}
