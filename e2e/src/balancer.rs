//! A TCP balancer in front of the platform's replicas, which stand outside the
//! cluster: the part that a Service with readiness probes plays inside one.
//!
//! A replica that refuses a connection is passed over at once. One that answers
//! its readiness check with a failure gets no new connections and keeps those it
//! has, so that it can end them itself. One that does not answer at all hangs,
//! and its connections are cut.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ClientConfig;

use crate::http::{self, Tls};

const CHECK_INTERVAL: Duration = Duration::from_millis(300);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Checks that must go unanswered in a row before connections are cut.
const UNANSWERED_LIMIT: u8 = 3;

/// How a replica answered its last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Health {
    Ready = 0,
    NotReady = 1,
    Silent = 2,
}

struct Replica {
    address: SocketAddr,
    health: AtomicU8,
    connections: Mutex<Vec<TcpStream>>,
}

impl Replica {
    fn is(&self, health: Health) -> bool {
        self.health.load(Ordering::Relaxed) == health as u8
    }

    fn set(&self, health: Health) {
        if self.health.swap(health as u8, Ordering::Relaxed) != health as u8 {
            println!("{} is {health:?}", self.address);
        }
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for connection in self.connections().drain(..) {
            // It may have ended already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Serves connections on `listener` for ever. `ca` verifies the replicas, which
/// are asked for `/readyz` anonymously.
pub fn run(listener: &TcpListener, replicas: &[SocketAddr], ca: &Path) -> Result<()> {
    let config = Tls::anonymous(ca).config()?;
    let replicas: Arc<Vec<Arc<Replica>>> = Arc::new(
        replicas
            .iter()
            .map(|address| Arc::new(replica(*address)))
            .collect(),
    );
    for replica in replicas.iter() {
        let (replica, config) = (Arc::clone(replica), Arc::clone(&config));
        thread::spawn(move || check(&replica, &config));
    }
    let next = Arc::new(AtomicUsize::new(0));
    loop {
        let (client, _) = listener.accept().context("accept a connection")?;
        let (replicas, next) = (Arc::clone(&replicas), Arc::clone(&next));
        thread::spawn(move || serve(&client, &replicas, next.fetch_add(1, Ordering::Relaxed)));
    }
}

fn replica(address: SocketAddr) -> Replica {
    Replica {
        address,
        health: AtomicU8::new(Health::NotReady as u8),
        connections: Mutex::new(Vec::new()),
    }
}

fn check(replica: &Replica, config: &Arc<ClientConfig>) {
    let mut unanswered = 0u8;
    loop {
        match http::get(replica.address, config, "/readyz", CHECK_TIMEOUT) {
            Ok(answer) => {
                unanswered = 0;
                replica.set(if answer.code == 200 {
                    Health::Ready
                } else {
                    Health::NotReady
                });
            }
            Err(_) => {
                unanswered = unanswered.saturating_add(1);
                replica.set(Health::Silent);
                if unanswered == UNANSWERED_LIMIT {
                    replica.cut();
                }
            }
        }
        thread::sleep(CHECK_INTERVAL);
    }
}

/// The replicas in the order in which to try them: ready ones first, each group
/// rotated by `turn`. None is left out: a check may be older than the truth.
fn order(replicas: &[Arc<Replica>], turn: usize) -> Vec<Arc<Replica>> {
    let rotated = || {
        let start = turn.checked_rem(replicas.len()).unwrap_or(0);
        replicas.iter().cycle().skip(start).take(replicas.len())
    };
    let ready = rotated().filter(|replica| replica.is(Health::Ready));
    ready
        .chain(rotated().filter(|replica| !replica.is(Health::Ready)))
        .cloned()
        .collect()
}

fn serve(client: &TcpStream, replicas: &[Arc<Replica>], turn: usize) {
    for replica in order(replicas, turn) {
        let Ok(server) = TcpStream::connect_timeout(&replica.address, CONNECT_TIMEOUT) else {
            continue;
        };
        // What fails here ends this one connection, and its client sees that.
        let _ = relay(client, &server, &replica);
        let _ = server.shutdown(Shutdown::Both);
        break;
    }
    let _ = client.shutdown(Shutdown::Both);
}

fn relay(client: &TcpStream, server: &TcpStream, replica: &Replica) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mine = server.try_clone()?;
    let port = mine.local_addr()?;
    replica.connections().push(mine);
    let (up_from, up_to) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || copy(&up_from, &up_to));
    copy(server, client);
    let _ = up.join();
    replica
        .connections()
        .retain(|held| held.local_addr().is_ok_and(|held| held != port));
    Ok(())
}

/// Copies until the end, then passes the end on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    if io::copy(&mut from, &mut to).is_err() {
        // Neither side can be served any longer: wake the other direction too.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    } else {
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::atomic::AtomicBool;

    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::certs::{Authority, Leaf, Pki};
    use crate::process::wait_until;

    const LIMIT: Duration = Duration::from_secs(10);
    /// Far longer than a replica that hangs keeps its connections.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// A server that answers every request with its name, and `/readyz` as it is told.
    struct Fake {
        address: SocketAddr,
        told: Arc<Told>,
    }

    /// What a fake is told to do, and what it has done.
    #[derive(Default)]
    struct Told {
        unready: AtomicBool,
        hangs: AtomicBool,
        checks: AtomicUsize,
    }

    impl Fake {
        fn start(name: &'static str, config: &Arc<ServerConfig>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let fake = Self {
                address: listener.local_addr().unwrap(),
                told: Arc::default(),
            };
            let (told, config) = (Arc::clone(&fake.told), Arc::clone(config));
            thread::spawn(move || {
                for tcp in listener.incoming() {
                    let (told, config) = (Arc::clone(&told), Arc::clone(&config));
                    thread::spawn(move || answer(name, tcp.unwrap(), config, &told));
                }
            });
            fake
        }
    }

    fn answer(name: &str, tcp: TcpStream, config: Arc<ServerConfig>, told: &Told) {
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
        let mut request = Vec::new();
        let mut part = [0; 512];
        // Closing before all of it is read would reset the connection.
        while !request.ends_with(b"\r\n\r\n")
            && let Ok(read @ 1..) = stream.read(&mut part)
        {
            request.extend_from_slice(&part[..read]);
        }
        while told.hangs.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
        let is_check = request.starts_with(b"GET /readyz");
        if is_check {
            told.checks.fetch_add(1, Ordering::Relaxed);
        }
        let code = if is_check && told.unready.load(Ordering::Relaxed) {
            500
        } else {
            200
        };
        let _ = write!(stream, "HTTP/1.0 {code} \r\n\r\n{name}");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }

    /// Two fakes behind a balancer, and a client of it.
    struct Setup {
        fakes: [Fake; 2],
        front: SocketAddr,
        config: Arc<ClientConfig>,
    }

    impl Setup {
        fn new(test: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("widget-{test}-{}", std::process::id()));
            let pki = Pki::open(&dir).unwrap();
            let leaf = Leaf {
                file: "fake",
                common_name: "fake",
                hosts: &["localhost"],
                ..Leaf::default()
            };
            let pair = pki.issue(Authority::Widget, &leaf).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![CertificateDer::from_pem_file(&pair.cert).unwrap()],
                    PrivateKeyDer::from_pem_file(&pair.key).unwrap(),
                )
                .unwrap();
            let server = Arc::new(server);
            let fakes = [Fake::start("a", &server), Fake::start("b", &server)];
            let ca = pki.authority(Authority::Widget);
            let config = Tls::anonymous(&ca).config().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let front = listener.local_addr().unwrap();
            let replicas = fakes.each_ref().map(|fake| fake.address);
            thread::spawn(move || run(&listener, &replicas, &ca));
            let setup = Self {
                fakes,
                front,
                config,
            };
            // A second check begins when the answer to the first is known: without that, two that
            // are both not known to be ready take turns as well.
            let both_checked = || {
                let checks = setup.fakes.each_ref().map(|fake| &fake.told.checks);
                checks.iter().all(|n| n.load(Ordering::Relaxed) > 1)
            };
            assert!(
                wait_until(LIMIT, || both_checked() && setup.serves_both()),
                "both are ready in the end"
            );
            std::fs::remove_dir_all(dir).unwrap();
            setup
        }

        /// Who answers a new connection.
        fn ask(&self) -> Option<String> {
            let answer = http::get(self.front, &self.config, "/", PATIENCE).ok()?;
            Some(answer.body)
        }

        fn serves_both(&self) -> bool {
            let mut names = [self.ask(), self.ask()];
            names.sort();
            names == [Some("a".into()), Some("b".into())]
        }

        fn serves_only(&self, name: &str) -> bool {
            (0..4).all(|_| self.ask().as_deref() == Some(name))
        }
    }

    #[test]
    fn a_replica_that_is_not_ready_gets_no_new_connections_until_it_is() {
        let setup = Setup::new("not-ready");
        setup.fakes[0].told.unready.store(true, Ordering::Relaxed);
        assert!(wait_until(LIMIT, || setup.serves_only("b")));
        setup.fakes[0].told.unready.store(false, Ordering::Relaxed);
        assert!(wait_until(LIMIT, || setup.serves_both()));
    }

    #[test]
    fn connections_to_a_replica_that_hangs_are_cut() {
        let setup = Setup::new("hangs");
        setup.fakes[1].told.hangs.store(true, Ordering::Relaxed);
        let start = std::time::Instant::now();
        // The two take turns, so one of these reaches the one that hangs.
        let answers = [setup.ask(), setup.ask()];
        assert!(answers.contains(&None), "{answers:?}");
        assert!(start.elapsed() < PATIENCE / 2, "cut, and not timed out");
        assert!(wait_until(LIMIT, || setup.serves_only("a")));
        setup.fakes[1].told.hangs.store(false, Ordering::Relaxed);
    }

    #[test]
    fn ready_replicas_come_first_and_none_is_left_out() {
        let replicas: Vec<_> = (1..=3)
            .map(|port| Arc::new(replica(address(port))))
            .collect();
        replicas[2].set(Health::Ready);
        let ports: Vec<u16> = order(&replicas, 1)
            .iter()
            .map(|r| r.address.port())
            .collect();
        assert_eq!(ports, [3, 2, 1]);
    }

    #[test]
    fn ready_replicas_take_turns() {
        let replicas: Vec<_> = (1..=2)
            .map(|port| Arc::new(replica(address(port))))
            .collect();
        replicas
            .iter()
            .for_each(|replica| replica.set(Health::Ready));
        let first = |turn| order(&replicas, turn)[0].address.port();
        assert_eq!([first(0), first(1), first(2)], [1, 2, 1]);
    }

    #[test]
    fn a_dead_replica_is_passed_over() {
        let dead = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let replicas = vec![
            Arc::new(replica(dead)),
            Arc::new(replica(live.local_addr().unwrap())),
        ];
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(front.local_addr().unwrap()).unwrap();
        let (accepted, _) = front.accept().unwrap();
        thread::spawn(move || serve(&accepted, &replicas, 0));
        thread::spawn(move || {
            let (mut server, _) = live.accept().unwrap();
            server.write_all(b"hello").unwrap();
        });
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
