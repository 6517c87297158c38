//! A proxy before Postgres' socket that cuts connections where a test's bodies say so.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const SOCKET: &str = ".s.PGSQL.5432";

/// Passes everything on, but for the first `CUT-BEFORE-…;` of each kind, at which the connection is
/// cut before the server sees it, and the first `CUT-AFTER-…;`, at which it is cut when the server
/// has begun to answer.
pub(crate) struct Proxy {
    cut: Arc<Mutex<HashSet<String>>>,
}

impl Proxy {
    pub(crate) async fn start(dir: &Path, server: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        let cut = Arc::new(Mutex::new(HashSet::new()));
        let server = server.join(SOCKET);
        let known = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), Arc::clone(&known)));
            }
        });
        Self { cut }
    }

    pub(crate) fn cuts(&self) -> usize {
        self.cut.lock().unwrap().len()
    }
}

async fn pass(mut client: UnixStream, server: PathBuf, cut: Arc<Mutex<HashSet<String>>>) {
    let Ok(mut server) = UnixStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(count @ 1..) = read else { return };
                let sent = &from_client[..count];
                match order(sent, &cut) {
                    Some(false) => return,
                    Some(true) => {
                        // The server has committed when it has said all that it has to say.
                        let _ = server.write_all(sent).await;
                        while let Ok(count @ 1..) = server.read(&mut from_server).await {
                            if from_server[..count].ends_with(b"Z\0\0\0\x05I") { return }
                        }
                        return;
                    }
                    None => if server.write_all(sent).await.is_err() { return },
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&from_server[..count]).await.is_err() { return }
            }
        }
    }
}

/// Whether to cut, and if so, whether after the server has seen it.
fn order(sent: &[u8], cut: &Mutex<HashSet<String>>) -> Option<bool> {
    let text = String::from_utf8_lossy(sent);
    let order = &text[text.find("CUT-")?..];
    let order = &order[..order.find(';')?];
    let fresh = cut.lock().unwrap().insert(order.to_owned());
    fresh.then(|| order.starts_with("CUT-AFTER"))
}
