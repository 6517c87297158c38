//! The schema's versions: who may change it, and which of them this program can work with.

use std::borrow::Cow;
use std::collections::HashMap;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::error::StoreError;
use crate::failpoints::{Point, at};

static EMBEDDED: Migrator = sqlx::migrate!("../migrations");

/// Brings the database to this program's schema and lets `runtime_role` work with it.
///
/// `database_url` is that of the role that owns the schema. The runtime role may read everything
/// and call the functions, nothing else; it is made, with LOGIN and without a password, when it
/// does not exist. Does nothing where everything is in place.
pub async fn migrate(database_url: &str, runtime_role: &str) -> Result<(), StoreError> {
    let options: PgConnectOptions = database_url.parse().map_err(StoreError::Url)?;
    let failed = |doing| move |source| StoreError::Database { doing, source };
    let mut connection = PgConnection::connect_with(&options)
        .await
        .map_err(failed("connecting"))?;
    at(Point::MigrateSend)
        .await
        .map_err(failed("migrating the schema"))?;
    let migrator = Migrator {
        migrations: Cow::Borrowed(&EMBEDDED.migrations),
        table_name: Cow::Borrowed("store.migrations"),
        create_schemas: Cow::Borrowed(&[Cow::Borrowed("store")]),
        ..Migrator::DEFAULT
    };
    migrator.run(&mut connection).await?;
    grant(&mut connection, runtime_role).await?;
    let closed = connection.close().await;
    closed.map_err(failed("closing the connection"))
}

async fn grant(connection: &mut PgConnection, role: &str) -> Result<(), StoreError> {
    let failed = |source| StoreError::Database {
        doing: "granting rights",
        source,
    };
    at(Point::GrantSend).await.map_err(failed)?;
    // The names are quoted by the database, since DDL takes no parameters.
    let statements: Vec<String> = sqlx::query_scalar(
        "SELECT format('CREATE ROLE %I LOGIN', $1::text)
             WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)
         UNION ALL SELECT format(grants, $1) FROM unnest(ARRAY[
             'GRANT USAGE ON SCHEMA store TO %I',
             'GRANT SELECT ON ALL TABLES IN SCHEMA store TO %I',
             'GRANT SELECT ON ALL SEQUENCES IN SCHEMA store TO %I',
             'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA store TO %I']) AS grants
         WHERE $1 <> current_user",
    )
    .bind(role)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    for statement in statements {
        connection
            .execute(AssertSqlSafe(statement))
            .await
            .map_err(failed)?;
        at(Point::GrantAnswer).await.map_err(failed)?;
    }
    Ok(())
}

/// Refuses a schema that this program does not know.
pub(crate) async fn verify(connection: &mut PgConnection) -> Result<(), StoreError> {
    let failed = |source| StoreError::Database {
        doing: "reading the schema version",
        source,
    };
    at(Point::SchemaSend).await.map_err(failed)?;
    let needed = EMBEDDED.iter().map(|m| m.version).max().unwrap_or(0);
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('store.migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if !exists {
        return Err(StoreError::SchemaTooOld { found: 0, needed });
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM store.migrations WHERE success")
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    at(Point::SchemaAnswer).await.map_err(failed)?;
    let found = applied
        .iter()
        .map(|(version, _)| *version)
        .max()
        .unwrap_or(0);
    let applied: HashMap<i64, Vec<u8>> = applied.into_iter().collect();
    for migration in EMBEDDED.iter() {
        let version = migration.version;
        match applied.get(&version) {
            None => return Err(StoreError::SchemaTooOld { found, needed }),
            Some(checksum) if checksum.as_slice() != migration.checksum.as_ref() => {
                return Err(StoreError::SchemaAltered { version });
            }
            Some(_) => {}
        }
    }
    if found == needed {
        return Ok(());
    }
    let oldest: Option<i64> =
        sqlx::query_scalar("SELECT oldest_program FROM store.compatibility WHERE version = $1")
            .bind(found)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
    match oldest {
        Some(oldest) if oldest <= needed => Ok(()),
        _ => Err(StoreError::SchemaUnknown {
            found,
            known: needed,
        }),
    }
}
