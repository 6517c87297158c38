//! What reads showed is what the log says: an object is one of its versions, a
//! list is the fold of the log at the list's own revision, pages are one list.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Case, Violation, brief};
use crate::record::{Call, Mode, Record, name, revision};
use crate::selector::Selector;
use crate::truth::{DELETED, Truth};

/// All reads of a history.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let records = case.history.records.iter();
    records.filter_map(|record| read(case, record)).collect()
}

fn read(case: &Case<'_>, record: &Record) -> Option<Violation> {
    let said = |rule, what: String| {
        let detail = format!("{} — {what}", brief(record));
        Some(Violation::new(rule, detail))
    };
    let (Call::Get { mode, .. } | Call::List { mode, .. }) = &record.call else {
        return None;
    };
    let plan = &case.history.plan;
    let may_panic = match &record.call {
        // Its pages come from one replica after the other.
        Call::List { .. } => plan.replicas.iter().any(|replica| plan.may_panic(*replica)),
        _ => plan.may_panic(record.replica),
    };
    if record.outcome.code() == Some(500) && !may_panic {
        return said("read: verdict", "an internal error".to_owned());
    }
    if record.outcome.code() == Some(410) {
        // A page that expired is not noted: this is the answer to a request without a token, and
        // what is there now never expires, nor does anything newer than a revision.
        let compacted = case.compacted_by(record.returned);
        return match mode {
            Mode::Exact(revision) if *revision < compacted => None,
            _ => said("read: expired", format!("{compacted} was compacted")),
        };
    }
    let body = record.outcome.success()?;
    match &record.call {
        Call::Get { name, .. } => {
            object(case.truth, name, body).and_then(|what| said("read: version", what))
        }
        Call::List { selector, .. } => {
            list(case.truth, *mode, selector, body).and_then(|what| said("read: list", what))
        }
        _ => None,
    }
}

/// What is wrong with one object that was shown.
fn object(truth: &Truth, wanted: &str, shown: &Value) -> Option<String> {
    let event = revision(shown).and_then(|revision| truth.event(revision));
    match event {
        Some(event) if event.kind != DELETED && event.name == wanted => {
            let written = event.shown_as(shown);
            (*shown != written).then(|| format!("shown {shown}, but the log has {written}"))
        }
        _ => Some(format!("shown {shown}, which the log does not have")),
    }
}

/// What is wrong with a list, given as its pages or as its only one.
pub(super) fn list(truth: &Truth, mode: Mode, selector: &Selector, body: &Value) -> Option<String> {
    let pages = match body {
        Value::Array(pages) => pages.as_slice(),
        page => std::slice::from_ref(page),
    };
    let at = revision(pages.first()?);
    let Some(at) = at else {
        return Some("it names no revision".to_owned());
    };
    if let Some(page) = pages.iter().find(|page| revision(page) != Some(at)) {
        return Some(format!(
            "a page is at {:?}, the first at {at}",
            revision(page)
        ));
    }
    match mode {
        Mode::Exact(wanted) if wanted != at => return Some(format!("it is at {at}")),
        Mode::NotOlderThan(least) if at < least => return Some(format!("it is at {at}")),
        _ => {}
    }
    if at > truth.last_allotted {
        let last = truth.last_allotted;
        return Some(format!(
            "it is at {at}, and {last} is the last one allotted"
        ));
    }
    let shown: Vec<&Value> = pages
        .iter()
        .filter_map(|page| page.get("items")?.as_array())
        .flatten()
        .collect();
    let fold = truth.fold(at);
    let wanted: Vec<Value> = fold
        .values()
        .filter(|event| selector.matches(&event.body))
        .map(|event| event.shown())
        .collect();
    // A chain of pages that broke off shows the first part.
    let is_whole = pages
        .last()
        .is_some_and(|page| page.pointer("/metadata/continue").is_none());
    let wanted = match is_whole {
        true => wanted.as_slice(),
        false => wanted.get(..shown.len()).unwrap_or(&wanted),
    };
    if shown.iter().copied().eq(wanted) {
        return None;
    }
    let brief = |objects: &mut dyn Iterator<Item = &Value>| {
        let pairs = objects.map(|object| (name(object).to_owned(), revision(object).unwrap_or(0)));
        format!("{:?}", pairs.collect::<BTreeMap<_, _>>())
    };
    let shown = brief(&mut shown.into_iter());
    let wanted = brief(&mut wanted.iter());
    Some(format!(
        "at {at} it shows {shown}, but the log folds to {wanted}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{history, record, rules};
    use super::*;
    use crate::plan::{Fault, Trouble};
    use crate::record::Outcome;
    use crate::truth::fixture::{colored, event, truth};
    use crate::truth::{ADDED, MODIFIED};

    fn log() -> Truth {
        truth(vec![
            event(1, ADDED, "x", "a"),
            colored(event(2, ADDED, "y", "b"), "blue"),
            event(4, MODIFIED, "x", "c"),
            event(6, DELETED, "y", "d"),
        ])
    }

    fn page(at: i64, events: &[i64], more: bool) -> Value {
        let log = log();
        let items: Vec<Value> = events
            .iter()
            .map(|at| log.event(*at).unwrap().shown())
            .collect();
        let mut page = json!({"metadata": {"resourceVersion": at.to_string()}, "items": items});
        if more {
            page["metadata"]["continue"] = json!("token");
        }
        page
    }

    fn judge(call: Call, code: u16, body: Value) -> Vec<&'static str> {
        let outcome = Outcome::Answered { code, body };
        let history = history(vec![record("r", call, (0, 1), outcome)], Vec::new());
        rules(&check(&Case::new(&history, &log())))
    }

    fn list_call(mode: Mode, selector: Selector) -> Call {
        Call::List {
            mode,
            selector,
            limit: None,
        }
    }

    #[test]
    fn lists_that_are_folds_are_accepted() {
        let all = |mode| list_call(mode, Selector::All);
        let none = Vec::<&str>::new();
        assert_eq!(
            judge(all(Mode::Consistent), 200, page(5, &[4, 2], false)),
            none
        );
        assert_eq!(
            judge(all(Mode::Exact(2)), 200, page(2, &[1, 2], false)),
            none
        );
        assert_eq!(judge(all(Mode::Any), 200, page(6, &[4], false)), none);
        let red = list_call(Mode::Any, Selector::Color("red".to_owned()));
        assert_eq!(judge(red, 200, page(2, &[1], false)), none);
        let pages = json!([page(2, &[1], true), page(2, &[2], false)]);
        assert_eq!(judge(all(Mode::Consistent), 200, pages), none);
        let broken = json!([page(2, &[1], true)]);
        assert_eq!(judge(all(Mode::Consistent), 200, broken), none);
    }

    #[test]
    fn lists_that_are_no_fold_of_the_log_are_found() {
        let all = |mode| list_call(mode, Selector::All);
        for (mode, body) in [
            (Mode::Consistent, page(6, &[4, 2], false)),
            (Mode::Consistent, page(5, &[1, 2], false)),
            (Mode::Consistent, page(5, &[4], false)),
            (Mode::Exact(2), page(4, &[4, 2], false)),
            (Mode::NotOlderThan(5), page(4, &[4, 2], false)),
            (Mode::Consistent, page(9, &[4], false)),
            (
                Mode::Any,
                json!([page(2, &[1], true), page(4, &[2], false)]),
            ),
            (Mode::Any, json!([page(2, &[1], true), page(2, &[], false)])),
        ] {
            assert_eq!(
                judge(all(mode), 200, body.clone()),
                ["read: list"],
                "{body}"
            );
        }
        let red = list_call(Mode::Any, Selector::Color("red".to_owned()));
        assert_eq!(judge(red, 200, page(2, &[1, 2], false)), ["read: list"]);
    }

    #[test]
    fn objects_that_were_never_written_so_are_found() {
        let get = || Call::Get {
            name: "x".to_owned(),
            mode: Mode::Any,
        };
        let written = log().event(4).unwrap().shown();
        assert_eq!(judge(get(), 200, written.clone()), Vec::<&str>::new());
        let mut other = written.clone();
        other["spec"]["color"] = json!("green");
        assert_eq!(judge(get(), 200, other), ["read: version"]);
        let mut phantom = written;
        phantom["metadata"]["resourceVersion"] = json!("5");
        assert_eq!(judge(get(), 200, phantom), ["read: version"]);
        let of_another = log().event(2).unwrap().shown();
        assert_eq!(judge(get(), 200, of_another), ["read: version"]);
    }

    #[test]
    fn an_expiry_without_compaction_and_an_internal_error_are_found() {
        let exact = list_call(Mode::Exact(1), Selector::All);
        assert_eq!(judge(exact.clone(), 410, Value::Null), ["read: expired"]);
        assert_eq!(judge(exact, 500, Value::Null), ["read: verdict"]);
    }

    #[test]
    fn only_what_is_read_at_a_compacted_revision_expires() {
        let mut truth = log();
        truth.compacted = 4;
        let judge = |mode, returned| {
            let outcome = Outcome::Answered {
                code: 410,
                body: Value::Null,
            };
            let call = list_call(mode, Selector::All);
            let expired = record("r", call, (0, returned), outcome);
            let mut history = history(vec![expired], Vec::new());
            let fault = Fault::Compact { behind: 2 };
            history.log = vec![(5, format!("{fault:?}"))];
            history.plan.faults = vec![Trouble { after: 0, fault }];
            rules(&check(&Case::new(&history, &truth)))
        };
        assert_eq!(judge(Mode::Exact(3), 5), Vec::<&str>::new());
        assert_eq!(judge(Mode::Exact(4), 5), ["read: expired"]);
        assert_eq!(judge(Mode::Exact(3), 4), ["read: expired"]);
        for mode in [Mode::Consistent, Mode::Any, Mode::NotOlderThan(1)] {
            assert_eq!(judge(mode, 5), ["read: expired"], "{mode:?}");
        }
    }
}
