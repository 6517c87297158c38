//! Hand-made watches, each with one mistake that must be found.

use serde_json::{Value, json};

use super::super::Case;
use super::super::fixture::{history, record, rules};
use super::check;
use crate::plan::{Fault, Trouble};
use crate::record::{Call, Change, Frame, Mode, Outcome, Part, Start, Stream, Time, Watch};
use crate::selector::Selector;
use crate::truth::fixture::{colored, event, truth};
use crate::truth::{ADDED, DELETED, MODIFIED, Truth};

/// x: 1 added, 3 red, 5 blue, 9 deleted; y: 6 added.
fn log() -> Truth {
    let mut log = truth(vec![
        colored(event(1, ADDED, "x", "a"), "blue"),
        colored(event(3, MODIFIED, "x", "b"), "red"),
        colored(event(5, MODIFIED, "x", "c"), "blue"),
        colored(event(6, ADDED, "y", "d"), "red"),
        colored(event(9, DELETED, "x", "e"), "blue"),
    ]);
    log.last_allotted = 12;
    log
}

fn frame(kind: &str, object: Value) -> Frame {
    Frame {
        at: 0,
        kind: kind.to_owned(),
        object,
    }
}

/// The right frames of all events after a revision.
fn frames(selector: &Selector, after: i64) -> Vec<Frame> {
    let expected = log().frames(selector).into_iter();
    expected
        .filter(|expected| expected.revision > after)
        .map(|expected| frame(expected.kind, expected.object))
        .collect()
}

fn bookmark(at: i64) -> Frame {
    let metadata = json!({"resourceVersion": at.to_string()});
    frame("BOOKMARK", json!({"kind": "Widget", "metadata": metadata}))
}

fn mark(at: i64) -> Frame {
    let mut mark = bookmark(at);
    mark.object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    mark
}

fn stream(start: Start, frames: Vec<Frame>) -> Stream {
    Stream {
        replica: 0,
        start,
        invoked: 0,
        frames,
        refused: None,
        end: String::new(),
    }
}

fn judge_at(truth: &Truth, selector: Selector, streams: Vec<Stream>) -> Vec<&'static str> {
    let history = history(Vec::new(), vec![Watch { selector, streams }]);
    rules(&check(&Case::new(&history, truth)))
}

fn judge(streams: Vec<Stream>) -> Vec<&'static str> {
    judge_at(&log(), Selector::All, streams)
}

fn all() -> Vec<Frame> {
    frames(&Selector::All, 0)
}

const NONE: [&str; 0] = [];

#[test]
fn a_whole_watch_is_accepted_also_in_parts_and_with_bookmarks() {
    assert_eq!(judge(vec![stream(Start::After(0), all())]), NONE);
    let mut first = all();
    first.truncate(2);
    first.push(bookmark(4));
    let second = frames(&Selector::All, 4);
    let parts = vec![
        stream(Start::After(0), first),
        stream(Start::After(4), second),
    ];
    assert_eq!(judge(parts), NONE);
    let mut late = all();
    late.push(bookmark(12));
    assert_eq!(judge(vec![stream(Start::After(0), late)]), NONE);
}

#[test]
fn a_missing_event_is_found_in_the_middle_at_a_resume_and_at_the_end() {
    let mut middle = all();
    middle.remove(2);
    assert_eq!(judge(vec![stream(Start::After(0), middle)]), ["watch: gap"]);
    let mut first = all();
    first.truncate(2);
    let mut second = frames(&Selector::All, 3);
    second.remove(0);
    let parts = vec![
        stream(Start::After(0), first),
        stream(Start::After(3), second),
    ];
    assert_eq!(judge(parts), ["watch: gap"]);
    let mut end = all();
    end.pop();
    assert_eq!(
        judge(vec![stream(Start::After(0), end)]),
        ["watch: complete"]
    );
    assert_eq!(judge(vec![]), ["watch: complete"]);
}

#[test]
fn a_repeated_event_is_found_in_one_connection_and_over_a_resume() {
    let mut twice = all();
    twice.insert(2, twice[1].clone());
    assert_eq!(
        judge(vec![stream(Start::After(0), twice)]),
        ["watch: unique"]
    );
    let mut first = all();
    first.truncate(2);
    let parts = vec![
        stream(Start::After(0), first),
        stream(Start::After(3), frames(&Selector::All, 2)),
    ];
    assert_eq!(judge(parts), ["watch: order"]);
}

#[test]
fn events_out_of_order_are_found() {
    let mut swapped = all();
    swapped.swap(1, 2);
    assert_eq!(
        judge(vec![stream(Start::After(0), swapped)]),
        ["watch: gap"]
    );
}

#[test]
fn an_event_that_was_never_written_or_has_other_content_is_found() {
    let mut phantom = all();
    phantom[1].object["metadata"]["resourceVersion"] = json!("2");
    assert_eq!(
        judge(vec![stream(Start::After(0), phantom)]),
        ["watch: phantom"]
    );
    let mut other = all();
    other[1].object["spec"]["color"] = json!("green");
    assert_eq!(
        judge(vec![stream(Start::After(0), other)]),
        ["watch: content"]
    );
}

#[test]
fn a_wrong_type_is_found() {
    let mut wrong = all();
    wrong[1].kind = "ADDED".to_owned();
    assert_eq!(judge(vec![stream(Start::After(0), wrong)]), ["watch: type"]);
}

#[test]
fn bookmarks_that_are_early_go_back_or_name_the_future_are_found() {
    for (place, at) in [(1, 3), (2, 2), (5, 13)] {
        let mut wrong = all();
        wrong.insert(place, bookmark(at));
        let found = judge(vec![stream(Start::After(0), wrong)]);
        assert_eq!(found, ["watch: bookmark"], "{place} {at}");
    }
    let mut laden = all();
    laden.push(bookmark(9));
    laden[5].object["spec"] = json!({});
    assert_eq!(
        judge(vec![stream(Start::After(0), laden)]),
        ["watch: bookmark"]
    );
}

#[test]
fn entering_and_leaving_a_selection_must_be_shown_as_such() {
    let red = || Selector::Color("red".to_owned());
    let right = frames(&red(), 0);
    let kinds: Vec<_> = right.iter().map(|frame| frame.kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "DELETED", "ADDED"]);
    let judge = |frames| judge_at(&log(), red(), vec![stream(Start::After(0), frames)]);
    assert_eq!(judge(right.clone()), NONE);
    // Everything, as if there were no selector.
    assert_eq!(judge(all()), ["watch: filter"]);
    // The exit is swallowed.
    let mut silent = right.clone();
    silent.remove(1);
    assert_eq!(judge(silent), ["watch: gap"]);
    // The exit shows the new state, or an old revision.
    let mut new = right.clone();
    new[1].object["spec"]["color"] = json!("blue");
    assert_eq!(judge(new), ["watch: content"]);
    let mut old = right;
    old[1].object["metadata"]["resourceVersion"] = json!("3");
    assert_eq!(judge(old), ["watch: unique"]);
}

#[test]
fn a_deletion_must_carry_its_own_revision() {
    let mut old = all();
    old[4].object["metadata"]["resourceVersion"] = json!("5");
    assert_eq!(judge(vec![stream(Start::After(0), old)]), ["watch: unique"]);
}

fn state(at: i64) -> Vec<Frame> {
    let log = log();
    let fold = log.fold(at);
    let objects = fold.values().map(|event| frame("ADDED", event.shown()));
    objects.collect()
}

#[test]
fn initial_events_are_the_state_at_their_mark() {
    let start = Start::State(Mode::Consistent);
    let judge = |frames| judge(vec![stream(start, frames)]);
    let right = || [state(6), vec![mark(6)], frames(&Selector::All, 6)].concat();
    assert_eq!(judge(right()), NONE);
    let mut missing = right();
    missing.remove(0);
    assert_eq!(judge(missing), ["watch: initial events"]);
    let mut twice = right();
    twice.insert(0, twice[0].clone());
    assert_eq!(judge(twice), ["watch: initial events"]);
    let newer = [state(6), vec![mark(5)], frames(&Selector::All, 5)].concat();
    assert_eq!(judge(newer), ["watch: initial events"]);
    let mut again = right();
    again.push(mark(9));
    assert_eq!(judge(again), ["watch: initial events"]);
    let mut unmarked = right();
    unmarked[2] = bookmark(6);
    assert_eq!(judge(unmarked), ["watch: initial events"]);
}

#[test]
fn a_streaming_list_older_than_was_asked_is_found() {
    let frames = [state(5), vec![mark(5)], frames(&Selector::All, 5)].concat();
    let start = Start::State(Mode::NotOlderThan(6));
    assert_eq!(
        judge(vec![stream(start, frames)]),
        ["watch: initial events"]
    );
}

#[test]
fn a_410_needs_a_compaction_and_other_errors_are_found() {
    let error = |code: u16| frame("ERROR", json!({"kind": "Status", "code": code}));
    let ended = |code| vec![stream(Start::After(0), vec![error(code)])];
    assert_eq!(judge(ended(410)), ["watch: expired"]);
    assert_eq!(judge(ended(500)), ["watch: error"]);
    let mut compacted = log();
    compacted.compacted = 4;
    let then = Start::State(Mode::Consistent);
    let rest = [state(6), vec![mark(6)], frames(&Selector::All, 6)].concat();
    let streams = [ended(410), vec![stream(then, rest)]].concat();
    assert_eq!(judge_at(&compacted, Selector::All, streams), NONE);
}

#[test]
fn a_500_or_a_410_of_what_is_kept_needs_a_panic_that_was_made_to_happen() {
    let error = |code: u16| {
        let frame = frame("ERROR", json!({"kind": "Status", "code": code}));
        stream(Start::After(5), vec![frame])
    };
    let then = Start::State(Mode::Consistent);
    let rest = [state(6), vec![mark(6)], frames(&Selector::All, 6)].concat();
    let streams = vec![error(500), error(410), stream(then, rest)];
    let watch = Watch {
        selector: Selector::All,
        streams,
    };
    let mut history = history(Vec::new(), vec![watch]);
    for (replica, setting, found) in [
        (0, "reach=exit", 2),
        (0, "probe.send=error", 2),
        (0, "reach=error", 0),
        (0, "probe.send=panic", 0),
        (1, "probe.send=panic", 2),
    ] {
        history.plan.faults = vec![Trouble {
            after: 0,
            fault: Fault::Failpoint {
                replica,
                setting: setting.to_owned(),
                hold: 0,
            },
        }];
        let violations = check(&Case::new(&history, &log()));
        assert_eq!(
            violations.len(),
            found,
            "{setting} on {replica}: {violations:?}"
        );
    }
}

/// A watch that is told 410 at this time, begins anew and comes to the end.
fn expired(start: Start, at: Time) -> Watch {
    let mut error = frame("ERROR", json!({"kind": "Status", "code": 410}));
    error.at = at;
    let mut first = stream(start, vec![error]);
    first.invoked = 20;
    let rest = [state(6), vec![mark(6)], frames(&Selector::All, 6)].concat();
    Watch {
        selector: Selector::All,
        streams: vec![first, stream(Start::State(Mode::Consistent), rest)],
    }
}

/// The log, compacted up to 4.
fn compacted() -> Truth {
    Truth {
        compacted: 4,
        ..log()
    }
}

#[test]
fn no_fault_excuses_a_410_of_what_is_kept() {
    let fault = Fault::Freeze {
        replica: 0,
        hold: 1,
    };
    for (from, found) in [
        (5, vec!["watch: expired"]),
        (4, vec!["watch: expired"]),
        (3, vec![]),
    ] {
        let mut history = history(Vec::new(), vec![expired(Start::After(from), 30)]);
        history.plan.faults = vec![Trouble {
            after: 0,
            fault: fault.clone(),
        }];
        let violations = check(&Case::new(&history, &compacted()));
        assert_eq!(rules(&violations), found, "{from}");
    }
}

#[test]
fn a_410_from_before_the_compaction_is_found() {
    let fault = Fault::Compact { behind: 8 };
    for (at, found) in [(29, vec!["watch: expired"]), (30, vec![])] {
        let mut history = history(Vec::new(), vec![expired(Start::After(3), at)]);
        history.log = vec![(30, format!("{fault:?}")), (31, "over".to_owned())];
        history.plan.faults = vec![Trouble {
            after: 0,
            fault: fault.clone(),
        }];
        let violations = check(&Case::new(&history, &compacted()));
        assert_eq!(rules(&violations), found, "{at}");
    }
}

#[test]
fn a_state_that_cannot_have_been_compacted_is_not_refused() {
    let judge = |mode, returned| {
        let call = Call::Write {
            name: "x".to_owned(),
            part: Part::Main,
            change: Change::Merge,
            body: Value::Null,
            expected: None,
        };
        let body = json!({"kind": "Status"});
        // It made the event at 5.
        let write = record(
            "c",
            call,
            (0, returned),
            Outcome::Answered { code: 200, body },
        );
        let history = history(vec![write], vec![expired(Start::State(mode), 30)]);
        rules(&check(&Case::new(&history, &compacted())))
    };
    assert_eq!(judge(Mode::Consistent, 19), ["watch: expired"]);
    assert_eq!(judge(Mode::Consistent, 20), NONE);
    assert_eq!(judge(Mode::NotOlderThan(4), 20), ["watch: expired"]);
    assert_eq!(judge(Mode::NotOlderThan(3), 19), NONE);
    assert_eq!(judge(Mode::Any, 19), NONE);
}

#[test]
fn a_watch_from_the_future_is_silent_until_then() {
    let mut early = frames(&Selector::All, 6);
    let start = Start::After(7);
    assert_eq!(judge(vec![stream(start, early.clone())]), NONE);
    early.insert(0, frame("ADDED", log().events[3].shown()));
    assert_eq!(judge(vec![stream(start, early)]), ["watch: order"]);
}
