//! Developer commands: `cargo xtask up`, `down`, `env`, `status`, `test`, `bench`,
//! `robust`, `build-control-plane`.

mod bench;
mod deny;
mod robust;
mod test;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use e2e::cluster::clean_dead;
use e2e::state::{self, Owner};
use e2e::{Cluster, Mode, Options, binaries};

/// Developer commands of the widget platform.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a control plane with the platform in it, or what of it does not run
    Up(Up),
    /// End what `up` started and remove everything of it
    Down(Name),
    /// Print the export lines for a shell: eval "$(cargo xtask env)"
    Env(Name),
    /// List the processes of what runs
    Status(Status),
    /// Check formatting and lints, run all tests
    Test(test::Test),
    /// Measure speed, latency and server CPU per operation
    Bench(bench::Bench),
    /// Run random histories against replicas under faults, and judge them
    Robust(robust::Robust),
    /// Build etcd, Kubernetes, KWOK and metrics-server into the cache
    BuildControlPlane,
    /// Serve as the balancer in front of the API servers
    #[command(hide = true)]
    Balancer(Balancer),
    /// Wait for the end of a run's owner, then end the run
    #[command(hide = true)]
    Keep(Name),
}

#[derive(Args)]
struct Name {
    /// Name of the run
    #[arg(long, default_value = "up")]
    name: String,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    run: Name,
    /// One API server without a cluster
    #[arg(long)]
    standalone: bool,
    /// The control plane without the platform
    #[arg(long, conflicts_with = "standalone")]
    control_plane_only: bool,
    /// Install into the cluster of this kubeconfig instead (deploy/overlays/kind)
    #[arg(long, conflicts_with_all = ["standalone", "control_plane_only"])]
    kubeconfig: Option<PathBuf>,
    /// Build the servers with optimizations
    #[arg(long)]
    release: bool,
    /// Use the servers in this directory instead of building them
    #[arg(long, hide = true)]
    servers: Option<PathBuf>,
    /// End the run when the process with this pid ends; data need not survive a crash
    #[arg(long, hide = true)]
    owner: Option<u32>,
}

#[derive(Args)]
struct Status {
    #[command(flatten)]
    run: Name,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Balancer {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// PEM certificates that verify the replicas
    #[arg(long)]
    ca: PathBuf,
    /// The replicas
    #[arg(required = true)]
    replicas: Vec<SocketAddr>,
}

/// Where this program is. Asked before anything is built: a build of the whole
/// workspace replaces the file, and the system then names one that is gone.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

fn program() -> Result<PathBuf> {
    PROGRAM.get().cloned().context("this program has no path")
}

fn main() -> ExitCode {
    if let Ok(path) = std::env::current_exe() {
        PROGRAM.get_or_init(|| path);
    }
    let result = match Cli::parse().command {
        Command::Up(args) => up(&args),
        Command::Down(args) => down(&args.name),
        Command::Env(args) => env(&args.name),
        Command::Status(args) => status(&args),
        Command::Test(args) => return test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Robust(args) => robust::run(&args),
        Command::BuildControlPlane => binaries::ensure().map(|dir| println!("{}", dir.display())),
        Command::Balancer(args) => balancer(&args),
        Command::Keep(args) => keep(&args.name),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(args: &Up) -> Result<()> {
    let mode = match (args.standalone, args.control_plane_only, &args.kubeconfig) {
        (true, _, _) => Mode::Standalone,
        (_, true, _) => Mode::ControlPlane,
        (_, _, Some(_)) => Mode::External,
        _ => Mode::Local,
    };
    let cluster = Cluster::up(&Options {
        name: args.run.name.clone(),
        mode,
        owner: args.owner,
        servers: args.servers.clone(),
        release: args.release,
        volatile: args.owner.is_some(),
        kubeconfig: args.kubeconfig.clone(),
        tool: program()?,
    })?;
    if args.owner.is_some() {
        println!("{}", cluster.dir().display());
        return Ok(());
    }
    print_status(&cluster);
    let name = match args.run.name.as_str() {
        "up" => String::new(),
        other => format!(" --name {other}"),
    };
    println!("\nNext:\n  eval \"$(cargo xtask env{name})\"");
    match mode {
        Mode::ControlPlane => println!("  kubectl get nodes"),
        _ => println!(
            "  kubectl apply -f - <<'EOF'\n\
             apiVersion: custom.example.com/v1\n\
             kind: Widget\n\
             metadata: {{name: my-widget, namespace: default}}\n\
             spec: {{replicas: 3, image: \"nginx:1.27\"}}\n\
             EOF\n  \
             kubectl get widgets -w\n  \
             kubectl scale widget my-widget --replicas=5"
        ),
    }
    println!("  cargo xtask down{name}");
    Ok(())
}

fn down(name: &str) -> Result<()> {
    clean_dead()?;
    if Cluster::down(name)? {
        println!("{name} is down");
    } else {
        println!("{name} does not run");
    }
    Ok(())
}

fn env(name: &str) -> Result<()> {
    let cluster = find(name)?;
    println!(
        "export KUBECONFIG={}",
        quote(&cluster.kubeconfig().display().to_string())
    );
    if let Some(dir) = cluster.bin_dir() {
        println!(
            "export PATH={}:\"$PATH\"",
            quote(&dir.display().to_string())
        );
    }
    Ok(())
}

/// As one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn status(args: &Status) -> Result<()> {
    let cluster = find(&args.run.name)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&cluster.status())?);
    } else {
        print_status(&cluster);
    }
    Ok(())
}

fn find(name: &str) -> Result<Cluster> {
    let cluster = Cluster::find(name)?;
    cluster.with_context(|| format!("{name} does not run (cargo xtask up)"))
}

fn print_status(cluster: &Cluster) {
    for process in cluster.status() {
        let state = if process.alive { "running" } else { "DEAD" };
        let address = process.address.unwrap_or_default();
        println!(
            "{:<28} {state:<8} {:>8}  {address}",
            process.name, process.pid
        );
    }
    println!("logs: {}", cluster.dir().join("logs").display());
}

fn balancer(args: &Balancer) -> Result<()> {
    let listener =
        TcpListener::bind(args.listen).with_context(|| format!("listen on {}", args.listen))?;
    e2e::balancer::run(&listener, &args.replicas, &args.ca)
}

/// Runs beside a test's cluster: when the test is killed, nothing of it stays.
fn keep(name: &str) -> Result<()> {
    let dir = e2e::paths::states()?.join(name);
    let owner =
        || -> Result<Option<Owner>> { Ok(state::load(&dir)?.and_then(|state| state.owner)) };
    let Some(owner) = owner()? else {
        bail!("{name} has no owner")
    };
    while owner.is_alive() {
        std::thread::sleep(Duration::from_millis(500));
    }
    Cluster::down(name)?;
    Ok(())
}
