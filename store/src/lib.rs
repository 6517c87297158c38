//! Objects at revisions on Postgres: writes, snapshots, event log, watch cache.
