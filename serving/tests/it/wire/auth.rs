//! Who is believed, over real handshakes; and that nobody is when in doubt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use http_body_util::Full;
use machinery::error::ApiError;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use serving::auth::{
    Attributes, Authenticator, Authorizer, DelegatedAuthorizer, DelegatedOptions, MastersOnly,
    ResourceAttributes, Target as Asked, UserInfo, authorize, impersonate,
};
use serving::namespaces::{ClusterNamespaces, NamespaceLookup, Phase};
use serving::wire::{Connection, RequestHead};
use store::testing::Lag;

use super::certificates::{Authority, Leaf};
use super::client::{PROTOCOLS, Protocol, Target, identity, within};
use super::fake_kube::{FakeKube, Mood};
use super::testbed::Testbed;

struct Cluster {
    fake: FakeKube,
    bed: Testbed,
    authenticator: Arc<Authenticator>,
    proxy_ca: Authority,
    client_ca: Authority,
}

struct Guard {
    authenticator: Arc<Authenticator>,
    authorizer: Arc<dyn Authorizer>,
}

/// Answers who asks, after all that stands before a handler.
async fn whoami(guard: web::Data<Guard>, request: HttpRequest) -> HttpResponse {
    let (head, connection) = {
        let extensions = request.extensions();
        let head = extensions.get::<RequestHead>().unwrap().0.clone();
        (
            head,
            Arc::clone(extensions.get::<Arc<Connection>>().unwrap()),
        )
    };
    let user = async {
        let user = guard
            .authenticator
            .authenticate(&connection, &head.headers)
            .await?;
        let user = impersonate(guard.authorizer.as_ref(), user, &head.headers).await?;
        let path = head.uri.path();
        if path != "/whoami" {
            let attributes = Attributes::path(user.clone(), "get", path);
            authorize(guard.authorizer.as_ref(), &attributes).await?;
        }
        Ok::<_, ApiError>(user)
    };
    match user.await {
        Ok(user) => HttpResponse::Ok().json(json!({
            "name": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
        })),
        Err(error) => HttpResponse::build(error.code().try_into().unwrap()).json(error.status()),
    }
}

async fn serve(authenticator: Arc<Authenticator>, authorizer: Arc<dyn Authorizer>) -> Testbed {
    let guard = web::Data::new(Guard {
        authenticator,
        authorizer,
    });
    let routes = move |config: &mut ServiceConfig| {
        config
            .app_data(guard.clone())
            .default_service(web::to(whoami));
    };
    Testbed::start_with(|_| {}, routes).await
}

/// Waits for a state that the server reaches by itself.
async fn until(mut reached: impl AsyncFnMut() -> bool) {
    within(async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn published<'a>(proxy_ca: &'a str, client_ca: &'a str) -> [(&'static str, &'a str); 6] {
    [
        ("client-ca-file", client_ca),
        ("requestheader-client-ca-file", proxy_ca),
        ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
        (
            "requestheader-extra-headers-prefix",
            r#"["X-Remote-Extra-"]"#,
        ),
    ]
}

impl Cluster {
    async fn start() -> Self {
        let fake = FakeKube::start().await;
        let (proxy_ca, client_ca) = (Authority::new("proxies"), Authority::new("clients"));
        fake.put_authentication(&published(&proxy_ca.pem, &client_ca.pem));
        let options = DelegatedOptions::default();
        let authenticator = Authenticator::delegated(fake.client(), options)
            .await
            .unwrap();
        let authenticator = Arc::new(authenticator);
        until(async || authenticator.is_ready()).await;
        let authorizer = Arc::new(DelegatedAuthorizer::new(fake.client()));
        let bed = serve(Arc::clone(&authenticator), authorizer).await;
        Self {
            fake,
            bed,
            authenticator,
            proxy_ca,
            client_ca,
        }
    }

    fn proxy(&self) -> Leaf {
        self.proxy_ca.client("front-proxy-client", &[])
    }

    fn target(&self, identity: Option<&Leaf>) -> Target {
        identity.map_or_else(
            || self.bed.target.clone(),
            |leaf| self.bed.target.as_client(leaf),
        )
    }
}

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn ask(
    target: &Target,
    protocol: Protocol,
    path: &str,
    headers: Headers<'_>,
) -> (u16, Value) {
    let mut client = target.connect(protocol).await;
    let mut request = client.request("GET", path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, body) = client.fetch(request.body(Full::default()).unwrap()).await;
    (status, serde_json::from_str(&body).unwrap())
}

const AS_ADMIN: Headers<'static> = &[
    ("x-remote-user", "admin"),
    ("x-remote-group", "system:masters"),
];

/// A certificate, headers, and the user's name or the code of the refusal.
type Case<'a> = (&'a str, Option<&'a Leaf>, Headers<'a>, Result<&'a str, u16>);

async fn check(cluster: &Cluster, cases: &[Case<'_>]) {
    for protocol in PROTOCOLS {
        for (case, leaf, headers, expected) in cases {
            let (status, body) = ask(&cluster.target(*leaf), protocol, "/whoami", headers).await;
            let name = body["name"].as_str();
            let seen = if status == 200 {
                Ok(name.unwrap())
            } else {
                Err(status)
            };
            assert_eq!(seen, *expected, "{case}, {protocol:?}: {body}");
        }
    }
}

const ANONYMOUS: Result<&str, u16> = Ok("system:anonymous");
const MASTERS: (&str, &str) = ("x-remote-group", "system:masters");
const GOOD_TOKEN: (&str, &str) = ("authorization", "Bearer good");

#[tokio::test(flavor = "multi_thread")]
async fn the_front_proxy_is_believed_and_nobody_else() {
    let cluster = Cluster::start().await;
    cluster
        .fake
        .add_token("good", json!({ "username": "alice", "groups": ["dev"] }));
    let (proxy, carol) = (cluster.proxy(), cluster.client_ca.client("carol", &["ops"]));
    let with_token = [AS_ADMIN, &[GOOD_TOKEN]].concat();
    let cases: [Case<'_>; 9] = [
        ("proxy", Some(&proxy), AS_ADMIN, Ok("admin")),
        (
            "proxy with another's token",
            Some(&proxy),
            &with_token,
            Ok("admin"),
        ),
        (
            "proxy that names nobody",
            Some(&proxy),
            &[MASTERS],
            Err(401),
        ),
        (
            "proxy with an empty name",
            Some(&proxy),
            &[("x-remote-user", ""), MASTERS],
            Err(401),
        ),
        ("no certificate", None, AS_ADMIN, ANONYMOUS),
        (
            "underscores",
            None,
            &[("x_remote_user", "admin")],
            ANONYMOUS,
        ),
        ("token with forged headers", None, &with_token, Ok("alice")),
        (
            "client with forged headers",
            Some(&carol),
            AS_ADMIN,
            Ok("carol"),
        ),
        (
            "bad token",
            None,
            &[("authorization", "Bearer bad")],
            Err(401),
        ),
    ];
    check(&cluster, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_prove_no_front_proxy_are_refused() {
    let cluster = Cluster::start().await;
    cluster
        .fake
        .add_token("good", json!({ "username": "alice" }));
    let server_auth = cluster
        .proxy_ca
        .client_with("front-proxy-client", &[], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
    let expired = cluster
        .proxy_ca
        .client_with("front-proxy-client", &[], |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        });
    let other_name = cluster.proxy_ca.client("somebody", &[]);
    let rogue = Authority::new("proxies").client("front-proxy-client", &[]);
    let cases: [Case<'_>; 5] = [
        (
            "name that is not allowed",
            Some(&other_name),
            AS_ADMIN,
            Err(401),
        ),
        ("usage of a server", Some(&server_auth), AS_ADMIN, Err(401)),
        ("expired", Some(&expired), AS_ADMIN, Err(401)),
        (
            "rogue CA of the same name",
            Some(&rogue),
            AS_ADMIN,
            Err(401),
        ),
        (
            "rogue CA with a good token",
            Some(&rogue),
            &[GOOD_TOKEN, MASTERS],
            Ok("alice"),
        ),
    ];
    check(&cluster, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_whole_from_each_source() {
    let cluster = Cluster::start().await;
    let user = json!({ "username": "bot", "uid": "7", "groups": ["a"], "extra": { "k": ["v"] } });
    cluster.fake.add_token("good", user);
    let target = cluster.target(None);
    let token = [("authorization", "Bearer good")];
    let (_, bot) = ask(&target, Protocol::Http2, "/whoami", &token).await;
    let authenticated = "system:authenticated";
    let expected = json!({ "name": "bot", "uid": "7", "groups": ["a", authenticated], "extra": { "k": ["v"] } });
    assert_eq!(bot, expected);

    let carol = cluster.client_ca.client("carol", &["ops"]);
    let target = cluster.target(Some(&carol));
    let (_, carol) = ask(&target, Protocol::Http2, "/whoami", &[]).await;
    assert_eq!(carol["groups"], json!(["ops", authenticated]));
    let id = carol["extra"]["authentication.kubernetes.io/credential-id"][0]
        .as_str()
        .unwrap();
    assert!(id.starts_with("X509SHA256="), "{id}");

    let target = cluster.target(Some(&cluster.proxy()));
    let headers = [
        ("x-remote-user", "dave"),
        ("x-remote-group", "b"),
        ("x-remote-extra-Scopes", "one"),
    ];
    let (_, dave) = ask(&target, Protocol::Http2, "/whoami", &headers).await;
    let expected = json!({ "name": "dave", "uid": "", "groups": ["b", authenticated], "extra": { "scopes": ["one"] } });
    assert_eq!(dave, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_certificate_without_its_key_fails_the_handshake() {
    let cluster = Cluster::start().await;
    let (proxy, thief) = (cluster.proxy(), cluster.client_ca.client("thief", &[]));
    for protocol in PROTOCOLS {
        let stolen = Target {
            identity: Some(identity(&proxy, &thief)),
            ..cluster.target(None)
        };
        // With TLS 1.3 the client learns of it after its own side is done.
        let asked = async {
            let mut client = stolen.try_connect(protocol).await?;
            client.get("/whoami").await?;
            anyhow::Ok(())
        };
        assert!(within(asked).await.is_err(), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_ca_counts_at_once_on_open_connections() {
    let cluster = Cluster::start().await;
    let old_proxy = cluster.proxy();
    let mut old = cluster
        .target(Some(&old_proxy))
        .connect(Protocol::Http2)
        .await;
    let mut ask_old = async || {
        let request = old
            .request("GET", "/whoami")
            .header("x-remote-user", "admin");
        old.fetch(request.body(Full::default()).unwrap()).await.0
    };
    assert_eq!(ask_old().await, 200);

    let next = Authority::new("proxies of tomorrow");
    let both = format!("{}{}", cluster.proxy_ca.pem, next.pem);
    let new = next.client("front-proxy-client", &[]);
    cluster
        .fake
        .put_authentication(&published(&both, &cluster.client_ca.pem));
    let target = cluster.target(Some(&new));
    until(async || ask(&target, Protocol::Http2, "/whoami", AS_ADMIN).await.0 == 200).await;
    assert_eq!(ask_old().await, 200);

    cluster
        .fake
        .put_authentication(&published(&next.pem, &cluster.client_ca.pem));
    let fresh = cluster.target(Some(&old_proxy));
    until(async || ask(&fresh, Protocol::Http2, "/whoami", AS_ADMIN).await.0 == 401).await;
    assert_eq!(ask_old().await, 401);
    assert_eq!(
        ask(&target, Protocol::Http2, "/whoami", AS_ADMIN).await.0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_published_authentication_changes_nothing_and_its_loss_does() {
    let fake = FakeKube::start().await;
    let options = DelegatedOptions::default();
    let authenticator = Arc::new(
        Authenticator::delegated(fake.client(), options)
            .await
            .unwrap(),
    );
    let authorizer = Arc::new(DelegatedAuthorizer::new(fake.client()));
    let bed = serve(Arc::clone(&authenticator), authorizer).await;
    let (ca, clients) = (Authority::new("proxies"), Authority::new("clients"));
    let target = bed.target.as_client(&ca.client("front-proxy-client", &[]));
    let name = async |target: &Target| {
        let (status, body) = ask(target, Protocol::Http1, "/whoami", AS_ADMIN).await;
        if status == 200 {
            body["name"].as_str().unwrap().to_owned()
        } else {
            status.to_string()
        }
    };
    // Neither CA is known: the certificate says nothing yet, good or bad.
    assert!(!authenticator.is_ready());
    assert_eq!(name(&target).await, "503");

    fake.put_authentication(&published(&ca.pem, ""));
    until(async || authenticator.is_ready()).await;
    assert_eq!(name(&target).await, "admin");
    let (status, _) = ask(&target, Protocol::Http1, "/whoami", &[MASTERS]).await;
    assert_eq!(status, 401, "the proxy names nobody");

    fake.put_authentication(&published("garbage", &clients.pem));
    let carol = bed.target.as_client(&clients.client("carol", &[]));
    until(async || name(&carol).await == "carol").await;
    assert_eq!(name(&target).await, "admin");

    fake.delete_authentication();
    until(async || !authenticator.is_ready()).await;
    assert_eq!(name(&target).await, "503");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_about_tokens_and_permissions_are_remembered() {
    let cluster = Cluster::start().await;
    cluster
        .fake
        .add_token("good", json!({ "username": "alice" }));
    cluster
        .fake
        .judge(|spec| json!({ "allowed": spec["user"] == "alice" }));
    let target = cluster.target(None);
    for (token, status) in [("good", 200), ("bad", 401), ("good", 200), ("bad", 401)] {
        let header = format!("Bearer {token}");
        let headers = [("authorization", header.as_str())];
        assert_eq!(
            ask(&target, Protocol::Http2, "/metrics", &headers).await.0,
            status
        );
    }
    assert_eq!(cluster.fake.token_reviews(), 2);
    assert_eq!(cluster.fake.access_reviews().len(), 1);
    let (status, body) = ask(&target, Protocol::Http2, "/metrics", &[]).await;
    assert_eq!(status, 403);
    let message = r#"forbidden: User "system:anonymous" cannot get path "/metrics""#;
    assert_eq!(body["message"], message);
}

fn asking(user: UserInfo, name: &str) -> Attributes {
    let target = ResourceAttributes {
        group: "example.com".into(),
        version: "v1".into(),
        resource: "things".into(),
        namespace: "default".into(),
        name: name.into(),
        ..ResourceAttributes::default()
    };
    Attributes {
        user,
        verb: "get".into(),
        target: Asked::Resource(Box::new(target)),
    }
}

fn user(groups: &[&str]) -> UserInfo {
    let groups = groups.iter().map(ToString::to_string).collect();
    UserInfo {
        name: "alice".into(),
        groups,
        ..UserInfo::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_different_users_share_a_decision() {
    let fake = FakeKube::start().await;
    fake.judge(|_| json!({ "allowed": true }));
    let authorizer = DelegatedAuthorizer::new(fake.client());
    let with_uid = UserInfo {
        uid: "1".into(),
        ..user(&["a", "b"])
    };
    let extra = [("k".to_owned(), vec!["v".to_owned()])].into();
    let with_extra = UserInfo {
        extra,
        ..user(&["a", "b"])
    };
    let users = [
        user(&["a", "b"]),
        user(&["b", "a"]),
        user(&["ab"]),
        with_uid,
        with_extra,
    ];
    for repeated in 0..2 {
        for user in &users {
            authorize(&authorizer, &asking(user.clone(), "x"))
                .await
                .unwrap();
        }
        assert_eq!(fake.access_reviews().len(), users.len(), "round {repeated}");
    }
    authorize(&authorizer, &asking(user(&["a", "b"]), "y"))
        .await
        .unwrap();
    assert_eq!(fake.access_reviews().len(), users.len() + 1);
    let review = fake.access_reviews().pop().unwrap();
    let expected = json!({ "verb": "get", "group": "example.com", "version": "v1",
        "resource": "things", "namespace": "default", "name": "y" });
    assert_eq!(review["resourceAttributes"], expected);
    assert_eq!(review["groups"], json!(["a", "b"]));

    let giant = asking(user(&["g".repeat(10_001).as_str()]), "x");
    for _ in 0..2 {
        authorize(&authorizer, &giant).await.unwrap();
    }
    assert_eq!(fake.access_reviews().len(), users.len() + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_question_at_the_same_time_is_asked_once() {
    let fake = FakeKube::start().await;
    fake.judge(|_| json!({ "allowed": true }));
    let authorizer = DelegatedAuthorizer::new(fake.client());
    let question = asking(user(&[]), "x");
    let answers = (0..100).map(|_| authorize(&authorizer, &question));
    assert!(
        futures::future::join_all(answers)
            .await
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(fake.access_reviews().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_doubt_nobody_is_let_in() {
    let fake = FakeKube::start().await;
    let question = asking(user(&[]), "x");
    let code = async |mood: Mood| {
        fake.set_mood(mood);
        let authorizer = DelegatedAuthorizer::new(fake.client());
        let masters = asking(user(&["system:masters"]), "x");
        authorize(&authorizer, &masters).await.unwrap();
        authorize(&authorizer, &question)
            .await
            .map_or_else(|error| error.code(), |()| 200)
    };
    fake.judge(|_| json!({ "allowed": true, "denied": true }));
    assert_eq!(code(Mood::Helpful).await, 403);
    fake.judge(|_| json!({ "allowed": true }));
    assert_eq!(code(Mood::Helpful).await, 200);
    assert_eq!(code(Mood::Down).await, 500);
    assert_eq!(code(Mood::Redirecting).await, 500);
    let lag = Lag::watch();
    let asked = Instant::now();
    assert_eq!(code(Mood::Silent).await, 500);
    assert!(
        asked.elapsed() < Duration::from_secs(6) + lag.take(),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_reviewed_is_refused_in_time() {
    let cluster = Cluster::start().await;
    cluster
        .fake
        .add_token("good", json!({ "username": "alice" }));
    let target = cluster.target(None);
    let token = [("authorization", "Bearer good")];
    for mood in [Mood::Down, Mood::Redirecting, Mood::Silent] {
        cluster.fake.set_mood(mood);
        let lag = Lag::watch();
        let asked = Instant::now();
        assert_eq!(
            ask(&target, Protocol::Http2, "/whoami", &token).await.0,
            401,
            "{mood:?}"
        );
        assert!(
            asked.elapsed() < Duration::from_secs(6) + lag.take(),
            "{:?}",
            asked.elapsed()
        );
        let (status, _) = ask(&target, Protocol::Http2, "/healthz", &[]).await;
        assert_eq!(status, 200, "{mood:?}");
    }
    // A failure is not remembered.
    cluster.fake.set_mood(Mood::Helpful);
    assert_eq!(
        ask(&target, Protocol::Http2, "/whoami", &token).await.0,
        200
    );
    assert!(cluster.authenticator.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn impersonation_is_decided_and_never_ignored() {
    let cluster = Cluster::start().await;
    cluster.fake.judge(|spec| {
        let robot = spec["user"] == "robot" && spec["resourceAttributes"]["verb"] == "impersonate";
        json!({ "allowed": robot && spec["resourceAttributes"]["name"] == "bob" })
    });
    let (robot, eve) = (
        cluster.client_ca.client("robot", &[]),
        cluster.client_ca.client("eve", &[]),
    );
    let as_bob = [("impersonate-user", "bob")];
    for (leaf, headers, expected) in [
        (&robot, &as_bob[..], 200),
        (&eve, &as_bob[..], 403),
        (
            &robot,
            &[as_bob[0], ("impersonate-group", "system:masters")][..],
            403,
        ),
        (&robot, &[("impersonate-group", "dev")][..], 400),
    ] {
        let target = cluster.target(Some(leaf));
        let (status, body) = ask(&target, Protocol::Http1, "/whoami", headers).await;
        assert_eq!(status, expected, "{body}");
        if status == 200 {
            assert_eq!(body["name"], "bob");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_knows_its_masters_and_nobody_else() {
    let ca = Authority::new("standalone");
    let authenticator = Arc::new(Authenticator::standalone(ca.pem.as_bytes()).unwrap());
    assert!(authenticator.is_ready());
    let bed = serve(authenticator, Arc::new(MastersOnly)).await;
    let (admin, guest) = (
        ca.client("admin", &["system:masters"]),
        ca.client("guest", &[]),
    );
    let stranger = Authority::new("standalone").client("admin", &["system:masters"]);
    let token: Headers<'_> = &[("authorization", "Bearer good")];
    for (leaf, headers, expected) in [
        (Some(&admin), &[][..], 200),
        (Some(&guest), &[][..], 403),
        (Some(&stranger), &[][..], 401),
        (None, &[][..], 401),
        (None, AS_ADMIN, 401),
        (None, token, 401),
    ] {
        let target = leaf.map_or_else(|| bed.target.clone(), |leaf| bed.target.as_client(leaf));
        for protocol in PROTOCOLS {
            let (status, body) = ask(&target, protocol, "/metrics", headers).await;
            assert_eq!(status, expected, "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_watched_and_asked_for_when_unseen() {
    let fake = FakeKube::start().await;
    fake.put_namespace("here", "Active");
    fake.put_namespace("going", "Terminating");
    let namespaces = ClusterNamespaces::watch(fake.client());
    let phase = async |name: &str| namespaces.phase(name).await.unwrap();
    for _ in 0..2 {
        assert_eq!(phase("here").await, Phase::Active);
        assert_eq!(phase("going").await, Phase::Terminating);
        assert_eq!(phase("nowhere").await, Phase::Absent);
    }
    fake.put_namespace_silently("new", "Active");
    assert_eq!(phase("new").await, Phase::Active);

    fake.put_namespace("here", "Terminating");
    until(async || phase("here").await == Phase::Terminating).await;
    fake.delete_namespace("here");
    until(async || phase("here").await == Phase::Absent).await;

    // What the watch knows needs no kube-apiserver; the rest cannot be known.
    until(async || {
        let before = fake.object_reads();
        phase("going").await == Phase::Terminating && fake.object_reads() == before
    })
    .await;
    // What cannot be a name is not made part of a path.
    let before = fake.object_reads();
    for odd in [
        "",
        ".",
        "..",
        "../namespaces/here",
        "here/status",
        "here?x=y",
        "a%2fb",
        "A",
    ] {
        assert_eq!(phase(odd).await, Phase::Absent, "{odd}");
    }
    assert_eq!(fake.object_reads(), before);
    fake.set_mood(Mood::Down);
    assert_eq!(phase("going").await, Phase::Terminating);
    assert_eq!(namespaces.phase("nowhere").await.unwrap_err().code(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_known_yet_is_told_to_come_back() {
    let fake = FakeKube::start().await;
    let (proxy_ca, client_ca) = (Authority::new("proxies"), Authority::new("clients"));
    let options = DelegatedOptions::default();
    let authenticator = Authenticator::delegated(fake.client(), options);
    let authenticator = Arc::new(authenticator.await.unwrap());
    let authorizer = Arc::new(DelegatedAuthorizer::new(fake.client()));
    let bed = serve(Arc::clone(&authenticator), authorizer).await;
    let proxy = bed
        .target
        .as_client(&proxy_ca.client("front-proxy-client", &[]));
    for protocol in PROTOCOLS {
        let (status, body) = ask(&proxy, protocol, "/whoami", AS_ADMIN).await;
        assert_eq!(
            (status, &body["reason"]),
            (503, &json!("ServiceUnavailable"))
        );
        assert_eq!(body["details"]["retryAfterSeconds"], 1);
        // Whoever shows no certificate is not the front proxy.
        let (status, body) = ask(&bed.target, protocol, "/whoami", AS_ADMIN).await;
        assert_eq!((status, &body["name"]), (200, &json!("system:anonymous")));
    }
    fake.put_authentication(&published(&proxy_ca.pem, &client_ca.pem));
    until(async || authenticator.is_ready()).await;
    let (status, body) = ask(&proxy, Protocol::Http2, "/whoami", AS_ADMIN).await;
    assert_eq!((status, &body["name"]), (200, &json!("admin")));
}
