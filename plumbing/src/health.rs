//! Named health checks behind `/healthz`, `/livez` and `/readyz`, with the texts
//! of kube-apiserver, so that whoever probes or reads one of them knows the other.
//!
//! A check reads state that something else keeps current: it must not wait.

use std::fmt;
use std::fmt::Write;
use std::sync::{PoisonError, RwLock};

/// One of the three endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// `/healthz`: the deprecated mixture of the other two.
    Healthz,
    /// `/livez`: false means that a restart would help.
    Livez,
    /// `/readyz`: false means that requests should go elsewhere.
    Readyz,
}

impl Probe {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Healthz, Self::Livez, Self::Readyz];

    /// The endpoint's name, which is also the first segment of its path.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }
}

/// Whether a failed check fails its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The endpoint fails with the check.
    Gating,
    /// The check is listed and logged, and the endpoint does not mind.
    Informational,
}

/// What a check found; the reason goes to the log, never to the prober.
pub type CheckResult = Result<(), String>;

type CheckFn = Box<dyn Fn() -> CheckResult + Send + Sync>;

struct Check {
    name: String,
    probes: Vec<Probe>,
    weight: Weight,
    run: CheckFn,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// True is 200, false is 500.
    pub healthy: bool,
    /// The body, as plain text.
    pub text: String,
}

/// The checks of a process. `ping`, which always passes, is there from the start.
pub struct Health {
    checks: RwLock<Vec<Check>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Health with nothing but `ping`.
    #[must_use]
    pub fn new() -> Self {
        let health = Self {
            checks: RwLock::default(),
        };
        health.add("ping", &Probe::ALL, Weight::Gating, || Ok(()));
        health
    }

    /// Adds a check to the endpoints named, after those that are there.
    pub fn add(
        &self,
        name: &str,
        probes: &[Probe],
        weight: Weight,
        run: impl Fn() -> CheckResult + Send + Sync + 'static,
    ) {
        let check = Check {
            name: name.to_owned(),
            probes: probes.to_vec(),
            weight,
            run: Box::new(run),
        };
        let mut checks = self.checks.write().unwrap_or_else(PoisonError::into_inner);
        checks.push(check);
    }

    /// Answers a request by its path and query string: `/readyz`, `/readyz/ping`,
    /// `?verbose`, `?exclude=name` (any number of times).
    ///
    /// `None` when no endpoint or check has that path.
    #[must_use]
    pub fn respond(&self, path: &str, query: &str) -> Option<Report> {
        let path = path.strip_prefix('/')?;
        let (endpoint, check) = match path.split_once('/') {
            Some((endpoint, check)) => (endpoint, Some(check)),
            None => (path, None),
        };
        let probe = Probe::ALL.into_iter().find(|p| p.name() == endpoint)?;
        match check {
            None | Some("") => Some(self.report(probe, query)),
            Some(name) => self.report_check(probe, name),
        }
    }

    /// True when every gating check of the endpoint passes.
    #[must_use]
    pub fn is_healthy(&self, probe: Probe) -> bool {
        self.report(probe, "").healthy
    }

    fn report(&self, probe: Probe, query: &str) -> Report {
        let parameters = || {
            query
                .split('&')
                .map(|p| p.split_once('=').unwrap_or((p, "")))
        };
        let verbose = parameters().any(|(key, _)| key == "verbose");
        let mut excluded: Vec<&str> = parameters()
            .filter_map(|(key, value)| (key == "exclude").then_some(value))
            .collect();
        let mut lines = String::new();
        let mut healthy = true;
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        for check in checks.iter().filter(|c| c.probes.contains(&probe)) {
            let count = excluded.len();
            excluded.retain(|name| *name != check.name);
            if excluded.len() < count {
                push_line(&mut lines, format_args!("[+]{} excluded: ok", check.name));
                continue;
            }
            healthy &= check.run_into(probe, &mut lines);
        }
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
            let text = "warn: some health checks cannot be excluded: no matches for ";
            push_line(&mut lines, format_args!("{text}{}", names.join(", ")));
        }
        let name = probe.name();
        match (healthy, verbose) {
            (true, false) => lines = "ok".to_owned(),
            (true, true) => push_line(&mut lines, format_args!("{name} check passed")),
            (false, _) => push_line(&mut lines, format_args!("{name} check failed")),
        }
        Report {
            healthy,
            text: lines,
        }
    }

    fn report_check(&self, probe: Probe, name: &str) -> Option<Report> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        let check = checks
            .iter()
            .find(|c| c.name == name && c.probes.contains(&probe))?;
        Some(match (check.run)() {
            Ok(()) => Report {
                healthy: true,
                text: "ok".to_owned(),
            },
            Err(reason) => {
                tracing::info!(check = name, reason, "health check failed");
                Report {
                    healthy: false,
                    text: "internal server error: reason withheld\n".to_owned(),
                }
            }
        })
    }
}

impl Check {
    /// Adds the check's line; false when it fails its endpoint.
    fn run_into(&self, probe: Probe, lines: &mut String) -> bool {
        let Err(reason) = (self.run)() else {
            push_line(lines, format_args!("[+]{} ok", self.name));
            return true;
        };
        let endpoint = probe.name();
        tracing::info!(check = self.name, endpoint, reason, "health check failed");
        let name = &self.name;
        match self.weight {
            Weight::Gating => {
                push_line(lines, format_args!("[-]{name} failed: reason withheld"));
                false
            }
            Weight::Informational => {
                let line = format_args!("[-]{name} failed, not gating: reason withheld");
                push_line(lines, line);
                true
            }
        }
    }
}

fn push_line(lines: &mut String, line: fmt::Arguments<'_>) {
    writeln!(lines, "{line}").expect("writing to a String never fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        let health = Health::new();
        health.add("queue", &[Probe::Readyz], Weight::Gating, || {
            Err("full".to_owned())
        });
        health.add("database", &Probe::ALL, Weight::Informational, || {
            Err("connection refused by 10.0.0.1".to_owned())
        });
        health
    }

    fn respond(path: &str, query: &str) -> (bool, String) {
        let report = health().respond(path, query).unwrap();
        (report.healthy, report.text)
    }

    #[test]
    fn a_healthy_endpoint_says_ok_and_lists_its_checks_when_asked() {
        assert_eq!(respond("/livez", ""), (true, "ok".to_owned()));
        let lines = "[+]ping ok\n\
            [-]database failed, not gating: reason withheld\n\
            livez check passed\n";
        assert_eq!(respond("/livez", "verbose"), (true, lines.to_owned()));
        assert_eq!(respond("/livez/", "verbose=1"), (true, lines.to_owned()));
    }

    #[test]
    fn a_failed_gating_check_fails_the_endpoint_and_withholds_the_reason() {
        let lines = "[+]ping ok\n\
            [-]queue failed: reason withheld\n\
            [-]database failed, not gating: reason withheld\n\
            readyz check failed\n";
        assert_eq!(respond("/readyz", ""), (false, lines.to_owned()));
    }

    #[test]
    fn an_excluded_check_does_not_run() {
        let lines = "[+]ping ok\n\
            [+]queue excluded: ok\n\
            [-]database failed, not gating: reason withheld\n\
            warn: some health checks cannot be excluded: no matches for \"nothing\"\n\
            readyz check passed\n";
        let query = "verbose&exclude=queue&exclude=nothing";
        assert_eq!(respond("/readyz", query), (true, lines.to_owned()));
    }

    #[test]
    fn a_check_has_a_path_of_its_own_on_its_endpoints() {
        assert_eq!(respond("/readyz/ping", ""), (true, "ok".to_owned()));
        let (healthy, text) = respond("/readyz/queue", "");
        assert!(!healthy);
        assert_eq!(text, "internal server error: reason withheld\n");
        assert_eq!(health().respond("/livez/queue", ""), None);
        assert_eq!(health().respond("/statusz", ""), None);
    }
}
