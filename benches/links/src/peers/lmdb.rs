//! LMDB through heed: a `DUPSORT | DUPFIXED` database, ids as big-endian bytes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use heed::types::Bytes;
use heed::{CommitOrAbort, CompactionOption, DatabaseFlags, EnvFlags, EnvOpenOptions};

use super::{id, sorted};
use crate::engine::{Engine, Found, Pair, Reader, Settings};

/// Address space only; LMDB cannot grow beyond it.
const MAP_BYTES: usize = 1 << 38;

type Database = heed::Database<'static, Bytes, Bytes>;

pub(crate) struct Lmdb {
    env: heed::Env,
    links: Database,
    folder: PathBuf,
}

impl Lmdb {
    pub(crate) fn open(folder: &Path, _settings: &Settings) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(1).max_readers(256);
        // SAFETY: the flag changes only the advice given to the kernel, none of LMDB's locking or syncing.
        unsafe { options.flags(EnvFlags::NO_READ_AHEAD) };
        // SAFETY: the folder is this benchmark's own; nobody changes the mapped file but LMDB itself.
        let env = unsafe { options.open(folder)? };
        let transaction = env.write_txn()?;
        let links = env
            .create_databases_and_commit(transaction, |opener, transaction| {
                opener
                    .database_options()
                    .types::<Bytes, Bytes>()
                    .flags(DatabaseFlags::DUP_SORT | DatabaseFlags::DUP_FIXED)
                    .name("links")
                    .create(transaction)
                    .map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Self { env, links, folder: folder.to_owned() })
    }
}

impl Engine for Lmdb {
    fn insert_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in sorted(pairs) {
            self.links.put(&mut transaction, &key.to_be_bytes(), &value.to_be_bytes())?;
        }
        Ok(transaction.commit()?)
    }

    fn delete_batch(&self, pairs: &[Pair]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in sorted(pairs) {
            self.links.delete_one_duplicate(&mut transaction, &key.to_be_bytes(), &value.to_be_bytes())?;
        }
        Ok(transaction.commit()?)
    }

    fn reader(&self) -> Result<Reader<'_>> {
        let transaction = self.env.read_txn()?;
        Ok(Box::new(move |key| {
            let mut found = Found::default();
            if let Some(values) = self.links.get_duplicates(&transaction, &key.to_be_bytes())? {
                for entry in values {
                    found.add(id(entry?.1)?);
                }
            }
            Ok(found)
        }))
    }

    /// LMDB compacts by copying.
    fn compact(self: Box<Self>) -> Result<()> {
        let copy = self.folder.join("compacted.mdb");
        self.env.copy_to_path(&copy, CompactionOption::Enabled)?.sync_all()?;
        let data = self.folder.join("data.mdb");
        self.env.prepare_for_closing().wait();
        Ok(std::fs::rename(copy, data)?)
    }
}
