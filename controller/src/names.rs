//! Names and labels that the controller gives to what it makes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Field manager of every write, and the name under which Events are reported.
pub(crate) const CONTROLLER: &str = "widget-controller";

/// The one container of a Widget's pods.
pub(crate) const CONTAINER: &str = "widget";

/// Environment variable that tells the container its color.
pub(crate) const COLOR_VARIABLE: &str = "WIDGET_COLOR";

/// The longest label value that Kubernetes takes.
const MAX_LABEL_VALUE: usize = 63;

/// How much of a longer name stays readable, before `-` and the digest.
const KEPT_PREFIX: usize = 52;

/// Bytes of the digest, two hexadecimal digits each.
const KEPT_DIGEST: usize = 5;

/// The labels of a Widget's Deployment and pods, and the selector of the latter.
pub(crate) fn labels(name: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name", "widget".to_owned()),
        ("app.kubernetes.io/instance", instance(name)),
        ("app.kubernetes.io/managed-by", CONTROLLER.to_owned()),
    ])
}

/// [`labels`] as a label selector in its string form.
pub(crate) fn selector(name: &str) -> String {
    let terms: Vec<String> = labels(name)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    terms.join(",")
}

/// A Widget's name as a label value: a name that is too long keeps its start and
/// is told from its like by a digest.
fn instance(name: &str) -> String {
    if name.len() <= MAX_LABEL_VALUE {
        return name.to_owned();
    }
    let prefix: String = name.chars().take(KEPT_PREFIX).collect();
    let digest: String = Sha256::digest(name.as_bytes())
        .iter()
        .take(KEPT_DIGEST)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{prefix}-{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_fits_is_the_label() {
        assert_eq!(instance("my-widget"), "my-widget");
        let longest = "a".repeat(63);
        assert_eq!(instance(&longest), longest);
    }

    #[test]
    fn a_longer_name_keeps_52_characters_and_10_digits_of_its_sha256() {
        let name = "a".repeat(64);
        let expected = format!("{}-ffe054fe7a", "a".repeat(52));
        assert_eq!(instance(&name), expected);
        assert_eq!(instance(&"b".repeat(253)).len(), 63);
        let sibling = format!("{}b", "a".repeat(63));
        assert_ne!(instance(&name), instance(&sibling));
    }

    #[test]
    fn the_selector_is_sorted_and_names_every_label() {
        let expected = "app.kubernetes.io/instance=w,\
            app.kubernetes.io/managed-by=widget-controller,\
            app.kubernetes.io/name=widget";
        assert_eq!(selector("w"), expected);
    }
}
