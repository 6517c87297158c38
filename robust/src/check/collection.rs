//! DELETE of a collection: it begins with a consistent list, which is also its answer, and deletes
//! what is in that list and nothing else.
//!
//! Meanwhile others go on. What they change after the list is deleted all the same, though it be
//! selected no more, as Kubernetes does; what they delete first is not there to be deleted. After an
//! error any part of it may be deleted, and later too, since what is queued goes on: then only what
//! no list can have had is judged. Clients name no limit and no preconditions, so none are judged.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Case, Violation, brief, reads};
use crate::record::{Call, Mode, Outcome, Record, name, revision};
use crate::selector::Selector;
use crate::truth::{DELETED, Event};

/// A rule that was broken, and how.
type Found = (&'static str, String);

/// All deletions of collections of a history.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for record in &case.history.records {
        if let Call::DeleteCollection { selector } = &record.call {
            let found = deletion(case, record, selector).into_iter();
            violations.extend(found.map(|(rule, what)| {
                let detail = format!("{} — {what}", brief(record));
                Violation::new(rule, detail)
            }));
        }
    }
    violations
}

fn deletion(case: &Case<'_>, record: &Record, selector: &Selector) -> Vec<Found> {
    let events = case.events_of(record);
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    for event in events.iter().filter(|event| !names.insert(&event.name)) {
        let what = format!("{} was deleted once more at {}", event.name, event.revision);
        found.push(("write: once", what));
    }
    match &record.outcome {
        Outcome::Answered {
            code: 200..300,
            body,
        } => {
            found.extend(done(case, record, selector, body));
            return found;
        }
        Outcome::Answered { code: 500, .. } if !case.history.plan.may_panic(record.replica) => {
            found.push(("write: verdict", "an internal error".to_owned()));
        }
        Outcome::Answered { code: 410, .. } => {
            found.push((
                "write: verdict",
                "what is there now never expires".to_owned(),
            ));
        }
        Outcome::NotSent(_) if !events.is_empty() => {
            found.push(("write: refused", "it was never sent".to_owned()));
        }
        _ => {}
    }
    let bystanders = events
        .iter()
        .filter(|event| !may_be_listed(case, record, selector, event));
    found.extend(bystanders.map(|event| {
        let Event { name, revision, .. } = event;
        let what = format!("{name} was deleted at {revision} and cannot have been selected");
        ("collection: bystander", what)
    }));
    found
}

/// What is wrong with a success.
fn done(case: &Case<'_>, record: &Record, selector: &Selector, body: &Value) -> Vec<Found> {
    if let Some(what) = reads::list(case.truth, Mode::Consistent, selector, body) {
        return vec![("collection: list", what)];
    }
    let at = revision(body).unwrap_or(0);
    let items = body.get("items").and_then(Value::as_array);
    let items: Vec<&Value> = items.into_iter().flatten().collect();
    let events = case.events_of(record);
    let mut found = Vec::new();
    for event in events {
        let is_listed = items.iter().any(|item| name(item) == event.name);
        if !is_listed || event.revision <= at {
            let Event { name, revision, .. } = event;
            let what = format!("{name} was deleted at {revision}, but not listed at {at}");
            found.push(("collection: bystander", what));
        }
    }
    for item in items {
        let is_deleted = events.iter().any(|event| event.name == name(item));
        if !is_deleted && !is_deleted_by_others(case, record, item) {
            let what = format!("{} is listed at {at} and was not deleted", name(item));
            found.push(("collection: survivor", what));
        }
    }
    found
}

/// Whether a list that the request can have begun with, which lacks nothing that was acknowledged
/// before, has what this event deleted.
fn may_be_listed(case: &Case<'_>, record: &Record, selector: &Selector, event: &Event) -> bool {
    let least = case.acknowledged_before(record.invoked);
    let first = case.truth.fold(least).get(event.name.as_str()).copied();
    let later = case.truth.events.iter().filter(|later| {
        later.name == event.name
            && later.kind != DELETED
            && (least + 1..event.revision).contains(&later.revision)
    });
    let mut versions = first.into_iter().chain(later);
    versions.any(|version| selector.matches(&version.body))
}

/// Whether by the time of the answer somebody else may have deleted an object that was listed, or
/// have marked it for its finalizers.
fn is_deleted_by_others(case: &Case<'_>, record: &Record, item: &Value) -> bool {
    let listed = revision(item).unwrap_or(0);
    let mut events = case.truth.events.iter();
    events.any(|event| {
        let is_deletion =
            event.kind == DELETED || event.body.pointer("/metadata/deletionTimestamp").is_some();
        let mut askers = case.history.records.iter();
        let asker = askers.find(|asker| Some(&asker.audit) == event.audit_id.as_ref());
        event.name == name(item)
            && event.revision >= listed
            && is_deletion
            && asker.is_none_or(|asker| asker.invoked <= record.returned)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{history, record, rules};
    use super::super::{linear, order};
    use super::*;
    use crate::plan::{Fault, Trouble};
    use crate::truth::fixture::{colored, event, truth};
    use crate::truth::{ADDED, MODIFIED, Truth};

    const NONE: [&str; 0] = [];

    fn delete(selector: Selector, outcome: Outcome) -> Record {
        record("d", Call::DeleteCollection { selector }, (20, 30), outcome)
    }

    fn delete_all(outcome: Outcome) -> Record {
        delete(Selector::All, outcome)
    }

    fn delete_red(outcome: Outcome) -> Record {
        delete(Selector::Color("red".to_owned()), outcome)
    }

    /// An answer at a revision that shows these versions.
    fn listed(truth: &Truth, at: i64, versions: &[i64]) -> Outcome {
        let shown = |at: &i64| truth.event(*at).unwrap().shown();
        let items: Vec<Value> = versions.iter().map(shown).collect();
        let body = json!({"kind": "WidgetList",
            "metadata": {"resourceVersion": at.to_string()}, "items": items});
        Outcome::Answered { code: 200, body }
    }

    fn answered(code: u16) -> Outcome {
        Outcome::Answered {
            code,
            body: json!({"kind": "Status"}),
        }
    }

    /// A request by somebody else, of which only the times matter.
    fn other(audit: &str, times: (u64, u64)) -> Record {
        let call = Call::Create {
            name: "x".to_owned(),
            body: Value::Null,
        };
        record(audit, call, times, answered(200))
    }

    /// x and y, both there before the request.
    fn begun() -> Vec<Event> {
        vec![event(1, ADDED, "x", "a"), event(2, ADDED, "y", "b")]
    }

    fn with(later: Vec<Event>) -> Truth {
        truth([begun(), later].concat())
    }

    fn judge(truth: &Truth, request: Record) -> Vec<&'static str> {
        let records = vec![
            other("a", (0, 5)),
            other("b", (0, 6)),
            request,
            other("before", (10, 25)),
            other("after", (31, 40)),
        ];
        let history = history(records, Vec::new());
        rules(&check(&Case::new(&history, truth)))
    }

    fn both_gone() -> Truth {
        with(vec![
            event(3, DELETED, "x", "d"),
            event(4, DELETED, "y", "d"),
        ])
    }

    #[test]
    fn a_success_that_deletes_all_that_it_lists_is_accepted() {
        let truth = both_gone();
        let request = delete_all(listed(&truth, 2, &[1, 2]));
        assert_eq!(judge(&truth, request), NONE);
        let untouched = with(vec![]);
        let blue = Selector::Color("blue".to_owned());
        let request = delete(blue, listed(&untouched, 2, &[]));
        assert_eq!(judge(&untouched, request), NONE);
    }

    #[test]
    fn a_success_whose_list_is_not_the_selection_at_its_revision_is_found() {
        let truth = with(vec![event(3, DELETED, "x", "d")]);
        let short = delete_all(listed(&truth, 2, &[1]));
        assert_eq!(judge(&truth, short), ["collection: list"]);
        let nothing = delete_all(answered(200));
        assert_eq!(judge(&truth, nothing), ["collection: list"]);
    }

    #[test]
    fn what_is_listed_and_neither_deleted_nor_marked_is_a_survivor() {
        let untouched = with(vec![]);
        let request = delete_all(listed(&untouched, 2, &[1, 2]));
        let found = judge(&untouched, request);
        assert_eq!(found, ["collection: survivor", "collection: survivor"]);
        let half = with(vec![event(3, DELETED, "x", "d")]);
        let request = delete_all(listed(&half, 2, &[1, 2]));
        assert_eq!(judge(&half, request), ["collection: survivor"]);
        // Changed by somebody, it is to be deleted all the same.
        let changed = with(vec![
            event(3, DELETED, "x", "d"),
            event(4, MODIFIED, "y", "before"),
        ]);
        let request = delete_all(listed(&changed, 2, &[1, 2]));
        assert_eq!(judge(&changed, request), ["collection: survivor"]);
    }

    #[test]
    fn what_somebody_else_deletes_first_is_no_survivor_and_what_is_deleted_later_is() {
        for (who, found) in [("before", vec![]), ("after", vec!["collection: survivor"])] {
            let truth = with(vec![
                event(3, DELETED, "x", who),
                event(4, DELETED, "y", "d"),
            ]);
            let request = delete_all(listed(&truth, 2, &[1, 2]));
            assert_eq!(judge(&truth, request), found, "{who}");
        }
        // It was deleted and is there anew.
        let truth = with(vec![
            event(3, DELETED, "x", "before"),
            event(4, DELETED, "y", "d"),
            event(5, ADDED, "x", "before"),
        ]);
        let request = delete_all(listed(&truth, 2, &[1, 2]));
        assert_eq!(judge(&truth, request), NONE);
    }

    #[test]
    fn what_is_held_is_marked_and_what_is_marked_already_needs_nothing() {
        let marked = |at, who| {
            let mut marked = event(at, MODIFIED, "x", who);
            marked.body["metadata"]["finalizers"] = json!(["a/b"]);
            marked.body["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            marked
        };
        let by_it = with(vec![marked(3, "d"), event(4, DELETED, "y", "d")]);
        let request = delete_all(listed(&by_it, 2, &[1, 2]));
        assert_eq!(judge(&by_it, request), NONE);
        let already = with(vec![marked(3, "a"), event(4, DELETED, "y", "d")]);
        let request = delete_all(listed(&already, 3, &[3, 2]));
        assert_eq!(judge(&already, request), NONE);
    }

    #[test]
    fn what_a_success_deletes_and_does_not_list_is_a_bystander() {
        let log = |color: &str| {
            truth(vec![
                event(1, ADDED, "x", "a"),
                colored(event(2, ADDED, "y", "b"), color),
                event(3, DELETED, "x", "d"),
                event(4, DELETED, "y", "d"),
            ])
        };
        let blue = log("blue");
        let request = delete_red(listed(&blue, 2, &[1]));
        assert_eq!(judge(&blue, request), ["collection: bystander"]);
        let red = log("red");
        let request = delete_red(listed(&red, 2, &[1, 2]));
        assert_eq!(judge(&red, request), NONE);
    }

    #[test]
    fn what_leaves_the_selection_after_the_list_is_deleted_all_the_same() {
        let truth = with(vec![
            event(3, DELETED, "x", "d"),
            colored(event(4, MODIFIED, "y", "before"), "blue"),
            colored(event(5, DELETED, "y", "d"), "blue"),
        ]);
        let request = delete_red(listed(&truth, 2, &[1, 2]));
        assert_eq!(judge(&truth, request), NONE);
    }

    #[test]
    fn an_error_or_an_unknown_outcome_may_come_after_any_part_of_what_was_selected() {
        let half = with(vec![event(3, DELETED, "x", "d")]);
        for outcome in [
            answered(503),
            answered(409),
            answered(504),
            Outcome::Lost("cut".to_owned()),
        ] {
            assert_eq!(judge(&half, delete_red(outcome)), NONE);
        }
        // Blue already when the request began.
        let mut blue = [begun(), vec![event(3, DELETED, "y", "d")]].concat();
        blue[1] = colored(blue[1].clone(), "blue");
        let blue = truth(blue);
        let lost = || Outcome::Lost("cut".to_owned());
        assert_eq!(judge(&blue, delete_red(lost())), ["collection: bystander"]);
        // Red for a moment while it went on.
        let moment = truth(vec![
            colored(event(1, ADDED, "x", "a"), "blue"),
            colored(event(2, ADDED, "y", "b"), "blue"),
            event(3, MODIFIED, "y", "before"),
            colored(event(4, MODIFIED, "y", "before"), "blue"),
            colored(event(5, DELETED, "y", "d"), "blue"),
        ]);
        assert_eq!(judge(&moment, delete_red(lost())), NONE);
    }

    #[test]
    fn an_object_that_is_deleted_twice_by_one_request_is_found() {
        let truth = with(vec![
            event(3, DELETED, "x", "d"),
            event(4, ADDED, "x", "before"),
            event(5, DELETED, "x", "d"),
        ]);
        let lost = Outcome::Lost("cut".to_owned());
        assert_eq!(judge(&truth, delete_all(lost)), ["write: once"]);
    }

    #[test]
    fn what_was_never_sent_deletes_nothing_and_410_or_500_is_no_verdict() {
        let truth = both_gone();
        let unsent = || Outcome::NotSent("refused".to_owned());
        assert_eq!(judge(&truth, delete_all(unsent())), ["write: refused"]);
        assert_eq!(judge(&with(vec![]), delete_all(unsent())), NONE);
        for code in [410, 500] {
            let found = judge(&truth, delete_all(answered(code)));
            assert_eq!(found, ["write: verdict"], "{code}");
        }
        let mut history = history(vec![delete_all(answered(500))], Vec::new());
        let fault = Fault::Failpoint {
            replica: 0,
            setting: "probe.send=panic".to_owned(),
            hold: 0,
        };
        history.plan.faults = vec![Trouble { after: 0, fault }];
        assert_eq!(rules(&check(&Case::new(&history, &truth))), NONE);
    }

    /// Rules that are others', of a request that lists what was there before it began.
    fn stale(at: i64, versions: &[i64]) -> (Vec<&'static str>, Vec<&'static str>) {
        let truth = with(vec![event(3, MODIFIED, "y", "c")]);
        let outcome = listed(&truth, at, versions);
        let mut records = vec![other("a", (0, 5)), other("b", (0, 6)), other("c", (7, 8))];
        records.push(delete_all(outcome));
        let history = history(records, Vec::new());
        let case = Case::new(&history, &truth);
        (rules(&order::check(&case)), rules(&linear::check(&case)))
    }

    #[test]
    fn its_list_is_a_consistent_read() {
        let (order, linear) = stale(2, &[1, 2]);
        assert_eq!(order, ["order: stale read"]);
        assert_eq!(linear, ["linearizable"]);
        assert_eq!(stale(3, &[1, 3]), (vec![], vec![]));
    }
}
