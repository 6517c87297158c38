//! What a delete does: remove the object, or mark it and wait for its finalizers.

use jiff::Timestamp;

use super::validate::{FOREGROUND, ORPHAN};
use crate::error::ApiError;
use crate::names::GroupResource;
use crate::object::{self, Object};
use crate::options::{DeleteOptions, Propagation};

/// What a delete of an object comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum DeletePlan {
    /// Nothing holds the object: remove it.
    Remove,
    /// Finalizers hold the object: store this, in which the deletion is noted.
    MarkDeleting(Object),
    /// The deletion is noted already and this delete changes nothing: answer with the object.
    AlreadyDeleting(Object),
}

/// Decides what a delete of `stored` comes to.
#[must_use]
pub fn plan(stored: &Object, options: &DeleteOptions, now: Timestamp) -> DeletePlan {
    let finalizers = wanted_finalizers(stored, options);
    if finalizers.is_empty() {
        return DeletePlan::Remove;
    }
    let mut marked = stored.clone();
    if !object::finalizers(stored).eq(finalizers.iter().map(String::as_str)) {
        object::set_finalizers(&mut marked, finalizers);
    }
    if object::deletion_timestamp(stored).is_none() {
        let generation = object::generation(stored);
        if generation > 0 {
            object::set_generation(&mut marked, generation.saturating_add(1));
        }
        object::set_metadata(&mut marked, "deletionTimestamp", super::timestamp(now));
    }
    object::set_metadata(&mut marked, "deletionGracePeriodSeconds", 0);
    if marked == *stored {
        DeletePlan::AlreadyDeleting(marked)
    } else {
        DeletePlan::MarkDeleting(marked)
    }
}

/// Whether an object is to be removed once this state of it would be stored: its deletion was
/// asked for and no finalizer is left.
#[must_use]
pub fn is_removable(object: &Object) -> bool {
    object::deletion_timestamp(object).is_some() && object::finalizers(object).next().is_none()
}

/// The object's finalizers with those of garbage collection as the delete wants them.
fn wanted_finalizers(stored: &Object, options: &DeleteOptions) -> Vec<String> {
    let collects = |finalizer: &str| finalizer == ORPHAN || finalizer == FOREGROUND;
    let mut wanted: Vec<String> = object::finalizers(stored)
        .filter(|f| !collects(f))
        .map(str::to_owned)
        .collect();
    let policy = options
        .propagation()
        .or_else(|| object::finalizers(stored).find_map(propagation_of));
    match policy {
        Some(Propagation::Orphan) => wanted.push(ORPHAN.to_owned()),
        Some(Propagation::Foreground) => wanted.push(FOREGROUND.to_owned()),
        Some(Propagation::Background) | None => {}
    }
    let same_set = wanted.len() == object::finalizers(stored).count()
        && object::finalizers(stored).all(|f| wanted.iter().any(|w| w == f));
    if same_set {
        object::finalizers(stored).map(str::to_owned).collect()
    } else {
        wanted
    }
}

/// A finalizer that the object has already stands for the policy that set it.
fn propagation_of(finalizer: &str) -> Option<Propagation> {
    match finalizer {
        ORPHAN => Some(Propagation::Orphan),
        FOREGROUND => Some(Propagation::Foreground),
        _ => None,
    }
}

/// A delete may say which object, in which state, it means.
///
/// # Errors
/// 409 if `stored` is another object or in another state. `kind` is named where a resource is due,
/// as upstream does.
pub fn check_preconditions(
    stored: &Object,
    options: &DeleteOptions,
    group: &str,
    kind: &str,
) -> Result<(), ApiError> {
    let conflict = |message: String| {
        let resource = GroupResource::new(group.to_owned(), kind.to_owned());
        ApiError::conflict(
            &resource,
            object::name(stored).unwrap_or_default(),
            &message,
        )
    };
    let uid = object::uid(stored).unwrap_or_default();
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The \
             object might have been deleted and then recreated"
        )));
    }
    let version = object::resource_version(stored).unwrap_or_default();
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != version)
    {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the \
             ResourceVersion in record ({version}). The object might have been modified"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05.678Z".parse().unwrap()
    }

    fn with(policy: Option<Propagation>) -> DeleteOptions {
        DeleteOptions {
            propagation_policy: policy,
            ..DeleteOptions::default()
        }
    }

    #[test]
    fn without_finalizers_the_object_is_removed() {
        let plain = object(json!({"metadata": {"name": "a", "generation": 1}}));
        assert_eq!(plan(&plain, &with(None), now()), DeletePlan::Remove);
        let background = with(Some(Propagation::Background));
        assert_eq!(plan(&plain, &background, now()), DeletePlan::Remove);
        let collected = object(json!({"metadata": {"finalizers": ["foregroundDeletion"]}}));
        assert_eq!(plan(&collected, &background, now()), DeletePlan::Remove);
    }

    #[test]
    fn a_finalizer_holds_the_object_and_the_generation_rises_once() {
        let held =
            object(json!({"metadata": {"name": "a", "generation": 1, "finalizers": ["x/y"]}}));
        let DeletePlan::MarkDeleting(marked) = plan(&held, &with(None), now()) else {
            panic!("the object is marked");
        };
        assert_eq!(
            Value::Object(marked.clone()),
            json!({"metadata": {
                "name": "a", "generation": 2, "finalizers": ["x/y"],
                "deletionTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 0
            }})
        );
        let again = plan(
            &marked,
            &with(None),
            "2027-01-01T00:00:00Z".parse().unwrap(),
        );
        assert_eq!(again, DeletePlan::AlreadyDeleting(marked));
    }

    #[test]
    fn policies_set_and_clear_the_finalizers_of_garbage_collection() {
        let plain = object(json!({"metadata": {"name": "a"}}));
        let finalizers = |stored: &Object, policy| match plan(stored, &with(policy), now()) {
            DeletePlan::Remove => vec![],
            DeletePlan::MarkDeleting(marked) | DeletePlan::AlreadyDeleting(marked) => {
                object::finalizers(&marked)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            }
        };
        assert_eq!(
            finalizers(&plain, Some(Propagation::Foreground)),
            ["foregroundDeletion"]
        );
        assert_eq!(finalizers(&plain, Some(Propagation::Orphan)), ["orphan"]);
        let orphan = object(json!({"metadata": {"finalizers": ["orphan", "x/y"]}}));
        assert_eq!(finalizers(&orphan, None), ["orphan", "x/y"]);
        assert_eq!(finalizers(&orphan, Some(Propagation::Background)), ["x/y"]);
        assert_eq!(
            finalizers(&orphan, Some(Propagation::Foreground)),
            ["x/y", "foregroundDeletion"]
        );
    }

    #[test]
    fn the_legacy_option_means_orphan_or_background() {
        let plain = object(json!({"metadata": {"name": "a"}}));
        let legacy = |orphan| DeleteOptions {
            orphan_dependents: Some(orphan),
            ..DeleteOptions::default()
        };
        assert!(matches!(
            plan(&plain, &legacy(true), now()),
            DeletePlan::MarkDeleting(_)
        ));
        assert_eq!(plan(&plain, &legacy(false), now()), DeletePlan::Remove);
    }

    #[test]
    fn an_object_is_removable_when_it_is_deleting_and_nothing_holds_it() {
        assert!(is_removable(&object(
            json!({"metadata": {"deletionTimestamp": "T"}})
        )));
        assert!(!is_removable(&object(json!({"metadata": {}}))));
        let held = json!({"metadata": {"deletionTimestamp": "T", "finalizers": ["x"]}});
        assert!(!is_removable(&object(held)));
    }

    #[test]
    fn preconditions_name_the_object_and_its_state() {
        let stored = object(json!({"metadata": {"name": "w", "uid": "u", "resourceVersion": "7"}}));
        let check = |uid: Option<&str>, version: Option<&str>| {
            let options = DeleteOptions {
                uid: uid.map(str::to_owned),
                resource_version: version.map(str::to_owned),
                ..DeleteOptions::default()
            };
            check_preconditions(&stored, &options, "example.com", "Widget")
        };
        assert!(check(Some("u"), Some("7")).is_ok());
        assert_eq!(
            check(Some("v"), None).unwrap_err().to_string(),
            "Operation cannot be fulfilled on Widget.example.com \"w\": the UID in the \
             precondition (v) does not match the UID in record (u). The object might have been \
             deleted and then recreated"
        );
        let stale = check(None, Some("6")).unwrap_err();
        assert_eq!(stale.code(), 409);
        assert!(
            stale
                .to_string()
                .ends_with("The object might have been modified")
        );
    }

    proptest! {
        #[test]
        fn a_repeated_delete_changes_nothing(
            finalizers in proptest::collection::vec(
                prop_oneof![Just("orphan"), Just("a/b"), Just("c/d")], 0..4
            ),
            policy in proptest::option::of(prop_oneof![
                Just(Propagation::Orphan), Just(Propagation::Foreground), Just(Propagation::Background)
            ]),
        ) {
            let stored = object(json!({"metadata": {"generation": 1, "finalizers": finalizers}}));
            if let DeletePlan::MarkDeleting(marked) = plan(&stored, &with(policy), now()) {
                let again = plan(&marked, &with(policy), now());
                prop_assert_eq!(again, DeletePlan::AlreadyDeleting(marked));
            }
        }
    }
}
