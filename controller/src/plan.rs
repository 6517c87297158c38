//! What is to be done for one Widget, as a pure function of what was observed.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};
use widget_types::v1::{Widget, WidgetStatus};

use crate::deployment::{Ownership, desired, desired_replicas, is_applied};
use crate::status::{
    DEADLINE_EXCEEDED, DEGRADED, DEPLOYMENT_CONFLICT, DEPLOYMENT_REJECTED, Facts, REPLICA_FAILURE,
    changed_status, find,
};

/// Everything that a decision rests on.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) widget: Option<Arc<Widget>>,
    /// The Deployment of the Widget's name, whoever owns it.
    pub(crate) deployment: Option<Arc<Deployment>>,
    /// Why the API server refused the apply that was just tried.
    pub(crate) rejection: Option<String>,
    pub(crate) now: Timestamp,
}

/// The writes to make, in this order. Empty when the world is as it should be.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) apply: Option<Apply>,
    pub(crate) status: Option<StatusWrite>,
}

/// A server-side apply of the Deployment.
#[derive(Debug, PartialEq)]
pub(crate) struct Apply {
    pub(crate) body: Value,
    /// Take fields from other managers. Only for a Deployment known to be ours:
    /// without force, one that somebody made in the meantime is a conflict.
    pub(crate) force: bool,
    /// What to tell when it is done.
    pub(crate) note: Note,
}

/// A write of the Widget's status.
#[derive(Debug, PartialEq)]
pub(crate) struct StatusWrite {
    pub(crate) status: WidgetStatus,
    /// What to tell when it is done: a failure that was not there before.
    pub(crate) note: Option<Note>,
}

/// An Event about a Widget.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Note {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) action: &'static str,
    pub(crate) text: String,
}

/// Decides what to write.
///
/// A Widget that is being deleted is only reported on: its Deployment goes by
/// ownership. So is one whose Deployment is being deleted, until that is gone.
pub(crate) fn plan(observed: &Observed) -> Plan {
    let Some(widget) = observed.widget.as_deref() else {
        return Plan::default();
    };
    let ownership = Ownership::of(widget, observed.deployment.as_deref());
    let body = desired(widget);
    let applied = match ownership {
        Ownership::Ours(deployment) => is_applied(&body, deployment),
        _ => false,
    };
    let apply = if applied || widget.metadata.deletion_timestamp.is_some() {
        None
    } else {
        plan_apply(widget, ownership, body)
    };
    let facts = Facts {
        ownership,
        applied,
        rejection: observed.rejection.as_deref(),
        now: observed.now,
    };
    let status = changed_status(widget, facts).map(|status| StatusWrite {
        note: new_failure(widget, &status),
        status,
    });
    Plan { apply, status }
}

fn plan_apply(widget: &Widget, ownership: Ownership<'_>, mut body: Value) -> Option<Apply> {
    match ownership {
        Ownership::Absent => Some(Apply {
            note: note_created(widget),
            body,
            force: false,
        }),
        Ownership::Ours(deployment) if deployment.metadata.deletion_timestamp.is_none() => {
            // With the uid it is a conflict if the Deployment is another by now.
            if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("uid".to_owned(), json!(deployment.metadata.uid));
            }
            Some(Apply {
                body,
                force: true,
                note: note_updated(widget, deployment),
            })
        }
        Ownership::Ours(_) | Ownership::Predecessor | Ownership::Foreign => None,
    }
}

fn note_created(widget: &Widget) -> Note {
    let name = widget.metadata.name.as_deref().unwrap_or_default();
    let replicas = desired_replicas(widget);
    Note {
        warning: false,
        reason: "DeploymentCreated",
        action: "Create",
        text: format!("created Deployment {name} with {replicas} replicas"),
    }
}

fn note_updated(widget: &Widget, deployment: &Deployment) -> Note {
    let name = widget.metadata.name.as_deref().unwrap_or_default();
    let to = desired_replicas(widget);
    // The API server fills unset replicas, so that they are set here.
    let from = deployment.spec.replicas;
    match from.filter(|from| *from != to) {
        Some(from) => Note {
            warning: false,
            reason: "DeploymentScaled",
            action: "Scale",
            text: format!("scaled Deployment {name} from {from} to {to} replicas"),
        },
        None => Note {
            warning: false,
            reason: "DeploymentUpdated",
            action: "Update",
            text: format!("updated Deployment {name}"),
        },
    }
}

/// A note about `Degraded`, when the status tells of a failure that it did not
/// tell of before.
fn new_failure(widget: &Widget, status: &WidgetStatus) -> Option<Note> {
    let new = find(status, DEGRADED).filter(|condition| condition.status == "True")?;
    let old = widget.status.as_ref().and_then(|old| find(old, DEGRADED));
    if old.is_some_and(|old| old.status == "True" && old.reason == new.reason) {
        return None;
    }
    let reasons = [
        DEPLOYMENT_CONFLICT,
        DEPLOYMENT_REJECTED,
        REPLICA_FAILURE,
        DEADLINE_EXCEEDED,
    ];
    Some(Note {
        warning: true,
        reason: reasons.into_iter().find(|reason| *reason == new.reason)?,
        action: "Reconcile",
        text: new.message.clone(),
    })
}

#[cfg(test)]
mod tests;
