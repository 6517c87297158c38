//! A server of the wire with an application that shows what the wire does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::StreamExt;
use serving::error::Error;
use serving::tls::{CertResolver, CertificateFiles, server_config};
use serving::wire::{BoxError, RequestHead, Server, ServerConfig, StreamBody, Upgrade};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::certificates::Authority;
use super::client::{Target, within};

/// Counts what is alive in the server.
#[derive(Clone)]
pub struct Alive(Arc<watch::Sender<usize>>);

impl Alive {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    fn begin(&self) -> Living {
        self.0.send_modify(|count| *count += 1);
        Living(self.clone())
    }

    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until exactly `count` are alive.
    pub async fn becomes(&self, count: usize) {
        let mut changes = self.0.subscribe();
        within(changes.wait_for(|now| *now == count)).await.unwrap();
    }

    /// Waits until `count` are alive, at most the 5 s that the wire promises.
    pub async fn becomes_in_time(&self, count: usize) {
        let mut changes = self.0.subscribe();
        tokio::time::timeout(
            Duration::from_secs(5),
            changes.wait_for(|now| *now == count),
        )
        .await
        .expect("freed within 5 s")
        .unwrap();
    }
}

struct Living(Alive);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// A running server.
pub struct Testbed {
    pub target: Target,
    pub alive: Alive,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<Result<(), Error>>,
    pub authority: Authority,
    pub files: CertificateFiles,
    pub certificate: Arc<CertResolver>,
    directory: PathBuf,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.shutdown.cancel();
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

impl Testbed {
    pub async fn start() -> Self {
        Self::start_with(|_| {}, |_| {}).await
    }

    /// Starts with changed settings and further routes.
    pub async fn start_with<R>(change: impl FnOnce(&mut ServerConfig), routes: R) -> Self
    where
        R: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let authority = Authority::new("serving");
        let directory = std::env::temp_dir().join(format!("wire-test-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let files = CertificateFiles {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        };
        let leaf = authority.server();
        std::fs::write(&files.certificate, &leaf.pem).unwrap();
        std::fs::write(&files.key, &leaf.key_pem).unwrap();
        let certificate = CertResolver::load(files.clone()).await.unwrap();

        let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap());
        config.tls = Some(server_config(Arc::clone(&certificate)).unwrap());
        config.workers = 3;
        change(&mut config);
        let server = Server::bind(config).await.unwrap();
        let target = Target {
            address: server.local_addr(),
            roots: vec![authority.der.clone()],
            identity: None,
        };
        let (alive, drain) = (Alive::new(), server.drain());
        let app = {
            let (alive, drain) = (alive.clone(), drain.clone());
            move |config: &mut ServiceConfig| {
                config.app_data(web::Data::new(alive.clone()));
                config.app_data(web::Data::new(drain.clone()));
                config.configure(application).configure(routes.clone());
            }
        };
        let shutdown = CancellationToken::new();
        let running = {
            let shutdown = shutdown.clone();
            crate::thread::spawn(|| server.run(app, shutdown))
        };
        Self {
            target,
            alive,
            shutdown,
            running,
            authority,
            files,
            certificate,
            directory,
        }
    }
}

fn application(config: &mut ServiceConfig) {
    config
        .route("/thread", web::get().to(thread))
        .route("/groups", web::get().to(groups))
        .route("/watch", web::get().to(watch_directly))
        .route("/watch-by-actix", web::get().to(watch_by_actix))
        .route("/stuck", web::get().to(stuck))
        .route("/flood", web::get().to(flood))
        .route("/stubborn", web::get().to(stubborn))
        .route("/panic", web::get().to(panicking))
        .route("/broken", web::get().to(broken))
        .route("/upload", web::post().to(upload))
        .route("/chunks", web::get().to(chunks))
        .route("/upgrade", web::get().to(upgrade));
}

async fn thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// The header's lines as hyper and as actix-web saw them.
async fn groups(request: HttpRequest) -> String {
    let extensions = request.extensions();
    let head = extensions.get::<RequestHead>().expect("the wire's head");
    let hyper = head.0.headers.get_all("x-remote-group").iter().count();
    let actix = request.headers().get_all("x-remote-group").count();
    format!("{hyper} {actix}")
}

type Drain = web::Data<CancellationToken>;

/// One event, then silence until the server drains.
fn watching(
    alive: &Alive,
    drain: &Drain,
) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + use<> {
    let living = alive.begin();
    let drain = CancellationToken::clone(drain);
    let silence = futures::stream::once(async move {
        drain.cancelled().await;
        drop(living);
    });
    futures::stream::iter([Ok(Bytes::from_static(b"first\n"))])
        .chain(silence.filter_map(|()| async { None }))
}

async fn watch_directly(alive: web::Data<Alive>, drain: Drain) -> HttpResponse {
    let mut response = HttpResponse::Ok().finish();
    response
        .extensions_mut()
        .insert(StreamBody::from_stream(watching(&alive, &drain)));
    response
}

async fn watch_by_actix(alive: web::Data<Alive>, drain: Drain) -> HttpResponse {
    let body =
        watching(&alive, &drain).map(|item| item.map_err(|e| std::io::Error::other(e.to_string())));
    HttpResponse::Ok().streaming(body)
}

/// A handler that never answers.
async fn stuck(alive: web::Data<Alive>) -> HttpResponse {
    let _living = alive.begin();
    std::future::pending().await
}

/// A body that ignores the drain.
async fn stubborn(alive: web::Data<Alive>) -> HttpResponse {
    let body = watching(&alive, &web::Data::new(CancellationToken::new()));
    let mut response = HttpResponse::Ok().finish();
    response
        .extensions_mut()
        .insert(StreamBody::from_stream(body));
    response
}

/// As much as the client takes, without an end.
async fn flood(alive: web::Data<Alive>) -> HttpResponse {
    let living = alive.begin();
    let chunks = futures::stream::repeat_with(move || {
        let _living = &living;
        Ok(Bytes::from_static(&[b'x'; 64 * 1024]))
    });
    let mut response = HttpResponse::Ok().finish();
    response
        .extensions_mut()
        .insert(StreamBody::from_stream(chunks));
    response
}

async fn panicking() -> HttpResponse {
    panic!("as the test wants it")
}

/// A body that fails in the middle.
async fn broken() -> HttpResponse {
    let pieces = [
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("as the test wants it")),
    ];
    HttpResponse::Ok().streaming(futures::stream::iter(pieces))
}

async fn upload(mut payload: web::Payload) -> HttpResponse {
    let mut length = 0;
    while let Some(chunk) = payload.next().await {
        match chunk {
            Ok(chunk) => length += chunk.len(),
            Err(error) => return HttpResponse::RequestTimeout().body(error.to_string()),
        }
    }
    HttpResponse::Ok().body(length.to_string())
}

async fn chunks() -> HttpResponse {
    let mut response = HttpResponse::Ok().finish();
    let chunks = (0..10_000).map(|number| Bytes::from(format!("{number}\n")));
    response
        .extensions_mut()
        .insert(StreamBody::from_chunks(chunks));
    response
}

/// Echoes bytes until the client is done.
async fn upgrade() -> HttpResponse {
    let mut response = HttpResponse::SwitchingProtocols()
        .insert_header(("connection", "upgrade"))
        .insert_header(("upgrade", "echo"))
        .finish();
    response
        .extensions_mut()
        .insert(Upgrade::new(|mut io| async move {
            let mut buffer = [0; 16];
            while let Ok(count @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..count]).await.unwrap();
            }
        }));
    response
}
