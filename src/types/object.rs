//! JSON objects that are objects. Derived code takes an array for a struct too, by the order of its fields, which
//! would make that order a part of the API.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Something that is read from an object only. Its own fields say so for themselves, by [`object`] and [`objects`].
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// For a field that is an object.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|object| object.0)
}

/// For a field that is a list of objects.
pub fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|object| object.0).collect())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        a: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        #[serde(deserialize_with = "object")]
        one: Inner,
        #[serde(deserialize_with = "objects")]
        many: Vec<Inner>,
    }

    #[test]
    fn arrays_are_not_taken_for_objects() {
        let read = |text| serde_json::from_str::<Object<Outer>>(text).map(|object| object.0);
        let outer = read(r#"{"one": {"a": 1}, "many": [{"a": 2}, {"a": 3}]}"#).unwrap();
        assert_eq!(outer, Outer { one: Inner { a: 1 }, many: vec![Inner { a: 2 }, Inner { a: 3 }] });
        for wrong in [
            "[]",
            r#"[{"a": 1}, []]"#,
            r#"{"one": [1], "many": []}"#,
            r#"{"one": {"a": 1}, "many": [[2]]}"#,
            r#"{"one": {"a": 1}, "many": {"a": 2}}"#,
            "7",
            "null",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
