//! Which rules may catch which of the bugs that can be planted in the servers: those that say what
//! the bug does, or what follows from it. Whatever else goes wrong in such a run is another finding,
//! and proves nothing about the checkers.

use anyhow::{Context as _, Result};

use crate::check::Violation;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    /// As the servers know it.
    pub name: &'static str,
    /// It is caught when one of these is broken.
    pub rules: &'static [&'static str],
}

impl Bug {
    /// The bug of this name.
    pub fn find(name: &str) -> Result<Self> {
        let mut known = CATCHERS.iter();
        let (name, rules) = known
            .find(|(known, _)| *known == name)
            .with_context(|| format!("nothing says which rules may catch {name}"))?;
        Ok(Self { name, rules })
    }

    /// The rules of this bug that were broken.
    pub fn caught_by(self, violations: &[Violation]) -> impl Iterator<Item = &'static str> {
        let broken = violations.iter().map(|violation| violation.rule);
        broken.filter(move |rule| self.rules.contains(rule))
    }
}

/// An event never came into the caches: neither is it shown, nor what it changed.
const LOST_EVENT: &[&str] = &[
    "watch: gap",
    "watch: complete",
    "watch: bookmark",
    "watch: initial events",
    "watch: type",
    "watch: content",
    "watch: filter",
    "read: list",
    "linearizable",
    "collection: list",
];

/// Something came late, and into caches that had gone on.
const MISPLACED_EVENT: &[&str] = &[
    "watch: order",
    "watch: unique",
    "watch: gap",
    "watch: complete",
    "watch: bookmark",
    "watch: initial events",
    "watch: type",
    "watch: content",
    "watch: filter",
    "read: list",
    "linearizable",
    "collection: list",
];

/// What was shown is undone, and its revision may be given to another write.
const PHANTOM: &[&str] = &[
    "watch: phantom",
    "watch: content",
    "watch: filter",
    "watch: type",
    "watch: initial events",
    "watch: bookmark",
    "read: list",
    "read: version",
    "order: write",
    "order: stale read",
    "linearizable",
    "collection: list",
];

/// A read that was to be consistent lacks what was acknowledged.
const STALE: &[&str] = &["linearizable", "order: stale read"];

/// A watcher is not told of something.
const UNTOLD: &[&str] = &["watch: gap", "watch: complete", "watch: bookmark"];

/// The bugs of `store/src/planted.rs`, each with its rules.
const CATCHERS: &[(&str, &[&str])] = &[
    ("plain-sequence-order", MISPLACED_EVENT),
    (
        "ack-before-barrier",
        &[
            "write: acknowledged",
            "linearizable",
            "collection: survivor",
        ],
    ),
    ("publish-before-barrier", PHANTOM),
    (
        "bookmark-one-too-high",
        &["watch: bookmark", "watch: order", "order: write"],
    ),
    // Where nobody writes any more, a replica stays behind for ever.
    ("notify-only", &["read: fresh", "watch: complete"]),
    ("stale-consistent-read", STALE),
    ("event-swallowed-at-reconnect", LOST_EVENT),
    (
        "event-duplicated-at-reconnect",
        &["watch: unique", "watch: order", "watch: bookmark"],
    ),
    ("delete-dropped-at-compaction", LOST_EVENT),
    (
        "no-410-below-compaction",
        &["compacted: refused", "watch: gap"],
    ),
    (
        "no-compare-and-swap",
        &["write: effect", "log: compare and swap", "linearizable"],
    ),
    ("nul-byte-lost", &["write: effect", "write: acknowledged"]),
    ("stale-list-after-stop-and-continue", STALE),
    ("selector-transition-lost", UNTOLD),
    ("unresolved-is-failed", &["write: refused", "linearizable"]),
    ("resume-skips-one", UNTOLD),
    ("present-for-past", &["read: list"]),
    (
        "not-older-than-not-awaited",
        &["read: list", "watch: initial events"],
    ),
    (
        "conflict-acknowledged",
        &["write: acknowledged", "collection: survivor"],
    ),
    ("resolved-tried-again", &["write: refused", "write: once"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the first two backticks or quotes of a line.
    fn quoted(line: &str, mark: char) -> Option<&str> {
        line.split(mark).nth(1)
    }

    #[test]
    fn every_bug_that_can_be_planted_has_its_rules_and_no_other() {
        let source = include_str!("../../store/src/planted.rs");
        let table = source.split("bugs! {").nth(1).unwrap();
        let table = table.split("\n}").next().unwrap();
        let planted: Vec<&str> = table.lines().filter_map(|line| quoted(line, '"')).collect();
        let known: Vec<&str> = CATCHERS.iter().map(|(name, _)| *name).collect();
        assert_eq!(planted, known);
        assert!(Bug::find("no-such-bug").is_err());
    }

    #[test]
    fn only_rules_that_there_are_catch_a_bug() {
        let sources = [
            include_str!("check/collection.rs"),
            include_str!("check/linear.rs"),
            include_str!("check/order.rs"),
            include_str!("check/reads.rs"),
            include_str!("check/table.rs"),
            include_str!("check/watches.rs"),
            include_str!("check/writes.rs"),
            include_str!("run.rs"),
        ];
        let known = sources.map(|source| source.split("mod tests").next().unwrap());
        for (name, rules) in CATCHERS {
            for rule in *rules {
                let quoted = format!("\"{rule}\"");
                let is_known = known.iter().any(|source| source.contains(&quoted));
                assert!(is_known, "{name}: {rule}");
            }
        }
    }

    #[test]
    fn what_caught_each_bug_in_the_documents_may_catch_it() {
        let text = include_str!("../../docs/faults.md");
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let mut seen = 0;
        for row in rows {
            let bug = Bug::find(quoted(row, '`').unwrap()).unwrap();
            let rules = row.split('|').nth(2).unwrap().split(", ");
            for rule in rules.map(str::trim) {
                assert!(bug.rules.contains(&rule), "{}: {rule}", bug.name);
            }
            seen += 1;
        }
        assert_eq!(seen, CATCHERS.len());
    }

    #[test]
    fn only_its_own_rules_catch_a_bug() {
        let bug = Bug::find("notify-only").unwrap();
        let caught = |rules: &[&'static str]| {
            let violations: Vec<_> = rules.iter().map(|rule| Violation::new(rule, "")).collect();
            bug.caught_by(&violations).collect::<Vec<_>>()
        };
        assert_eq!(caught(&["server: comes back", "available"]), [""; 0]);
        assert_eq!(caught(&["available", "read: fresh"]), ["read: fresh"]);
    }
}
