//! Between actix-web and the handlers: the only file beside the wire that
//! knows the framework. There is one route; which handler serves a request is
//! decided by [`crate::request_info`], as its authorization is.

use std::{panic::AssertUnwindSafe, sync::Arc};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::{StatusCode, header::HeaderName, header::HeaderValue},
    web,
};
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _, stream::BoxStream};
use tokio::{sync::oneshot, time::Instant};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{
    api::{Api, REQUEST_TIMEOUT, panic_text},
    exchange::{Body, Request, Response},
    flow::Seat,
    request_info::Query,
    wire::{BoxError, Connection, RequestHead, StreamBody, Upgrade, UpgradedIo},
};

/// A watcher has nothing to say but pings and a close: what is longer ends the watch, before it
/// takes memory.
const MAX_INCOMING_MESSAGE: usize = 4096;

/// Configures a worker's application to serve an API.
pub fn configure(api: Arc<Api>) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    configure_answers(move |request| Arc::clone(&api).handle(request))
}

/// Configures a worker's application to answer every request by one function.
pub(crate) fn configure_answers<F>(
    answer: impl Fn(Request) -> F + Clone + Send + 'static,
) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static
where
    F: Future<Output = Response> + 'static,
{
    move |config| {
        let answer = answer.clone();
        let serve = move |request: HttpRequest, payload: web::Payload| {
            let answer = read(&request, payload).map(&answer);
            async move {
                match answer {
                    Some(answer) => write(answer.await),
                    None => HttpResponse::InternalServerError().finish(),
                }
            }
        };
        config.default_service(web::to(serve));
    }
}

/// The request as the wire received it; `None` when the application runs on
/// something else than our wire.
fn read(request: &HttpRequest, payload: web::Payload) -> Option<Request> {
    let extensions = request.extensions();
    let RequestHead(head) = extensions.get::<RequestHead>()?;
    let connection = extensions.get::<Arc<Connection>>()?;
    Some(Request {
        head: Arc::clone(head),
        query: Query::parse(head.uri.query().unwrap_or_default()),
        connection: Arc::clone(connection),
        payload: payload
            .map(|chunk| chunk.map_err(|error| error.to_string()))
            .boxed_local(),
    })
}

fn write(response: Response) -> HttpResponse {
    let status =
        StatusCode::from_u16(response.status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::new(status);
    for (name, value) in &response.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            answer.headers_mut().append(name, value);
        }
    }
    match response.body {
        Body::Bytes(bytes) => return answer.set_body(bytes).map_into_boxed_body(),
        Body::Stream(chunks) => {
            let body = StreamBody::from_stream(guarded(chunks, response.seat));
            answer.extensions_mut().insert(body);
        }
        Body::WebSocket {
            key,
            protocol,
            messages,
        } => accept_websocket(&mut answer, (key, protocol), messages),
    }
    answer
}

/// A body that is cut, so that the client does not take it for whole, when its producer panics or
/// its time is up.
fn guarded(
    chunks: BoxStream<'static, Bytes>,
    seat: Option<Seat>,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let time = seat.map(Allotted::start);
    AssertUnwindSafe(chunks).catch_unwind().map(move |chunk| {
        if time.as_ref().is_some_and(Allotted::is_over) {
            return Err("the client took too long".into());
        }
        chunk.map_err(|panic| {
            let text = panic_text(panic.as_ref());
            tracing::error!("the body of a response panicked: {text}");
            BoxError::from("the body could not be produced")
        })
    })
}

/// The time that a body has to be sent. A client that does not read is not asked, so its seat is
/// given up by a task of its own.
struct Allotted {
    end: Instant,
    _body: oneshot::Sender<()>,
}

impl Allotted {
    fn start(seat: Seat) -> Self {
        let end = Instant::now() + REQUEST_TIMEOUT;
        let (body, gone) = oneshot::channel();
        tokio::spawn(async move {
            // Either ends it: the body is gone, or its time.
            let _ = tokio::time::timeout_at(end, gone).await;
            drop(seat);
        });
        Self { end, _body: body }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }
}

fn accept_websocket(
    answer: &mut HttpResponse,
    (key, protocol): (String, Option<String>),
    messages: BoxStream<'static, Bytes>,
) {
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    };
    set("upgrade", "websocket");
    set("connection", "Upgrade");
    set("sec-websocket-accept", &derive_accept_key(key.as_bytes()));
    if let Some(protocol) = protocol {
        set("sec-websocket-protocol", &protocol);
    }
    answer
        .extensions_mut()
        .insert(Upgrade::new(move |io| send_messages(io, messages)));
}

/// Sends every message, and ends when there are no more or the client goes.
async fn send_messages(io: UpgradedIo, mut messages: BoxStream<'static, Bytes>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_INCOMING_MESSAGE))
        .max_frame_size(Some(MAX_INCOMING_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, mut incoming) = socket.split();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { break };
                let text = String::from_utf8_lossy(&message).into_owned();
                if sink.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
            received = incoming.next() => match received {
                None | Some(Err(_) | Ok(Message::Close(_))) => break,
                // Pongs are sent by the library; a watcher says nothing else.
                Some(Ok(_)) => {}
            },
        }
    }
    // The client may be gone; there is nobody to tell.
    let _ = sink.close().await;
}
