//! Watchers: each follows from where it begins to the end of the history, over
//! many connections, every one to another replica than the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::bodies;
use crate::client::{Ask, Client, Failure};
use crate::drive::scoped;
use crate::plan::{From, Leg, Watching};
use crate::record::{Frame, Mode, Start, Stream, Watch, revision};
use crate::rng::Rng;
use crate::scene::Scene;
use crate::truth::Truth;

/// How long a watcher may need to come to the end after the last write.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// Between two connections, so that a dead replica is not asked in a loop.
const BACK_OFF: Duration = Duration::from_millis(10);
/// A future start lies at most so far ahead.
const AHEAD: u64 = 30;

/// One watcher.
pub struct Follower {
    scene: Arc<Scene>,
    watching: Watching,
    replicas: Vec<Client>,
    goal: watch::Receiver<Option<Arc<Truth>>>,
    record: Watch,
}

/// Where the next connection begins, or that there is nothing more to see.
enum Next {
    From(Start),
    Done,
}

impl Follower {
    /// The watcher of that number.
    #[must_use]
    pub fn new(scene: Arc<Scene>, watching: Watching) -> Self {
        Self {
            replicas: scene.clients(),
            goal: scene.goal.subscribe(),
            record: Watch {
                selector: watching.selector.clone(),
                streams: Vec::new(),
            },
            scene,
            watching,
        }
    }

    /// Follows to the end; gives up when it does not come in time.
    pub async fn run(mut self) -> Watch {
        sleep(Duration::from_millis(self.watching.pause)).await;
        let mut goal = self.goal.clone();
        let limit = async move {
            let known = goal.wait_for(Option::is_some).await;
            drop(known);
            sleep(FINISH_LIMIT).await;
        };
        let following = async {
            let mut start = self.begin();
            for number in 0.. {
                match self.leg(number, start).await {
                    Next::From(next) => start = next,
                    Next::Done => return,
                }
                sleep(BACK_OFF).await;
            }
        };
        tokio::select! {
            () = following => {}
            () = limit => {}
        }
        self.record
    }

    fn begin(&self) -> Start {
        let mut rng = Rng::new(self.scene.plan.seed ^ self.watching.pause);
        let seen = self.scene.some_revision(rng.next());
        match self.watching.from {
            From::Beginning => Start::After(self.scene.beginning),
            From::Seen => Start::After(seen),
            From::Future => {
                let ahead = i64::try_from(rng.within(1, AHEAD)).unwrap_or(1);
                Start::After(self.scene.newest() + ahead)
            }
            From::State => Start::State(Mode::Consistent),
            From::Streaming if rng.chance(50) => Start::State(Mode::NotOlderThan(seen)),
            From::Streaming => Start::State(Mode::Consistent),
            From::AnyState => Start::State(Mode::Any),
        }
    }

    /// One connection, recorded.
    async fn leg(&mut self, number: usize, start: Start) -> Next {
        let count = self.watching.legs.len().max(1);
        let Some(leg) = self.watching.legs.get(number % count).cloned() else {
            return Next::Done;
        };
        let invoked = self.scene.now();
        self.record.streams.push(Stream {
            replica: leg.replica,
            start,
            invoked,
            frames: Vec::new(),
            refused: None,
            end: "given up".to_owned(),
        });
        let ask = Ask::get(self.path(&leg, start), &self.scene.audit());
        let Some(client) = self.replicas.get(leg.replica) else {
            return Next::Done;
        };
        // The answer's head comes at once, or the replica is gone.
        let limit = Duration::from_secs(leg.seconds) + Duration::from_secs(8);
        let answer = timeout(limit, client.send(ask)).await;
        let body = match answer {
            Ok(Ok(response)) if response.status().as_u16() == 200 => response.into_body(),
            Ok(Ok(response)) => {
                let code = response.status().as_u16();
                if let Some(stream) = self.record.streams.last_mut() {
                    stream.refused = Some(code);
                }
                self.end(format!("refused with {code}"));
                let again = match code {
                    410 => Start::State(Mode::Consistent),
                    _ => start,
                };
                return Next::From(again);
            }
            Ok(Err(Failure::NotSent(why) | Failure::Lost(why))) => {
                self.end(why);
                return self.next(start);
            }
            Err(_) => {
                self.end("no answer".to_owned());
                return self.next(start);
            }
        };
        self.read(body, &leg, start).await;
        self.next(start)
    }

    /// Reads lines until the connection ends, one way or another.
    async fn read(&mut self, mut body: Incoming, leg: &Leg, start: Start) {
        let mut rest: Vec<u8> = Vec::new();
        let mut goal = self.goal.clone();
        goal.mark_unchanged();
        // The server ends it after that time; a frozen one does so later.
        let limit = Duration::from_secs(leg.seconds) + Duration::from_secs(8);
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if self.is_finished(start) {
                return self.end("finished".to_owned());
            }
            let frame = tokio::select! {
                frame = body.frame() => frame,
                _ = goal.changed() => continue,
                () = tokio::time::sleep_until(deadline) => {
                    return self.end("the server does not end it".to_owned());
                }
            };
            let data = match frame {
                None => return self.end("ended by the server".to_owned()),
                Some(Err(error)) => return self.end(error.to_string()),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            let at = self.scene.now();
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !self.take(&line, at) {
                    return self.end(format!("no JSON: {}", String::from_utf8_lossy(&line)));
                }
            }
            let frames = self.record.streams.last().map_or(0, |s| s.frames.len());
            let most = leg.frames.and_then(|most| usize::try_from(most).ok());
            if most.is_some_and(|most| frames >= most) {
                return self.end("the client hangs up".to_owned());
            }
        }
    }

    fn take(&mut self, line: &[u8], at: u64) -> bool {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            return false;
        };
        let kind = event
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let frame = Frame {
            at,
            kind: kind.to_owned(),
            object: event.get("object").cloned().unwrap_or_default(),
        };
        if let Some(stream) = self.record.streams.last_mut() {
            stream.frames.push(frame);
        }
        true
    }

    fn end(&mut self, why: String) {
        if let Some(stream) = self.record.streams.last_mut() {
            stream.end = why;
        }
    }

    /// How far this connection has come; none while initial events are on their way.
    fn position(&self, start: Start) -> Option<i64> {
        let stream = self.record.streams.last()?;
        let past = match start {
            Start::After(revision) => Some((revision, stream.frames.as_slice())),
            Start::State(_) => {
                let frames = &stream.frames;
                let mark = frames.iter().position(|frame| frame.kind == "BOOKMARK");
                mark.and_then(|mark| {
                    let at = revision(&frames.get(mark)?.object)?;
                    Some((at, frames.get(mark + 1..)?))
                })
            }
        };
        let (from, frames) = past?;
        let seen = frames.iter().filter_map(|frame| revision(&frame.object));
        Some(seen.fold(from, i64::max))
    }

    /// Whether all that is to come has come.
    fn is_finished(&self, start: Start) -> bool {
        let goal = self.goal.borrow();
        let Some(truth) = goal.as_ref() else {
            return false;
        };
        let frames = truth.frames(&self.watching.selector);
        let last = frames.last().map_or(0, |frame| frame.revision);
        self.position(start).is_some_and(|at| at >= last)
    }

    /// Where to go on after this connection.
    fn next(&self, start: Start) -> Next {
        if self.is_finished(start) {
            return Next::Done;
        }
        let last = self.record.streams.last();
        let error = last.and_then(|stream| {
            let frame = stream.frames.last().filter(|frame| frame.kind == "ERROR")?;
            frame.object.get("code")?.as_u64()
        });
        if error == Some(410) {
            return Next::From(Start::State(Mode::Consistent));
        }
        Next::From(self.position(start).map_or(start, Start::After))
    }

    fn path(&self, leg: &Leg, start: Start) -> String {
        let mut query = format!(
            "&watch=true&allowWatchBookmarks=true&timeoutSeconds={}",
            leg.seconds
        );
        let parameters: BTreeMap<&str, String> = match (start, self.watching.from) {
            (Start::After(at), _) => [("resourceVersion", at.to_string())].into(),
            (Start::State(mode), from) => {
                let mut parameters = BTreeMap::new();
                match mode {
                    Mode::Any => drop(parameters.insert("resourceVersion", "0".to_owned())),
                    Mode::NotOlderThan(at) | Mode::Exact(at) => {
                        parameters.insert("resourceVersion", at.to_string());
                    }
                    Mode::Consistent => {}
                }
                if from == From::Streaming {
                    parameters.insert("sendInitialEvents", "true".to_owned());
                    parameters.insert("resourceVersionMatch", "NotOlderThan".to_owned());
                }
                parameters
            }
        };
        for (name, value) in parameters {
            query.push_str(&format!("&{name}={value}"));
        }
        let Watching {
            selector,
            everywhere,
            ..
        } = &self.watching;
        let namespace = &self.scene.namespace;
        let path = bodies::collection(namespace, *everywhere);
        scoped(&path, namespace, selector, *everywhere, &query)
    }
}
