//! A standalone server for tests: the binary as a process, and a client of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

/// A running server, stopped when dropped.
pub struct Server {
    dir: PathBuf,
    pid: u32,
    /// Waits for the process to end.
    waiter: Option<JoinHandle<std::io::Result<ExitStatus>>>,
    /// Whether the directory goes with the server.
    owns_dir: bool,
}

/// An answer, whatever its code.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Server {
    /// The server that all tests share which do not care who else uses it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let mut server = Self::start(&new_dir()).expect("the server starts");
        server.owns_dir = true;
        let server = Arc::new(server);
        *shared = Arc::downgrade(&server);
        server
    }

    /// Starts a server on a directory, and waits until it serves.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_until(" serving ", dir, &["--secure-port=0"])
    }

    /// Starts a server with further flags, and waits until it logs this.
    pub fn start_until(said: &'static str, dir: &Path, flags: &[&str]) -> Result<Self> {
        // A test that is killed must leave nothing behind: the kernel ends the server with the
        // thread that spawned it, which lives as long as the server.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "TERM",
            "--",
            env!("CARGO_BIN_EXE_widget-apiserver"),
        ]);
        command
            .args(["standalone", "--log-format=text"])
            .args(flags);
        command.arg("--data-dir").arg(dir);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let (started, start) = mpsc::channel();
        let waiter = thread::spawn(move || {
            let mut child = command.spawn()?;
            let _ = started.send((child.id(), child.stderr.take()));
            child.wait()
        });
        let (pid, log) = start.recv().context("cannot run setpriv")?;
        let server = Self {
            dir: dir.to_owned(),
            pid,
            waiter: Some(waiter),
            owns_dir: false,
        };
        await_line(said, BufReader::new(log.ok_or_else(|| anyhow!("no log"))?))?;
        Ok(server)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: &str) -> Result<ExitStatus> {
        let pid = self.pid.to_string();
        let sent = Command::new("kill").args([signal, &pid]).status()?;
        if !sent.success() {
            bail!("cannot send {signal} to {pid}");
        }
        let waiter = self
            .waiter
            .take()
            .ok_or_else(|| anyhow!("{pid} has ended before"))?;
        let ended = waiter
            .join()
            .map_err(|_| anyhow!("cannot wait for {pid}"))?;
        Ok(ended?)
    }

    pub async fn client(&self) -> Result<kube::Client> {
        let file = Kubeconfig::read_from(self.kubeconfig())?;
        let options = KubeConfigOptions::default();
        Ok(kube::Client::try_from(
            kube::Config::from_custom_kubeconfig(file, &options).await?,
        )?)
    }

    /// Sends a JSON body, if there is one, to a path below the group.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let accept = "application/json";
        self.send_as(method, path, (kind, accept), body)
            .await
            .expect("the server answers")
    }

    /// As [`Server::send`], with the media types of the body and of the answer.
    pub async fn send_as(
        &self,
        method: Method,
        path: &str,
        (content_type, accept): (&str, &str),
        body: Option<Value>,
    ) -> Result<Answer> {
        let body = body
            .map(|body| serde_json::to_vec(&body))
            .transpose()?
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("/apis/custom.example.com/{path}"))
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT, accept)
            .body(Body::from(body))?;
        let response = self.client().await?.send(request).await?;
        let (head, body) = response.into_parts();
        let warnings = head.headers.get_all(header::WARNING);
        let warnings = warnings.iter().map(|value| Ok(value.to_str()?.to_owned()));
        Ok(Answer {
            code: head.status.as_u16(),
            warnings: warnings.collect::<Result<_>>()?,
            body: serde_json::from_slice(&body.collect().await?.to_bytes())?,
        })
    }
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{self:?}");
        self.body
    }

    /// `field: message` of each cause of a 422.
    #[track_caller]
    pub fn causes(self) -> Vec<String> {
        assert_eq!(self.code, 422, "{self:?}");
        let causes = self.body["details"]["causes"].as_array().unwrap().clone();
        let text =
            |cause: &Value, member: &str| cause[member].as_str().unwrap_or_default().to_owned();
        let line = |cause: &Value| format!("{}: {}", text(cause, "field"), text(cause, "message"));
        causes.iter().map(line).collect()
    }
}

/// A directory that does not exist yet.
pub fn new_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!(
        "widget-apiserver-it-{}-{number}",
        std::process::id()
    ))
}

fn await_line(said: &str, mut log: impl BufRead + Send + 'static) -> Result<()> {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        if log.read_line(&mut line)? == 0 {
            bail!("the server ended:\n{seen}");
        }
        seen.push_str(&line);
        if line.contains(said) {
            // Whoever writes to a full pipe waits for ever: keep reading.
            thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
            return Ok(());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self
            .waiter
            .as_ref()
            .is_some_and(|waiter| !waiter.is_finished())
        {
            let _ = self.end("-TERM");
        }
        if self.owns_dir {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
