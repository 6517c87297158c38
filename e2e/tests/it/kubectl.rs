//! Widgets as a person with kubectl manages them.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use e2e::harness;

use crate::support::{
    Kubectl, Namespace, PATIENCE, assert_holds, at, eventually, old_widget, widget,
};

#[test]
fn widgets_of_both_versions_are_applied_and_read_in_both() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "versions")?;
    let kubectl = namespace.kubectl();
    assert_holds(
        &kubectl.run_with("apply -f -", &widget("my-widget", 3))?,
        &["widget.custom.example.com/my-widget created"],
    );
    assert_holds(
        &kubectl.run_with("apply -f -", &old_widget("old-widget", 2))?,
        &["old-widget created"],
    );
    assert_holds(
        &kubectl.run_with("apply -f -", &widget("my-widget", 3))?,
        &["unchanged"],
    );
    assert_holds(
        &kubectl.run_with("apply -f -", &widget("my-widget", 2))?,
        &["configured"],
    );

    let new = kubectl.json("get widgets.v1.custom.example.com old-widget")?;
    assert_eq!(at(&new, "/spec/image"), "registry.example.com/app:1.0");
    assert_eq!(at(&new, "/spec/replicas"), 2);
    assert_eq!(at(&new, "/spec/color"), "blue");
    let old = kubectl.json("get widgets.v1alpha1.custom.example.com my-widget")?;
    assert_eq!(at(&old, "/apiVersion"), "custom.example.com/v1alpha1");
    assert_eq!(at(&old, "/spec/size"), 2);
    assert_eq!(at(&old, "/spec/repository"), "registry.example.com/app");
    assert_eq!(at(&old, "/spec/tag"), "1.0");
    let same = kubectl.json("get widget my-widget")?;
    assert_eq!(at(&same, "/metadata/uid"), at(&old, "/metadata/uid"));

    let yaml = kubectl.run("get widgets.v1alpha1.custom.example.com -o yaml")?;
    assert_holds(
        &yaml,
        &["apiVersion: custom.example.com/v1alpha1", "size: 2"],
    );
    let yaml = kubectl.run("get widgets.v1.custom.example.com -o yaml")?;
    assert_holds(
        &yaml,
        &["apiVersion: custom.example.com/v1\n", "replicas: 2"],
    );
    Ok(())
}

#[test]
fn get_prints_the_columns_of_the_table() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "table")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 1))?;
    let table = kubectl.run("get widgets")?;
    let header: Vec<_> = table
        .lines()
        .next()
        .context("no header")?
        .split_whitespace()
        .collect();
    assert_eq!(
        header,
        ["NAME", "DESIRED", "AVAILABLE", "PHASE", "COLOR", "AGE"]
    );
    assert_holds(&table, &["my-widget", "green"]);
    let wide = kubectl.run("get wd -o wide")?;
    assert_holds(&wide, &["IMAGE", "registry.example.com/app:1.0"]);
    assert_holds(&kubectl.run("get custom")?, &["my-widget"]);
    Ok(())
}

#[test]
fn get_w_prints_every_change() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "watch")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("first", 0))?;
    let mut watch = kubectl
        .command("get widgets -w --output-watch-events --no-headers")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let mut expect = |event: &str, name: &str| -> Result<()> {
        loop {
            let line = lines.next().context("the watch ended")??;
            let mut words = line.split_whitespace();
            if (words.next(), words.next()) == (Some(event), Some(name)) {
                return Ok(());
            }
        }
    };
    let seen = (|| {
        expect("ADDED", "first")?;
        kubectl.run_with("apply -f -", &widget("second", 0))?;
        expect("ADDED", "second")?;
        kubectl.run("label widget second a=b")?;
        expect("MODIFIED", "second")?;
        kubectl.run("delete widget second")?;
        expect("DELETED", "second")
    })();
    watch.kill()?;
    watch.wait()?;
    seen
}

#[test]
fn explain_knows_every_field_of_both_versions() -> Result<()> {
    let cluster = harness::shared()?;
    let kubectl = Kubectl::admin(&cluster);
    let new = kubectl.run("explain widgets --recursive --api-version=custom.example.com/v1")?;
    assert_holds(
        &new,
        &[
            "replicas",
            "image",
            "resources",
            "limits",
            "conditions",
            "observedGeneration",
            "managedFields",
        ],
    );
    let old =
        kubectl.run("explain widgets --recursive --api-version=custom.example.com/v1alpha1")?;
    assert_holds(&old, &["size", "repository", "digest", "updatedAt"]);
    let field = kubectl.run("explain widgets.spec.replicas")?;
    assert_holds(&field, &["VERSION:    v1", "FIELD: replicas <integer>"]);
    Ok(())
}

#[test]
fn scale_changes_the_replicas_and_heeds_the_current_ones() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "scale")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 1))?;
    assert_holds(
        &kubectl.run("scale widget my-widget --replicas=5")?,
        &["scaled"],
    );
    assert_eq!(
        at(&kubectl.json("get widget my-widget")?, "/spec/replicas"),
        5
    );
    let refusal = kubectl.refused("scale widget my-widget --current-replicas=3 --replicas=1")?;
    assert_holds(&refusal, &["Expected replicas to be 3, was 5"]);
    kubectl.run("scale widget my-widget --current-replicas=5 --replicas=0")?;
    assert_eq!(
        at(&kubectl.json("get widget my-widget")?, "/spec/replicas"),
        0
    );
    Ok(())
}

#[test]
fn edit_label_annotate_and_patch_change_a_widget() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "edit")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 0))?;

    let editor = std::env::temp_dir().join(format!("{}-editor", namespace.name));
    std::fs::write(
        &editor,
        "#!/bin/sh\nexec sed -i 's/color: green/color: red/' \"$1\"\n",
    )?;
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755))?;
    let edited = kubectl
        .command("edit widget my-widget")
        .env("KUBE_EDITOR", &editor)
        .output();
    std::fs::remove_file(&editor)?;
    assert_holds(
        &String::from_utf8_lossy(&edited?.stdout),
        &["widget.custom.example.com/my-widget edited"],
    );

    kubectl.run("label widget my-widget tier=gold")?;
    kubectl.run("annotate widget my-widget note='a b'")?;
    kubectl.run("patch widget my-widget --type=merge -p '{\"spec\":{\"replicas\":2}}'")?;
    kubectl.run("patch widget my-widget --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/image\",\"value\":\"app:2\"}]'")?;
    let widget = kubectl.json("get widget my-widget")?;
    assert_eq!(at(&widget, "/spec/color"), "red");
    assert_eq!(at(&widget, "/metadata/labels/tier"), "gold");
    assert_eq!(at(&widget, "/metadata/annotations/note"), "a b");
    assert_eq!(at(&widget, "/spec/replicas"), 2);
    assert_eq!(at(&widget, "/spec/image"), "app:2");

    let refusal = kubectl
        .refused("patch widget my-widget --type=strategic -p '{\"spec\":{\"replicas\":1}}'")?;
    assert_holds(&refusal, &["not supported"]);
    let refusal = kubectl.refused_with(
        "apply --server-side -f -",
        "apiVersion: custom.example.com/v1\nkind: Widget\nmetadata: {name: my-widget}\n",
    )?;
    assert_holds(&refusal, &["Server-side apply not available on the server"]);
    assert_holds(&kubectl.run("delete widget my-widget")?, &["deleted"]);
    assert_holds(&kubectl.refused("get widget my-widget")?, &["NotFound"]);
    Ok(())
}

#[test]
fn status_is_read_by_jsonpath() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "status")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("my-widget", 1))?;
    eventually("the status", PATIENCE, || {
        Ok(kubectl
            .run("get widget my-widget -o jsonpath={.status}")?
            .contains("\"phase\""))
    })?;
    kubectl.run("wait widget/my-widget --for=jsonpath={.status.phase}=Running --timeout=60s")?;
    kubectl.run("wait widget/my-widget --for=condition=Available --timeout=60s")?;
    Ok(())
}

#[test]
fn discovery_lists_the_group_and_its_versions() -> Result<()> {
    let cluster = harness::shared()?;
    let kubectl = Kubectl::admin(&cluster);
    for version in ["v1", "v1alpha1"] {
        let service = kubectl.json(&format!("get apiservice {version}.custom.example.com"))?;
        let available = service["status"]["conditions"]
            .as_array()
            .context("no conditions")?
            .iter()
            .any(|c| c["type"] == "Available" && c["status"] == "True");
        assert!(available, "{service:#}");
    }
    let raw = kubectl.run("get --raw /apis/custom.example.com/v1/widgets")?;
    assert_holds(&raw, &["\"WidgetList\"", "\"resourceVersion\""]);
    let resources = kubectl.run("api-resources --api-group=custom.example.com -o wide")?;
    assert_holds(
        &resources,
        &[
            "widgets",
            "wd",
            "custom.example.com/v1",
            "Widget",
            "create,delete,deletecollection,get,list,patch,update,watch",
            "all,custom",
        ],
    );
    let versions = kubectl.run("api-versions")?;
    assert_holds(
        &versions,
        &["custom.example.com/v1\n", "custom.example.com/v1alpha1\n"],
    );
    Ok(())
}

#[test]
fn an_invalid_widget_is_refused_with_all_its_errors() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "invalid")?;
    let kubectl = namespace.kubectl();
    let bad = "apiVersion: custom.example.com/v1\nkind: Widget\nmetadata: {name: bad}\nspec: {replicas: 101, color: Red!, image: 'a b'}\n";
    let refusal = kubectl.refused_with("create -f -", bad)?;
    assert_holds(
        &refusal,
        &[
            "spec.replicas",
            "replicas cannot exceed 100",
            "spec.color",
            "spec.image",
        ],
    );
    let bad = "apiVersion: custom.example.com/v1alpha1\nkind: Widget\nmetadata: {name: bad}\nspec: {size: 101, color: Red!, repository: 'a b'}\n";
    let refusal = kubectl.refused_with("create -f -", bad)?;
    assert_holds(
        &refusal,
        &[
            "spec.size",
            "replicas cannot exceed 100",
            "spec.color",
            "spec.repository",
        ],
    );
    let refusal = kubectl.refused("scale widget absent --replicas=1")?;
    assert_holds(&refusal, &["NotFound"]);
    Ok(())
}

#[test]
fn only_declared_field_selectors_are_accepted() -> Result<()> {
    let cluster = harness::shared()?;
    let namespace = Namespace::create(&cluster, "selectors")?;
    let kubectl = namespace.kubectl();
    kubectl.run_with("apply -f -", &widget("green", 0))?;
    kubectl.run_with("apply -f -", &old_widget("blue", 0))?;
    let found = kubectl.run("get widgets --field-selector spec.color=green -o name")?;
    assert_eq!(found.trim(), "widget.custom.example.com/green");
    let found = kubectl.run("get widgets.v1alpha1.custom.example.com --field-selector spec.repository=registry.example.com/app,spec.color!=green -o name")?;
    assert_eq!(found.trim(), "widget.custom.example.com/blue");
    let refusal = kubectl.refused("get widgets --field-selector spec.size=1")?;
    assert_holds(
        &refusal,
        &["BadRequest", "field label not supported: spec.size"],
    );
    Ok(())
}
