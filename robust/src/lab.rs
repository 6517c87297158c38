//! The servers that histories run against: a durable Postgres, and replicas on
//! it, each reaching it through a proxy of its own. They stay up from history to
//! history, as servers do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::postgres::{self, OWNER, Postgres, RUNTIME};
use e2e::process::{self, Record, Spec, Supervisor as _};
use e2e::servers::APISERVER;
use e2e::state::{self, Owner, State, StateDir};
use e2e::{Cluster, Mode};

use crate::client::{Ask, Client, Target};
use crate::plan::REPLICAS;
use crate::proxy::{Proxy, Weather};

/// How long servers may take to be back.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// Postgres' settings beyond the defaults. WAL that nobody waits for is written as
/// late as possible, so that what was not made durable is lost in a crash.
const SETTINGS: [&str; 6] = [
    "commit_siblings=0",
    "shared_buffers=32MB",
    "wal_writer_delay=10s",
    "wal_writer_flush_after=64MB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
];

/// Revisions in one partition of the log, and how many partitions there are at first: so small
/// that the replicas have some to drop. Later ones are as large as ever.
const PARTITIONS: &str = "SELECT store.extend_events(200, 60)";
/// How often each replica looks for history that may go.
const COMPACTION: &str = "2s";

/// What to run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Directory of the API server's program.
    pub servers: PathBuf,
    /// The program whose subcommand `keep` ends what a killed run leaves; none for no such guard.
    pub tool: Option<PathBuf>,
    /// Name of a planted bug.
    pub planted: Option<String>,
}

/// All servers of one run.
pub struct Lab {
    name: String,
    cluster: Cluster,
    postgres: Postgres,
    proxies: Vec<Proxy>,
    replicas: Vec<Spec>,
    targets: Vec<Target>,
    /// Replicas that a fault has down on purpose.
    down: Mutex<BTreeSet<usize>>,
    /// How slow the disk is made.
    disk: AtomicU64,
}

impl Lab {
    /// Starts everything.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let name = format!("robust-{}", std::process::id());
        let cluster = open_run(&name, setup)?;
        let postgres = Postgres::new(cluster.dir())?;
        let mut lab = Self {
            name,
            cluster,
            postgres,
            proxies: Vec::new(),
            replicas: Vec::new(),
            targets: Vec::new(),
            down: Mutex::default(),
            disk: AtomicU64::new(0),
        };
        if let Err(error) = lab.start_all(setup).await {
            let error = error.context(lab.last_words());
            lab.end()?;
            return Err(error);
        }
        Ok(lab)
    }

    async fn start_all(&mut self, setup: &Setup) -> Result<()> {
        start_postgres(&self.cluster, &self.postgres, &setup.servers).context("Postgres")?;
        self.psql(PARTITIONS).await.context("partitions")?;
        for _ in 0..REPLICAS {
            let socket = self.postgres.dir().join(".s.PGSQL.5432");
            self.proxies.push(Proxy::start(socket).await?);
        }
        self.start_replicas(setup).await
    }

    async fn start_replicas(&mut self, setup: &Setup) -> Result<()> {
        let dir = self.cluster.dir().to_path_buf();
        let mut addresses = Vec::new();
        for (index, proxy) in self.proxies.iter().enumerate() {
            let data = dir.join(format!("replica-{index}"));
            let mut state = state::load(&dir)?.context("the run has no state")?;
            let port = state.port(&replica_name(index))?;
            state::save(&dir, &state)?;
            let url = format!(
                "postgres://{RUNTIME}@{}/{}?sslmode=disable",
                proxy.address(),
                postgres::DATABASE
            );
            let mut env = Vec::new();
            if let Some(bug) = &setup.planted {
                env.push(("PLANTED".to_owned(), bug.clone()));
            }
            self.replicas.push(Spec {
                name: replica_name(index),
                program: setup.servers.join(APISERVER),
                args: vec![
                    "standalone".to_owned(),
                    format!("--data-dir={}", data.display()),
                    format!("--secure-port={port}"),
                    format!("--database-url={url}"),
                    format!("--compaction-interval={COMPACTION}"),
                ],
                env,
                address: Some(format!("127.0.0.1:{port}")),
                kubeconfig: Some(data.join("kubeconfig")),
                ..Spec::default()
            });
            addresses.push(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        // Reopened: the ports are in its state now.
        self.cluster = Cluster::open(&dir)?;
        for spec in &self.replicas {
            self.cluster.ensure(spec.clone())?;
        }
        for (spec, address) in self.replicas.iter().zip(addresses) {
            let kubeconfig = spec.kubeconfig.clone().unwrap_or_default();
            let written = process::wait_until(BACK_LIMIT, || kubeconfig.exists());
            ensure!(written, "{} is not ready within {BACK_LIMIT:?}", spec.name);
            self.targets
                .push(Target::new(address, &std::fs::read(&kubeconfig)?)?);
        }
        self.heal().await
    }

    /// How each replica is reached.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The way of a replica to Postgres.
    pub fn proxy(&self, replica: usize) -> Result<&Proxy> {
        self.proxies.get(replica).context("no such proxy")
    }

    /// Sends a replica a signal.
    pub fn signal(&self, replica: usize, name: &str) -> Result<()> {
        self.cluster.process(&replica_name(replica))?.signal(name)
    }

    /// Kills a replica.
    pub async fn kill(&self, replica: usize) -> Result<()> {
        self.down().insert(replica);
        let record = self.cluster.process(&replica_name(replica))?;
        tokio::task::spawn_blocking(move || record.kill()).await?
    }

    /// Starts a replica again, with a failpoint or without, and waits until it serves.
    pub async fn revive(&self, replica: usize, failpoint: Option<&str>) -> Result<()> {
        let mut spec = self
            .replicas
            .get(replica)
            .context("no such replica")?
            .clone();
        if let Some(setting) = failpoint {
            spec.env.push(("FAILPOINTS".to_owned(), setting.to_owned()));
        }
        if failpoint.is_some() {
            // It may end by it, or never be ready: whatever comes of it.
            self.cluster.ensure(spec)?;
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + BACK_LIMIT;
        while !self.is_serving(replica, "/readyz").await {
            // It may have ended when it found no Postgres.
            self.cluster.ensure(spec.clone())?;
            if tokio::time::Instant::now() > deadline {
                bail!("{} is not back within {BACK_LIMIT:?}", spec.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.down().remove(&replica);
        Ok(())
    }

    /// Stops Postgres without a shutdown: what is not durable is lost.
    pub async fn crash_postgres(&self) -> Result<()> {
        let record = self.cluster.process(postgres::NAME)?;
        tokio::task::spawn_blocking(move || {
            record.signal("QUIT")?;
            ensure!(record.wait_gone(BACK_LIMIT), "Postgres does not stop");
            Ok(())
        })
        .await?
    }

    /// Starts Postgres if it does not run, and waits until it takes connections.
    pub async fn revive_postgres(&self) -> Result<()> {
        self.cluster.ensure(postgres_spec(&self.postgres))?;
        let postgres = self.postgres.clone();
        tokio::task::spawn_blocking(move || postgres.wait_ready(BACK_LIMIT)).await?
    }

    /// Makes every flush take so many microseconds longer: what a slower disk would do.
    pub async fn slow_disk(&self, delay: u64) -> Result<()> {
        if self.disk.swap(delay, Ordering::SeqCst) != delay {
            let setting = format!("ALTER SYSTEM SET commit_delay = {delay}");
            self.psql(&setting).await?;
            self.psql("SELECT pg_reload_conf()").await?;
        }
        Ok(())
    }

    /// Makes all that has been written so long ago that nobody is promised it any more: from now
    /// on the replicas let it go.
    pub async fn age(&self) -> Result<()> {
        let statement = "UPDATE store.events SET recorded_at = recorded_at - interval '1 hour' \
                         WHERE recorded_at > now() - interval '30 minutes'";
        self.psql(statement).await.map(drop)
    }

    /// The process ids of the replicas' sessions, oldest first.
    pub async fn backends(&self) -> Result<Vec<u32>> {
        let statement = "SELECT pid FROM pg_stat_activity WHERE usename = 'widget_server' \
                         ORDER BY backend_start, pid";
        let text = self.psql(statement).await?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Runs a statement as the superuser, again and again while Postgres recovers.
    pub async fn psql(&self, statement: &str) -> Result<String> {
        let (postgres, statement) = (self.postgres.clone(), statement.to_owned());
        let mut result = Err(anyhow::anyhow!("psql was not run"));
        let asking = move || {
            process::wait_until(BACK_LIMIT, || {
                result = postgres.psql(postgres::DATABASE, &statement);
                result.is_ok()
            });
            result
        };
        tokio::task::spawn_blocking(asking).await?
    }

    /// Undoes every fault and waits until all replicas serve consistent reads.
    /// A replica that was not to be down and is, is an error.
    pub async fn heal(&self) -> Result<()> {
        for proxy in &self.proxies {
            proxy.set(Weather::Fair);
        }
        self.revive_postgres().await?;
        for replica in 0..self.replicas.len() {
            self.signal(replica, "CONT")?;
            let expected = self.down().contains(&replica);
            if !expected && !self.cluster.is_alive(&replica_name(replica)) {
                let record = self.cluster.process(&replica_name(replica))?;
                bail!(
                    "{} ended by itself:\n{}",
                    record.spec.name,
                    record.log_tail()
                );
            }
            self.revive(replica, None).await?;
        }
        let deadline = tokio::time::Instant::now() + BACK_LIMIT;
        for replica in 0..self.replicas.len() {
            let path = "/apis/custom.example.com/v1/namespaces/none/widgets";
            while !self.is_serving(replica, path).await {
                if tokio::time::Instant::now() > deadline {
                    bail!("replica {replica} reads nothing {BACK_LIMIT:?} after all is well");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    async fn is_serving(&self, replica: usize, path: &str) -> bool {
        let Some(target) = self.targets.get(replica) else {
            return false;
        };
        let asking = async {
            let response = Client::new(target.clone())
                .send(Ask::get(path.to_owned(), "lab"))
                .await;
            response.is_ok_and(|response| response.status().is_success())
        };
        let limit = Duration::from_secs(2);
        tokio::time::timeout(limit, asking).await.unwrap_or(false)
    }

    fn down(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        self.down
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Panics in the replicas' logs; those of a failpoint are none.
    pub fn panics(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for index in 0..self.replicas.len() {
            let record = self.cluster.process(&replica_name(index))?;
            let text = std::fs::read(&record.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                if line.contains("panicked at") {
                    let what = lines.next().unwrap_or_default();
                    if !what.contains("failpoint") {
                        found.push(format!("{}: {line} {what}", record.spec.name));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Copies the logs to a directory.
    pub fn keep_logs(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(self.cluster.dir().join("logs"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let names = (0..REPLICAS).map(replica_name);
        let names = names.chain([postgres::NAME.to_owned()]);
        let records: Vec<Record> = names
            .filter_map(|name| self.cluster.process(&name).ok())
            .collect();
        let tails = records
            .iter()
            .map(|record| format!("{}:\n{}", record.spec.name, record.log_tail()));
        tails.collect::<Vec<_>>().join("\n")
    }

    /// Ends everything and removes all of it.
    pub fn end(self) -> Result<()> {
        Cluster::down(&self.name).map(drop)
    }
}

fn replica_name(index: usize) -> String {
    format!("{APISERVER}-{index}")
}

/// A run that the next start of any run cleans up after, should this one be killed.
fn open_run(name: &str, setup: &Setup) -> Result<Cluster> {
    e2e::cluster::clean_dead()?;
    let lock = StateDir::lock(name)?;
    let dir = lock.path().to_path_buf();
    std::fs::create_dir_all(&dir)?;
    let postgres = Postgres::new(&dir)?;
    let state = State {
        name: name.to_owned(),
        mode: Mode::Standalone,
        owner: Some(Owner::of(std::process::id())?),
        control_plane: None,
        servers: Some(setup.servers.clone()),
        tool: setup.tool.clone().unwrap_or_default(),
        external_kubeconfig: None,
        volatile: false,
        ports: std::collections::BTreeMap::new(),
        directories: vec![postgres.dir().to_path_buf()],
        processes: Vec::new(),
    };
    state::save(&dir, &state)?;
    let cluster = Cluster::open(&dir)?;
    if let Some(tool) = &setup.tool {
        cluster.ensure(Spec {
            name: "keeper".to_owned(),
            program: tool.clone(),
            args: vec!["keep".to_owned(), format!("--name={name}")],
            ..Spec::default()
        })?;
    }
    Ok(cluster)
}

fn start_postgres(cluster: &Cluster, postgres: &Postgres, servers: &Path) -> Result<()> {
    postgres.init(false)?;
    cluster.ensure(postgres_spec(postgres))?;
    postgres.wait_ready(BACK_LIMIT)?;
    postgres.create_database()?;
    let output = Command::new(servers.join(APISERVER))
        .args(["migrate", "--database-url", &postgres.url(OWNER)])
        .output()
        .context("run migrate")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "migrate failed: {said}");
    Ok(())
}

fn postgres_spec(postgres: &Postgres) -> Spec {
    let mut spec = postgres.spec();
    for setting in SETTINGS {
        spec.args.extend(["-c".to_owned(), setting.to_owned()]);
    }
    spec
}
