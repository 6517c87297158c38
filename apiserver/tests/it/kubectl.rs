//! As a user types it. Without a kubectl on the path there is nothing to see here; the e2e suite
//! brings its own.

use std::process::{Command, Output};

use crate::server::Server;

/// Runs kubectl; `None` if there is none.
fn kubectl(server: &Server, args: &[&str]) -> Option<Output> {
    let mut command = Command::new("kubectl");
    command
        .arg("--kubeconfig")
        .arg(server.kubeconfig())
        .args(args);
    // kubectl caches discovery by server address, and ports are used again.
    command
        .arg("--cache-dir")
        .arg(server.dir().join("kubectl-cache"));
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no kubectl");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn explain_describes_every_field_of_both_versions() {
    let server = Server::shared();
    for (version, fields) in [
        (
            "v1",
            [
                "replicas\t<integer>",
                "image\t<string> -required-",
                "observedGeneration\t<integer>",
            ],
        ),
        (
            "v1alpha1",
            [
                "size\t<integer>",
                "repository\t<string> -required-",
                "updatedAt\t<string>",
            ],
        ),
    ] {
        let version = format!("--api-version=custom.example.com/{version}");
        let args = ["explain", "widgets", "--recursive", &version];
        let Some(output) = kubectl(&server, &args) else {
            return;
        };
        let text = stdout(&output);
        for field in fields {
            assert!(text.contains(field), "{field}\n{text}");
        }
        let Some(output) = kubectl(&server, &["explain", "widgets.spec.color", &version]) else {
            return;
        };
        assert!(stdout(&output).contains("Color that the pods are told"));
    }
}

#[test]
fn a_widget_is_created_shown_scaled_and_deleted() {
    let server = Server::shared();
    let manifest = server.dir().join("widget.yaml");
    let text = "apiVersion: custom.example.com/v1\nkind: Widget\nmetadata:\n  name: typed\n  \
                namespace: kubectl\nspec:\n  image: nginx:1.27\n  replicas: 3\n";
    std::fs::write(&manifest, text).unwrap();
    let manifest = manifest.to_str().unwrap();
    let Some(output) = kubectl(&server, &["create", "-f", manifest]) else {
        return;
    };
    assert_eq!(
        stdout(&output).trim(),
        "widget.custom.example.com/typed created"
    );
    let run = |args: &[&str]| {
        let args = [&["-n", "kubectl"], args].concat();
        kubectl(&server, &args).expect("kubectl was there before")
    };
    let lines = stdout(&run(&["get", "wd", "-o", "wide"]));
    assert!(lines.starts_with("NAME "), "{lines}");
    let heading: Vec<&str> = lines.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        [
            "NAME",
            "DESIRED",
            "AVAILABLE",
            "PHASE",
            "COLOR",
            "AGE",
            "IMAGE"
        ]
    );
    let refused = run(&[
        "scale",
        "widget",
        "typed",
        "--current-replicas=9",
        "--replicas=5",
    ]);
    assert!(!refused.status.success());
    stdout(&run(&[
        "scale",
        "widget",
        "typed",
        "--current-replicas=3",
        "--replicas=5",
    ]));
    let old = stdout(&run(&[
        "get",
        "widgets.v1alpha1.custom.example.com",
        "typed",
        "-o",
        "yaml",
    ]));
    assert!(
        old.contains("size: 5") && old.contains("repository: nginx"),
        "{old}"
    );
    let refused = run(&["scale", "widget", "typed", "--replicas=101"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("replicas cannot exceed 100"), "{error}");
    stdout(&run(&["delete", "widget", "typed"]));
    assert_eq!(stdout(&run(&["get", "widgets", "-o", "name"])), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_shown_as_any_subresource() {
    let server = Server::shared();
    let widget = serde_json::json!({
        "apiVersion": "custom.example.com/v1", "kind": "Widget",
        "metadata": {"name": "told"}, "spec": {"image": "nginx"},
    });
    let path = "v1/namespaces/history/widgets";
    server
        .send(http::Method::POST, path, Some(widget))
        .await
        .ok();
    let path = "/apis/custom.example.com/v1alpha1/namespaces/history/widgets/told/history";
    let Some(history) = kubectl(&server, &["get", "--raw", path]) else {
        return;
    };
    let history = stdout(&history);
    assert!(history.contains(r#""kind":"WidgetHistory""#), "{history}");
    let args = [
        "-n",
        "history",
        "get",
        "widget",
        "told",
        "--subresource=history",
    ];
    let history = kubectl(&server, &args).expect("kubectl was there before");
    // Before 1.36, kubectl itself knows which subresources there are.
    if history.status.success() {
        let lines = stdout(&history);
        let heading: Vec<&str> = lines.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(
            heading,
            ["REVISION", "TYPE", "USER", "VERB", "MANAGER", "AGE"]
        );
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }
}
