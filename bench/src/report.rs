//! The results as tables in Markdown: for the terminal and for a page alike.

use std::fmt::Write as _;

use crate::figure::{Figure, float};
use crate::goals::{self, Verdict};
use crate::results::{OURS, Pick, Results};

/// What a server is called where people read it.
pub fn label(server: &str) -> &str {
    match server {
        "crd" => "CRD on etcd",
        "kine" => "CRD on kine",
        "sample" => "sample-apiserver",
        other => other,
    }
}

/// Something that is compared.
pub struct Metric {
    /// What it is, with its unit.
    pub title: &'static str,
    /// File name of its chart.
    pub file: &'static str,
    /// The number.
    pub pick: Pick,
    /// Whether a larger number is the better one.
    pub more_is_better: bool,
}

/// Share of the machine that the kernel's own threads may use at most; more is someone
/// else, and a round with him is no comparison with one without.
const QUIET: f64 = 0.1;

/// What the tables and charts show.
pub const METRICS: [Metric; 6] = [
    Metric {
        title: "Server CPU per operation, µs",
        file: "cpu.svg",
        pick: |figure| loaded(figure).and(figure.server_cpu_us),
        more_is_better: false,
    },
    Metric {
        title: "Operations a second",
        file: "throughput.svg",
        pick: |figure| loaded(figure).filter(|rate| *rate > 0.0),
        more_is_better: true,
    },
    Metric {
        title: "Latency, 99th percentile, ms",
        file: "latency.svg",
        pick: |figure| loaded(figure).and(figure.p99_ms),
        more_is_better: false,
    },
    Metric {
        title: "Memory of all server processes, MiB",
        file: "memory.svg",
        // That of a scenario under load says more of what ran before it.
        pick: |figure| figure.memory_mib.filter(|_| is_about_memory(figure)),
        more_is_better: false,
    },
    Metric {
        title: "Cold start until the first list, ms",
        file: "start-time.svg",
        pick: |figure| figure.p50_ms.filter(|_| is_start(figure)),
        more_is_better: false,
    },
    Metric {
        title: "Cold start until the first list, ms of CPU",
        file: "start-cpu.svg",
        pick: |figure| {
            let cpu = figure.server_cpu_us.filter(|_| is_start(figure));
            cpu.map(|cpu| cpu / 1e3)
        },
        more_is_better: false,
    },
];

fn is_start(figure: &Figure) -> bool {
    figure.scenario.starts_with("cold start")
}

fn is_about_memory(figure: &Figure) -> bool {
    figure.scenario.contains("memory")
}

/// The rate of a scenario in which anything was done.
fn loaded(figure: &Figure) -> Option<f64> {
    let is_load = figure.operations > 0 && !is_about_memory(figure);
    figure.per_second.filter(|_| is_load)
}

/// Everything: goals, comparisons, notes, drift.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("\n{}\n", results.machine);
    for round in &results.rounds {
        let (name, time) = (&round.name, &round.time);
        let quiet = match round.others() {
            Some(share) if share > QUIET => {
                format!("NOT QUIET: something else used {:.0} %", share * 100.0)
            }
            Some(share) => format!("{:.0} % used by something else", share * 100.0),
            None => "what else ran was not measured".to_owned(),
        };
        let _ = writeln!(text, "- {name}: {time}, {quiet}");
    }
    goals_table(&mut text, &goals::verdicts(results));
    for metric in &METRICS {
        comparison(&mut text, results, metric);
    }
    clients(&mut text, results);
    notes(&mut text, results);
    drift(&mut text, results);
    text
}

fn goals_table(text: &mut String, verdicts: &[Verdict]) {
    if verdicts.iter().all(|verdict| verdict.is_met.is_none()) {
        return;
    }
    let _ = writeln!(
        text,
        "\n| goal | promised | measured | |\n|---|---|---|---|"
    );
    for verdict in verdicts {
        let word = match verdict.is_met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let (what, goal, measured) = (&verdict.what, &verdict.goal, &verdict.measured);
        let _ = writeln!(text, "| {what} | {goal} | {measured} | {word} |");
    }
}

/// One row a scenario, and for each peer by how much it is worse than ours.
fn comparison(text: &mut String, results: &Results, metric: &Metric) {
    let servers = results.servers();
    let rows: Vec<(&str, Vec<Option<f64>>)> = results
        .scenarios()
        .into_iter()
        .map(|scenario| {
            let values = servers
                .iter()
                .map(|server| results.mean(server, scenario, metric.pick));
            (scenario, values.collect())
        })
        .filter(|(_, values): &(_, Vec<_>)| values.iter().any(Option::is_some))
        .collect();
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n{}\n\n| scenario |", metric.title);
    for server in &servers {
        let _ = write!(text, " {} |", label(server));
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(servers.len()));
    for (scenario, values) in rows {
        let ours = values.first().copied().flatten();
        let cells = servers.iter().zip(&values).map(|(server, value)| {
            let Some(value) = value else {
                return "-".to_owned();
            };
            match ours.filter(|ours| *server != OURS && *ours > 0.0 && *value > 0.0) {
                Some(ours) if metric.more_is_better => {
                    format!("{} ({:.1}×)", number(*value), ours / value)
                }
                Some(ours) => format!("{} ({:.1}×)", number(*value), value / ours),
                None => number(*value),
            }
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {scenario} | {} |", cells.join(" | "));
    }
}

/// The driver's own cost: what its share of the machine was.
fn clients(text: &mut String, results: &Results) {
    let _ = writeln!(text, "\nDriver CPU per operation, µs, against ours:");
    for scenario in results.scenarios() {
        let value = results.mean(OURS, scenario, |figure| figure.client_cpu_us);
        if let Some(value) = value {
            let _ = writeln!(text, "- {scenario}: {}", number(value));
        }
    }
}

fn notes(text: &mut String, results: &Results) {
    for round in &results.rounds {
        for figure in &round.figures {
            if let Some(note) = &figure.note {
                let (server, scenario) = (label(round.server()), &figure.scenario);
                let _ = writeln!(text, "\nNote: {server}, {scenario}: {note}");
            }
        }
    }
}

/// How much the machine changed between the first and the last round of ours.
fn drift(text: &mut String, results: &Results) {
    let changes = results.scenarios().into_iter().filter_map(|scenario| {
        let figures = results.figures(OURS, scenario);
        let cpu = |figure: &&Figure| loaded(figure).and(figure.server_cpu_us);
        let (first, last) = (figures.first()?, figures.get(1..)?.last()?);
        let change = cpu(last)? / cpu(first)? - 1.0;
        Some((scenario, change))
    });
    let mut changes: Vec<(&str, f64)> = changes.collect();
    changes.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (Some(least), Some(most)) = (changes.first(), changes.last()) else {
        return;
    };
    let mean = changes.iter().map(|change| change.1).sum::<f64>() / float(changes.len());
    let _ = writeln!(
        text,
        "\nDrift of our CPU per operation from the first to the last round: {:+.0} % on average, \
         from {:+.0} % ({}) to {:+.0} % ({})",
        mean * 100.0,
        least.1 * 100.0,
        least.0,
        most.1 * 100.0,
        most.0
    );
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value {
        _ if value >= 1_000.0 => {
            let text = format!("{value:.0}");
            text.parse().map_or(text, crate::figure::thousands)
        }
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_shown_with_how_much_worse_it_is() {
        let mut results = Results::default();
        for (name, cpu, rate) in [("ours#1", 50.0, 9_000.0), ("crd#1", 700.0, 1_500.0)] {
            let figure = Figure {
                scenario: "get, 64 clients".to_owned(),
                operations: 5,
                per_second: Some(rate),
                server_cpu_us: Some(cpu),
                ..Figure::default()
            };
            results.add(name, vec![figure]);
        }
        let text = markdown(&results);
        for row in [
            "| get, 64 clients | 50.0 | 700 (14.0×) |",
            "| get, 64 clients | 9,000 | 1,500 (6.0×) |",
            "| CPU of get, 64 clients | 10× | 14.0× | met |",
            "| get, 64 clients, a second | 8× | 6.0× | **missed** |",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
    }

    #[test]
    fn a_round_beside_other_work_is_told() {
        let mut results = Results::default();
        for (name, share) in [("ours#1", 0.02), ("crd#1", 0.4)] {
            let figure = Figure {
                others: Some(share),
                ..Figure::default()
            };
            results.add(name, vec![figure]);
        }
        let text = markdown(&results);
        assert!(
            text.contains("NOT QUIET: something else used 40 %"),
            "{text}"
        );
        assert!(text.contains("2 % used by something else"), "{text}");
    }

    #[test]
    fn three_digits_count() {
        let shown = [0.5, 9.996, 12.34, 123.4, 12_345.6].map(number);
        assert_eq!(shown, ["0.50", "10.00", "12.3", "123", "12,346"]);
    }
}
