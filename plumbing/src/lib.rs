//! What both binaries share: logs, traces, metrics, health, shutdown.
