//! Lists: freshness, pages, selectors.

use serde_json::{Value, json};

use super::crud::revision;
use super::server::{Api, fresh_namespace, gadget, gadgets};

pub fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items is a list");
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

async fn fill(api: &Api, all: &str, count: usize) -> Vec<Value> {
    let mut created = Vec::new();
    for number in 0..count {
        let mut body = gadget(&format!("g{number}"), json!({}));
        body["metadata"]["labels"] = json!({ "number": number.to_string(), "parity": (if number % 2 == 0 { "even" } else { "odd" }) });
        created.push(api.post(all, &body).await.expect(201));
    }
    created
}

#[tokio::test]
async fn the_table_of_revisions_and_matches_holds() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = fill(&api, &all, 2).await;
    let (first, second) = (revision(&created[0]), revision(&created[1]));
    let future = second + 1_000_000;
    for (query, expected) in [
        (String::new(), "g0,g1"),
        ("resourceVersion=0".into(), "g0,g1"),
        (format!("resourceVersion={first}"), "g0,g1"),
        (
            format!("resourceVersion={first}&resourceVersionMatch=NotOlderThan"),
            "g0,g1",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=NotOlderThan".into(),
            "g0,g1",
        ),
        (
            format!("resourceVersion={first}&resourceVersionMatch=Exact"),
            "g0",
        ),
        (
            format!("resourceVersion={second}&resourceVersionMatch=Exact"),
            "g0,g1",
        ),
        (format!("resourceVersion={first}&limit=5"), "g0"),
        ("resourceVersionMatch=Exact".into(), "422 Invalid"),
        ("resourceVersionMatch=NotOlderThan".into(), "422 Invalid"),
        (
            "resourceVersion=0&resourceVersionMatch=Exact".into(),
            "422 Invalid",
        ),
        (
            format!("resourceVersion={first}&resourceVersionMatch=bogus"),
            "422 Invalid",
        ),
        ("sendInitialEvents=true".into(), "422 Invalid"),
        ("resourceVersion=abc".into(), "400 BadRequest"),
        (format!("resourceVersion={future}"), "504 Timeout"),
        (
            format!("resourceVersion={future}&resourceVersionMatch=Exact"),
            "504 Timeout",
        ),
        ("limit=abc".into(), "400 BadRequest"),
        ("limit=9223372036854775808".into(), "400 BadRequest"),
        ("limit=-1".into(), "g0,g1"),
        ("timeoutSeconds=abc".into(), "400 BadRequest"),
    ] {
        let answer = api.get(&format!("{all}?{query}")).await;
        let told = if answer.code == 200 {
            names(&answer.json()).join(",")
        } else {
            answer.verdict()
        };
        assert_eq!(told, expected, "{query}");
    }
}

#[tokio::test]
async fn a_future_revision_is_a_timeout_with_its_cause() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    fill(&api, &all, 1).await;
    let begin = std::time::Instant::now();
    for path in [
        format!("{all}?resourceVersion=99999999999"),
        format!("{all}/g0?resourceVersion=99999999999"),
    ] {
        let refused = api.get(&path).await;
        assert_eq!(refused.verdict(), "504 Timeout");
        let body = refused.json();
        assert_eq!(
            body["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
        assert_eq!(
            (
                &body["details"]["retryAfterSeconds"],
                refused.header("retry-after")
            ),
            (&json!(1), "1")
        );
    }
    assert!(begin.elapsed().as_secs() < 8);
    assert_eq!(
        api.get(&format!("{all}/g0?resourceVersion=abc"))
            .await
            .verdict(),
        "400 BadRequest"
    );
    assert_eq!(
        api.get(&format!("{all}/g0?resourceVersion=0")).await.code,
        200
    );
}

#[tokio::test]
async fn pages_are_one_snapshot() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let all = gadgets(&namespace);
    fill(&api, &all, 5).await;
    let first = api.get(&format!("{all}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["g0", "g1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap();
    api.delete(&format!("{all}/g3"), &json!({}))
        .await
        .expect(200);
    api.post(&all, &gadget("g20", json!({}))).await.expect(201);
    let second = api
        .get(&format!("{all}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(names(&second), ["g2", "g3"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = api
        .get(&format!("{all}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(
        (names(&third), &third["metadata"]["continue"]),
        (vec!["g4"], &Value::Null)
    );
    assert_eq!(third["metadata"]["remainingItemCount"], Value::Null);

    let selected = api
        .get(&format!("{all}?limit=1&labelSelector=parity%3Deven"))
        .await
        .expect(200);
    assert_eq!(names(&selected), ["g0"]);
    assert_eq!(selected["metadata"]["remainingItemCount"], Value::Null);
    assert_ne!(selected["metadata"]["continue"], Value::Null);

    let elsewhere = gadgets(&format!("{namespace}-other"));
    let moved = api
        .get(&format!("{elsewhere}?continue={token}"))
        .await
        .expect(200);
    assert_eq!(
        names(&moved),
        [""; 0],
        "a token lists only where it is used"
    );
    for (query, verdict) in [
        ("continue=garbage".to_owned(), "400 BadRequest"),
        (
            "continue=eyJ2IjoidjkiLCJydiI6MSwic3RhcnQiOiJ4In0".to_owned(),
            "400 BadRequest",
        ),
        (
            format!("continue={token}&resourceVersion=1"),
            "400 BadRequest",
        ),
    ] {
        assert_eq!(
            api.get(&format!("{all}?{query}")).await.verdict(),
            verdict,
            "{query}"
        );
    }
}

#[tokio::test]
async fn pages_over_all_namespaces_are_in_order() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    for suffix in ["a", "b", "c"] {
        let mut body = gadget("same", json!({}));
        body["metadata"]["labels"] = json!({ "test": &namespace });
        api.post(&gadgets(&format!("{namespace}-{suffix}")), &body)
            .await
            .expect(201);
    }
    let base =
        format!("/apis/gadget.example.com/v1/gadgets?labelSelector=test%3D{namespace}&limit=1");
    let (mut seen, mut query) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{base}{query}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|item| item["metadata"]["namespace"].as_str().unwrap().to_owned()),
        );
        match page["metadata"]["continue"].as_str() {
            Some(token) => query = format!("&continue={token}"),
            None => break,
        }
    }
    assert_eq!(
        seen,
        ["a", "b", "c"].map(|suffix| format!("{namespace}-{suffix}"))
    );
}

#[tokio::test]
async fn selectors_agree_in_lists_past_lists_and_watches() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let created = fill(&api, &all, 3).await;
    let last = revision(&created[2]);
    api.post(&all, &gadget("late", json!({ "color": "red" })))
        .await
        .expect(201);
    for (selector, past, now) in [
        ("labelSelector=parity%3Deven", "g0,g2", "g0,g2"),
        ("labelSelector=parity%3D%3Dodd", "g1", "g1"),
        ("labelSelector=parity%21%3Deven", "g1", "g1,late"),
        ("labelSelector=number+in+(0,1)", "g0,g1", "g0,g1"),
        ("labelSelector=number+notin+(0,1)", "g2", "g2,late"),
        ("labelSelector=parity", "g0,g1,g2", "g0,g1,g2"),
        ("labelSelector=%21parity", "", "late"),
        ("labelSelector=parity%3Deven,number%3D2", "g2", "g2"),
        ("fieldSelector=metadata.name%3Dg1", "g1", "g1"),
        ("fieldSelector=metadata.name%21%3Dg1", "g0,g2", "g0,g2,late"),
        ("fieldSelector=spec.color%3Dred", "", "late"),
        ("fieldSelector=spec.color%21%3Dred", "g0,g1,g2", "g0,g1,g2"),
        ("fieldSelector=metadata.namespace%3Dnone", "", ""),
    ] {
        let listed = api.get(&format!("{all}?{selector}")).await.expect(200);
        assert_eq!(names(&listed).join(","), now, "{selector}");
        let query = format!("{all}?{selector}&resourceVersion={last}&resourceVersionMatch=Exact");
        assert_eq!(
            names(&api.get(&query).await.expect(200)).join(","),
            past,
            "{selector}"
        );
        let mut watch = api
            .watch(&format!("{all}?watch=1&{selector}&allowWatchBookmarks=1"))
            .await;
        let mut seen = Vec::new();
        loop {
            let event = watch.next().await.unwrap();
            if event["type"] == "BOOKMARK" {
                break;
            }
            seen.push(
                event["object"]["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            );
        }
        assert_eq!(seen.join(","), now, "{selector}");
    }
}

#[tokio::test]
async fn selectors_that_cannot_be_read_are_bad_requests() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let long = format!("labelSelector=a%3D{}", "v".repeat(64));
    for query in [
        "labelSelector=a+in+(",
        "labelSelector=a%3D%3D%3D",
        &long,
        "labelSelector=a%3Eb",
        "fieldSelector=spec.size",
        "fieldSelector=zzz%3D1",
        "fieldSelector=zzz",
    ] {
        for watch in ["", "&watch=1"] {
            let answer = api.get(&format!("{all}?{query}{watch}")).await;
            assert_eq!(answer.verdict(), "400 BadRequest", "{query}{watch}");
        }
    }
}

#[tokio::test]
async fn ten_thousand_terms_of_a_selector_are_evaluated_quickly() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    fill(&api, &all, 1).await;
    // The longest URL that HTTP libraries of this language take is 64 KiB.
    let terms = vec!["a!=b"; 10_000].join(",");
    let begin = std::time::Instant::now();
    let listed = api
        .get(&format!("{all}?labelSelector={terms}"))
        .await
        .expect(200);
    assert_eq!(names(&listed), ["g0"]);
    assert!(begin.elapsed().as_secs() < 2);
}

#[tokio::test]
async fn a_large_list_is_whole() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let note = "n".repeat(20_000);
    for number in 0..40 {
        let body = gadget(&format!("g{number:02}"), json!({ "note": note }));
        api.post(&all, &body).await.expect(201);
    }
    let answer = api.get(&all).await;
    let list = answer.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 40);
    assert!(
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|item| item["spec"]["note"] == *note)
    );
}
