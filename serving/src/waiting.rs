//! What a process answers before it has reached its database: that it is alive and not ready.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use machinery::error::ApiError;
use plumbing::health::{Health, Probe, Weight};
use tokio_util::sync::CancellationToken;

use crate::api::health_response;
use crate::encode::error_response;
use crate::error::Error;
use crate::exchange::{Request, Response};
use crate::http;
use crate::wire::{Server, ServerConfig, ShutdownTimes};

/// Seconds after which a client may ask again.
const RETRY_AFTER: u32 = 1;

/// Whoever is answered just then has so long to read it, while nobody listens.
const GRACE: Duration = Duration::from_secs(1);

/// Serves health checks, and 503 for everything else, until `reached` is done; then the port is free
/// again. To be called where [`Server::run`] may be.
///
/// # Errors
///
/// When the address cannot be bound or the workers cannot be started.
pub async fn serve_while<T>(
    config: ServerConfig,
    reached: impl Future<Output = T>,
) -> Result<T, Error> {
    let server = Server::bind(ServerConfig {
        shutdown: ShutdownTimes {
            delay: Duration::ZERO,
            grace: GRACE,
        },
        ..config
    })
    .await?;
    let health = Arc::new(Health::new());
    health.add("database", &[Probe::Readyz], Weight::Gating, || {
        Err("the database has not been reached yet".to_owned())
    });
    let end = CancellationToken::new();
    let reaching = async {
        let reached = reached.await;
        end.cancel();
        Ok(reached)
    };
    let app = http::configure_answers(move |request| ready(answer(&health, &request)));
    let ((), reached) = tokio::try_join!(server.run(app, end.clone()), reaching)?;
    Ok(reached)
}

fn answer(health: &Health, request: &Request) -> Response {
    let uri = &request.head.uri;
    health_response(health, uri.path(), uri.query().unwrap_or_default()).unwrap_or_else(|| {
        let message = "the database has not been reached yet";
        let error = ApiError::service_unavailable(message, RETRY_AFTER);
        error_response(&request.head.headers, error)
    })
}
