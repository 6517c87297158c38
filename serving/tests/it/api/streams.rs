//! Long lists: made while they are sent, whole in every representation, compressed on demand.

use std::io::Read as _;

use machinery::codec;
use machinery::negotiate::Format;
use serde_json::{Value, json};
use store::testing;

use super::lists::names;
use super::server::{Answer, Api, Server, fresh_namespace, gadget, gadgets, old_gadgets};

/// Answers from this size on are made while they are sent.
const THRESHOLD: usize = 128 * 1024;

async fn fill(api: &Api, namespace: &str, count: usize, note: usize) {
    let all = gadgets(namespace);
    for number in 0..count {
        let spec = json!({ "note": format!("{number}: {}\n\"quoted\"", "n".repeat(note)) });
        let mut body = gadget(&format!("g{number:03}"), spec);
        body["metadata"]["annotations"] =
            json!({ "odd": "}\"{ \\ ü", "number": number.to_string() });
        api.post(&all, &body).await.expect(201);
    }
}

async fn get(api: &Api, path: &str, accept: &str) -> Answer {
    let answer = api.send("GET", path, &[("accept", accept)], "").await;
    assert_eq!(answer.code, 200, "{path} {accept}");
    answer
}

/// A list's text without what changes from second to second.
fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_long_list_is_whole_in_every_representation() {
    // Nobody else writes here: all lists are of one revision.
    let server = Server::start(testing::database().url, |_| {}).await;
    let (api, namespace) = (Api::of(&server.masters).await, fresh_namespace());
    fill(&api, &namespace, 120, 3000).await;
    for all in [gadgets(&namespace), old_gadgets(&namespace)] {
        let plain = get(&api, &all, "application/json").await;
        assert!(plain.body.len() > 2 * THRESHOLD);
        assert_eq!(
            plain.header("content-length"),
            "",
            "its length is not known before"
        );
        let list = plain.json();
        assert_eq!(names(&list).len(), 120);
        assert!(names(&list).is_sorted());
        for item in list["items"].as_array().unwrap() {
            let number: usize = item["metadata"]["name"].as_str().unwrap()[1..]
                .parse()
                .unwrap();
            assert_eq!(
                item["spec"]["note"],
                format!("{number}: {}\n\"quoted\"", "n".repeat(3000))
            );
        }

        let pretty = get(&api, &format!("{all}?pretty=1"), "application/json").await;
        let expected = codec::encode(&list, Format::Json, true);
        assert_eq!(text(&pretty), String::from_utf8(expected).unwrap());
        let yaml = get(&api, &all, "application/yaml").await;
        let expected = codec::encode(&list, Format::Yaml, false);
        assert_eq!(text(&yaml), String::from_utf8(expected).unwrap());

        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let partial = get(&api, &all, partial).await.json();
        assert_eq!(partial["kind"], "PartialObjectMetadataList");
        let metadata = |list: &Value| -> Vec<Value> {
            let items = list["items"].as_array().unwrap();
            items.iter().map(|item| item["metadata"].clone()).collect()
        };
        assert_eq!(metadata(&partial), metadata(&list));

        let accept = "application/json;as=Table;g=meta.k8s.io;v=v1";
        let table = get(&api, &format!("{all}?includeObject=Object"), accept).await;
        assert!(table.body.len() > 2 * THRESHOLD);
        let table = table.json();
        let rows = table["rows"].as_array().unwrap();
        let objects: Vec<_> = rows.iter().map(|row| row["object"].clone()).collect();
        assert_eq!(Value::from(objects), list["items"]);
        let accept = "application/yaml;as=Table;g=meta.k8s.io;v=v1";
        let yaml = get(&api, &format!("{all}?includeObject=Object"), accept).await;
        let read = codec::decode(Format::Yaml, &yaml.body).unwrap().value;
        assert_eq!(read["rows"].as_array().unwrap().len(), 120);
        assert_eq!(read["columnDefinitions"], table["columnDefinitions"]);
    }
}

#[tokio::test]
async fn a_long_protobuf_list_tells_its_length_before_it_knows_its_items() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    for number in 0..150 {
        let mut body = gadget(&format!("g{number:03}"), json!({}));
        body["metadata"]["annotations"] = json!({ "note": "n".repeat(2000) });
        api.post(&all, &body).await.expect(201);
    }
    let accept =
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let whole = get(&api, &all, accept).await;
    assert!(whole.body.len() > 2 * THRESHOLD);
    let list = whole.body.strip_prefix(b"k8s\0".as_slice()).unwrap();
    // typeMeta, then the list, then two empty fields.
    let (_, rest) = field(list, 1);
    let (list, rest) = field(rest, 2);
    assert_eq!(rest, b"\x1a\x00\x22\x00");
    let (_, mut rest) = field(list, 1);
    let mut count = 0;
    while !rest.is_empty() {
        let (item, after) = field(rest, 2);
        let name = format!("g{count:03}");
        assert!(item.windows(4).any(|window| window == name.as_bytes()));
        (rest, count) = (after, count + 1);
    }
    assert_eq!(count, 150);
}

/// The bytes of the field that a message begins with, and what follows it.
fn field(message: &[u8], number: u8) -> (&[u8], &[u8]) {
    assert_eq!(message[0], number << 3 | 2);
    let (mut length, mut shift, mut at) = (0_usize, 0, 1);
    loop {
        let byte = message[at];
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    message[at..].split_at(length)
}

#[tokio::test]
async fn a_list_without_items_is_the_same_in_every_layout() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let list = get(&api, &all, "application/json").await;
    assert_eq!(list.header("content-length"), list.body.len().to_string());
    let list = list.json();
    assert_eq!(list["items"], json!([]));
    for (path, accept, format) in [
        (
            format!("{all}?pretty=true"),
            "application/json",
            Format::Json,
        ),
        (all.clone(), "application/yaml", Format::Yaml),
    ] {
        let answer = get(&api, &path, accept).await;
        let mut told = codec::decode(format, &answer.body).unwrap().value;
        // Other tests write in between.
        told["metadata"] = list["metadata"].clone();
        assert_eq!(told, list);
        let mut expected = list.clone();
        expected["metadata"] =
            codec::decode(format, &answer.body).unwrap().value["metadata"].clone();
        let expected = codec::encode(&expected, format, true);
        assert_eq!(text(&answer), String::from_utf8(expected).unwrap());
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_name_gzip() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    fill(&api, &namespace, 60, 3000).await;
    let large = gadget("large", json!({ "note": "n".repeat(THRESHOLD + 1) }));
    api.post(&gadgets("large"), &large).await.expect(201);
    let fetch = |path: String, encoding: &'static str, accept: &'static str| {
        let api = &api;
        async move {
            let headers = [("accept-encoding", encoding), ("accept", accept)];
            api.send("GET", &path, &headers, "").await
        }
    };
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    for (path, accept, is_large) in [
        (all.clone(), "application/json", true),
        (all.clone(), "application/yaml", true),
        (format!("{all}?includeObject=Object"), table, true),
        (format!("{all}?limit=5"), "application/json", false),
        (
            format!("{}/large", gadgets("large")),
            "application/json",
            true,
        ),
        (format!("{all}/g000"), "application/json", false),
    ] {
        let plain = fetch(path.clone(), "identity", accept).await;
        assert_eq!(plain.header("content-encoding"), "", "{path}");
        let answer = fetch(path.clone(), "deflate, gzip", accept).await;
        let is_gzip = answer.header("content-encoding") == "gzip";
        assert_eq!(is_gzip, is_large, "{path}");
        if !is_gzip {
            continue;
        }
        assert_eq!(answer.header("vary"), "Accept-Encoding");
        assert!(answer.body.len() < plain.body.len() / 4);
        let mut inflated = Vec::new();
        flate2::read::GzDecoder::new(&answer.body[..])
            .read_to_end(&mut inflated)
            .unwrap();
        if accept == table {
            let length = inflated.len().abs_diff(plain.body.len());
            assert!(length < 1000, "ages differ");
        } else {
            let (a, b) = (without_revision(&inflated), without_revision(&plain.body));
            assert!(a == b, "{path}");
        }
        let other = fetch(path, "gzip;q=0.5", accept).await;
        assert_eq!(other.header("content-encoding"), "");
    }
    let watch = [("accept-encoding", "gzip")];
    let watch = api.open("GET", &format!("{all}?watch=1"), &watch, "").await;
    assert_eq!(watch.headers().get("content-encoding"), None);
}

/// Without the list's own revision, which other tests raise.
fn without_revision(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body).into_owned();
    let list: Option<Value> = serde_json::from_str(&text).ok();
    match list {
        Some(mut list) if list["items"].is_array() => {
            list["metadata"] = Value::Null;
            list.to_string().into_bytes()
        }
        Some(list) => list.to_string().into_bytes(),
        None => text
            .lines()
            .filter(|line| !line.starts_with("  resourceVersion:"))
            .collect::<Vec<_>>()
            .join("\n")
            .into_bytes(),
    }
}
