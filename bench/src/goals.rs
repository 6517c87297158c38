//! What was promised, and whether it is kept.

use crate::figure::Figure;
use crate::results::{CRD, OURS, Pick, Results};

/// One line of the table of goals.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// What is compared.
    pub what: String,
    /// What was promised.
    pub goal: String,
    /// What was measured.
    pub measured: String,
    /// Whether it is kept; none when it was not measured.
    pub is_met: Option<bool>,
}

/// How much less than the custom resource on kube-apiserver and etcd.
const CPU: [(&str, f64); 18] = [
    ("create, 1 client", 10.0),
    ("create, 16 clients", 10.0),
    ("create, 64 clients", 10.0),
    ("update, 1 client", 10.0),
    ("update, 16 clients", 10.0),
    ("update, 64 clients", 10.0),
    ("merge patch, 1 client", 10.0),
    ("merge patch, 16 clients", 10.0),
    ("merge patch, 64 clients", 10.0),
    ("get, 1 client", 10.0),
    ("get, 16 clients", 10.0),
    ("get, 64 clients", 10.0),
    ("list of 1,000, consistent", 30.0),
    ("list of 1,000, at 0", 30.0),
    ("list of 10,000, consistent", 30.0),
    ("list of 10,000, at 0", 30.0),
    ("WatchList of 10,000", 30.0),
    ("watch event, 1,000 watchers", 4.0),
];

const MEMORY: [(&str, f64); 4] = [
    ("memory, 10,000 objects written", 4.0),
    ("memory, 10,000 objects after a start", 4.0),
    ("memory, 100,000 objects written", 4.0),
    ("memory, 100,000 objects after a start", 4.0),
];

/// How much more a second.
const THROUGHPUT: [(&str, f64); 2] = [("create, 64 clients", 5.0), ("get, 64 clients", 8.0)];

const START: &str = "cold start, 10,000 objects";

/// Extra memory of one list of everything, in MiB.
const LIST_MEMORY: f64 = 64.0;

/// How much the slowest writes may slow down on a large store.
const SLOWDOWN: f64 = 2.0;

/// Every goal with what came of it.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let cpu: Pick = |figure| figure.server_cpu_us;
    let mut all = Vec::new();
    for (scenario, factor) in CPU {
        let (ours, peer) = both(results, scenario, cpu);
        all.push(ratio(format!("CPU of {scenario}"), factor, peer, ours));
    }
    for (scenario, factor) in THROUGHPUT {
        let (ours, peer) = both(results, scenario, |figure| figure.per_second);
        let what = format!("{scenario}, a second");
        all.push(ratio(what, factor, ours, peer));
    }
    for (scenario, factor) in MEMORY {
        let (ours, peer) = both(results, scenario, |figure| figure.memory_mib);
        all.push(ratio(scenario.to_owned(), factor, peer, ours));
    }
    let (ours, peer) = both(results, START, |figure| figure.p50_ms);
    all.push(ratio(format!("time of {START}"), 10.0, peer, ours));
    let (ours, peer) = both(results, START, cpu);
    all.push(ratio(format!("CPU of {START}"), 10.0, peer, ours));
    all.extend([list_memory(results), slowdown(results), queries(results)]);
    all
}

fn both(results: &Results, scenario: &str, pick: Pick) -> (Option<f64>, Option<f64>) {
    let mean = |server| results.mean(server, scenario, pick);
    (mean(OURS), mean(CRD))
}

fn ratio(what: String, factor: f64, more: Option<f64>, less: Option<f64>) -> Verdict {
    let value = more.zip(less).map(|(more, less)| more / less);
    let shown = |value: f64| format!("{value:.1}×");
    Verdict {
        what,
        goal: format!("{factor}×"),
        measured: value.map_or_else(|| "-".to_owned(), shown),
        is_met: value.map(|value| value >= factor),
    }
}

fn list_memory(results: &Results) -> Verdict {
    const SCENARIO: &str = "extra memory of a list of 100,000";
    let value = results.mean(OURS, SCENARIO, |figure| figure.memory_mib);
    Verdict {
        what: SCENARIO.to_owned(),
        goal: format!("at most {LIST_MEMORY} MiB"),
        measured: value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} MiB")),
        is_met: value.map(|value| value <= LIST_MEMORY),
    }
}

fn slowdown(results: &Results) -> Verdict {
    let p99 = |objects| {
        let scenario = format!("write at {objects} objects, 16 clients");
        results.mean(OURS, &scenario, |figure| figure.p99_ms)
    };
    let value = p99("100,000").zip(p99("1,000"));
    let value = value.map(|(many, few)| many / few);
    Verdict {
        what: "p99 of writes at 100,000 objects against 1,000".to_owned(),
        goal: format!("at most {SLOWDOWN}×"),
        measured: value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}×")),
        is_met: value.map(|value| value <= SLOWDOWN),
    }
}

/// What the server asks by itself goes on whether anyone watches or not, and its
/// beat may fall once more into one look than into the other.
fn queries(results: &Results) -> Verdict {
    let count = |watchers| {
        let scenario = format!("database transactions in 10 s, {watchers} idle watchers");
        let of: Pick = |figure: &Figure| Some(crate::figure::float(figure.operations));
        results.mean(OURS, &scenario, of)
    };
    let value = count("0").zip(count("10,000"));
    let shown = |(none, many): (f64, f64)| format!("{many:.0} with, {none:.0} without");
    Verdict {
        what: "database transactions in 10 s with 10,000 idle watchers".to_owned(),
        goal: "as many as without".to_owned(),
        measured: value.map_or_else(|| "-".to_owned(), shown),
        is_met: value.map(|(none, many)| many <= none * 1.1 + 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(ours: f64, crd: f64) -> Results {
        let mut results = Results::default();
        for (name, cpu) in [("ours#1", ours), ("crd#1", crd)] {
            let figure = Figure {
                scenario: "get, 1 client".to_owned(),
                server_cpu_us: Some(cpu),
                ..Figure::default()
            };
            results.add(name, vec![figure]);
        }
        results
    }

    #[test]
    fn a_goal_is_met_missed_or_not_measured() {
        let verdict = |ours, crd, what: &str| {
            let all = verdicts(&results(ours, crd));
            all.into_iter().find(|verdict| verdict.what == what)
        };
        let get = "CPU of get, 1 client";
        assert_eq!(verdict(10.0, 101.0, get).unwrap().is_met, Some(true));
        assert_eq!(verdict(10.0, 99.0, get).unwrap().is_met, Some(false));
        let other = verdict(1.0, 1.0, "CPU of get, 16 clients").unwrap();
        assert_eq!((other.is_met, &*other.measured), (None, "-"));
    }
}
