//! SQLite: documents in a column, indexes on what `json_extract` finds in them.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::Connection;
use serde_json::Value;

use crate::engine::Engine;
use crate::workload::{Found, INDEXED, Object, document};

pub(crate) struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let connection = Connection::open(folder.join("objects.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A commit is durable when it returns.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // In KiB: 1 GiB, as redb has.
        connection.pragma_update(None, "cache_size", -(1 << 20))?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS objects (id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;",
        )?;
        let sqlite = Self { connection };
        sqlite.create_indexes()?;
        Ok(sqlite)
    }

    fn create_indexes(&self) -> Result<()> {
        for name in INDEXED {
            self.connection.execute_batch(&format!(
                "CREATE INDEX IF NOT EXISTS by_{name} ON objects (json_extract(document, '$.{name}'));"
            ))?;
        }
        Ok(())
    }
}

/// Parses a document, and gives its `steps`.
pub(super) fn steps(document: &[u8]) -> Result<u64> {
    let document: Value = serde_json::from_slice(document)?;
    document["steps"].as_u64().context("a document has no steps")
}

impl Engine for Sqlite {
    fn save(&self, objects: Vec<Object>) -> Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO objects VALUES (?1, ?2)")?;
            for Object { oid, properties } in objects {
                let document = document(&oid, properties);
                insert.execute((oid, document))?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, oid: &str) -> Result<u64> {
        let mut select = self.connection.prepare_cached("SELECT document FROM objects WHERE id = ?1")?;
        let mut rows = select.query([oid])?;
        let row = rows.next()?.with_context(|| format!("{oid} is not there"))?;
        steps(row.get_ref(0)?.as_bytes()?)
    }

    fn find(&self, property: &str, value: &str) -> Result<Found> {
        let query = format!("SELECT document FROM objects WHERE json_extract(document, '$.{property}') = ?1");
        let mut select = self.connection.prepare_cached(&query)?;
        let mut rows = select.query([value])?;
        let mut found = Found::default();
        while let Some(row) = rows.next()? {
            found.add(steps(row.get_ref(0)?.as_bytes()?)?);
        }
        Ok(found)
    }

    fn rebuild(&self) -> Result<u64> {
        for name in INDEXED {
            self.connection.execute_batch(&format!("DROP INDEX by_{name};"))?;
        }
        self.create_indexes()?;
        let count: u32 = self.connection.query_row("SELECT count(*) FROM objects", [], |row| row.get(0))?;
        Ok(u64::from(count) * INDEXED.len() as u64)
    }
}
