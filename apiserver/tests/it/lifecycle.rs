//! A standalone server's life: it starts anywhere, keeps what it was told, leaves nothing running.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use http::Method;
use serde_json::json;

use crate::server::{Server, new_dir};

/// Processes whose command line names the directory.
fn processes_of(dir: &std::path::Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let output = Command::new("ps")
        .args(["-eww", "-o", "pid=,args="])
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .filter(|line| line.contains(dir))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn what_was_written_survives_a_kill_and_a_stop_leaves_nothing_running() {
    let dir = new_dir();
    let mut server = Server::start(&dir).unwrap();
    let widgets = "v1/namespaces/default/widgets";
    let widget = json!({
        "apiVersion": "custom.example.com/v1", "kind": "Widget",
        "metadata": {"name": "kept"}, "spec": {"image": "a"},
    });
    let created = server.send(Method::POST, widgets, Some(widget)).await.ok();
    let mode = std::fs::metadata(server.kubeconfig())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let ca = |server: &Server| std::fs::read(server.dir().join("tls/ca.pem")).unwrap();
    let first_ca = ca(&server);
    server.end("-KILL").unwrap();

    let mut server = Server::start(&dir).unwrap();
    let kept = server
        .send(Method::GET, &format!("{widgets}/kept"), None)
        .await
        .ok();
    assert_eq!(kept, created);
    assert_eq!(ca(&server), first_ca);

    let second = Server::start(&dir)
        .err()
        .expect("one server has the directory");
    assert!(
        second
            .to_string()
            .contains("another server uses this directory"),
        "{second}"
    );

    let status = server.end("-TERM").unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(processes_of(&dir), Vec::<String>::new());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused() {
    let server = Server::shared();
    let mut config = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::read_from(server.kubeconfig()).unwrap(),
        &kube::config::KubeConfigOptions::default(),
    )
    .await
    .unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let client = kube::Client::try_from(config).unwrap();
    let request = http::Request::get("/apis/custom.example.com/v1/widgets")
        .body(Vec::new())
        .unwrap();
    match client.request_text(request).await.unwrap_err() {
        kube::Error::Api(status) => assert_eq!(status.code, 401, "{status:?}"),
        other => panic!("{other}"),
    }
}
