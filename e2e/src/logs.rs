//! What the platform's servers logged: a run is only good when they warned of
//! nothing that no test provoked.

use std::fs;

use serde_json::Value;

use crate::process::Record;

/// One line of a log that says WARN or ERROR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Process that wrote it.
    pub process: String,
    /// The whole line.
    pub line: String,
}

/// The WARN and ERROR lines of the platform's own processes.
#[must_use]
pub fn complaints(processes: &[Record]) -> Vec<Complaint> {
    processes
        .iter()
        .filter(|record| record.spec.name.starts_with("widget-"))
        .flat_map(|record| {
            let text = fs::read(&record.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let process = record.spec.name.clone();
            let lines: Vec<Complaint> = text
                .lines()
                .filter(|line| is_complaint(line))
                .map(|line| Complaint {
                    process: process.clone(),
                    line: line.to_owned(),
                })
                .collect();
            lines
        })
        .collect()
}

/// A line that is no JSON came past the logger (a panic, say) and counts as well.
fn is_complaint(line: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(entry) => entry
            .get("level")
            .and_then(Value::as_str)
            .is_some_and(|level| matches!(level.to_ascii_uppercase().as_str(), "WARN" | "ERROR")),
        Err(_) => !line.trim().is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_stray_lines_are_complaints() {
        assert!(is_complaint(r#"{"level":"WARN"}"#));
        assert!(is_complaint(r#"{"level":"error"}"#));
        assert!(is_complaint("thread 'main' panicked at src/main.rs"));
        assert!(!is_complaint(r#"{"level":"INFO"}"#));
        assert!(!is_complaint(""));
    }
}
