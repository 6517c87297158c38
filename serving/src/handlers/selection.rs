//! Which objects of a collection a list, a watch or a deletecollection is about.

use std::sync::Arc;

use machinery::{
    continue_token::ContinueToken,
    error::ApiError,
    field_selector::FieldSelector,
    label_selector::LabelSelector,
    options::ListOptions,
    shard_selector::{ShardKey, ShardSelector},
};
use store::{Key, Revision, Scope, Snapshot, Stored};
use uuid::Uuid;

use crate::{context::Context, target::Target, view::View};

/// A namespace, or all of them, with label and field selectors.
pub(super) struct Selection {
    target: Target,
    namespace: Option<Arc<str>>,
    /// The only name that can match.
    name: Option<Arc<str>>,
    labels: LabelSelector,
    fields: FieldSelector,
    shard: Option<ShardSelector>,
}

impl Selection {
    /// Reads the selectors of a request.
    ///
    /// # Errors
    ///
    /// 400 when a selector cannot be parsed or names a field that the version
    /// does not declare.
    pub(super) fn of(
        context: &Context,
        target: &Target,
        options: &ListOptions,
    ) -> Result<Self, ApiError> {
        let mut supported = vec!["metadata.name", "metadata.namespace"];
        supported.extend(
            target
                .version()
                .info
                .selectable
                .iter()
                .map(|field| field.label),
        );
        let fields = options.field_selector.clone();
        fields.check_supported(&supported)?;
        let path_name = context
            .info
            .named_by_path
            .then_some(context.info.name.as_str());
        let name = path_name
            .or_else(|| fields.required_value("metadata.name"))
            .map(Arc::from);
        let namespace = context.info.namespace.as_str();
        Ok(Self {
            target: target.clone(),
            namespace: (!namespace.is_empty()).then(|| namespace.into()),
            name,
            labels: options.label_selector.clone(),
            fields,
            shard: options.shard_selector.clone(),
        })
    }

    /// Whether every object of the namespace is meant.
    pub(super) fn is_everything(&self) -> bool {
        self.name.is_none()
            && self.labels.is_empty()
            && self.fields.is_empty()
            && self.shard.is_none()
    }

    /// What a watcher has to be woken for.
    pub(super) fn scope(&self) -> Scope {
        match (&self.key(), &self.namespace) {
            (Some(key), _) => Scope::Object(key.clone()),
            (None, Some(namespace)) => Scope::Namespace(Arc::clone(namespace)),
            (None, None) => Scope::All,
        }
    }

    /// Whether selectors admit an object of the namespace.
    pub(super) fn matches(&self, stored: &Stored<View>) -> bool {
        if !stored.view.is_readable() {
            return false;
        }
        if self
            .name
            .as_ref()
            .is_some_and(|name| *name != stored.key.name)
        {
            return false;
        }
        if !self.is_of_shard(stored) {
            return false;
        }
        if self.labels.is_empty() && self.fields.is_empty() {
            return true;
        }
        let version = self.target.version();
        let values = stored.view.selectable(version.resource);
        self.labels.matches(|key| values.label(key))
            && self.fields.matches(|label| match label {
                "metadata.name" => Some(stored.key.name.as_ref()),
                "metadata.namespace" => Some(stored.key.namespace.as_ref()),
                _ => values.field(version, label),
            })
    }

    /// An object stays in its shard as long as it lives: neither field ever changes.
    fn is_of_shard(&self, stored: &Stored<View>) -> bool {
        self.shard.as_ref().is_none_or(|shard| match shard.key() {
            ShardKey::Namespace => shard.matches(&stored.key.namespace),
            ShardKey::Uid => {
                let mut text = Uuid::encode_buffer();
                shard.matches(stored.uid.hyphenated().encode_lower(&mut text))
            }
        })
    }

    /// The shard that is asked for, as lists tell it.
    pub(super) fn shard(&self) -> Option<String> {
        self.shard.as_ref().map(|shard| shard.as_str().to_owned())
    }

    /// Where matching objects can be: those of the namespace after a key, in key order.
    pub(super) fn candidates<'a>(
        &'a self,
        snapshot: &'a Snapshot<View>,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Stored<View>>> + 'a> {
        let Some(key) = self.key() else {
            return Box::new(snapshot.range(self.namespace.as_deref(), after));
        };
        let is_after = after.is_none_or(|after| key > *after);
        Box::new(snapshot.get(&key).filter(|_| is_after).into_iter())
    }

    /// The key after which a page goes on. A token is relative to what is
    /// listed: used in another namespace it lists that one only.
    pub(super) fn start_of(&self, token: &ContinueToken) -> Key {
        match &self.namespace {
            Some(namespace) => Key::new(Arc::clone(namespace), token.start_in_one()),
            None if !self.target.info().is_namespaced() => Key::new("", token.start_in_one()),
            None => {
                let (namespace, name) = token.start_in_all();
                Key::new(namespace, name)
            }
        }
    }

    /// The token after an object that was listed.
    pub(super) fn token_after(&self, revision: Revision, key: &Key) -> ContinueToken {
        let spans_namespaces = self.namespace.is_none() && self.target.info().is_namespaced();
        ContinueToken::after(
            revision.get(),
            spans_namespaces.then_some(&key.namespace),
            &key.name,
        )
    }

    /// The one key that can match.
    fn key(&self) -> Option<Key> {
        let name = self.name.as_ref()?;
        match &self.namespace {
            Some(namespace) => Some(Key::new(Arc::clone(namespace), Arc::clone(name))),
            None if !self.target.info().is_namespaced() => Some(Key::new("", Arc::clone(name))),
            None => None,
        }
    }
}
