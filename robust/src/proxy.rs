//! Between one replica and Postgres: passes bytes on until it is told to cut,
//! to hold or to delay them. It reads so much of the protocol that it can cut
//! around the very bytes that ask for a commit.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use crate::plan::Cut;

/// What a proxy does with what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Passes it on.
    Fair,
    /// Holds everything, in both directions, and tells nobody.
    Blackhole,
    /// Passes each piece on late.
    Late(Duration),
    /// Takes connections and ends them.
    Deaf,
    /// Cuts a connection around its next commit.
    Cut(Cut),
}

/// The way from one replica to Postgres.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    weather: watch::Receiver<Weather>,
    /// How many more connections are to be cut.
    cuts: AtomicU64,
    /// How many commits were cut so far.
    done: AtomicU64,
}

impl Proxy {
    /// Listens on a port of its own for connections to the server at `socket`.
    pub async fn start(socket: PathBuf) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (weather, told) = watch::channel(Weather::Fair);
        let shared = Arc::new(Shared {
            socket,
            weather: told,
            cuts: AtomicU64::new(0),
            done: AtomicU64::new(0),
        });
        let passing = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&passing);
                tokio::spawn(async move {
                    // Whoever closes or cuts: both ends are closed with this task.
                    let _ = pass(client, &shared).await;
                });
            }
        });
        Ok(Self {
            address,
            weather,
            shared,
        })
    }

    /// Where the replica connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to all connections, those that are open too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Cuts around this many of the next commits.
    pub fn cut(&self, cut: Cut, times: u64) {
        self.shared.cuts.store(times, Ordering::SeqCst);
        self.set(Weather::Cut(cut));
    }

    /// How many commits were cut so far.
    #[must_use]
    pub fn cuts_done(&self) -> u64 {
        self.shared.done.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.borrow()
    }

    /// Takes one of the cuts that are to be made.
    fn take_cut(&self) -> Option<Cut> {
        let Weather::Cut(cut) = self.weather() else {
            return None;
        };
        let taken = self
            .cuts
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        taken.ok()?;
        self.done.fetch_add(1, Ordering::SeqCst);
        Some(cut)
    }
}

/// Passes on until one side closes or the connection is to be cut.
async fn pass(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut weather = shared.weather.clone();
    weather
        .wait_for(|now| *now != Weather::Blackhole)
        .await
        .map_err(std::io::Error::other)?;
    if shared.weather() == Weather::Deaf {
        return Ok(());
    }
    client.set_nodelay(true)?;
    let mut server = UnixStream::connect(&shared.socket).await?;
    let mut frontend = Frontend::default();
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Deaf => return Ok(()),
            Weather::Blackhole => {
                weather.changed().await.map_err(std::io::Error::other)?;
                continue;
            }
            _ => {}
        }
        tokio::select! {
            changed = weather.changed() => changed.map_err(std::io::Error::other)?,
            read = client.read(&mut up) => {
                let sent = up.get(..read?).filter(|sent| !sent.is_empty());
                let Some(sent) = sent else { return Ok(()) };
                late(now).await;
                let commits = frontend.asks_to_commit(sent);
                let cut = if commits { shared.take_cut() } else { None };
                match cut {
                    None => server.write_all(sent).await?,
                    Some(Cut::Before) => return Ok(()),
                    Some(Cut::Midway) => return server.write_all(sent).await,
                    Some(Cut::After) => {
                        server.write_all(sent).await?;
                        return swallow_answer(&mut server, &mut down).await;
                    }
                }
            }
            read = server.read(&mut down) => {
                let answered = down.get(..read?).filter(|answered| !answered.is_empty());
                let Some(answered) = answered else { return Ok(()) };
                late(now).await;
                // What was on its way when the way was closed does not arrive.
                if shared.weather() == Weather::Blackhole {
                    let mut open = weather.clone();
                    let opened = open.wait_for(|now| *now != Weather::Blackhole).await;
                    drop(opened.map_err(std::io::Error::other)?);
                }
                client.write_all(answered).await?;
            }
        }
    }
}

async fn late(weather: Weather) {
    if let Weather::Late(time) = weather {
        tokio::time::sleep(time).await;
    }
}

/// The server has committed when it says that it is ready for the next query.
async fn swallow_answer(server: &mut UnixStream, buffer: &mut [u8]) -> std::io::Result<()> {
    loop {
        let count = server.read(buffer).await?;
        let ready = buffer
            .get(..count)
            .is_some_and(|answered| answered.ends_with(b"Z\0\0\0\x05I"));
        if count == 0 || ready {
            return Ok(());
        }
    }
}

/// What a client says to Postgres, as far as commits go: it prepares statements
/// once, by name, and then names them.
#[derive(Default)]
struct Frontend {
    started: bool,
    /// Bytes of a message that is not whole yet.
    rest: Vec<u8>,
    /// Names of prepared statements that commit.
    committing: HashSet<Vec<u8>>,
}

impl Frontend {
    /// Whether a message that commits ends in these bytes.
    fn asks_to_commit(&mut self, sent: &[u8]) -> bool {
        self.rest.extend_from_slice(sent);
        let mut commits = false;
        while let Some((kind, message)) = self.message() {
            commits |= self.commits(kind, &message);
        }
        commits
    }

    /// The next whole message: its kind, 0 for the first one, and its content.
    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = usize::from(self.started);
        let kind = match self.started {
            true => *self.rest.first()?,
            false => 0,
        };
        let length = self.rest.get(head..head + 4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        let end = head + usize::try_from(length).ok()?.max(4);
        let content = self.rest.get(head + 4..end)?.to_vec();
        self.rest.drain(..end);
        self.started = true;
        Some((kind, content))
    }

    fn commits(&mut self, kind: u8, message: &[u8]) -> bool {
        let mut texts = message.split(|byte| *byte == 0);
        let first = texts.next().unwrap_or_default();
        let second = texts.next().unwrap_or_default();
        match kind {
            b'P' => {
                if is_commit(second) {
                    self.committing.insert(first.to_vec());
                } else {
                    self.committing.remove(first);
                }
                false
            }
            b'B' => self.committing.contains(second),
            b'Q' => is_commit(first),
            _ => false,
        }
    }
}

/// Statements whose answer tells a writer that it is done.
fn is_commit(query: &[u8]) -> bool {
    let text = String::from_utf8_lossy(query).to_lowercase();
    let words = ["store.apply", "barrier", "emit_message"];
    words.iter().any(|word| text.contains(word)) || text.trim_start().starts_with("commit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 4).unwrap();
        [&[kind], &length.to_be_bytes()[..], content].concat()
    }

    #[test]
    fn a_commit_is_recognised_by_the_statement_that_was_prepared_however_the_bytes_come() {
        let start = message(0, b"\0\x03\0\0user\0me\0\0")[1..].to_vec();
        let bytes = [
            start,
            message(b'P', b"s1\0SELECT 1\0\0\0"),
            message(b'P', b"s2\0SELECT * FROM store.apply_one($1)\0\0\0"),
            message(b'B', b"\0s1\0"),
            message(b'S', b""),
        ]
        .concat();
        let bind = message(b'B', b"\0s2\0\0\0");
        let mut frontend = Frontend::default();
        assert!(!frontend.asks_to_commit(&bytes));
        assert!(frontend.asks_to_commit(&bind));
        let mut slowly = Frontend::default();
        let seen = [bytes, bind].concat();
        let hits = seen
            .iter()
            .filter(|byte| slowly.asks_to_commit(&[**byte]))
            .count();
        assert_eq!(hits, 1);
        assert!(slowly.asks_to_commit(&message(b'Q', b"COMMIT\0")));
        assert!(!slowly.asks_to_commit(&message(b'Q', b"SELECT 1\0")));
    }

    #[tokio::test]
    async fn connections_are_passed_cut_and_refused_as_the_weather_is() {
        let dir = std::env::temp_dir().join(format!("robust-proxy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("echo");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = peer.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let proxy = Proxy::start(socket).await.unwrap();
        let start = message(0, b"")[1..].to_vec();
        let echo = async |bytes: &[u8]| {
            let mut peer = TcpStream::connect(proxy.address()).await.unwrap();
            let _ = peer.write_all(bytes).await;
            let mut back = vec![0; bytes.len()];
            peer.read_exact(&mut back).await.ok().map(|_| back)
        };
        let commit = [start.clone(), message(b'Q', b"commit\0")].concat();
        assert_eq!(echo(&start).await, Some(start.clone()));
        proxy.cut(Cut::Before, 1);
        assert_eq!(echo(&commit).await, None);
        assert_eq!(echo(&commit).await, Some(commit.clone()), "only once");
        assert_eq!(proxy.cuts_done(), 1);
        proxy.set(Weather::Deaf);
        assert_eq!(echo(&start).await, None);
        proxy.set(Weather::Blackhole);
        let held = tokio::time::timeout(Duration::from_millis(50), echo(&start)).await;
        assert!(held.is_err());
        proxy.set(Weather::Fair);
        assert_eq!(echo(&start).await, Some(start));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
