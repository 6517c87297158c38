//! Migrations, versions and rights.

use std::process::Command;

use sqlx::{Connection, Executor, PgConnection};
use store::testing::{OWNER, RUNTIME, database, shared_postgres};
use store::{Store, StoreConfig, StoreError, migrate};

use crate::support::{Replica, key};

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn refusal(url: &str) -> StoreError {
    match Store::connect(StoreConfig::new(url)).await {
        Ok(_) => panic!("the schema should be refused"),
        Err(error) => error,
    }
}

#[test]
fn the_golden_schema_is_what_the_migrations_make() {
    let database = database();
    let dump = Command::new(shared_postgres().bin_dir().join("pg_dump"))
        .args([
            "--schema-only",
            "--schema=store",
            "--no-owner",
            "--no-privileges",
            &database.admin_url,
        ])
        .output()
        .unwrap();
    assert!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    // Versions of Postgres and pg_dump's per-run keys differ from machine to machine.
    let volatile = ["-- Dumped ", "\\restrict", "\\unrestrict", "SET "];
    let text = String::from_utf8(dump.stdout).unwrap();
    let lines = text
        .lines()
        .filter(|line| !volatile.iter().any(|start| line.starts_with(start)));
    let mut text = lines.collect::<Vec<_>>().join("\n").trim().to_owned();
    text.push('\n');
    let golden = "../migrations/schema.sql";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    let known = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(
        known == text,
        "migrations/schema.sql is out of date: run with UPDATE_GOLDEN=1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_changes_nothing() {
    let database = database();
    let replica = Replica::on(&database).await;
    replica.create(&key("ns/a"), "1").await;
    migrate(&database.owner_url, RUNTIME).await.unwrap();
    assert_eq!(Replica::on(&database).await.things.snapshot().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_role_is_made_when_it_is_missing() {
    let database = database();
    migrate(&database.owner_url, "another \"role\"")
        .await
        .unwrap();
    let known: bool = sqlx::query_scalar(
        "SELECT has_table_privilege('another \"role\"', 'store.objects', 'SELECT')
            AND NOT has_table_privilege('another \"role\"', 'store.objects', 'INSERT')",
    )
    .fetch_one(&mut connect(&database.admin_url).await)
    .await
    .unwrap();
    assert!(known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_schema_is_refused() {
    shared_postgres().create_database("bare", OWNER).unwrap();
    let error = refusal(&shared_postgres().url("bare", RUNTIME)).await;
    assert!(
        matches!(error, StoreError::SchemaTooOld { found: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("run migrate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_schema_is_refused_unless_it_declares_itself_compatible() {
    let database = database();
    let mut admin = connect(&database.admin_url).await;
    admin
        .execute(
            "INSERT INTO store.migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of the future', true, '', 0)",
        )
        .await
        .unwrap();
    let error = refusal(&database.url).await;
    assert!(
        matches!(error, StoreError::SchemaUnknown { found: 9999, .. }),
        "{error}"
    );
    admin
        .execute("INSERT INTO store.compatibility VALUES (9999, 9999)")
        .await
        .unwrap();
    let error = refusal(&database.url).await;
    assert!(
        matches!(error, StoreError::SchemaUnknown { found: 9999, .. }),
        "{error}"
    );
    admin
        .execute("UPDATE store.compatibility SET oldest_program = 1")
        .await
        .unwrap();
    Store::connect(StoreConfig::new(&database.url))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_migration_is_refused() {
    let database = database();
    let mut admin = connect(&database.admin_url).await;
    admin
        .execute("UPDATE store.migrations SET checksum = 'x'")
        .await
        .unwrap();
    let error = refusal(&database.url).await;
    assert!(
        matches!(error, StoreError::SchemaAltered { version: 1 }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_role_can_neither_define_nor_change_anything_by_hand() {
    let database = database();
    Replica::on(&database).await.create(&key("ns/a"), "1").await;
    let mut runtime = connect(&database.url).await;
    for forbidden in [
        "INSERT INTO store.objects VALUES (1, '', 'x', gen_random_uuid(), 1, 1, '')",
        "UPDATE store.objects SET revision = 0",
        "DELETE FROM store.objects",
        "DELETE FROM store.events",
        "TRUNCATE store.events",
        "SELECT setval('store.revisions', 1)",
        "SELECT nextval('store.revisions')",
        "UPDATE store.compaction SET revision = 0",
        "INSERT INTO store.resources (group_name, plural) VALUES ('a', 'b')",
        "UPDATE store.migrations SET version = 0",
        "DELETE FROM store.epochs",
        "CREATE TABLE store.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "CREATE FUNCTION store.mine() RETURNS int LANGUAGE sql RETURN 1",
        "DROP TABLE store.objects",
        "ALTER TABLE store.objects ADD COLUMN mine int",
        "CREATE ROLE mine",
        "SELECT store.accept_timeline('00000002')",
    ] {
        let error = runtime.execute(forbidden).await.expect_err(forbidden);
        let code = error
            .as_database_error()
            .and_then(|e| e.code())
            .unwrap_or_default()
            .into_owned();
        assert_eq!(code, "42501", "{forbidden}: {error}");
    }
    runtime
        .execute("SELECT count(*) FROM store.events")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn provenance_is_kept_with_the_event() {
    let database = database();
    let replica = Replica::on(&database).await;
    let provenance = store::Provenance {
        user: "alice".into(),
        manager: "kubectl".into(),
        verb: "create".into(),
        audit_id: "42".into(),
    };
    let mut write = crate::support::create(&key("ns/a"), uuid::Uuid::new_v4(), "1");
    write.provenance = provenance;
    replica.things.write(write).await.unwrap();
    let row: (String, String, String, String) =
        sqlx::query_as("SELECT username, manager, verb, audit_id FROM store.events")
            .fetch_one(&mut connect(&database.url).await)
            .await
            .unwrap();
    assert_eq!(
        row,
        (
            "alice".into(),
            "kubectl".into(),
            "create".into(),
            "42".into()
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_under_an_old_snapshot_is_refused() {
    let database = database();
    let mut runtime = connect(&database.url).await;
    runtime
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    let call =
        "SELECT store.apply_one('x', 1, 0, true, 0::smallint, 1, '', 'a', gen_random_uuid(), NULL, '',
        NULL, NULL, NULL, NULL)";
    let error = runtime
        .execute(call)
        .await
        .expect_err("it has a snapshot from before the lock");
    assert_eq!(
        error.as_database_error().and_then(|e| e.code()).as_deref(),
        Some("25001")
    );
}
