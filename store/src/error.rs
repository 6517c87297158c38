//! What can go wrong, by what the caller can do about it.
//!
//! A write, a read and a watch fail in different ways, and each caller must handle all of its
//! own: hence one small enum for each beside [`StoreError`], the one for setting up.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::apply::is_passing;
use crate::types::Revision;

/// Setting up, migrating or administering the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no, or did not answer.
    #[error("database failure while {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the database or the connection said.
        #[source]
        source: sqlx::Error,
    },
    /// The URL cannot be read.
    #[error("invalid database url")]
    Url(#[source] sqlx::Error),
    /// A migration failed; the database is as before that migration.
    #[error("migration failed")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database has no schema, or an older one.
    #[error("the database schema is at version {found}, this program needs {needed}: run migrate")]
    SchemaTooOld {
        /// 0 when there is none.
        found: i64,
        /// The newest version that this program knows.
        needed: i64,
    },
    /// The schema is newer than this program and does not declare itself compatible with it.
    #[error(
        "the database schema is at version {found}, this program knows only up to {known}: \
         run a newer program"
    )]
    SchemaUnknown {
        /// The version in the database.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// A migration that this program knows was applied with other content.
    #[error("migration {version} was applied to the database with other content")]
    SchemaAltered {
        /// The migration.
        version: i64,
    },
    /// A standby cannot order writes.
    #[error("the database is a standby: connect to the primary")]
    Standby,
    /// `register` after `start`, `start` twice, or use after `shutdown`.
    #[error("{0}")]
    Misuse(&'static str),
    /// A private Postgres could not be run.
    #[error("private postgres: {doing}: {detail}")]
    Postgres {
        /// What was being done.
        doing: &'static str,
        /// What the tool or the system said.
        detail: String,
    },
}

impl StoreError {
    /// Whether this is what [`crate::migrate`] is for: the schema is missing or of an older program,
    /// or a migration broke off before its rights were granted.
    #[must_use]
    pub fn needs_migration(&self) -> bool {
        matches!(self, Self::SchemaTooOld { .. })
            || self.is_nothing_there()
            || self.sqlstate().as_deref() == Some("42501")
    }

    /// Whether Postgres has no such database, or no role of that name.
    #[must_use]
    pub fn is_nothing_there(&self) -> bool {
        // `invalid_catalog_name` and `invalid_authorization_specification`.
        matches!(self.sqlstate().as_deref(), Some("3D000" | "28000"))
    }

    /// Whether the same may go well later: the database cannot be reached, or is one that a standby
    /// is about to replace.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Standby => true,
            Self::Database {
                source: sqlx::Error::Io(_),
                ..
            } => true,
            _ => self.sqlstate().is_some_and(|code| is_passing(&code)),
        }
    }

    fn sqlstate(&self) -> Option<Cow<'_, str>> {
        let Self::Database { source, .. } = self else {
            return None;
        };
        source.as_database_error().and_then(DatabaseError::code)
    }
}

/// A write was not applied, or its fate is unknown ([`WriteError::OutcomeUnknown`] alone).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A create found the key taken. The local cache has reached `current`.
    #[error("the object already exists at revision {current}")]
    AlreadyExists {
        /// Revision of what is there.
        current: Revision,
    },
    /// An update or delete found the key free.
    #[error("the object does not exist")]
    NotFound,
    /// The key holds another version or another object. The local cache has reached `current`.
    #[error("the object is at revision {current}")]
    Conflict {
        /// Revision of what is there.
        current: Revision,
    },
    /// The database cannot be reached; nothing was written.
    #[error("the database cannot be reached")]
    Unavailable {
        /// When to try again.
        retry: Duration,
    },
    /// The queue of writes is full; nothing was written.
    #[error("too many writes are waiting")]
    Overloaded {
        /// When to try again.
        retry: Duration,
    },
    /// The connection was lost around the commit and the outcome could not be found out in time.
    #[error("the outcome of the write is unknown")]
    OutcomeUnknown,
    /// The body is larger than [`crate::MAX_BODY`].
    #[error("the object has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Of the body.
        size: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The database refused the write for a reason that is nobody's mistake outside the store.
    #[error("the database refused the write: {0}")]
    Refused(String),
}

/// A read could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision asked for is in the future and was not reached in time.
    #[error("revision is too large: the current one is {current}")]
    TooLarge {
        /// Where the store is.
        current: Revision,
    },
    /// The history needed is gone.
    #[error("revision has been compacted: the oldest one is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The database cannot be reached, and the answer needs it.
    #[error("the database cannot be reached")]
    Unavailable {
        /// When to try again.
        retry: Duration,
    },
}

/// A watch cannot go on without a gap: the watcher must list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Events after the watcher's position are gone.
    #[error(
        "history after the watcher's position has been compacted: the oldest revision is {oldest}"
    )]
    Gone {
        /// The oldest revision from which a watch can start.
        oldest: Revision,
    },
}
