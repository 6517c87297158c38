//! The database stops, breaks connections, is restored, or fails over.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use store::private_postgres::{PrivatePostgres, Shutdown};
use store::testing::{
    OWNER, RUNTIME, TestDatabase, database, directory, options, prepare, shared_postgres,
};
use store::{Key, ReadError, Revision, Store, StoreConfig, StoreError, WatchError, WriteError};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::proxy::Proxy;
use crate::support::{
    PATIENCE, Replica, contents, create, key, next_events, seen, until, update, write_patiently,
};

/// A Postgres that a test may break.
struct Own {
    postgres: PrivatePostgres,
    database: TestDatabase,
    dir: std::path::PathBuf,
}

impl Own {
    fn new(name: &str) -> Self {
        let dir = directory(format!("{}-{name}", std::process::id()));
        let postgres = PrivatePostgres::start(&dir, &options(false)).unwrap();
        prepare(&postgres, "objects").unwrap();
        let database = TestDatabase {
            url: postgres.url("objects", RUNTIME),
            owner_url: postgres.url("objects", OWNER),
            admin_url: postgres.url("objects", postgres.superuser()),
            name: "objects".to_owned(),
        };
        Self {
            postgres,
            database,
            dir,
        }
    }

    fn stop(&mut self, shutdown: Shutdown) {
        self.postgres.stop_with(shutdown).unwrap();
    }

    fn start(&mut self) {
        self.postgres = PrivatePostgres::start(&self.dir, &options(false)).unwrap();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.postgres.stop_with(Shutdown::Immediate);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Updates one object for as long as it is told to; returns the last acknowledged state.
fn keep_writing(
    replica: &Replica,
    name: &str,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<(Revision, u32)> {
    let (things, name, stop) = (replica.things.clone(), key(name), Arc::clone(stop));
    tokio::spawn(async move {
        let uid = Uuid::new_v4();
        let mut revision = write_patiently(&things, create(&name, uid, "0"))
            .await
            .unwrap();
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            let body = (n + 1).to_string();
            match write_patiently(&things, update(&name, uid, revision, &body)).await {
                Ok(next) => (revision, n) = (next, n + 1),
                Err(WriteError::OutcomeUnknown) => {
                    // Read what happened, as a client would.
                    let there = loop {
                        if let Ok(snapshot) = things.consistent().await {
                            break Arc::clone(snapshot.get(&name).unwrap());
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    };
                    assert!(there.view == body || there.view == n.to_string());
                    (revision, n) = (there.revision, there.view.parse().unwrap());
                }
                Err(error) => panic!("{error}"),
            }
        }
        (revision, n)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_down_reads_go_on_and_writes_fail_fast() {
    let mut own = Own::new("down");
    let replica = Replica::on(&own.database).await;
    let name = key("ns/a");
    let (_, first) = replica.create(&name, "1").await;
    let mut watcher = replica.things.watch(first).unwrap();
    own.stop(Shutdown::Fast);
    let began = Instant::now();
    let failure = replica
        .things
        .write(create(&key("ns/b"), Uuid::new_v4(), "2"))
        .await;
    assert!(
        matches!(failure, Err(WriteError::Unavailable { .. })),
        "{failure:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    until("the store notices", async || !replica.store.is_reachable()).await;
    let failure = replica.things.consistent().await.unwrap_err();
    assert!(matches!(failure, ReadError::Unavailable { .. }));
    for _ in 0..10 {
        let began = Instant::now();
        let failure = replica
            .things
            .write(create(&key("ns/b"), Uuid::new_v4(), "2"))
            .await;
        assert!(
            matches!(failure, Err(WriteError::Unavailable { .. })),
            "{failure:?}"
        );
        assert!(replica.things.consistent().await.is_err());
        assert!(
            began.elapsed() < Duration::from_millis(50),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(replica.things.snapshot().get(&name).unwrap().view, "1");
        assert_eq!(replica.things.at(first).await.unwrap().len(), 1);
        assert_eq!(watcher.position(), replica.store.applied());
    }
    own.start();
    let back = Instant::now();
    let write = create(&key("ns/b"), Uuid::new_v4(), "2");
    write_patiently(&replica.things, write).await.unwrap();
    assert!(
        back.elapsed() < Duration::from_secs(1),
        "{:?}",
        back.elapsed()
    );
    until("consistent reads are back", async || {
        replica.things.consistent().await.is_ok()
    })
    .await;
    assert!(
        back.elapsed() < Duration::from_secs(1),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(next_events(&mut watcher, 1).await[0].2, "ns/b");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_without_a_gap_over_crashes_of_the_database() {
    let mut own = Own::new("crash");
    let replicas = [
        Replica::on(&own.database).await,
        Replica::on(&own.database).await,
    ];
    let start = replicas[0].store.applied();
    let mut watchers = replicas
        .each_ref()
        .map(|replica| replica.things.watch(start).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|n| keep_writing(&replicas[n % 2], &format!("ns/{n}"), &stop))
        .collect();
    for shutdown in [Shutdown::Immediate, Shutdown::Fast, Shutdown::Immediate] {
        let before = replicas[0].store.applied();
        until("writes go on", async || {
            replicas[0].store.applied().get() > before.get() + 50
        })
        .await;
        own.stop(shutdown);
        own.start();
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.unwrap());
    }
    check_log(&own.database, &replicas, &mut watchers, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_without_a_gap_when_server_processes_are_ended() {
    let database = database();
    let replicas = [Replica::on(&database).await, Replica::on(&database).await];
    let start = replicas[0].store.applied();
    let mut watchers = replicas
        .each_ref()
        .map(|replica| replica.things.watch(start).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|n| keep_writing(&replicas[n % 2], &format!("ns/{n}"), &stop))
        .collect();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    for _ in 0..10 {
        let before = replicas[0].store.applied();
        until("writes go on", async || {
            replicas[0].store.applied().get() > before.get() + 20
        })
        .await;
        admin
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.unwrap());
    }
    check_log(&database, &replicas, &mut watchers, &acknowledged).await;
}

/// Writes wait so long for new connections in the place of lost ones.
const RECONNECTED: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_refused_because_server_processes_were_ended() {
    let database = database();
    let replica = Replica::on(&database).await;
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    // Idle ones, whose end is found out by their use: each alone, then all.
    let held: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'store'",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert!(held >= 4, "{held}");
    let (mut total, mut late) = (0, 0);
    let each = (0..held).map(|n| (n, 1));
    for (round, (skipped, count)) in each.chain([(0, held)]).enumerate() {
        let ended: i64 = sqlx::query_scalar(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM
             (SELECT pid FROM pg_stat_activity
              WHERE datname = current_database() AND application_name = 'store'
              ORDER BY pid OFFSET $1 LIMIT $2) one",
        )
        .bind(skipped)
        .bind(count)
        .fetch_one(&mut admin)
        .await
        .unwrap();
        total += ended;
        let began = Instant::now();
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..8 {
            let things = replica.things.clone();
            let write = create(&key(&format!("ns/{round}-{n}")), Uuid::new_v4(), "x");
            writes.spawn(async move { (things.write(write).await, began.elapsed()) });
        }
        let outcomes = writes.join_all().await;
        for (outcome, after) in &outcomes {
            match outcome {
                // Only when the machine took so long for a new connection.
                Err(WriteError::Unavailable { .. }) => assert!(*after >= RECONNECTED, "{after:?}"),
                outcome => assert!(outcome.is_ok(), "{outcome:?}"),
            }
        }
        late += usize::from(outcomes.iter().any(|(outcome, _)| outcome.is_err()));
    }
    assert!(total >= held, "only {total} of {held} were ended");
    assert!(late <= 1, "writes were refused in {late} rounds");
}

/// Each object's log is exactly its acknowledged writes, and each watch returned all of the log.
async fn check_log(
    database: &TestDatabase,
    replicas: &[Replica; 2],
    watchers: &mut [store::Watcher<crate::support::Text>; 2],
    acknowledged: &[(Revision, u32)],
) {
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let log: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT revision, namespace || '/' || name, convert_from(body, 'UTF8')
         FROM store.events ORDER BY revision",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    for (n, (revision, last)) in acknowledged.iter().enumerate() {
        let mut of_it = log.iter().filter(|event| event.1 == format!("ns/{n}"));
        let bodies: Vec<_> = of_it.clone().map(|event| event.2.clone()).collect();
        assert_eq!(
            bodies,
            (0..=*last).map(|n| n.to_string()).collect::<Vec<_>>()
        );
        assert_eq!(of_it.next_back().unwrap().0, revision.get());
    }
    for (replica, watcher) in replicas.iter().zip(watchers) {
        let events = next_events(watcher, log.len()).await;
        let events: Vec<_> = events.into_iter().map(|e| (e.1, e.2, e.3)).collect();
        assert!(events == log);
        assert_eq!(
            replica.things.consistent().await.unwrap().len(),
            acknowledged.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_lost_with_the_connection_is_found_out() {
    let database = database();
    let dir = directory(format!("{}-proxy", std::process::id()));
    let proxy = Proxy::start(&dir, shared_postgres().socket_dir()).await;
    let socket = shared_postgres().socket_dir().display().to_string();
    let url = database.url.replace(&socket, &dir.display().to_string());
    let replica = Replica::with(StoreConfig::new(url)).await;
    let mut watcher = replica.things.watch(replica.store.applied()).unwrap();
    for n in 0..12 {
        let name = format!("ns/{n}");
        // One write, or several in one batch, of which one makes the proxy cut.
        let mut others = tokio::task::JoinSet::new();
        if n % 3 == 2 {
            for other in 0..5 {
                let things = replica.things.clone();
                let write = create(&key(&format!("{name}-{other}")), Uuid::new_v4(), "x");
                others.spawn(async move { write_patiently(&things, write).await });
            }
        }
        let cut = if n % 2 == 0 {
            "CUT-BEFORE"
        } else {
            "CUT-AFTER"
        };
        let body = format!("{cut}-{n};");
        let write = create(&key(&name), Uuid::new_v4(), &body);
        let revision = write_patiently(&replica.things, write).await.unwrap();
        assert_eq!(
            replica
                .things
                .consistent()
                .await
                .unwrap()
                .get(&key(&name))
                .unwrap()
                .revision,
            revision
        );
        assert!(others.join_all().await.iter().all(Result::is_ok));
    }
    assert_eq!(proxy.cuts(), 12);
    let events = next_events(&mut watcher, 12 + 4 * 5).await;
    let mut names: Vec<_> = events.into_iter().map(|event| event.2).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 12 + 4 * 5);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_always_ends_its_connection_is_refused_and_takes_no_other_with_it() {
    let database = database();
    let dir = directory(format!("{}-always-proxy", std::process::id()));
    let _proxy = Proxy::start(&dir, shared_postgres().socket_dir()).await;
    let socket = shared_postgres().socket_dir().display().to_string();
    let url = database.url.replace(&socket, &dir.display().to_string());
    let replica = Replica::with(StoreConfig::new(url)).await;
    let things = replica.things.clone();
    let write = create(&key("ns/ending"), Uuid::new_v4(), "CUT-BEFORE-ALWAYS;");
    let ending = tokio::spawn(async move { things.write(write).await });
    let mut others = tokio::task::JoinSet::new();
    for n in 0..9 {
        let things = replica.things.clone();
        let write = create(&key(&format!("ns/{n}")), Uuid::new_v4(), "x");
        others.spawn(async move { write_patiently(&things, write).await });
    }
    assert!(others.join_all().await.iter().all(Result::is_ok));
    let outcome = tokio::time::timeout(PATIENCE, ending).await;
    let outcome = outcome.expect("it is given up").unwrap();
    assert!(
        matches!(outcome, Err(WriteError::Unavailable { .. })),
        "{outcome:?}"
    );
    let there = replica.things.consistent().await.unwrap();
    assert_eq!(there.len(), 9);
    assert!(there.get(&key("ns/ending")).is_none());
    let stopped = tokio::time::timeout(PATIENCE, replica.store.shutdown()).await;
    stopped.expect("the store stops");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_found_out_is_said_to_be_unknown() {
    let database = database();
    let dir = directory(format!("{}-deaf-proxy", std::process::id()));
    let proxy = Proxy::start(&dir, shared_postgres().socket_dir()).await;
    let socket = shared_postgres().socket_dir().display().to_string();
    let url = database.url.replace(&socket, &dir.display().to_string());
    let replica = Replica::with(StoreConfig::new(url)).await;
    let name = key("ns/a");
    let body = "CUT-AFTER-AND-BE-DEAF;";
    let began = Instant::now();
    let outcome = replica
        .things
        .write(create(&name, Uuid::new_v4(), body))
        .await;
    assert_eq!(outcome, Err(WriteError::OutcomeUnknown));
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    proxy.listen_again();
    until("reads are back", async || {
        replica.things.consistent().await.is_ok()
    })
    .await;
    assert_eq!(
        replica
            .things
            .consistent()
            .await
            .unwrap()
            .get(&name)
            .unwrap()
            .view,
        body
    );
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_dump_begins_a_new_epoch() {
    let own = Own::new("restore");
    let replica = Replica::on(&own.database).await;
    let (_, kept) = replica.create(&key("ns/kept"), "1").await;
    let tool = |name: &str, args: &[&str]| {
        let output = Command::new(own.postgres.bin_dir().join(name))
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let dump = own.dir.join("dump.sql").display().to_string();
    tool("pg_dump", &["-f", &dump, &own.database.admin_url]);
    let (_, lost) = replica.create(&key("ns/lost"), "2").await;
    let mut watcher = replica.things.watch(lost).unwrap();
    let admin = |statements: &str| own.postgres.psql("postgres", statements).unwrap();
    admin("DROP DATABASE objects WITH (FORCE)");
    admin(&format!("CREATE DATABASE objects OWNER {OWNER}"));
    tool(
        "psql",
        &[
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-f",
            &dump,
            &own.database.admin_url,
        ],
    );
    let began_anew = watcher.next_batch(10);
    let gone = tokio::time::timeout(PATIENCE, began_anew)
        .await
        .unwrap()
        .unwrap_err();
    let WatchError::Gone { oldest } = gone;
    assert!(oldest > lost);
    for old in [kept, lost, Revision::new(lost.get() + 1)] {
        assert!(matches!(
            replica.things.watch(old),
            Err(WatchError::Gone { .. })
        ));
        assert!(matches!(
            replica.things.at(old).await,
            Err(ReadError::Compacted { .. })
        ));
    }
    let snapshot = replica.things.consistent().await.unwrap();
    assert_eq!(
        contents(&snapshot),
        [("ns/kept".to_owned(), kept.get(), "1".to_owned())]
    );
    let uid = snapshot.get(&key("ns/kept")).unwrap().uid;
    let mut watcher = replica.things.watch(snapshot.revision()).unwrap();
    let write = update(&key("ns/kept"), uid, kept, "3");
    let next = write_patiently(&replica.things, write).await.unwrap();
    assert!(next > oldest);
    assert_eq!(next_events(&mut watcher, 1).await[0].1, next.get());
    // The same life is not taken for another one.
    let again = Replica::on(&own.database).await;
    assert_eq!(again.store.compacted(), oldest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_writes_begins_a_new_epoch() {
    let mut own = Own::new("failover");
    let replica = Replica::on(&own.database).await;
    replica.create(&key("ns/kept"), "1").await;
    own.stop(Shutdown::Fast);
    let (data, copy) = (own.dir.join("data"), own.dir.join("copy"));
    run(
        "cp",
        &[
            "-a",
            &data.display().to_string(),
            &copy.display().to_string(),
        ],
    );
    own.start();
    let write = create(&key("ns/lost"), Uuid::new_v4(), "2");
    let lost = write_patiently(&replica.things, write).await.unwrap();
    let mut watcher = replica.things.watch(lost).unwrap();
    own.stop(Shutdown::Immediate);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    run(
        "cp",
        &[
            "-a",
            &data.join("PG_VERSION").display().to_string(),
            &standby(&data),
        ],
    );
    own.start();
    let standby = Store::connect(StoreConfig::new(&own.database.url)).await;
    assert!(
        matches!(standby, Err(StoreError::Standby)),
        "{:?}",
        standby.err()
    );
    let refused = replica
        .things
        .write(create(&key("ns/x"), Uuid::new_v4(), ""))
        .await;
    assert!(matches!(refused, Err(WriteError::Unavailable { .. })));
    own.postgres
        .psql("postgres", "SELECT pg_promote()")
        .unwrap();
    let gone = tokio::time::timeout(PATIENCE, watcher.next_batch(10))
        .await
        .unwrap()
        .unwrap_err();
    let WatchError::Gone { oldest } = gone;
    assert!(oldest > lost);
    let name: Key = key("ns/lost");
    let write = create(&name, Uuid::new_v4(), "3");
    let next = write_patiently(&replica.things, write).await.unwrap();
    assert!(next > oldest);
    assert_eq!(replica.things.consistent().await.unwrap().len(), 2);
}

fn standby(data: &Path) -> String {
    data.join("standby.signal").display().to_string()
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_notification_arrives_by_the_poll() {
    let database = database();
    let replica = Replica::on(&database).await;
    let mut watcher = replica.things.watch(replica.store.applied()).unwrap();
    // Listeners in another database do not hear; and this one is written to without the store.
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    admin
        .execute(
            "WITH r AS (SELECT setval('store.revisions', last_value + 1) AS revision FROM store.revisions),
                e AS (INSERT INTO store.events (revision, batch, resource, kind, namespace, name, uid,
                        recorded_at, body)
                    SELECT revision, 0, 1, 0, 'ns', 'quiet', gen_random_uuid(), clock_timestamp(), '1' FROM r
                    RETURNING *)
             INSERT INTO store.objects SELECT resource, namespace, name, uid, revision, revision FROM e",
        )
        .await
        .unwrap();
    let began = Instant::now();
    let events = watcher.next_batch(1).await.unwrap();
    assert_eq!(seen(&events[0]).2, "ns/quiet");
    assert!(began.elapsed() < Duration::from_secs(3));
}
