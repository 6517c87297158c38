//! The catalogue of faults is covered: every fault has a test, and every test that is named exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from("..")
}

/// The rows of the table of faults: number and the tests named in it.
fn rows() -> BTreeMap<u32, Vec<String>> {
    let text = fs::read_to_string(root().join("docs/faults.md")).expect("docs/faults.md");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("| ") else {
            continue;
        };
        let mut cells = rest.split(" | ");
        let Some(number) = cells.next().and_then(|cell| cell.trim().parse().ok()) else {
            continue;
        };
        let tests = cells.nth(1).unwrap_or_default();
        let names = tests.split('`').skip(1).step_by(2);
        rows.insert(number, names.map(str::to_owned).collect());
    }
    rows
}

/// `crate module::name` of every test function in this crate's tests.
fn tests_of(member: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![
        root().join(member).join("tests"),
        root().join(member).join("src"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let module = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                }
                let name = line.strip_prefix("async ").unwrap_or(line);
                if let Some(name) = name.strip_prefix("fn ") {
                    let name = name.split('(').next().unwrap_or_default();
                    if std::mem::take(&mut is_test) {
                        found.insert(format!("{member} {module}::{name}"));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn every_fault_of_the_catalogue_has_a_test_that_exists() {
    let rows = rows();
    let owed: Vec<u32> = (1..=18).chain([20]).chain(23..=26).collect();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), owed);
    let known: BTreeSet<String> = ["store", "serving", "apiserver", "controller", "e2e"]
        .into_iter()
        .flat_map(tests_of)
        .collect();
    for (number, tests) in rows {
        assert!(!tests.is_empty(), "fault {number} has no test");
        for test in tests {
            assert!(known.contains(&test), "fault {number}: there is no {test}");
        }
    }
}
