//! The path that every request takes: identity, permission, handler, answer.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, header};
use machinery::{error::ApiError, options};
use plumbing::{health::Health, metrics::Registry as MetricsRegistry, telemetry};
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    auth::{self, Authenticator, Authorizer, UserInfo},
    compression,
    context::Context,
    documents::Documents,
    encode,
    exchange::{self, Request, Response},
    flow::{Flow, Seat},
    handlers,
    metrics::Metrics,
    namespaces::NamespaceLookup,
    permission,
    registry::Served,
    request_info::RequestInfo,
    target::Target,
};

/// What a request other than a watch may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer ids are not believed: they end in logs.
const MAX_AUDIT_ID: usize = 64;

/// What a server can do and need not.
#[derive(Debug, Clone, Copy)]
pub struct Features {
    /// `shardSelector` of lists and watches; ignored when off, as kube-apiserver does by default.
    pub sharded_list_and_watch: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            sharded_list_and_watch: true,
        }
    }
}

/// Everything that handlers share.
pub struct Api {
    /// Resources and their objects.
    pub served: Served,
    /// The store, for health.
    pub store: Arc<Store>,
    /// Finds out who asks.
    pub authenticator: Arc<Authenticator>,
    /// Decides what is allowed.
    pub authorizer: Arc<dyn Authorizer>,
    /// Knows which namespaces exist.
    pub namespaces: Arc<dyn NamespaceLookup>,
    /// Discovery and OpenAPI.
    pub documents: Documents,
    /// Checks behind `/readyz` and its like.
    pub health: Arc<Health>,
    /// All metrics of the process.
    pub metrics_registry: Arc<MetricsRegistry>,
    /// Those of requests.
    pub metrics: Metrics,
    /// What can be switched off.
    pub features: Features,
    /// Requests under way.
    pub flow: Flow,
    /// Makes the suffixes of generated names.
    pub name_source: fn() -> u64,
    /// Cancelled when watches must end.
    pub drain: CancellationToken,
}

impl Api {
    /// Answers a request, whatever happens.
    pub async fn handle(self: Arc<Self>, request: Request) -> Response {
        let audit_id = audit_id(&request.head.headers);
        let span = request_span(&request, &audit_id);
        let answer = self.answer(request, audit_id.clone());
        let mut response = answer.instrument(span).await;
        response.set(HeaderName::from_static("audit-id"), &audit_id);
        if !response.headers.contains_key(header::CACHE_CONTROL) {
            response.set(header::CACHE_CONTROL, "no-cache, private");
        }
        response
    }

    async fn answer(self: Arc<Self>, request: Request, audit_id: String) -> Response {
        let started = Instant::now();
        let head = Arc::clone(&request.head);
        let parsed = RequestInfo::parse(head.method.as_str(), head.uri.path(), &request.query);
        let info = match parsed {
            Ok(info) => info,
            Err(error) => return encode::error_response(&head.headers, error),
        };
        let target = Target::find(&self.served, &info);
        let _in_flight = self.metrics.begin(&info);
        let mut user = None;
        let run =
            AssertUnwindSafe(self.run(request, &info, (target.as_ref(), &mut user), audit_id));
        let result = run.catch_unwind().await;
        let result = result.unwrap_or_else(|panic| {
            let text = panic_text(panic.as_ref());
            Err(ApiError::internal(format!("a handler panicked: {text}")))
        });
        let response = result.unwrap_or_else(|error| {
            log_internal(&error);
            encode::error_response(&head.headers, error)
        });
        let elapsed = started.elapsed();
        self.metrics.record(
            &info,
            target.as_ref(),
            response.status.as_u16(),
            elapsed.as_secs_f64(),
        );
        log_access(&info, user.as_ref(), &response, elapsed);
        response
    }

    async fn run(
        self: &Arc<Self>,
        request: Request,
        info: &RequestInfo,
        (target, user): (Option<&Target>, &mut Option<UserInfo>),
        audit_id: String,
    ) -> Result<Response, ApiError> {
        let started = Instant::now();
        let headers = &request.head.headers;
        let who = self
            .authenticator
            .authenticate(&request.connection, headers)
            .await?;
        *user = Some(who.clone());
        let who = auth::impersonate(self.authorizer.as_ref(), who, headers).await?;
        *user = Some(who.clone());
        let allotted = allotted_time(&request, info)?;
        let seat = self.flow.admit(info, &who)?;
        auth::authorize(
            self.authorizer.as_ref(),
            &permission::attributes(info, &who),
        )
        .await?;
        let work = self.serve(request, info, (target, who, seat), audit_id);
        match allotted {
            None => work.await,
            Some(time) => {
                let left = time.saturating_sub(started.elapsed());
                let timed_out =
                    || ApiError::timeout("request did not complete within the allotted timeout", 1);
                if left.is_zero() {
                    return Err(timed_out());
                }
                tokio::time::timeout(left, work)
                    .await
                    .unwrap_or_else(|_| Err(timed_out()))
            }
        }
    }

    async fn serve(
        self: &Arc<Self>,
        request: Request,
        info: &RequestInfo,
        (target, user, seat): (Option<&Target>, UserInfo, Seat),
        audit_id: String,
    ) -> Result<Response, ApiError> {
        if !info.is_resource {
            return self.serve_path(&request, info);
        }
        let target = target.ok_or_else(ApiError::generic_not_found)?;
        let Request {
            head,
            query,
            payload,
            ..
        } = request;
        let context = Context::new(
            Arc::clone(self),
            (head, query, payload),
            info.clone(),
            user,
            audit_id,
        );
        context.sit(seat);
        let version = target.version();
        if let Some(text) = version.info.deprecation_warning {
            context.warn(text);
        }
        let mut response = match handlers::dispatch(&context, target).await {
            Ok(response) => response,
            Err(error) => {
                log_internal(&error);
                encode::error_response(context.headers(), error)
            }
        };
        response = compression::of_whole(context.headers(), response).await;
        for warning in context.warning_headers() {
            response.append(header::WARNING, &warning);
        }
        if !context.info.is_long_running() {
            response.seat = context.rise();
        }
        Ok(response)
    }

    /// Discovery, OpenAPI, health and metrics.
    fn serve_path(&self, request: &Request, info: &RequestInfo) -> Result<Response, ApiError> {
        let is_known_method = matches!(info.verb.as_str(), "get" | "head");
        let query = request.head.uri.query().unwrap_or_default();
        if let Some(response) = health_response(&self.health, &info.path, query) {
            return Ok(response);
        }
        if info.path == "/metrics" && is_known_method {
            self.metrics.refresh(&self.served, &self.store);
            let text = self.metrics_registry.encode();
            return Ok(Response::new(200, plumbing::metrics::CONTENT_TYPE, text));
        }
        let document = self
            .documents
            .respond(&info.path, &request.query, &request.head.headers);
        match document {
            Some(_) if !is_known_method => {
                let nothing = machinery::names::GroupResource::new("", "");
                Err(ApiError::method_not_supported(&nothing, &info.verb))
            }
            Some(document) => document,
            None => Err(ApiError::generic_not_found()),
        }
    }
}

/// The client's wish within the server's bound; `None` for watches.
fn allotted_time(request: &Request, info: &RequestInfo) -> Result<Option<Duration>, ApiError> {
    if info.is_long_running() {
        return Ok(None);
    }
    let wanted = options::request_timeout(request.query.pairs())?;
    Ok(Some(wanted.map_or(REQUEST_TIMEOUT, |wanted| {
        wanted.min(REQUEST_TIMEOUT)
    })))
}

/// The answer to a health check; `None` when the path is none of one.
pub(crate) fn health_response(health: &Health, path: &str, query: &str) -> Option<Response> {
    let report = health.respond(path, query)?;
    let code = if report.healthy { 200 } else { 500 };
    let mut response = Response::new(code, "text/plain; charset=utf-8", report.text);
    response.set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    Some(response)
}

/// The id that kube-apiserver gave the request, or a new one.
fn audit_id(headers: &HeaderMap) -> String {
    let given = exchange::text(headers, &HeaderName::from_static("audit-id"));
    let is_sound = |id: &&str| {
        !id.is_empty() && id.len() <= MAX_AUDIT_ID && id.bytes().all(|b| b.is_ascii_graphic())
    };
    given
        .filter(is_sound)
        .map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned)
}

fn request_span(request: &Request, audit_id: &str) -> tracing::Span {
    let head = &request.head;
    let span =
        tracing::info_span!("request", method = %head.method, path = head.uri.path(), audit_id);
    if let Some(parent) = exchange::text(&head.headers, &HeaderName::from_static("traceparent")) {
        let state = exchange::text(&head.headers, &HeaderName::from_static("tracestate"));
        telemetry::set_parent(&span, parent, state);
    }
    span
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// What only the log is told. The server's own failures need somebody's
/// attention, the client's mistakes nobody's.
fn log_internal(error: &ApiError) {
    match error.internal_message() {
        Some(internal) if error.code() == 500 => {
            tracing::error!(internal, "request failed: {error}")
        }
        Some(internal) => tracing::debug!(internal, "request failed: {error}"),
        None => {}
    }
}

/// Writes and failures are told at INFO, the many successful reads at DEBUG.
fn log_access(info: &RequestInfo, user: Option<&UserInfo>, response: &Response, elapsed: Duration) {
    let code = response.status.as_u16();
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let user = user.map(|user| user.name.as_str()).unwrap_or_default();
    let verb = info.verb.as_str();
    let is_quiet_read = code < 400 && matches!(verb, "get" | "list" | "watch" | "head");
    if is_quiet_read {
        tracing::debug!(verb, user, code, micros, "request");
    } else {
        tracing::info!(verb, user, code, micros, "request");
    }
}
