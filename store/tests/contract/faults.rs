//! Faults of the database and of the way to it: what clients are told stays true, what is watched
//! stays whole, and all is well again soon.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use store::testing::{RUNTIME, database, shared_postgres};
use store::{ReadError, Revision, Store, StoreConfig, WriteError};
use uuid::Uuid;

use crate::breakable::{Breakable, config, percentile, scale, signal};
use crate::network::{Network, Weather};
use crate::support::{
    PATIENCE, Replica, create, key, next_events, until, update, within, write_patiently,
};
use crate::verdicts::{check_watch, keep_creating, settle};

/// Runs statements that no caller may inject anything into: the tests' own.
async fn execute(connection: &mut PgConnection, statements: &str) {
    let statements = AssertSqlSafe(statements.to_owned());
    connection.execute(statements).await.unwrap();
}

async fn number(connection: &mut PgConnection, query: &str) -> i64 {
    let query = AssertSqlSafe(query.to_owned());
    sqlx::query_scalar(query)
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_process_ends_all_sessions_and_no_watch() {
    let own = Breakable::new("sigkill");
    let replicas = [
        Replica::with(config(&own.database.url, 0)).await,
        Replica::with(config(&own.database.url, 1)).await,
    ];
    let start = replicas[0].store.applied();
    let mut watchers = replicas
        .each_ref()
        .map(|replica| replica.things.watch(start).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..4)
        .map(|n| keep_creating(&replicas[n % 2].things, &format!("w{n}"), &stop))
        .collect();
    let mut times = Vec::new();
    for _ in 0..3 * scale() {
        let before = replicas[0].store.applied().get();
        until("writes go on", async || {
            replicas[0].store.applied().get() > before + 50
        })
        .await;
        signal(
            own.sql(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'store'
                ORDER BY random() LIMIT 1",
            ),
            "KILL",
        );
        let noticed = replicas.each_ref().map(|replica| async {
            until("all sessions end", async || !replica.store.is_reachable()).await;
        });
        futures::future::join_all(noticed).await;
        until("postgres accepts", async || {
            PgConnection::connect(&own.database.admin_url).await.is_ok()
        })
        .await;
        for replica in &replicas {
            let name = key(&format!("after/{}", Uuid::new_v4()));
            let began = Instant::now();
            let write = create(&name, Uuid::new_v4(), "after");
            write_patiently(&replica.things, write).await.unwrap();
            times.push(began.elapsed());
        }
    }
    let (told, log) = settle(&stop, writers, &own.database.admin_url).await;
    println!("{told:?}; first writes after postgres accepts: {times:?}");
    assert!(percentile(&mut times, 100) < Duration::from_secs(1));
    for watcher in &mut watchers {
        check_watch(watcher, &log).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cut_around_a_commit_is_answered_wrongly() {
    let database = database();
    let socket = shared_postgres().socket_dir();
    let network = Network::start("cuts", socket);
    let url = network.url(&database, socket);
    let mut replicas = Vec::new();
    for n in 0..4 {
        replicas.push(Replica::with(config(&url, n)).await);
    }
    let mut watcher = replicas[0]
        .things
        .watch(replicas[0].store.applied())
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..16)
        .map(|n| keep_creating(&replicas[n % 4].things, &format!("w{n}"), &stop))
        .collect();
    network.becomes(Weather::Cutting);
    let began = Instant::now();
    let limit = Duration::from_secs(20 * u64::from(scale()));
    let wanted = 600 * scale() as usize;
    while network.cuts() < wanted && began.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    network.becomes(Weather::Fair);
    let (told, log) = settle(&stop, writers, &database.admin_url).await;
    let cuts = network.cuts();
    println!("{cuts} cuts in {:?}: {told:?}, 0 wrong", began.elapsed());
    assert!(cuts > 50, "only {cuts} cuts");
    assert!(told.unknown * 100 <= cuts, "{told:?}");
    check_watch(&mut watcher, &log).await;
}

/// Looks for rows that appear below what was published before.
#[derive(Default)]
struct Order {
    seen: BTreeSet<i64>,
    published: i64,
}

impl Order {
    /// `published` is a revision that somebody was told of before the call.
    async fn look(&mut self, connection: &mut PgConnection, published: i64) -> Vec<i64> {
        let rows = sqlx::query_scalar("SELECT revision FROM store.events WHERE revision > $1");
        let rows: Vec<i64> = rows
            .bind(self.published - 10_000)
            .fetch_all(connection)
            .await
            .unwrap();
        let is_late = |row: &&i64| **row <= self.published && !self.seen.contains(*row);
        let late = rows.iter().filter(is_late).copied().collect();
        self.published = self.published.max(published);
        self.published = rows.iter().copied().fold(self.published, i64::max);
        self.seen.extend(rows);
        late
    }
}

/// Between the allotment of a revision and its commit: mostly some milliseconds, for every hundredth
/// batch more than a second. Two such batches never wait for one another, since together they would
/// take longer than a store waits for an answer.
const DELAY: &str = "CREATE SEQUENCE public.batches;
    CREATE FUNCTION public.delay() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        PERFORM pg_sleep(CASE WHEN nextval('public.batches') % 100 = 50 THEN 1.5
            ELSE random() * 0.01 END);
        RETURN NULL; END $$;
    CREATE TRIGGER delay AFTER INSERT ON store.events
        FOR EACH STATEMENT EXECUTE FUNCTION public.delay()";

#[tokio::test(flavor = "multi_thread")]
async fn no_row_ever_appears_below_a_published_revision() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    execute(&mut admin, DELAY).await;
    let mut replicas = Vec::new();
    for n in 0..8 {
        replicas.push(Replica::with(config(&database.url, n)).await);
    }
    let mut watcher = replicas[7]
        .things
        .watch(replicas[7].store.applied())
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..64)
        .map(|n| keep_creating(&replicas[n % 8].things, &format!("w{n}"), &stop))
        .collect();
    let (mut order, mut looks) = (Order::default(), 0);
    let (wanted, patience) = (250 * i64::from(scale()), PATIENCE * scale());
    let began = Instant::now();
    while looks < wanted
        || order.seen.len() < 600 * scale() as usize
        || number(&mut admin, "SELECT last_value FROM public.batches").await < wanted
    {
        let published = replicas.iter().map(|r| r.store.applied().get()).max();
        let late = order.look(&mut admin, published.unwrap()).await;
        assert!(
            late.is_empty(),
            "{late:?} appeared below what was published"
        );
        looks += 1;
        assert!(began.elapsed() < patience, "{looks} looks");
    }
    let (told, log) = settle(&stop, writers, &database.admin_url).await;
    println!("64 writers, {told:?}, {looks} looks, 0 rows below a published revision");
    assert!(told.applied > 500 && looks > 100, "{told:?}, {looks} looks");
    check_watch(&mut watcher, &log).await;
}

#[tokio::test]
async fn a_row_that_appears_below_a_published_revision_is_found() {
    let database = database();
    let mut early = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut later = PgConnection::connect(&database.admin_url).await.unwrap();
    let insert = |revision: i64| {
        format!(
            "INSERT INTO store.events (revision, batch, resource, kind, namespace, name, uid,
                recorded_at, body)
             VALUES ({revision}, 0, 1, 0, 'ns', 'n{revision}', gen_random_uuid(), now(), '')"
        )
    };
    execute(&mut later, "SELECT store.extend_events(1000, 1)").await;
    execute(&mut early, "BEGIN").await;
    execute(&mut early, &insert(1)).await;
    execute(&mut later, &insert(2)).await;
    let mut order = Order::default();
    assert!(order.look(&mut later, 0).await.is_empty());
    execute(&mut early, "COMMIT").await;
    assert_eq!(order.look(&mut later, 0).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_lives_on_its_own_connections_when_all_slots_are_taken() {
    let own = Breakable::with("slots", &[("max_connections", "20")]);
    let replica = Replica::on(&own.database).await;
    let (_, first) = replica.create(&key("ns/a"), "1").await;
    replica.things.consistent().await.unwrap();
    let mut watcher = replica.things.watch(first).unwrap();
    let mut taken = Vec::new();
    let refusal = loop {
        match PgConnection::connect(&own.database.url).await {
            Ok(connection) => taken.push(connection),
            Err(error) => break error,
        }
    };
    let code = refusal.as_database_error().and_then(|e| e.code());
    assert_eq!(code.as_deref(), Some("53300"), "{refusal}");
    for n in 0..20 {
        replica.create(&key(&format!("full/{n}")), "x").await;
        assert_eq!(replica.things.consistent().await.unwrap().len(), n + 2);
    }
    assert_eq!(next_events(&mut watcher, 20).await.len(), 20);
    let began = Instant::now();
    assert!(
        Store::connect(StoreConfig::new(&own.database.url))
            .await
            .is_err()
    );
    assert!(began.elapsed() < Duration::from_millis(500));

    // Now it loses its own as well, and gets no other one.
    own.sql(&format!("ALTER ROLE {RUNTIME} CONNECTION LIMIT 0"));
    own.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'store'",
    );
    until("it notices", async || !replica.store.is_reachable()).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let write = create(&key("ns/b"), Uuid::new_v4(), "2");
        let refused = replica.things.write(write).await;
        assert!(
            matches!(refused, Err(WriteError::Unavailable { retry }) if retry > Duration::ZERO),
            "{refused:?}"
        );
        let refused = replica.things.consistent().await;
        assert!(matches!(refused, Err(ReadError::Unavailable { .. })));
        times.push(began.elapsed());
        assert_eq!(replica.things.snapshot().len(), 21);
    }
    let worst = percentile(&mut times, 100);
    assert!(worst < Duration::from_millis(500), "{worst:?}");
    own.sql(&format!("ALTER ROLE {RUNTIME} CONNECTION LIMIT -1"));
    drop(taken);
    let healed = within(Duration::from_secs(2), "writes go on", async || {
        let write = create(&key(&Uuid::new_v4().to_string()), Uuid::new_v4(), "2");
        replica.things.write(write).await.is_ok()
    })
    .await;
    println!("refused within {worst:?}, healed after {healed:?}");
    next_events(&mut watcher, 1).await;
}

/// Two of three batches fail: one cannot be serialized, one finds a lock taken.
const STORM: &str = "CREATE SEQUENCE public.attempts;
    CREATE TABLE public.held AS SELECT 1 AS one;
    GRANT ALL ON public.attempts, public.held TO PUBLIC;
    CREATE FUNCTION public.storm() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE n bigint := nextval('public.attempts');
    BEGIN
        IF n % 3 = 1 THEN RAISE EXCEPTION 'a storm' USING ERRCODE = '40001'; END IF;
        IF n % 3 = 2 THEN PERFORM FROM public.held FOR UPDATE NOWAIT; END IF;
        RETURN NULL; END $$;
    CREATE TRIGGER storm AFTER INSERT ON store.events
        FOR EACH STATEMENT EXECUTE FUNCTION public.storm()";
const ENDLESS: &str =
    "CREATE OR REPLACE FUNCTION public.storm() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM nextval('public.attempts');
        RAISE EXCEPTION 'a storm' USING ERRCODE = '40001'; END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_passing_failures_is_ridden_out_and_an_endless_one_is_given_up() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut holder = PgConnection::connect(&database.admin_url).await.unwrap();
    execute(&mut admin, STORM).await;
    execute(&mut holder, "BEGIN; SELECT FROM public.held FOR UPDATE").await;
    // One after the other: two processes might have all the bad luck on one side.
    let replica = Replica::on(&database).await;
    let mut watcher = replica.things.watch(replica.store.applied()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..8)
        .map(|n| keep_creating(&replica.things, &format!("w{n}"), &stop))
        .collect();
    until("there is some load", async || {
        number(&mut admin, "SELECT last_value FROM public.attempts").await > 300
    })
    .await;
    let (told, log) = settle(&stop, writers, &database.admin_url).await;
    println!("{told:?} while two of three attempts failed");
    assert_eq!((told.not_applied, told.unknown), (0, 0), "{told:?}");
    check_watch(&mut watcher, &log).await;

    execute(&mut admin, ENDLESS).await;
    let before = number(&mut admin, "SELECT last_value FROM public.attempts").await;
    let began = Instant::now();
    let write = create(&key("ns/never"), Uuid::new_v4(), "");
    let refused = replica.things.write(write).await;
    assert!(
        matches!(refused, Err(WriteError::Unavailable { .. })),
        "{refused:?}"
    );
    let tried = number(&mut admin, "SELECT last_value FROM public.attempts").await - before;
    assert!((2..=6).contains(&tried), "{tried} attempts");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_costs_a_write_nothing_but_time() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut other = PgConnection::connect(&database.admin_url).await.unwrap();
    let name = &database.name;
    execute(
        &mut admin,
        &format!("ALTER DATABASE {name} SET deadlock_timeout = '700ms'"),
    )
    .await;
    execute(&mut other, "SET deadlock_timeout = '20s'").await;
    let replica = Replica::on(&database).await;
    let (uid, revision) = replica.create(&key("ns/a"), "1").await;
    execute(
        &mut other,
        "BEGIN; SELECT FROM store.objects WHERE name = 'a' FOR UPDATE",
    )
    .await;
    let things = replica.things.clone();
    let writing = tokio::spawn(async move {
        let write = update(&key("ns/a"), uid, revision, "2");
        things.write(write).await
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'store'
        AND wait_event_type = 'Lock' AND datname = current_database()";
    until("the write waits for the row", async || {
        number(&mut admin, waiting).await == 1
    })
    .await;
    // The write has this lock and waits for the row: so soon it gives it back only as the victim.
    let began = Instant::now();
    execute(&mut other, "SELECT pg_advisory_xact_lock(7777, 1)").await;
    assert!(began.elapsed() < Duration::from_secs(2));
    execute(&mut other, "ROLLBACK").await;
    writing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_statement_has_no_effect_and_spoils_no_session() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut holder = PgConnection::connect(&database.admin_url).await.unwrap();
    let replica = Replica::on(&database).await;
    replica.create(&key("ns/a"), "1").await;
    for n in 0..5 {
        execute(&mut holder, "SELECT pg_advisory_lock(7777, 1)").await;
        let things = replica.things.clone();
        let name = key(&format!("ns/cancelled-{n}"));
        let writing =
            tokio::spawn(async move { things.write(create(&name, Uuid::new_v4(), "x")).await });
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'
            AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        until("the write waits", async || {
            number(&mut admin, cancel).await == 1
        })
        .await;
        let refused = writing.await.unwrap();
        assert!(
            matches!(refused, Err(WriteError::Unavailable { .. })),
            "{refused:?}"
        );
        execute(&mut holder, "SELECT pg_advisory_unlock(7777, 1)").await;
        replica.create(&key(&format!("ns/{n}")), "x").await;
    }
    assert_eq!(replica.things.consistent().await.unwrap().len(), 6);
    check_sessions(&mut admin, 1).await;
}

/// No session of a store is in a transaction, and each store has few of them.
async fn check_sessions(admin: &mut PgConnection, stores: i64) {
    const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'store' AND datname = current_database()";
    until("no transaction is left", async || {
        let open = format!("{SESSIONS} AND state LIKE 'idle in transaction%'");
        number(admin, &open).await == 0
    })
    .await;
    until("sessions are few", async || {
        number(admin, SESSIONS).await <= stores * 10
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_too_long_is_answered_in_time_and_honestly() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut holder = PgConnection::connect(&database.admin_url).await.unwrap();
    let replica = Replica::on(&database).await;
    execute(&mut holder, "SELECT pg_advisory_lock(7777, 1)").await;
    let began = Instant::now();
    let name = key("ns/late");
    let outcome = replica
        .things
        .write(create(&name, Uuid::new_v4(), "x"))
        .await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    execute(&mut holder, "SELECT pg_advisory_unlock(7777, 1)").await;
    until("reads are back", async || {
        replica.things.consistent().await.is_ok()
    })
    .await;
    check_sessions(&mut admin, 1).await;
    // Whoever was at it is gone by now, or has done it.
    let there = replica
        .things
        .consistent()
        .await
        .unwrap()
        .get(&name)
        .is_some();
    println!(
        "after {took:?}: {outcome:?}, and it was {}applied",
        if there { "" } else { "not " }
    );
    match outcome {
        Ok(_) => assert!(there),
        Err(WriteError::OutcomeUnknown) => {}
        Err(WriteError::Unavailable { .. }) => assert!(!there),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_idles_with_the_lock_is_ended_by_its_timeout() {
    let database = database();
    let replica = Replica::on(&database).await;
    let mut idler = PgConnection::connect(&database.url).await.unwrap();
    execute(
        &mut idler,
        "SET idle_in_transaction_session_timeout = '300ms'",
    )
    .await;
    execute(&mut idler, "BEGIN; SELECT pg_advisory_xact_lock(7777, 1)").await;
    let began = Instant::now();
    replica.create(&key("ns/a"), "1").await;
    assert!(began.elapsed() < Duration::from_secs(3));
    let ended = idler.execute("SELECT 1").await.unwrap_err();
    // What the server said before it hung up is lost when the request is not even sent.
    let code = ended.as_database_error().and_then(|e| e.code());
    assert!(code.is_none_or(|code| code == "25P03"), "{ended}");
}

/// Times of updates of one object.
async fn measure(replica: &Replica, uid: Uuid, mut at: Revision) -> (Revision, Vec<Duration>) {
    let mut times = Vec::new();
    for n in 0..400 * scale() {
        let began = Instant::now();
        let write = update(&key("ns/hot"), uid, at, &n.to_string());
        at = replica.things.write(write).await.unwrap();
        times.push(began.elapsed());
    }
    (at, times)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_slows_no_write_and_stops_no_watch() {
    let database = database();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let mut open = PgConnection::connect(&database.admin_url).await.unwrap();
    execute(&mut admin, "SELECT store.extend_events(100, 40)").await;
    let mut config = StoreConfig::new(&database.url);
    config.compaction_interval = Duration::from_secs(3600);
    let replica = Replica::with(config).await;
    let (uid, start) = replica.create(&key("ns/hot"), "hot").await;
    let (at, _) = measure(&replica, uid, start).await;
    let (at, mut before) = measure(&replica, uid, at).await;
    let mut watcher = replica.things.watch(at).unwrap();
    let from = at;
    execute(
        &mut open,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM store.events",
    )
    .await;
    execute(
        &mut admin,
        "UPDATE store.events SET recorded_at = recorded_at - interval '1 hour'",
    )
    .await;
    let (mut at, mut during, mut busiest) = (at, Vec::new(), Vec::new());
    for _ in 0..3 {
        // The noise of a busy machine passes; what the transaction costs would stay.
        let (next, mut times) = measure(&replica, uid, at).await;
        at = next;
        busiest.push((percentile(&mut times, 50), percentile(&mut times, 99)));
        during.extend(times);
    }
    let began = Instant::now();
    let held_up = replica.store.compact().await.unwrap().unwrap();
    let took = began.elapsed();
    assert_eq!(held_up.partitions, 0, "its history is still read");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let events = next_events(&mut watcher, during.len()).await;
    assert!(events.first().unwrap().1 > from.get());
    assert_eq!(events.last().unwrap().1, at.get());
    execute(&mut open, "ROLLBACK").await;
    assert!(replica.store.compact().await.unwrap().unwrap().partitions > 0);
    let quiet = (percentile(&mut before, 50), percentile(&mut before, 99));
    println!("p50, p99 before {quiet:?}, with the open transaction {busiest:?}");
    let least = |of: fn(&(Duration, Duration)) -> Duration| busiest.iter().map(of).min().unwrap();
    let busy = (least(|times| times.0), least(|times| times.1));
    assert!(busy.0 < quiet.0 * 2 + Duration::from_millis(1), "{busy:?}");
    assert!(busy.1 < quiet.1 * 2 + Duration::from_millis(20), "{busy:?}");
}
