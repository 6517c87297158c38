//! The log in itself: every event follows from the one before it of its object,
//! and folding it gives the table of current objects.

use std::collections::BTreeMap;

use super::Violation;
use crate::truth::{ADDED, DELETED, Event, Head, MODIFIED, Truth};

/// The log's own rules.
#[must_use]
pub fn check(truth: &Truth) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut heads: BTreeMap<&str, Head> = BTreeMap::new();
    let mut last = 0;
    for event in &truth.events {
        if event.revision <= last {
            let detail = format!("revision {} comes after {last}", event.revision);
            violations.push(Violation::new("log: order", detail));
        }
        last = event.revision;
        let before = heads.remove(event.name.as_str());
        if let Some(detail) = succession(event, before.as_ref()) {
            violations.push(Violation::new("log: compare and swap", detail));
        }
        if event.kind != DELETED {
            heads.insert(
                &event.name,
                Head {
                    name: event.name.clone(),
                    uid: event.uid.clone(),
                    revision: event.revision,
                    created_revision: before
                        .map_or(event.revision, |before| before.created_revision),
                },
            );
        }
    }
    let folded: Vec<Head> = heads.into_values().collect();
    if folded != truth.objects {
        let detail = format!("folded {folded:?}, but the table has {:?}", truth.objects);
        violations.push(Violation::new("log: fold", detail));
    }
    violations
}

fn succession(event: &Event, before: Option<&Head>) -> Option<String> {
    let known = before.map(|before| before.revision);
    let follows = match event.kind {
        ADDED => before.is_none() && event.previous_revision.is_none(),
        MODIFIED | DELETED => {
            known.is_some()
                && event.previous_revision == known
                && before.is_some_and(|before| before.uid == event.uid)
        }
        _ => false,
    };
    (!follows).then(|| {
        format!(
            "the event at {} (kind {}) of {} replaced {:?}, but {known:?} was there",
            event.revision, event.kind, event.name, event.previous_revision
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::rules;
    use super::*;
    use crate::truth::fixture::{event, truth};

    fn good() -> Truth {
        truth(vec![
            event(1, ADDED, "x", "a"),
            event(2, MODIFIED, "x", "b"),
            event(4, DELETED, "x", "c"),
            event(5, ADDED, "x", "d"),
        ])
    }

    #[test]
    fn a_sound_log_is_accepted() {
        assert_eq!(check(&good()), []);
    }

    #[test]
    fn a_write_over_a_version_that_was_gone_is_a_lost_update() {
        let mut bad = good();
        bad.events.insert(2, event(3, MODIFIED, "x", "lost"));
        bad.events[2].previous_revision = Some(1);
        bad.events[3].previous_revision = Some(3);
        assert_eq!(rules(&check(&bad)), ["log: compare and swap"]);
    }

    #[test]
    fn a_creation_over_an_object_and_a_change_of_nothing_are_refused() {
        let mut bad = good();
        bad.events[1].kind = ADDED;
        assert!(rules(&check(&bad)).contains(&"log: compare and swap"));
        let mut bad = good();
        bad.events.remove(0);
        assert!(rules(&check(&bad)).contains(&"log: compare and swap"));
    }

    #[test]
    fn a_table_that_is_not_the_fold_is_refused() {
        let mut bad = good();
        bad.objects[0].revision = 4;
        assert_eq!(rules(&check(&bad)), ["log: fold"]);
        bad.objects.clear();
        assert_eq!(rules(&check(&bad)), ["log: fold"]);
    }

    #[test]
    fn a_revision_that_is_used_twice_is_refused() {
        let mut bad = good();
        bad.events[1].revision = 1;
        assert!(rules(&check(&bad)).contains(&"log: order"));
    }
}
