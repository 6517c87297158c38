//! Lenses between the versions of the Widget API.
