//! A standalone server's life: it starts anywhere, keeps what it was told, leaves nothing running.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use store::private_postgres::{PrivatePostgres, PrivatePostgresOptions, Shutdown};

use crate::server::{Server, new_dir};

/// Waiting longer than this for anything is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// The status code of a request without a certificate; 0 when there is no answer.
fn code_of(port: u16, path: &str) -> u16 {
    let url = format!("https://127.0.0.1:{port}{path}");
    let output = Command::new("curl")
        .args(["-ks", "-o", "/dev/null", "-w", "%{http_code}", &url])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_while_its_database_is_away_waits_for_it() {
    let (dir, database) = (new_dir(), new_dir());
    let options = PrivatePostgresOptions::default();
    let mut postgres = PrivatePostgres::start(&database, &options).unwrap();
    postgres.create_database("widgets", "owner").unwrap();
    let owner_url = postgres.url("widgets", "owner");
    store::migrate(&owner_url, "runtime").await.unwrap();
    let url = format!("--database-url={}", postgres.url("widgets", "runtime"));
    postgres.stop_with(Shutdown::Immediate).unwrap();

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let flags = [url.as_str(), &format!("--secure-port={port}")];
    let mut server = Server::start_until("waiting for the database", &dir, &flags).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while code_of(port, "/livez") == 0 {
        assert!(Instant::now() < deadline);
    }
    let widgets = "/apis/custom.example.com/v1/widgets";
    let codes = ["/livez", "/readyz", "/readyz/ping", widgets].map(|path| code_of(port, path));
    assert_eq!(codes, [200, 500, 200, 503]);

    let postgres = PrivatePostgres::start(&database, &options).unwrap();
    let began = Instant::now();
    while code_of(port, widgets) != 401 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "it serves {:?} after its database was back",
        began.elapsed()
    );
    let listed = server.send(Method::GET, "v1/widgets", None).await.ok();
    assert_eq!(listed["items"], json!([]));
    assert!(server.end("-TERM").unwrap().success());
    postgres.stop().unwrap();

    // And one that is stopped before its database comes back ends as well.
    let mut server = Server::start_until("waiting for the database", &dir, &flags).unwrap();
    assert!(server.end("-TERM").unwrap().success());
    for dir in [dir, database] {
        std::fs::remove_dir_all(dir).unwrap();
    }
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
