//! One look at one Widget: observe, plan, write.
//!
//! Nothing is decided here. What is seen comes from the caches, unless they are
//! older than what this controller wrote last: then the look is put off until the
//! watch has caught up.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use widget_types::v1::Widget;

use crate::api::call;
use crate::error::ControllerError;
use crate::events::Recorder;
use crate::metrics::Metrics;
use crate::names::CONTROLLER;
use crate::plan::{Apply, Observed, StatusWrite, plan};
use crate::queue::{Key, Next};
use crate::watch::Cache;

/// How long the watch has to deliver an own write before the cache is looked at
/// again without a trigger.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What every reconcile shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) widgets: Cache<Widget>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
}

impl Context {
    /// Brings the world of one Widget closer to what it should be.
    pub(crate) async fn reconcile(&self, key: &Key) -> Result<Next, ControllerError> {
        let Some(mut observed) = self.observe(key) else {
            self.metrics.stale.inc();
            return Ok(Next::After(CATCH_UP));
        };
        let mut plan_now = plan(&observed);
        let Some(widget) = observed.widget.clone() else {
            return Ok(Next::Change);
        };
        let mut failure = None;
        if let Some(apply) = &plan_now.apply {
            match self.apply(key, &widget, apply).await {
                Ok(()) => {}
                Err(error) => {
                    // The status tells of it, so that it is computed with it.
                    let Some(refusal) = error.refusal() else {
                        return Err(error);
                    };
                    observed.rejection = Some(refusal.to_owned());
                    plan_now = plan(&observed);
                    failure = Some(error);
                }
            }
        }
        if let Some(write) = &plan_now.status {
            self.write_status(key, &widget, write).await?;
        }
        failure.map_or(Ok(Next::Change), Err)
    }

    /// `None` when a cache is older than an own write.
    fn observe(&self, key: &Key) -> Option<Observed> {
        // In this order: a write that is seen now is in the cache read after.
        let current = self.widgets.cursor.has_seen_writes(key)
            && self.deployments.cursor.has_seen_writes(key);
        current.then(|| Observed {
            widget: self.widgets.get(key),
            deployment: self.deployments.get(key),
            rejection: None,
            now: Timestamp::now(),
        })
    }

    async fn apply(
        &self,
        key: &Key,
        widget: &Widget,
        apply: &Apply,
    ) -> Result<(), ControllerError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut parameters = PatchParams::apply(CONTROLLER);
        parameters.force = apply.force;
        let patch = Patch::Apply(&apply.body);
        self.metrics.count_write("apply", "deployments");
        let request = api.patch(&key.name, &parameters, &patch);
        let deployment = call("apply the Deployment", request).await?;
        self.deployments.cursor.wrote(key, &deployment);
        tracing::info!(reason = apply.note.reason, "{}", apply.note.text);
        self.recorder.publish(widget, &apply.note).await;
        Ok(())
    }

    async fn write_status(
        &self,
        key: &Key,
        widget: &Widget,
        write: &StatusWrite,
    ) -> Result<(), ControllerError> {
        let api: Api<Widget> = Api::namespaced(self.client.clone(), &key.namespace);
        let parameters = PatchParams {
            field_manager: Some(CONTROLLER.to_owned()),
            ..PatchParams::default()
        };
        // With the resourceVersion, a Widget that has changed since is a conflict.
        let body = json!({
            "metadata": {"resourceVersion": widget.metadata.resource_version},
            "status": write.status,
        });
        self.metrics.count_write("patch", "widgets/status");
        let patch = Patch::Merge(&body);
        let request = api.patch_status(&key.name, &parameters, &patch);
        let written = match call("write the status", request).await {
            Err(error) if error.is_not_found() => return Ok(()),
            answer => answer?,
        };
        self.widgets.cursor.wrote(key, &written);
        if let Some(note) = &write.note {
            self.recorder.publish(widget, note).await;
        }
        Ok(())
    }
}
