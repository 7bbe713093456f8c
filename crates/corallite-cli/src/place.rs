//! Where a command writes a file, and where it must not.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};
use crate::opened;

/// The file to write: what a symbolic link points to, so that the link is not what gets replaced.
pub(crate) fn target(path: &Path) -> Result<PathBuf, Failure> {
    let refuse = |problem: &str| {
        Err(Failure::new(Exit::Io, format!("{} {problem}; give the path of a file to write", path.display())))
    };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => refuse("is a folder"),
        // Moving a file over a device or a pipe would replace that.
        Ok(found) if !found.is_file() => refuse("is not a regular file"),
        Ok(_) if path.is_symlink() => {
            fs::canonicalize(path).map_err(|error| Failure::io(&path.display().to_string(), &error))
        }
        _ => Ok(path.to_owned()),
    }
}

/// Writes a file beside its place and moves it there when it is whole and on the disk.
pub(crate) fn write_whole<T>(
    target: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let failed = |error: io::Error| Failure::io(&format!("cannot write {}", target.display()), &error);
    let name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    let temporary = target.with_file_name(hidden);
    let written = (|| {
        let file = File::create(&temporary).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let value = write(&mut out)?;
        out.flush().map_err(failed)?;
        drop(out);
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, target).map_err(failed)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(value)
    })();
    if written.is_err() {
        // Half a file is of no use; if it cannot be removed, its name says what it is.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Whether both paths lead to one file, or would.
fn same_file(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        fs::canonicalize(path).ok().or_else(|| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
        })
    };
    match (place(one), place(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// A folder that is missing is more likely a typing error than one to be made.
pub(crate) fn check_folder(store: &Path) -> Result<(), Failure> {
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            let sentence = format!("there is no folder {} to put the store in; create it first", folder.display());
            Err(Failure::new(Exit::BadStore, sentence))
        }
        _ => Ok(()),
    }
}

/// Refuses to write over a store that is read, or over what belongs to it.
pub(crate) fn check_apart(target: &Path, store: &Path) -> Result<(), Failure> {
    let beside = ["", "-journal", "-wal"].map(|suffix| opened::beside(store, suffix));
    if beside.iter().any(|path| same_file(path, target)) {
        let sentence = format!("{} is the store itself; give another file to write", target.display());
        return Err(Failure::new(Exit::Usage, sentence));
    }
    Ok(())
}

/// Refuses to write where something lies that belongs to a store that was there, and may be all that is left of it.
pub(crate) fn check_alone(target: &Path) -> Result<(), Failure> {
    if target.exists() {
        return Ok(());
    }
    let left = ["-journal", "-wal"].map(|suffix| opened::beside(target, suffix)).into_iter().find(|path| path.exists());
    match left {
        Some(left) => {
            let sentence = format!(
                "{} is what is left of a store called {}; move it away, or remove it with --force",
                left.display(),
                target.display()
            );
            Err(Failure::new(Exit::Usage, sentence))
        }
        None => Ok(()),
    }
}

/// The length of a store's file; what is wrong with one that has none is for the opening to say.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}
