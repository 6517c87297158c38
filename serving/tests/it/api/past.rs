//! Every revision in retention: listed as it was, and watched from on, whether the replica still
//! has its events in memory or must ask the database.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use store::{StoreConfig, testing};

use super::crud::revision;
use super::lists::names;
use super::server::{Api, Server, gadget, gadgets};

/// One object as it was: name to (color, label, revision).
type State = BTreeMap<String, (String, String, i64)>;

/// What every revision was, in order.
struct History {
    states: Vec<(i64, State)>,
}

const COLORS: [&str; 3] = ["red", "green", "blue"];

impl History {
    /// Makes objects come, change and go, a few at a time.
    async fn make(api: &Api, all: &str) -> Self {
        let mut states = Vec::new();
        let mut state = State::new();
        for step in 0..60_usize {
            let name = format!("g{}", step * 7 % 5);
            let (color, label) = (COLORS[step * 5 % 3], format!("l{}", step * 3 % 2));
            let path = format!("{all}/{name}");
            let written = if !state.contains_key(&name) {
                let mut body = gadget(&name, json!({ "color": color }));
                body["metadata"]["labels"] = json!({ "label": label });
                revision(&api.post(all, &body).await.expect(201))
            } else if step % 4 == 3 {
                // What a deletion leaves is told by the next list.
                api.delete(&path, &json!({})).await.expect(200);
                let list = api.get(all).await.expect(200);
                state.remove(&name);
                states.push((revision(&list), state.clone()));
                continue;
            } else {
                let patch = json!({
                    "metadata": { "labels": { "label": label } }, "spec": { "color": color, "note": step.to_string() },
                });
                revision(&api.merge(&path, &patch).await.expect(200))
            };
            state.insert(name, (color.to_owned(), label, written));
            states.push((written, state.clone()));
        }
        Self { states }
    }

    /// The events that a watcher of a selection is told after a revision.
    fn events(&self, after: usize, selects: fn(&str, &str) -> bool) -> Vec<String> {
        let selected = |state: &State| -> BTreeMap<String, i64> {
            let all = state
                .iter()
                .filter(|(_, (color, label, _))| selects(color, label));
            all.map(|(name, (_, _, revision))| (name.clone(), *revision))
                .collect()
        };
        let mut told = Vec::new();
        for pair in self.states[after..].windows(2) {
            let (was, is) = (selected(&pair[0].1), selected(&pair[1].1));
            for (name, revision) in &is {
                match was.get(name) {
                    None => told.push(format!("ADDED {name} {revision}")),
                    Some(old) if old != revision => {
                        told.push(format!("MODIFIED {name} {revision}"));
                    }
                    Some(_) => {}
                }
            }
            let at = pair[1].0;
            let gone = was.keys().filter(|name| !is.contains_key(*name));
            told.extend(gone.map(|name| format!("DELETED {name} {at}")));
        }
        told
    }
}

type Selects = fn(&str, &str) -> bool;

const SELECTIONS: [(&str, Selects); 5] = [
    ("", |_, _| true),
    ("&fieldSelector=spec.color%3Dred", |color, _| color == "red"),
    ("&fieldSelector=spec.color%21%3Dred", |color, _| {
        color != "red"
    }),
    ("&labelSelector=label%3Dl1", |_, label| label == "l1"),
    (
        "&labelSelector=label+in+(l0)&fieldSelector=spec.color%3Dgreen",
        |color, label| color == "green" && label == "l0",
    ),
];

/// A server that keeps all events in memory, and one that keeps hardly any.
async fn replicas() -> [Server; 2] {
    let url = testing::database().url;
    let mut forgetful = StoreConfig::new(&url);
    forgetful.ring_bytes = 1500;
    [
        Server::start(url, |_| {}).await,
        Server::start_on(forgetful, |_| {}).await,
    ]
}

#[tokio::test]
async fn every_revision_is_listed_as_it_was_with_selectors_and_in_pages() {
    let replicas = replicas().await;
    let all = gadgets("a");
    let history = History::make(&Api::of(&replicas[0].masters).await, &all).await;
    for server in &replicas {
        let api = Api::of(&server.masters).await;
        for (at, state) in &history.states {
            let exact = format!("resourceVersion={at}&resourceVersionMatch=Exact");
            for (selector, selects) in SELECTIONS {
                let expected: Vec<_> = state
                    .iter()
                    .filter(|(_, (color, label, _))| selects(color, label))
                    .map(|(name, (color, _, revision))| (name.clone(), color.clone(), *revision))
                    .collect();
                let whole = api
                    .get(&format!("{all}?{exact}{selector}"))
                    .await
                    .expect(200);
                assert_eq!(revision(&whole), *at);
                assert_eq!(objects(&whole), expected, "{at} {selector}");
                // An old client pages with the revision alone.
                for first in [&exact, &format!("resourceVersion={at}")] {
                    let mut listed = Vec::new();
                    let mut query = format!("{first}&limit=1{selector}");
                    loop {
                        let page = api.get(&format!("{all}?{query}")).await.expect(200);
                        assert_eq!(revision(&page), *at, "{query}");
                        listed.extend(objects(&page));
                        match page["metadata"]["continue"].as_str() {
                            Some(token) => query = format!("continue={token}&limit=1{selector}"),
                            None => break,
                        }
                    }
                    assert_eq!(listed, expected, "{at} {first} {selector}");
                }
            }
        }
    }
}

fn objects(list: &Value) -> Vec<(String, String, i64)> {
    let items = list["items"].as_array().unwrap();
    let one = |item: &Value| {
        (
            item["metadata"]["name"].as_str().unwrap().to_owned(),
            item["spec"]["color"].as_str().unwrap().to_owned(),
            revision(item),
        )
    };
    items.iter().map(one).collect()
}

#[tokio::test]
async fn a_watch_of_any_selection_goes_on_from_any_revision_without_gap_or_repetition() {
    let replicas = replicas().await;
    let all = gadgets("a");
    let history = History::make(&Api::of(&replicas[0].masters).await, &all).await;
    for server in &replicas {
        let api = Api::of(&server.masters).await;
        for (place, (at, _)) in history.states.iter().enumerate() {
            for (selector, selects) in SELECTIONS {
                let expected = history.events(place, selects);
                let path = format!("{all}?watch=1&resourceVersion={at}{selector}");
                let mut watch = api.watch(&path).await;
                for one in &expected {
                    let event = watch.next().await.unwrap();
                    let object = &event["object"];
                    let told = format!(
                        "{} {} {}",
                        event["type"].as_str().unwrap(),
                        object["metadata"]["name"].as_str().unwrap(),
                        revision(object)
                    );
                    assert_eq!(told, *one, "{at} {selector}");
                    // What left is told as it was when it was last selected.
                    let (color, label) = (
                        &object["spec"]["color"],
                        &object["metadata"]["labels"]["label"],
                    );
                    assert!(
                        selects(color.as_str().unwrap(), label.as_str().unwrap()),
                        "{event}"
                    );
                }
            }
        }
        // Nothing more comes.
        let (last, _) = history.states.last().unwrap();
        let query = format!("watch=1&timeoutSeconds=1&resourceVersion={last}");
        assert_eq!(
            api.watch(&format!("{all}?{query}")).await.next().await,
            None
        );
    }
}

#[tokio::test]
async fn what_a_revision_means_together_with_a_page() {
    let replicas = replicas().await;
    let (api, all) = (Api::of(&replicas[0].masters).await, gadgets("a"));
    let history = History::make(&api, &all).await;
    let (oldest, _) = history.states.first().unwrap();
    let page = api.get(&format!("{all}?limit=1")).await.expect(200);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = names(&api.get(&all).await.expect(200))[1..].join(",");
    for (query, expected) in [
        (format!("continue={token}"), rest.clone()),
        (format!("continue={token}&resourceVersion=0"), rest),
        (
            format!("continue={token}&resourceVersion={oldest}"),
            "400 BadRequest".into(),
        ),
        (
            format!("continue={token}&resourceVersion={oldest}&resourceVersionMatch=Exact"),
            "422 Invalid".into(),
        ),
        (
            format!("continue={token}&resourceVersion={oldest}&resourceVersionMatch=NotOlderThan"),
            "422 Invalid".into(),
        ),
        (
            format!("continue={token}&resourceVersionMatch=NotOlderThan"),
            "422 Invalid".into(),
        ),
        (format!("continue={token}&watch=1"), "422 Invalid".into()),
        (
            "resourceVersion=00&resourceVersionMatch=Exact".into(),
            "422 Invalid".into(),
        ),
    ] {
        let answer = api.get(&format!("{all}?{query}")).await;
        let told = match answer.code {
            200 => names(&answer.json()).join(","),
            _ => answer.verdict(),
        };
        assert_eq!(told, expected, "{query}");
    }
    // Zero is zero in any spelling.
    let whole = api
        .get(&format!("{all}?resourceVersion=0"))
        .await
        .expect(200);
    for query in ["resourceVersion=00", "resourceVersion=000&limit=1"] {
        let told = api.get(&format!("{all}?{query}")).await.expect(200);
        assert_eq!(names(&told), names(&whole), "{query}");
    }
    let first = names(&whole)[0].to_owned();
    api.get(&format!("{all}/{first}?resourceVersion=00"))
        .await
        .expect(200);
    let query = "watch=1&resourceVersion=00&allowWatchBookmarks=1";
    let mut watch = api.watch(&format!("{all}?{query}")).await;
    assert_eq!(watch.summary().await, format!("ADDED {first}"));
}
