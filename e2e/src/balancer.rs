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

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
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
