//! Random operations on several processes against a model: the log is the truth, and everything
//! that any process shows is a fold of it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sqlx::{Connection, Executor};
use store::testing::database;
use store::{EventKind, Key, ReadError, Revision, StoreConfig, WatchError, Watcher, WriteError};
use uuid::Uuid;

use crate::support::{
    Replica, Seen, Text, contents, create, delete, key, next_events, try_next_events, update,
};

/// One step of one client. Keys and revisions are picked from what exists when it runs.
#[derive(Clone, Debug)]
enum Step {
    Write {
        replica: usize,
        key: usize,
        kind: u8,
        stale: bool,
    },
    Read {
        replica: usize,
    },
    Watch {
        replica: usize,
        back: usize,
    },
    Exact {
        replica: usize,
        back: usize,
    },
    Restart {
        replica: usize,
    },
    /// Ten minutes pass, everything restarts, and one replica compacts.
    Age {
        replica: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let replica = 0..3usize;
    prop_oneof![
        12 => (replica.clone(), 0..6usize, 0..3u8, prop::bool::weighted(0.1))
            .prop_map(|(replica, key, kind, stale)| Step::Write { replica, key, kind, stale }),
        2 => replica.clone().prop_map(|replica| Step::Read { replica }),
        3 => (replica.clone(), 0..40usize).prop_map(|(replica, back)| Step::Watch { replica, back }),
        2 => (replica.clone(), 0..40usize).prop_map(|(replica, back)| Step::Exact { replica, back }),
        1 => replica.clone().prop_map(|replica| Step::Restart { replica }),
        1 => replica.prop_map(|replica| Step::Age { replica }),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    uid: Uuid,
    revision: Revision,
    body: String,
}

/// The state after each write, and the writes.
struct Model {
    current: BTreeMap<String, Entry>,
    log: Vec<Seen>,
    states: Vec<(Revision, BTreeMap<String, Entry>)>,
}

impl Model {
    fn record(&mut self, kind: EventKind, name: &str, entry: Entry) {
        let (revision, body) = (entry.revision, entry.body.clone());
        let previous = match kind {
            EventKind::Deleted => self.current.remove(name),
            _ => self.current.insert(name.to_owned(), entry),
        };
        let previous = previous.map(|entry| (entry.revision.get(), entry.body));
        self.log
            .push((kind, revision.get(), name.to_owned(), body, previous));
        self.states.push((revision, self.current.clone()));
    }

    fn state_back(&self, back: usize) -> (Revision, Vec<(String, i64, String)>) {
        let (revision, state) =
            &self.states[self.states.len() - 1 - back.min(self.states.len() - 1)];
        let all = state
            .iter()
            .map(|(name, e)| (name.clone(), e.revision.get(), e.body.clone()));
        (*revision, all.collect())
    }
}

/// The processes, the model, and one watch of each process that lasts.
struct World {
    config: StoreConfig,
    admin: sqlx::PgConnection,
    replicas: Vec<Replica>,
    live: Vec<Watcher<Text>>,
    /// How many events each lasting watch has returned.
    returned: Vec<usize>,
    model: Model,
    compacted: Revision,
}

impl World {
    async fn new(ring_bytes: usize) -> Self {
        let database = database();
        let mut admin = sqlx::PgConnection::connect(&database.admin_url)
            .await
            .unwrap();
        admin
            .execute("SELECT store.extend_events(15, 12)")
            .await
            .unwrap();
        let mut config = StoreConfig::new(&database.url);
        config.ring_bytes = ring_bytes;
        let mut replicas = Vec::new();
        for _ in 0..3 {
            replicas.push(Replica::with(config.clone()).await);
        }
        let start = replicas[0].store.applied();
        let states = vec![(start, BTreeMap::new())];
        let model = Model {
            current: BTreeMap::new(),
            log: Vec::new(),
            states,
        };
        let live = replicas
            .iter()
            .map(|r| r.things.watch(start).unwrap())
            .collect();
        let compacted = Revision::ZERO;
        Self {
            config,
            admin,
            replicas,
            live,
            returned: vec![0; 3],
            model,
            compacted,
        }
    }

    async fn step(&mut self, step: Step, number: usize) {
        match step {
            Step::Write {
                replica,
                key: of,
                kind,
                stale,
            } => {
                let name = format!("ns{}/{}", of % 2, of);
                let body = number.to_string();
                write(
                    &self.replicas[replica],
                    &mut self.model,
                    &name,
                    (kind, stale),
                    body,
                )
                .await;
            }
            Step::Read { replica } => {
                let snapshot = self.replicas[replica].things.consistent().await.unwrap();
                assert_eq!(contents(&snapshot), self.model.state_back(0).1);
            }
            Step::Exact { replica, back } => {
                let (revision, state) = self.model.state_back(back);
                match self.replicas[replica].things.at(revision).await {
                    Ok(snapshot) => assert_eq!(contents(&snapshot), state),
                    Err(ReadError::Compacted { .. }) => assert!(revision < self.compacted),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Watch { replica, back } => {
                let (revision, _) = self.model.state_back(back);
                let later = self
                    .model
                    .log
                    .iter()
                    .filter(|event| event.1 > revision.get());
                let later: Vec<_> = later.cloned().collect();
                let events = match self.replicas[replica].things.watch(revision) {
                    Ok(mut watcher) => try_next_events(&mut watcher, later.len()).await,
                    Err(gone) => Err(gone),
                };
                match events {
                    Ok(events) => assert_eq!(events, later),
                    Err(WatchError::Gone { .. }) => assert!(revision < self.compacted),
                }
            }
            Step::Restart { replica } => self.restart(replica).await,
            Step::Age { replica } => self.age(replica).await,
        }
    }

    async fn restart(&mut self, replica: usize) {
        self.return_events(replica, usize::MAX).await;
        let resume = self.live[replica].position();
        self.replicas[replica].store.shutdown().await;
        self.replicas[replica] = Replica::with(self.config.clone()).await;
        self.live[replica] = self.replicas[replica].things.watch(resume).unwrap();
    }

    async fn age(&mut self, compactor: usize) {
        let pass = "UPDATE store.events SET recorded_at = recorded_at - interval '10 minutes'";
        self.admin.execute(pass).await.unwrap();
        for replica in 0..3 {
            self.restart(replica).await;
        }
        let store = &self.replicas[compactor].store;
        // The pass of its start may still be under way, here or on another replica.
        let compacted = loop {
            if let Some(compacted) = store.compact().await.unwrap() {
                break compacted;
            }
            tokio::task::yield_now().await;
        };
        self.compacted = compacted.revision;
    }

    /// Has a lasting watch return some of what is there, so that cursors are everywhere.
    async fn return_events(&mut self, replica: usize, most: usize) {
        let from = self.returned[replica];
        let to = self.model.log.len().min(from.saturating_add(most));
        assert_eq!(
            next_events(&mut self.live[replica], to - from).await,
            self.model.log[from..to]
        );
        self.returned[replica] = to;
    }
}

async fn run(steps: Vec<Step>, ring_bytes: usize) {
    let mut world = World::new(ring_bytes).await;
    for (number, step) in steps.into_iter().enumerate() {
        world.step(step, number).await;
        world.return_events(number % 3, 2).await;
    }
    for replica in 0..3 {
        world.return_events(replica, usize::MAX).await;
    }
    check_tables(&mut world.admin, &world.model).await;
}

async fn write(
    replica: &Replica,
    model: &mut Model,
    name: &str,
    (kind, stale): (u8, bool),
    body: String,
) {
    let at: Key = key(name);
    let known = model.current.get(name).cloned();
    let uid = known.as_ref().map_or_else(Uuid::new_v4, |entry| entry.uid);
    let expected = known
        .as_ref()
        .map_or(Revision::new(1), |entry| entry.revision);
    let expected = if stale {
        Revision::new(expected.get() - 1)
    } else {
        expected
    };
    let (kind, write) = match kind {
        0 => (EventKind::Added, create(&at, Uuid::new_v4(), &body)),
        1 => (EventKind::Modified, update(&at, uid, expected, &body)),
        _ => (EventKind::Deleted, delete(&at, uid, expected, &body)),
    };
    let uid = match &write.operation {
        store::Operation::Create { uid, .. } => *uid,
        _ => uid,
    };
    let outcome = replica.things.write(write).await;
    match (kind, known) {
        (EventKind::Added, Some(there)) => {
            assert_eq!(
                outcome,
                Err(WriteError::AlreadyExists {
                    current: there.revision
                })
            );
        }
        (EventKind::Modified | EventKind::Deleted, None) => {
            assert_eq!(outcome, Err(WriteError::NotFound));
        }
        (EventKind::Modified | EventKind::Deleted, Some(there)) if stale => {
            assert_eq!(
                outcome,
                Err(WriteError::Conflict {
                    current: there.revision
                })
            );
        }
        _ => model.record(
            kind,
            name,
            Entry {
                uid,
                revision: outcome.unwrap(),
                body,
            },
        ),
    }
}

/// The log is what was acknowledged, and folding it gives the current table.
async fn check_tables(connection: &mut sqlx::PgConnection, model: &Model) {
    let log: Vec<(i64, i16, String, Option<i64>, String)> = sqlx::query_as(
        "SELECT revision, kind, namespace || '/' || name, previous_revision, convert_from(body, 'UTF8')
         FROM store.events ORDER BY revision",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let expected: Vec<_> = model
        .log
        .iter()
        .map(|(kind, revision, name, body, previous)| {
            (
                *revision,
                *kind as i16,
                name.clone(),
                previous.as_ref().map(|p| p.0),
                body.clone(),
            )
        })
        .collect();
    // What compaction dropped is the beginning of it.
    assert!(
        expected.ends_with(&log),
        "{log:?} is not the end of {expected:?}"
    );
    let heads: Vec<(String, i64, String)> = sqlx::query_as(
        "SELECT o.namespace || '/' || o.name, o.revision, convert_from(coalesce(o.body, e.body), 'UTF8')
         FROM store.objects o LEFT JOIN store.events e USING (revision)
         ORDER BY o.namespace, o.name",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    assert_eq!(heads, model.state_back(0).1);
}

fn check(cases: u32, ring_bytes: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 20..80), |steps| {
            runtime.block_on(run(steps, ring_bytes));
            Ok(())
        })
        .unwrap();
}

#[test]
fn everything_shown_is_a_fold_of_the_log() {
    check(6, 1 << 20);
}

#[test]
fn everything_shown_is_a_fold_of_the_log_with_a_tiny_ring() {
    check(6, 1500);
}
