//! redb: a table of documents, and one of keys for each index.

use std::path::Path;

use anyhow::{Context, Result, bail};
use redb::{Database, ReadableDatabase, TableDefinition};
use serde_json::Value;

use super::sqlite::steps;
use crate::engine::Engine;
use crate::workload::{Found, INDEXED, Object, document};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");

/// Value, NUL, id.
type Index<'a> = TableDefinition<'a, &'static [u8], ()>;

pub(crate) struct Redb {
    database: Database,
}

impl Redb {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self { database: Database::create(folder.join("objects.redb"))? })
    }
}

/// Numbers are in the order of their bits when they are not negative.
fn entry(value: &Value, oid: &str) -> Vec<u8> {
    let mut entry = match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.as_f64().unwrap_or_default().to_be_bytes().to_vec(),
    };
    entry.push(0);
    entry.extend_from_slice(oid.as_bytes());
    entry
}

impl Engine for Redb {
    fn save(&self, objects: Vec<Object>) -> Result<()> {
        let transaction = self.database.begin_write()?;
        for name in INDEXED {
            let mut entries: Vec<Vec<u8>> =
                objects.iter().map(|object| entry(&object.properties[name], &object.oid)).collect();
            entries.sort_unstable();
            let mut index = transaction.open_table(Index::new(name))?;
            entries.iter().try_for_each(|entry| index.insert(entry.as_slice(), ()).map(drop))?;
        }
        {
            let mut table = transaction.open_table(OBJECTS)?;
            for Object { oid, properties } in objects {
                if table.insert(oid.as_str(), document(&oid, properties).as_bytes())?.is_some() {
                    bail!("{oid} is there already");
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, oid: &str) -> Result<u64> {
        let table = self.database.begin_read()?.open_table(OBJECTS)?;
        steps(table.get(oid)?.with_context(|| format!("{oid} is not there"))?.value())
    }

    fn find(&self, property: &str, value: &str) -> Result<Found> {
        let transaction = self.database.begin_read()?;
        let (index, table) = (transaction.open_table(Index::new(property))?, transaction.open_table(OBJECTS)?);
        let (from, to) = (format!("{value}\0"), format!("{value}\u{1}"));
        let mut found = Found::default();
        for entry in index.range(from.as_bytes()..to.as_bytes())? {
            let (key, _) = entry?;
            let oid = std::str::from_utf8(&key.value()[from.len()..])?;
            found.add(steps(table.get(oid)?.with_context(|| format!("{oid} is not there"))?.value())?);
        }
        Ok(found)
    }

    fn rebuild(&self) -> Result<u64> {
        bail!("a raw table knows nothing of indexes")
    }
}
