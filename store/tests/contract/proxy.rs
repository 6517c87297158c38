//! A proxy before Postgres' socket that cuts connections where a test's bodies say so.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const SOCKET: &str = ".s.PGSQL.5432";

/// Passes everything on, but for the first `CUT-BEFORE-…;` of each kind, at which the connection is
/// cut before the server sees it, and the first `CUT-AFTER-…;`, at which it is cut when the server
/// has answered. One that says `ALWAYS` is obeyed each time. After one that says `DEAF`, new
/// connections are cut at once.
pub(crate) struct Proxy {
    cut: Arc<Mutex<HashSet<String>>>,
    deaf: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) async fn start(dir: &Path, server: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        let cut = Arc::new(Mutex::new(HashSet::new()));
        let server = server.join(SOCKET);
        let deaf = Arc::new(AtomicBool::new(false));
        let (known, mute) = (Arc::clone(&cut), Arc::clone(&deaf));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !mute.load(Ordering::SeqCst) {
                    let (known, mute) = (Arc::clone(&known), Arc::clone(&mute));
                    tokio::spawn(pass(client, server.clone(), known, mute));
                }
            }
        });
        Self { cut, deaf }
    }

    pub(crate) fn listen_again(&self) {
        self.deaf.store(false, Ordering::SeqCst);
    }

    pub(crate) fn cuts(&self) -> usize {
        self.cut.lock().unwrap().len()
    }
}

/// Passes on until one side closes, or an order to cut. The proxy is deaf, if it is to be, before
/// anybody sees the cut.
async fn pass(
    mut client: UnixStream,
    server: PathBuf,
    cut: Arc<Mutex<HashSet<String>>>,
    deaf: Arc<AtomicBool>,
) {
    let Ok(mut server) = UnixStream::connect(server).await else {
        return;
    };
    let order = pass_until_order(&mut client, &mut server, &cut).await;
    if order.is_some_and(|order| order.contains("DEAF")) {
        deaf.store(true, Ordering::SeqCst);
    }
}

async fn pass_until_order(
    client: &mut UnixStream,
    server: &mut UnixStream,
    cut: &Mutex<HashSet<String>>,
) -> Option<String> {
    let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let sent = &from_client[..read.ok().filter(|count| *count > 0)?];
                let order = order(sent, cut);
                if order.as_ref().is_some_and(|order| order.starts_with("CUT-BEFORE")) {
                    return order;
                }
                server.write_all(sent).await.ok()?;
                // The server has committed when it has said all that it has to say.
                while order.is_some() {
                    let count = server.read(&mut from_server).await.ok().filter(|count| *count > 0)?;
                    if from_server[..count].ends_with(b"Z\0\0\0\x05I") {
                        return order;
                    }
                }
            }
            read = server.read(&mut from_server) => {
                let answered = &from_server[..read.ok().filter(|count| *count > 0)?];
                client.write_all(answered).await.ok()?;
            }
        }
    }
}

/// The order to cut in these bytes, the first time that it is seen.
fn order(sent: &[u8], cut: &Mutex<HashSet<String>>) -> Option<String> {
    let text = String::from_utf8_lossy(sent);
    let order = &text[text.find("CUT-")?..];
    let order = order[..order.find(';')?].to_owned();
    let is_new = cut.lock().unwrap().insert(order.clone());
    (is_new || order.contains("ALWAYS")).then_some(order)
}
