//! Events about Widgets. What happens again is counted in the Event that told of
//! it first, and that not more often than once a minute.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use widget_types::v1::Widget;

use crate::api::call;
use crate::error::ControllerError;
use crate::metrics::Metrics;
use crate::names::CONTROLLER;
use crate::plan::Note;

/// How long the same note counts as the same happening.
const SERIES_LIFE: Duration = Duration::from_secs(6 * 60);
/// How often a count is written at most.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// The API's limits.
const MAX_NOTE: usize = 1024;
const MAX_NAME_PREFIX: usize = 230;

/// Publishes Events, in the name of this process.
pub(crate) struct Recorder {
    client: Client,
    identity: String,
    metrics: Metrics,
    series: Mutex<HashMap<(String, Note), Series>>,
}

#[derive(Clone, Debug)]
struct Series {
    event: String,
    count: i32,
    counted: i32,
    seen: Instant,
    written: Instant,
}

/// What to do about a happening.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    Count { event: String, count: i32 },
    Nothing,
}

impl Recorder {
    pub(crate) fn new(client: Client, identity: String, metrics: Metrics) -> Self {
        Self {
            client,
            identity,
            metrics,
            series: Mutex::default(),
        }
    }

    /// Tells of a happening. A failure to do so is logged and changes nothing.
    pub(crate) async fn publish(&self, widget: &Widget, note: &Note) {
        if let Err(error) = self.try_publish(widget, note).await {
            tracing::info!(
                reason = note.reason,
                error = error.describe(),
                "Event not published"
            );
        }
    }

    async fn try_publish(&self, widget: &Widget, note: &Note) -> Result<(), ControllerError> {
        let uid = widget.metadata.uid.clone().unwrap_or_default();
        let namespace = widget.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let key = (uid, note.clone());
        let now = Instant::now();
        let step = next_step(&mut *self.series.lock().await, &key, now);
        match step {
            Step::Nothing => return Ok(()),
            Step::Count { event, count } => {
                self.metrics.count_write("patch", "events");
                let time = MicroTime(Timestamp::now());
                let series = json!({"series": {"count": count, "lastObservedTime": time}});
                let parameters = PatchParams::default();
                let patch = Patch::Merge(&series);
                let sent = call("count an Event", api.patch(&event, &parameters, &patch)).await;
                match sent {
                    Ok(_) => return Ok(()),
                    // It outlived its retention, so that this is a new one.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Step::Create => {}
        }
        self.metrics.count_write("create", "events");
        let event = self.event(widget, note);
        let parameters = PostParams::default();
        call("create an Event", api.create(&parameters, &event)).await?;
        let series = Series {
            event: event.metadata.name.unwrap_or_default(),
            count: 1,
            counted: 1,
            seen: now,
            written: now,
        };
        self.series.lock().await.insert(key, series);
        Ok(())
    }

    fn event(&self, widget: &Widget, note: &Note) -> Event {
        let now = Timestamp::now();
        let name = widget.metadata.name.as_deref().unwrap_or_default();
        let prefix = truncated(name, MAX_NAME_PREFIX).trim_end_matches(['-', '.']);
        let kind = if note.warning { "Warning" } else { "Normal" };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{prefix}.{:x}", now.as_nanosecond())),
                namespace: widget.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(note.action.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(truncated(&note.text, MAX_NOTE).to_owned()),
            reason: Some(note.reason.to_owned()),
            regarding: Some(widget.object_ref(&())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            type_: Some(kind.to_owned()),
            ..Event::default()
        }
    }
}

fn next_step(
    all: &mut HashMap<(String, Note), Series>,
    key: &(String, Note),
    now: Instant,
) -> Step {
    all.retain(|_, series| now.duration_since(series.seen) < SERIES_LIFE);
    let Some(series) = all.get_mut(key) else {
        return Step::Create;
    };
    series.seen = now;
    series.count = series.count.saturating_add(1);
    let first = series.counted == 1;
    if !first && now.duration_since(series.written) < COUNT_EVERY {
        return Step::Nothing;
    }
    series.counted = series.count;
    series.written = now;
    Step::Count {
        event: series.event.clone(),
        count: series.count,
    }
}

/// The longest start of `text` that takes at most `limit` bytes.
fn truncated(text: &str, limit: usize) -> &str {
    let end = text.floor_char_boundary(limit);
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_is_counted_in_one_event_once_a_minute() {
        let note = Note {
            warning: true,
            reason: "DeploymentRejected",
            action: "Reconcile",
            text: "no".to_owned(),
        };
        let key = ("uid".to_owned(), note);
        let start = Instant::now();
        let mut all = HashMap::new();
        assert_eq!(next_step(&mut all, &key, start), Step::Create);
        let series = Series {
            event: "w.1".to_owned(),
            count: 1,
            counted: 1,
            seen: start,
            written: start,
        };
        all.insert(key.clone(), series);
        let counted = |count| Step::Count {
            event: "w.1".to_owned(),
            count,
        };
        let second = Duration::from_secs(1);
        assert_eq!(next_step(&mut all, &key, start + second), counted(2));
        assert_eq!(next_step(&mut all, &key, start + 2 * second), Step::Nothing);
        assert_eq!(next_step(&mut all, &key, start + 90 * second), counted(4));
        let later = start + 90 * second + SERIES_LIFE;
        assert_eq!(next_step(&mut all, &key, later), Step::Create);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(truncated("aé", 2), "a");
        assert_eq!(truncated("aé", 3), "aé");
    }
}
