//! The local control plane, and tests that see only the API.
