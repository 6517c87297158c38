//! Scenarios: what is there, and what the plan makes of it.

use k8s_openapi::api::apps::v1::DeploymentCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use widget_types::v1::Phase;

use super::*;
use crate::fixtures::{applied, rolled_out, widget};
use crate::names::selector;

const THEN: &str = "2026-01-02T03:04:05Z";
const NOW: &str = "2026-01-02T03:05:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn observe(widget: &Widget, deployment: Option<Deployment>) -> Observed {
    Observed {
        widget: Some(Arc::new(widget.clone())),
        deployment: deployment.map(Arc::new),
        rejection: None,
        now: at(NOW),
    }
}

/// The Widget once the controller has nothing more to do, at `THEN`.
fn settled(mut widget: Widget, deployment: &Deployment) -> Widget {
    let mut observed = observe(&widget, Some(deployment.clone()));
    observed.now = at(THEN);
    let status = plan(&observed).status.map(|write| write.status);
    widget.status = status.or(widget.status);
    widget
}

fn running() -> (Widget, Deployment) {
    let widget = widget(|_| {});
    let deployment = rolled_out(&widget);
    (settled(widget, &deployment), deployment)
}

fn with_condition(deployment: &mut Deployment, kind: &str, status: &str, reason: &str) {
    let conditions = deployment
        .status
        .as_mut()
        .unwrap()
        .conditions
        .get_or_insert_default();
    conditions.push(DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(format!("because of {reason}")),
        ..DeploymentCondition::default()
    });
}

/// What a scenario should come to. `apply` and `warning` are reasons of Events;
/// `status` is phase, and whether Available, Progressing and Degraded hold.
struct Expected {
    apply: Option<&'static str>,
    status: Option<(Phase, [bool; 3])>,
    warning: Option<&'static str>,
}

fn check(name: &str, observed: &Observed, expected: &Expected) {
    let plan = plan(observed);
    let apply = plan.apply.as_ref().map(|apply| apply.note.reason);
    assert_eq!(apply, expected.apply, "{name}: apply");
    let status = plan.status.as_ref().map(|write| {
        let held = [
            crate::status::AVAILABLE,
            crate::status::PROGRESSING,
            DEGRADED,
        ]
        .map(|kind| find(&write.status, kind).unwrap().status == "True");
        (write.status.phase.unwrap(), held)
    });
    assert_eq!(status, expected.status, "{name}: status");
    let warning = plan
        .status
        .and_then(|write| write.note)
        .map(|note| note.reason);
    assert_eq!(warning, expected.warning, "{name}: warning");
}

const NOTHING: Expected = Expected {
    apply: None,
    status: None,
    warning: None,
};

/// Only the status changes.
const fn told(phase: Phase, held: [bool; 3]) -> Expected {
    Expected {
        status: Some((phase, held)),
        ..NOTHING
    }
}

/// The Deployment is applied too.
const fn applying(reason: &'static str, phase: Phase, held: [bool; 3]) -> Expected {
    Expected {
        apply: Some(reason),
        ..told(phase, held)
    }
}

/// The status fails, with an Event of the same reason.
const fn failed(reason: &'static str) -> Expected {
    Expected {
        warning: Some(reason),
        ..told(Phase::Failed, [false, false, true])
    }
}

/// A settled Widget and Deployment, and what then happened to each.
fn after(widget: impl Fn(&mut Widget), deployment: impl Fn(&mut Deployment)) -> Observed {
    let (mut the_widget, mut the_deployment) = running();
    widget(&mut the_widget);
    deployment(&mut the_deployment);
    observe(&the_widget, Some(the_deployment))
}

fn check_all<const N: usize>(table: [(&str, Observed, Expected); N]) {
    for (name, observed, expected) in table {
        check(name, &observed, &expected);
    }
}

#[test]
fn a_new_widget_gets_a_deployment_and_runs_when_it_is_up() {
    let new = widget(|_| {});
    let zero = widget(|w| w.spec.replicas = Some(0));
    check_all([
        (
            "new",
            observe(&new, None),
            applying("DeploymentCreated", Phase::Pending, [false, true, false]),
        ),
        (
            "applied, not seen by the Deployment controller",
            observe(&new, Some(applied(&new))),
            told(Phase::Pending, [false, true, false]),
        ),
        (
            "rolled out",
            observe(&new, Some(rolled_out(&new))),
            told(Phase::Running, [true, false, false]),
        ),
        (
            "no replicas wanted",
            observe(&zero, Some(rolled_out(&zero))),
            told(Phase::Running, [true, false, false]),
        ),
    ]);
}

#[test]
fn a_widget_that_changes_changes_its_deployment() {
    let scaled = |w: &mut Widget| {
        w.spec.replicas = Some(5);
        w.metadata.generation = Some(2);
    };
    let new_image = |w: &mut Widget| {
        w.spec.image = "nginx:1.28".to_owned();
        w.metadata.generation = Some(2);
    };
    let rolling = |d: &mut Deployment| {
        let status = d.status.as_mut().unwrap();
        status.replicas = Some(4);
        status.updated_replicas = Some(1);
    };
    check_all([
        (
            "scaled",
            after(scaled, |_| {}),
            applying("DeploymentScaled", Phase::Pending, [false, true, false]),
        ),
        (
            "image changed",
            after(new_image, |_| {}),
            applying("DeploymentUpdated", Phase::Pending, [true, true, false]),
        ),
        (
            "replicas changed by somebody else",
            after(|_| {}, |d| d.spec.replicas = Some(1)),
            applying("DeploymentScaled", Phase::Pending, [true, true, false]),
        ),
        (
            "rollout in progress",
            after(|_| {}, rolling),
            told(Phase::Running, [true, true, false]),
        ),
        (
            "the Deployment's generation is not observed yet",
            after(|_| {}, |d| d.metadata.generation = Some(2)),
            told(Phase::Pending, [true, true, false]),
        ),
    ]);
}

#[test]
fn at_rest_nothing_is_written() {
    let no_widget = Observed {
        widget: None,
        ..after(|_| {}, |_| {})
    };
    check_all([
        ("at rest", after(|_| {}, |_| {}), NOTHING),
        ("no Widget", no_widget, NOTHING),
    ]);
}

#[test]
fn failures_are_told() {
    let reported = |kind, status, reason| {
        move |d: &mut Deployment| {
            d.status.as_mut().unwrap().available_replicas = Some(1);
            with_condition(d, kind, status, reason);
        }
    };
    let rejected = Observed {
        rejection: Some("admission said no".to_owned()),
        ..observe(&widget(|_| {}), None)
    };
    check_all([
        (
            "a Deployment that is not owned",
            after(|_| {}, |d| d.metadata.owner_references = None),
            failed("DeploymentConflict"),
        ),
        (
            "ReplicaFailure",
            after(|_| {}, reported("ReplicaFailure", "True", "FailedCreate")),
            failed("ReplicaFailure"),
        ),
        (
            "ProgressDeadlineExceeded",
            after(
                |_| {},
                reported("Progressing", "False", "ProgressDeadlineExceeded"),
            ),
            failed("ProgressDeadlineExceeded"),
        ),
        (
            "a rollout that moves",
            after(|_| {}, reported("Progressing", "True", "ReplicaSetUpdated")),
            told(Phase::Pending, [false, true, false]),
        ),
        (
            "the API server refuses the Deployment",
            rejected,
            Expected {
                warning: Some("DeploymentRejected"),
                ..applying("DeploymentCreated", Phase::Pending, [false, false, true])
            },
        ),
    ]);
}

#[test]
fn deletion_is_left_to_ownership() {
    let deleted_at = || Some(Time(at(THEN)));
    let mut gone = after(
        |w| {
            w.metadata.deletion_timestamp = deleted_at();
            w.spec.replicas = Some(5);
        },
        |_| {},
    );
    gone.deployment = None;
    let told_pending = || told(Phase::Pending, [false, true, false]);
    check_all([
        ("the Widget is being deleted", gone, told_pending()),
        (
            "the Deployment is being deleted",
            after(
                |w| w.spec.replicas = Some(5),
                |d| d.metadata.deletion_timestamp = deleted_at(),
            ),
            told_pending(),
        ),
        (
            "the Deployment of a deleted Widget of the same name",
            after(|w| w.metadata.uid = Some("uid-2".to_owned()), |_| {}),
            told_pending(),
        ),
    ]);
}

#[test]
fn a_failure_is_told_once() {
    let (_, mut deployment) = running();
    with_condition(&mut deployment, "ReplicaFailure", "True", "FailedCreate");
    let widget = settled(widget(|_| {}), &deployment);
    check(
        "again",
        &observe(&widget, Some(deployment.clone())),
        &NOTHING,
    );
    deployment.status.as_mut().unwrap().replicas = Some(2);
    let expected = Expected {
        status: Some((Phase::Failed, [true, false, true])),
        ..NOTHING
    };
    check(
        "another count",
        &observe(&widget, Some(deployment)),
        &expected,
    );
}

#[test]
fn the_status_tells_counts_selector_and_generation() {
    let widget = widget(|w| w.metadata.generation = Some(4));
    let status = plan(&observe(&widget, Some(rolled_out(&widget)))).status;
    let status = status.unwrap().status;
    assert_eq!(status.replicas, Some(3));
    assert_eq!(status.available_replicas, Some(3));
    assert_eq!(status.selector, Some(selector("my-widget")));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.last_updated, Some(Time(at(NOW))));
}

#[test]
fn times_move_only_with_what_they_date() {
    let (widget, mut deployment) = running();
    let status = deployment.status.as_mut().unwrap();
    status.replicas = Some(4);
    let status = plan(&observe(&widget, Some(deployment)))
        .status
        .unwrap()
        .status;
    assert_eq!(status.last_updated, Some(Time(at(NOW))));
    let since = |kind| find(&status, kind).unwrap().last_transition_time.clone();
    assert_eq!(since("Available"), Time(at(THEN)));
    assert_eq!(since("Degraded"), Time(at(THEN)));
    assert_eq!(since("Progressing"), Time(at(NOW)));
}

#[test]
fn conditions_of_others_are_kept() {
    let (mut widget, deployment) = running();
    let foreign = Condition {
        type_: "Audited".to_owned(),
        status: "True".to_owned(),
        reason: "Audit".to_owned(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(at(THEN)),
    };
    let conditions = widget.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions.insert(0, foreign.clone());
    check(
        "kept",
        &observe(&widget, Some(deployment.clone())),
        &NOTHING,
    );
    let status = plan(&observe(&widget, None)).status.unwrap().status;
    assert_eq!(find(&status, "Audited"), Some(&foreign));
    assert_eq!(status.conditions.unwrap().len(), 4);
}

#[test]
fn only_a_deployment_known_to_be_ours_is_forced() {
    let (mut widget, deployment) = running();
    let create = plan(&observe(&widget, None)).apply.unwrap();
    assert!(!create.force);
    assert_eq!(create.body["metadata"].get("uid"), None);
    widget.spec.replicas = Some(4);
    let update = plan(&observe(&widget, Some(deployment))).apply.unwrap();
    assert!(update.force);
    assert_eq!(update.body["metadata"]["uid"], "uid-d");
    assert_eq!(update.body["spec"]["replicas"], 4);
}

#[test]
fn a_name_too_long_for_a_label_is_hashed_in_labels_and_selector() {
    let name = "a".repeat(253);
    let widget = widget(|w| w.metadata.name = Some(name.clone()));
    let plan = plan(&observe(&widget, None));
    let body = plan.apply.unwrap().body;
    assert_eq!(body["metadata"]["name"], name);
    let pod = &body["spec"]["template"]["metadata"]["labels"];
    let label = pod["app.kubernetes.io/instance"].as_str().unwrap();
    assert_eq!(label.len(), 63);
    assert!(label.starts_with(&format!("{}-", "a".repeat(52))));
    assert_eq!(&body["spec"]["selector"]["matchLabels"], pod);
    let selector = plan.status.unwrap().status.selector.unwrap();
    assert!(selector.contains(label));
}

#[test]
fn unset_fields_of_a_widget_mean_their_defaults() {
    let widget = widget(|w| {
        w.spec.replicas = None;
        w.spec.color = None;
    });
    let body = plan(&observe(&widget, None)).apply.unwrap().body;
    assert_eq!(body["spec"]["replicas"], 1);
    let container = &body["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"][0]["value"], "blue");
}
