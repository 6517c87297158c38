//! The laws of the v1alpha1 lens over generated objects.
//!
//! `LENS_CASES` sets how many cases each law gets; acceptance runs 100,000. Objects are valid and
//! normalised, as the laws demand: an empty tag is written as no tag, an object has a spec, and an
//! old client that is shown a status does not leave it out.

use proptest::collection::vec;
use proptest::option::{self, weighted};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use widget_conversion::oci::Reference;
use widget_conversion::{Object, v1alpha1};

fn config() -> ProptestConfig {
    let cases = std::env::var("LENS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(2_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Text with what breaks naive code: nothing at all, quotes, NUL, several planes of Unicode.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(vec!["", "blue", "pending", "\u{0}", "\"\\", "é", "e\u{301}", "日本", "🦀", "\u{10ffff}"])
            .prop_map(str::to_owned),
        1 => vec(any::<char>(), 0..6).prop_map(|letters| letters.into_iter().collect()),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![
            json!(0),
            json!(1),
            json!(-1),
            json!(100),
            json!(i32::MAX),
            json!(i64::MIN),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(9_007_199_254_740_993_i64),
            json!(1e300),
            json!(-0.0),
            json!(5e-324),
        ]),
        any::<i64>().prop_map(Value::from),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => number(),
        2 => text().prop_map(Value::from),
        1 => select(vec![Value::Null, json!(false), json!([]), json!({}), json!([null]), json!("")]),
    ]
}

/// Members that no version of this binary knows, as a newer one would store them.
fn unknown_members() -> impl Strategy<Value = Object> {
    vec((text().prop_map(|name| format!("x{name}")), scalar()), 0..3)
        .prop_map(|members| members.into_iter().collect())
}

fn metadata() -> impl Strategy<Value = Value> {
    (
        text(),
        option::of(unknown_members()),
        option::of(select(vec!["custom.example.com/v1", "x/v9"])),
    )
        .prop_map(|(name, labels, writer)| {
            let mut metadata = Map::new();
            metadata.insert("name".to_owned(), Value::from(name));
            if let Some(labels) = labels {
                metadata.insert("annotations".to_owned(), Value::Object(labels.clone()));
                metadata.insert("labels".to_owned(), Value::Object(labels));
                metadata.insert("finalizers".to_owned(), json!([]));
            }
            if let Some(writer) = writer {
                metadata.insert("managedFields".to_owned(), json!([{"apiVersion": writer}]));
                metadata.insert("ownerReferences".to_owned(), json!([{"kind": "Widget"}]));
            }
            Value::Object(metadata)
        })
}

fn repository() -> impl Strategy<Value = String> {
    let host = select(vec![
        "",
        "",
        "localhost/",
        "localhost:5000/",
        "R.example:1/",
        "[::1]:65535/",
    ]);
    let path = select(vec![
        "a",
        "nginx",
        "0",
        "team/app",
        "a__b/c--d.e",
        "library/nginx",
    ]);
    (host, path, 0..50_usize)
        .prop_map(|(host, path, pad)| format!("{host}{path}{}", "z".repeat(pad)))
}

fn tag() -> impl Strategy<Value = String> {
    (
        select(vec!["5000", "_", "v1.2.3-rc.1", "latest", "A"]),
        0..100_usize,
    )
        .prop_map(|(tag, pad)| format!("{tag}{}", "-".repeat(pad)))
}

fn digest() -> impl Strategy<Value = String> {
    any::<u128>().prop_flat_map(|bits| {
        select(vec![
            format!("sha256:{bits:032x}{bits:032x}"),
            format!("sha512:{bits:0128x}"),
            format!("multihash+b58:{bits:032X}"),
        ])
    })
}

/// Repository, tag and digest of a valid image; each of the last two with or without the other.
fn image_parts() -> impl Strategy<Value = (String, Option<String>, Option<String>)> {
    (repository(), option::of(tag()), option::of(digest()))
}

fn image() -> impl Strategy<Value = String> {
    image_parts().prop_map(|(repository, tag, digest)| {
        let tag = tag.map_or_else(String::new, |tag| format!(":{tag}"));
        let digest = digest.map_or_else(String::new, |digest| format!("@{digest}"));
        format!("{repository}{tag}{digest}")
    })
}

type Members = Vec<(&'static str, Option<Value>)>;

fn object(members: Members, unknown: Object) -> Object {
    let known = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    unknown.into_iter().chain(known).collect()
}

fn whole(
    api_version: &str,
    metadata: Value,
    spec: Object,
    status: Option<Object>,
    unknown: Object,
) -> Object {
    object(
        vec![
            ("apiVersion", Some(Value::from(api_version))),
            ("kind", Some(json!("Widget"))),
            ("metadata", Some(metadata)),
            ("spec", Some(Value::Object(spec))),
            ("status", status.map(Value::Object)),
        ],
        unknown,
    )
}

fn resources() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"limits": {"cpu": "1"}, "requests": {}}),
        json!({"claims": [], "limits": null}),
    ])
}

/// What is stored: the full hub shape, with members of a newer binary.
fn hub() -> impl Strategy<Value = Object> {
    let spec = (
        weighted(0.8, scalar()),
        weighted(0.9, image()),
        weighted(0.8, scalar()),
        option::of(resources()),
        unknown_members(),
    )
        .prop_map(|(replicas, image, color, resources, unknown)| {
            let image = image.map(Value::from);
            object(
                vec![
                    ("replicas", replicas),
                    ("image", image),
                    ("color", color),
                    ("resources", resources),
                ],
                unknown,
            )
        });
    let phase = select(vec!["Pending", "Running", "Failed", "Paused"]);
    let status = (
        option::of(number()),
        option::of(number()),
        option::of(phase),
        option::of(scalar()),
        option::of(select(vec![json!([]), json!([{"type": "Available"}])])),
        unknown_members(),
    )
        .prop_map(|(replicas, available, phase, time, conditions, unknown)| {
            object(
                vec![
                    ("replicas", replicas.clone()),
                    ("observedGeneration", replicas),
                    ("availableReplicas", available),
                    ("phase", phase.map(Value::from)),
                    ("lastUpdated", time),
                    ("conditions", conditions),
                ],
                unknown,
            )
        });
    (metadata(), spec, option::of(status), unknown_members()).prop_map(
        |(metadata, spec, status, unknown)| {
            whole("custom.example.com/v1", metadata, spec, status, unknown)
        },
    )
}

/// What a client of v1alpha1 may write.
fn version() -> impl Strategy<Value = Object> {
    let spec = (
        weighted(0.8, scalar()),
        image_parts(),
        weighted(0.8, scalar()),
    )
        .prop_map(|(size, (repository, tag, digest), color)| {
            object(
                vec![
                    ("size", size),
                    ("repository", Some(Value::from(repository))),
                    ("tag", tag.map(Value::from)),
                    ("digest", digest.map(Value::from)),
                    ("color", color),
                ],
                Object::new(),
            )
        });
    let state = select(vec!["pending", "running", "failed"]);
    let status = (
        option::of(number()),
        option::of(state),
        option::of(scalar()),
    )
        .prop_map(|(ready, state, time)| {
            object(
                vec![
                    ("ready", ready),
                    ("state", state.map(Value::from)),
                    ("updatedAt", time),
                ],
                Object::new(),
            )
        });
    (metadata(), spec, option::of(status)).prop_map(|(metadata, spec, status)| {
        whole(
            "custom.example.com/v1alpha1",
            metadata,
            spec,
            status,
            Object::new(),
        )
    })
}

/// Text that is often nearly a reference.
fn near_reference() -> impl Strategy<Value = String> {
    let parts = select(vec![
        "a",
        "nginx",
        "0",
        ".",
        "-",
        "_",
        "__",
        ":",
        "@",
        "/",
        "[",
        "]",
        "::1",
        "localhost",
        "A",
        "5000",
        "sha256:",
        "é",
        " ",
        "0123456789abcdef0123456789abcdef",
    ]);
    vec(parts, 0..9).prop_map(|parts| parts.concat())
}

/// A client that is shown a status does not leave it out.
fn with_status_as_shown(mut version: Object, hub: &Object) -> Object {
    if hub.contains_key("status") && !version.contains_key("status") {
        version.insert("status".to_owned(), json!({}));
    }
    version
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn get_put_changes_nothing(hub in hub()) {
        prop_assert_eq!(v1alpha1::put(&v1alpha1::get(&hub), &hub), Ok(hub));
    }

    #[test]
    fn put_get_reads_what_was_written(version in version(), hub in hub()) {
        let version = with_status_as_shown(version, &hub);
        let put = v1alpha1::put(&version, &hub).unwrap();
        prop_assert_eq!(v1alpha1::get(&put), version);
    }

    #[test]
    fn put_put_keeps_only_the_last(first in version(), second in version(), hub in hub()) {
        let once = v1alpha1::put(&second, &hub).unwrap();
        let twice = v1alpha1::put(&second, &v1alpha1::put(&first, &hub).unwrap()).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn create_get_reads_what_was_written(version in version()) {
        prop_assert_eq!(v1alpha1::get(&v1alpha1::create(&version).unwrap()), version);
    }

    #[test]
    fn metadata_is_untouched(version in version(), hub in hub()) {
        let shown = v1alpha1::get(&hub);
        prop_assert_eq!(shown.get("metadata"), hub.get("metadata"));
        let put = v1alpha1::put(&version, &hub).unwrap();
        prop_assert_eq!(put.get("metadata"), version.get("metadata"));
        let created = v1alpha1::create(&version).unwrap();
        prop_assert_eq!(created.get("metadata"), version.get("metadata"));
    }

    #[test]
    fn put_keeps_whatever_v1alpha1_cannot_say(version in version(), hub in hub()) {
        const SHOWN: [&str; 6] =
            ["replicas", "image", "color", "availableReplicas", "phase", "lastUpdated"];
        let put = v1alpha1::put(&version, &hub).unwrap();
        for (part, is_shown) in [("spec", &SHOWN[..3]), ("status", &SHOWN[3..])] {
            let members = hub.get(part).and_then(Value::as_object).into_iter().flatten();
            for (name, value) in members.filter(|(name, _)| !is_shown.contains(&name.as_str())) {
                prop_assert_eq!(&put[part][name], value);
            }
        }
        let is_envelope = |name: &str| {
            ["apiVersion", "kind", "metadata", "spec", "status"].contains(&name)
        };
        for (name, value) in hub.iter().filter(|(name, _)| !is_envelope(name)) {
            prop_assert_eq!(&put[name], value);
        }
    }

    #[test]
    fn get_shows_and_put_restores_any_value_in_any_place(
        mut hub in hub(),
        (spec_name, spec_value) in (select(vec!["replicas", "image", "color"]), scalar()),
        (status_name, status_value) in (select(vec!["phase", "availableReplicas"]), scalar()),
        whole in option::of((select(vec!["spec", "status"]), scalar())),
    ) {
        hub["spec"][spec_name] = spec_value;
        if let Some(status) = hub.get_mut("status") {
            status[status_name] = status_value;
        }
        if let Some((part, value)) = whole {
            hub.insert(part.to_owned(), value);
        }
        prop_assert_eq!(v1alpha1::put(&v1alpha1::get(&hub), &hub), Ok(hub));
    }

    #[test]
    fn put_of_any_values_is_a_hub_or_names_its_fields(
        mut version in version(),
        hub in hub(),
        spec_values in vec((select(vec!["repository", "tag", "digest", "size"]), scalar()), 0..3),
        state in scalar(),
    ) {
        for (name, value) in spec_values {
            version["spec"][name] = value;
        }
        if let Some(status) = version.get_mut("status") {
            status["state"] = state;
        }
        match v1alpha1::put(&version, &hub) {
            Ok(put) => prop_assert_eq!(put.get("metadata"), version.get("metadata")),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    let text = error.to_string();
                    prop_assert!(text.starts_with("spec.") || text.starts_with("status."), "{}", text);
                }
            }
        }
    }

    #[test]
    fn a_reference_has_one_reading(text in near_reference()) {
        if let Some(reference) = Reference::parse(&text) {
            prop_assert_eq!(&reference.join(), &text);
            let repository = Reference::parse(reference.repository).unwrap();
            prop_assert_eq!((repository.tag, repository.digest), (None, None));
        }
    }
}
