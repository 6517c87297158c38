//! What can be done with resources, independent of the OpenAPI version.

use serde_json::{Value, json};

use super::definitions::Names;
use crate::{
    discovery, history,
    negotiate::PATCH_TYPES,
    resource::{ResourceInfo, VersionInfo},
};

/// One method on one path.
pub(super) struct Operation {
    pub(super) path: String,
    pub(super) method: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    /// Upstream's word for the verb; `None` for discovery.
    pub(super) action: Option<&'static str>,
    pub(super) kind: Value,
    pub(super) query: Vec<Parameter>,
    pub(super) body: Option<Body>,
    /// Codes with what they mean and the definition that they return.
    pub(super) responses: Vec<(&'static str, &'static str, Option<String>)>,
}

/// A query parameter.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
}

/// A request body.
pub(super) struct Body {
    /// The definition; a patch has none.
    pub(super) definition: Option<String>,
    pub(super) types: &'static [&'static str],
    pub(super) required: bool,
}

const BODY_TYPES: [&str; 2] = ["application/json", "application/yaml"];

const fn parameter(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        description,
    }
}

const PRETTY: Parameter = parameter("pretty", "string", "If 'true', the answer is indented.");

const WRITE: [Parameter; 2] = [
    parameter(
        "fieldManager",
        "string",
        "Name of the actor that makes the change: at most 128 printable characters.",
    ),
    parameter(
        "fieldValidation",
        "string",
        "What to do about unknown and duplicate fields: Ignore, Warn (the default) or Strict.",
    ),
];

const SELECT: [Parameter; 7] = [
    parameter("continue", "string", "Token of the page to go on with."),
    parameter("fieldSelector", "string", "Selects objects by fields."),
    parameter("labelSelector", "string", "Selects objects by labels."),
    parameter(
        "limit",
        "integer",
        "The greatest number of objects in the answer.",
    ),
    parameter(
        "resourceVersion",
        "string",
        "Constrains the version from which the answer is made; see resourceVersionMatch.",
    ),
    parameter("resourceVersionMatch", "string", "NotOlderThan or Exact."),
    parameter(
        "shardSelector",
        "string",
        "Selects objects by the hash of a field: shardRange(object.metadata.uid, \
         '0x0000000000000000', '0x8000000000000000').",
    ),
];

const WATCH: [Parameter; 4] = [
    parameter(
        "allowWatchBookmarks",
        "boolean",
        "Whether a watch may send BOOKMARK events.",
    ),
    parameter(
        "sendInitialEvents",
        "boolean",
        "Whether a watch begins with the objects that there are, and marks their end.",
    ),
    parameter(
        "timeoutSeconds",
        "integer",
        "Seconds after which the call ends.",
    ),
    parameter(
        "watch",
        "boolean",
        "Whether changes are streamed instead of a list.",
    ),
];

const DELETE: [Parameter; 3] = [
    parameter(
        "gracePeriodSeconds",
        "integer",
        "Seconds before the object is removed; 0 removes it at once.",
    ),
    parameter(
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy. Whether dependents stay.",
    ),
    parameter(
        "propagationPolicy",
        "string",
        "Orphan, Background or Foreground.",
    ),
];

/// All operations of one group version.
pub(super) fn operations(
    resources: &[&ResourceInfo],
    (group, version): (&str, &str),
) -> Vec<Operation> {
    let names = Names { group };
    let base = format!("/apis/{group}/{version}");
    let prefix = camel(&[group, version]);
    let mut all = vec![Operation {
        path: format!("{base}/"),
        method: "get",
        id: format!("get{prefix}APIResources"),
        description: "get available resources".to_owned(),
        action: None,
        kind: Value::Null,
        query: vec![],
        body: None,
        responses: vec![("200", "OK", Some(names.meta("APIResourceList")))],
    }];
    for (info, served) in discovery::resources_of(resources, group, version) {
        let scoped = if info.is_namespaced() {
            "Namespaced"
        } else {
            ""
        };
        let of = Context {
            info,
            version: served,
            names: &names,
            base: &base,
            prefix: &prefix,
            scoped,
        };
        of.add_collection(&mut all);
        of.add_object(&mut all, "");
        if info.history {
            of.add_history(&mut all);
        }
        if info.scale.is_some() {
            of.add_object(&mut all, "scale");
        }
        if info.status {
            of.add_object(&mut all, "status");
        }
    }
    all
}

/// One resource in one version.
struct Context<'a> {
    info: &'a ResourceInfo,
    version: &'a VersionInfo,
    names: &'a Names<'a>,
    base: &'a str,
    prefix: &'a str,
    scoped: &'static str,
}

impl Context<'_> {
    fn add_collection(&self, all: &mut Vec<Operation>) {
        let Self {
            info,
            prefix,
            scoped,
            ..
        } = self;
        let (kind, plural) = (info.kind, info.plural);
        let path = self.collection_path();
        let list = Some(self.names.kind(self.version.name, info.list_kind));
        let select = join(&[&[PRETTY], &SELECT, &WATCH]);
        let listing = |path: &str, id: String| Operation {
            path: path.to_owned(),
            query: select.clone(),
            responses: vec![("200", "OK", list.clone())],
            ..self.operation("get", "list", id, format!("list or watch {plural}"))
        };
        if info.is_namespaced() {
            let everywhere = format!("{}/{plural}", self.base);
            all.push(listing(
                &everywhere,
                format!("list{prefix}{kind}ForAllNamespaces"),
            ));
        }
        all.push(listing(&path, format!("list{prefix}{scoped}{kind}")));
        let id = format!("create{prefix}{scoped}{kind}");
        let object = self.definition("");
        all.push(Operation {
            path: path.clone(),
            query: join(&[&[PRETTY], &WRITE]),
            body: Some(Body {
                definition: Some(object.clone()),
                types: &BODY_TYPES,
                required: true,
            }),
            responses: vec![("201", "Created", Some(object))],
            ..self.operation("post", "post", id, format!("create a {kind}"))
        });
        let id = format!("delete{prefix}Collection{scoped}{kind}");
        let description = format!("delete a collection of {plural}");
        all.push(Operation {
            path,
            query: join(&[&[PRETTY], &SELECT, &DELETE]),
            body: Some(self.delete_options()),
            responses: vec![("200", "OK", list)],
            ..self.operation("delete", "deletecollection", id, description)
        });
    }

    /// The operations on one object or on a subresource of it.
    fn add_object(&self, all: &mut Vec<Operation>, subresource: &str) {
        let Self {
            info,
            prefix,
            scoped,
            ..
        } = self;
        let (name, kind) = (info.kind, self.kind(subresource));
        let path = match subresource {
            "" => format!("{}/{{name}}", self.collection_path()),
            below => format!("{}/{{name}}/{below}", self.collection_path()),
        };
        let of = if subresource.is_empty() {
            format!("the {name}")
        } else {
            format!("{subresource} of the {name}")
        };
        let object = self.definition(subresource);
        let operation = |method, action, verb: &str, words: &str| Operation {
            path: path.clone(),
            kind: kind.clone(),
            query: join(&[&[PRETTY], if method == "get" { &[] } else { &WRITE }]),
            responses: vec![("200", "OK", Some(object.clone()))],
            ..self.operation(
                method,
                action,
                format!("{verb}{prefix}{scoped}{name}{}", camel(&[subresource])),
                format!("{words} {of}"),
            )
        };
        let body = |definition, types| {
            Some(Body {
                definition,
                types,
                required: true,
            })
        };
        all.push(operation("get", "get", "read", "read"));
        all.push(Operation {
            body: body(Some(object.clone()), &BODY_TYPES),
            ..operation("put", "put", "replace", "replace")
        });
        all.push(Operation {
            body: body(None, &PATCH_TYPES),
            ..operation("patch", "patch", "patch", "partially update")
        });
        if subresource.is_empty() {
            let status = Some(self.names.meta("Status"));
            all.push(Operation {
                query: join(&[&[PRETTY], &DELETE]),
                body: Some(self.delete_options()),
                responses: vec![("200", "OK", status.clone()), ("202", "Accepted", status)],
                ..operation("delete", "delete", "delete", "delete")
            });
        }
    }

    /// Who wrote an object: read only.
    fn add_history(&self, all: &mut Vec<Operation>) {
        let (info, prefix) = (self.info, self.prefix);
        let kind = history::kind(info);
        let id = format!("read{prefix}{}{}History", self.scoped, info.kind);
        let [page, _, _, limit, ..] = SELECT;
        let definition = self.names.kind(self.version.name, &kind);
        all.push(Operation {
            path: format!("{}/{{name}}/history", self.collection_path()),
            kind: json!({"group": info.group, "version": self.version.name, "kind": kind}),
            query: vec![PRETTY, page, limit],
            responses: vec![("200", "OK", Some(definition))],
            ..self.operation(
                "get",
                "get",
                id,
                format!("read history of the {}", info.kind),
            )
        });
    }

    fn operation(
        &self,
        method: &'static str,
        action: &'static str,
        id: String,
        description: String,
    ) -> Operation {
        let kind = self.kind("");
        let (path, query, responses) = (String::new(), vec![], vec![]);
        Operation {
            path,
            method,
            id,
            description,
            action: Some(action),
            kind,
            query,
            body: None,
            responses,
        }
    }

    fn collection_path(&self) -> String {
        let namespace = if self.info.is_namespaced() {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        format!("{}{namespace}/{}", self.base, self.info.plural)
    }

    fn definition(&self, subresource: &str) -> String {
        match subresource {
            "scale" => self.names.scale(),
            _ => self.names.kind(self.version.name, self.info.kind),
        }
    }

    fn kind(&self, subresource: &str) -> Value {
        match subresource {
            "scale" => json!({"group": "autoscaling", "version": "v1", "kind": crate::scale::KIND}),
            _ => json!({
                "group": self.info.group, "version": self.version.name, "kind": self.info.kind,
            }),
        }
    }

    fn delete_options(&self) -> Body {
        let definition = Some(self.names.meta("DeleteOptions"));
        Body {
            definition,
            types: &BODY_TYPES,
            required: false,
        }
    }
}

fn join(parts: &[&[Parameter]]) -> Vec<Parameter> {
    parts.concat()
}

/// `custom.example.com`, `v1` → `CustomExampleComV1`.
fn camel(words: &[&str]) -> String {
    let parts = words
        .iter()
        .flat_map(|word| word.split(|c: char| !c.is_ascii_alphanumeric()));
    parts
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, rest) = part.split_at(1);
            first.to_ascii_uppercase() + rest
        })
        .collect()
}

/// The parameters in a path, with what they are.
pub(super) fn path_parameters(path: &str) -> Vec<(&'static str, &'static str)> {
    let known = [
        ("name", "Name of the object."),
        ("namespace", "Namespace of the objects."),
    ];
    known
        .into_iter()
        .filter(|(name, _)| path.contains(&format!("{{{name}}}")))
        .collect()
}
