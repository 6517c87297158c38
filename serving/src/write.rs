//! The one way into the store: every verb that writes ends here.
//!
//! A change is a function from the current hub object to the next one. It is
//! tried against the cache first; whenever the cache may have been behind (an
//! error, a conflict, nothing to change), it is tried again on a state that is
//! known to be current.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use machinery::{
    Object, error::ApiError, field::FieldError, meta, object, options::IGNORE_STORE_READ_ERROR,
};
use serde_json::{Value, json};
use store::{Key, Operation, Provenance, Revision, Snapshot, Stored, Write};
use uuid::Uuid;

use crate::{
    context::Context,
    store_errors,
    target::Target,
    view::{Version, View},
};

/// How often a change is computed anew after losing a race.
const MAX_CONFLICTS: usize = 5;

/// Which half of an object a change may touch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Spec and metadata: what the resource's own URL writes.
    Main,
    /// The status alone.
    Status,
}

/// The state that a change starts from.
pub struct Current {
    /// The object in the hub's shape, with its `resourceVersion`.
    pub hub: Object,
    /// The revision that the write will be conditional on.
    pub revision: Revision,
}

/// What came of a change.
pub enum Outcome {
    /// The object as it is now.
    Kept(View),
    /// The object is gone; this was its last state.
    Removed(View),
}

impl Outcome {
    /// The object, gone or not.
    #[must_use]
    pub fn view(&self) -> &View {
        match self {
            Self::Kept(view) | Self::Removed(view) => view,
        }
    }
}

/// The next state that a change wants.
pub enum Next {
    /// Write this hub object.
    Put(Object),
    /// Remove the object; this is its last state.
    Remove(Object),
    /// Leave it as it is.
    Keep,
}

/// Creates an object that has passed every check.
///
/// # Errors
///
/// As the store says: 409 when the name is taken, 413, 503, 504.
pub async fn create(context: &Context, target: &Target, hub: Object) -> Result<View, ApiError> {
    let name = object::name(&hub).unwrap_or_default().to_owned();
    let key = target.key(object::namespace(&hub).unwrap_or_default(), &name);
    let uid = uid_of(&hub)?;
    let body = encode(hub)?;
    let write = Write {
        key,
        operation: Operation::Create {
            uid,
            body: body.clone(),
        },
        provenance: provenance(context),
    };
    let revision = target.entry.collection.write(write).await;
    let revision =
        revision.map_err(|error| store_errors::of_write(error, &target.group_resource(), &name))?;
    Ok(View::of_body(revision, &body))
}

/// Changes an object by `change`, which is called again whenever the state it
/// was given turns out not to be the current one.
///
/// # Errors
///
/// What `change` says of the current state; 404 when there is no object; 409
/// when other writers win five times; the store's failures.
pub async fn modify(
    context: &Context,
    target: &Target,
    key: &Key,
    change: impl Fn(&Current) -> Result<Next, ApiError>,
) -> Result<Outcome, ApiError> {
    let collection = &target.entry.collection;
    let mut snapshot = collection.snapshot();
    let mut is_current = false;
    let mut conflicts = 0;
    loop {
        let stored = snapshot.get(key).map(Arc::clone);
        let attempt = attempt(target, key, stored.as_deref(), &change);
        let write = match attempt {
            Ok(Attempt::Write(operation)) => operation,
            Ok(Attempt::Nothing(view)) if is_current => return Ok(Outcome::Kept(view)),
            Err(error) if is_current => return Err(error),
            settled => {
                let newer = consistent(target).await?;
                if newer.get(key).map(|s| s.revision) == stored.map(|s| s.revision) {
                    return match settled? {
                        Attempt::Nothing(view) => Ok(Outcome::Kept(view)),
                        Attempt::Write(_) => {
                            Err(ApiError::internal("a settled attempt holds a write"))
                        }
                    };
                }
                (snapshot, is_current) = (newer, true);
                continue;
            }
        };
        let is_removal = matches!(write, Operation::Delete { .. });
        let body = body_of(&write).clone();
        let write = Write {
            key: key.clone(),
            operation: write,
            provenance: provenance(context),
        };
        match collection.write(write).await {
            Ok(revision) if is_removal => {
                return Ok(Outcome::Removed(View::of_body(revision, &body)));
            }
            Ok(revision) => return Ok(Outcome::Kept(View::of_body(revision, &body))),
            Err(store::WriteError::Conflict { .. } | store::WriteError::NotFound)
                if conflicts < MAX_CONFLICTS =>
            {
                conflicts += 1;
                (snapshot, is_current) = (consistent(target).await?, true);
            }
            Err(error) => {
                return Err(store_errors::of_write(
                    error,
                    &target.group_resource(),
                    &key.name,
                ));
            }
        }
    }
}

/// Removes an object that cannot be read; returns its uid.
///
/// # Errors
///
/// 404 when there is no object, 422 when it can be read; the store's failures.
pub async fn remove_unreadable(
    context: &Context,
    target: &Target,
    key: &Key,
) -> Result<Uuid, ApiError> {
    let stored = consistent(target).await?.get(key).map(Arc::clone);
    let stored = stored.ok_or_else(|| ApiError::not_found(&target.group_resource(), &key.name))?;
    if stored.view.is_readable() {
        let rule =
            "is exclusively used to delete corrupt object(s), try again by removing this option";
        return Err(ApiError::invalid(
            &target.info().group_kind(),
            &key.name,
            &[FieldError::invalid(IGNORE_STORE_READ_ERROR, true, rule)],
        ));
    }
    let metadata = json!({ "name": &*key.name, "namespace": &*key.namespace, "uid": stored.uid });
    let last_state = json!({ "metadata": metadata }).to_string();
    let write = Write {
        key: key.clone(),
        operation: Operation::Delete {
            uid: stored.uid,
            expected: stored.revision,
            body: last_state.into(),
        },
        provenance: provenance(context),
    };
    let removed = target.entry.collection.write(write).await;
    removed
        .map(|_| stored.uid)
        .map_err(|error| store_errors::of_write(error, &target.group_resource(), &key.name))
}

enum Attempt {
    Nothing(View),
    Write(Operation),
}

fn attempt(
    target: &Target,
    key: &Key,
    stored: Option<&Stored<View>>,
    change: &impl Fn(&Current) -> Result<Next, ApiError>,
) -> Result<Attempt, ApiError> {
    let stored = stored.ok_or_else(|| ApiError::not_found(&target.group_resource(), &key.name))?;
    if !stored.view.is_readable() {
        return Err(ApiError::store_read_error(
            &target.group_resource(),
            &key.name,
        ));
    }
    let current = Current {
        hub: stored.view.hub(),
        revision: stored.revision,
    };
    let (uid, expected) = (stored.uid, stored.revision);
    Ok(match change(&current)? {
        Next::Keep => Attempt::Nothing(stored.view.clone()),
        Next::Remove(hub) => Attempt::Write(Operation::Delete {
            uid,
            expected,
            body: encode(hub)?,
        }),
        Next::Put(hub) => {
            let body = encode(hub)?;
            if stored.view.is_stored_as(&body) {
                Attempt::Nothing(stored.view.clone())
            } else {
                Attempt::Write(Operation::Update {
                    uid,
                    expected,
                    body,
                })
            }
        }
    })
}

async fn consistent(target: &Target) -> Result<Snapshot<View>, ApiError> {
    target
        .entry
        .collection
        .consistent()
        .await
        .map_err(|error| store_errors::of_read(error, None))
}

/// Completes a change that a client made to one half of an object: rules of
/// metadata, the resource's hooks, generation, validation, and removal when the
/// last finalizer of a deleted object went away.
///
/// # Errors
///
/// 409 and 422, as upstream's `BeforeUpdate` and `Update`.
pub fn complete_update(
    target: &Target,
    half: Half,
    current: &Current,
    mut new: Object,
) -> Result<Next, ApiError> {
    let name = object::name(&current.hub).unwrap_or_default();
    meta::check_revision(&new, current.revision.get(), &target.group_resource(), name)?;
    let resource = &target.entry.resource;
    let old = &current.hub;
    meta::prepare_update(&mut new, old);
    if half == Half::Main {
        resource.prepare_update(&mut new, old);
        meta::bump_generation_if_spec_changed(&mut new, old);
    }
    let mut errors = meta::validate_metadata(&new, target.info().is_namespaced());
    errors.extend(meta::validate_metadata_update(&new, old));
    errors.extend(target.info().storage_version().schema.validate(&new));
    errors.extend(resource.validate_update(&new, old));
    refuse_invalid(target, &new, errors)?;
    if meta::deletion::is_removable(&new) {
        return Ok(Next::Remove(new));
    }
    Ok(Next::Put(new))
}

/// 422 with all errors, at the paths of the version that the client wrote.
///
/// # Errors
///
/// When there is any error.
pub fn refuse_invalid(
    target: &Target,
    hub: &Object,
    errors: Vec<FieldError>,
) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let version = target.version();
    let errors: Vec<FieldError> = errors
        .into_iter()
        .map(|error| in_version(version, error))
        .collect();
    Err(invalid(target, hub, &errors))
}

/// 422 for errors that already stand at the client's paths.
#[must_use]
pub fn invalid(target: &Target, object: &Object, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(
        &target.info().group_kind(),
        object::name(object).unwrap_or_default(),
        errors,
    )
}

fn in_version(version: Version<'_>, mut error: FieldError) -> FieldError {
    if let Some(lens) = &version.info.lens
        && !error.field.starts_with("metadata")
    {
        error.field = lens.field_path(&error.field);
    }
    error
}

/// The bytes that are stored: canonical JSON without `resourceVersion`.
fn encode(mut hub: Object) -> Result<Bytes, ApiError> {
    object::remove_metadata(&mut hub, "resourceVersion");
    let bytes = serde_json::to_vec(&Value::Object(hub));
    bytes
        .map(Bytes::from)
        .map_err(|error| ApiError::internal(format!("an object could not be encoded: {error}")))
}

fn body_of(operation: &Operation) -> &Bytes {
    match operation {
        Operation::Create { body, .. }
        | Operation::Update { body, .. }
        | Operation::Delete { body, .. } => body,
    }
}

fn uid_of(hub: &Object) -> Result<Uuid, ApiError> {
    object::uid(hub)
        .and_then(|uid| Uuid::parse_str(uid).ok())
        .ok_or_else(|| ApiError::internal("a new object has no uid"))
}

/// Who writes, in texts that the database takes: one that it refused would spoil its whole batch.
fn provenance(context: &Context) -> Provenance {
    Provenance {
        user: recordable(&context.user.name),
        manager: recordable(&context.field_manager()),
        verb: recordable(&context.info.verb),
        audit_id: recordable(&context.audit_id),
    }
}

/// Without what Postgres stores in no text, and not longer than anybody needs.
fn recordable(text: &str) -> String {
    const MOST: usize = 1024;
    let sound = |character| {
        if character == '\0' {
            '\u{fffd}'
        } else {
            character
        }
    };
    text.chars().map(sound).take(MOST).collect()
}

/// The time that new timestamps carry.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_what_the_database_takes() {
        assert_eq!(recordable("alice"), "alice");
        assert_eq!(recordable("al\0ice\u{7}"), "al\u{fffd}ice\u{7}");
        assert_eq!(recordable(&"ü".repeat(5000)).chars().count(), 1024);
    }
}
