//! What was measured, of all servers, as one file: measured in pieces, shown as one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::figure::{Figure, float};

/// The server that all others are compared with.
pub const OURS: &str = "ours";

/// The peer that the goals are about.
pub const CRD: &str = "crd";

/// A number of a figure.
pub type Pick = fn(&Figure) -> Option<f64>;

/// The contents of a file of results.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Cores and processor.
    pub machine: String,
    /// The measurements in their order.
    pub rounds: Vec<Round>,
}

/// One measurement of one server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Round {
    /// Name of the server; what follows `#` tells its rounds apart.
    pub name: String,
    /// When the last of it was measured.
    pub time: String,
    /// What came of it.
    pub figures: Vec<Figure>,
}

impl Round {
    /// Name of the server without the number of the round.
    pub fn server(&self) -> &str {
        self.name.split('#').next().unwrap_or_default()
    }

    /// Share of the machine that something else used; none when it was not measured.
    pub fn others(&self) -> Option<f64> {
        let shares: Vec<f64> = self.figures.iter().filter_map(|f| f.others).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / float(shares.len()))
    }
}

impl Results {
    /// The results in a file; none when there is no such file.
    pub fn read(file: &Path) -> Result<Self> {
        match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self {
                machine: machine(),
                rounds: Vec::new(),
            }),
            Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
        }
    }

    /// Replaces the file.
    pub fn write(&self, file: &Path) -> Result<()> {
        fs::write(file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", file.display()))
    }

    /// Adds figures to the round of that name; a figure measured again replaces the old one.
    pub fn add(&mut self, name: &str, figures: Vec<Figure>) {
        let time = jiff::Timestamp::now().strftime("%F %R UTC").to_string();
        let known = self.rounds.iter_mut().find(|round| round.name == name);
        let Some(round) = known else {
            let name = name.to_owned();
            self.rounds.push(Round {
                name,
                time,
                figures,
            });
            return;
        };
        round.time = time;
        round
            .figures
            .retain(|old| !figures.iter().any(|new| new.scenario == old.scenario));
        round.figures.extend(figures);
    }

    /// Names of the servers in the order of their first round, ours first.
    pub fn servers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for round in &self.rounds {
            if !names.contains(&round.server()) {
                names.push(round.server());
            }
        }
        names.sort_by_key(|name| *name != OURS);
        names
    }

    /// Names of the scenarios in the order of their first round.
    pub fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for figure in self.rounds.iter().flat_map(|round| &round.figures) {
            if !names.contains(&&*figure.scenario) {
                names.push(&figure.scenario);
            }
        }
        names
    }

    /// The figures of one scenario of one server, one of each round.
    pub fn figures(&self, server: &str, scenario: &str) -> Vec<&Figure> {
        self.rounds
            .iter()
            .filter(|round| round.server() == server)
            .flat_map(|round| &round.figures)
            .filter(|figure| figure.scenario == scenario)
            .collect()
    }

    /// The mean over the rounds; none when no round has the number.
    pub fn mean(&self, server: &str, scenario: &str, pick: Pick) -> Option<f64> {
        let figures = self.figures(server, scenario);
        let values: Vec<f64> = figures.into_iter().filter_map(pick).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / float(values.len()))
    }
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores, {model}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(scenario: &str, cpu: f64) -> Figure {
        Figure {
            scenario: scenario.to_owned(),
            server_cpu_us: Some(cpu),
            ..Figure::default()
        }
    }

    #[test]
    fn a_servers_number_is_the_mean_of_its_rounds() {
        let mut results = Results::default();
        results.add("crd#1", vec![figure("get", 700.0)]);
        results.add("ours#1", vec![figure("get", 10.0), figure("list", 5.0)]);
        results.add("ours#2", vec![figure("get", 99.0)]);
        results.add("ours#2", vec![figure("get", 30.0)]);
        assert_eq!(results.servers(), ["ours", "crd"]);
        assert_eq!(results.scenarios(), ["get", "list"]);
        let cpu: Pick = |figure| figure.server_cpu_us;
        assert_eq!(results.mean("ours", "get", cpu), Some(20.0));
        assert_eq!(results.mean("ours", "list", cpu), Some(5.0));
        assert_eq!(results.mean("crd", "list", cpu), None);
    }
}
