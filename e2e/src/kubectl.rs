//! kubectl as a user runs it: the one way in which the harness and the tests
//! change anything in a cluster.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::wait_until;

/// kubectl with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// `program` acting as the user of `kubeconfig`.
    #[must_use]
    pub fn new(program: &Path, kubeconfig: &Path) -> Self {
        Self {
            program: program.to_path_buf(),
            kubeconfig: kubeconfig.to_path_buf(),
        }
    }

    /// The command without arguments, for tests that need its streams.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        // Its discovery cache would be shared between clusters on the same port.
        if let Some(dir) = self.kubeconfig.parent() {
            command.env("KUBECACHEDIR", dir.join("kubectl-cache"));
        }
        command
    }

    /// Runs with `input` on standard input and returns whatever came of it.
    pub fn output(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("standard input is piped")?;
        let input = input.to_owned();
        // A child that ends early breaks the pipe; its own message says why.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        Ok(output)
    }

    /// Runs and returns standard output; a failure is an error with kubectl's message.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with_input(args, "")
    }

    /// As [`Self::run`], with `input` on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let output = self.output(args, input)?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `kubectl apply` of manifests in YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.run_with_input(&["apply", "-f", "-"], manifests)?;
        Ok(())
    }

    /// `kubectl apply` by server-side apply: needs no read before.
    pub fn apply_server_side(&self, manifests: &str) -> Result<()> {
        self.run_with_input(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            manifests,
        )?;
        Ok(())
    }

    /// Runs again and again until `accept` takes the output; what came last is in the error.
    pub fn until(
        &self,
        limit: Duration,
        args: &[&str],
        accept: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut last = String::new();
        let held = wait_until(limit, || match self.run(args) {
            Ok(text) => {
                last = text;
                accept(&last)
            }
            Err(error) => {
                last = format!("{error:#}");
                false
            }
        });
        if !held {
            bail!(
                "kubectl {}: not as awaited within {limit:?}; last: {last}",
                args.join(" ")
            );
        }
        Ok(last)
    }
}
