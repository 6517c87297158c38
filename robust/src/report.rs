//! What a run tells: a line a history, the explanation of each that failed, and
//! the seeds that failed, kept to be run again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::check::{Violation, brief};
use crate::planted::Bug;
use crate::record::History;
use crate::run::{Judged, tally};
use crate::truth::Truth;

/// How many violations of one history are explained.
const EXPLAINED: usize = 20;

/// What is kept of a history that failed: all that is judged.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    /// What clients saw.
    pub history: History,
    /// What the log says.
    pub truth: Truth,
}

/// The sum of a run.
pub struct Report {
    out: PathBuf,
    planted: Option<Bug>,
    /// The rules of the planted bug that were broken.
    caught_by: BTreeSet<&'static str>,
    done: u64,
    failed: Vec<u64>,
    time: Duration,
    requests: usize,
    frames: usize,
    outcomes: BTreeMap<String, u64>,
    rules: BTreeMap<&'static str, usize>,
}

impl Report {
    /// Failing histories are written to `out`.
    #[must_use]
    pub fn new(out: &Path, planted: Option<Bug>) -> Self {
        Self {
            out: out.to_path_buf(),
            planted,
            caught_by: BTreeSet::new(),
            done: 0,
            failed: Vec::new(),
            time: Duration::ZERO,
            requests: 0,
            frames: 0,
            outcomes: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }

    /// Adds one history and tells of it.
    pub fn add(&mut self, seed: u64, time: Duration, judged: &Judged) -> Result<()> {
        let history = &judged.history;
        let watches = history.watches.iter().flat_map(|watch| &watch.streams);
        let frames: usize = watches.map(|stream| stream.frames.len()).sum();
        self.done += 1;
        self.time += time;
        self.requests += history.records.len();
        self.frames += frames;
        let outcomes = tally(history);
        for (word, count) in outcomes.as_object().into_iter().flatten() {
            *self.outcomes.entry(word.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let faults: Vec<String> = history
            .plan
            .faults
            .iter()
            .map(|trouble| format!("{:?}", trouble.fault))
            .collect();
        println!(
            "{:>5}  seed {seed}  {:>5.1} s  {} requests {outcomes}  {} events  {frames} frames  disk +{} µs  {}",
            self.done,
            time.as_secs_f64(),
            history.records.len(),
            judged.truth.events.len(),
            history.plan.disk,
            faults.join(", ")
        );
        if judged.violations.is_empty() {
            return Ok(());
        }
        self.failed.push(seed);
        for violation in &judged.violations {
            *self.rules.entry(violation.rule).or_default() += 1;
        }
        if let Some(bug) = self.planted {
            self.caught_by.extend(bug.caught_by(&judged.violations));
            if !self.is_caught() {
                println!("      none of this is what {} breaks", bug.name);
            }
        }
        self.write(seed, judged)
    }

    /// Whether the planted bug was caught, and not something else.
    #[must_use]
    pub fn is_caught(&self) -> bool {
        !self.caught_by.is_empty()
    }

    fn write(&self, seed: u64, judged: &Judged) -> Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("create {}", self.out.display()))?;
        let text = explain(seed, judged);
        let stem = self.out.join(format!("seed-{seed}"));
        let whole = Kept {
            history: judged.history.clone(),
            truth: judged.truth.clone(),
        };
        fs::write(stem.with_extension("json"), serde_json::to_vec(&whole)?)?;
        fs::write(stem.with_extension("txt"), &text)?;
        // What a planted bug breaks is known.
        let most = if self.is_caught() { 0 } else { 40 };
        for line in text.lines().take(most) {
            println!("{line}");
        }
        println!("      all of it: {}", stem.with_extension("txt").display());
        Ok(())
    }

    /// The closing lines; true when the run says what it should.
    #[must_use]
    pub fn close(&self, seed: u64) -> bool {
        let average =
            self.time.as_secs_f64() / f64::from(u32::try_from(self.done.max(1)).unwrap_or(1));
        println!(
            "{} histories, {} requests, {} frames, {average:.2} s a history; outcomes {:?}",
            self.done, self.requests, self.frames, self.outcomes
        );
        if !self.rules.is_empty() {
            println!(
                "broken rules: {:?}; failing seeds: {:?}",
                self.rules, self.failed
            );
        }
        if let Some(Bug { name, .. }) = self.planted {
            let verdict = match self.is_caught() {
                true => format!("caught by {:?}", self.caught_by),
                false => "NOT CAUGHT".to_owned(),
            };
            println!(
                "planted {name}: {verdict} after {} histories, {:.0} s (seed {seed})",
                self.done,
                self.time.as_secs_f64()
            );
            return self.is_caught();
        }
        println!(
            "{} passed, {} failed (seed {seed})",
            self.done - self.failures(),
            self.failures()
        );
        self.failed.is_empty()
    }

    fn failures(&self) -> u64 {
        u64::try_from(self.failed.len()).unwrap_or(u64::MAX)
    }
}

/// A history that failed, for a person.
fn explain(seed: u64, judged: &Judged) -> String {
    let mut text = format!("seed {seed}: {} violations\n\n", judged.violations.len());
    for violation in judged.violations.iter().take(EXPLAINED) {
        text.push_str(&format!("* {violation}\n"));
    }
    text.push_str("\nWhat was done to the servers (µs since the beginning):\n");
    for (at, what) in &judged.history.log {
        text.push_str(&format!("  {at} {what}\n"));
    }
    text.push_str("\nThe log:\n");
    for event in &judged.truth.events {
        text.push_str(&format!(
            "  {} kind {} {} over {:?} by {:?}\n",
            event.revision, event.kind, event.name, event.previous_revision, event.audit_id
        ));
    }
    text.push_str("\nThe requests:\n");
    let mut records: Vec<_> = judged.history.records.iter().collect();
    records.sort_by_key(|record| record.invoked);
    for record in records {
        text.push_str(&format!("  {}\n", brief(record)));
    }
    text.push_str("\nThe watches:\n");
    for (number, watch) in judged.history.watches.iter().enumerate() {
        for stream in &watch.streams {
            let frames: Vec<String> = stream
                .frames
                .iter()
                .map(|frame| {
                    let at = crate::record::revision(&frame.object).unwrap_or(0);
                    format!("{}@{at}", frame.kind)
                })
                .collect();
            text.push_str(&format!(
                "  {number} {:?} replica {} {:?} at {}: {} ({})\n",
                watch.selector,
                stream.replica,
                stream.start,
                stream.invoked,
                frames.join(" "),
                stream.end
            ));
        }
    }
    text
}

/// Seeds that failed once, in a file: one a line, what follows is a remark.
pub struct Seeds {
    /// In the order of the file.
    pub known: Vec<u64>,
    file: Option<PathBuf>,
}

impl Seeds {
    /// Reads the file, which may be absent.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let text = match file.map(fs::read_to_string) {
            None => String::new(),
            Some(Ok(text)) => text,
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Some(Err(error)) => return Err(error).context("read the seeds"),
        };
        let numbers = text
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        Ok(Self {
            known: numbers.filter_map(|number| number.parse().ok()).collect(),
            file: file.map(Path::to_path_buf),
        })
    }

    /// Keeps a seed that failed.
    pub fn add(&self, seed: u64, violations: &[Violation]) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| !self.known.contains(&seed)) else {
            return Ok(());
        };
        let mut open = OpenOptions::new().create(true).append(true).open(file)?;
        let rule = violations.first().map_or("", |violation| violation.rule);
        writeln!(open, "{seed} {rule}")?;
        println!("      kept in {}", file.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_kept_once_and_read_again() {
        let file = std::env::temp_dir().join(format!("robust-seeds-{}", std::process::id()));
        let seeds = Seeds::read(Some(&file)).unwrap();
        assert_eq!(seeds.known, Vec::<u64>::new());
        seeds.add(7, &[Violation::new("a rule", "")]).unwrap();
        let seeds = Seeds::read(Some(&file)).unwrap();
        assert_eq!(seeds.known, [7]);
        seeds.add(7, &[]).unwrap();
        assert_eq!(Seeds::read(Some(&file)).unwrap().known, [7]);
        fs::remove_file(file).unwrap();
    }
}
