//! The control plane's programs, built from their published modules by the
//! ordinary `go` client and kept in the cache: minutes the first time, nothing after.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{packages, paths};

/// The release that the servers report; the modules pin the same.
const KUBERNETES: (&str, &str, &str) = ("v1.36.3", "1", "36");

/// Manifests of KWOK that its process is configured with.
const KWOK_MANIFESTS: &[&str] = &[
    "kustomize/crd/bases/kwok.x-k8s.io_clusterresourceusages.yaml",
    "kustomize/crd/bases/kwok.x-k8s.io_metrics.yaml",
    "kustomize/crd/bases/kwok.x-k8s.io_resourceusages.yaml",
    "kustomize/metrics/resource/metrics-resource.yaml",
    "kustomize/metrics/usage/usage-from-annotation.yaml",
    "kustomize/stage/node/fast/node-initialize.yaml",
    "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "kustomize/stage/pod/fast/pod-complete.yaml",
    "kustomize/stage/pod/fast/pod-delete.yaml",
    "kustomize/stage/pod/fast/pod-ready.yaml",
];

const PROGRESS: Duration = Duration::from_secs(10);

/// One module of ours whose `tool` lines name the programs.
struct Module {
    dir: PathBuf,
    ldflags: String,
}

/// Directory that holds etcd, kube-apiserver, kubectl and the others, and KWOK's
/// manifests in `kwok-manifests/`; builds them when the cache does not have them.
pub fn ensure() -> Result<PathBuf> {
    ensure_modules(&modules(), |draft| {
        // Go names a program after its folder, and etcd's is called `server`.
        fs::rename(draft.join("server"), draft.join("etcd"))?;
        copy_kwok_manifests(draft)
    })
}

/// Directory that holds `kine` and `sample-apiserver`, which only the comparison of
/// speeds needs; builds them when the cache does not have them.
pub(crate) fn ensure_peers() -> Result<PathBuf> {
    let root = modules_root();
    let module = |name: &str| Module {
        dir: root.join(name),
        ldflags: "-s -w".to_owned(),
    };
    ensure_modules(&[module("kine"), module("sample")], |_| Ok(()))
}

fn ensure_modules(modules: &[Module], finish: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    packages::require_go()?;
    let cache = paths::cache()?.join("bin");
    let dir = cache.join(key(modules)?);
    if dir.exists() {
        return Ok(dir);
    }
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let lock = File::create(cache.join(".lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another build of the control plane");
        lock.lock()?;
    }
    if dir.exists() {
        return Ok(dir);
    }
    let draft = cache.join(".building");
    crate::state::remove_all(&draft)?;
    fs::create_dir_all(&draft)?;
    for module in modules {
        build(module, &draft)?;
    }
    finish(&draft)?;
    fs::rename(&draft, &dir)?;
    Ok(dir)
}

fn modules() -> Vec<Module> {
    let root = modules_root();
    let (version, major, minor) = KUBERNETES;
    let stamps: Vec<String> = [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ]
    .iter()
    .map(|package| {
        format!(
            "-X {package}.gitVersion={version} -X {package}.gitMajor={major} \
                 -X {package}.gitMinor={minor}"
        )
    })
    .collect();
    vec![
        Module {
            dir: root.join("kubernetes"),
            ldflags: format!("-s -w {}", stamps.join(" ")),
        },
        Module {
            dir: root.join("etcd"),
            ldflags: "-s -w".to_owned(),
        },
    ]
}

/// Whatever changes the result changes the key.
fn key(modules: &[Module]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(go(&modules_root(), &["env", "GOVERSION"])?);
    hash.update(KWOK_MANIFESTS.join("\n"));
    for module in modules {
        hash.update(&module.ldflags);
        for file in ["go.mod", "go.sum"] {
            let file = module.dir.join(file);
            hash.update(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn modules_root() -> PathBuf {
    paths::workspace().join("e2e/controlplane")
}

fn go_command(dir: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(dir)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off");
    command
}

fn go(dir: &Path, args: &[&str]) -> Result<String> {
    let output = go_command(dir).args(args).output().context("run go")?;
    if !output.status.success() {
        bail!(
            "go {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn build(module: &Module, target: &Path) -> Result<()> {
    let name = module
        .dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    eprintln!("building the control plane ({name}); the first time this takes minutes");
    let total = go(&module.dir, &["list", "-deps", "tool"])?.lines().count();
    let mut child = go_command(&module.dir)
        .args([
            "build",
            "-v",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            &module.ldflags,
            "-o",
        ])
        .arg(target)
        .arg("tool")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run go build")?;
    let stderr = child.stderr.take().context("standard error is piped")?;
    let built = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&built);
    let (ended, end) = mpsc::channel::<()>();
    // `-v` prints a line for each package; whatever else it prints is about a failure.
    let reader = std::thread::spawn(move || {
        let mut last = Vec::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::Relaxed);
            last.push(line);
            if last.len() > 40 {
                last.remove(0);
            }
        }
        drop(ended);
        last
    });
    let start = Instant::now();
    while end.recv_timeout(PROGRESS) == Err(mpsc::RecvTimeoutError::Timeout) {
        eprintln!(
            "  {name}: {} of {total} packages, {} s",
            built.load(Ordering::Relaxed),
            start.elapsed().as_secs()
        );
    }
    let last = reader.join().unwrap_or_default();
    if !child.wait()?.success() {
        bail!("go build of {name} failed:\n{}", last.join("\n"));
    }
    eprintln!("  {name}: built in {} s", start.elapsed().as_secs());
    Ok(())
}

fn copy_kwok_manifests(target: &Path) -> Result<()> {
    let module = modules_root().join("kubernetes");
    let kwok = PathBuf::from(go(
        &module,
        &["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"],
    )?);
    let target = target.join("kwok-manifests");
    fs::create_dir_all(&target)?;
    for manifest in KWOK_MANIFESTS {
        let from = kwok.join(manifest);
        let name = from.file_name().context("a manifest has a file name")?;
        // Read and write, not copy: files of the module cache are read-only.
        let text = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        fs::write(target.join(name), text)?;
    }
    Ok(())
}
