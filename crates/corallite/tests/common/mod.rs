//! What the tests of objects share: a plain model, and random work on both.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use corallite::StoreBackend;
use corallite::file::{Mode, Options, SimulatedDisk, Storage};
use corallite::objects::backend::{Backend, Change, Durability, Expect, Range};

pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

pub type Model = BTreeMap<String, Vec<u8>>;

/// Numbers that follow from a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

/// Which keys a test has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Short ones, scattered.
    Short,
    /// Long ones that begin alike, up to the longest there can be.
    Long,
    /// Of all kinds.
    Mixed,
}

pub fn key(keys: Keys, number: u64) -> String {
    let scattered = Random::new(number).next();
    match keys {
        Keys::Short => format!("{:x}", scattered % 100_000),
        Keys::Long => {
            let common = "p".repeat(700 + (number % 3) as usize * 100);
            format!("{common}{scattered:016x}{}", "s".repeat((number % 100) as usize))
        }
        Keys::Mixed => match number % 5 {
            0 => format!("Account.{number:08}"),
            1 => format!("@index.Account.by.name/{scattered:x}"),
            2 => format!("ü{}", "é".repeat((number % 500) as usize)),
            3 => format!("{}{number}", "z".repeat((scattered % 1000) as usize)),
            _ => format!("{number}"),
        },
    }
}

pub fn value(random: &mut Random) -> Vec<u8> {
    let length = match random.below(40) {
        0 => random.below(100_000),
        1..4 => 900 + random.below(300),
        4..10 => 0,
        _ => random.below(200),
    };
    random.bytes(length as usize)
}

/// Random changes of keys with numbers below `count`, made to the model too.
pub fn batch(
    random: &mut Random,
    keys: Keys,
    count: u64,
    most: u64,
    model: &mut Model,
) -> Vec<(String, Option<Vec<u8>>)> {
    let shrinks = random.one_in(3);
    let changes: Vec<(String, Option<Vec<u8>>)> = (0..=random.below(most))
        .map(|_| {
            let key = key(keys, random.below(count));
            let is_removal = if shrinks { !random.one_in(4) } else { random.one_in(4) };
            (key, (!is_removal).then(|| value(random)))
        })
        .collect();
    for (key, value) in &changes {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
    changes
}

pub fn write(backend: &dyn Backend, changes: &[(String, Option<Vec<u8>>)], durability: Durability) -> Outcome {
    let changes: Vec<Change<'_>> =
        changes.iter().map(|(key, value)| Change { key, value: value.as_deref(), expect: Expect::Anything }).collect();
    Ok(backend.write(&changes, durability)?)
}

/// What differs between a backend and a model; `None` when nothing does.
pub fn difference(backend: &dyn Backend, model: &Model) -> Outcome<Option<String>> {
    let mut entries = backend.entries_in(&Range::default())?;
    for (key, value) in model {
        match entries.next().transpose()? {
            Some((found, bytes)) if found == *key && bytes == *value => {}
            Some((found, bytes)) => {
                return Ok(Some(format!(
                    "{found:?} with {} bytes instead of {key:?} with {}",
                    bytes.len(),
                    value.len()
                )));
            }
            None => return Ok(Some(format!("{key:?} is missing"))),
        }
    }
    if let Some((found, _)) = entries.next().transpose()? {
        return Ok(Some(format!("{found:?} should not be there")));
    }
    Ok(None)
}

pub fn open_on(
    disk: &SimulatedDisk,
    path: &Path,
    mode: Mode,
    options: Options,
) -> Outcome<(Arc<Storage>, StoreBackend)> {
    let storage = Storage::on_disk(Arc::new(disk.clone()), path, options);
    storage.open(mode, false)?;
    let storage = Arc::new(storage);
    let backend = StoreBackend::with_cache(Arc::clone(&storage), 1 << 20)?;
    Ok((storage, backend))
}
