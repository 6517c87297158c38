//! One history from its plan to its verdict.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use hyper::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::bodies;
use crate::check::{Violation, check};
use crate::client::{Ask, Client};
use crate::drive::Driver;
use crate::fault::inflict;
use crate::follow::Follower;
use crate::lab::Lab;
use crate::plan::{Plan, Shape};
use crate::record::{Call, History, Mode, Outcome, Record, Time, revision};
use crate::scene::Scene;
use crate::selector::Selector;
use crate::truth::{Truth, statement};

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
    let beginning = beginning(lab, &namespace).await?;
    let targets = lab.targets().to_vec();
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
    let mut violations = Vec::new();
    if let Err(error) = lab.heal().await {
        violations.push(Violation::new("server: comes back", format!("{error:#}")));
    }
    finals(&scene).await;
    let text = lab.psql(&statement(&scene.namespace, beginning)).await?;
    let truth: Truth = serde_json::from_str(&text).context("the history table")?;
    scene.goal.send_replace(Some(Arc::new(truth.clone())));
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

/// A consistent list's revision before anything happens.
async fn beginning(lab: &Lab, namespace: &str) -> Result<i64> {
    let target = lab.targets().first().context("no replica")?;
    let client = Client::new(target.clone());
    loop {
        let path = bodies::collection(namespace, false);
        let at = match client.call(Ask::get(path, "begin")).await {
            Outcome::Answered { code: 200, body } => revision(&body),
            other => bail!("the first list fails: {other:?}"),
        };
        match at.context("a list without revision")? {
            // To a watch, 0 means something else: a first write moves the store on.
            0 => first_write(&client).await?,
            at => return Ok(at),
        }
    }
}

async fn first_write(client: &Client) -> Result<()> {
    let shape = Shape {
        tier: None,
        color: "blue".to_owned(),
        replicas: 1,
    };
    let ask = Ask {
        method: Method::POST,
        body: bodies::create("first", &shape, false, "first"),
        ..Ask::get(bodies::collection("first", false), "first")
    };
    match client.call(ask).await {
        Outcome::Answered { code: 201, .. } => Ok(()),
        other => bail!("the first write fails: {other:?}"),
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
