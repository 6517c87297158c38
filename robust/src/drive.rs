//! Clients: each does its steps one after the other and notes what came of them.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::bodies;
use crate::client::{Ask, Client};
use crate::old;
use crate::plan::{Action, Basis, Form, Freshness, Step};
use crate::record::{Call, Change, Mode, Outcome, Part, Record, revision};
use crate::rng::Rng;
use crate::scene::Scene;
use crate::selector::Selector;

/// A list is paged at most so far.
const PAGES: usize = 6;
/// After a request that nobody could serve: else an outage eats the steps.
const BACK_OFF: Duration = Duration::from_millis(40);

/// One client.
pub struct Driver {
    scene: Arc<Scene>,
    client: usize,
    replicas: Vec<Client>,
}

impl Driver {
    /// The client of that number.
    #[must_use]
    pub fn new(scene: Arc<Scene>, client: usize) -> Self {
        let replicas = scene.clients();
        Self {
            scene,
            client,
            replicas,
        }
    }

    /// Does all steps of its plan.
    pub async fn run(self) {
        let steps = self.scene.plan.clients.get(self.client);
        for step in steps.cloned().unwrap_or_default() {
            tokio::time::sleep(Duration::from_millis(step.pause)).await;
            self.scene.steps.send_modify(|count| *count += 1);
            let outcome = self.step(step).await;
            if matches!(outcome, Outcome::NotSent(_)) || outcome.code() == Some(503) {
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    async fn step(&self, step: Step) -> Outcome {
        let Step { name, replica, .. } = &step;
        let op = self.scene.audit();
        match step.action.clone() {
            Action::Create { shape, finalizer } => {
                let body = bodies::create(name, &shape, finalizer, &op);
                let call = Call::Create {
                    name: name.clone(),
                    body: body.clone(),
                };
                let path = bodies::collection(&self.scene.namespace, false);
                let ask = self.ask(Method::POST, path, body, op);
                self.perform(*replica, call, ask).await
            }
            Action::Put { basis, shape } => {
                let Some(known) = self.known(&step, must_rest(basis)).await else {
                    return self.get(&step, Mode::Consistent).await.0;
                };
                let body = bodies::put(&known, &shape, &op);
                self.write(&step, (Part::Main, Change::Replace), body, op)
                    .await
            }
            Action::Merge { basis, shape } => {
                let over = self.over(&step, basis).await;
                let body = bodies::merge(&shape, &op, over);
                self.write(&step, (Part::Main, Change::Merge), body, op)
                    .await
            }
            Action::Json { basis, test, shape } => {
                let known = self.known(&step, basis).await;
                let over = known.as_ref().and_then(revision).filter(|_| !test);
                let last = known
                    .as_ref()
                    .and_then(|known| known.pointer("/metadata/annotations/op")?.as_str());
                let body = bodies::json_patch(&shape, &op, over, last.filter(|_| test));
                self.write(&step, (Part::Main, Change::Json), body, op)
                    .await
            }
            Action::OldGet | Action::OldMerge { .. } => self.old(&step, op).await,
            Action::Release => {
                let body = bodies::release(&op);
                self.write(&step, (Part::Main, Change::Merge), body, op)
                    .await
            }
            Action::Status { .. } | Action::Scale { .. } => self.part(&step, op).await,
            Action::Delete { basis, by_uid } => self.delete(&step, basis, by_uid, op).await,
            Action::DeleteCollection { selector } => {
                let path = self.listing(&selector, false, String::new());
                let ask = self.ask(Method::DELETE, path, Value::Null, op);
                let call = Call::DeleteCollection { selector };
                self.perform(*replica, call, ask).await
            }
            Action::Get { fresh } => {
                let mode = if fresh { Mode::Consistent } else { Mode::Any };
                self.get(&step, mode).await.0
            }
            Action::List { .. } | Action::Pages { .. } => self.list(&step, op).await,
        }
    }

    /// A write of a subresource.
    async fn part(&self, step: &Step, op: String) -> Outcome {
        match step.action.clone() {
            Action::Status { form, basis, phase } => {
                let basis = if form == Form::Put {
                    must_rest(basis)
                } else {
                    basis
                };
                let known = self.known(step, basis).await;
                let Some(body) = bodies::status(form, known.as_ref(), &phase, &op) else {
                    return self.get(step, Mode::Consistent).await.0;
                };
                let what = (Part::Status, bodies::change(form));
                self.write(step, what, body, op).await
            }
            Action::Scale {
                form,
                basis,
                replicas,
            } => {
                let over = self.over(step, basis).await;
                let body = bodies::scale(form, &step.name, over, replicas);
                let what = (Part::Scale, bodies::change(form));
                self.write(step, what, body, op).await
            }
            _ => Outcome::NotSent("no subresource".to_owned()),
        }
    }

    /// A request of a client that knows only v1alpha1.
    async fn old(&self, step: &Step, op: String) -> Outcome {
        let name = step.name.clone();
        let path = old::object(&self.scene.namespace, &name);
        let Action::OldMerge { basis, shape } = step.action.clone() else {
            let mode = Mode::Consistent;
            let ask = Ask::get(path, &op);
            return self
                .perform(step.replica, Call::Get { name, mode }, ask)
                .await;
        };
        let over = self.over(step, basis).await;
        // Noted as v1 would say it, which is how the log has it.
        let call = Call::Write {
            name,
            part: Part::Main,
            change: Change::Merge,
            body: bodies::merge(&shape, &op, over),
            expected: over,
        };
        let body = old::merge(&shape, &op, over);
        let ask = Ask {
            media: bodies::media(Change::Merge),
            ..self.ask(Method::PATCH, path, body, op)
        };
        self.perform(step.replica, call, ask).await
    }

    async fn delete(&self, step: &Step, basis: Basis, by_uid: bool, op: String) -> Outcome {
        let known = self.known(step, basis).await;
        let uid = known.as_ref().filter(|_| by_uid).and_then(|known| {
            let uid = known.pointer("/metadata/uid")?.as_str()?;
            Some(uid.to_owned())
        });
        let expected = known.as_ref().and_then(revision).filter(|_| !by_uid);
        let body = match (&uid, expected) {
            (None, None) => Value::Null,
            _ => bodies::delete(uid.as_deref(), expected),
        };
        let path = bodies::object(&self.scene.namespace, &step.name, Part::Main);
        let ask = self.ask(Method::DELETE, path, body, op);
        let call = Call::Delete {
            name: step.name.clone(),
            uid,
            expected,
        };
        self.perform(step.replica, call, ask).await
    }

    async fn write(
        &self,
        step: &Step,
        (part, change): (Part, Change),
        body: Value,
        op: String,
    ) -> Outcome {
        let expected = match &body {
            Value::Array(operations) => operations.iter().find_map(|operation| {
                let is_demand = operation.get("path")? == "/metadata/resourceVersion";
                let value = operation.get("value")?.as_str()?;
                value.parse().ok().filter(|_| is_demand)
            }),
            body => revision(body),
        };
        let method = match change {
            Change::Replace => Method::PUT,
            Change::Merge | Change::Json => Method::PATCH,
        };
        let path = bodies::object(&self.scene.namespace, &step.name, part);
        let call = Call::Write {
            name: step.name.clone(),
            part,
            change,
            body: body.clone(),
            expected,
        };
        let ask = Ask {
            media: bodies::media(change),
            ..self.ask(method, path, body, op)
        };
        self.perform(step.replica, call, ask).await
    }

    async fn get(&self, step: &Step, mode: Mode) -> (Outcome, Option<Value>) {
        let mut path = bodies::object(&self.scene.namespace, &step.name, Part::Main);
        if mode == Mode::Any {
            path.push_str("?resourceVersion=0");
        }
        let ask = Ask::get(path, &self.scene.audit());
        let call = Call::Get {
            name: step.name.clone(),
            mode,
        };
        let outcome = self.perform(step.replica, call, ask).await;
        let body = outcome.success().cloned();
        (outcome, body)
    }

    /// The state that a write rests on.
    async fn known(&self, step: &Step, basis: Basis) -> Option<Value> {
        if basis == Basis::Fresh {
            return self.get(step, Mode::Consistent).await.1;
        }
        self.scene.known(&step.name, basis)
    }

    async fn over(&self, step: &Step, basis: Basis) -> Option<i64> {
        self.known(step, basis).await.as_ref().and_then(revision)
    }

    async fn list(&self, step: &Step, op: String) -> Outcome {
        let (freshness, selector, everywhere, limit) = match step.action.clone() {
            Action::List {
                freshness,
                selector,
                everywhere,
            } => (freshness, selector, everywhere, None),
            Action::Pages {
                freshness,
                selector,
                limit,
            } => (freshness, selector, false, Some(limit)),
            _ => return Outcome::NotSent("no list".to_owned()),
        };
        let mode = match freshness {
            Freshness::Consistent => Mode::Consistent,
            Freshness::Any => Mode::Any,
            Freshness::NotOlderThan => Mode::NotOlderThan(self.scene.newest()),
            Freshness::Exact => Mode::Exact(self.scene.some_revision(Rng::new(step.pause).next())),
        };
        let mut query = match mode {
            Mode::Consistent => String::new(),
            Mode::Any => "&resourceVersion=0".to_owned(),
            Mode::NotOlderThan(at) => {
                format!("&resourceVersion={at}&resourceVersionMatch=NotOlderThan")
            }
            Mode::Exact(at) => format!("&resourceVersion={at}&resourceVersionMatch=Exact"),
        };
        if let Some(limit) = limit {
            query.push_str(&format!("&limit={limit}"));
        }
        let call = Call::List {
            mode,
            selector: selector.clone(),
            limit,
        };
        let path = self.listing(&selector, everywhere, query);
        let ask = Ask::get(path, &op);
        if limit.is_none() {
            return self.perform(step.replica, call, ask).await;
        }
        let invoked = self.scene.now();
        let first = self.call(step.replica, ask).await;
        let outcome = match first {
            Outcome::Answered { code: 200, body } => Outcome::Answered {
                code: 200,
                body: self.pages(step, &selector, limit, body).await,
            },
            other => other,
        };
        self.note(step.replica, (op, call), invoked, outcome)
    }

    /// The pages after the first, each from the next replica.
    async fn pages(
        &self,
        step: &Step,
        selector: &Selector,
        limit: Option<u8>,
        first: Value,
    ) -> Value {
        let token = |page: &Value| {
            let token = page.pointer("/metadata/continue").and_then(Value::as_str);
            token.map(ToOwned::to_owned)
        };
        let mut next = token(&first);
        let mut pages = vec![first];
        let replicas = &self.scene.plan.replicas;
        while let Some(at) = next.take().filter(|_| pages.len() < PAGES) {
            let query = format!("&limit={}&continue={at}", limit.unwrap_or(1));
            let path = self.listing(selector, false, query);
            let place = (step.replica + pages.len()) % replicas.len().max(1);
            let replica = replicas.get(place).copied().unwrap_or(step.replica);
            let ask = Ask::get(path, &self.scene.audit());
            if let Outcome::Answered { code: 200, body } = self.call(replica, ask).await {
                next = token(&body);
                pages.push(body);
            }
        }
        Value::Array(pages)
    }

    fn listing(&self, selector: &Selector, everywhere: bool, query: String) -> String {
        let path = bodies::collection(&self.scene.namespace, everywhere);
        scoped(&path, &self.scene.namespace, selector, everywhere, &query)
    }

    fn ask(&self, method: Method, path: String, body: Value, audit: String) -> Ask {
        Ask {
            method,
            path,
            media: "application/json",
            body,
            audit,
        }
    }

    async fn call(&self, replica: usize, ask: Ask) -> Outcome {
        match self.replicas.get(replica) {
            Some(client) => client.call(ask).await,
            None => Outcome::NotSent("no such replica".to_owned()),
        }
    }

    async fn perform(&self, replica: usize, call: Call, ask: Ask) -> Outcome {
        let audit = ask.audit.clone();
        let invoked = self.scene.now();
        let outcome = self.call(replica, ask).await;
        self.note(replica, (audit, call), invoked, outcome)
    }

    fn note(
        &self,
        replica: usize,
        (audit, call): (String, Call),
        invoked: u64,
        outcome: Outcome,
    ) -> Outcome {
        self.scene.note(Record {
            audit,
            client: self.client,
            replica,
            call,
            invoked,
            returned: self.scene.now(),
            outcome: outcome.clone(),
        });
        outcome
    }
}

/// A PUT needs a state to rest on.
fn must_rest(basis: Basis) -> Basis {
    match basis {
        Basis::None => Basis::Fresh,
        basis => basis,
    }
}

/// Path and query of a list or watch; one of all namespaces selects this one by a field.
pub(crate) fn scoped(
    path: &str,
    namespace: &str,
    selector: &Selector,
    everywhere: bool,
    query: &str,
) -> String {
    let mut selection = selector.query();
    if everywhere {
        let own = format!("metadata.namespace%3D{namespace}");
        let field = "&fieldSelector=";
        if selection.contains(field) {
            selection = selection.replace(field, &format!("{field}{own},"));
        } else {
            selection.push_str(&format!("{field}{own}"));
        }
    }
    let all = format!("{selection}{query}");
    match all.strip_prefix('&') {
        Some(all) => format!("{path}?{all}"),
        None => path.to_owned(),
    }
}
