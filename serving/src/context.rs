//! One request under way: who asks, for what, and what they are warned of.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use machinery::{
    Object,
    error::ApiError,
    meta,
    names::GroupResource,
    options::{FieldValidation, ListOptions},
};

use crate::{
    api::Api,
    auth::{self, UserInfo},
    exchange::{self, Payload},
    flow::Seat,
    namespaces::Phase,
    permission,
    request_info::{Query, RequestInfo},
};

/// Bytes that all warnings of a response may take together.
const MAX_WARNING_BYTES: usize = 4096;
/// Bytes of a field manager's name.
const MAX_MANAGER_BYTES: usize = 128;

/// A request that is authenticated and authorised.
pub struct Context {
    /// The server.
    pub api: Arc<Api>,
    /// Method, URI and header fields.
    pub head: Arc<Parts>,
    /// Query parameters.
    pub query: Query,
    /// What was authorised, and nothing else is done.
    pub info: RequestInfo,
    /// Who asks.
    pub user: UserInfo,
    /// Names the request in logs of all servers on its way.
    pub audit_id: String,
    payload: RefCell<Option<Payload>>,
    warnings: RefCell<Vec<String>>,
    seat: RefCell<Option<Seat>>,
}

impl Context {
    /// A request with an unread body.
    #[must_use]
    pub fn new(
        api: Arc<Api>,
        (head, query, payload): (Arc<Parts>, Query, Payload),
        info: RequestInfo,
        user: UserInfo,
        audit_id: String,
    ) -> Self {
        let (payload, warnings) = (RefCell::new(Some(payload)), RefCell::default());
        Self {
            api,
            head,
            query,
            info,
            user,
            audit_id,
            payload,
            warnings,
            seat: RefCell::default(),
        }
    }

    /// Header fields of the request.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The `Content-Type` of the body; a field that is no text is unknown.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.headers()
            .get(header::CONTENT_TYPE)
            .map(|value| value.to_str().unwrap_or("invalid"))
    }

    /// The whole body; empty when it was read before.
    ///
    /// # Errors
    ///
    /// 413 when it is too large, 400 when it is compressed or breaks off, 429 when too many
    /// requests are under way by the time it is there.
    pub async fn body(&self) -> Result<Bytes, ApiError> {
        exchange::check_announced_body(self.headers())?;
        let payload = self.payload.borrow_mut().take();
        let Some(mut payload) = payload else {
            return Ok(Bytes::new());
        };
        // A client that sends slowly must not keep others from their turn.
        drop(self.rise());
        let body = exchange::read_body(&mut payload).await?;
        self.sit(self.api.flow.admit(&self.info, &self.user)?);
        Ok(body)
    }

    /// Asks whether the user may also do `verb` to what the request is about.
    ///
    /// # Errors
    ///
    /// 403, or what the authorizer fails with.
    pub async fn authorize_also(&self, verb: &str) -> Result<(), ApiError> {
        let mut attributes = permission::attributes(&self.info, &self.user);
        verb.clone_into(&mut attributes.verb);
        auth::authorize(self.api.authorizer.as_ref(), &attributes).await
    }

    /// Takes a seat among the requests under way.
    pub fn sit(&self, seat: Seat) {
        self.seat.replace(Some(seat));
    }

    /// Gives the seat up.
    #[must_use]
    pub fn rise(&self) -> Option<Seat> {
        self.seat.take()
    }

    /// Options of list, watch and deletecollection.
    ///
    /// # Errors
    ///
    /// As [`ListOptions::parse`].
    pub fn list_options(&self) -> Result<ListOptions, ApiError> {
        let options = ListOptions::parse(self.query.pairs())?;
        if self.api.features.sharded_list_and_watch {
            options.sharded(self.query.pairs())
        } else {
            Ok(options)
        }
    }

    /// Refuses a body that is about another object than the URL.
    ///
    /// # Errors
    ///
    /// 400 naming both.
    pub fn check_identity(&self, object: &Object) -> Result<(), ApiError> {
        let namespace = self.info.namespace.as_str();
        let namespace = (!namespace.is_empty()).then_some(namespace);
        meta::check_name_and_namespace(object, &self.info.name, namespace)
    }

    /// Drops owners that stand twice, and warns of it.
    pub fn dedup_owners(&self, object: &mut Object) {
        if let Some(warning) = meta::dedup_owner_references(object) {
            self.warn(&warning);
        }
    }

    /// Refuses to create anything in a namespace that is absent or going away.
    ///
    /// # Errors
    ///
    /// 404 and 403 as admission's `NamespaceLifecycle`; 500 when kube-apiserver
    /// cannot be asked.
    pub async fn check_namespace(
        &self,
        resource: &GroupResource,
        name: &str,
    ) -> Result<(), ApiError> {
        let namespace = self.info.namespace.as_str();
        if namespace.is_empty() {
            return Ok(());
        }
        match self.api.namespaces.phase(namespace).await? {
            Phase::Active => Ok(()),
            Phase::Absent => Err(ApiError::not_found(
                &GroupResource::new("", "namespaces"),
                namespace,
            )),
            Phase::Terminating => Err(ApiError::namespace_terminating(resource, name, namespace)),
        }
    }

    /// Tells the client something in a `Warning` header; the same thing once.
    pub fn warn(&self, text: &str) {
        let mut warnings = self.warnings.borrow_mut();
        let used: usize = warnings.iter().map(String::len).sum();
        if !warnings.iter().any(|known| known == text) && used + text.len() <= MAX_WARNING_BYTES {
            warnings.push(text.to_owned());
        }
    }

    /// The warnings as header values.
    #[must_use]
    pub fn warning_headers(&self) -> Vec<String> {
        self.warnings
            .borrow()
            .iter()
            .map(|text| warning_header(text))
            .collect()
    }

    /// Ignores, warns of, or refuses what only a strict reader minds.
    ///
    /// # Errors
    ///
    /// The error that `strict` makes of the problems, when they are to be refused.
    pub fn judge(
        &self,
        validation: FieldValidation,
        problems: &[String],
        strict: impl Fn(&[String]) -> ApiError,
    ) -> Result<(), ApiError> {
        match validation {
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Strict if !problems.is_empty() => Err(strict(problems)),
            FieldValidation::Strict | FieldValidation::Warn => {
                problems.iter().for_each(|problem| self.warn(problem));
                Ok(())
            }
        }
    }

    /// Who is said to have written: `fieldManager`, else the client's program.
    /// A delete does not validate the parameter, so what is recorded is checked
    /// here: a name that the database refuses would spoil its whole batch.
    #[must_use]
    pub fn field_manager(&self) -> String {
        if let Some(manager) = self
            .query
            .get("fieldManager")
            .filter(|manager| is_recordable(manager))
        {
            return manager.to_owned();
        }
        let agent = exchange::text(self.headers(), &header::USER_AGENT).unwrap_or("unknown");
        agent
            .split('/')
            .next()
            .unwrap_or_default()
            .chars()
            .take(MAX_MANAGER_BYTES)
            .collect()
    }
}

fn is_recordable(manager: &str) -> bool {
    let length = 1..=MAX_MANAGER_BYTES;
    length.contains(&manager.len()) && !manager.chars().any(char::is_control)
}

/// RFC 7234's form: code 299, no agent, quoted text without control characters.
fn warning_header(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    format!("299 - \"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_as_kubectl_reads_them() {
        assert_eq!(
            warning_header("unknown field \"spec.x\""),
            r#"299 - "unknown field \"spec.x\"""#
        );
        assert_eq!(warning_header("a\r\nb"), r#"299 - "a  b""#);
    }
}
