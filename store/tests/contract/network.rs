//! A network between stores and Postgres, with any weather a test wants.
//!
//! It is a unix socket in a directory of its own, so a store reaches it by another `host` in its
//! URL. Which server is behind it can be changed, as a failover does with a service's address.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use store::testing::{TestDatabase, directory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::breakable::Random;

const SOCKET: &str = ".s.PGSQL.5432";
/// What a lost packet costs before it is sent again, the first time; doubled each further time.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// What becomes of bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Nothing arrives, and nobody is told.
    Blackhole,
    /// Each chunk takes between these milliseconds.
    Slow(u64, u64),
    /// So many of a hundred chunks are lost and sent again, as TCP does it: later and later.
    Lossy(u64),
    /// So many of a hundred notifications never arrive; everything else does.
    Deaf(u64),
    /// Connections are cut around writes and commits.
    Cutting,
}

#[derive(Clone)]
struct State {
    server: Arc<Mutex<PathBuf>>,
    weather: watch::Sender<Weather>,
    random: Arc<Mutex<Random>>,
    cuts: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    /// Cancelled to cut all connections.
    line: Arc<Mutex<CancellationToken>>,
}

pub(crate) struct Network {
    dir: PathBuf,
    state: State,
}

impl Network {
    pub(crate) fn start(name: &str, server: &Path) -> Self {
        let dir = directory(format!("{}-net-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        // A Postgres that runs as another user is a client too, when it is a standby.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        std::fs::set_permissions(dir.join(SOCKET), std::fs::Permissions::from_mode(0o777)).unwrap();
        let state = State {
            server: Arc::new(Mutex::new(server.to_owned())),
            weather: watch::Sender::new(Weather::Fair),
            random: Arc::new(Mutex::new(Random::new(42))),
            cuts: Arc::default(),
            lost: Arc::default(),
            line: Arc::default(),
        };
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, shared.clone()));
            }
        });
        Self { dir, state }
    }

    /// The URL of a database as seen through this network; `socket` is its server's own.
    pub(crate) fn url(&self, database: &TestDatabase, socket: &Path) -> String {
        let (own, here) = (socket.display().to_string(), self.dir.display().to_string());
        let url = database.url.replace(&own, &here);
        assert_ne!(url, database.url);
        url
    }

    pub(crate) fn becomes(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// New connections go to another server; the old ones are cut.
    pub(crate) fn route(&self, server: &Path) {
        server.clone_into(&mut self.state.server.lock().unwrap());
        self.cut_all();
    }

    pub(crate) fn cut_all(&self) {
        let mut line = self.state.line.lock().unwrap();
        line.cancel();
        *line = CancellationToken::new();
    }

    /// Connections cut by the weather.
    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::Relaxed)
    }

    /// Notifications that did not arrive.
    pub(crate) fn lost(&self) -> usize {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.cut_all();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl State {
    fn chance(&self, bound: u64) -> u64 {
        self.random.lock().unwrap().below(bound)
    }

    fn now(&self) -> Weather {
        *self.weather.borrow()
    }

    /// Holds a chunk up for as long as the weather wants it.
    async fn travel(&self) {
        if self.now() == Weather::Blackhole {
            let mut weather = self.weather.subscribe();
            let _ = weather.wait_for(|w| *w != Weather::Blackhole).await;
        }
        let pause = match self.now() {
            Weather::Slow(least, most) => {
                Duration::from_millis(least + self.chance(most.saturating_sub(least) + 1))
            }
            Weather::Lossy(percent) => {
                let mut pause = Duration::ZERO;
                let mut again = RETRANSMIT;
                // Three losses in a row are as bad as it gets: more would be a blackhole.
                for _ in 0..3 {
                    if self.chance(100) >= percent {
                        break;
                    }
                    pause += again;
                    again *= 2;
                }
                pause
            }
            _ => return,
        };
        tokio::time::sleep(pause).await;
    }
}

/// What both directions of one connection know.
struct Line {
    /// One of so many requests is cut: most where writes pass, some where commits do.
    one_in: AtomicU64,
    /// The next answer does not arrive: the connection is cut instead.
    mute: AtomicBool,
}

async fn connect(client: UnixStream, state: State) {
    let cut = state.line.lock().unwrap().clone();
    let path = state.server.lock().unwrap().join(SOCKET);
    let passing = async {
        // In a blackhole not even the first packet arrives.
        state.travel().await;
        let Ok(server) = UnixStream::connect(path).await else {
            return;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let line = Line {
            one_in: AtomicU64::new(60),
            mute: AtomicBool::new(false),
        };
        tokio::select! {
            () = requests(from_client, to_server, &state, &line) => {}
            () = answers(from_server, to_client, &state, &line) => {}
        }
    };
    tokio::select! {
        () = passing => {}
        () = cut.cancelled() => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, line: &Line) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let chunk = &buffer[..count];
        state.travel().await;
        let text = String::from_utf8_lossy(chunk);
        let is_one_of = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
        if is_one_of(&["store.apply", "store.write"]) {
            line.one_in.store(4, Ordering::Relaxed);
        } else if is_one_of(&["store.barrier", "emit_message"]) {
            line.one_in.fetch_min(12, Ordering::Relaxed);
        }
        let one_in = line.one_in.load(Ordering::Relaxed);
        if state.now() == Weather::Cutting && state.chance(one_in) == 0 {
            state.cuts.fetch_add(1, Ordering::Relaxed);
            match state.chance(4) {
                0 => return,
                1 => {
                    let _ = to.write_all(&chunk[..count / 2]).await;
                    return;
                }
                2 => {
                    let _ = to.write_all(chunk).await;
                    return;
                }
                _ => line.mute.store(true, Ordering::Relaxed),
            }
        }
        if to.write_all(chunk).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, line: &Line) {
    let mut buffer = vec![0; 65536];
    let mut messages = Messages::default();
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if line.mute.load(Ordering::Relaxed) {
            return;
        }
        let whole = messages.take(&buffer[..count], |kind| {
            let deaf = matches!(state.now(), Weather::Deaf(percent) if state.chance(100) < percent);
            let lost = kind == b'A' && deaf;
            if lost {
                state.lost.fetch_add(1, Ordering::Relaxed);
            }
            !lost
        });
        state.travel().await;
        if to.write_all(&whole).await.is_err() {
            return;
        }
    }
}

/// Cuts what a server says into its messages.
#[derive(Default)]
struct Messages {
    begun: bool,
    rest: Vec<u8>,
}

impl Messages {
    /// All whole messages whose kind is `wanted`.
    fn take(&mut self, bytes: &[u8], mut wanted: impl FnMut(u8) -> bool) -> Vec<u8> {
        // The answer to the request for TLS is a single byte.
        if !self.begun {
            self.begun = true;
            if bytes.len() == 1 {
                return bytes.to_vec();
            }
        }
        self.rest.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some((head, _)) = self.rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize + 1;
            if self.rest.len() < length {
                break;
            }
            let message: Vec<u8> = self.rest.drain(..length).collect();
            if wanted(message[0]) {
                whole.extend(message);
            }
        }
        whole
    }
}
