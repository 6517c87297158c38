//! A list of a hundred thousand objects takes little memory, and leaves others their turns.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::json;
use store::{Key, Operation, Project, Provenance, Revision, Store, StoreConfig, Write, testing};
use uuid::Uuid;

use super::server::{Api, Server, gadgets, old_gadgets};

const OBJECTS: usize = 100_000;
/// What a list may take beside what the cache holds anyway.
const MOST: u64 = 64 * 1024 * 1024;
/// Others get an answer at least each time that so much was worked while a list is sent. Counted in
/// what this process worked, server and clients: time alone also passes while others use the machine.
const LONGEST_TURN: Duration = Duration::from_millis(100);
/// What may be kept after all lists: less than one more version of every object.
const MOST_KEPT: u64 = 96 * 1024 * 1024;
/// Set in the process that measures, where no other test runs.
const ALONE: &str = "MEASURES_MEMORY";
/// No list of these may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_list_of_a_hundred_thousand_objects_takes_little_memory_and_leaves_others_their_turns() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(measure());
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(ALONE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// Writes without looking.
struct Blind;

impl Project for Blind {
    type View = ();

    fn project(&self, _key: &Key, _revision: Revision, _body: Bytes) {}

    fn unreadable(&self, _key: &Key, _revision: Revision) {}
}

async fn fill(url: &str) {
    let store = Store::connect(StoreConfig::new(url)).await.unwrap();
    let gadgets = store.register("gadget.example.com", "gadgets", Blind);
    let gadgets = gadgets.await.unwrap();
    store.start().await.unwrap();
    let write = |number: usize| {
        let gadgets = Arc::clone(&gadgets);
        async move {
            let (uid, name) = (Uuid::new_v4(), format!("gadget-{number:06}"));
            let body = json!({
                "apiVersion": "gadget.example.com/v1", "kind": "Gadget",
                "metadata": {
                    "annotations": { "note": "a".repeat(100) },
                    "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
                    "labels": { "app": "memory", "number": number.to_string() },
                    "name": name, "namespace": "a", "uid": uid.to_string(),
                },
                "spec": { "color": "blue", "note": "n".repeat(200), "replicas": 1 },
            });
            let body = Bytes::from(body.to_string());
            let (key, provenance) = (Key::new("a", name), Provenance::default());
            let operation = Operation::Create { uid, body };
            gadgets
                .write(Write {
                    key,
                    operation,
                    provenance,
                })
                .await
                .unwrap();
        }
    };
    let writes = futures::stream::iter(0..OBJECTS).map(write);
    writes.buffer_unordered(1000).collect::<()>().await;
    store.shutdown().await;
}

/// Bytes that are resident now, and the most that ever were since [`forget_peak`].
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kilobytes = line.split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// How long the threads of this process have run.
fn worked() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = threads.filter_map(|thread| {
        // It may have ended since.
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Reads a body to its end, or to `until`, and keeps nothing of it.
async fn drain(api: &Api, path: &str, accept: &str, until: Option<&[u8]>) -> u64 {
    let response = api.open("GET", path, &[("accept", accept)], "").await;
    assert_eq!(response.status(), 200, "{path}");
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.unwrap().into_data() else {
            continue;
        };
        length += data.len() as u64;
        let has = |end: &[u8]| data.windows(end.len()).any(|window| window == end);
        if until.is_some_and(has) {
            break;
        }
    }
    length
}

/// What is asked for: a name, a path, a representation, what ends it, and its least size in MiB.
type Case = (
    &'static str,
    String,
    &'static str,
    Option<&'static [u8]>,
    u64,
);

fn cases() -> Vec<Case> {
    let (all, old) = (gadgets("a"), old_gadgets("a"));
    let stream = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                  &allowWatchBookmarks=true";
    let (json, yaml) = ("application/json", "application/yaml");
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partials = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let protobuf =
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let end: Option<&[u8]> = Some(b"initial-events-end");
    let of = |query: &str| format!("{all}?{query}");
    vec![
        ("JSON", all.clone(), json, None, 60),
        ("JSON of the older version", old.clone(), json, None, 60),
        ("partial JSON", all.clone(), partial, None, 30),
        ("partial protobuf", all.clone(), protobuf, None, 20),
        ("Table", all.clone(), table, None, 30),
        ("wide Table", of("includeObject=Object"), table, None, 60),
        ("YAML", all.clone(), yaml, None, 40),
        ("pretty", of("pretty=1"), json, None, 70),
        ("selected", of("labelSelector=app%3Dmemory"), json, None, 60),
        ("watch list", of(stream), json, end, 60),
        ("old watch list", format!("{old}?{stream}"), json, end, 60),
        ("partial watch list", of(stream), partials, end, 30),
    ]
}

async fn measure() {
    let url = testing::database().url;
    fill(&url).await;
    // One worker: who keeps it, keeps everybody waiting.
    let server = Server::start(url, |wire| wire.workers = 1).await;
    let (api, other) = (
        Api::of(&server.masters).await,
        Api::of(&server.masters).await,
    );
    let one = format!("{}/gadget-000000", gadgets("a"));
    let (begin, _) = resident();
    for (what, path, accept, until, least) in cases() {
        forget_peak();
        let (before, _) = resident();
        let list = async {
            let list = drain(&api, &path, accept, until);
            tokio::time::timeout(PATIENCE, list).await.expect("in time")
        };
        let mut served = 0;
        let others = async {
            loop {
                other.get(&one).await.expect(200);
                served += 1;
            }
        };
        let started = worked();
        let length = tokio::select! {
            length = list => length,
            () = others => unreachable!("it never ends"),
        };
        let took = worked().saturating_sub(started);
        let extra = resident().1.saturating_sub(before);
        let (length, extra_mib) = (length / 1024 / 1024, extra / 1024 / 1024);
        println!(
            "{what}: {length} MiB with {took:?} of work, {extra_mib} MiB extra, {served} others"
        );
        assert!(length >= least, "{what}: {length} MiB is not everything");
        assert!(extra <= MOST, "{what} takes {extra_mib} MiB");
        // A short list may be over before the first of the others was sent.
        let least_served = (took.as_millis() / LONGEST_TURN.as_millis()).saturating_sub(1);
        assert!(
            served >= least_served,
            "{what}: only {served} others were served in {took:?} of work"
        );
    }
    let kept = resident().0.saturating_sub(begin) / 1024 / 1024;
    println!("kept: {kept} MiB");
    assert!(
        kept <= MOST_KEPT / 1024 / 1024,
        "{kept} MiB are kept after all lists"
    );
}
