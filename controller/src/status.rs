//! The status that a Widget should have, computed from its Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use widget_types::v1::{Phase, Widget, WidgetStatus};

use crate::deployment::{Ownership, desired_replicas};
use crate::names::selector;

pub(crate) const AVAILABLE: &str = "Available";
pub(crate) const PROGRESSING: &str = "Progressing";
pub(crate) const DEGRADED: &str = "Degraded";

pub(crate) const DEPLOYMENT_CONFLICT: &str = "DeploymentConflict";
pub(crate) const DEPLOYMENT_REJECTED: &str = "DeploymentRejected";
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(crate) const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
const AS_EXPECTED: &str = "AsExpected";

/// What the status is computed from, besides the Widget itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) ownership: Ownership<'a>,
    /// The Deployment is what the Widget wants: nothing is left to apply.
    pub(crate) applied: bool,
    /// Why the API server refused the last apply, if it did.
    pub(crate) rejection: Option<&'a str>,
    pub(crate) now: Timestamp,
}

/// The status to write, or `None` when the Widget has it already.
///
/// `lastUpdated` and each `lastTransitionTime` move only with what they date.
pub(crate) fn changed_status(widget: &Widget, facts: Facts<'_>) -> Option<WidgetStatus> {
    let old = widget.status.clone().unwrap_or_default();
    let reading = Reading::of(widget, facts);
    let mut new = WidgetStatus {
        replicas: Some(reading.replicas),
        available_replicas: Some(reading.available),
        selector: widget.metadata.name.as_deref().map(selector),
        phase: Some(reading.phase()),
        observed_generation: widget.metadata.generation,
        last_updated: old.last_updated.clone(),
        conditions: Some(merge_conditions(
            old.conditions.as_deref().unwrap_or_default(),
            &reading.conditions(),
            widget.metadata.generation,
            facts.now,
        )),
    };
    if new == old {
        return None;
    }
    new.last_updated = Some(Time(facts.now));
    Some(new)
}

/// The condition of that type, if it is there.
pub(crate) fn find<'a>(status: &'a WidgetStatus, kind: &str) -> Option<&'a Condition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

/// A condition before it is dated.
struct Finding {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The Deployment as far as the status tells of it.
struct Reading<'a> {
    name: &'a str,
    facts: Facts<'a>,
    desired: i32,
    replicas: i32,
    updated: i32,
    available: i32,
    /// The Deployment's controller has seen what the Widget wants.
    current: bool,
}

impl<'a> Reading<'a> {
    fn of(widget: &'a Widget, facts: Facts<'a>) -> Self {
        let none = DeploymentStatus::default();
        let (status, seen) = match facts.ownership {
            Ownership::Ours(deployment) => {
                let status = deployment.status.as_ref().unwrap_or(&none);
                let seen = status.observed_generation >= deployment.metadata.generation;
                (status, seen)
            }
            _ => (&none, false),
        };
        Self {
            name: widget.metadata.name.as_deref().unwrap_or_default(),
            facts,
            desired: desired_replicas(widget),
            replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            current: seen && facts.applied,
        }
    }

    fn phase(&self) -> Phase {
        match self.failure() {
            Some((DEPLOYMENT_CONFLICT | REPLICA_FAILURE | DEADLINE_EXCEEDED, _)) => Phase::Failed,
            _ if self.current && self.available >= self.desired => Phase::Running,
            _ => Phase::Pending,
        }
    }

    fn conditions(&self) -> [Finding; 3] {
        [self.available(), self.progressing(), self.degraded()]
    }

    fn available(&self) -> Finding {
        let exists = matches!(self.facts.ownership, Ownership::Ours(_));
        let holds = exists && self.available >= self.desired;
        let (available, desired) = (self.available, self.desired);
        Finding {
            kind: AVAILABLE,
            holds,
            reason: match (exists, holds) {
                (_, true) => "AllReplicasAvailable",
                (true, false) => "ReplicasUnavailable",
                (false, false) => "DeploymentMissing",
            },
            message: format!("{available} of {desired} replicas are available"),
        }
    }

    fn progressing(&self) -> Finding {
        let complete = self.current
            && self.updated >= self.desired
            && self.replicas == self.desired
            && self.available >= self.desired;
        let (holds, reason, message) = match (self.failure(), complete) {
            (Some((reason, _)), _) => (false, reason, "the rollout cannot make progress"),
            (None, true) => (false, "RolloutComplete", "the rollout is complete"),
            (None, false) => (true, "RolloutInProgress", "the rollout is in progress"),
        };
        Finding {
            kind: PROGRESSING,
            holds,
            reason,
            message: message.to_owned(),
        }
    }

    fn degraded(&self) -> Finding {
        let (holds, reason, message) = match self.failure() {
            Some((reason, message)) => (true, reason, message),
            None => (false, AS_EXPECTED, "nothing is wrong".to_owned()),
        };
        Finding {
            kind: DEGRADED,
            holds,
            reason,
            message,
        }
    }

    /// What is wrong, the root of the matter first.
    fn failure(&self) -> Option<(&'static str, String)> {
        let name = self.name;
        if let Ownership::Foreign = self.facts.ownership {
            let text = format!("Deployment {name} exists and is not owned by this Widget");
            return Some((DEPLOYMENT_CONFLICT, text));
        }
        if let Some(rejection) = self.facts.rejection {
            return Some((DEPLOYMENT_REJECTED, rejection.to_owned()));
        }
        let Ownership::Ours(deployment) = self.facts.ownership else {
            return None;
        };
        if let Some(condition) = reported(deployment, "ReplicaFailure", "True") {
            let message = condition.message.clone().unwrap_or_default();
            return Some((REPLICA_FAILURE, message));
        }
        let stuck = reported(deployment, "Progressing", "False")?;
        if stuck.reason.as_deref() != Some(DEADLINE_EXCEEDED) {
            return None;
        }
        Some((DEADLINE_EXCEEDED, stuck.message.clone().unwrap_or_default()))
    }
}

fn reported<'a>(
    deployment: &'a Deployment,
    kind: &str,
    status: &str,
) -> Option<&'a DeploymentCondition> {
    let mut conditions = deployment.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|c| c.type_.as_deref() == Some(kind) && c.status.as_deref() == Some(status))
}

/// The old list with our conditions replaced where they stand; others are kept.
fn merge_conditions(
    old: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut merged = old.to_vec();
    for finding in findings {
        let status = if finding.holds { "True" } else { "False" };
        let place = merged.iter_mut().find(|c| c.type_ == finding.kind);
        let since = match &place {
            Some(condition) if condition.status == status => condition.last_transition_time.clone(),
            _ => Time(now),
        };
        let condition = Condition {
            type_: finding.kind.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message.clone(),
            observed_generation: generation,
            last_transition_time: since,
        };
        match place {
            Some(place) => *place = condition,
            None => merged.push(condition),
        }
    }
    merged
}
