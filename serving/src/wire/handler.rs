//! From a request that hyper has read to the answer that it writes.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use machinery::error::ApiError;
use tokio::sync::oneshot;

use super::body::WireBody;
use super::connection::Connection;
use super::guard::Activity;
use super::server::Shared;
use super::worker::{Answer, Job, Queue};

/// Serves the requests of one connection.
#[derive(Clone)]
pub(super) struct Handler(Arc<HandlerState>);

struct HandlerState {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    activity: Activity,
    /// The worker on whose thread the connection is.
    home: Arc<Queue>,
}

impl Handler {
    pub(super) fn new(
        shared: &Arc<Shared>,
        connection: Connection,
        activity: Activity,
        home: Arc<Queue>,
    ) -> Self {
        let shared = Arc::clone(shared);
        Self(Arc::new(HandlerState {
            shared,
            connection: Arc::new(connection),
            activity,
            home,
        }))
    }

    pub(super) async fn call(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<WireBody>, Infallible> {
        let state = self.0;
        let busy = state.activity.begin();
        let version = request.version();
        let is_head = request.method() == Method::HEAD;
        if let Some(problem) = state.problem_of(&request) {
            let mut response = Answer::from(ApiError::bad_request(problem)).response;
            close(&mut response);
            return Ok(response.map(|body| body.holding(busy)));
        }
        let on_upgrade = (version == Version::HTTP_11
            && request.headers().contains_key(http::header::UPGRADE))
        .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let (answer, answered) = oneshot::channel();
        let job = Job {
            parts,
            body,
            connection: Arc::clone(&state.connection),
            answer,
        };
        let answer = if state.shared.workers.dispatch(&state.home, job) {
            answered
                .await
                .unwrap_or_else(|_| ApiError::internal("the handler was lost").into())
        } else {
            ApiError::too_many_requests("too many requests, please try again later", 1).into()
        };
        let mut response = state.finish(answer, on_upgrade);
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version != Version::HTTP_2 && !upgraded && state.shared.stopping.is_cancelled() {
            // Clients go elsewhere before the port closes.
            close(&mut response);
        }
        // hyper drops the body of an answer to HEAD over HTTP/1.1 only.
        let body = |body| if is_head { WireBody::empty() } else { body };
        Ok(response.map(|whole| body(whole).holding(busy)))
    }
}

/// Says that the connection ends with this answer.
fn close(response: &mut Response<WireBody>) {
    response.headers_mut().insert(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    );
}

impl HandlerState {
    /// What makes an HTTP/1.1 request one that different servers may read differently.
    fn problem_of(&self, request: &Request<Incoming>) -> Option<&'static str> {
        if request.version() != Version::HTTP_11 {
            return None;
        }
        if self.activity.is_ambiguous() {
            return Some("a request has a Content-Length or a Transfer-Encoding, not both");
        }
        let hosts = request.headers().get_all(http::header::HOST).iter().count();
        (hosts != 1).then_some("a request has one Host header")
    }

    fn finish(&self, answer: Answer, on_upgrade: Option<OnUpgrade>) -> Response<WireBody> {
        let Answer { response, upgrade } = answer;
        match (upgrade, on_upgrade) {
            (None, _) => response,
            (Some(upgrade), Some(on_upgrade)) => {
                let busy = self.activity.begin();
                let cut = self.shared.cut.clone();
                self.shared.tasks.spawn(async move {
                    tokio::select! {
                        () = upgrade.run(on_upgrade) => {}
                        () = cut.cancelled() => {}
                    }
                    drop(busy);
                });
                response
            }
            (Some(_), None) => {
                let error =
                    ApiError::bad_request("an upgrade needs an Upgrade header and HTTP/1.1");
                Answer::from(error).response
            }
        }
    }
}
