//! Bugs that are put in on purpose, so that the tests that look for such bugs are tested. Without
//! the feature `planted` none of them is compiled in; with it, `PLANTED=name` picks one.

use crate::log::LoggedEvent;
use crate::types::{EventKind, Operation, Write};

macro_rules! bugs {
    ($($bug:ident = $name:literal: $meaning:literal,)+) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $(
            #[doc = $meaning]
            $bug,
        )+ }

        /// The name of each bug, and what it does.
        pub const BUGS: &[(&str, &str, Bug)] = &[$(($name, $meaning, Bug::$bug),)+];
    };
}

bugs! {
    PlainSequenceOrder = "plain-sequence-order": "some rows are published after rows of higher revisions",
    AckBeforeBarrier = "ack-before-barrier": "writes are acknowledged before they are durable",
    PublishBeforeBarrier = "publish-before-barrier": "writes are shown before they are durable",
    BookmarkOneTooHigh = "bookmark-one-too-high": "a bookmark names the revision after what was sent",
    NotifyOnly = "notify-only": "the log is not polled, and some notifications are lost",
    StaleConsistentRead = "stale-consistent-read": "a consistent read does not ask the database",
    EventSwallowedAtReconnect = "event-swallowed-at-reconnect": "the first event after a reconnect is lost",
    EventDuplicatedAtReconnect = "event-duplicated-at-reconnect": "watchers get their last event again after a reconnect",
    DeleteDroppedAtCompaction = "delete-dropped-at-compaction": "the first deletion after a compaction is not shown",
    No410BelowCompaction = "no-410-below-compaction": "a watch below the compacted revision gets what is left",
    NoCompareAndSwap = "no-compare-and-swap": "a write over another version than the one expected goes through",
    NulByteLost = "nul-byte-lost": "escaped NUL characters in bodies are dropped",
    StaleListAfterStop = "stale-list-after-stop-and-continue": "a consistent read trusts the last look at the database",
    SelectorTransitionLost = "selector-transition-lost": "an object that leaves a watch's selection is not reported as deleted",
    UnresolvedIsFailed = "unresolved-is-failed": "a write whose connection broke is taken for not applied",
    ResumeSkipsOne = "resume-skips-one": "a watch that starts in the past misses its first event",
    PresentForPast = "present-for-past": "a list at a revision of the past shows the present under that revision",
    NotOlderThanNotAwaited = "not-older-than-not-awaited": "a read at a revision to come does not wait for it",
    ConflictAcknowledged = "conflict-acknowledged": "a write over another version than the one expected is not done and acknowledged",
    ResolvedTriedAgain = "resolved-tried-again": "a write whose connection broke is tried again although it was applied",
}

/// Whether this bug is the one that is planted.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("PLANTED").ok()?;
        let found = BUGS.iter().find(|(known, ..)| *known == name);
        if found.is_none() {
            tracing::error!(name, "no planted bug has this name");
        }
        found.map(|(.., bug)| *bug)
    });
    *PLANTED == Some(bug)
}

/// None is planted.
#[cfg(not(feature = "planted"))]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Takes escaped NUL characters out of a body.
pub(crate) fn spoil(mut write: Write) -> Write {
    const NUL: &[u8] = b"\\u0000";
    if !is(Bug::NulByteLost) {
        return write;
    }
    let (Operation::Create { body, .. } | Operation::Update { body, .. }) = &mut write.operation
    else {
        return write;
    };
    let mut rest: &[u8] = body;
    let mut kept = Vec::new();
    while let Some(at) = rest.windows(NUL.len()).position(|few| few == NUL) {
        let (before, after) = rest.split_at(at);
        kept.extend_from_slice(before);
        rest = after.get(NUL.len()..).unwrap_or_default();
    }
    kept.extend_from_slice(rest);
    *body = kept.into();
    write
}

/// What happens to events on their way into the caches.
#[derive(Default)]
pub(crate) struct Spoil {
    swallow: usize,
    swallow_deletion: bool,
    held: Option<LoggedEvent>,
}

impl Spoil {
    pub(crate) fn swallow_event(&mut self) {
        self.swallow = 1;
    }

    pub(crate) fn swallow_deletion(&mut self) {
        self.swallow_deletion = true;
    }

    pub(crate) fn take(&mut self, events: &mut Vec<LoggedEvent>) {
        if !cfg!(feature = "planted") {
            return;
        }
        if self.swallow_deletion
            && let Some(at) = events
                .iter()
                .position(|event| event.kind == EventKind::Deleted)
        {
            events.remove(at);
            self.swallow_deletion = false;
        }
        if self.swallow > 0 && !events.is_empty() {
            events.remove(0);
            self.swallow -= 1;
        }
        if is(Bug::PlainSequenceOrder) && !events.is_empty() {
            let late = self.held.take();
            let hold = events
                .first()
                .is_some_and(|event| event.revision.get() % 8 == 0);
            if hold {
                self.held = Some(events.remove(0));
            }
            events.extend(late);
        }
    }
}
