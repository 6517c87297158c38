//! How many transactions a Postgres has run, told by itself.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// What to ask: whatever commits or rolls back counts, in all databases but the one
/// that this asks from.
const COUNT: &str = "select coalesce(sum(xact_commit + xact_rollback), 0) \
    from pg_stat_database where datname is not null and datname <> current_database()";

/// A session that falls idle reports what it did before this late.
const REPORT: Duration = Duration::from_millis(10_500);

/// A Postgres, by the command that runs a statement given as its last argument.
#[derive(Clone, Debug)]
pub struct Database {
    command: Vec<String>,
}

impl Database {
    /// By the command's words.
    pub fn new(command: Vec<String>) -> Self {
        Self { command }
    }

    /// How many transactions it runs in that time, by so many looks one after the other.
    pub async fn transactions_during(&self, time: Duration, looks: usize) -> Result<Vec<usize>> {
        tokio::time::sleep(REPORT).await;
        let mut counts = Vec::with_capacity(looks);
        let mut before = self.transactions().await?;
        for _ in 0..looks {
            tokio::time::sleep(time).await;
            let now = self.transactions().await?;
            counts.push(now.saturating_sub(before));
            before = now;
        }
        Ok(counts)
    }

    async fn transactions(&self) -> Result<usize> {
        let (program, args) = self.command.split_first().context("no command")?;
        let output = Command::new(program).args(args).arg(COUNT).output();
        let output = output.await.with_context(|| format!("run {program}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program}: {errors}");
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }
}
