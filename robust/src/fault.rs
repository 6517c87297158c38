//! Makes things go wrong, and right again.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::lab::Lab;
use crate::plan::{Cut, Fault};
use crate::proxy::{Proxy, Weather};

/// Longest time that a cut waits for commits to cut.
const CUT_LIMIT: Duration = Duration::from_millis(1500);

/// Does one fault and undoes it; returns when it is over.
pub async fn inflict(lab: Arc<Lab>, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill { replica, down } => {
            lab.kill(replica).await?;
            sleep(Duration::from_millis(down)).await;
            lab.revive(replica, None).await
        }
        Fault::Freeze { replica, hold } => {
            lab.signal(replica, "STOP")?;
            sleep(Duration::from_millis(hold)).await;
            lab.signal(replica, "CONT")
        }
        Fault::CrashPostgres { down } => {
            lab.crash_postgres().await?;
            sleep(Duration::from_millis(down)).await;
            lab.revive_postgres().await
        }
        Fault::Terminate { nth } => {
            if let Some(pid) = backend(&lab, nth).await? {
                let statement = format!("SELECT pg_terminate_backend({pid})");
                lab.psql(&statement).await?;
            }
            Ok(())
        }
        Fault::KillBackend { nth } => {
            if let Some(pid) = backend(&lab, nth).await? {
                kill(pid)?;
            }
            lab.revive_postgres().await
        }
        Fault::CutCommit {
            replica,
            cut,
            times,
            deaf,
        } => cut_commits(lab.proxy(replica)?, cut, times, deaf).await,
        Fault::Blackhole { replica, hold } => {
            weather(&lab, replica, Weather::Blackhole, hold).await
        }
        Fault::Delay {
            replica,
            late,
            hold,
        } => {
            let late = Weather::Late(Duration::from_millis(late));
            weather(&lab, replica, late, hold).await
        }
        Fault::Compact { behind } => {
            let statement = format!(
                "SELECT store.set_compacted((SELECT last_value FROM store.revisions) - {behind})"
            );
            lab.psql(&statement).await.map(drop)
        }
        Fault::Failpoint {
            replica,
            setting,
            hold,
        } => {
            lab.kill(replica).await?;
            lab.revive(replica, Some(&setting)).await?;
            sleep(Duration::from_millis(hold)).await;
            lab.kill(replica).await?;
            lab.revive(replica, None).await
        }
    }
}

/// Cuts around the next commits, as many as come in time, and then ends every new connection
/// for a while: what the replica does not know of its last commit it cannot find out.
async fn cut_commits(proxy: &Proxy, cut: Cut, times: u64, deaf: u64) -> Result<()> {
    let before = proxy.cuts_done();
    proxy.cut(cut, times);
    let waiting = async {
        while proxy.cuts_done() < before + times {
            sleep(Duration::from_millis(1)).await;
        }
    };
    // Perhaps nobody writes through this replica any more.
    let _ = tokio::time::timeout(CUT_LIMIT, waiting).await;
    if deaf > 0 {
        proxy.set(Weather::Deaf);
        sleep(Duration::from_millis(deaf)).await;
    }
    proxy.set(Weather::Fair);
    Ok(())
}

async fn weather(lab: &Lab, replica: usize, weather: Weather, hold: u64) -> Result<()> {
    let proxy = lab.proxy(replica)?;
    proxy.set(weather);
    sleep(Duration::from_millis(hold)).await;
    proxy.set(Weather::Fair);
    Ok(())
}

/// One of the replicas' sessions, if there is any.
async fn backend(lab: &Lab, nth: u64) -> Result<Option<u32>> {
    let backends = lab.backends().await?;
    let count = u64::try_from(backends.len())?;
    let index = usize::try_from(nth.checked_rem(count).unwrap_or(0))?;
    Ok(backends.get(index).copied())
}

/// By the shell's built-in `kill`: the system call would need `unsafe`.
fn kill(pid: u32) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", "kill -s KILL \"$0\"", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "cannot kill backend {pid}");
    Ok(())
}
