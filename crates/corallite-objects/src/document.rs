//! The JSON document that an object is stored as.
//!
//! ```json
//! {"@revision": 3, "author": {"oid": "…", "type": "Account"}, "oid": "…", "title": "…", "type": "Article",
//!  "updates": {"oid": 1764000000.25, "title": 1764000000.25}}
//! ```
//!
//! Beside `type`, `oid`, `updates`, `@revision` and `@version` (where it is not 0) there are the properties and relations.
//! A relation to one target is a reference or null, one to many a list of references.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::class::Class;
use crate::error::{Error, Result};
use crate::reference::Reference;

pub(crate) const REVISION: &str = "@revision";
const VERSION: &str = "@version";

/// An object's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Document {
    pub(crate) properties: Map<String, Value>,
    pub(crate) relations: BTreeMap<String, Vec<Reference>>,
    /// Seconds since 1970, by property or relation; `oid` for the object.
    pub(crate) updates: BTreeMap<String, f64>,
    pub(crate) revision: u64,
}

impl Document {
    /// The JSON, in which names are sorted, so that equal contents are equal bytes.
    pub(crate) fn to_json(&self, class: &Class, oid: &str) -> Value {
        let mut map = self.properties.clone();
        for (name, targets) in &self.relations {
            let value = match class.relations.get(name) {
                Some(relation) if !relation.is_many => targets.first().map_or(Value::Null, reference),
                _ => targets.iter().map(reference).collect(),
            };
            map.insert(name.clone(), value);
        }
        map.insert("type".to_owned(), class.name().into());
        map.insert("oid".to_owned(), oid.into());
        map.insert("updates".to_owned(), serde_json::json!(self.updates));
        map.insert(REVISION.to_owned(), self.revision.into());
        if class.version() > 0 {
            map.insert(VERSION.to_owned(), class.version().into());
        }
        Value::Object(map)
    }

    pub(crate) fn to_bytes(&self, class: &Class, oid: &str) -> Bytes {
        self.to_json(class, oid).to_string().into()
    }

    /// Reads a stored document, which may be of an older version of its class.
    pub(crate) fn from_bytes(class: &Class, oid: &str, bytes: &[u8], location: &dyn Fn() -> String) -> Result<Self> {
        let malformed = |problem: String| {
            let (location, key) = (location(), class.key(oid));
            Error::Malformed { location, key, problem }
        };
        let Parsed { oid: found, name, revision, version, updates, mut map } =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if found.as_ref().and_then(Value::as_str) != Some(oid) {
            return Err(malformed("its `oid` is not the one in its key".to_owned()));
        }
        if name.as_ref().and_then(Value::as_str) != Some(class.name()) {
            let name = name.unwrap_or_default();
            return Err(malformed(format!("its type is {name}, and {} was expected", class.name())));
        }
        let number = |name: &str, value: Option<Value>| match value {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| malformed(format!("its `{name}` is {value}"))),
        };
        let revision = number(REVISION, revision)?;
        let version = number(VERSION, version)?;
        let migration = |problem: String| Error::Migration {
            key: class.key(oid),
            class: class.name().to_owned(),
            found: version,
            version: class.version(),
            problem,
        };
        if version > class.version() {
            return Err(migration("it is newer".to_owned()));
        }
        if let Some(migrate) = class.migration().filter(|_| version < class.version()) {
            migrate(version, &mut map).map_err(migration)?;
        }
        let mut relations = BTreeMap::new();
        for (name, relation) in &class.relations {
            let Some(value) = map.remove(name) else { continue };
            let targets = references(value).map_err(|problem| migration(format!("the relation `{name}` {problem}")))?;
            if !relation.is_many && targets.len() > 1 {
                return Err(migration(format!("the relation `{name}` has {} targets", targets.len())));
            }
            relations.insert(name.clone(), targets);
        }
        // What is left are properties, each in its place already.
        for (name, value) in &mut map {
            let Ok(of) = class.type_of(name) else {
                return Err(migration(format!("it has `{name}`, which the class does not declare")));
            };
            *value = of
                .accept_stored(value.take())
                .map_err(|violation| migration(format!("the property `{name}`: {violation}")))?;
        }
        Ok(Self { properties: map, relations, updates, revision })
    }
}

/// A document as its JSON has it: what every document has, and the rest.
#[derive(Default)]
struct Parsed {
    oid: Option<Value>,
    name: Option<Value>,
    revision: Option<Value>,
    version: Option<Value>,
    updates: BTreeMap<String, f64>,
    map: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Parser)
    }
}

/// Reads a document in one pass, without a map of everything first.
struct Parser;

impl<'de> Visitor<'de> for Parser {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        while let Some(name) = from.next_key::<String>()? {
            match name.as_str() {
                "oid" => parsed.oid = Some(from.next_value()?),
                "type" => parsed.name = Some(from.next_value()?),
                "updates" => parsed.updates = from.next_value()?,
                REVISION => parsed.revision = Some(from.next_value()?),
                VERSION => parsed.version = Some(from.next_value()?),
                _ => {
                    let value = from.next_value()?;
                    parsed.map.insert(name, value);
                }
            }
        }
        Ok(parsed)
    }
}

pub(crate) fn reference(target: &Reference) -> Value {
    serde_json::json!({ "oid": target.oid, "type": target.collection })
}

/// The references of a relation's value: null, one, or a list.
pub(crate) fn references(value: Value) -> Result<Vec<Reference>, String> {
    let one = |value: Value| serde_json::from_value(value).map_err(|error| format!("leads to no object: {error}"));
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items.into_iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// Now, in seconds since 1970, to the microsecond.
pub(crate) fn now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Type;

    #[test]
    fn a_document_comes_back_and_what_is_none_is_refused() {
        let class = Class::new("Run").property("loss", Type::Float).one("base", "Run").many("parts", "File");
        let read = |text: &str| Document::from_bytes(&class, "1", text.as_bytes(), &|| "here".to_owned());
        let text = r#"{"@revision":3,"base":null,"loss":0.5,"oid":"1","parts":[{"oid":"2","type":"File"}],"type":"Run","updates":{"loss":7.25,"oid":8}}"#;
        let document = read(text).unwrap();
        assert_eq!((document.revision, document.properties["loss"].as_f64()), (3, Some(0.5)));
        assert_eq!((document.updates["loss"], document.updates["oid"]), (7.25, 8.0));
        assert_eq!((document.relations["base"].len(), document.relations["parts"].len()), (0, 1));
        assert_eq!(document.to_bytes(&class, "1"), text.replace("8}", "8.0}").as_bytes());

        let malformed = [
            r#"[1]"#,
            r#"{"type":"Run"}"#,
            r#"{"oid":"2","type":"Run"}"#,
            r#"{"oid":"1","type":"File"}"#,
            r#"{"oid":"1","type":"Run","@revision":-1}"#,
            r#"{"oid":"1","type":"Run","updates":{"loss":"now"}}"#,
            r#"{"oid":"1","type":"Run","updates":null}"#,
            r#"{"oid":"1","type":"Run"} {}"#,
        ];
        for text in malformed {
            assert!(matches!(read(text), Err(Error::Malformed { .. })), "{text}");
        }
        let other = [r#""@version":1"#, r#""gain":1"#, r#""loss":"low""#, r#""base":[{"oid":"2"}]"#];
        for text in other.map(|part| format!(r#"{{"oid":"1","type":"Run",{part}}}"#)) {
            assert!(matches!(read(&text), Err(Error::Migration { .. })), "{text}");
        }
    }
}
