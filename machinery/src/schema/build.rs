//! From schemars' documents to structural schemas.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Pattern, Schema, SchemaKind};

type Node = Map<String, Value>;

/// Keywords that say nothing about an object's shape.
const SILENT: [&str; 8] = [
    "$schema",
    "$defs",
    "definitions",
    "title",
    "examples",
    "readOnly",
    "deprecated",
    "uniqueItems",
];

pub(super) fn from_json_schema(root: &Value) -> Result<Schema, String> {
    let node = root.as_object().ok_or("the document is no object")?;
    let mut schema = Builder {
        root: node,
        names: Vec::new(),
    }
    .build(node, "")?;
    let title = node.get("title").and_then(Value::as_str);
    schema.type_name = title.map(str::to_owned);
    // Every object has these, whatever its schema says.
    for field in ["apiVersion", "kind", "metadata"] {
        schema.properties.remove(field);
        schema.required.retain(|name| name != field);
    }
    Ok(schema)
}

struct Builder<'a> {
    root: &'a Node,
    /// The references that are being inlined, against cycles.
    names: Vec<&'a str>,
}

impl<'a> Builder<'a> {
    fn build(&mut self, node: &'a Node, path: &str) -> Result<Schema, String> {
        let mut schema = Schema::default();
        self.merge(&mut schema, node, path)?;
        Ok(schema)
    }

    /// Adds a node's statements to a schema. What is nearer to the root wins.
    fn merge(&mut self, schema: &mut Schema, node: &'a Node, path: &str) -> Result<(), String> {
        for (keyword, value) in node {
            self.merge_keyword(schema, (keyword, value), path)
                .map_err(|error| prefix_once(error, path, keyword))?;
        }
        if let Some(reference) = node.get("$ref") {
            self.merge_reference(schema, reference, path)?;
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            if let Some(parts) = node.get(keyword) {
                self.merge_union(schema, keyword, (parts, path))?;
            }
        }
        Ok(())
    }

    fn merge_keyword(
        &mut self,
        schema: &mut Schema,
        (keyword, value): (&'a String, &'a Value),
        path: &str,
    ) -> Result<(), String> {
        match keyword.as_str() {
            "type" => schema.kind = kind(value)?.or(schema.kind),
            "format" => keep(&mut schema.format, text(value)?),
            "description" => keep(&mut schema.description, unwrap_lines(&text(value)?)),
            "nullable" => schema.nullable |= value.as_bool().ok_or("no boolean")?,
            "default" if value.is_null() => {}
            "default" => keep(&mut schema.default, value.clone()),
            "const" => schema.enumeration.push(value.clone()),
            "enum" => schema
                .enumeration
                .extend(values(value)?.filter(|v| !v.is_null()).cloned()),
            "required" => schema.required.extend(texts(value)?),
            "properties" => self.merge_properties(schema, value, path)?,
            "items" => schema.items = self.child(value, path, "[]")?.map(Box::new),
            "additionalProperties" => {
                schema.additional_properties = self.child(value, path, "{}")?.map(Box::new);
            }
            "x-kubernetes-int-or-string" => schema.int_or_string = value == true,
            "x-kubernetes-preserve-unknown-fields" => {
                schema.preserve_unknown_fields = value == true;
            }
            "$ref" | "allOf" | "anyOf" | "oneOf" => {}
            extension if extension.starts_with("x-kubernetes-") => {
                schema
                    .extensions
                    .insert(extension.to_owned(), value.clone());
            }
            silent if SILENT.contains(&silent) => {}
            bound => merge_bound(schema, bound, value)?,
        }
        Ok(())
    }

    fn merge_properties(
        &mut self,
        schema: &mut Schema,
        value: &'a Value,
        path: &str,
    ) -> Result<(), String> {
        for (name, property) in value.as_object().ok_or("no object")? {
            let below = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let property = property
                .as_object()
                .ok_or_else(|| format!("{below}: no schema"))?;
            let property = self.build(property, &below)?;
            schema.properties.insert(name.clone(), property);
        }
        Ok(())
    }

    /// The schema of items or values; `None` where nothing is admitted.
    fn child(
        &mut self,
        value: &'a Value,
        path: &str,
        step: &str,
    ) -> Result<Option<Schema>, String> {
        match value {
            Value::Object(node) => self.build(node, &format!("{path}{step}")).map(Some),
            Value::Bool(true) => Ok(Some(Schema {
                preserve_unknown_fields: true,
                ..Schema::default()
            })),
            Value::Bool(false) => Ok(None),
            _ => Err("no schema".to_owned()),
        }
    }

    fn merge_reference(
        &mut self,
        schema: &mut Schema,
        reference: &'a Value,
        path: &str,
    ) -> Result<(), String> {
        let reference = reference.as_str().unwrap_or_default();
        let name = reference
            .strip_prefix("#/$defs/")
            .or(reference.strip_prefix("#/definitions/"));
        let name = name.ok_or_else(|| format!("{path}: {reference} is no local reference"))?;
        if self.names.contains(&name) {
            return Err(format!("{path}: {name} contains itself"));
        }
        let unescaped = name.replace("~1", "/").replace("~0", "~");
        let target = ["$defs", "definitions"]
            .iter()
            .find_map(|definitions| self.root.get(*definitions)?.get(&unescaped)?.as_object())
            .ok_or_else(|| format!("{path}: {reference} does not exist"))?;
        self.names.push(name);
        let mut inner = self.build(target, path)?;
        self.names.pop();
        let short = unescaped.rsplit(['.', '/']).next().unwrap_or_default();
        inner.type_name.get_or_insert_with(|| short.to_owned());
        overlay(schema, inner);
        Ok(())
    }

    /// A union is structural only if it is one schema, null besides, or a choice of constants.
    fn merge_union(
        &mut self,
        schema: &mut Schema,
        keyword: &str,
        (parts, path): (&'a Value, &str),
    ) -> Result<(), String> {
        let parts: Vec<&Node> = values(parts)?
            .filter_map(Value::as_object)
            .filter(|part| part.get("type").is_none_or(|kind| kind != "null"))
            .collect();
        let mut built = Vec::with_capacity(parts.len());
        for part in &parts {
            built.push(self.build(part, path)?);
        }
        if built.len() == 1 || keyword == "allOf" {
            built.into_iter().for_each(|inner| overlay(schema, inner));
            return Ok(());
        }
        if built.is_empty() || built.iter().any(|inner| inner.enumeration.is_empty()) {
            return Err(format!(
                "{path}: {keyword} of several types is not structural"
            ));
        }
        for inner in built {
            schema.kind = schema.kind.or(inner.kind);
            schema.enumeration.extend(inner.enumeration);
        }
        Ok(())
    }
}

/// Fills what the outer schema leaves open.
fn overlay(outer: &mut Schema, inner: Schema) {
    let own = std::mem::replace(outer, inner);
    macro_rules! prefer {
        ($($field:ident),*) => { $( if own.$field.is_some() { outer.$field = own.$field; } )* };
    }
    prefer!(
        kind,
        format,
        description,
        items,
        additional_properties,
        default,
        pattern,
        minimum
    );
    prefer!(
        maximum, min_length, max_length, min_items, max_items, type_name
    );
    outer.nullable |= own.nullable;
    outer.int_or_string |= own.int_or_string;
    outer.preserve_unknown_fields |= own.preserve_unknown_fields;
    outer.properties.extend(own.properties);
    outer.extensions.extend(own.extensions);
    outer.required.extend(own.required);
    if !own.enumeration.is_empty() {
        outer.enumeration = own.enumeration;
    }
}

fn merge_bound(schema: &mut Schema, keyword: &str, value: &Value) -> Result<(), String> {
    match keyword {
        "minimum" => schema.minimum = Some(value.as_f64().ok_or("no number")?),
        "maximum" => schema.maximum = Some(value.as_f64().ok_or("no number")?),
        "minLength" => schema.min_length = Some(value.as_u64().ok_or("no length")?),
        "maxLength" => schema.max_length = Some(value.as_u64().ok_or("no length")?),
        "minItems" => schema.min_items = Some(value.as_u64().ok_or("no length")?),
        "maxItems" => schema.max_items = Some(value.as_u64().ok_or("no length")?),
        "pattern" => schema.pattern = Some(Pattern::new(&text(value)?)?),
        _ => return Err("the keyword is not structural".to_owned()),
    }
    Ok(())
}

fn kind(value: &Value) -> Result<Option<SchemaKind>, String> {
    let names = match value {
        Value::String(_) => vec![value],
        Value::Array(names) => names.iter().collect(),
        _ => return Err("no type".to_owned()),
    };
    let mut names = names.into_iter().filter(|name| *name != "null");
    let kind = match names.next().and_then(Value::as_str) {
        Some("object") => SchemaKind::Object,
        Some("array") => SchemaKind::Array,
        Some("string") => SchemaKind::String,
        Some("integer") => SchemaKind::Integer,
        Some("number") => SchemaKind::Number,
        Some("boolean") => SchemaKind::Boolean,
        None => return Ok(None),
        Some(other) => return Err(format!("{other} is no type")),
    };
    if names.next().is_some() {
        return Err("several types are not structural".to_owned());
    }
    Ok(Some(kind))
}

fn keep<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

/// Doc comments are wrapped for editors: their paragraphs become lines again. Lists and code
/// keep theirs.
fn unwrap_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let stands_alone = line.is_empty() || line.starts_with([' ', '\t', '-', '*']);
        if !out.is_empty() {
            let joins = !stands_alone && !out.ends_with('\n');
            out.push(if joins { ' ' } else { '\n' });
        }
        out.push_str(line);
    }
    out
}

fn text(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| "no text".to_owned())
}

fn values(value: &Value) -> Result<impl Iterator<Item = &Value>, String> {
    Ok(value.as_array().ok_or("no list")?.iter())
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    values(value)?.map(text).collect()
}

/// An error of this keyword gets its place; one from below has it already.
fn prefix_once(error: String, path: &str, keyword: &str) -> String {
    let below = if path.is_empty() {
        String::new()
    } else {
        format!("{path}.")
    };
    let is_placed = matches!(keyword, "properties" | "items" | "additionalProperties");
    if is_placed {
        error
    } else {
        format!("{below}{keyword}: {error}")
    }
}

impl Schema {
    /// A schema of one type.
    pub(super) fn of(kind: SchemaKind) -> Self {
        Self {
            kind: Some(kind),
            ..Self::default()
        }
    }

    /// An object with these fields.
    pub(super) fn object<const N: usize>(type_name: &str, fields: [(&str, Self); N]) -> Self {
        let properties: BTreeMap<_, _> = fields
            .into_iter()
            .map(|(name, schema)| (name.to_owned(), schema))
            .collect();
        let type_name = Some(type_name.to_owned());
        Self {
            properties,
            type_name,
            ..Self::of(SchemaKind::Object)
        }
    }

    /// A list of these items.
    pub(super) fn list(items: Self) -> Self {
        Self {
            items: Some(Box::new(items)),
            ..Self::of(SchemaKind::Array)
        }
    }

    /// A map with free keys and these values.
    pub(super) fn map(values: Self) -> Self {
        Self {
            additional_properties: Some(Box::new(values)),
            ..Self::of(SchemaKind::Object)
        }
    }

    pub(super) fn with_format(mut self, format: &str) -> Self {
        self.format = Some(format.to_owned());
        self
    }

    pub(super) fn described(mut self, description: &str) -> Self {
        self.description = Some(description.to_owned());
        self
    }

    pub(super) fn requiring(mut self, names: &[&str]) -> Self {
        self.required = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub(super) fn extended(mut self, extensions: &[(&str, Value)]) -> Self {
        for (key, value) in extensions {
            self.extensions.insert((*key).to_owned(), value.clone());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn built(root: Value) -> Schema {
        from_json_schema(&root).unwrap()
    }

    fn refusal(root: Value) -> String {
        from_json_schema(&root).unwrap_err()
    }

    #[test]
    fn references_are_inlined_and_their_descriptions_overridden() {
        let schema = built(json!({
            "title": "Gadget", "type": "object", "required": ["spec", "metadata"],
            "properties": {"spec": {"$ref": "#/$defs/GadgetSpec", "description": "Outer."}},
            "$defs": {"GadgetSpec": {
                "type": "object", "description": "Inner.", "required": ["size"],
                "properties": {"size": {"type": "integer", "format": "int32", "minimum": 0}},
            }},
        }));
        assert_eq!(schema.type_name.as_deref(), Some("Gadget"));
        assert_eq!(schema.required, ["spec"]);
        let spec = &schema.properties["spec"];
        assert_eq!(spec.type_name.as_deref(), Some("GadgetSpec"));
        assert_eq!(spec.description.as_deref(), Some("Outer."));
        assert_eq!(spec.required, ["size"]);
        assert_eq!(spec.properties["size"].kind, Some(SchemaKind::Integer));
        assert_eq!(spec.properties["size"].minimum, Some(0.0));
    }

    #[test]
    fn optional_fields_lose_their_null() {
        let schema = built(json!({
            "type": "object",
            "properties": {
                "a": {"type": ["string", "null"], "default": null},
                "b": {"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]},
            },
            "$defs": {"Color": {"type": "string", "enum": ["red", "blue"]}},
        }));
        assert_eq!(schema.properties["a"].kind, Some(SchemaKind::String));
        assert!(schema.properties["a"].default.is_none());
        assert_eq!(
            schema.properties["b"].enumeration,
            [json!("red"), json!("blue")]
        );
        assert!(!schema.properties["b"].nullable);
    }

    #[test]
    fn a_choice_of_constants_is_an_enumeration() {
        let schema = built(json!({"oneOf": [
            {"type": "string", "const": "A", "description": "first"},
            {"type": "string", "enum": ["B", "C"]},
        ]}));
        assert_eq!(schema.kind, Some(SchemaKind::String));
        assert_eq!(schema.enumeration, [json!("A"), json!("B"), json!("C")]);
    }

    #[test]
    fn lists_maps_and_extensions_are_kept() {
        let schema = built(json!({
            "type": "object",
            "properties": {
                "list": {
                    "type": "array", "items": {"type": "object", "properties": {"type": {"type": "string"}}},
                    "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                },
                "map": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}},
                "free": {"type": "object", "additionalProperties": true},
            },
        }));
        let list = &schema.properties["list"];
        assert_eq!(
            list.extensions["x-kubernetes-list-map-keys"],
            json!(["type"])
        );
        assert!(list.items.as_ref().unwrap().properties.contains_key("type"));
        assert!(
            schema.properties["map"]
                .additional_properties
                .as_ref()
                .unwrap()
                .int_or_string
        );
        let free = schema.properties["free"]
            .additional_properties
            .as_ref()
            .unwrap();
        assert!(free.preserve_unknown_fields);
    }

    #[test]
    fn wrapped_descriptions_become_lines_again() {
        let text = "One sentence\nover two lines.\n\nAnother.\n- a list\n- of two";
        let schema = built(json!({"type": "string", "description": text}));
        assert_eq!(
            schema.description.unwrap(),
            "One sentence over two lines.\n\nAnother.\n- a list\n- of two"
        );
    }

    #[test]
    fn what_is_not_structural_is_refused_with_its_place() {
        let field = |schema: Value| json!({"type": "object", "properties": {"spec": schema}});
        assert_eq!(
            refusal(field(json!({"not": {}}))),
            "spec.not: the keyword is not structural"
        );
        assert!(refusal(field(json!({"type": ["string", "integer"]}))).starts_with("spec.type: "));
        let union = json!({"oneOf": [{"type": "string"}, {"type": "integer"}]});
        assert_eq!(
            refusal(field(union)),
            "spec: oneOf of several types is not structural"
        );
        assert!(refusal(field(json!({"$ref": "#/$defs/Missing"}))).contains("does not exist"));
        assert!(
            refusal(field(json!({"type": "string", "pattern": "("}))).starts_with("spec.pattern")
        );
        let cycle = json!({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}}}});
        assert!(refusal(cycle).contains("contains itself"));
    }
}
