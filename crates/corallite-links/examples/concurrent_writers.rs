//! Single durable inserts by one thread, by 64 threads, and by 64 tasks on two workers: how they share syncs.
//!
//! `cargo run --release -p corallite-links --example concurrent_writers [DIRECTORY] [SECONDS]`

#![allow(clippy::print_stdout, reason = "it prints its findings")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corallite_links::{AsyncCIDStore, CIDStore, E};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const WRITERS: u64 = 64;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().unwrap_or_else(|| ".".to_owned());
    let length = Duration::from_secs_f64(arguments.next().unwrap_or_else(|| "2".to_owned()).parse()?);
    for _ in 0..2 {
        run("1 thread", &place, |store| threads(store, 1, length))?;
        run("64 threads", &place, |store| threads(store, WRITERS, length))?;
        run("64 tasks", &place, |store| tasks(store, length))?;
    }
    Ok(())
}

fn key(writer: u64, number: u64) -> E {
    E::from_parts(writer.wrapping_mul(0x9e37_79b9_7f4a_7c15), number)
}

fn run(what: &str, place: &str, work: impl FnOnce(&Arc<CIDStore>) -> Outcome<u64>) -> Outcome {
    let directory = Path::new(place).join(format!("concurrent-writers-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let store = Arc::new(CIDStore::open(directory.join("links.h5"))?);
    store.insert(E::MIN, E::MIN)?;
    std::thread::sleep(Duration::from_millis(200)); // the log is zeroed
    let before = store.get_metrics().wal_syncs;
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let done = work(&store)?;
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let syncs = store.get_metrics().wal_syncs - before;
    println!(
        "{what:>10}: {:>9.0} inserts/s, {:>6.1} a sync, {:>6.0} us each sync, {:>5.2} us of CPU each insert",
        done as f64 / elapsed,
        done as f64 / syncs.max(1) as f64,
        elapsed / syncs.max(1) as f64 * 1e6,
        cpu / done as f64 * 1e6,
    );
    drop(store);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

fn cpu_seconds() -> f64 {
    // SAFETY: `rusage` is plain numbers, for which zero is a value, and the call only writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn threads(store: &Arc<CIDStore>, count: u64, length: Duration) -> Outcome<u64> {
    let end = Instant::now() + length;
    let threads: Vec<_> = (0..count)
        .map(|writer| {
            let store = Arc::clone(store);
            std::thread::spawn(move || {
                let mut number = 0;
                while Instant::now() < end {
                    store.insert(key(writer, number), E::MAX)?;
                    number += 1;
                }
                Ok::<_, corallite_links::Error>(number)
            })
        })
        .collect();
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(done)
}

fn tasks(store: &Arc<CIDStore>, length: Duration) -> Outcome<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let store = AsyncCIDStore::from(Arc::clone(store));
    runtime.block_on(async {
        let end = Instant::now() + length;
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut number = 0;
                    while Instant::now() < end {
                        store.insert(key(writer, number), E::MAX).await?;
                        number += 1;
                    }
                    Ok::<_, corallite_links::Error>(number)
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await??;
        }
        Ok(done)
    })
}
