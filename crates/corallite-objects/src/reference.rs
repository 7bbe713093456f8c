//! References: the type and id of an object, file or weight.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key;

/// Which object, file or weight. In documents it is `{"oid": …, "type": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Its id; of a weight, its key.
    pub oid: String,
    /// Its collection, or `weight`.
    #[serde(rename = "type")]
    pub collection: String,
}

impl Reference {
    /// A reference to the object of a collection with an id.
    pub fn new(collection: impl Into<String>, oid: impl Into<String>) -> Self {
        Self { oid: oid.into(), collection: collection.into() }
    }

    /// The target's key.
    pub fn key(&self) -> String {
        key::of(&self.collection, &self.oid)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.collection, self.oid)
    }
}
