//! Writing a checkpoint's file again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use corallite_file::Snapshot;

use super::record::Record;
use crate::error::{Error, Result};
use crate::hash::ContentHasher;
use crate::hdf5_store::stored::Stored;
use crate::hdf5_store::{Watch, stop_if_cancelled};

/// Writes the file beside `path` and moves it there when it is whole and durable. Returns its length.
pub(super) fn to_path(snapshot: &Snapshot, record: &Record, path: &Path, watch: &dyn Watch) -> Result<u64> {
    let temporary = beside(path)?;
    let written = write_file(snapshot, record, &temporary, watch).and_then(|length| {
        std::fs::rename(&temporary, path).map_err(|error| Error::io(path, error))?;
        sync_directory(path)?;
        Ok(length)
    });
    if written.is_err() {
        // Half a file is of no use; if it cannot be removed, its name says what it is.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn beside(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Err(Error::io(path, std::io::ErrorKind::IsADirectory.into()));
    }
    let name = path.file_name().ok_or_else(|| Error::io(path, std::io::ErrorKind::InvalidInput.into()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn sync_directory(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(|error| Error::io(parent, error))
}

fn write_file(snapshot: &Snapshot, record: &Record, path: &Path, watch: &dyn Watch) -> Result<u64> {
    let fail = |error| Error::io(path, error);
    let file = File::create_new(path).map_err(fail)?;
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    let length = write_to(snapshot, record, &mut out, path, watch)?;
    out.flush().map_err(fail)?;
    drop(out);
    file.sync_all().map_err(fail)?;
    Ok(length)
}

/// Writes header and tensors in order, a few mebibytes at a time, verifying each tensor.
fn write_to(snapshot: &Snapshot, record: &Record, out: &mut impl Write, path: &Path, watch: &dyn Watch) -> Result<u64> {
    let fail = |error| Error::io(path, error);
    let mut length = 8 + record.raw_header.len() as u64;
    out.write_all(&(record.raw_header.len() as u64).to_le_bytes()).map_err(fail)?;
    out.write_all(&record.raw_header).map_err(fail)?;
    for tensor in record.checkpoint.tensors() {
        let stored = Stored::find(snapshot, snapshot.file(), &tensor.key)?.ok_or_else(|| {
            super::record::damaged(
                record.checkpoint.name(),
                format!("the weight `{}` of tensor `{}` is missing", tensor.key, tensor.name),
            )
        })?;
        let mut hasher = ContentHasher::new(tensor.dtype, &tensor.shape);
        stored.for_each_piece(snapshot, |piece| {
            stop_if_cancelled(watch)?;
            hasher.update(piece);
            out.write_all(piece).map_err(fail)?;
            watch.advance(piece.len() as u64);
            Ok(())
        })?;
        let found = hasher.finish();
        if found != tensor.key {
            let problem = format!("its content hashes to {found}");
            return Err(Error::Damaged { key: tensor.key.clone(), problem });
        }
        length += stored.length;
    }
    Ok(length)
}
