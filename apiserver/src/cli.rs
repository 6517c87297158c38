//! The command line. Every flag that a deployment sets can also come from the environment.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use plumbing::telemetry::LogFormat;

/// Serves the Widget API from Postgres.
#[derive(Debug, Parser)]
#[command(name = "widget-apiserver", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the process is for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the database schema up to date, then exit.
    Migrate(Migrate),
    /// Serve beside a kube-apiserver, which says who may do what.
    Serve(Box<Serve>),
    /// Serve without a cluster: own certificates, loopback only, and a Postgres of its own unless
    /// one is named.
    Standalone(Standalone),
}

/// Flags of `migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Postgres, as the role that owns the schema.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// Role that serving processes connect as; it is created if it does not exist.
    #[arg(
        long,
        env = "RUNTIME_ROLE",
        value_name = "ROLE",
        default_value = "widget_server"
    )]
    pub runtime_role: String,
    #[command(flatten)]
    pub telemetry: Telemetry,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Postgres, as the role that may only read and write objects.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// Address to listen on.
    #[arg(long, env = "BIND_ADDRESS", value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "SECURE_PORT", value_name = "PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// Serving certificate chain, PEM; read again when it changes.
    #[arg(long, env = "TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: PathBuf,
    /// Key of the serving certificate, PEM.
    #[arg(long, env = "TLS_PRIVATE_KEY_FILE", value_name = "FILE")]
    pub tls_private_key_file: PathBuf,
    /// How to reach the kube-apiserver; without it, as a pod of its cluster.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// CA of client certificates, instead of the one that the kube-apiserver publishes.
    #[arg(long, env = "CLIENT_CA_FILE", value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// How long old revisions can be read and watched from.
    #[arg(long, env = "HISTORY_RETENTION", value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub history_retention: Duration,
    /// How often history is looked through for what may go.
    #[arg(long, env = "COMPACTION_INTERVAL", value_name = "TIME", default_value = "1m", value_parser = parse_interval)]
    pub compaction_interval: Duration,
    #[command(flatten)]
    pub requests: Requests,
    #[command(flatten)]
    pub shutdown: Shutdown,
    #[command(flatten)]
    pub telemetry: Telemetry,
}

/// Flags of `standalone`.
#[derive(Debug, Args)]
pub(crate) struct Standalone {
    /// Where the database, the certificates and the kubeconfig are kept.
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, env = "SECURE_PORT", value_name = "PORT", default_value_t = 7443)]
    pub secure_port: u16,
    /// Where `initdb` and `postgres` are; without it they are looked for.
    #[arg(long, env = "POSTGRES_BIN_DIR", value_name = "DIR")]
    pub postgres_bin_dir: Option<PathBuf>,
    /// A Postgres that exists, instead of an own one, as the role that may only read and write
    /// objects; `migrate` comes first. Servers with the same one are replicas of each other.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// How long old revisions can be read and watched from.
    #[arg(long, env = "HISTORY_RETENTION", value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub history_retention: Duration,
    /// How often history is looked through for what may go.
    #[arg(long, env = "COMPACTION_INTERVAL", value_name = "TIME", default_value = "1m", value_parser = parse_interval)]
    pub compaction_interval: Duration,
    #[command(flatten)]
    pub requests: Requests,
    #[command(flatten)]
    pub shutdown: Shutdown,
    #[command(flatten)]
    pub telemetry: Telemetry,
}

/// What requests may ask for, and how many at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct Requests {
    /// Gets and lists under way at once, beside those of system:masters; 0 is no limit.
    #[arg(
        long,
        env = "MAX_REQUESTS_INFLIGHT",
        value_name = "COUNT",
        default_value_t = 400
    )]
    pub max_requests_inflight: usize,
    /// Writes under way at once, beside those of system:masters; 0 is no limit.
    #[arg(
        long,
        env = "MAX_MUTATING_REQUESTS_INFLIGHT",
        value_name = "COUNT",
        default_value_t = 200
    )]
    pub max_mutating_requests_inflight: usize,
    /// Whether lists and watches take a shardSelector; it is ignored otherwise.
    #[arg(
        long,
        env = "SHARDED_LIST_AND_WATCH",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub sharded_list_and_watch: bool,
    /// About when an HTTP/2 connection is asked to move, so that clients which keep theirs spread over
    /// the replicas; what is under way on it goes on. 0s is never.
    #[arg(long, env = "MAX_CONNECTION_AGE", value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub max_connection_age: Duration,
}

/// How a stop takes its course.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shutdown {
    /// How long to serve on while not ready, so that load balancers notice.
    #[arg(long, env = "SHUTDOWN_DELAY_DURATION", value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub shutdown_delay_duration: Duration,
    /// How long requests under way may take after that.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    pub shutdown_timeout: Duration,
}

/// Where logs and traces go.
#[derive(Debug, Clone, Args)]
pub(crate) struct Telemetry {
    /// Collector of traces (OTLP over gRPC); none are made without it.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// `json` or `text`.
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "json"
    )]
    pub log_format: LogFormat,
}

/// A duration that something may be repeated after.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval.is_zero() {
        return Err("must be longer than nothing".to_owned());
    }
    Ok(interval)
}

/// A time as Kubernetes' flags take it: `1h30m`, `15m`, `20s`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is no duration such as 15m, 1h30m or 500ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let milliseconds = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(malformed()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis);
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(malformed)?;
        rest = after;
    }
    if text.is_empty() {
        Err(malformed())
    } else {
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_written_as_for_kubernetes() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("1m1s1ms", 61_001),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "m",
            "1d",
            "1.5s",
            "-1s",
            "1 s",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_interval("0s").is_err());
        assert_eq!(parse_interval("2s"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn standalone_has_a_postgres_of_its_own_unless_one_is_named() {
        let url_of = |more: &[&str]| {
            let args = ["widget-apiserver", "standalone", "--data-dir=d"];
            let cli = Cli::parse_from(args.iter().chain(more));
            let Command::Standalone(standalone) = cli.command else {
                panic!("another command")
            };
            standalone.database_url
        };
        assert_eq!(url_of(&[]), None);
        let named = url_of(&["--database-url=postgres://a@b/c"]);
        assert_eq!(named.as_deref(), Some("postgres://a@b/c"));
    }

    #[test]
    fn serve_takes_its_flags_and_their_defaults() {
        let cli = Cli::parse_from([
            "widget-apiserver",
            "serve",
            "--database-url=postgres://a@b/c",
            "--tls-cert-file=c",
            "--tls-private-key-file=k",
        ]);
        let Command::Serve(serve) = cli.command else {
            panic!("another command")
        };
        assert_eq!(serve.secure_port, 6443);
        assert_eq!(serve.bind_address, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        assert_eq!(serve.history_retention, Duration::from_secs(900));
        assert_eq!(serve.compaction_interval, Duration::from_secs(60));
        assert_eq!(serve.shutdown.shutdown_timeout, Duration::from_secs(20));
        assert_eq!(serve.telemetry.log_format, LogFormat::Json);
        assert_eq!(serve.requests.max_requests_inflight, 400);
        assert_eq!(serve.requests.max_mutating_requests_inflight, 200);
        assert!(serve.requests.sharded_list_and_watch);
    }
}
