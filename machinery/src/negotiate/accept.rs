//! The `Accept` header: alternatives with their quality and parameters.

use super::Format;

/// One alternative of an `Accept` header.
pub(super) struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

/// What `as`, `g` and `v` ask for.
#[derive(Clone, Copy)]
pub(super) struct Conversion<'a> {
    pub(super) kind: &'a str,
    pub(super) group: &'a str,
    pub(super) version: &'a str,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, subtype) = match parts.next()?.trim().split_once('/') {
            Some((kind, subtype)) => (kind.trim(), subtype.trim()),
            None if text.trim() == "*" => ("*", "*"),
            None => return None,
        };
        let mut clause = Self {
            kind,
            subtype,
            quality: 1.0,
            parameters: Vec::new(),
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key == "q" {
                clause.quality = value.parse().unwrap_or(1.0);
            } else {
                clause.parameters.push((key, value));
            }
        }
        Some(clause)
    }

    pub(super) fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    }

    pub(super) fn conversion(&self) -> Option<Conversion<'a>> {
        let [kind, group, version] = ["as", "g", "v"].map(|key| self.parameter(key));
        if kind.is_none() && group.is_none() && version.is_none() {
            return None;
        }
        let text = Option::unwrap_or_default;
        Some(Conversion {
            kind: text(kind),
            group: text(group),
            version: text(version),
        })
    }

    pub(super) fn is_aggregated_discovery(&self) -> bool {
        self.conversion().is_some_and(|asked| {
            (asked.group, asked.version, asked.kind)
                == ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList")
        })
    }

    /// The parameters that chose the document, in the order of the client.
    pub(super) fn discovery_content_type(&self, format: Format) -> String {
        let mut content_type = format.media_type().to_owned();
        let mut known = vec!["g", "v", "as", "profile"];
        for (key, value) in &self.parameters {
            let is_token = value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if is_token && known.contains(key) {
                known.retain(|other| other != key);
                content_type.extend([";", key, "=", value]);
            }
        }
        content_type
    }

    /// The formats that the clause admits, in our order of preference.
    pub(super) fn formats(&self) -> impl Iterator<Item = Format> {
        let all = [Format::Json, Format::Yaml, Format::Protobuf];
        let wildcard = matches!(self.kind, "*" | "application") && self.subtype == "*";
        let named = |format: &Format| {
            format.media_type().split_once('/') == Some((self.kind, self.subtype))
        };
        all.into_iter()
            .filter(move |format| wildcard || named(format))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// The alternatives, the preferred first.
pub(super) fn parse_accept(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<_> = header.split(',').filter_map(Clause::parse).collect();
    clauses.retain(|clause| clause.quality > 0.0);
    let is_general = |clause: &Clause<'_>| (clause.kind == "*", clause.subtype == "*");
    clauses.sort_by(|a, b| {
        b.quality
            .total_cmp(&a.quality)
            .then_with(|| is_general(a).cmp(&is_general(b)))
    });
    clauses
}
