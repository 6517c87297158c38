//! Who may do what: RBAC through the aggregator, and attacks on the direct way.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, harness};

use crate::support::{Namespace, PATIENCE, assert_holds, eventually, is_local, widget};

#[test]
fn a_user_may_do_just_what_a_role_allows() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "rbac")?;
    let admin = namespace.kubectl();
    admin.run_with("apply -f -", &widget("my-widget", 0))?;
    let alice = admin
        .with("--as=alice")
        .with("--as-group=system:authenticated");
    assert_holds(&alice.refused("get widgets")?, &["Forbidden", "alice"]);
    assert_holds(&alice.refused("delete widget my-widget")?, &["Forbidden"]);

    admin.run("create role reader --verb=get,list,watch --resource=widgets.custom.example.com")?;
    admin.run("create rolebinding alice --role=reader --user=alice")?;
    eventually("alice may read", PATIENCE, || {
        Ok(alice.run("get widgets").is_ok())
    })?;
    assert_holds(&alice.run("get widgets")?, &["my-widget"]);
    assert_holds(&alice.refused("delete widget my-widget")?, &["Forbidden"]);
    assert_holds(
        &alice.refused("scale widget my-widget --replicas=1")?,
        &["Forbidden"],
    );
    assert_holds(
        &alice.refused_with("create -f -", &widget("other", 0))?,
        &["Forbidden"],
    );

    // Scale is a right of its own.
    admin.run(
        "create role scaler --verb=get,update,patch --resource=widgets.custom.example.com/scale",
    )?;
    admin.run("create rolebinding alice-scales --role=scaler --user=alice")?;
    eventually("alice may scale", PATIENCE, || {
        Ok(alice.run("scale widget my-widget --replicas=1").is_ok())
    })?;
    assert_holds(
        &alice.refused("label widget my-widget a=b")?,
        &["Forbidden"],
    );
    Ok(())
}

#[test]
fn the_stock_roles_know_widgets() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "stock")?;
    let admin = namespace.kubectl();
    admin.run("create rolebinding view --clusterrole=view --user=viewer")?;
    admin.run("create rolebinding edit --clusterrole=edit --user=editor")?;
    let viewer = admin.with("--as=viewer");
    let editor = admin.with("--as=editor");
    eventually("the roles are aggregated", PATIENCE, || {
        Ok(viewer.run("get widgets").is_ok()
            && editor
                .run_with("apply -f -", &widget("my-widget", 0))
                .is_ok())
    })?;
    assert_holds(&viewer.refused("delete widget my-widget")?, &["Forbidden"]);
    editor.run("delete widget my-widget")?;
    Ok(())
}

/// Address and CA file of each API server.
fn replicas(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for replica in cluster.replicas() {
        let address = replica
            .spec
            .address
            .context("a replica without an address")?;
        let tls = replica.spec.tls.context("a replica without certificates")?;
        found.push((
            address.replace("127.0.0.1", "localhost"),
            tls.ca.display().to_string(),
        ));
    }
    ensure!(!found.is_empty(), "no replicas");
    Ok(found)
}

/// Sends a request straight to a replica, past the aggregator.
fn direct(address: &str, ca: &str, arguments: &[&str]) -> Result<(u16, String)> {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--cacert",
            ca,
            "--write-out",
            "\n%{http_code}",
        ])
        .args(arguments)
        .arg(format!(
            "https://{address}/apis/custom.example.com/v1/widgets"
        ))
        .output()?;
    ensure!(
        output.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
    Ok((code.trim().parse()?, body.to_owned()))
}

#[test]
fn forged_identity_headers_are_not_believed() -> Result<()> {
    let cluster = harness::shared()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    for (address, ca) in replicas(&cluster)? {
        for protocol in ["--http1.1", "--http2"] {
            let forged = [
                "-H",
                "X-Remote-User: admin",
                "-H",
                "X-Remote-Group: system:masters",
            ];
            let (code, body) = direct(&address, &ca, &[&[protocol], &forged[..]].concat())?;
            assert_eq!(code, 403, "{body}");
            assert_holds(&body, &["system:anonymous"]);
            let (code, body) = direct(
                &address,
                &ca,
                &[protocol, "-H", "Authorization: Bearer forged"],
            )?;
            assert_eq!(code, 401, "{body}");
        }
    }
    Ok(())
}

#[test]
fn a_client_certificate_of_the_cluster_is_an_identity_of_its_own() -> Result<()> {
    let cluster = harness::shared()?;
    if !is_local(&cluster) {
        return Ok(());
    }
    let text = |path: Option<PathBuf>| {
        path.map(|path| path.display().to_string())
            .context("no certificate")
    };
    let tls = cluster.admin_tls()?;
    let (certificate, key) = (text(tls.cert)?, text(tls.key)?);
    for (address, ca) in replicas(&cluster)? {
        let arguments = [
            "--cert",
            &certificate,
            "--key",
            &key,
            "-H",
            "X-Remote-User: nobody",
        ];
        let (code, body) = direct(&address, &ca, &arguments)?;
        assert_eq!(code, 200, "{body}");
    }
    Ok(())
}
