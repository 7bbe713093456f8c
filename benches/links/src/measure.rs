//! Clocks, percentiles, and sizes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Processor time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    cpu(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Processor time of all threads of this process.
pub(crate) fn process_cpu() -> Duration {
    cpu(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn cpu(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes one `timespec`.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds for each of `count`.
pub(crate) fn nanoseconds_each(time: Duration, count: usize) -> f64 {
    time.as_nanos() as f64 / count.max(1) as f64
}

/// How many of `count` in a second.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
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

/// Durations of single operations.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Nanoseconds of an operation on average.
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / self.0.len() as f64
    }

    /// Nanoseconds that `share` of the operations did not exceed (nearest rank).
    pub(crate) fn percentile(&mut self, share: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        self.0.sort_unstable();
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1] as f64
    }
}

/// What reading the clock adds to a measured latency, in nanoseconds.
pub(crate) fn clock_cost() -> f64 {
    let readings = 1_000_000;
    let start = Instant::now();
    for _ in 0..readings {
        std::hint::black_box(Instant::now());
    }
    nanoseconds_each(start.elapsed(), readings)
}

/// The median time to write 4 KiB over themselves and sync them in this folder, in microseconds.
pub(crate) fn fsync_cost(folder: &Path) -> Result<f64> {
    let path = folder.join("fsync");
    let file = File::create_new(&path)?;
    let mut times = Vec::new();
    for _ in 0..201 {
        let start = Instant::now();
        file.write_all_at(&[0x5a; 4096], 0)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    Ok(median(&times))
}

/// The bytes that the files in this folder take on the disk.
pub(crate) fn disk_bytes(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.blocks() * 512);
    }
    fs::read_dir(path)?.map(|entry| disk_bytes(&entry?.path())).sum()
}

/// The kernel's page cache, in the hands of somebody who may drop it.
pub(crate) struct PageCache(File);

impl PageCache {
    /// Fails where this process may not drop it; as a rule, root may.
    pub(crate) fn open() -> io::Result<Self> {
        OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches").map(Self)
    }

    /// Drops it, for all processes of this machine; what somebody has mapped stays.
    pub(crate) fn drop_all(&self) -> io::Result<()> {
        // SAFETY: the call takes nothing and touches no memory. Without it, what is not written yet would stay.
        unsafe { libc::sync() };
        // At offset 0: the kernel ignores what is written behind it.
        self.0.write_all_at(b"3", 0)
    }
}

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// The most that ever was resident, mapped files included.
    pub(crate) peak: u64,
    /// What is resident and no file's: the page cache cannot drop it.
    pub(crate) anonymous: u64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let kilobytes = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()).context("no such line in status")?;
            Ok(number.parse::<u64>()? * 1024)
        };
        Ok(Self { peak: kilobytes("VmHWM:")?, anonymous: kilobytes("RssAnon:")? })
    }
}

/// A folder for one engine, removed when it is done with.
pub(crate) struct Scratch<'a>(&'a Path);

impl<'a> Scratch<'a> {
    /// Creates the folder; refuses one that exists, whose contents may be somebody's.
    pub(crate) fn create(folder: &'a Path) -> Result<Self> {
        ensure!(!folder.exists(), "{} exists; remove it, or choose another --dir", folder.display());
        fs::create_dir_all(folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What cannot be removed is refused by the next run.
        let _ = fs::remove_dir_all(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let mut latencies = Latencies::default();
        (1..=1000).rev().for_each(|nanoseconds| latencies.add(Duration::from_nanos(nanoseconds)));
        assert_eq!(latencies.percentile(0.5), 500.0);
        assert_eq!(latencies.percentile(0.99), 990.0);
        assert_eq!(latencies.percentile(0.999), 999.0);
        assert_eq!(latencies.percentile(1.0), 1000.0);
    }

    #[test]
    fn a_mean_counts_every_operation() {
        let mut latencies = Latencies::default();
        [1, 2, 9].map(Duration::from_nanos).into_iter().for_each(|time| latencies.add(time));
        assert_eq!(latencies.mean(), 4.0);
    }

    #[test]
    fn a_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
