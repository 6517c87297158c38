//! The little of kube-apiserver that authentication, authorization and
//! namespace lookups ask for, with faults at will. What the real one answers
//! is the e2e suite's business.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use serving::wire::{Server, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How questions are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Helpful,
    /// 503 to every question.
    Down,
    /// No answer at all.
    Silent,
    /// To somewhere that would allow everything.
    Redirecting,
}

type Judge = Box<dyn Fn(&Value) -> Value + Send>;

#[derive(Default)]
struct State {
    mood: Mood,
    /// Objects by collection and name.
    objects: HashMap<(String, String), Value>,
    /// Watch events with their revisions, by collection.
    events: Vec<(u64, String, Value)>,
    tokens: HashMap<String, Value>,
    judge: Option<Judge>,
    token_reviews: usize,
    access_reviews: Vec<Value>,
    object_reads: usize,
}

/// A fake kube-apiserver.
#[derive(Clone)]
pub struct FakeKube {
    state: Arc<Mutex<State>>,
    revision: Arc<watch::Sender<u64>>,
    stop: CancellationToken,
    uri: String,
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
pub const NAMESPACES: &str = "/api/v1/namespaces";

impl FakeKube {
    pub async fn start() -> Self {
        let server = Server::bind(ServerConfig::new("127.0.0.1:0".parse().unwrap()))
            .await
            .unwrap();
        let fake = Self {
            state: Arc::default(),
            revision: Arc::new(watch::Sender::new(1)),
            stop: CancellationToken::new(),
            uri: format!("http://{}", server.local_addr()),
        };
        let data = fake.clone();
        let app = move |config: &mut ServiceConfig| {
            config
                .app_data(web::Data::new(data.clone()))
                .default_service(web::to(answer));
        };
        let stop = fake.stop.clone();
        crate::thread::spawn(|| server.run(app, stop));
        fake
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::try_from(kube::Config::new(self.uri.parse().unwrap())).unwrap()
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn set_mood(&self, mood: Mood) {
        self.with(|state| state.mood = mood);
    }

    pub fn add_token(&self, token: &str, user: Value) {
        self.with(|state| state.tokens.insert(token.to_owned(), user));
    }

    /// Answers access reviews: the spec in, the status out.
    pub fn judge(&self, judge: impl Fn(&Value) -> Value + Send + 'static) {
        self.with(|state| state.judge = Some(Box::new(judge)));
    }

    pub fn token_reviews(&self) -> usize {
        self.with(|state| state.token_reviews)
    }

    pub fn access_reviews(&self) -> Vec<Value> {
        self.with(|state| state.access_reviews.clone())
    }

    pub fn object_reads(&self) -> usize {
        self.with(|state| state.object_reads)
    }

    fn change(&self, collection: &str, name: &str, kind: &str, object: Option<Value>) {
        self.revision.send_modify(|revision| {
            *revision += 1;
            let key = (collection.to_owned(), name.to_owned());
            self.with(|state| {
                let mut object = match object {
                    Some(object) => {
                        state.objects.insert(key.clone(), object.clone());
                        object
                    }
                    None => state.objects.remove(&key).unwrap(),
                };
                object["metadata"]["resourceVersion"] = json!(revision.to_string());
                let event = json!({ "type": kind, "object": object });
                state.events.push((*revision, collection.to_owned(), event));
            });
        });
    }

    pub fn put_authentication(&self, data: &[(&str, &str)]) {
        let name = "extension-apiserver-authentication";
        let data: HashMap<_, _> = data.iter().copied().collect();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "kube-system" }, "data": data,
        });
        self.change(CONFIG_MAPS, name, "MODIFIED", Some(object));
    }

    pub fn delete_authentication(&self) {
        self.change(
            CONFIG_MAPS,
            "extension-apiserver-authentication",
            "DELETED",
            None,
        );
    }

    pub fn put_namespace(&self, name: &str, phase: &str) {
        self.change(NAMESPACES, name, "MODIFIED", Some(namespace(name, phase)));
    }

    /// A namespace that no watch has shown yet.
    pub fn put_namespace_silently(&self, name: &str, phase: &str) {
        let key = (NAMESPACES.to_owned(), name.to_owned());
        self.with(|state| state.objects.insert(key, namespace(name, phase)));
    }

    pub fn delete_namespace(&self, name: &str) {
        self.change(NAMESPACES, name, "DELETED", None);
    }
}

fn namespace(name: &str, phase: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name }, "status": { "phase": phase },
    })
}

async fn answer(fake: web::Data<FakeKube>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let path = request.path().to_owned();
    let mood = fake.with(|state| state.mood);
    match mood {
        Mood::Helpful => {}
        _ if path.starts_with(CONFIG_MAPS) => {}
        Mood::Down => return HttpResponse::ServiceUnavailable().finish(),
        Mood::Silent => return std::future::pending().await,
        Mood::Redirecting => {
            let target = format!("{}/yes", fake.uri);
            return HttpResponse::TemporaryRedirect()
                .insert_header(("location", target))
                .finish();
        }
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match path.as_str() {
        "/yes" => {
            HttpResponse::Created().json(json!({ "spec": {}, "status": { "allowed": true } }))
        }
        "/apis/authentication.k8s.io/v1/tokenreviews" => review_token(&fake, &body),
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" => review_access(&fake, &body),
        CONFIG_MAPS | NAMESPACES if request.query_string().contains("watch=true") => {
            watch_collection(&fake, &path, request.query_string())
        }
        CONFIG_MAPS | NAMESPACES => list(&fake, &path),
        _ => get(&fake, &path),
    }
}

fn review_token(fake: &FakeKube, body: &Value) -> HttpResponse {
    let token = body["spec"]["token"].as_str().unwrap();
    let user = fake.with(|state| {
        state.token_reviews += 1;
        state.tokens.get(token).cloned()
    });
    let status = json!({ "authenticated": user.is_some(), "user": user });
    let spec = &body["spec"];
    HttpResponse::Created().json(json!({ "metadata": {}, "spec": spec, "status": status }))
}

fn review_access(fake: &FakeKube, body: &Value) -> HttpResponse {
    let spec = &body["spec"];
    let status = fake.with(|state| {
        state.access_reviews.push(spec.clone());
        state
            .judge
            .as_ref()
            .map_or_else(|| json!({ "allowed": false }), |judge| judge(spec))
    });
    HttpResponse::Created().json(json!({ "metadata": {}, "spec": spec, "status": status }))
}

fn list(fake: &FakeKube, collection: &str) -> HttpResponse {
    let items: Vec<Value> = fake.with(|state| {
        let objects = state
            .objects
            .iter()
            .filter(|((one, _), _)| one == collection);
        objects.map(|(_, object)| object.clone()).collect()
    });
    let revision = fake.revision.borrow().to_string();
    HttpResponse::Ok().json(json!({
        "apiVersion": "v1", "kind": "List",
        "metadata": { "resourceVersion": revision }, "items": items,
    }))
}

fn get(fake: &FakeKube, path: &str) -> HttpResponse {
    let (collection, name) = path.rsplit_once('/').unwrap();
    let object = fake.with(|state| {
        state.object_reads += 1;
        state
            .objects
            .get(&(collection.to_owned(), name.to_owned()))
            .cloned()
    });
    match object {
        Some(object) => HttpResponse::Ok().json(object),
        None => HttpResponse::NotFound().json(json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound",
            "message": "not found", "code": 404,
        })),
    }
}

fn watch_collection(fake: &FakeKube, collection: &str, query: &str) -> HttpResponse {
    let from = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("resourceVersion="));
    let from: u64 = from.unwrap().parse().unwrap();
    let state = (
        fake.clone(),
        fake.revision.subscribe(),
        collection.to_owned(),
        from,
    );
    HttpResponse::Ok().streaming(stream::unfold(state, next_events))
}

type Line = Result<Bytes, std::io::Error>;
type Watch = (FakeKube, watch::Receiver<u64>, String, u64);

async fn next_events((fake, mut revisions, collection, from): Watch) -> Option<(Line, Watch)> {
    let now = *revisions.wait_for(|revision| *revision > from).await.ok()?;
    let mut lines = String::new();
    fake.with(|state| {
        for (revision, one, event) in &state.events {
            if *revision > from && *revision <= now && *one == collection {
                lines.push_str(&format!("{event}\n"));
            }
        }
    });
    Some((Ok(Bytes::from(lines)), (fake, revisions, collection, now)))
}
