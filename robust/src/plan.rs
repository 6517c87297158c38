//! What one history does, drawn from its seed alone: who writes and reads what
//! where, who watches, and what goes wrong when.

mod draw;

use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// Replicas that a run has; each history uses two or more of them.
pub const REPLICAS: usize = 4;

/// One history before it happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// The replicas that it uses.
    pub replicas: Vec<usize>,
    /// Names of the objects: few, so that writers meet.
    pub names: Vec<String>,
    /// Steps of each client, one after the other.
    pub clients: Vec<Vec<Step>>,
    /// Watchers.
    pub watchers: Vec<Watching>,
    /// What goes wrong.
    pub faults: Vec<Trouble>,
    /// How slow the disk is: microseconds that Postgres waits before each flush.
    pub disk: u64,
}

impl Plan {
    /// Whether nothing goes wrong in it: that old history goes is no fault.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.all(|trouble| matches!(trouble.fault, Fault::Compact { .. }))
    }

    /// Whether a task of this replica may be made to panic. A request's own is answered with 500
    /// then; caches that another one left half changed are loaded anew, and their watchers get 410.
    #[must_use]
    pub fn may_panic(&self, of: usize) -> bool {
        let is_transition = |name: &str| TRANSITIONS.iter().any(|start| name.starts_with(start));
        self.faults.iter().any(|trouble| match &trouble.fault {
            Fault::Failpoint {
                replica, setting, ..
            } if *replica == of => match setting.split_once('=') {
                Some((name, "error")) => is_transition(name),
                Some((_, action)) => action == "panic",
                None => false,
            },
            _ => false,
        })
    }
}

/// How the names of places begin that cannot fail, and panic where they are told to.
const TRANSITIONS: [&str; 5] = ["answer", "cache.", "epoch.loaded", "publish", "reach"];

/// One thing that a client does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds that it thinks before.
    pub pause: u64,
    /// Which replica it asks.
    pub replica: usize,
    /// Which object it is about.
    pub name: String,
    /// What it does.
    pub action: Action,
}

/// What a write says about the object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// The label; absent for none.
    pub tier: Option<String>,
    /// `spec.color`.
    pub color: String,
    /// `spec.replicas`.
    pub replicas: u8,
}

/// On what state a write rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basis {
    /// Read just before.
    Fresh,
    /// The last that any client has seen.
    Known,
    /// One that was seen earlier.
    Stale,
    /// None: the server reads, computes and writes.
    None,
}

/// Subresource and verb of a status write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// PUT.
    Put,
    /// Merge patch.
    Merge,
    /// JSON patch.
    Json,
}

/// How fresh a list must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// resourceVersion unset.
    Consistent,
    /// resourceVersion 0.
    Any,
    /// At least the newest revision that any client has seen.
    NotOlderThan,
    /// Exactly a revision of the past.
    Exact,
}

/// What a step does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Action {
    /// POST, perhaps with a finalizer.
    Create { shape: Shape, finalizer: bool },
    /// PUT.
    Put { basis: Basis, shape: Shape },
    /// Merge patch.
    Merge { basis: Basis, shape: Shape },
    /// JSON patch; `test` makes it conditional on what the last writer wrote.
    Json {
        basis: Basis,
        test: bool,
        shape: Shape,
    },
    /// A write of the status.
    Status {
        form: Form,
        basis: Basis,
        phase: String,
    },
    /// A write of the scale.
    Scale {
        form: Form,
        basis: Basis,
        replicas: u8,
    },
    /// GET in v1alpha1.
    OldGet,
    /// Merge patch in v1alpha1.
    OldMerge { basis: Basis, shape: Shape },
    /// Takes the finalizers away.
    Release,
    /// DELETE, with the resourceVersion or the uid of a known state as precondition, or none.
    Delete { basis: Basis, by_uid: bool },
    /// DELETE of a collection.
    DeleteCollection { selector: Selector },
    /// GET, consistent or at resourceVersion 0.
    Get { fresh: bool },
    /// LIST.
    List {
        freshness: Freshness,
        selector: Selector,
        everywhere: bool,
    },
    /// LIST in pages, each from another replica.
    Pages {
        freshness: Freshness,
        selector: Selector,
        limit: u8,
    },
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// Before the first write of the history.
    Beginning,
    /// At a revision that some client has seen.
    Seen,
    /// A little in the future.
    Future,
    /// Present state first, at resourceVersion unset.
    State,
    /// Present state first, as a streaming list.
    Streaming,
    /// Present state first, at resourceVersion 0.
    AnyState,
}

/// One watcher.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watching {
    /// Milliseconds before it begins.
    pub pause: u64,
    /// Where it begins.
    pub from: From,
    /// What it sees.
    pub selector: Selector,
    /// Whether it watches all namespaces and selects its own by a field.
    pub everywhere: bool,
    /// Each of its connections: which replica, seconds until the server ends it,
    /// and after how many frames the client goes away itself.
    pub legs: Vec<Leg>,
}

/// One connection of a watcher; after the last they begin again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leg {
    /// Which replica.
    pub replica: usize,
    /// `timeoutSeconds`.
    pub seconds: u64,
    /// The client hangs up after so many frames.
    pub frames: Option<u64>,
}

/// A fault and when it comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trouble {
    /// When so many steps have begun.
    pub after: u64,
    /// What happens.
    pub fault: Fault,
}

/// Where a connection to Postgres is cut, seen from the bytes that ask for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cut {
    /// The server never sees them.
    Before,
    /// They go up and the connection is gone at once.
    Midway,
    /// The server has answered, and the answer is lost.
    After,
}

/// What goes wrong. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// SIGKILL of a replica, and its start.
    Kill { replica: usize, down: u64 },
    /// SIGSTOP and SIGCONT of a replica.
    Freeze { replica: usize, hold: u64 },
    /// `immediate` stop of Postgres, and its start.
    CrashPostgres { down: u64 },
    /// End of one session by the administrator.
    Terminate { nth: u64 },
    /// SIGKILL of one backend: Postgres ends all sessions and recovers.
    KillBackend { nth: u64 },
    /// Connections of a replica are cut around its next commits; then Postgres is
    /// out of its reach for a while.
    CutCommit {
        replica: usize,
        cut: Cut,
        times: u64,
        deaf: u64,
    },
    /// Nothing passes between a replica and Postgres, and nobody is told.
    Blackhole { replica: usize, hold: u64 },
    /// Each piece between a replica and Postgres is late.
    Delay {
        replica: usize,
        late: u64,
        hold: u64,
    },
    /// What is older than so many revisions is no longer promised.
    Compact { behind: u64 },
    /// A replica runs with a failpoint for a while.
    Failpoint {
        replica: usize,
        setting: String,
        hold: u64,
    },
}

/// What a run offers for plans to be drawn from.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Failpoints that the servers have, if they were built with them.
    pub failpoints: Vec<String>,
}
