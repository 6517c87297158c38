//! `shardSelector`: several clients share a collection.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use store::testing;

use super::crud::revision;
use super::lists::names;
use super::server::{Api, Server, fresh_namespace, gadget, gadgets};

/// The part of all hashes with the number `index` of `count`, escaped for a URL.
fn shard(field: &str, index: u128, count: u128) -> String {
    let bound = |place: u128| format!("'0x{:016x}'", (1_u128 << 64) * place / count);
    let (start, end) = (bound(index), bound(index + 1));
    format!("shardRange(object.metadata.{field},%20{start},%20{end})")
}

fn selector(field: &str, index: u128, count: u128) -> String {
    format!("shardSelector={}", shard(field, index, count))
}

#[tokio::test]
async fn shards_partition_lists_and_watches_exactly() {
    const COUNT: u128 = 3;
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut expected = Vec::new();
    for number in 0..30 {
        let body = gadget(&format!("g{number:02}"), json!({}));
        let created = api.post(&all, &body).await.expect(201);
        expected.push((revision(&created), format!("g{number:02}")));
    }
    let mut watches = Vec::new();
    let mut owner = BTreeMap::new();
    for index in 0..COUNT {
        let selector = selector("uid", index, COUNT);
        let listed = api.get(&format!("{all}?{selector}")).await.expect(200);
        for name in names(&listed) {
            let other = owner.insert(name.to_owned(), index);
            assert_eq!(other, None, "{name} is in one shard");
        }
        let info = &listed["metadata"]["shardInfo"]["selector"];
        assert_eq!(info, &shard("uid", index, COUNT).replace("%20", " "));
        assert_eq!(listed["metadata"]["remainingItemCount"], Value::Null);
        let watch = format!("{all}?watch=1&allowWatchBookmarks=1&{selector}");
        watches.push(api.watch(&watch).await);
    }
    assert_eq!(owner.len(), 30, "every object is in a shard");
    assert!((0..COUNT).all(|index| owner.values().any(|of| *of == index)));

    // What comes, changes and goes is told to one watcher each.
    for number in 0..10 {
        let path = format!("{all}/g{number:02}");
        let note = json!({ "spec": { "note": "n" } });
        api.merge(&path, &note).await.expect(200);
        api.delete(&path, &json!({})).await.expect(200);
        let body = gadget(&format!("h{number:02}"), json!({}));
        let created = api.post(&all, &body).await.expect(201);
        let index = place_of(&created, COUNT);
        owner.insert(format!("h{number:02}"), index);
    }
    let last = api.post(&all, &gadget("last", json!({}))).await.expect(201);
    owner.insert("last".to_owned(), place_of(&last, COUNT));
    for (index, watch) in (0..COUNT).zip(&mut watches) {
        let mut told = Vec::new();
        for (name, of) in &owner {
            if *of == index {
                told.push(format!("{name} ADDED"));
            }
            if *of == index && name.as_str() < "g10" {
                told.extend([format!("{name} MODIFIED"), format!("{name} DELETED")]);
            }
        }
        let mut seen = Vec::new();
        while seen.len() < told.len() {
            let event = watch.next().await.unwrap();
            if event["type"] != "BOOKMARK" {
                let name = event["object"]["metadata"]["name"].as_str().unwrap();
                seen.push(format!("{name} {}", event["type"].as_str().unwrap()));
            }
        }
        seen.sort();
        told.sort();
        assert_eq!(seen, told, "shard {index}");
    }
}

/// Which shard an object is in, computed as a client would.
fn place_of(object: &Value, count: u128) -> u128 {
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let place = |index: u128| u128::from(hash) < (1_u128 << 64) * (index + 1) / count;
    (0..count).find(|index| place(*index)).unwrap()
}

#[tokio::test]
async fn a_shard_is_paged_read_in_the_past_selected_further_and_emptied() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut last = 0;
    for number in 0..20 {
        let mut body = gadget(&format!("g{number:02}"), json!({}));
        body["metadata"]["labels"] = json!({ "odd": (number % 2 == 1).to_string() });
        last = revision(&api.post(&all, &body).await.expect(201));
    }
    let half = selector("uid", 0, 2);
    let whole = api.get(&format!("{all}?{half}")).await.expect(200);
    let expected: Vec<String> = names(&whole)
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    assert!((1..20).contains(&expected.len()));

    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let page = format!("{all}?{half}&limit=2{token}");
        let page = api.get(&page).await.expect(200);
        paged.extend(names(&page).iter().map(|name| (*name).to_owned()));
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = format!("&continue={next}"),
            None => break,
        }
    }
    assert_eq!(paged, expected);

    let labelled = format!("{all}?{half}&labelSelector=odd%3Dtrue");
    let labelled = api.get(&labelled).await.expect(200);
    let is_odd = |name: &&String| name[1..].parse::<u32>().unwrap() % 2 == 1;
    let odd: Vec<_> = expected.iter().filter(is_odd).collect();
    assert_eq!(names(&labelled), odd);

    let deleted = api.delete(&format!("{all}?{half}"), &json!({})).await;
    assert_eq!(names(&deleted.expect(200)).len(), expected.len());
    let rest = api.get(&all).await.expect(200);
    assert_eq!(names(&rest).len(), 20 - expected.len());
    let then = format!("{all}?{half}&resourceVersion={last}&resourceVersionMatch=Exact");
    assert_eq!(names(&api.get(&then).await.expect(200)), expected);

    let both = format!("{}%20%7C%7C%20{}", half, shard("uid", 1, 2));
    let everything = api.get(&format!("{all}?{both}")).await.expect(200);
    assert_eq!(names(&everything), names(&rest));
}

#[tokio::test]
async fn shards_of_namespaces_keep_a_namespace_together() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    for suffix in ["a", "b", "c", "d", "e", "f"] {
        for name in ["x", "y"] {
            let mut body = gadget(name, json!({}));
            body["metadata"]["labels"] = json!({ "test": &namespace });
            let all = gadgets(&format!("{namespace}-{suffix}"));
            api.post(&all, &body).await.expect(201);
        }
    }
    let base = format!("/apis/gadget.example.com/v1/gadgets?labelSelector=test%3D{namespace}");
    let mut seen = BTreeMap::<String, usize>::new();
    for index in 0..4 {
        let selector = selector("namespace", index, 4);
        let listed = api.get(&format!("{base}&{selector}")).await.expect(200);
        let mut here = BTreeMap::<String, usize>::new();
        for item in listed["items"].as_array().unwrap() {
            let namespace = item["metadata"]["namespace"].as_str().unwrap();
            *here.entry(namespace.to_owned()).or_default() += 1;
        }
        for (namespace, count) in here {
            assert_eq!(count, 2, "{namespace} is not torn");
            assert_eq!(seen.insert(namespace, count), None);
        }
    }
    assert_eq!(seen.len(), 6);
}

#[tokio::test]
async fn a_shard_is_told_in_every_representation_of_a_list() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let path = format!("{all}?{}", selector("uid", 0, 2));
    for accept in [
        "application/json;as=Table;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    ] {
        let answer = api.send("GET", &path, &[("accept", accept)], "").await;
        let info = &answer.expect(200)["metadata"]["shardInfo"]["selector"];
        assert_eq!(info, &shard("uid", 0, 2).replace("%20", " "), "{accept}");
    }
    let accept =
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let answer = api.send("GET", &path, &[("accept", accept)], "").await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("shardRange(object.metadata.uid"), "{text}");
}

#[tokio::test]
async fn what_is_no_shard_is_a_bad_request_unless_sharding_is_off() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let wrong = [
        "shardSelector=x".to_owned(),
        "shardSelector=%20".to_owned(),
        selector("name", 0, 2),
        selector("uid", 0, 2).replace("0x", ""),
        format!("{}%26%26{}", selector("uid", 0, 2), shard("uid", 1, 2)),
    ];
    for query in &wrong {
        for verb in ["GET", "WATCH", "DELETE"] {
            let (method, watch) = match verb {
                "WATCH" => ("GET", "&watch=1"),
                method => (method, ""),
            };
            let path = format!("{all}?{query}{watch}");
            let answer = api.send(method, &path, &[], "").await;
            assert_eq!(answer.verdict(), "400 BadRequest", "{verb} {query}");
            assert!(answer.message().starts_with("invalid shard selector: "));
        }
    }
    api.get(&format!("{all}?shardSelector=")).await.expect(200);

    let server = Server::start_without_shards(testing::database().url).await;
    let api = Api::of(&server.masters).await;
    api.post(&all, &gadget("a", json!({}))).await.expect(201);
    for query in wrong
        .iter()
        .chain([&selector("uid", 0, 2), &selector("uid", 1, 2)])
    {
        let listed = api.get(&format!("{all}?{query}")).await.expect(200);
        assert_eq!(names(&listed), ["a"], "{query}");
        assert_eq!(listed["metadata"]["shardInfo"], Value::Null);
    }
}
