//! What the fault tests share: a model of a file's content, random work on a storage, and the checks of a disk that
//! lost power.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod crash;
pub mod disks;
pub mod model;
pub mod scene;
pub mod work;

use std::error::Error;
use std::path::Path;

use corallite_file::SimulatedDisk;

/// What tests and helpers return.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The file that every test on a simulated disk works on.
pub fn store() -> &'static Path {
    Path::new("/disk/store.h5")
}

/// Its journal.
pub fn journal() -> &'static Path {
    Path::new("/disk/store.h5-journal")
}

/// The bytes of a file on a simulated disk.
pub fn bytes(disk: &SimulatedDisk, path: &Path) -> Outcome<Vec<u8>> {
    disk.read(path).ok_or_else(|| format!("{} is not on the disk", path.display()).into())
}

/// Random numbers that replay from their seed (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The number in an environment variable, or `default`.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
