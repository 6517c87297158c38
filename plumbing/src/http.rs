//! A small HTTP server for operators: `/metrics`, `/healthz`, `/livez`, `/readyz`.
//!
//! For a process whose work is not HTTP. It is plain HTTP without authentication:
//! bind it where only those who may read it can connect.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::PlumbingError;
use crate::health::Health;
use crate::metrics::{self, Registry};

/// Seconds that a scrape in flight has when the process stops.
const STOP_TIMEOUT_SECONDS: u64 = 1;

/// A running operators' server.
#[derive(Debug)]
pub struct OpsServer {
    /// Where it listens: the port chosen when port 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl OpsServer {
    /// Waits until the server has stopped, after its token was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the operators' server broke off");
        }
    }
}

/// Starts the server; it runs until `shutdown` is cancelled.
///
/// # Errors
/// The address cannot be bound.
pub fn serve_ops(
    address: SocketAddr,
    metrics: Arc<Registry>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<OpsServer, PlumbingError> {
    let listen_error = |source| PlumbingError::Listen { address, source };
    let state = web::Data::new(Ops { metrics, health });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .default_service(web::to(answer))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(STOP_TIMEOUT_SECONDS)
    .bind(address)
    .map_err(listen_error)?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        handle.stop(true).await;
    });
    let task = tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the operators' server failed");
        }
    });
    Ok(OpsServer {
        address: bound,
        task,
    })
}

struct Ops {
    metrics: Arc<Registry>,
    health: Arc<Health>,
}

async fn answer(request: HttpRequest, ops: web::Data<Ops>) -> HttpResponse {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return HttpResponse::MethodNotAllowed()
            .insert_header(("Allow", "GET, HEAD"))
            .finish();
    }
    if request.path() == "/metrics" {
        return HttpResponse::Ok()
            .content_type(metrics::CONTENT_TYPE)
            .body(ops.metrics.encode());
    }
    let Some(report) = ops.health.respond(request.path(), request.query_string()) else {
        return HttpResponse::NotFound().finish();
    };
    let status = if report.healthy {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    HttpResponse::build(status)
        .content_type("text/plain; charset=utf-8")
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .body(report.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: ops\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn operators_read_health_and_metrics_until_the_process_stops() {
        let shutdown = CancellationToken::new();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let metrics = Arc::new(Registry::new());
        let health = Arc::new(Health::new());
        let server = serve_ops(any_port, metrics, health, shutdown.clone()).unwrap();
        let address = server.address;
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let verbose = get(address, "/livez?verbose").await;
        assert!(verbose.ends_with("[+]ping ok\nlivez check passed\n"));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("process_open_fds"), "{metrics}");
        assert!(get(address, "/secret").await.starts_with("HTTP/1.1 404"));
        shutdown.cancel();
        server.stopped().await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
