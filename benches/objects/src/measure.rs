//! Medians, memory, and folders.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Seconds that the work takes.
pub(crate) fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64().max(1e-9))
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => (figures[count / 2 - 1] + figures[count / 2]) / 2.0,
    }
}

/// The median time to write 4 KiB over themselves and sync them in this folder, in milliseconds.
pub(crate) fn fsync_cost(folder: &Path) -> Result<f64> {
    use std::os::unix::fs::FileExt;

    let path = folder.join("fsync");
    let file = File::create_new(&path)?;
    let write = || Ok(file.write_all_at(&[0x5a; 4096], 0).and_then(|()| file.sync_data())?);
    let times = (0..201).map(|_| seconds(write)).collect::<Result<Vec<_>>>()?;
    fs::remove_file(path)?;
    Ok(median(&times) * 1e3)
}

/// A line of this process's status, in bytes: `VmHWM` is the most that ever was resident, mapped files included, `VmRSS`
/// what is now.
pub(crate) fn memory(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no such line in status")?;
    Ok(number.parse::<u64>()? * 1024)
}

/// Reads all files in a folder, so that they are in the page cache.
pub(crate) fn warm(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            warm(&path)?;
        } else {
            io::copy(&mut File::open(path)?, &mut io::sink())?;
        }
    }
    Ok(())
}

/// A folder that is removed when it is done with.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// Creates the folder; refuses one that exists, whose contents may be somebody's.
    pub(crate) fn create(folder: PathBuf) -> Result<Self> {
        ensure!(!folder.exists(), "{} exists; remove it, or choose another --dir", folder.display());
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is refused by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}
