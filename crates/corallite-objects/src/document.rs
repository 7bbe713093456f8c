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

use bytes::Bytes;
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
        let key = class.key(oid);
        let malformed = |problem: String| Error::Malformed { location: location(), key: key.clone(), problem };
        let value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let Value::Object(mut map) = value else { return Err(malformed("it is no JSON object".to_owned())) };
        if map.remove("oid").as_ref().and_then(Value::as_str) != Some(oid) {
            return Err(malformed("its `oid` is not the one in its key".to_owned()));
        }
        let name = map.remove("type");
        if name.as_ref().and_then(Value::as_str) != Some(class.name()) {
            let name = name.unwrap_or_default();
            return Err(malformed(format!("its type is {name}, and {} was expected", class.name())));
        }
        let number = |map: &mut Map<String, Value>, name: &str| match map.remove(name) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| malformed(format!("its `{name}` is {value}"))),
        };
        let revision = number(&mut map, REVISION)?;
        let version = number(&mut map, VERSION)?;
        let updates = match map.remove("updates") {
            None => BTreeMap::new(),
            Some(value) => {
                serde_json::from_value(value).map_err(|error| malformed(format!("its `updates`: {error}")))?
            }
        };
        let migration = |problem: String| Error::Migration {
            key: key.clone(),
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
        let mut document = Self { updates, revision, ..Self::default() };
        for (name, value) in map {
            if let Some(relation) = class.relations.get(&name) {
                let targets =
                    references(value).map_err(|problem| migration(format!("the relation `{name}` {problem}")))?;
                if !relation.is_many && targets.len() > 1 {
                    return Err(migration(format!("the relation `{name}` has {} targets", targets.len())));
                }
                document.relations.insert(name, targets);
            } else if let Ok(of) = class.type_of(&name) {
                let value = of
                    .accept_stored(value)
                    .map_err(|violation| migration(format!("the property `{name}`: {violation}")))?;
                document.properties.insert(name, value);
            } else {
                return Err(migration(format!("it has `{name}`, which the class does not declare")));
            }
        }
        Ok(document)
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
