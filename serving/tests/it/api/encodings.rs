//! Formats and shapes of bodies in both directions.

use serde_json::{Value, json};

use super::lists::names;
use super::server::{Answer, Api, fresh_namespace, gadget, gadgets};

async fn accepting(api: &Api, path: &str, accept: &str) -> Answer {
    api.send("GET", path, &[("accept", accept)], "").await
}

const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIALS: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

#[tokio::test]
async fn yaml_goes_in_and_out() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let body = "apiVersion: gadget.example.com/v1\nkind: Gadget\nmetadata:\n  name: a\nspec:\n  note: 'yes'\n";
    let kind = [
        ("content-type", "application/yaml"),
        ("accept", "application/yaml"),
    ];
    let created = api.send("POST", &all, &kind, body).await;
    assert_eq!(
        (created.code, created.header("content-type")),
        (201, "application/yaml")
    );
    assert!(String::from_utf8_lossy(&created.body).contains("replicas: 1"));
    let list = accepting(&api, &all, "application/yaml").await;
    assert!(String::from_utf8_lossy(&list.body).contains("kind: GadgetList"));
}

#[tokio::test]
async fn representations_are_negotiated() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    let one = format!("{all}/a");
    for (accept, expected) in [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (
            "application/yaml;q=0.9, application/json;q=0.1",
            "application/yaml",
        ),
        ("text/csv, application/json;q=0.5", "application/json"),
        ("text/csv", "406 NotAcceptable"),
        (
            "application/json;as=Table;g=meta.k8s.io;v=v9",
            "406 NotAcceptable",
        ),
        (
            "application/vnd.kubernetes.protobuf, application/json",
            "application/json",
        ),
    ] {
        let answer = accepting(&api, &one, accept).await;
        let told = match answer.code {
            200 => answer.header("content-type").to_owned(),
            _ => answer.verdict(),
        };
        assert_eq!(told, expected, "{accept}");
    }
    for (kind, verdict) in [
        ("text/plain", "415 UnsupportedMediaType"),
        (";;;", "415 UnsupportedMediaType"),
        ("application/cbor", "415 UnsupportedMediaType"),
    ] {
        let answer = api
            .send("POST", &all, &[("content-type", kind)], "{}")
            .await;
        assert_eq!(answer.verdict(), verdict, "{kind}");
    }
    let untyped = api
        .send("POST", &all, &[], gadget("untyped", json!({})).to_string())
        .await;
    untyped.expect(201);
    let garbage = api
        .send(
            "POST",
            &all,
            &[("content-type", "application/vnd.kubernetes.protobuf")],
            "k8s\0x",
        )
        .await;
    assert!(matches!(garbage.code, 400 | 415), "{}", garbage.verdict());
    let pretty = api.get(&format!("{one}?pretty=true")).await;
    assert!(String::from_utf8_lossy(&pretty.body).contains("\n  \"metadata\""));
}

#[tokio::test]
async fn metadata_alone_is_served_as_json_and_protobuf() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = api
        .post(&all, &gadget("a", json!({ "note": "n" })))
        .await
        .expect(201);
    let one = accepting(&api, &format!("{all}/a"), PARTIAL)
        .await
        .expect(200);
    assert_eq!(
        one,
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": created["metadata"],
        })
    );
    for version in ["v1", "v1beta1"] {
        let accept = PARTIALS.replace("v=v1", &format!("v={version}"));
        let list = accepting(&api, &all, &accept).await.expect(200);
        assert_eq!(
            (&list["kind"], &list["apiVersion"]),
            (
                &json!("PartialObjectMetadataList"),
                &json!(format!("meta.k8s.io/{version}"))
            )
        );
        assert_eq!(names(&list), ["a"]);
        assert_eq!(list["items"][0]["spec"], Value::Null);
    }
    for (path, accept) in [(format!("{all}/a"), PARTIAL), (all.clone(), PARTIALS)] {
        let accept = accept.replace("json", "vnd.kubernetes.protobuf");
        let answer = accepting(&api, &path, &accept).await;
        assert_eq!(answer.code, 200);
        assert!(
            answer
                .header("content-type")
                .starts_with("application/vnd.kubernetes.protobuf")
        );
        assert!(answer.body.starts_with(b"k8s\0"));
        assert!(
            answer
                .body
                .windows(36)
                .any(|part| part == created["metadata"]["uid"].as_str().unwrap().as_bytes())
        );
    }
    let absent = accepting(
        &api,
        &format!("{all}/absent"),
        "application/vnd.kubernetes.protobuf",
    )
    .await;
    assert_eq!(absent.code, 406);
    assert!(
        absent.body.starts_with(b"k8s\0"),
        "a Status speaks protobuf too"
    );
    let gone = api
        .send("DELETE", &format!("{all}/a"), &[("accept", PARTIAL)], "")
        .await;
    assert_eq!(gone.expect(200)["status"], "Success");
}

#[tokio::test]
async fn a_table_has_the_columns_of_its_resource() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    for name in ["a", "b"] {
        api.post(&all, &gadget(name, json!({ "note": "n" })))
            .await
            .expect(201);
    }
    let table = accepting(&api, &format!("{all}?limit=1"), TABLE)
        .await
        .expect(200);
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns.first(), Some(&"Name"));
    for column in ["Desired", "Color", "Note"] {
        assert!(columns.contains(&column), "{columns:?}");
    }
    assert_ne!(table["metadata"]["continue"], Value::Null);
    assert_ne!(table["metadata"]["resourceVersion"], Value::Null);
    let row = &table["rows"][0];
    assert_eq!(
        (&row["cells"][0], &row["cells"][1]),
        (&json!("a"), &json!(1))
    );
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    for (include, kind) in [
        ("None", Value::Null),
        ("Object", json!("Gadget")),
        ("Metadata", json!("PartialObjectMetadata")),
    ] {
        let table = accepting(&api, &format!("{all}?includeObject={include}"), TABLE)
            .await
            .expect(200);
        assert_eq!(table["rows"][0]["object"]["kind"], kind, "{include}");
    }
    let zap = accepting(&api, &format!("{all}?includeObject=Zap"), TABLE).await;
    assert_eq!(zap.verdict(), "400 BadRequest");
    let one = accepting(&api, &format!("{all}/a"), TABLE)
        .await
        .expect(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn text_survives_whatever_it_holds() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let kind = [("content-type", "application/json")];
    let body = |name: &str, note: &[u8]| {
        [
            format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"note":""#).as_bytes(),
            note,
            b"\"}}",
        ]
        .concat()
    };
    for (name, note, stored) in [
        ("bytes", b"a\xff\xfe".as_slice(), "a\u{fffd}\u{fffd}"),
        ("surrogate", br"\ud800", "\u{fffd}"),
        ("nul", br"a\u0000b", "a\0b"),
        ("wide", "😀".as_bytes(), "😀"),
    ] {
        let created = api
            .send("POST", &all, &kind, body(name, note))
            .await
            .expect(201);
        assert_eq!(created["spec"]["note"], stored, "{name}");
        assert_eq!(
            api.get(&format!("{all}/{name}")).await.expect(200)["spec"]["note"],
            stored,
            "{name}"
        );
    }
}
