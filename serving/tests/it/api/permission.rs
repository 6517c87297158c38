//! What was authorised is what is done.

use serde_json::json;

use super::server::{Api, Server, gadget, gadgets};

#[tokio::test]
async fn each_verb_and_subresource_needs_its_own_right() {
    let (masters, alice) = (Api::masters().await, Api::of(&Server::shared().alice).await);
    let all = gadgets("alice");
    for name in ["a", "only"] {
        let created = masters.post(&all, &gadget(name, json!({}))).await;
        assert!(matches!(created.code, 201 | 409));
    }
    let one = format!("{all}/a");
    for (method, path, code) in [
        ("GET", one.clone(), 200),
        ("GET", format!("{all}/absent"), 404),
        ("GET", format!("{one}/status"), 200),
        ("GET", format!("{one}/scale"), 403),
        ("PATCH", format!("{one}/scale"), 403),
        ("PUT", format!("{one}/status"), 403),
        ("PATCH", one.clone(), 403),
        ("PUT", one.clone(), 403),
        ("DELETE", one.clone(), 403),
        ("DELETE", all.clone(), 403),
        ("GET", all.clone(), 403),
        ("GET", format!("{all}?watch=zzz"), 403),
        ("GET", format!("{all}?watch=0&watch=1"), 403),
        ("GET", format!("{one}?watch=1"), 200),
        (
            "GET",
            "/apis/gadget.example.com/v1/watch/namespaces/alice/gadgets".into(),
            403,
        ),
        (
            "GET",
            format!("{all}?fieldSelector=metadata.name%3Donly"),
            200,
        ),
        (
            "GET",
            format!("{all}?fieldSelector=metadata.name%3Donly,spec.color!%3Dred"),
            200,
        ),
        (
            "GET",
            format!("{all}?fieldSelector=metadata.name%21%3Donly"),
            403,
        ),
        ("GET", format!("{all}?fieldSelector=metadata.name%3Da"), 403),
        ("GET", gadgets("other"), 403),
        ("GET", format!("{}/x", gadgets("alice%2F..%2Fother")), 403),
        (
            "GET",
            format!(
                "{}/../other/gadgets/x",
                "/apis/gadget.example.com/v1/namespaces/alice"
            ),
            403,
        ),
        ("GET", "/apis/gadget.example.com/v1/gadgets".into(), 403),
        ("GET", "/apis/nothing.example.com/v1/things".into(), 403),
        ("TRACE", one.clone(), 403),
    ] {
        let answer = alice.send(method, &path, &[], "").await;
        assert_eq!(answer.code, code, "{method} {path}");
    }
    let listed = alice
        .get(&format!("{all}?fieldSelector=metadata.name%3Donly"))
        .await
        .expect(200);
    assert_eq!(super::lists::names(&listed), ["only"]);
}

#[tokio::test]
async fn refusals_say_nothing_about_what_exists() {
    let (masters, alice) = (Api::masters().await, Api::of(&Server::shared().alice).await);
    let all = gadgets("secret");
    let created = masters.post(&all, &gadget("there", json!({}))).await;
    assert!(matches!(created.code, 201 | 409));
    let refusal = |name: &'static str| {
        let (alice, all) = (&alice, &all);
        async move {
            alice
                .get(&format!("{all}/{name}"))
                .await
                .message()
                .replace(name, "NAME")
        }
    };
    assert_eq!(refusal("there").await, refusal("absent").await);
    assert_eq!(
        refusal("there").await,
        "gadgets.gadget.example.com \"NAME\" is forbidden: User \"alice\" cannot get resource \
         \"gadgets\" in API group \"gadget.example.com\" in the namespace \"secret\""
    );
}

#[tokio::test]
async fn impersonation_is_asked_for_and_then_followed() {
    let alice = Api::of(&Server::shared().alice).await;
    let path = gadgets("alice");
    for (headers, verdict) in [
        ([("impersonate-user", "carol")], "403 Forbidden"),
        ([("impersonate-user", "admin")], "403 Forbidden"),
        ([("impersonate-group", "system:masters")], "400 BadRequest"),
    ] {
        let answer = alice.send("GET", &format!("{path}/x"), &headers, "").await;
        assert_eq!(answer.verdict(), verdict, "{headers:?}");
    }
    let carol = alice
        .send(
            "GET",
            &format!("{path}/x"),
            &[("impersonate-user", "carol")],
            "",
        )
        .await;
    assert!(
        carol.message().contains("User \"carol\""),
        "{}",
        carol.message()
    );
    let masters = Api::masters().await;
    let as_alice = masters
        .send(
            "GET",
            &gadgets("other"),
            &[("impersonate-user", "alice")],
            "",
        )
        .await;
    assert_eq!(as_alice.verdict(), "403 Forbidden");
}

#[tokio::test]
async fn without_credentials_standalone_says_who_are_you() {
    let target = &Server::shared().masters;
    let bare = crate::wire::client::Target {
        identity: None,
        ..target.clone()
    };
    let api = Api::of(&bare).await;
    assert_eq!(
        api.get(&gadgets("default")).await.verdict(),
        "401 Unauthorized"
    );
}
