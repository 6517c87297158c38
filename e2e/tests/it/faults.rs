//! What users see when a replica dies or the database is away.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, harness, platform, postgres};
use serde_json::Value;

use crate::support::{
    Kubectl, Namespace, PATIENCE, assert_holds, eventually, go_clients, is_local, widget,
};

/// A program of clients/go that runs beside a test.
struct Client {
    child: Child,
}

impl Client {
    fn start(
        cluster: &Cluster,
        arguments: &[&str],
        namespace: &str,
        watch_list: bool,
    ) -> Result<Self> {
        let child = Command::new(go_clients()?)
            .args(arguments)
            .arg("-kubeconfig")
            .arg(cluster.kubeconfig())
            .args(["-namespace", namespace])
            .env("KUBE_FEATURE_WatchListClient", watch_list.to_string())
            .env("KUBE_WATCHLIST_INCONSISTENCY_DETECTOR", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self { child })
    }

    /// A line on its standard input.
    fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Its summary; fails when the program found something wrong.
    fn finish(self) -> Result<Value> {
        let output = self.child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "the client: {}\n{stdout}\n{stderr}",
            output.status
        );
        Ok(serde_json::from_str(&stdout)?)
    }
}

fn pids(cluster: &Cluster) -> Vec<(u32, bool)> {
    cluster
        .replicas()
        .iter()
        .map(|replica| (replica.pid, replica.is_alive()))
        .collect()
}

fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn survive_the_death_of_a_replica(watch_list: bool) -> Result<()> {
    let cluster = harness::exclusive()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let namespace = Namespace::create(&cluster, "kill")?;
    let load = ["informer", "-duration", "20s"];
    let informer = Client::start(&cluster, &load, &namespace.name, watch_list)?;
    let kubectl = namespace.kubectl();
    eventually("the load has begun", PATIENCE, || {
        Ok(!kubectl.run("get widgets -o name")?.trim().is_empty())
    })?;
    sleep(Duration::from_secs(4));
    let killed = unix_millis();
    cluster.kill(&platform::replica_name(0))?;
    sleep(Duration::from_secs(8));
    cluster.start(&platform::replica_name(0))?;
    let summary = informer.finish()?;
    eprintln!(
        "watch list {watch_list}: {} writes, {} events, {} relists, {} failures",
        summary["writes"],
        summary["events"],
        summary["relists"],
        summary["failures"].as_array().map_or(0, Vec::len)
    );
    assert!(summary["writes"].as_u64() > Some(200), "{summary}");
    // The aggregator may answer the new watch for the server that died, with a 503: client-go
    // then reads the state anew, once.
    assert!(summary["relists"].as_u64() <= Some(1), "{summary}");
    for failure in summary["failures"].as_array().into_iter().flatten() {
        let at = failure["unixMillis"].as_u64().context("no time")?;
        assert!(
            at >= killed && at <= killed + 2_000,
            "a request failed {} ms after the kill: {failure}",
            at.wrapping_sub(killed)
        );
    }
    Ok(())
}

#[test]
fn an_informer_with_watch_list_sees_every_change_once_while_a_replica_is_killed() -> Result<()> {
    survive_the_death_of_a_replica(true)
}

#[test]
fn an_informer_without_watch_list_sees_every_change_once_while_a_replica_is_killed() -> Result<()> {
    survive_the_death_of_a_replica(false)
}

#[test]
fn the_metadata_client_lists_and_watches_in_protobuf() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "metadata")?;
    for version in ["v1", "v1alpha1"] {
        let output = Command::new(go_clients()?)
            .args(["metadata", "-kubeconfig"])
            .arg(cluster.kubeconfig())
            .args(["-namespace", &namespace.name, "-version", version])
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let summary: Value = serde_json::from_slice(&output.stdout)?;
        let media = summary["contentTypes"].to_string();
        assert_holds(
            &media,
            &["application/vnd.kubernetes.protobuf", "stream=watch"],
        );
    }
    Ok(())
}

/// Writes are refused so that clients try again; discovery, stale lists and both
/// APIServices stay.
fn use_the_api_without_postgres(
    kubectl: &Kubectl,
    namespace: &str,
    duration: Duration,
) -> Result<()> {
    let stopped = Instant::now();
    while stopped.elapsed() < duration {
        let asked = Instant::now();
        let refusal = kubectl.refused_with("create -f -", &widget("during", 0))?;
        assert!(
            asked.elapsed() < Duration::from_secs(40),
            "a refusal took {:?}",
            asked.elapsed()
        );
        assert!(
            refusal.contains("ServiceUnavailable")
                || refusal.contains("unable to handle the request"),
            "{refusal}"
        );
        assert_holds(
            &kubectl.run("get --raw /apis/custom.example.com/v1")?,
            &["widgets/scale"],
        );
        let stale = kubectl.run(&format!(
            "get --raw /apis/custom.example.com/v1/namespaces/{}/widgets?resourceVersion=0",
            namespace
        ))?;
        assert_holds(&stale, &["\"before\""]);
        for version in ["v1", "v1alpha1"] {
            let available = kubectl.run(&format!(
                "get apiservice {version}.custom.example.com -o 'jsonpath={{.status.conditions[?(@.type==\"Available\")].status}}'"))?;
            assert_eq!(available, "True");
        }
    }
    Ok(())
}

#[test]
fn thirty_seconds_without_postgres_break_no_watch_and_no_discovery() -> Result<()> {
    let cluster = harness::exclusive()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let namespace = Namespace::create(&cluster, "outage")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("before", 0))?;
    // The controller writes its status some times: none of that is to be in the watch, or under way
    // when the database ends.
    kubectl.run("wait --for=jsonpath={.status.phase}=Running widget/before --timeout=60s")?;
    let replicas = pids(&cluster);

    let mut watch = kubectl
        .command("get widgets -w --output-watch-events --no-headers -v=6")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let errors = BufReader::new(watch.stderr.take().context("no errors")?);
    let requests = std::thread::spawn(move || {
        errors
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.contains("/widgets"))
            .count()
    });
    assert_holds(
        &lines.next().context("the watch ended")??,
        &["ADDED", "before"],
    );

    cluster.stop(postgres::NAME)?;
    use_the_api_without_postgres(&kubectl, &namespace.name, Duration::from_secs(30))?;
    cluster.start(postgres::NAME)?;
    eventually("writes succeed again", Duration::from_secs(10), || {
        Ok(kubectl.run_with("apply -f -", &widget("after", 0)).is_ok())
    })?;
    assert_holds(
        &lines.next().context("the watch ended")??,
        &["ADDED", "after"],
    );
    watch.kill()?;
    watch.wait()?;
    // One list and one watch: the watch was neither reopened nor relisted.
    let requests = requests.join().ok().context("the reader of the log died")?;
    assert!(
        requests <= 2,
        "{requests} requests for widgets in kubectl's log"
    );
    assert_eq!(pids(&cluster), replicas, "a replica was restarted");
    Ok(())
}

/// The newest revision, as a list tells it.
fn revision(kubectl: &Kubectl) -> Result<u64> {
    let list = kubectl.json_raw("/apis/custom.example.com/v1/widgets?limit=1")?;
    let revision = list.pointer("/metadata/resourceVersion");
    let revision = revision.and_then(Value::as_str);
    Ok(revision.context("no resourceVersion")?.parse()?)
}

#[test]
fn a_dump_restored_under_live_informers_begins_a_new_life_each_time() -> Result<()> {
    let cluster = harness::exclusive()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let namespace = Namespace::create(&cluster, "restore")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("before", 0))?;
    let dump = cluster.dump_database()?;
    let replicas = pids(&cluster);
    // The second time, the same dump: what was lost differs, the dump's revisions do not.
    for watch_list in [true, false] {
        let begin = revision(&kubectl)?;
        let mut informer = Client::start(&cluster, &["restore"], &namespace.name, watch_list)?;
        eventually("much is written that the dump lacks", PATIENCE, || {
            Ok(revision(&kubectl)? > begin + 200)
        })?;
        informer.tell("the restore begins")?;
        cluster.restore_database(&dump)?;
        eventually("writes succeed again", Duration::from_secs(10), || {
            let annotate = "annotate --overwrite widget before restored=yes";
            Ok(kubectl.run(annotate).is_ok())
        })?;
        informer.tell("the restore is over")?;
        let summary = informer.finish()?;
        eprintln!("watch list {watch_list}: {summary}");
        assert!(summary["old"].as_u64() > Some(100), "{summary}");
        assert!(summary["asked"].as_u64() > Some(100), "{summary}");
        assert!(summary["relists"].as_u64() >= Some(1), "{summary}");
    }
    // The controller went through the same.
    kubectl.run_with("apply -f -", &widget("after", 1))?;
    kubectl.run("wait --for=jsonpath={.status.phase}=Running widget/after --timeout=60s")?;
    assert_eq!(pids(&cluster), replicas, "a replica was restarted");
    Ok(())
}
