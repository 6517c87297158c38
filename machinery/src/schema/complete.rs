//! Whether an object's text has all its defaults, without making values of it: what a server asks
//! of every stored object when it starts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Schema;

/// See [`Schema::is_complete`].
pub(super) fn is_complete(schema: &Schema, text: &str) -> Result<bool, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let complete = Top(schema).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(complete)
}

/// A whole object, whose `metadata` is ObjectMeta whatever its schema says.
struct Top<'a>(&'a Schema);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        members(self.0, map, |name| match name {
            "apiVersion" | "kind" => Some(&NOT_NULL),
            "metadata" => Some(Schema::object_meta()),
            _ => None,
        })
    }
}

/// Any value that is not null.
static NOT_NULL: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

/// A value of a schema.
struct Part<'a>(&'a Schema);

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(self.0.nullable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut complete = true;
        match &self.0.items {
            Some(items) => {
                while let Some(item) = seq.next_element_seed(Part(items))? {
                    complete &= item;
                }
            }
            None => while seq.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(complete)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        members(self.0, map, |_| None)
    }
}

/// Members of an object; some have another schema than their parent says.
fn members<'de, A: MapAccess<'de>>(
    schema: &Schema,
    mut map: A,
    special: fn(&str) -> Option<&'static Schema>,
) -> Result<bool, A::Error> {
    let has_default = |property: &&Schema| property.default.is_some();
    let mut missing = schema.properties.values().filter(has_default).count();
    let mut complete = true;
    while let Some(member) = map.next_key_seed(Name { schema, special })? {
        match member {
            Some(member) => {
                missing = missing.saturating_sub(usize::from(member.default.is_some()));
                complete &= map.next_value_seed(Part(member))?;
            }
            None => drop(map.next_value::<IgnoredAny>()?),
        }
    }
    Ok(complete && missing == 0)
}

/// A member's name, read as the member's schema.
struct Name<'a> {
    schema: &'a Schema,
    special: fn(&str) -> Option<&'static Schema>,
}

impl<'de, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a Schema>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Name<'a> {
    type Value = Option<&'a Schema>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let known = || self.schema.properties.get(name);
        let any = self.schema.additional_properties.as_deref();
        Ok((self.special)(name).or_else(known).or(any))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::schema::test_schema::{gadget, object};

    /// Values of all kinds under names that the schema knows and some that it does not.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(json!(7)),
            Just(json!(-0.5)),
            Just(json!(true)),
            Just(json!("te\"xt")),
        ];
        const NAMES: &[&str] = &[
            "apiVersion",
            "kind",
            "metadata",
            "spec",
            "size",
            "color",
            "mode",
            "note",
            "limits",
            "free",
            "parts",
            "name",
            "count",
            "labels",
            "unknown",
            "status",
        ];
        leaf.prop_recursive(6, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(prop::sample::select(NAMES), inner, 0..8)
                    .prop_map(|members| json!(members)),
            ]
        })
    }

    proptest! {
        #[test]
        fn complete_is_what_defaulting_leaves_as_it_is(
            members in prop::collection::btree_map(
                prop::sample::select(&["apiVersion", "kind", "metadata", "spec", "status", "other"][..]),
                value(), 0..6),
            defaulted in any::<bool>(),
        ) {
            let schema = gadget();
            let mut given = object(json!(members));
            if defaulted {
                schema.apply_defaults(&mut given);
            }
            let mut after = given.clone();
            schema.apply_defaults(&mut after);
            let text = serde_json::to_string(&given).unwrap();
            // What looks incomplete may be complete, and is only looked at once more.
            if schema.is_complete(&text).unwrap() {
                prop_assert_eq!(&after, &given);
            }
            if defaulted {
                prop_assert_eq!(&after, &given);
            }
        }
    }

    #[test]
    fn complete_incomplete_and_broken_texts_are_told_apart() {
        let schema = gadget();
        let mut whole = object(json!({
            "apiVersion": "v", "kind": "k",
            "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"note": null, "free": {"x": null}, "parts": [{"name": "a"}], "limits": {"cpu": 1}},
        }));
        assert!(!schema.is_complete(&json!(whole).to_string()).unwrap());
        schema.apply_defaults(&mut whole);
        let text = json!(whole).to_string();
        assert!(schema.is_complete(&text).unwrap(), "{text}");
        for broken in [
            &text[..text.len() - 1],
            "",
            "[]",
            "null",
            &format!("{text}x"),
        ] {
            assert!(schema.is_complete(broken).is_err(), "{broken}");
        }
    }
}
