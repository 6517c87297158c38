//! The lens of v1alpha1.
//!
//! Fields that are the same value under another name are rows of a table. The two that are not are
//! the image, which this version splits in three, and the phase, which it spells in lower case.
//!
//! A status cannot be absent in v1alpha1 while v1 has something in it that v1alpha1 cannot say; in
//! that case an absent status is read as an empty one.

use serde_json::Value;
use widget_types::{v1, v1alpha1};

use crate::oci::{self, Reference};
use crate::{LensError, Object};

const REPOSITORY: &str = "spec.repository";
const TAG: &str = "spec.tag";
const DIGEST: &str = "spec.digest";
const STATE: &str = "status.state";

/// Where this version shows a field of the hub; paths that are not listed are the same in both.
const PATHS: [(&str, &str); 5] = [
    ("spec.replicas", "spec.size"),
    ("spec.image", REPOSITORY),
    ("status.availableReplicas", "status.ready"),
    ("status.phase", STATE),
    ("status.lastUpdated", "status.updatedAt"),
];

const PHASES: [(v1::Phase, v1alpha1::State); 3] = [
    (v1::Phase::Pending, v1alpha1::State::Pending),
    (v1::Phase::Running, v1alpha1::State::Running),
    (v1::Phase::Failed, v1alpha1::State::Failed),
];

/// A member of the hub, if it is present, or why there is none for what the client wrote.
type Converted = Result<Option<Value>, Vec<LensError>>;

/// How one of `spec` and `status` is converted.
struct Part {
    name: &'static str,
    /// Members that hold the same value in both versions: the hub's name, this version's name.
    renamed: &'static [(&'static str, &'static str)],
    /// The hub's member that does not.
    special: &'static str,
    get_special: fn(&Value, &mut Object),
    /// Makes the special member of a version's part, given the old one.
    put_special: fn(&Object, Option<&Value>) -> Converted,
}

const PARTS: [Part; 2] = [
    Part {
        name: "spec",
        renamed: &[("replicas", "size"), ("color", "color")],
        special: "image",
        get_special: get_image,
        put_special: put_image,
    },
    Part {
        name: "status",
        renamed: &[("availableReplicas", "ready"), ("lastUpdated", "updatedAt")],
        special: "phase",
        get_special: get_state,
        put_special: put_phase,
    },
];

/// The object as v1alpha1 shows it, whatever is stored: a value that v1alpha1 has no form for is
/// shown as it is.
#[must_use]
pub fn get(hub: &Object) -> Object {
    let mut version = Object::new();
    copy_envelope(hub, &mut version, v1alpha1::API_VERSION);
    for part in &PARTS {
        if let Some(value) = hub.get(part.name) {
            let shown = match value {
                Value::Object(members) => Value::Object(part.get(members)),
                other => other.clone(),
            };
            version.insert(part.name.to_owned(), shown);
        }
    }
    version
}

/// A new hub object from what a client wrote in v1alpha1.
///
/// # Errors
/// As [`put`].
pub fn create(version: &Object) -> Result<Object, Vec<LensError>> {
    put(version, &Object::new())
}

/// `old_hub` with everything that v1alpha1 can say replaced by what the client wrote.
///
/// # Errors
/// Every field that the hub has no form for: a repository that holds a tag or a digest, a part of
/// an image that is malformed, a state that is none. A value that the client left as it was shown
/// is never an error.
pub fn put(version: &Object, old_hub: &Object) -> Result<Object, Vec<LensError>> {
    let mut hub = old_hub.clone();
    copy_envelope(version, &mut hub, v1::API_VERSION);
    let mut errors = Vec::new();
    for part in &PARTS {
        match part.put(version.get(part.name), old_hub.get(part.name)) {
            Ok(value) => set(&mut hub, part.name, value),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        Ok(hub)
    } else {
        Err(errors)
    }
}

/// The path at which v1alpha1 shows the hub's field at `hub_path`.
#[must_use]
pub fn field_path(hub_path: &str) -> String {
    for (hub, version) in PATHS {
        match hub_path.strip_prefix(hub) {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => {
                return format!("{version}{rest}");
            }
            _ => {}
        }
    }
    hub_path.to_owned()
}

/// Kind and metadata pass through untouched.
fn copy_envelope(from: &Object, to: &mut Object, api_version: &str) {
    to.insert("apiVersion".to_owned(), Value::from(api_version));
    for name in ["kind", "metadata"] {
        set(to, name, from.get(name).cloned());
    }
}

fn set(object: &mut Object, name: &str, value: Option<Value>) {
    match value {
        Some(value) => object.insert(name.to_owned(), value),
        None => object.remove(name),
    };
}

impl Part {
    fn get(&self, hub: &Object) -> Object {
        let mut version = Object::new();
        for (hub_name, version_name) in self.renamed {
            if let Some(value) = hub.get(*hub_name) {
                version.insert((*version_name).to_owned(), value.clone());
            }
        }
        if let Some(value) = hub.get(self.special) {
            (self.get_special)(value, &mut version);
        }
        version
    }

    fn put(&self, version: Option<&Value>, old_hub: Option<&Value>) -> Converted {
        let old = old_hub.and_then(Value::as_object);
        let Some(Value::Object(version)) = version else {
            let rest = old
                .map(|old| self.beyond_version(old))
                .filter(|rest| !rest.is_empty());
            return Ok(rest.map(Value::Object).or_else(|| version.cloned()));
        };
        let mut hub = old.cloned().unwrap_or_default();
        for (hub_name, version_name) in self.renamed {
            set(&mut hub, hub_name, version.get(*version_name).cloned());
        }
        let special = (self.put_special)(version, hub.get(self.special))?;
        set(&mut hub, self.special, special);
        Ok(Some(Value::Object(hub)))
    }

    /// What the hub holds that this version cannot say.
    fn beyond_version(&self, hub: &Object) -> Object {
        let is_shown = |name: &str| {
            name == self.special || self.renamed.iter().any(|(hub_name, _)| *hub_name == name)
        };
        let rest = hub.iter().filter(|(name, _)| !is_shown(name));
        rest.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

fn get_image(image: &Value, spec: &mut Object) {
    let Some(reference) = image.as_str().and_then(Reference::parse) else {
        spec.insert("repository".to_owned(), image.clone());
        return;
    };
    spec.insert("repository".to_owned(), Value::from(reference.repository));
    for (name, part) in [("tag", reference.tag), ("digest", reference.digest)] {
        if let Some(part) = part {
            spec.insert(name.to_owned(), Value::from(part));
        }
    }
}

fn put_image(spec: &Object, old_image: Option<&Value>) -> Converted {
    let mut shown = Object::new();
    if let Some(image) = old_image {
        get_image(image, &mut shown);
    }
    let written = ["repository", "tag", "digest"].map(|name| non_empty(spec, name));
    if written == ["repository", "tag", "digest"].map(|name| shown.get(name)) {
        return Ok(old_image.cloned());
    }
    let [repository, tag, digest] = written;
    if matches!(repository, None | Some(Value::Null)) || repository == Some(&Value::from("")) {
        return match tag.or(digest) {
            None => Ok(repository.cloned()),
            Some(_) => Err(vec![LensError::Required {
                path: REPOSITORY,
                detail: "a tag or a digest needs a repository",
            }]),
        };
    }
    join_image(repository, tag, digest).map(Some)
}

/// A member that is neither absent nor null; `tag` and `digest` are absent also when empty.
fn non_empty<'a>(spec: &'a Object, name: &str) -> Option<&'a Value> {
    let is_optional = name != "repository";
    let is_unset = |value: &Value| value.is_null() || value.as_str() == Some("");
    spec.get(name)
        .filter(|value| !(is_optional && is_unset(value)))
}

fn join_image(
    repository: Option<&Value>,
    tag: Option<&Value>,
    digest: Option<&Value>,
) -> Result<Value, Vec<LensError>> {
    let mut errors = Vec::new();
    let mut check = |path, value: Option<&Value>, is_valid: fn(&str) -> bool, detail| {
        let Some(value) = value else { return };
        if !value.as_str().is_some_and(is_valid) {
            errors.push(LensError::Invalid {
                path,
                value: value.clone(),
                detail,
            });
        }
    };
    let is_longer = text(repository).and_then(Reference::parse).is_some();
    check(
        REPOSITORY,
        repository,
        oci::is_repository,
        if is_longer {
            "must not hold a tag or a digest: these are spec.tag and spec.digest"
        } else {
            "must be an OCI repository [host[:port]/]path"
        },
    );
    check(
        TAG,
        tag,
        oci::is_tag,
        "must be an OCI tag: letters, digits, '_', '.', '-', at most 128",
    );
    check(
        DIGEST,
        digest,
        oci::is_digest,
        "must be an OCI digest algo:hex",
    );
    if !errors.is_empty() {
        return Err(errors);
    }
    let repository = text(repository).unwrap_or_default();
    Ok(Value::from(
        Reference {
            repository,
            tag: text(tag),
            digest: text(digest),
        }
        .join(),
    ))
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

fn get_state(phase: &Value, status: &mut Object) {
    let known = PHASES
        .iter()
        .find(|(hub, _)| phase.as_str() == Some(hub.as_str()));
    let state = known.map_or_else(|| phase.clone(), |(_, state)| Value::from(state.as_str()));
    status.insert("state".to_owned(), state);
}

fn put_phase(status: &Object, old_phase: Option<&Value>) -> Converted {
    let mut shown = Object::new();
    if let Some(phase) = old_phase {
        get_state(phase, &mut shown);
    }
    let written = status.get("state");
    if written == shown.get("state") {
        return Ok(old_phase.cloned());
    }
    let Some(state @ Value::String(word)) = written else {
        return Ok(written.cloned());
    };
    match PHASES.iter().find(|(_, state)| word == state.as_str()) {
        Some((phase, _)) => Ok(Some(Value::from(phase.as_str()))),
        None => Err(vec![LensError::NotSupported {
            path: STATE,
            value: state.clone(),
            supported: v1alpha1::State::WORDS,
        }]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn old_with_spec(spec: Value) -> Object {
        object(json!({"apiVersion": "custom.example.com/v1alpha1", "kind": "Widget", "spec": spec}))
    }

    fn full_hub() -> Object {
        object(json!({
            "apiVersion": "custom.example.com/v1",
            "kind": "Widget",
            "metadata": {"name": "w", "managedFields": [{"apiVersion": "custom.example.com/v1"}]},
            "spec": {
                "replicas": 3, "image": "host:5000/a/b:1", "color": "blue",
                "resources": {"limits": {"cpu": "1"}}, "later": {"x": null},
            },
            "status": {
                "replicas": 3, "availableReplicas": 2, "phase": "Running", "selector": "a=b",
                "lastUpdated": "2026-01-02T03:04:05Z", "observedGeneration": 7, "conditions": [],
            },
            "topLevel": true,
        }))
    }

    #[test]
    fn old_clients_see_the_first_shape() {
        assert_eq!(
            Value::Object(get(&full_hub())),
            json!({
                "apiVersion": "custom.example.com/v1alpha1",
                "kind": "Widget",
                "metadata": {"name": "w", "managedFields": [{"apiVersion": "custom.example.com/v1"}]},
                "spec": {"size": 3, "repository": "host:5000/a/b", "tag": "1", "color": "blue"},
                "status": {"ready": 2, "state": "running", "updatedAt": "2026-01-02T03:04:05Z"},
            })
        );
    }

    #[test]
    fn every_field_of_the_first_shape_is_one_that_its_published_type_has() {
        let widget: v1alpha1::Widget =
            serde_json::from_value(Value::Object(get(&full_hub()))).unwrap();
        let again = serde_json::to_value(widget).unwrap();
        assert_eq!(again, Value::Object(get(&full_hub())));
    }

    #[test]
    fn an_old_client_cannot_erase_what_only_v1_has() {
        let mut old = get(&full_hub());
        old["spec"]["size"] = json!(4);
        let mut expected = full_hub();
        expected["spec"]["replicas"] = json!(4);
        assert_eq!(put(&old, &full_hub()).unwrap(), expected);

        old.remove("status");
        let hub = put(&old, &full_hub()).unwrap();
        assert_eq!(
            hub["status"],
            json!({"replicas": 3, "selector": "a=b", "observedGeneration": 7, "conditions": []})
        );
    }

    #[test]
    fn absent_null_zero_and_empty_are_kept_apart() {
        for spec in [
            json!({}),
            json!({"size": null, "repository": "a"}),
            json!({"size": 0, "color": "", "repository": ""}),
            json!({"repository": null}),
        ] {
            let old = old_with_spec(spec);
            assert_eq!(get(&create(&old).unwrap()), old);
        }
        for part in [None, Some(Value::Null), Some(json!({}))] {
            let mut old = old_with_spec(json!({"repository": "a"}));
            set(&mut old, "status", part);
            assert_eq!(get(&create(&old).unwrap()), old);
        }
    }

    #[test]
    fn an_empty_tag_or_digest_is_read_as_absent() {
        let hub = create(&old_with_spec(
            json!({"repository": "a", "tag": "", "digest": ""}),
        ))
        .unwrap();
        assert_eq!(hub["spec"], json!({"image": "a"}));
        assert_eq!(get(&hub)["spec"], json!({"repository": "a"}));
    }

    #[test]
    fn malformed_parts_of_an_image_are_all_reported_where_the_client_wrote_them() {
        let paths = |spec: Value| -> Vec<String> {
            let errors = create(&old_with_spec(spec)).unwrap_err();
            errors.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            paths(json!({"repository": "nginx:1"})),
            [
                "spec.repository is invalid: must not hold a tag or a digest: these are spec.tag and spec.digest"
            ]
        );
        assert_eq!(
            paths(json!({"repository": "NGINX", "tag": "a b", "digest": "md5"})),
            [
                "spec.repository is invalid: must be an OCI repository [host[:port]/]path",
                "spec.tag is invalid: must be an OCI tag: letters, digits, '_', '.', '-', at most 128",
                "spec.digest is invalid: must be an OCI digest algo:hex",
            ]
        );
        assert_eq!(
            paths(json!({"tag": "1"})),
            ["spec.repository is required: a tag or a digest needs a repository"]
        );
    }

    #[test]
    fn an_unknown_state_is_refused_unless_it_was_there_before() {
        let mut hub = full_hub();
        hub["status"]["phase"] = json!("Paused");
        assert_eq!(put(&get(&hub), &hub).unwrap(), hub);
        let mut old = get(&hub);
        old["status"]["state"] = json!("Pending");
        assert_eq!(
            put(&old, &hub).unwrap_err(),
            [LensError::NotSupported {
                path: "status.state",
                value: json!("Pending"),
                supported: &["pending", "running", "failed"],
            }]
        );
    }

    #[test]
    fn whatever_is_stored_is_shown_and_put_back_as_it_was() {
        for image in [
            json!("a b:c:d"),
            json!(7),
            json!(null),
            json!({"x": 1}),
            json!("nginx:"),
            json!(""),
        ] {
            let mut hub = full_hub();
            hub["spec"]["image"] = image.clone();
            hub["status"]["phase"] = image;
            assert_eq!(put(&get(&hub), &hub).unwrap(), hub);
        }
        for part in [json!(null), json!("text"), json!([1]), json!({})] {
            let mut hub = full_hub();
            hub["spec"] = part.clone();
            hub["status"] = part;
            assert_eq!(put(&get(&hub), &hub).unwrap(), hub);
        }
    }

    #[test]
    fn paths_of_errors_are_translated_with_all_that_follows() {
        for (hub, version) in [
            ("spec.replicas", "spec.size"),
            ("spec.image", "spec.repository"),
            ("spec.replicasX", "spec.replicasX"),
            ("spec.color", "spec.color"),
            ("status.lastUpdated", "status.updatedAt"),
            ("status.phase[0]", "status.state[0]"),
            ("metadata.name", "metadata.name"),
        ] {
            assert_eq!(field_path(hub), version);
        }
    }
}
