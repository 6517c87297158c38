//! One history from its plan to its verdict.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::bodies;
use crate::check::{Violation, check};
use crate::client::{Ask, Client, Target};
use crate::drive::Driver;
use crate::fault::inflict;
use crate::follow::Follower;
use crate::lab::Lab;
use crate::plan::{Plan, Shape};
use crate::record::{Call, History, Mode, Outcome, Record, Time, revision};
use crate::scene::Scene;
use crate::selector::Selector;
use crate::truth::{Truth, statement};

/// How long a replica may need to learn of a compaction.
const EXPIRY_LIMIT: Duration = Duration::from_secs(5);
/// How long a replica may need by itself to show what was written: it looks once a second.
const FRESH_LIMIT: Duration = Duration::from_secs(10);
/// Writes of one replica before a history without faults: more than it has connections.
const WARM_WRITES: usize = 16;

/// A history that happened, and what is wrong with it.
pub struct Judged {
    /// What clients saw.
    pub history: History,
    /// What the log says.
    pub truth: Truth,
    /// What must not have happened.
    pub violations: Vec<Violation>,
}

/// Has one history happen, in a namespace of its own, and judges it.
pub async fn run(lab: &Arc<Lab>, plan: Plan, number: u64) -> Result<Judged> {
    let namespace = format!("h{number}-{:x}", plan.seed);
    lab.slow_disk(plan.disk).await?;
    if plan.is_calm() {
        warm_up(lab, number).await;
    }
    lab.age().await?;
    let beginning = beginning(lab, &namespace).await?;
    let targets = lab.targets().to_vec();
    // None begins behind what may be let go from now on.
    let mut violations = freshness(&targets, &namespace, beginning).await;
    let scene = Arc::new(Scene::new(plan, namespace, beginning, targets));
    let watchers = scene.plan.watchers.clone().into_iter();
    let watchers: Vec<JoinHandle<_>> = watchers
        .map(|watching| tokio::spawn(Follower::new(Arc::clone(&scene), watching).run()))
        .collect();
    let faults = tokio::spawn(faults(Arc::clone(lab), Arc::clone(&scene)));
    let clients = (0..scene.plan.clients.len())
        .map(|client| tokio::spawn(Driver::new(Arc::clone(&scene), client).run()));
    for client in join_all(clients).await {
        client.context("a client broke off")?;
    }
    // Troubles that were to come later never come.
    scene.steps.send_replace(u64::MAX);
    let log = faults.await.context("the faults broke off")??;
    if let Err(error) = lab.heal().await {
        violations.push(Violation::new("server: comes back", format!("{error:#}")));
    }
    finals(&scene).await;
    let text = lab.psql(&statement(&scene.namespace, beginning)).await?;
    let truth: Truth = serde_json::from_str(&text).context("the history table")?;
    scene.goal.send_replace(Some(Arc::new(truth.clone())));
    let newest = truth
        .events
        .last()
        .map_or(beginning, |event| event.revision);
    violations.extend(freshness(lab.targets(), &scene.namespace, newest).await);
    if truth.compacted > beginning {
        violations.extend(expiry(&scene).await);
    }
    let mut watches = Vec::new();
    for watcher in watchers {
        watches.push(watcher.await.context("a watcher broke off")?);
    }
    let history = History {
        plan: scene.plan.clone(),
        namespace: scene.namespace.clone(),
        beginning,
        records: scene.take_records(),
        watches,
        log,
    };
    violations.extend(check(&history, &truth));
    Ok(Judged {
        history,
        truth,
        violations,
    })
}

/// A consistent list's revision before anything happens, from the first replica that gives it: where
/// a bug is planted, some may be unable to.
async fn beginning(lab: &Lab, namespace: &str) -> Result<i64> {
    let mut refusal = None;
    for target in lab.targets() {
        match first_list(&Client::new(target.clone()), namespace).await {
            Ok(at) => return Ok(at),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.context("no replica")?)
}

async fn first_list(client: &Client, namespace: &str) -> Result<i64> {
    loop {
        let path = bodies::collection(namespace, false);
        let at = match client.call(Ask::get(path, "begin")).await {
            Outcome::Answered { code: 200, body } => revision(&body),
            other => bail!("the first list fails: {other:?}"),
        };
        match at.context("a list without revision")? {
            // To a watch, 0 means something else: a first write moves the store on.
            0 => first_write(client).await?,
            at => return Ok(at),
        }
    }
}

async fn first_write(client: &Client) -> Result<()> {
    match client.call(creation("first")).await {
        Outcome::Answered { code: 201, .. } => Ok(()),
        other => bail!("the first write fails: {other:?}"),
    }
}

/// Writes through all connections of all replicas, so that those that an earlier
/// history broke are found out before one that has no faults begins.
async fn warm_up(lab: &Lab, number: u64) {
    for target in lab.targets() {
        let client = Client::new(target.clone());
        let writes =
            (0..WARM_WRITES).map(|write| client.call(creation(&format!("w{number}-{write}"))));
        // Whatever comes of them.
        drop(join_all(writes).await);
    }
}

fn creation(name: &str) -> Ask {
    let shape = Shape {
        tier: None,
        color: "blue".to_owned(),
        replicas: 1,
    };
    Ask {
        method: Method::POST,
        body: bodies::create(name, &shape, false, "before"),
        ..Ask::get(bodies::collection("before", false), "before")
    }
}

/// Each fault when enough steps have begun, one after the other.
async fn faults(lab: Arc<Lab>, scene: Arc<Scene>) -> Result<Vec<(Time, String)>> {
    let mut log = Vec::new();
    for trouble in scene.plan.faults.clone() {
        let mut steps = scene.steps.subscribe();
        let count = steps.wait_for(|count| *count >= trouble.after).await;
        if *count.context("the steps are over")? == u64::MAX {
            break;
        }
        log.push((scene.now(), format!("{:?}", trouble.fault)));
        let fault = inflict(Arc::clone(&lab), trouble.fault).await;
        let ended = fault.map_or_else(|error| format!("failed: {error:#}"), |()| "over".to_owned());
        log.push((scene.now(), ended));
    }
    Ok(log)
}

/// A last consistent list from every replica: all must have come to the same end.
async fn finals(scene: &Scene) {
    for (replica, client) in scene.clients().into_iter().enumerate() {
        let audit = scene.audit();
        let invoked = scene.now();
        let path = bodies::collection(&scene.namespace, false);
        let outcome = client.call(Ask::get(path, &audit)).await;
        scene.note(Record {
            audit,
            client: usize::MAX,
            replica,
            call: Call::List {
                mode: Mode::Consistent,
                selector: Selector::All,
                limit: None,
            },
            invoked,
            returned: scene.now(),
            outcome,
        });
    }
}

/// Every replica comes by itself to what was written: a read at resourceVersion 0 asks for nothing,
/// and shows how far it is. Of one that does not answer this says nothing.
async fn freshness(targets: &[Target], namespace: &str, newest: i64) -> Vec<Violation> {
    let path = format!("{}?resourceVersion=0", bodies::collection(namespace, false));
    let mut violations = Vec::new();
    let deadline = tokio::time::Instant::now() + FRESH_LIMIT;
    for (replica, target) in targets.iter().enumerate() {
        let client = Client::new(target.clone());
        loop {
            let outcome = client.call(Ask::get(path.clone(), "fresh")).await;
            let shown = outcome.success().and_then(revision);
            if shown.is_some_and(|shown| shown >= newest) {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                violations.extend(shown.map(|shown| {
                    let detail = format!("replica {replica} stays at {shown}, below {newest}");
                    Violation::new("read: fresh", detail)
                }));
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    violations
}

/// What is compacted is refused, by lists and watches of every replica, as soon as it knows.
async fn expiry(scene: &Scene) -> Vec<Violation> {
    let at = scene.beginning;
    let collection = bodies::collection(&scene.namespace, false);
    let list = format!("{collection}?resourceVersion={at}&resourceVersionMatch=Exact");
    let watch = format!("{collection}?resourceVersion={at}&watch=true&timeoutSeconds=1");
    let mut violations = Vec::new();
    for (replica, client) in scene.clients().into_iter().enumerate() {
        for path in [&list, &watch] {
            let deadline = tokio::time::Instant::now() + EXPIRY_LIMIT;
            while !is_expired(&client, path.clone()).await {
                if tokio::time::Instant::now() > deadline {
                    let detail = format!("replica {replica} goes on to serve {path}");
                    violations.push(Violation::new("compacted: refused", detail));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    violations
}

/// Whether the answer, or the first event of a watch, is 410.
async fn is_expired(client: &Client, path: String) -> bool {
    let asking = async {
        let response = client.send(Ask::get(path, "expiry")).await.ok()?;
        if response.status().as_u16() == 410 {
            return Some(true);
        }
        let body = response.into_body().collect().await.ok()?.to_bytes();
        let first = body.split(|byte| *byte == b'\n').next()?;
        let event: Value = serde_json::from_slice(first).ok()?;
        Some(event.pointer("/object/code")? == 410)
    };
    asking.await.unwrap_or(false)
}

/// How many requests of a history had which outcome.
#[must_use]
pub fn tally(history: &History) -> Value {
    let mut tally = serde_json::Map::new();
    for record in &history.records {
        let word = match &record.outcome {
            Outcome::Answered { code, .. } => code.to_string(),
            Outcome::NotSent(_) => "not sent".to_owned(),
            Outcome::Lost(_) => "lost".to_owned(),
        };
        let count = tally.get(&word).and_then(Value::as_u64).unwrap_or(0);
        tally.insert(word, Value::from(count + 1));
    }
    Value::Object(tally)
}
