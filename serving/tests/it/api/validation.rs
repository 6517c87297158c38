//! Defaults, unknown fields, and errors at the client's paths.

use serde_json::{Value, json};
use store::{Key, Operation, Provenance, Revision, Store, StoreConfig, Write, testing};

use super::gadgets::GROUP;
use super::server::{Api, Server, fresh_namespace, gadget, gadgets, old_gadgets};

#[tokio::test]
async fn unset_fields_get_their_defaults_and_zero_is_not_unset() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let bare = api
        .post(&all, &json!({ "metadata": { "name": "bare" } }))
        .await
        .expect(201);
    assert_eq!(bare["spec"], json!({ "color": "blue", "replicas": 1 }));
    let zero = api
        .post(&all, &gadget("zero", json!({ "replicas": 0 })))
        .await
        .expect(201);
    assert_eq!(zero["spec"]["replicas"], 0);
    let unset = api
        .merge(
            &format!("{all}/zero"),
            &json!({ "spec": { "replicas": null } }),
        )
        .await;
    assert_eq!(unset.expect(200)["spec"]["replicas"], 1);
}

/// Stands for an older binary, which knew nothing of the defaults.
struct Older;

impl store::Project for Older {
    type View = ();

    fn project(&self, _: &Key, _: Revision, _: bytes::Bytes) {}

    fn unreadable(&self, _: &Key, _: Revision) {}
}

#[tokio::test]
async fn objects_stored_before_a_default_existed_have_it_when_they_are_read() {
    let url = testing::database().url;
    let older = Store::connect(StoreConfig::new(&url)).await.unwrap();
    let collection = older.register(GROUP, "gadgets", Older).await.unwrap();
    older.start().await.unwrap();
    let uid = uuid::Uuid::new_v4();
    let body = json!({
        "apiVersion": "gadget.example.com/v1", "kind": "Gadget",
        "metadata": { "name": "a", "namespace": "n", "uid": uid.to_string(), "generation": 1 },
        "spec": { "note": "old" },
    });
    let operation = Operation::Create {
        uid,
        body: body.to_string().into(),
    };
    let write = Write {
        key: Key::new("n", "a"),
        operation,
        provenance: Provenance::default(),
    };
    let stored = collection.write(write).await.unwrap();

    let server = Server::start(url, |_| {}).await;
    let api = Api::of(&server.masters).await;
    let all = gadgets("n");
    let read = api.get(&format!("{all}/a")).await.expect(200);
    assert_eq!(
        read["spec"],
        json!({ "note": "old", "replicas": 1, "color": "blue" })
    );
    assert_eq!(read["metadata"]["resourceVersion"], stored.to_string());
    assert_eq!(api.get(&all).await.expect(200)["items"], json!([read]));
    let mut watch = api.watch(&format!("{all}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"], read);
    let selected = api
        .get(&format!("{all}?fieldSelector=spec.color%3Dblue"))
        .await
        .expect(200);
    assert_eq!(selected["items"], json!([read]));
    older.shutdown().await;
}

#[tokio::test]
async fn all_errors_are_told_at_once_at_the_paths_of_the_clients_version() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let fields = |answer: &Value| -> Vec<String> {
        let causes = answer["details"]["causes"].as_array().unwrap();
        causes
            .iter()
            .map(|cause| cause["field"].as_str().unwrap().to_owned())
            .collect()
    };
    let new = json!({ "metadata": { "name": "a" }, "spec": { "replicas": 101, "color": "NO" } });
    let refused = api.post(&gadgets(&namespace), &new).await;
    assert_eq!(refused.verdict(), "422 Invalid");
    let mut told = fields(&refused.json());
    told.sort();
    assert_eq!(told, ["spec.color", "spec.replicas"]);
    assert!(
        refused
            .message()
            .contains("spec.replicas: Invalid value: 101: replicas cannot exceed 100")
    );

    let old = json!({ "metadata": { "name": "a" }, "spec": { "size": 101, "color": "NO" } });
    let refused = api.post(&old_gadgets(&namespace), &old).await;
    let mut told = fields(&refused.json());
    told.sort();
    assert_eq!(told, ["spec.color", "spec.size"]);

    let lens = json!({ "metadata": { "name": "a" }, "spec": { "note": "unconvertible" } });
    let refused = api.post(&old_gadgets(&namespace), &lens).await;
    assert_eq!(
        (refused.verdict().as_str(), fields(&refused.json())),
        ("422 Invalid", vec!["spec.note".to_owned()])
    );

    for (value, verdict) in [
        (json!(-1), "422 Invalid"),
        (json!(2_147_483_648_i64), "400 BadRequest"),
        (json!(1.5), "400 BadRequest"),
        (json!("3"), "400 BadRequest"),
        (json!(1e30), "400 BadRequest"),
    ] {
        let answer = api
            .post(
                &gadgets(&namespace),
                &gadget("a", json!({ "replicas": value })),
            )
            .await;
        assert_eq!(answer.verdict(), verdict, "{value}");
    }
    assert_eq!(
        api.get(&gadgets(&namespace)).await.expect(200)["items"],
        json!([])
    );
}

#[tokio::test]
async fn hooks_see_every_change() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut body = gadget("a", json!({ "note": "quiet", "fixed": "x" }));
    body["metadata"]["annotations"] = json!({ "upper": "" });
    assert_eq!(
        api.post(&all, &body).await.expect(201)["spec"]["note"],
        "QUIET"
    );
    let refused = api
        .merge(&format!("{all}/a"), &json!({ "spec": { "fixed": "y" } }))
        .await;
    assert_eq!(refused.verdict(), "422 Invalid");
    assert!(
        refused
            .message()
            .ends_with("spec.fixed: Invalid value: \"y\": field is immutable")
    );
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_ignored_warned_of_or_refused() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let odd = |name: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}","odd":1}},"spec":{{"note":"1","note":"2","zap":{{}}}}}}"#
        )
    };
    let json = [("content-type", "application/json")];
    let warned = api.send("POST", &all, &json, odd("warned")).await;
    assert_eq!(warned.expect(201)["spec"]["note"], "2");
    let mut warnings: Vec<_> = warned
        .headers
        .get_all("warning")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    warnings.sort_unstable();
    assert_eq!(
        warnings,
        [
            r#"299 - "duplicate field \"spec.note\"""#,
            r#"299 - "unknown field \"metadata.odd\"""#,
            r#"299 - "unknown field \"spec.zap\"""#,
        ]
    );
    let ignored = api
        .send(
            "POST",
            &format!("{all}?fieldValidation=Ignore"),
            &json,
            odd("ignored"),
        )
        .await;
    ignored.expect(201);
    assert_eq!(ignored.header("warning"), "");

    let strict = api
        .send(
            "POST",
            &format!("{all}?fieldValidation=Strict"),
            &json,
            odd("strict"),
        )
        .await;
    assert_eq!(strict.verdict(), "400 BadRequest");
    let message = strict.message();
    assert!(message.starts_with(
        "Gadget in version \"v1\" cannot be handled as a Gadget: strict decoding error: "
    ));
    for problem in [
        "unknown field \"metadata.odd\"",
        "unknown field \"spec.zap\"",
        "duplicate field \"spec.note\"",
    ] {
        assert!(message.contains(problem), "{message}");
    }
    let one = format!("{all}/warned?fieldValidation=Strict");
    let merge = api.merge(&one, &json!({ "spec": { "zap": 1 } })).await;
    assert_eq!(merge.verdict(), "422 Invalid");
    assert!(
        merge.message().contains("unknown field"),
        "{}",
        merge.message()
    );
    let patch = json!([{ "op": "add", "path": "/spec/zap", "value": 1 }]);
    assert_eq!(api.json_patch(&one, &patch).await.verdict(), "422 Invalid");
    let merge = api
        .merge(&format!("{all}/warned"), &json!({ "spec": { "zap": 1 } }))
        .await;
    assert_eq!(merge.expect(200)["spec"].get("zap"), None);
    assert!(merge.header("warning").contains("unknown field"));
}

#[tokio::test]
async fn warnings_take_four_kibibytes_at_most_and_none_stands_twice() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let mut body = gadget("a", json!({}));
    for number in 0..200 {
        body["spec"][format!("unknown-field-with-a-long-name-{number}")] = json!(1);
    }
    let answer = api.post(&all, &body).await;
    answer.expect(201);
    let told: Vec<_> = answer.headers.get_all("warning").iter().collect();
    let total: usize = told.iter().map(|value| value.len()).sum();
    assert!(
        told.len() > 10 && total <= 4096 + 20 * told.len(),
        "{} of {total} bytes",
        told.len()
    );
    let distinct: std::collections::HashSet<_> = told.iter().collect();
    assert_eq!(distinct.len(), told.len());
}

#[tokio::test]
async fn a_deprecated_version_warns_on_every_request() {
    let (api, namespace) = (Api::masters().await, fresh_namespace());
    let text = "299 - \"gadget.example.com/v1alpha1 Gadget is deprecated; use v1\"";
    assert_eq!(
        api.get(&old_gadgets(&namespace)).await.header("warning"),
        text
    );
    assert_eq!(api.get(&gadgets(&namespace)).await.header("warning"), "");
    assert_eq!(
        api.get(&format!("{}/absent", old_gadgets(&namespace)))
            .await
            .header("warning"),
        text
    );
}

#[tokio::test]
async fn an_owner_that_stands_twice_is_kept_once_with_a_warning() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" });
    let mut body = gadget("a", json!({}));
    body["metadata"]["ownerReferences"] = json!([owner, owner]);
    let created = api.post(&all, &body).await;
    assert_eq!(
        created.expect(201)["metadata"]["ownerReferences"],
        json!([owner])
    );
    assert!(created.header("warning").contains("duplicate"));
}

#[tokio::test]
async fn a_warning_may_be_in_any_script() {
    let (api, all) = (Api::masters().await, gadgets(&fresh_namespace()));
    let answer = api
        .post(&all, &gadget("a", json!({ "größe": 1, "大きさ": 2 })))
        .await;
    assert_eq!(answer.code, 201);
    let told: Vec<_> = answer
        .headers
        .get_all("warning")
        .iter()
        .map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
        .collect();
    for field in ["größe", "大きさ"] {
        assert!(told.iter().any(|text| text.contains(field)), "{told:?}");
    }
}
