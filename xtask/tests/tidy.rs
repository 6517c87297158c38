//! The invariants of ARCHITECTURE.md that can be read off the sources, and the
//! rules of CONTRIBUTING.md that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The kinds that are registered anywhere, in tests too.
const KINDS: [&str; 2] = ["widget", "gizmo"];
const MEMBERS: [&str; 12] = [
    "types",
    "conversion",
    "machinery",
    "store",
    "serving",
    "apiserver",
    "controller",
    "plumbing",
    "e2e",
    "bench",
    "robust",
    "xtask",
];

fn root() -> PathBuf {
    PathBuf::from("..")
}

/// The source files of a crate, test modules in files of their own left out.
fn sources(member: &str) -> Vec<PathBuf> {
    let mut found = files(&root().join(member).join("src"), ".rs");
    found.retain(|path| !path.ends_with("tests.rs"));
    found
}

/// Files below a folder with this ending, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of a source file before its test module, without comments, each
/// with its number.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file is readable");
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(number, line)| (number + 1, line.to_owned()))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect()
}

/// Every line of code in a crate's src that a predicate finds, as `file:line: text`.
fn find(member: &str, allowed: &[&str], hit: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = root().join(member).join("src");
    let mut found = Vec::new();
    for path in files(&folder, ".rs") {
        let name = path
            .strip_prefix(&folder)
            .expect("below the folder")
            .to_string_lossy()
            .into_owned();
        // Test modules in files of their own are tests too.
        if allowed.iter().any(|prefix| name.starts_with(prefix))
            || name.ends_with("tests.rs")
            || name.starts_with("testing")
        {
            continue;
        }
        found.extend(
            code(&path)
                .into_iter()
                .filter(|(_, line)| hit(line))
                .map(|(number, line)| format!("{member}/src/{name}:{number}: {}", line.trim())),
        );
    }
    found
}

/// Direct dependencies of each member, by folder; those of tests left out.
#[expect(
    clippy::indexing_slicing,
    reason = "a missing member of JSON reads as null here"
)]
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
            let folder = manifest
                .parent()
                .and_then(Path::file_name)
                .expect("a folder")
                .to_string_lossy()
                .into_owned();
            let names = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| dependency["name"].as_str().expect("a name").to_owned())
                .collect();
            (folder, names)
        })
        .collect()
}

fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let ours: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("types", &[][..]),
        ("conversion", &["widget-types"]),
        ("machinery", &[]),
        ("store", &[]),
        ("plumbing", &[]),
        ("serving", &["machinery", "store", "plumbing"]),
        (
            "apiserver",
            &[
                "machinery",
                "plumbing",
                "serving",
                "store",
                "widget-conversion",
                "widget-types",
            ],
        ),
        ("controller", &["plumbing", "widget-types"]),
        ("e2e", &["widget-types"]),
        ("bench", &[]),
        ("robust", &["e2e"]),
        ("xtask", &["e2e"]),
    ]);
    let packages = [
        "widget-types",
        "widget-conversion",
        "machinery",
        "store",
        "plumbing",
        "serving",
        "widget-apiserver",
        "widget-controller",
        "e2e",
        "bench",
        "robust",
        "xtask",
    ];
    let all = dependencies();
    assert_eq!(
        all.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        MEMBERS.into_iter().collect()
    );
    for (member, names) in &all {
        for name in names
            .iter()
            .filter(|name| packages.contains(&name.as_str()))
        {
            assert!(
                ours[member.as_str()].contains(&name.as_str()),
                "{member} must not depend on {name}"
            );
        }
    }
}

#[test]
fn only_their_owners_use_sqlx_actix_and_a_kube_client() {
    let owners: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("sqlx", &["store"][..]),
        ("actix-web", &["serving", "plumbing"]),
        ("actix-http", &["serving"]),
        ("kube", &["types", "serving", "controller", "e2e"]),
    ]);
    for (member, names) in dependencies() {
        for (package, owners) in &owners {
            assert!(
                !names.contains(*package) || owners.contains(&member.as_str()),
                "{member} must not depend on {package}"
            );
        }
    }
    assert_none(
        find("serving", &["http", "wire"], |line| line.contains("actix")),
        "actix outside serving's http and wire",
    );
    assert_none(
        find("serving", &["auth", "namespaces"], |line| {
            line.contains("kube::")
        }),
        "a kube client outside delegated authentication, authorization and namespaces",
    );
    assert_none(
        find("types", &[], |line| {
            line.contains("Client") || line.contains("Api<")
        }),
        "types speaks to nobody",
    );
}

#[test]
fn machinery_store_and_serving_name_no_resource() {
    for member in ["machinery", "store", "serving", "plumbing"] {
        let found = find(member, &[], |line| {
            KINDS.iter().any(|kind| line.to_lowercase().contains(kind))
        });
        assert_none(found, "a generic crate names a resource");
    }
}

#[test]
fn no_sql_names_a_resource() {
    let migrations = files(&root().join("migrations"), ".sql");
    assert!(!migrations.is_empty());
    for path in migrations {
        let text = fs::read_to_string(&path).expect("readable").to_lowercase();
        for kind in KINDS {
            // The runtime role's default name is an operator's setting, not SQL.
            assert!(!text.contains(kind), "{} names {kind}", path.display());
        }
    }
}

#[test]
fn only_one_file_decides_http_codes_and_reasons() {
    // Asking an error for its reason is fine, and 304 is no error.
    let decides = |line: &str| {
        let codes = line.contains("StatusCode::")
            && !line.contains("from_u16")
            && !line.contains("NOT_MODIFIED");
        codes || line.contains("Reason::") && !line.contains("reason() ==")
    };
    let rule = "codes and reasons belong to machinery/src/error.rs";
    assert_none(find("machinery", &["error"], decides), rule);
    assert_none(find("serving", &["http", "wire"], decides), rule);
}

#[test]
fn only_one_function_turns_a_revision_into_a_resource_version() {
    let text_of_number = |line: &str| {
        line.contains("parse::<i64>")
            || line.contains("evision.to_string()")
            || line.contains("evision.get().to_string()")
    };
    assert_none(
        find("serving", &[], text_of_number),
        "a revision is turned into text outside machinery::revision",
    );
    assert_none(
        find("machinery", &["revision"], |line| {
            line.contains("evision.to_string()")
        }),
        "a revision is turned into text outside machinery::revision",
    );
}

#[test]
fn sql_is_never_built_from_text() {
    // Grants take no parameters; the database itself quotes the role's name.
    assert_none(
        find("store", &["schema.rs"], |line| {
            line.contains("AssertSqlSafe")
        }),
        "statements are constants",
    );
}

#[test]
fn nothing_that_only_tests_need_is_built_by_default() {
    const ONLY_FOR_TESTS: [&str; 4] = ["failpoints", "planted", "faults", "testing"];
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal,build"])
        .args(["--package", "widget-apiserver"])
        .args(["--package", "widget-controller"])
        .args(["--prefix", "none", "--format", "{p} | {f}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8_lossy(&output.stdout);
    let mut found = Vec::new();
    for name in ["store", "serving", "widget-apiserver"] {
        let line = tree
            .lines()
            .find(|line| line.starts_with(&format!("{name} v")))
            .expect("the server is made of it");
        let (_, features) = line.split_once(" | ").expect("its features are listed");
        let mut features = features.trim_end_matches(" (*)").split(',');
        if features.any(|feature| ONLY_FOR_TESTS.contains(&feature)) {
            found.push(line.to_owned());
        }
    }
    assert_none(found, "what only tests need is in a server that is used");
    // Who builds servers to be used names no features: what is above is what is built.
    let mut naming = Vec::new();
    let mut builders = files(&root().join("deploy"), "");
    builders.extend(files(&root().join("e2e/src"), ".rs"));
    builders.extend(files(&root().join("bench/src"), ".rs"));
    builders.extend(files(&root().join(".github"), ""));
    builders.extend(files(&root().join("xtask/src"), ".rs"));
    builders.retain(|path| !path.ends_with("xtask/src/test.rs"));
    for path in builders {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if text.contains("--features") || text.contains("--all-features") {
            naming.push(path.display().to_string());
        }
    }
    assert_none(naming, "only the build for tests names features");
}

/// Functions of the store that talk to the database without a failpoint of their own, and why.
const WITHOUT_FAILPOINT: [(&str, &str, &str); 14] = [
    ("apply.rs", "apply_one", "write-one.* in apply"),
    ("apply.rs", "apply_many", "write-batch.* in apply"),
    ("apply.rs", "barrier_on", "*barrier.* in who calls it"),
    ("history.rs", "read_events", "history.* in events"),
    ("history.rs", "step_back", "rewind.* in rewind"),
    ("history.rs", "read_compacted", "history.* and rewind.*"),
    ("link.rs", "set_up", "tail.open; else before a store begins"),
    ("load.rs", "apart", "load.* in load, around it"),
    ("load.rs", "all_heads", "load.heads in load"),
    ("load.rs", "read_bodies", "load.heads in readable_heads"),
    ("load.rs", "events", "load.events in load"),
    ("load.rs", "ring_start", "load.begin in load"),
    ("store.rs", "connect", "before a store begins; schema.*"),
    ("tail.rs", "connect", "tail.open in follow"),
];

#[test]
fn all_that_the_store_asks_of_the_database_can_be_made_to_fail() {
    const SQL: [&str; 13] = [
        "sqlx::query",
        ".execute(",
        ".fetch(",
        ".fetch_one(",
        ".fetch_all(",
        ".fetch_optional(",
        ".begin()",
        ".rollback()",
        ".commit()",
        "connect_with(",
        ".listen(",
        ".acquire()",
        "migrator.run(",
    ];
    let folder = root().join("store/src");
    let mut found = BTreeSet::new();
    for path in files(&folder, ".rs") {
        let file = path.strip_prefix(&folder).expect("below").to_string_lossy();
        if ["private_postgres.rs", "testing.rs"].contains(&&*file) {
            continue;
        }
        let mut functions: Vec<(String, bool, bool)> = Vec::new();
        let mut is_in_function = false;
        for (_, line) in code(&path) {
            let is_outer = line.starts_with(char::is_alphabetic);
            let name = line
                .split_once("fn ")
                .filter(|(before, _)| !before.contains(['/', '"', '=', '&']))
                .and_then(|(_, after)| after.split(['(', '<']).next());
            if is_outer {
                is_in_function = name.is_some();
            }
            // One within another counts as that one.
            if let Some(name) = name.filter(|_| is_outer || !is_in_function) {
                functions.push((name.to_owned(), false, false));
            }
            if let Some((_, asks, fails)) = functions.last_mut() {
                *asks |= SQL.iter().any(|sql| line.contains(sql));
                *fails |= line.contains("at(Point::");
            }
        }
        let bare = functions
            .into_iter()
            .filter(|(_, asks, fails)| *asks && !fails);
        found.extend(bare.map(|(name, ..)| format!("{file}: {name}")));
    }
    let listed = WITHOUT_FAILPOINT
        .iter()
        .map(|(file, name, _)| format!("{file}: {name}"));
    let listed: BTreeSet<String> = listed.collect();
    assert_eq!(
        found, listed,
        "functions that ask the database and cannot fail"
    );
}

#[test]
fn files_and_functions_stay_small() {
    let mut long = Vec::new();
    for member in MEMBERS {
        for path in sources(member) {
            let text = fs::read_to_string(&path).expect("readable");
            let lines = text
                .lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .count();
            if lines > 500 {
                long.push(format!(
                    "{}: {lines} lines before its tests",
                    path.display()
                ));
            }
        }
    }
    assert_none(long, "a file wants to be split");
}

#[test]
fn every_source_file_says_why_it_exists() {
    let mut silent = Vec::new();
    for member in MEMBERS {
        for path in sources(member) {
            let text = fs::read_to_string(&path).expect("readable");
            if !text.starts_with("//!") {
                silent.push(path.display().to_string());
            }
        }
    }
    assert_none(silent, "a file does not begin with //!");
}

#[test]
fn the_hosted_workflow_is_well_formed() {
    let output = Command::new("go")
        .args(["run", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"])
        .arg(".github/workflows/ci.yaml")
        .current_dir(root())
        .output()
        .expect("go runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
}

#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    for member in MEMBERS {
        found.extend(find(member, &[], |line| {
            ["todo!(", "unimplemented!(", "#[ignore"]
                .iter()
                .any(|word| line.contains(word))
        }));
    }
    assert_none(found, "unfinished code");
}
