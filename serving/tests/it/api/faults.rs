//! What clients see of faults: outages again and again, watchers that hardly read, thousands that
//! come back at once, replicas that leave, and objects that cannot be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use http_body_util::Full;
use serde_json::json;
use store::StoreConfig;
use store::private_postgres::{PrivatePostgres, Shutdown};
use store::testing::{self, Lag};

use super::crud::revision;
use super::lists::names;
use super::server::{Answer, Api, Server, Watch, gadget, gadgets};
use crate::wire::client::{Client, Protocol, Target};

/// The promises about an outage.
const FIRST_FAILURE: Duration = Duration::from_secs(5);
const LATER_FAILURES: Duration = Duration::from_millis(50);
const FIRST_SUCCESS: Duration = Duration::from_secs(1);

/// As many as the name of the test says, or a few on every push.
fn count() -> usize {
    if scale() >= 10 { 20 } else { 3 }
}

/// How large the tests of faults are, beside their smallest size.
fn scale() -> usize {
    let asked = std::env::var("FAULT_SCALE").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The processor time that the machine and this process have used, in ticks.
fn ticks() -> [u64; 3] {
    let numbers = |text: &str| -> Vec<u64> {
        let words = text.split_whitespace();
        words.map(|word| word.parse().unwrap_or(0)).collect()
    };
    let machine = std::fs::read_to_string("/proc/stat").unwrap();
    let machine = numbers(machine.lines().next().unwrap());
    let own = std::fs::read_to_string("/proc/self/stat").unwrap();
    let own = numbers(own.rsplit(')').next().unwrap());
    let all = machine.iter().take(9).sum::<u64>();
    // Fields 5 and 6 of the machine: idle, and waiting for a disk; 14 and 15 of the process: in its
    // own code, and in the kernel.
    [all, all - machine[4] - machine[5], own[11] + own[12]]
}

/// A time without the part of the machine that others had meanwhile.
fn undisturbed(time: Duration, before: [u64; 3]) -> Duration {
    let [all, busy, own] = ticks();
    let [all, busy, own] = [all - before[0], busy - before[1], own - before[2]];
    let ticks = |count: u64| f64::from(u32::try_from(count).unwrap());
    let others = ticks(busy.saturating_sub(own)) / ticks(all.max(1));
    time.mul_f64(1.0 - others)
}

/// These tests load the machine, and one of them measures times: one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * part / 100).min(times.len() - 1)]
}

async fn timed(request: impl Future<Output = Answer>) -> (Answer, Duration) {
    let began = Instant::now();
    (request.await, began.elapsed())
}

/// Times of one outage.
struct Outage {
    first_failure: Duration,
    later_failures: Vec<Duration>,
    first_success: Duration,
    /// What the machine itself was late by, during the failures and around the success.
    lags: [Duration; 2],
}

/// Stops the database, uses the API, starts it; `created` gets what was acknowledged.
async fn survive(
    api: &Api,
    postgres: &mut Option<PrivatePostgres>,
    start: impl Fn() -> PrivatePostgres + Send + 'static,
    name: &str,
    server: &Server,
) -> Outage {
    let all = gadgets("a");
    let lag = Lag::watch();
    let mut running = postgres.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || running.stop_with(Shutdown::Immediate));
    stopped.await.unwrap().unwrap();
    let body = gadget(&format!("{name}-lost"), json!({}));
    let (refused, first_failure) = timed(api.post(&all, &body)).await;
    assert!(matches!(refused.code, 503 | 504), "{}", refused.verdict());
    let deadline = Instant::now() + FIRST_FAILURE;
    while server.store.is_reachable() {
        assert!(Instant::now() < deadline, "nobody notices");
        tokio::task::yield_now().await;
    }
    let mut later_failures = Vec::new();
    for _ in 0..5 {
        for request in [
            timed(api.post(&all, &body)).await,
            timed(api.get(&all)).await,
        ] {
            let (refused, took) = request;
            assert_eq!(refused.verdict(), "503 ServiceUnavailable");
            assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
            later_failures.push(took);
        }
        let (cached, took) = timed(api.get(&format!("{all}?resourceVersion=0"))).await;
        assert!(!names(&cached.expect(200)).is_empty());
        assert!(took < FIRST_SUCCESS);
    }
    let late = lag.take();
    let started = tokio::task::spawn_blocking(start).await.unwrap();
    lag.take();
    let accepts = Instant::now();
    *postgres = Some(started);
    loop {
        let answer = api.post(&all, &gadget(name, json!({}))).await;
        match answer.code {
            201 => break,
            503 => tokio::time::sleep(Duration::from_millis(2)).await,
            _ => panic!("{}", answer.verdict()),
        }
    }
    Outage {
        first_failure,
        later_failures,
        first_success: accepts.elapsed(),
        lags: [late, lag.take()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_outages_fail_fast_heal_fast_and_break_no_watch() {
    let _alone = ALONE.lock().await;
    let directory = testing::directory(format!("{}-outages", std::process::id()));
    let start = {
        let directory = directory.clone();
        move || PrivatePostgres::start(&directory, &testing::options(false)).unwrap()
    };
    let postgres = start();
    testing::prepare(&postgres, "gadgets").unwrap();
    let server = Server::start(postgres.url("gadgets", testing::RUNTIME), |_| {}).await;
    let (api, all) = (Api::of(&server.masters).await, gadgets("a"));
    let first = api
        .post(&all, &gadget("first", json!({})))
        .await
        .expect(201);
    let path = format!("{all}?watch=1&resourceVersion={}", revision(&first));
    // A connection of its own; who drops the client closes it.
    let watching = api.again().await;
    let mut watch = watching.watch(&path).await;
    let mut postgres = Some(postgres);
    let mut outages = Vec::new();
    for n in 0..count() {
        let name = format!("after-{n:02}");
        outages.push(survive(&api, &mut postgres, start.clone(), &name, &server).await);
        // A write whose outcome was unknown may be there as well, before.
        let mut event = watch.summary().await;
        if event == format!("ADDED {name}-lost") {
            event = watch.summary().await;
        }
        assert_eq!(event, format!("ADDED {name}"));
    }
    let worst = |of: fn(&Outage) -> Duration| outages.iter().map(of).max().unwrap();
    let (failure, success) = (worst(|o| o.first_failure), worst(|o| o.first_success));
    let all = outages.iter().flat_map(|o| o.later_failures.clone());
    let mut later: Vec<_> = all.collect();
    let [middle, most, all] = [50, 99, 100].map(|part| percentile(&mut later, part));
    println!(
        "{} outages: first failure within {failure:?}, then 503 within p50 {middle:?}, \
         p99 {most:?}, at most {all:?}; first success within {success:?}; \
         the machine was late by up to {:?}",
        outages.len(),
        worst(|o| o.lags[0].max(o.lags[1])),
    );
    for outage in &outages {
        // A request takes several turns on several threads.
        let [late, lag] = outage.lags.map(|lag| lag * 4);
        assert!(outage.first_failure < FIRST_FAILURE + late);
        assert!(outage.later_failures.iter().max().unwrap() < &(LATER_FAILURES + late));
        assert!(outage.first_success < FIRST_SUCCESS + lag);
    }
    server.shutdown.cancel();
    drop(postgres);
    drop(std::fs::remove_dir_all(&directory));
}

/// Together larger than the window of a stream.
const OBJECTS: usize = 120;

/// Writes gadgets of some size; how long each took to be at all of `watches`.
async fn deliver(api: &Api, all: &str, prefix: &str, watches: &mut [Watch]) -> Vec<Duration> {
    let note = "x".repeat(20_000);
    let mut times = Vec::new();
    for n in 0..OBJECTS {
        let name = format!("{prefix}-{n}");
        let began = Instant::now();
        api.post(all, &gadget(&name, json!({ "note": note })))
            .await
            .expect(201);
        for watch in &mut *watches {
            assert_eq!(watch.summary().await, format!("ADDED {name}"));
        }
        times.push(began.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_hardly_reads_holds_up_nobody_and_misses_nothing() {
    let _alone = ALONE.lock().await;
    let server = Server::start(testing::database().url, |_| {}).await;
    let (api, all) = (Api::of(&server.masters).await, gadgets("slow"));
    let path = format!("{all}?watch=1&resourceVersion=0");
    let (mut clients, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let client = api.again().await;
        readers.push(client.watch(&path).await);
        clients.push(client);
    }
    let mut before = deliver(&api, &all, "before", &mut readers).await;
    let path = format!("{all}?watch=1&resourceVersion={}", server.store.applied());
    let mut idlers = Vec::new();
    for _ in 0..10 {
        // Each on a connection of its own, whose window it never opens again.
        let client = api.again().await;
        idlers.push(client.watch(&path).await);
        clients.push(client);
    }
    let mut during = deliver(&api, &all, "during", &mut readers).await;
    let [quiet, busy] =
        [&mut before, &mut during].map(|times| (percentile(times, 50), percentile(times, 99)));
    println!("to 3 watchers p50, p99: {quiet:?}; beside 10 that do not read: {busy:?}");
    assert!(busy.0 < quiet.0 * 2 + Duration::from_millis(5), "{busy:?}");
    for idler in &mut idlers {
        for n in 0..OBJECTS {
            assert_eq!(idler.summary().await, format!("ADDED during-{n}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watches_that_come_back_at_once_are_live_within_seconds() {
    const CONNECTIONS: usize = 10;
    const WATCHES: usize = 1000;
    let _alone = ALONE.lock().await;
    let database = testing::database();
    let server = Server::start(database.url.clone(), |_| {}).await;
    let (api, all) = (Api::of(&server.masters).await, gadgets("many"));
    let first = api
        .post(&all, &gadget("first", json!({})))
        .await
        .expect(201);
    api.post(&all, &gadget("missed", json!({})))
        .await
        .expect(201);
    let path = format!("{all}?watch=1&resourceVersion={}", revision(&first));
    let transactions = || -> i64 {
        let query = format!(
            "SELECT pg_stat_force_next_flush();
             SELECT xact_commit FROM pg_stat_database WHERE datname = '{}'",
            database.name
        );
        let said = testing::shared_postgres().psql("postgres", &query).unwrap();
        said.trim().parse().unwrap()
    };
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (before, began, used) = (transactions(), Instant::now(), ticks());
    let opening = (0..CONNECTIONS).map(|_| {
        let (target, path) = (server.masters.clone(), path.clone());
        tokio::spawn(async move {
            let api = Api::of(&target).await;
            let mut watches = Vec::new();
            for _ in 0..WATCHES {
                watches.push(api.watch(&path).await);
            }
            // Live: what was missed while it was away is there.
            for watch in &mut watches {
                assert_eq!(watch.summary().await, "ADDED missed");
            }
            (api, watches)
        })
    });
    let (mut clients, mut watches) = (Vec::new(), Vec::new());
    for opened in join_all(opening).await {
        let (client, opened) = opened.unwrap();
        clients.push(client);
        watches.extend(opened);
    }
    let live = began.elapsed();
    let alone = undisturbed(live, used);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let spent = transactions() - before;
    let began = Instant::now();
    api.post(&all, &gadget("next", json!({}))).await.expect(201);
    for watch in &mut watches {
        assert_eq!(watch.summary().await, "ADDED next");
    }
    println!(
        "{} watches live after {live:?}, {alone:?} of an idle machine, for {spent} transactions; the next event at all of them \
         after {:?}",
        watches.len(),
        began.elapsed()
    );
    assert!(alone < Duration::from_secs(10), "{live:?}");
    assert!(spent < 50, "{spent} transactions");
}

/// Whether a stream was beyond the last one of a server's farewell: every client tries such a
/// request once more elsewhere, as it was not begun (RFC 9113, 6.8).
fn is_refused(error: &hyper::Error) -> bool {
    let said = format!("{error:?}");
    said.contains("GoAway(") && said.contains("NO_ERROR")
}

/// Whether a client has to go elsewhere: it was told so before anything was sent, or that what was
/// sent was not looked at.
fn has_moved(error: &hyper::Error) -> bool {
    error.is_closed() || error.is_canceled() || is_refused(error)
}

/// Writes one more object; the status.
async fn post(client: &mut Client) -> hyper::Result<u16> {
    let name = format!("p-{}", uuid::Uuid::new_v4());
    let request = client
        .request("POST", &gadgets("pinned"))
        .header("content-type", "application/json")
        .body(Full::new(gadget(&name, json!({})).to_string().into()))
        .unwrap();
    let response = client.send(request).await?;
    Ok(response.status().as_u16())
}

/// A client as the aggregator is one: it keeps one connection until that says goodbye. It writes
/// `least`, and until it has moved; and tells how many, how often it moved, and what failed.
async fn post_on_one_connection(targets: [Target; 2], least: usize) -> (usize, usize, Vec<String>) {
    let (mut at, mut client) = (0, targets[0].connect(Protocol::Http2).await);
    let (mut moved, mut failures) = (0, Vec::new());
    let mut done = 0;
    while done < least || moved == 0 {
        match post(&mut client).await {
            Ok(201) => done += 1,
            Ok(status) => failures.push(status.to_string()),
            Err(error) if has_moved(&error) => {
                at = 1 - at;
                client = targets[at].connect(Protocol::Http2).await;
                moved += 1;
            }
            Err(error) => failures.push(format!("{error:?}")),
        }
    }
    (done, moved, failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_connection_moves_to_another_replica_without_a_failed_write() {
    const POSTS: usize = 100;
    let _alone = ALONE.lock().await;
    let url = testing::database().url;
    let stays = Server::start(url.clone(), |_| {}).await;
    let leaves = Server::start(url, |wire| {
        wire.shutdown.delay = Duration::from_millis(200);
    })
    .await;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let targets = [leaves.masters.clone(), stays.masters.clone()];
            tokio::spawn(post_on_one_connection(targets, POSTS))
        })
        .collect();
    let api = Api::of(&stays.masters).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let written = async || names(&api.get(&gadgets("pinned")).await.expect(200)).len();
    while written().await < POSTS {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    leaves.shutdown.cancel();
    let (mut posts, mut moves) = (0, 0);
    for client in clients {
        let ended = tokio::time::timeout(Duration::from_secs(30), client).await;
        let (done, moved, failures) = ended.expect("it moves").unwrap();
        assert_eq!(failures, [""; 0]);
        posts += done;
        moves += moved;
    }
    assert_eq!(moves, 8, "each connection moved once");
    assert_eq!(written().await, posts);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_clients_keep_for_ever_spread_over_the_replicas() {
    const CLIENTS: usize = 8;
    let _alone = ALONE.lock().await;
    let url = testing::database().url;
    let aging = |wire: &mut serving::wire::ServerConfig| {
        wire.limits.connection_age = Duration::from_millis(100);
    };
    let replicas = [
        Server::start(url.clone(), aging).await,
        Server::start(url, aging).await,
    ];
    let targets = Arc::new(replicas.each_ref().map(|replica| replica.masters.clone()));
    // As after a rollout: all are at the replica that was there first. Then a balancer gives each new
    // connection to the next one.
    let turn = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (targets, turn) = (Arc::clone(&targets), Arc::clone(&turn));
            tokio::spawn(async move {
                let mut client = targets[0].connect(Protocol::Http2).await;
                let (mut at, mut counts, mut moves) = (0, [0_usize; 2], 0);
                while moves < 20 {
                    match post(&mut client).await {
                        Ok(201) if moves > 0 => counts[at] += 1,
                        Ok(201) => {}
                        Err(error) if has_moved(&error) => {
                            at = turn.fetch_add(1, Ordering::Relaxed) % 2;
                            client = targets[at].connect(Protocol::Http2).await;
                            moves += 1;
                        }
                        failed => panic!("{failed:?}"),
                    }
                }
                counts
            })
        })
        .collect();
    let ended = tokio::time::timeout(Duration::from_secs(60), join_all(clients)).await;
    let (mut one, mut other) = (0, 0);
    for counts in ended.expect("connections are asked to move") {
        let counts = counts.unwrap();
        one += counts[0];
        other += counts[1];
    }
    println!("{one} writes at one replica, {other} at the other");
    let all = one + other;
    assert!(one.abs_diff(other) * 5 <= all, "{one} and {other}");
    let api = Api::of(&targets[1]).await;
    let written = names(&api.get(&gadgets("pinned")).await.expect(200)).len();
    assert!(written >= all, "{written} of {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_object_fails_alone() {
    let _alone = ALONE.lock().await;
    // Bytes that are not those that were written, no bytes at all, and bytes that were written
    // and are no object.
    for spoil in [
        "UPDATE store.events SET body = '\\x7b7d' WHERE name = 'broken'",
        "DELETE FROM store.events WHERE name = 'broken'",
        "UPDATE store.events SET body = '\\x7b226e6f2c', sum = NULL WHERE name = 'broken'",
    ] {
        let database = testing::database();
        let first = Server::start(database.url.clone(), |_| {}).await;
        let (api, all) = (Api::of(&first.masters).await, gadgets("alice"));
        for name in ["a", "broken", "c"] {
            api.post(&all, &gadget(name, json!({}))).await.expect(201);
        }
        first.shutdown.cancel();
        let postgres = testing::shared_postgres();
        postgres.psql(&database.name, spoil).unwrap();
        let server = Server::start_on(StoreConfig::new(&database.url), |_| {}).await;
        fails_alone(&server, &all).await;
    }
}

async fn fails_alone(server: &Server, all: &str) {
    let api = Api::of(&server.masters).await;
    let broken = format!("{all}/broken");
    let path = format!("{all}?watch=1&resourceVersion=0");
    let mut watch = api.watch(&path).await;
    for name in ["a", "c"] {
        api.get(&format!("{all}/{name}")).await.expect(200);
        assert_eq!(watch.summary().await, format!("ADDED {name}"));
    }
    assert_eq!(names(&api.get(all).await.expect(200)), ["a", "c"]);
    api.post(all, &gadget("d", json!({}))).await.expect(201);
    assert_eq!(watch.summary().await, "ADDED d");
    for told in [
        api.get(&broken).await,
        api.put(&broken, &gadget("broken", json!({}))).await,
        api.merge(&broken, &json!({ "spec": { "note": "x" } }))
            .await,
        api.delete(&broken, &json!({})).await,
    ] {
        let status = told.expect(500);
        assert_eq!(status["reason"], "StorageReadError", "{status}");
        assert_eq!(status["details"]["name"], "broken", "{status}");
    }
    api.post(all, &gadget("broken", json!({})))
        .await
        .expect(409);

    let anyway = json!({ "ignoreStoreReadErrorWithClusterBreakingPotential": true });
    let alice = Api::of(&server.alice).await;
    let forbidden = alice.delete(&broken, &anyway).await;
    assert!(
        forbidden.expect(403)["message"]
            .to_string()
            .contains("unsafe-delete-ignore-read-errors")
    );
    api.delete(&format!("{all}/a"), &anyway).await.expect(422);
    api.delete(all, &anyway).await.expect(422);
    api.delete(&format!("{all}/none"), &anyway)
        .await
        .expect(404);
    let done = api.delete(&broken, &anyway).await.expect(200);
    assert_eq!(done["status"], "Success", "{done}");
    api.get(&broken).await.expect(404);
    api.post(all, &gadget("broken", json!({})))
        .await
        .expect(201);
    assert_eq!(watch.summary().await, "ADDED broken");
    assert_eq!(names(&api.get(all).await.expect(200)).len(), 4);
}
