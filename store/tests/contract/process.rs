//! A store in a process of its own, which a test may stop, continue and kill.
//!
//! The process is this test program, asked to run one test that does nothing otherwise. It takes
//! a command a line, each with a number, and answers each in a line with that number.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use store::{Revision, StoreConfig, WriteError};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::breakable::signal;
use crate::support::{PATIENCE, Replica, create, key};

/// Where the process finds its database.
const DATABASE: &str = "REPLICA_DATABASE_URL";
/// What distinguishes its answers from the test harness'.
const MARK: &str = "replica: ";

/// What a watch in another process returned: revisions and keys, then perhaps `gone`.
pub(crate) type Events = mpsc::UnboundedReceiver<Option<(i64, String)>>;

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<String>>,
    watches: HashMap<u64, mpsc::UnboundedSender<Option<(i64, String)>>>,
}

pub(crate) struct Process {
    child: Child,
    input: Mutex<(u64, ChildStdin)>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Process {
    /// Starts a replica, which is ready when this returns.
    pub(crate) async fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["process::a_process_is_a_replica_when_it_is_asked_to_be"])
            .args(["--exact", "--nocapture"])
            .env(DATABASE, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let (known, output) = (Arc::clone(&waiting), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(MARK) {
                    known.lock().unwrap().hear(said);
                }
            }
            // Who still waits is told by the end of its channel.
            *known.lock().unwrap() = Waiting::default();
        });
        let input = Mutex::new((0, child.stdin.take().unwrap()));
        let this = Self {
            child,
            input,
            waiting,
        };
        assert_eq!(this.ask("ready").await.as_deref(), Some("yes"));
        this
    }

    /// The answer to a command; `None` when the process ends before it.
    pub(crate) async fn ask(&self, command: &str) -> Option<String> {
        let (sender, answer) = oneshot::channel();
        self.say(command, |waiting, number| {
            waiting.answers.insert(number, sender);
        })?;
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| panic!("no answer to {command:?}"))
            .ok()
    }

    /// Opens a watch.
    pub(crate) fn watch(&self, after: Revision) -> Option<Events> {
        let (sender, events) = mpsc::unbounded_channel();
        self.say(&format!("watch {after}"), |waiting, number| {
            waiting.watches.insert(number, sender);
        })?;
        Some(events)
    }

    fn say(&self, command: &str, listen: impl FnOnce(&mut Waiting, u64)) -> Option<()> {
        let mut input = self.input.lock().unwrap();
        input.0 += 1;
        let number = input.0;
        listen(&mut self.waiting.lock().unwrap(), number);
        let written = writeln!(input.1, "{number} {command}");
        if written.is_err() {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.answers.remove(&number);
            waiting.watches.remove(&number);
        }
        written.ok()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Waiting {
    fn hear(&mut self, said: &str) {
        let (number, said) = said.split_once(' ').unwrap();
        let number = number.parse().unwrap();
        if let Some(answer) = self.answers.remove(&number) {
            let _ = answer.send(said.to_owned());
        } else if let Some(watch) = self.watches.get(&number) {
            let event = said
                .split_once(' ')
                .map(|(revision, key)| (revision.parse().unwrap(), key.to_owned()));
            let _ = watch.send(event);
        }
    }
}

fn answer(number: &str, said: &str) {
    println!("{MARK}{number} {said}");
}

async fn obey(replica: &Replica, number: &str, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    match words.as_slice() {
        ["ready"] => answer(number, "yes"),
        ["create", name, body] => {
            let write = create(&key(name), Uuid::new_v4(), body);
            let said = match replica.things.write(write).await {
                Ok(revision) => format!("done {revision}"),
                Err(WriteError::OutcomeUnknown) => "unknown".to_owned(),
                Err(error) => format!("not {error}"),
            };
            answer(number, &said);
        }
        ["get", name] => {
            let said = match replica.things.consistent().await {
                Ok(snapshot) => snapshot
                    .get(&key(name))
                    .map_or("missing".to_owned(), |o| o.view.clone()),
                Err(error) => format!("not {error}"),
            };
            answer(number, &said);
        }
        ["compact"] => answer(number, &format!("{:?}", replica.store.compact().await)),
        ["cached"] => answer(number, &replica.store.applied().to_string()),
        ["watch", after] => {
            let Ok(mut watcher) = replica.things.watch(Revision::new(after.parse().unwrap()))
            else {
                return answer(number, "gone");
            };
            while let Ok(events) = watcher.next_batch(100).await {
                for event in events {
                    answer(number, &format!("{} {}", event.revision, event.key()));
                }
            }
            answer(number, "gone");
        }
        other => panic!("what is {other:?}?"),
    }
}

#[test]
fn a_process_is_a_replica_when_it_is_asked_to_be() {
    let Ok(url) = std::env::var(DATABASE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let replica = runtime.block_on(Replica::with(StoreConfig::new(url)));
    let replica = Arc::new(replica);
    // The end of the input is the end of whoever needs this process.
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let replica = Arc::clone(&replica);
        runtime.spawn(async move {
            let (number, command) = line.split_once(' ').unwrap();
            obey(&replica, number, command).await;
        });
    }
    runtime.shutdown_timeout(Duration::from_millis(100));
    std::process::exit(0);
}
