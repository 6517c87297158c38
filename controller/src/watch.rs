//! Watches and their caches: what the controller knows of Widgets and Deployments.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::runtime::reflector::{Lookup, ObjectRef, Store, reflector, store};
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::backoff::WatchBackoff;
use crate::cursor::Cursor;
use crate::error::describe;
use crate::metrics::Metrics;
use crate::queue::Key;

/// A watch that lived this long has recovered.
const RECOVERED_AFTER: Duration = Duration::from_secs(30);

/// Why a reconcile may be due.
#[derive(Debug)]
pub(crate) enum Trigger {
    /// The object of this key changed or went.
    One(Key),
    /// A list came in whole: anything may have changed or gone.
    All,
}

/// A cache of one resource, kept by a watch.
pub(crate) struct Cache<K>
where
    K: Resource<DynamicType = ()> + 'static,
{
    store: Store<K>,
    pub(crate) cursor: Arc<Cursor>,
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    /// The object as last seen.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        self.store.get(&reference)
    }

    /// The keys of all objects.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let objects = self.store.state();
        objects.iter().map(|object| key_of(&**object)).collect()
    }
}

/// Starts a watch of all namespaces. The stream must be polled for the cache to
/// live; it never ends. When it yields, the cache and its cursor have moved.
///
/// `trim` cuts from each object what nobody reads.
pub(crate) fn watch<K>(
    api: Api<K>,
    trim: fn(&mut K),
    resource: &'static str,
    metrics: Metrics,
) -> (Cache<K>, impl Stream<Item = Trigger> + Send)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let cursor = Arc::new(Cursor::default());
    let progress = Arc::clone(&cursor);
    let events = watcher(api, watcher::Config::default())
        .map_ok(move |event| event.modify(trim))
        .backoff(ResetTimerBackoff::new(
            WatchBackoff::default(),
            RECOVERED_AFTER,
        ));
    let triggers = reflector(writer, events).filter_map(move |event| {
        let trigger = match event {
            Ok(event) => {
                progress.observe(&event);
                trigger(&event)
            }
            Err(error) => {
                metrics.count_watch_error(resource);
                tracing::info!(
                    resource,
                    error = describe(&error),
                    "watch broke, trying again"
                );
                None
            }
        };
        std::future::ready(trigger)
    });
    let cache = Cache {
        store: reader,
        cursor,
    };
    (cache, triggers)
}

fn trigger<K: ResourceExt>(event: &Event<K>) -> Option<Trigger> {
    match event {
        Event::Apply(object) | Event::Delete(object) => Some(Trigger::One(key_of(object))),
        Event::InitDone => Some(Trigger::All),
        // Not in the cache before the whole list is.
        Event::Init | Event::InitApply(_) => None,
    }
}

fn key_of(object: &impl ResourceExt) -> Key {
    Key {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}
