//! Places where tests make the store fail: at every boundary to SQL and at every transition of a
//! cache. Without the feature `failpoints` none of them is compiled in.
//!
//! `FAILPOINTS="name=action;name=action"` arms them when a process starts, `arm` while it runs. An
//! action is `error`, `delay(milliseconds)`, `panic` or `exit`, and may be preceded by how many
//! passes it lets go, as in `20*error`; it happens once, unless it ends in `!`, as in `error!`. What
//! cannot fail, such as the transition of a cache, panics where it is told to fail.

macro_rules! points {
    ($($point:ident = $name:literal,)+) => {
        /// One place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Point { $(
            #[doc = $name]
            $point,
        )+ }

        /// The names of all places; tests fail when one of them was never passed.
        #[cfg(feature = "failpoints")]
        pub const NAMES: &[&str] = &[$($name,)+];
    };
}

points! {
    LinkOpen = "link.open",
    LinkOpened = "link.opened",
    BackendSend = "backend.send",
    BackendAnswer = "backend.answer",
    MigrateSend = "migrate.send",
    GrantSend = "grant.send",
    GrantAnswer = "grant.answer",
    SchemaSend = "schema.send",
    SchemaAnswer = "schema.answer",
    RegisterSend = "register.send",
    RegisterAnswer = "register.answer",
    EpochSend = "epoch.send",
    EpochAnswer = "epoch.answer",
    EpochLoaded = "epoch.loaded",
    AliveSend = "alive.send",
    WriteOneSend = "write-one.send",
    WriteOneAnswer = "write-one.answer",
    WriteBatchSend = "write-batch.send",
    WriteBatchAnswer = "write-batch.answer",
    BarrierSend = "barrier.send",
    BarrierAnswer = "barrier.answer",
    TellSend = "tell.send",
    TellAnswer = "tell.answer",
    ResolveSend = "resolve.send",
    ResolveEnded = "resolve.ended",
    ResolveAnswer = "resolve.answer",
    ExtendSend = "extend.send",
    ExtendAnswer = "extend.answer",
    TailOpen = "tail.open",
    ListenSend = "listen.send",
    JoinSend = "join.send",
    JoinAnswer = "join.answer",
    TailNotified = "tail.notified",
    CheckSend = "check.send",
    CheckAnswer = "check.answer",
    TailBarrierSend = "tail-barrier.send",
    TailBarrierAnswer = "tail-barrier.answer",
    TailReadSend = "tail-read.send",
    TailReadRow = "tail-read.row",
    TailReadAnswer = "tail-read.answer",
    LoadBegin = "load.begin",
    LoadPosition = "load.position",
    LoadHeads = "load.heads",
    LoadEvents = "load.events",
    LoadBarrier = "load.barrier",
    LoadAnswer = "load.answer",
    ProbeSend = "probe.send",
    ProbeAnswer = "probe.answer",
    ProbeNewest = "probe.newest",
    HistorySend = "history.send",
    HistoryAnswer = "history.answer",
    RewindSend = "rewind.send",
    RewindAnswer = "rewind.answer",
    TrailSend = "trail.send",
    TrailAnswer = "trail.answer",
    SurveySend = "survey.send",
    SurveyAnswer = "survey.answer",
    CompactLock = "compact.lock",
    CompactRaise = "compact.raise",
    CompactRaised = "compact.raised",
    CompactOldest = "compact.oldest",
    CompactRescue = "compact.rescue",
    CompactRescued = "compact.rescued",
    CompactDrop = "compact.drop",
    CompactDropped = "compact.dropped",
    PublishOwn = "publish.own",
    PublishRead = "publish.read",
    Published = "published",
    Answer = "answer",
    CacheApply = "cache.apply",
    CachePushed = "cache.pushed",
    CacheStored = "cache.stored",
    CacheReset = "cache.reset",
    CacheResetRing = "cache.reset-ring",
    CacheTrim = "cache.trim",
    CacheWake = "cache.wake",
    Reach = "reach",
}

#[cfg(feature = "failpoints")]
pub use armed::{Action, arm, arm_all, disarm, hits};
#[cfg(feature = "failpoints")]
pub(crate) use armed::{at, pass};

#[cfg(not(feature = "failpoints"))]
pub(crate) use absent::{at, pass};

#[cfg(not(feature = "failpoints"))]
mod absent {
    use super::Point;

    pub(crate) async fn at(_point: Point) -> Result<(), sqlx::Error> {
        Ok(())
    }

    pub(crate) fn pass(_point: Point) {}
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use super::{NAMES, Point};

    /// What happens at a point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Action {
        /// The connection is taken for broken.
        Error,
        /// Nothing, for so long.
        Delay(Duration),
        /// The task panics.
        Panic,
        /// The process ends at once.
        Exit,
    }

    #[derive(Clone, Copy)]
    struct Armed {
        action: Action,
        /// Passes that are let go before.
        after: u64,
        always: bool,
    }

    #[derive(Clone, Copy, Default)]
    struct State {
        hits: u64,
        armed: Option<Armed>,
    }

    static STATES: LazyLock<Mutex<Vec<State>>> = LazyLock::new(|| {
        let mut states = vec![State::default(); NAMES.len()];
        if let Ok(text) = std::env::var("FAILPOINTS")
            && let Err(error) = read_into(&mut states, &text)
        {
            tracing::error!(error, "FAILPOINTS is not understood");
        }
        Mutex::new(states)
    });

    fn states() -> MutexGuard<'static, Vec<State>> {
        STATES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_into(states: &mut [State], text: &str) -> Result<(), String> {
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, action) = part
                .split_once('=')
                .ok_or_else(|| format!("{part} has no action"))?;
            let index = index_of(name.trim())?;
            let state = states.get_mut(index).ok_or("no such point")?;
            state.armed = Some(read_action(action.trim())?);
        }
        Ok(())
    }

    fn read_action(text: &str) -> Result<Armed, String> {
        let (after, rest) = match text.split_once('*') {
            Some((count, rest)) => {
                let count = count.parse().map_err(|_| format!("{count} is no count"))?;
                (count, rest)
            }
            None => (0, text),
        };
        let (rest, always) = rest
            .strip_suffix('!')
            .map_or((rest, false), |rest| (rest, true));
        let delay = rest
            .strip_prefix("delay(")
            .and_then(|rest| rest.strip_suffix(')')?.parse().ok());
        let action = match (rest, delay) {
            (_, Some(milliseconds)) => Action::Delay(Duration::from_millis(milliseconds)),
            ("error", _) => Action::Error,
            ("panic", _) => Action::Panic,
            ("exit", _) => Action::Exit,
            _ => return Err(format!("unknown action {rest}")),
        };
        Ok(Armed {
            action,
            after,
            always,
        })
    }

    fn index_of(name: &str) -> Result<usize, String> {
        let index = NAMES.iter().position(|known| *known == name);
        index.ok_or_else(|| format!("no point has the name {name}"))
    }

    /// Has `action` happen at the next pass of the point `name`, once.
    pub fn arm(name: &str, action: Action) -> Result<(), String> {
        let index = index_of(name)?;
        if let Some(state) = states().get_mut(index) {
            state.armed = Some(Armed {
                action,
                after: 0,
                always: false,
            });
        }
        Ok(())
    }

    /// As the environment variable.
    pub fn arm_all(text: &str) -> Result<(), String> {
        read_into(&mut states(), text)
    }

    /// Nothing happens anywhere any more.
    pub fn disarm() {
        states().iter_mut().for_each(|state| state.armed = None);
    }

    /// How often each point was passed, in the order of [`NAMES`].
    pub fn hits() -> Vec<(&'static str, u64)> {
        let states = states();
        let hits = states.iter().map(|state| state.hits);
        NAMES.iter().copied().zip(hits).collect()
    }

    fn next(point: Point) -> Option<Action> {
        let mut states = states();
        let state = states.get_mut(point as usize)?;
        state.hits += 1;
        let armed = state.armed.as_mut()?;
        if armed.after > 0 {
            armed.after -= 1;
            return None;
        }
        let armed = *armed;
        if !armed.always {
            state.armed = None;
        }
        Some(armed.action)
    }

    fn end(point: Point, action: Action) {
        match action {
            Action::Exit => std::process::exit(86),
            #[expect(clippy::panic, reason = "that is what it is for")]
            _ => panic!("failpoint {point:?}"),
        }
    }

    /// A boundary to SQL.
    pub(crate) async fn at(point: Point) -> Result<(), sqlx::Error> {
        match next(point) {
            None => Ok(()),
            Some(Action::Error) => Err(sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into())),
            Some(Action::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Some(action) => {
                end(point, action);
                Ok(())
            }
        }
    }

    /// A transition, which nothing may interrupt.
    pub(crate) fn pass(point: Point) {
        match next(point) {
            None => {}
            Some(Action::Delay(time)) => std::thread::sleep(time),
            Some(action) => end(point, action),
        }
    }
}
