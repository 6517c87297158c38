//! Stores on a database of their own, and short ways to say what a test does with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::testing::{TestDatabase, database};
use store::{
    Collection, Event, EventKind, Key, Operation, Project, Provenance, Revision, Snapshot, Store,
    StoreConfig, StoreError, WatchError, Watcher, Write, WriteError,
};
use uuid::Uuid;

/// Waiting longer than this for anything is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What is shown of an object whose body cannot be read.
pub(crate) const UNREADABLE: &str = "(unreadable)";

/// Views are the bodies themselves.
pub(crate) struct Text;

impl Project for Text {
    type View = String;

    fn project(&self, _key: &Key, _revision: Revision, body: Bytes) -> String {
        String::from_utf8_lossy(&body).into_owned()
    }

    fn unreadable(&self, _key: &Key, _revision: Revision) -> String {
        UNREADABLE.to_owned()
    }
}

/// One process' store with two collections.
pub(crate) struct Replica {
    pub(crate) store: Arc<Store>,
    pub(crate) things: Arc<Collection<Text>>,
    pub(crate) others: Arc<Collection<Text>>,
}

impl Replica {
    pub(crate) async fn on(database: &TestDatabase) -> Self {
        Self::with(StoreConfig::new(&database.url)).await
    }

    /// A start gives up on a database that is slow to answer; this tries again.
    pub(crate) async fn with(config: StoreConfig) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::start(config.clone()).await {
                Err(StoreError::Database { .. }) if Instant::now() < deadline => {}
                started => return started.unwrap(),
            }
        }
    }

    async fn start(config: StoreConfig) -> Result<Self, StoreError> {
        let store = Store::connect(config).await?;
        let things = store.register("test.example.com", "things", Text).await?;
        let others = store.register("test.example.com", "others", Text).await?;
        store.start().await?;
        Ok(Self {
            store,
            things,
            others,
        })
    }

    pub(crate) async fn alone() -> Self {
        Self::on(&database()).await
    }

    pub(crate) async fn create(&self, key: &Key, body: &str) -> (Uuid, Revision) {
        let uid = Uuid::new_v4();
        (
            uid,
            self.things.write(create(key, uid, body)).await.unwrap(),
        )
    }
}

pub(crate) fn key(text: &str) -> Key {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    Key::new(namespace, name)
}

fn write(key: &Key, operation: Operation) -> Write {
    let provenance = Provenance {
        user: "tester".into(),
        ..Provenance::default()
    };
    Write {
        key: key.clone(),
        operation,
        provenance,
    }
}

pub(crate) fn create(key: &Key, uid: Uuid, body: &str) -> Write {
    write(
        key,
        Operation::Create {
            uid,
            body: Bytes::copy_from_slice(body.as_bytes()),
        },
    )
}

pub(crate) fn update(key: &Key, uid: Uuid, expected: Revision, body: &str) -> Write {
    let body = Bytes::copy_from_slice(body.as_bytes());
    write(
        key,
        Operation::Update {
            uid,
            expected,
            body,
        },
    )
}

pub(crate) fn delete(key: &Key, uid: Uuid, expected: Revision, body: &str) -> Write {
    let body = Bytes::copy_from_slice(body.as_bytes());
    write(
        key,
        Operation::Delete {
            uid,
            expected,
            body,
        },
    )
}

/// Writes as a careful client does: what was certainly not written is tried again.
pub(crate) async fn write_patiently(
    things: &Collection<Text>,
    write: Write,
) -> Result<Revision, WriteError> {
    loop {
        match things.write(write.clone()).await {
            Err(WriteError::Unavailable { .. } | WriteError::Overloaded { .. }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// An event in a form that compares.
pub(crate) type Seen = (EventKind, i64, String, String, Option<(i64, String)>);

pub(crate) fn seen(event: &Event<String>) -> Seen {
    let current = &event.current;
    assert_eq!(current.revision, event.revision);
    let previous = event
        .previous
        .as_ref()
        .map(|p| (p.revision.get(), p.view.clone()));
    (
        event.kind,
        event.revision.get(),
        current.key.to_string(),
        current.view.clone(),
        previous,
    )
}

/// A snapshot in a form that compares.
pub(crate) fn contents(snapshot: &Snapshot<String>) -> Vec<(String, i64, String)> {
    let all = snapshot.range(None, None);
    all.map(|o| (o.key.to_string(), o.revision.get(), o.view.clone()))
        .collect()
}

/// The next `count` events of a watcher.
pub(crate) async fn next_events(watcher: &mut Watcher<Text>, count: usize) -> Vec<Seen> {
    try_next_events(watcher, count)
        .await
        .expect("the watch goes on")
}

/// The next `count` events of a watcher that may be too late.
pub(crate) async fn try_next_events(
    watcher: &mut Watcher<Text>,
    count: usize,
) -> Result<Vec<Seen>, WatchError> {
    let mut all = Vec::new();
    while all.len() < count {
        let batch = tokio::time::timeout(PATIENCE, watcher.next_batch(count - all.len()));
        let batch = batch.await.expect("events arrive")?;
        all.extend(batch.iter().map(|event| seen(event)));
    }
    Ok(all)
}

/// What anybody was told: key and body by revision.
#[derive(Clone, Default)]
pub(crate) struct Told(pub(crate) Arc<Mutex<BTreeMap<i64, (String, String)>>>);

impl Told {
    pub(crate) fn note(&self, revision: i64, key: &str, body: &str) {
        let told = (key.to_owned(), body.to_owned());
        let mut all = self.0.lock().unwrap();
        let before = all.entry(revision).or_insert_with(|| told.clone());
        assert_eq!(*before, told, "revision {revision} has two contents");
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFnMut() -> bool) -> Duration {
    within(PATIENCE, what, holds).await
}

/// Waits until something holds, at most `limit`; returns how long that took.
pub(crate) async fn within(
    limit: Duration,
    what: &str,
    holds: impl AsyncFnMut() -> bool,
) -> Duration {
    let began = Instant::now();
    assert!(soon(limit, holds).await, "not within {limit:?}: {what}");
    began.elapsed()
}

/// Whether something holds before `limit` is over.
pub(crate) async fn soon(limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds().await {
        if began.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}
