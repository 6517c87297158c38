//! The generic API server: registry, verbs, watches, authentication, TLS.
