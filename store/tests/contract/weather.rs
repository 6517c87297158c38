//! A bad network between replicas and Postgres, and notifications that do not arrive.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use store::testing::{Lag, database, shared_postgres};
use store::{ReadError, StoreConfig, Watcher, WriteError};
use uuid::Uuid;

use crate::breakable::{config, percentile, scale, signal};
use crate::network::{Network, Weather};
use crate::support::{Replica, Text, create, key, next_events, until, within};
use crate::verdicts::{check_watch, keep_creating, settle};

/// A peer that does not answer is found dead within this.
const DEAD: Duration = Duration::from_secs(5);
/// A notification that is lost costs at most this, on an idle machine.
const LAG: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_blackhole_is_noticed_and_no_stale_read_is_served_as_a_consistent_one() {
    let database = database();
    let socket = shared_postgres().socket_dir();
    let network = Network::start("blackhole", socket);
    let cut_off = Replica::with(StoreConfig::new(network.url(&database, socket))).await;
    let other = Replica::on(&database).await;
    let (_, first) = other.create(&key("ns/before"), "1").await;
    cut_off.things.consistent().await.unwrap();
    let mut watcher = cut_off.things.watch(first).unwrap();
    network.becomes(Weather::Blackhole);
    other.create(&key("ns/during"), "2").await;

    let lag = Lag::watch();
    let began = Instant::now();
    let write = create(&key("ns/lost"), Uuid::new_v4(), "3");
    let (wrote, read) = tokio::join!(
        async { (cut_off.things.write(write).await, began.elapsed()) },
        async { (cut_off.things.consistent().await, began.elapsed()) },
    );
    println!(
        "a write: {wrote:?}; a consistent read: {:?} after {:?}",
        read.0.is_ok(),
        read.1
    );
    assert!(matches!(
        wrote.0,
        Err(WriteError::OutcomeUnknown | WriteError::Unavailable { .. })
    ));
    assert!(matches!(read.0, Err(ReadError::Unavailable { .. })));
    let late = lag.take();
    assert!(
        wrote.1.max(read.1) < DEAD + late,
        "{wrote:?}, late by {late:?}"
    );
    within(DEAD, "it notices", async || !cut_off.store.is_reachable()).await;
    for _ in 0..20 {
        let began = Instant::now();
        let write = create(&key("ns/refused"), Uuid::new_v4(), "4");
        let refused = cut_off.things.write(write).await;
        assert!(matches!(refused, Err(WriteError::Unavailable { .. })));
        assert!(cut_off.things.consistent().await.is_err());
        assert!(began.elapsed() < Duration::from_millis(50));
        assert_eq!(cut_off.things.snapshot().len(), 1);
    }
    network.becomes(Weather::Fair);
    let healed = within(DEAD, "writes go on", async || {
        let write = create(&key(&Uuid::new_v4().to_string()), Uuid::new_v4(), "5");
        cut_off.things.write(write).await.is_ok()
    })
    .await;
    println!("writes went on {healed:?} after the network was back");
    let names: Vec<_> = next_events(&mut watcher, 1).await;
    assert_eq!(names[0].2, "ns/during");
    // Writes may be back before reads are.
    until("reads are back", async || {
        cut_off.things.consistent().await.is_ok()
    })
    .await;
    assert!(cut_off.things.consistent().await.unwrap().len() >= 3);
}

/// Writers on both sides of some weather; returns p50 and p99 of writes through it.
async fn weather(name: &str, weather: Weather, seconds: u64) {
    let database = database();
    let socket = shared_postgres().socket_dir();
    let network = Network::start(name, socket);
    let far = Replica::with(config(network.url(&database, socket), 1)).await;
    let near = Replica::on(&database).await;
    // Connections that are there stay; new ones are hardly made in such weather.
    far.things.consistent().await.unwrap();
    let start = near.store.applied();
    let mut watchers = [
        far.things.watch(start).unwrap(),
        near.things.watch(start).unwrap(),
    ];
    network.becomes(weather);
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..8)
        .map(|n| {
            let replica = if n % 2 == 0 { &far } else { &near };
            keep_creating(&replica.things, &format!("w{n}"), &stop)
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(seconds * u64::from(scale()));
    let (mut fresh, mut refused) = (0, 0);
    while Instant::now() < end {
        let name = format!("seen/{fresh}-{refused}");
        near.create(&key(&name), "x").await;
        match far.things.consistent().await {
            Ok(snapshot) => {
                assert!(snapshot.get(&key(&name)).is_some(), "{name} is missing");
                fresh += 1;
            }
            Err(_) => refused += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    network.becomes(Weather::Fair);
    let (told, log) = settle(&stop, writers, &database.admin_url).await;
    let is_far = |name: &str| name.starts_with('w') && "0246".contains(&name[1..2]);
    let from_far = log.iter().filter(|row| is_far(&row.1)).count();
    println!(
        "{weather:?}: {told:?}, {from_far} of them through it; {fresh} consistent reads, {refused} refused"
    );
    assert!(from_far > 0);
    for watcher in &mut watchers {
        check_watch(watcher, &log).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_only_slows() {
    weather("slow", Weather::Slow(25, 125), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_loses_half_of_all_packets_makes_no_wrong_verdict() {
    weather("lossy", Weather::Lossy(50), 6).await;
}

/// Writes at one replica; returns when a watcher at the other one had each.
async fn lags(writer: &Replica, watcher: &mut Watcher<Text>, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        let name = format!("lag/{}", Uuid::new_v4());
        let began = Instant::now();
        writer.create(&key(&name), "x").await;
        let event = next_events(watcher, 1).await.remove(0);
        assert_eq!(event.2, name);
        times.push(began.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_notifications_cost_a_second_and_no_event() {
    let database = database();
    let socket = shared_postgres().socket_dir();
    let network = Network::start("deaf", socket);
    let deaf = Replica::with(StoreConfig::new(network.url(&database, socket))).await;
    let other = Replica::on(&database).await;
    let mut watcher = deaf.things.watch(deaf.store.applied()).unwrap();
    let mut all = lags(&other, &mut watcher, 20).await;
    let usual = percentile(&mut all, 50);
    println!("all heard: p50 {usual:?}");
    assert!(usual < Duration::from_millis(250), "{usual:?}");
    for (percent, count) in [(10, 40), (100, 5)] {
        network.becomes(Weather::Deaf(percent));
        let before = network.lost();
        let lag = Lag::watch();
        let mut times = lags(&other, &mut watcher, count).await;
        let late = lag.take();
        let worst = percentile(&mut times, 100);
        println!(
            "{percent} % lost ({}): p50 {:?}, worst {worst:?}",
            network.lost() - before,
            percentile(&mut times, 50)
        );
        assert!(network.lost() > before || percent < 100);
        assert!(
            worst < LAG + Duration::from_millis(500) + late,
            "{worst:?}, late by {late:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_dies_or_hangs_costs_no_event() {
    let database = database();
    let reader = Replica::on(&database).await;
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    let listener = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 7777
        AND objid = 4 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let find = async |admin: &mut PgConnection| -> i32 {
        sqlx::query_scalar(listener).fetch_one(admin).await.unwrap()
    };
    let pid = find(&mut admin).await;
    let writer = Replica::on(&database).await;
    let mut watcher = reader.things.watch(reader.store.applied()).unwrap();
    sqlx::query("SELECT pg_terminate_backend($1)")
        .bind(pid)
        .execute(&mut admin)
        .await
        .unwrap();
    let began = Instant::now();
    writer.create(&key("ns/a"), "1").await;
    next_events(&mut watcher, 1).await;
    println!("a listener died: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2));

    // Neither dead nor alive: its server process stands still.
    let mine = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 7777 AND objid = 4
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY (SELECT backend_start FROM pg_stat_activity a WHERE a.pid = pg_locks.pid) DESC LIMIT 1";
    until("both listen", async || {
        let all: Vec<i32> = sqlx::query_scalar(listener)
            .fetch_all(&mut admin)
            .await
            .unwrap();
        all.len() == 2
    })
    .await;
    let pid: i32 = sqlx::query_scalar(mine)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    signal(pid, "STOP");
    let began = Instant::now();
    let write = create(&key("ns/b"), Uuid::new_v4(), "2");
    let written = writer.things.write(write).await;
    let seen = tokio::time::timeout(DEAD + LAG, next_events(&mut watcher, 1)).await;
    signal(pid, "CONT");
    println!("a listener hung: {:?}", began.elapsed());
    written.unwrap();
    assert_eq!(seen.unwrap()[0].2, "ns/b");
}

/// What Postgres says at the end of a transaction when its queue is full: 8 GB, too many to fill
/// here, so a function says it that the store's functions call in its stead.
const FULL_QUEUE: &str = "CREATE FUNCTION store.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000'; END $$;
    DO $$ DECLARE f regprocedure; BEGIN
        FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'store'::regnamespace LOOP
            EXECUTE format('ALTER FUNCTION %s SET search_path = store, pg_catalog, pg_temp', f);
        END LOOP; END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_notifications_stops_no_write() {
    let database = database();
    let (writer, reader) = (Replica::on(&database).await, Replica::on(&database).await);
    let mut watcher = reader.things.watch(reader.store.applied()).unwrap();
    let mut admin = PgConnection::connect(&database.admin_url).await.unwrap();
    sqlx::raw_sql(FULL_QUEUE).execute(&mut admin).await.unwrap();
    // A writer looks once a second whether there is anybody to notify.
    tokio::time::sleep(LAG + Duration::from_millis(200)).await;
    let began = Instant::now();
    let write = create(&key("ns/a"), Uuid::new_v4(), "1");
    let written = writer.things.write(write).await;
    println!("with a full queue: {written:?} after {:?}", began.elapsed());
    assert!(
        written.is_ok(),
        "a full queue of notifications stops no write"
    );
    if written.is_ok() {
        next_events(&mut watcher, 1).await;
        assert!(began.elapsed() < LAG * 2, "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_writers_on_two_replicas_do_not_wait_for_notifications() {
    let database = database();
    let replicas = [
        Replica::with(config(&database.url, 0)).await,
        Replica::with(config(&database.url, 1)).await,
    ];
    let mut watcher = replicas[0]
        .things
        .watch(replicas[0].store.applied())
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let writers = (0..64)
        .map(|n| keep_creating(&replicas[n % 2].things, &format!("w{n}"), &stop))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let took = began.elapsed();
    let (told, log) = settle(&stop, writers, &database.admin_url).await;
    println!(
        "64 writers on 2 replicas: {} writes in {took:?}",
        told.applied
    );
    assert!(told.applied > 200, "{told:?}");
    check_watch(&mut watcher, &log).await;
}
