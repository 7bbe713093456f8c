//! Rates of the backend in the store file: `cargo run --release -p corallite --example bench_objects [DIRECTORY [OBJECTS]]`.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::Instant;

use corallite::Store;
use corallite::objects::backend::{Backend, Change, Durability, Expect, Range};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Scatters numbers, the same way each time.
fn scattered(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn object_key(number: u64) -> String {
    format!("Account.0190{:08x}7{:015x}", number >> 8, (scattered(number) >> 4) & 0xfff_ffff_ffff_ffff)
}

fn document(number: u64) -> String {
    let x = scattered(number);
    format!(
        r#"{{"@class":"Account","@revision":1,"name":"User {number}","email":"user{number}@example.com","age":{},"tags":["a","b"],"balance":{}}}"#,
        x % 100,
        x % 1_000_000
    )
}

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let count: u64 = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let path = std::path::Path::new(&directory).join("bench_objects.h5");
    let _ = std::fs::remove_file(&path);
    let store = Store::open(&path)?;
    let objects = store.objects_backend()?;

    let started = Instant::now();
    let singles = 200;
    for number in 0..singles {
        let (key, value) = (format!("Single.{number:08}"), document(number));
        let change = Change { key: &key, value: Some(value.as_bytes()), expect: Expect::Absent };
        objects.write(&[change], Durability::Durable)?;
    }
    report("single durable put", singles, started, "");

    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let objects = &objects;
            scope.spawn(move || {
                for number in 0..singles {
                    let (key, value) = (format!("Threads.{thread}.{number:08}"), document(number));
                    let change = Change { key: &key, value: Some(value.as_bytes()), expect: Expect::Absent };
                    let _ = objects.write(&[change], Durability::Durable);
                }
            });
        }
    });
    report("the same by 8 threads", 8 * singles, started, "");

    let (mut made, mut memory) = (0.0, 0.0);
    let started = Instant::now();
    for batch in 0..count / 1000 {
        let mut texts: Vec<(String, String)> = Vec::with_capacity(4000);
        for number in batch * 1000..batch * 1000 + 1000 {
            let (key, x) = (object_key(number), scattered(number));
            texts.push((format!("@index.Account.name.User {number}.{key}"), String::new()));
            texts.push((format!("@index.Account.email.{x:016x}@example.com"), key.clone()));
            texts.push((format!("@index.Account.age.{:03}.{key}", x % 100), String::new()));
            texts.push((key, document(number)));
        }
        let changes: Vec<Change<'_>> = texts
            .iter()
            .map(|(key, value)| Change { key, value: Some(value.as_bytes()), expect: Expect::Anything })
            .collect();
        let begun = Instant::now();
        objects.write(&changes, Durability::Buffered)?;
        memory += begun.elapsed().as_secs_f64();
        objects.sync()?;
        made += begun.elapsed().as_secs_f64();
    }
    report("objects, 1,000 x 4 keys a commit", count, started, &format!("in-batch {memory:.2} s of {made:.2} s"));
    let bytes = std::fs::metadata(&path)?.len();
    println!("{:>40} {:>12.1} bytes a key", "file", bytes as f64 / (4 * count) as f64);

    let hot: Vec<String> = (0..1000).map(|number| object_key(scattered(number) % count)).collect();
    let mut found = 0;
    let started = Instant::now();
    for _ in 0..200 {
        for key in &hot {
            found += objects.get(key)?.map_or(0, |value| value.len());
        }
    }
    report("hot get", 200_000, started, &format!("{found} bytes"));

    let started = Instant::now();
    let scanned =
        objects.entries_in(&Range::prefix("Account."))?.try_fold(0_u64, |sum, entry| entry.map(|_| sum + 1))?;
    report("scan, entries", scanned, started, "");
    let started = Instant::now();
    let scanned = objects.count_in(&Range::prefix("@index."))?;
    report("scan, keys", scanned, started, "");
    store.close()?;

    let store = Store::open_read_only(&path)?;
    let objects = store.objects_backend()?;
    let started = Instant::now();
    let cold = 20_000.min(count);
    for number in 0..cold {
        let key = object_key(scattered(number ^ 0x5555) % count);
        objects.get(&key)?.ok_or("it was written")?;
    }
    report("get after opening, random", cold, started, "");
    store.close()?;
    std::fs::remove_file(&path)?;
    Ok(())
}

fn report(what: &str, count: u64, started: Instant, more: &str) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:>40} {:>12.0}/s {:>9.2} us {more}", count as f64 / seconds, seconds / count as f64 * 1e6);
}
