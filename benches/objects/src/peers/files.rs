//! The file system: what has to be done for a durable file, and nothing else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::sqlite::steps;
use crate::engine::{Engine, Files};
use crate::workload::{Found, Object, document};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// A file for each document. The temporary ones are in a folder beside.
pub(crate) struct Documents {
    folder: PathBuf,
    temporary: PathBuf,
}

impl Documents {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let (folder, temporary) = (folder.join("objects"), folder.join("temporary"));
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&temporary)?;
        Ok(Self { folder, temporary })
    }

    fn path(&self, oid: &str) -> PathBuf {
        self.folder.join(format!("{oid}.json"))
    }
}

/// Gives a file that was written its place, and makes both durable.
fn keep(file: &File, temporary: &Path, path: &Path) -> Result<()> {
    file.sync_all()?;
    fs::rename(temporary, path)?;
    Ok(File::open(path.parent().context("a file is in a folder")?)?.sync_all()?)
}

impl Engine for Documents {
    fn save(&self, objects: Vec<Object>) -> Result<()> {
        for Object { oid, properties } in objects {
            let temporary = self.temporary.join(&oid);
            let mut file = File::create_new(&temporary)?;
            file.write_all(document(&oid, properties).as_bytes())?;
            keep(&file, &temporary, &self.path(&oid))?;
        }
        Ok(())
    }

    fn get(&self, oid: &str) -> Result<u64> {
        steps(&fs::read(self.path(oid))?)
    }

    fn find(&self, _property: &str, _value: &str) -> Result<Found> {
        bail!("files have no indexes")
    }

    fn rebuild(&self) -> Result<u64> {
        bail!("files have no indexes")
    }
}

/// A copy of a file, and its hash.
pub(crate) struct Copy {
    path: PathBuf,
    hash: Option<blake3::Hash>,
}

impl Copy {
    pub(crate) fn open(folder: &Path) -> Self {
        Self { path: folder.join("file"), hash: None }
    }
}

/// Reads a file to its end, hashing, and hands each chunk on; gives the hash and the length.
fn hashed(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<(blake3::Hash, u64)> {
    let (mut source, mut chunk) = (File::open(path)?, vec![0; CHUNK]);
    let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
    loop {
        let count = source.read(&mut chunk)?;
        if count == 0 {
            return Ok((hasher.finalize(), length));
        }
        hasher.update(&chunk[..count]);
        length += count as u64;
        each(&chunk[..count])?;
    }
}

impl Files for Copy {
    fn put(&mut self, source: &Path) -> Result<()> {
        let temporary = self.path.with_extension("temporary");
        let mut file = File::create_new(&temporary)?;
        let (hash, _) = hashed(source, |chunk| Ok(file.write_all(chunk)?))?;
        self.hash = Some(hash);
        keep(&file, &temporary, &self.path)
    }

    fn take(&self) -> Result<u64> {
        let (hash, length) = hashed(&self.path, |_| Ok(()))?;
        ensure!(self.hash == Some(hash), "the copy is not what was copied");
        Ok(length)
    }
}
