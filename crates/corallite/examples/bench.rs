//! What `make bench` cannot time from outside a process. Each subcommand prints one line of JSON; see
//! `scripts/bench-peers`.

#![allow(missing_docs, clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::expect_used)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use corallite::Store;
use corallite::file::{Access, Disk, DiskFile, Lock, Mapping, Mode, Options, OsDisk, Storage};
use corallite::weights::{Dtype, WeightStore, WeightTensor};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match names.as_slice() {
        ["load-mmap", store, name, file, "--rounds", rounds] => load_mmap(store, name, file, count(rounds)),
        ["commit-attr", store, "--rounds", rounds] => commit_attribute(store, count(rounds)),
        ["make-small", store, "--weights", weights, "--bytes", bytes] => {
            make_small(store, count(weights), count(bytes))
        }
        ["open", store, "--rounds", rounds] => open(store, count(rounds)),
        _ => {
            eprintln!("unknown arguments; see scripts/bench-peers");
            std::process::exit(2);
        }
    };
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn count(text: &str) -> usize {
    text.parse().expect("a number")
}

fn seconds(times: &[f64]) -> String {
    format!("[{}]", times.iter().map(f64::to_string).collect::<Vec<_>>().join(","))
}

fn timed<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<(T, f64)> {
    let start = Instant::now();
    let value = body()?;
    Ok((value, start.elapsed().as_secs_f64()))
}

/// Reads every byte once, as cheaply as can be.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
        + rest.iter().map(|&byte| u64::from(byte)).sum::<u64>()
}

fn load_mmap(store: &str, name: &str, file: &str, rounds: usize) -> Outcome {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut bytes, mut tensors) = (0, 0);
    for _ in 0..rounds {
        let (mut total, time) = timed(|| {
            let store = Store::open_read_only(store)?;
            let checkpoint = store.checkpoints().get(name)?.ok_or("no such checkpoint")?;
            (bytes, tensors) = (0, checkpoint.tensors().len());
            let mut total = 0_u64;
            for tensor in checkpoint.tensors() {
                let data = store.weights().load_mapped(&tensor.key)?.ok_or("missing")?.data()?;
                bytes += data.len();
                total = total.wrapping_add(sum(&data));
            }
            Ok(total)
        })?;
        ours.push(time);
        let (other, time) = timed(|| {
            let file = File::open(file)?;
            // SAFETY: nobody changes the benchmark's input while it runs.
            let map = unsafe { memmap2::Mmap::map(&file)? };
            let tensors = safetensors::SafeTensors::deserialize(&map)?;
            Ok(tensors.tensors().iter().fold(0_u64, |total, (_, view)| total.wrapping_add(sum(view.data()))))
        })?;
        theirs.push(time);
        total = total.wrapping_sub(other);
        if total != 0 {
            return Err("the two sides read different bytes".into());
        }
    }
    println!(
        r#"{{"bytes":{bytes},"tensors":{tensors},"corallite_seconds":{},"safetensors_seconds":{}}}"#,
        seconds(&ours),
        seconds(&theirs)
    );
    Ok(())
}

fn commit_attribute(path: &str, rounds: usize) -> Outcome {
    let disk = Counting::default();
    let storage = Storage::on_disk(Arc::new(disk.clone()), Path::new(path), Options::default());
    storage.open(Mode::ReadWrite, false)?;
    let file = storage.file()?;
    let key = file.group("weights")?.member_names()?.into_iter().next().ok_or("the store is empty")?;
    let dataset = file.dataset(&format!("weights/{key}"))?;
    let other = Path::new(path).with_extension("fsync");
    let mut plain = OpenOptions::new().create(true).append(true).open(&other)?;
    let (mut commits, mut syncs) = (Vec::new(), Vec::new());
    let mut counted = 0;
    for round in 0..rounds as i64 + 1 {
        let before = disk.syncs();
        let (_, time) = timed(|| {
            let attribute = match dataset.attr("benchmark") {
                Ok(attribute) => attribute,
                Err(_) => dataset.new_attr::<i64>().create("benchmark")?,
            };
            attribute.write_scalar(&round)?;
            Ok(storage.flush()?)
        })?;
        let (_, sync) = timed(|| {
            plain.write_all(&[round as u8; 4096])?;
            Ok(plain.sync_data()?)
        })?;
        // The first round creates the attribute and the journal.
        if round > 0 {
            counted += disk.syncs() - before;
            commits.push(time);
            syncs.push(sync);
        }
    }
    std::fs::remove_file(other)?;
    storage.close()?;
    println!(
        r#"{{"commit_seconds":{},"fsync_seconds":{},"fsyncs_per_commit":{}}}"#,
        seconds(&commits),
        seconds(&syncs),
        counted as f64 / rounds as f64
    );
    Ok(())
}

/// The system's disk, counting syncs.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicU64>);

impl Counting {
    fn syncs(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Disk for Counting {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CountingFile { file: OsDisk.open(path, access)?, syncs: self.clone() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        OsDisk.sync_directory(path)
    }

    fn is_at(&self, file: &dyn DiskFile, path: &Path) -> io::Result<bool> {
        OsDisk.is_at(file, path)
    }
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn DiskFile>,
    syncs: Counting,
}

impl DiskFile for CountingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.0.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        self.file.try_lock(lock)
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Option<Mapping>> {
        self.file.map(offset, length)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.identity()
    }
}

fn make_small(path: &str, weights: usize, bytes: usize) -> Outcome {
    // Like trained weights: a bell of small numbers, whose mantissas are noise.
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let batch = (0..weights)
        .map(|index| {
            let data: Vec<u8> =
                (0..bytes / 4).flat_map(|_| ((uniform() + uniform() + uniform()) * 0.05).to_le_bytes()).collect();
            let name = format!("layer.{index}.bias");
            Ok((name.clone(), WeightTensor::new(name, vec![(bytes / 4) as u64], Dtype::F32, data)?))
        })
        .collect::<Outcome<Vec<_>>>()?;
    let store = Store::open(path)?;
    let (_, time) = timed(|| Ok(store.weights().store_batch(&batch)?))?;
    store.close()?;
    println!(r#"{{"weights":{weights},"seconds":{time}}}"#);
    Ok(())
}

fn open(path: &str, rounds: usize) -> Outcome {
    let mut times = Vec::new();
    let mut weights = 0;
    for round in 0..rounds {
        let (store, time) = timed(|| Ok(Store::open_read_only(path)?))?;
        times.push(time);
        if round + 1 == rounds {
            weights = store.weights().count()?;
        }
    }
    println!(r#"{{"weights":{weights},"seconds":{}}}"#, seconds(&times));
    Ok(())
}
