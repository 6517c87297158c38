//! Linearizability of each object, by the algorithm of Wing and Gong with Lowe's
//! memory of states already tried, as Porcupine has it: some order of the
//! requests, true to real time, must explain every answer.
//!
//! Objects are independent, so each is judged alone; a consistent list is a read
//! of all of them. Requests of unknown outcome count as applied exactly when the
//! log has them, and then may have happened at any time after they began.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use super::{Case, Violation, brief};
use crate::record::{Call, Mode, Outcome, Record, Time, name, revision};
use crate::selector::Selector;
use crate::truth::{ADDED, DELETED, Event};

/// A history that takes longer than this to judge has an unknown verdict, which counts against it.
const LIMIT: Duration = Duration::from_secs(60);

/// What is there: nothing, or a version.
type State = Option<i64>;

/// What an operation says about the object at its one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It was free and is `to` now.
    Creates { to: i64 },
    /// It was there, at `from` if that is known, and is `to` now.
    Changes {
        from: Option<i64>,
        to: State,
        at: i64,
    },
    /// It was exactly this.
    Is(State),
    /// Something was there.
    Exists,
    /// Something was there, and not at this revision.
    IsNot(i64),
}

impl Claim {
    /// The state after it, if it can follow on `state`.
    fn apply(self, state: State) -> Option<State> {
        match (self, state) {
            (Self::Creates { to }, None) => Some(Some(to)),
            (Self::Changes { from, to, at }, Some(now)) => {
                (from.is_none_or(|from| from == now) && at > now).then_some(to)
            }
            (Self::Is(wanted), now) => (wanted == now).then_some(now),
            (Self::Exists, Some(now)) => Some(Some(now)),
            (Self::IsNot(unwanted), Some(now)) => (unwanted != now).then_some(Some(now)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Operation {
    claim: Claim,
    invoked: Time,
    returned: Time,
    what: String,
}

/// All objects of a history.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut operations: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for name in &case.history.plan.names {
        operations.insert(name, Vec::new());
    }
    for record in &case.history.records {
        for (name, claim) in claims(case, record) {
            let returned = match is_over(record) {
                true => record.returned,
                false => Time::MAX,
            };
            if let Some(of_name) = operations.get_mut(name.as_str()) {
                of_name.push(Operation {
                    claim,
                    invoked: record.invoked,
                    returned,
                    what: brief(record),
                });
            }
        }
    }
    let judged = operations.into_iter();
    judged
        .filter_map(|(name, operations)| match search(&operations, LIMIT) {
            Verdict::Legal => None,
            Verdict::Unknown => Some(Violation::new(
                "linearizable: unknown",
                format!("{name}: no verdict within {LIMIT:?}"),
            )),
            Verdict::Illegal(stuck) => Some(Violation::new(
                "linearizable",
                format!("{name}: no order explains the answers; at best {stuck}"),
            )),
        })
        .collect()
}

/// Whether nothing comes of a request after its answer.
fn is_over(record: &Record) -> bool {
    match (&record.call, &record.outcome) {
        // The deletions that it has queued go on after the error of another one.
        (Call::DeleteCollection { .. }, outcome) => outcome.success().is_some(),
        (call, Outcome::Answered { code, .. }) => !call.is_write() || *code != 504,
        (call, _) => !call.is_write(),
    }
}

/// What a request says, object by object.
fn claims(case: &Case<'_>, record: &Record) -> Vec<(String, Claim)> {
    let events = case.events_of(record);
    let written = events
        .iter()
        .map(|event| (event.name.clone(), of_event(event)));
    if let Call::DeleteCollection { selector } = &record.call {
        let listed = listed(case, record, *selector == Selector::All);
        return written.chain(listed).collect();
    }
    if record.call.is_write() && !events.is_empty() {
        return written.collect();
    }
    let named = |claim| match record.call.name() {
        Some(name) => vec![(name.to_owned(), claim)],
        None => Vec::new(),
    };
    match (&record.call, record.outcome.code()) {
        (Call::Get { mode, .. }, Some(code)) if *mode == Mode::Consistent => match code {
            200 => named(Claim::Is(record.outcome.success().and_then(revision))),
            404 => named(Claim::Is(None)),
            _ => Vec::new(),
        },
        (Call::List { mode, selector, .. }, Some(200)) if *mode == Mode::Consistent => {
            listed(case, record, *selector == Selector::All)
        }
        (Call::Create { .. }, Some(409)) => named(Claim::Exists),
        (Call::Write { .. } | Call::Delete { .. }, Some(404)) => named(Claim::Is(None)),
        (Call::Write { expected, .. }, Some(409)) => {
            named(expected.map_or(Claim::Exists, Claim::IsNot))
        }
        (Call::Delete { expected, uid, .. }, Some(409)) => match (expected, uid) {
            (Some(expected), None) => named(Claim::IsNot(*expected)),
            _ => named(Claim::Exists),
        },
        // Nothing to do: it read what is there.
        (Call::Write { .. } | Call::Delete { .. }, Some(200..300)) => {
            let shown = record.outcome.success().and_then(revision);
            shown.map_or_else(Vec::new, |shown| named(Claim::Is(Some(shown))))
        }
        _ => Vec::new(),
    }
}

fn of_event(event: &Event) -> Claim {
    let at = event.revision;
    match event.kind {
        ADDED => Claim::Creates { to: at },
        kind => Claim::Changes {
            from: event.previous_revision,
            to: Some(at).filter(|_| kind != DELETED),
            at,
        },
    }
}

/// A consistent list reads every object; one of all objects also the absent ones.
fn listed(case: &Case<'_>, record: &Record, of_all: bool) -> Vec<(String, Claim)> {
    let Some(body) = record.outcome.success() else {
        return Vec::new();
    };
    let pages = body
        .as_array()
        .map_or(std::slice::from_ref(body), Vec::as_slice);
    let is_whole = pages
        .last()
        .is_some_and(|page| page.pointer("/metadata/continue").is_none());
    // A chain of pages that broke off says nothing of what it did not come to.
    if !is_whole {
        return Vec::new();
    }
    let items = pages
        .iter()
        .filter_map(|page| page.get("items")?.as_array());
    let shown: BTreeMap<&str, State> = items
        .flatten()
        .map(|item| (name(item), revision(item)))
        .collect();
    let names = case.history.plan.names.iter();
    names
        .filter(|name| of_all || shown.contains_key(name.as_str()))
        .map(|name| {
            let state = shown.get(name.as_str()).copied().flatten();
            (name.clone(), Claim::Is(state))
        })
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Legal,
    Illegal(String),
    Unknown,
}

/// Operations as bits of a set that can be remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn flip(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word ^= 1 << (index % 64);
        }
    }

    fn has(&self, index: usize) -> bool {
        let word = self.0.get(index / 64);
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}

/// Looks for an order, depth first. `operations` may be in any order.
fn search(operations: &[Operation], limit: Duration) -> Verdict {
    let began = Instant::now();
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|operation| (operation.invoked, operation.returned));
    let mut done = Bits(vec![0; sorted.len().div_ceil(64)]);
    let mut tried: HashSet<(Bits, State)> = HashSet::new();
    // Where each chosen operation stands in `sorted`, and the state before it.
    let mut path: Vec<(usize, State)> = Vec::new();
    let mut state: State = None;
    let mut next = 0;
    let mut best = (0, String::new());
    loop {
        if path.len() == sorted.len() {
            return Verdict::Legal;
        }
        if began.elapsed() > limit {
            return Verdict::Unknown;
        }
        match step(&sorted, &done, state, next) {
            Some((index, after)) => {
                done.flip(index);
                if tried.insert((done.clone(), after)) {
                    path.push((index, state));
                    (state, next) = (after, 0);
                } else {
                    done.flip(index);
                    next = index + 1;
                }
            }
            None => {
                if path.len() >= best.0 {
                    best = (path.len(), explain(&sorted, &done, state));
                }
                let Some((index, before)) = path.pop() else {
                    return Verdict::Illegal(best.1);
                };
                done.flip(index);
                (state, next) = (before, index + 1);
            }
        }
    }
}

/// The first operation from `next` on that may come now: none that is still open
/// returned before it began, and its claim follows on the state.
fn step(sorted: &[&Operation], done: &Bits, state: State, next: usize) -> Option<(usize, State)> {
    let open = || {
        let all = sorted.iter().enumerate();
        all.filter(|(index, _)| !done.has(*index))
    };
    let horizon = open().map(|(_, operation)| operation.returned).min()?;
    open()
        .take_while(|(_, operation)| operation.invoked <= horizon)
        .filter(|(index, _)| *index >= next)
        .find_map(|(index, operation)| Some((index, operation.claim.apply(state)?)))
}

fn explain(sorted: &[&Operation], done: &Bits, state: State) -> String {
    let open = sorted
        .iter()
        .enumerate()
        .filter(|(index, _)| !done.has(*index));
    let next: Vec<&str> = open.take(4).map(|(_, open)| open.what.as_str()).collect();
    format!(
        "the object is at {state:?} and none of these can be next:\n    {}",
        next.join("\n    ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn operation(claim: Claim, invoked: Time, returned: Time) -> Operation {
        Operation {
            claim,
            invoked,
            returned,
            what: format!("{claim:?}"),
        }
    }

    fn is_legal(operations: &[Operation]) -> bool {
        search(operations, LIMIT) == Verdict::Legal
    }

    fn change(from: i64, to: i64) -> Claim {
        Claim::Changes {
            from: Some(from),
            to: Some(to),
            at: to,
        }
    }

    #[test]
    fn what_happened_in_turn_is_legal_and_at_once_in_any_order() {
        let create = operation(Claim::Creates { to: 1 }, 0, 10);
        let update = operation(change(1, 2), 20, 30);
        let read = |at, times: (Time, Time)| operation(Claim::Is(at), times.0, times.1);
        assert!(is_legal(&[
            create.clone(),
            update.clone(),
            read(Some(2), (40, 50))
        ]));
        assert!(is_legal(&[
            create.clone(),
            update.clone(),
            read(Some(1), (15, 35))
        ]));
        assert!(is_legal(&[
            create.clone(),
            update.clone(),
            read(Some(2), (15, 35))
        ]));
        assert!(is_legal(&[create, read(None, (0, 5))]));
    }

    #[test]
    fn a_stale_read_is_illegal() {
        let create = operation(Claim::Creates { to: 1 }, 0, 10);
        let update = operation(change(1, 2), 20, 30);
        let stale = operation(Claim::Is(Some(1)), 31, 40);
        assert!(!is_legal(&[create.clone(), update, stale]));
        assert!(!is_legal(&[create, operation(Claim::Is(None), 11, 12)]));
    }

    #[test]
    fn a_read_that_goes_back_is_illegal() {
        let history = [
            operation(Claim::Creates { to: 1 }, 0, 10),
            operation(change(1, 2), 20, 60),
            operation(Claim::Is(Some(2)), 25, 30),
            operation(Claim::Is(Some(1)), 31, 40),
        ];
        assert!(!is_legal(&history));
    }

    #[test]
    fn two_writers_over_the_same_version_are_a_lost_update() {
        let history = [
            operation(Claim::Creates { to: 1 }, 0, 10),
            operation(change(1, 2), 20, 30),
            operation(change(1, 3), 20, 30),
        ];
        assert!(!is_legal(&history));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_come_late_but_not_early() {
        let create = operation(Claim::Creates { to: 1 }, 0, 10);
        let unknown = operation(change(1, 2), 20, Time::MAX);
        let read = |at, invoked| operation(Claim::Is(Some(at)), invoked, invoked + 1);
        assert!(is_legal(&[
            create.clone(),
            unknown.clone(),
            read(1, 50),
            read(2, 60)
        ]));
        assert!(!is_legal(&[create, unknown, read(2, 15)]));
    }

    #[test]
    fn a_false_conflict_and_a_false_absence_are_illegal() {
        let create = operation(Claim::Creates { to: 1 }, 0, 10);
        assert!(!is_legal(&[
            create.clone(),
            operation(Claim::IsNot(1), 20, 30)
        ]));
        assert!(!is_legal(&[operation(Claim::Exists, 20, 30)]));
        assert!(!is_legal(&[
            create.clone(),
            operation(Claim::Creates { to: 2 }, 20, 30)
        ]));
        assert!(is_legal(&[create, operation(Claim::Exists, 20, 30)]));
    }

    #[test]
    fn no_time_gives_no_verdict() {
        let history = [operation(Claim::Creates { to: 1 }, 0, 10)];
        assert_eq!(search(&history, Duration::ZERO), Verdict::Unknown);
    }

    /// Random legal histories are accepted, and a read changed to what was never there is not.
    #[test]
    fn random_sequential_histories_with_stretched_times_are_legal_until_one_is_changed() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut state: State = None;
            let mut history = Vec::new();
            for moment in 1_u64..60 {
                let at = i64::try_from(moment).unwrap();
                let claim = match (state, rng.below(4)) {
                    (None, 0) => Claim::Creates { to: at },
                    (Some(now), 0) => change(now, at),
                    (Some(now), 1) => Claim::Changes {
                        from: Some(now),
                        to: None,
                        at,
                    },
                    (now, _) => Claim::Is(now),
                };
                state = claim.apply(state).unwrap();
                let (early, late) = (rng.below(30), rng.below(30));
                let middle = moment * 10;
                history.push(operation(
                    claim,
                    middle.saturating_sub(early),
                    middle + late,
                ));
            }
            assert!(is_legal(&history), "seed {seed}");
            let place = history.len() / 2;
            history[place].claim = Claim::Is(Some(9999));
            assert!(!is_legal(&history), "seed {seed}");
        }
    }
}
