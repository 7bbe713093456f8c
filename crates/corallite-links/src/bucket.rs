//! A bucket: 4096 bytes with up to 120 cells, each a key and one of its values.
//!
//! | words | what |
//! |---|---|
//! | 0 | version (32 bits), overflow bits of the 15 groups (16), depth (8), cells in use (8) |
//! | 1 | overflow bucket (32), in a file the CRC-32C of [`Home`] and the bucket (32) |
//! | 2–16 | one tag a cell: 0 empty, else seven bits of the hash, and the top bit for a value that lies in the cell |
//! | 17–31 | one state a cell: a [`StateMask`] of used, spilled, and the value's place in the order (two bits) |
//! | 32–511 | cells: key high, key low, value high, value low |
//!
//! A key's cells lie in its home group of eight, or, where that was full, in one of the groups after it; the overflow bit
//! of a group says that something went past it, so that emptied cells need no tombstone. A key with a value set has one
//! cell, whose value is the place of the set.
//!
//! The same layout is read from memory and from the file; it is written only in memory, by the one writer, between
//! [`Live::begin`] and [`Live::end`].

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::E;
use crate::entry::StateMask;
use crate::hash::{GROUPS, Hash};

/// Bytes of a bucket.
pub(crate) const BYTES: usize = 4096;
/// Words of a bucket.
pub(crate) const WORDS: usize = BYTES / 8;
/// Cells of a bucket.
pub(crate) const CELLS: usize = GROUPS * LANES;

const LANES: usize = 8;
const TAGS: usize = 2;
const STATES: usize = TAGS + GROUPS;
const FIRST_CELL: usize = STATES + GROUPS;
const CELL_WORDS: usize = 4;
const _: () = assert!(FIRST_CELL + CELLS * CELL_WORDS == WORDS);

const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const HIGH_BITS: u64 = !LOW_BITS;
const EACH: u64 = 0x0101_0101_0101_0101;
const INLINE: u8 = 0x80;

/// The words of a bucket, wherever they are.
pub(crate) trait Words: Copy {
    fn word(self, index: usize) -> u64;
}

/// A bucket in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live<'a>(pub(crate) &'a [AtomicU64; WORDS]);

/// A bucket in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a>(pub(crate) &'a [u8; BYTES]);

impl Words for Live<'_> {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }
}

impl Words for Stored<'_> {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        match self.0[index * 8..].first_chunk() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => 0,
        }
    }
}

/// The first word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: u32,
    pub(crate) overflow: u16,
    pub(crate) depth: u8,
    pub(crate) used: u8,
}

impl Head {
    pub(crate) const fn unpack(word: u64) -> Self {
        Self {
            version: word as u32,
            overflow: (word >> 32) as u16,
            depth: (word >> 48) as u8,
            used: (word >> 56) as u8,
        }
    }

    pub(crate) const fn pack(self) -> u64 {
        self.version as u64 | (self.overflow as u64) << 32 | (self.depth as u64) << 48 | (self.used as u64) << 56
    }
}

/// What a cell is: the content of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) spilled: bool,
    /// The value's place among the key's values, 0 to 3.
    pub(crate) order: u8,
}

impl State {
    const fn encode(self) -> u8 {
        StateMask::encode(1 | (self.spilled as u8) << 1 | self.order << 2).0
    }

    /// `None` when the state is lost, or says that the cell is empty.
    pub(crate) const fn decode(byte: u8) -> Option<Self> {
        match StateMask(byte).state() {
            Some(state) if state & 1 == 1 => Some(Self { spilled: state & 2 != 0, order: state >> 2 }),
            _ => None,
        }
    }
}

/// One cell that a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) slot: usize,
    /// Whether the value lies in the cell; else the cell points to a value set.
    pub(crate) inline: bool,
}

/// Bytes of `word` whose low seven bits are those of `pattern`, as their top bits. Exact, without carries.
#[inline(always)]
const fn equal(word: u64, pattern: u64) -> u64 {
    !(((word & LOW_BITS) ^ pattern) + LOW_BITS) & HIGH_BITS
}

/// Bytes of `word` that are zero, as their top bits.
#[inline(always)]
const fn empty(word: u64) -> u64 {
    !(((word & LOW_BITS) + LOW_BITS) | word) & HIGH_BITS
}

#[inline(always)]
const fn lane(bits: u64) -> usize {
    bits.trailing_zeros() as usize / LANES
}

#[inline(always)]
const fn byte(word: u64, lane: usize) -> u8 {
    (word >> (lane * 8)) as u8
}

/// Calls `hit` for every cell of `key`.
#[inline(always)]
pub(crate) fn find<W: Words>(bucket: W, hash: Hash, key: E, mut hit: impl FnMut(Hit)) {
    let overflow = (bucket.word(0) >> 32) as u16;
    let pattern = u64::from(hash.tag()) * EACH;
    let home = hash.group();
    let mut group = home;
    loop {
        let tags = bucket.word(TAGS + group);
        let mut matches = equal(tags, pattern);
        while matches != 0 {
            let lane = lane(matches);
            let slot = group * LANES + lane;
            let cell = FIRST_CELL + slot * CELL_WORDS;
            if bucket.word(cell) == key.high() && bucket.word(cell + 1) == key.low() {
                hit(Hit { slot, inline: byte(tags, lane) & INLINE != 0 });
            }
            matches &= matches - 1;
        }
        if overflow >> group & 1 == 0 {
            return;
        }
        group = if group == GROUPS - 1 { 0 } else { group + 1 };
        if group == home {
            return;
        }
    }
}

/// The key in a cell.
#[inline(always)]
pub(crate) fn key<W: Words>(bucket: W, slot: usize) -> E {
    let cell = FIRST_CELL + slot * CELL_WORDS;
    E::from_parts(bucket.word(cell), bucket.word(cell + 1))
}

/// The value in a cell.
#[inline(always)]
pub(crate) fn value<W: Words>(bucket: W, slot: usize) -> E {
    let cell = FIRST_CELL + slot * CELL_WORDS;
    E::from_parts(bucket.word(cell + 2), bucket.word(cell + 3))
}

/// The state byte of a cell.
#[inline(always)]
pub(crate) fn state_byte<W: Words>(bucket: W, slot: usize) -> u8 {
    byte(bucket.word(STATES + slot / LANES), slot % LANES)
}

/// The tag of a cell; 0 for an empty one.
#[inline(always)]
pub(crate) fn tag<W: Words>(bucket: W, slot: usize) -> u8 {
    byte(bucket.word(TAGS + slot / LANES), slot % LANES)
}

/// The place of an inline value among its key's values.
#[inline(always)]
pub(crate) fn order<W: Words>(bucket: W, slot: usize) -> u8 {
    State::decode(state_byte(bucket, slot)).map_or(0, |state| state.order)
}

/// Calls `each` for every cell in use.
pub(crate) fn for_each<W: Words>(bucket: W, mut each: impl FnMut(Hit)) {
    for group in 0..GROUPS {
        let tags = bucket.word(TAGS + group);
        let mut used = !empty(tags) & HIGH_BITS;
        while used != 0 {
            let lane = lane(used);
            each(Hit { slot: group * LANES + lane, inline: byte(tags, lane) & INLINE != 0 });
            used &= used - 1;
        }
    }
}

/// Calls `each` for every cell that names a value set.
pub(crate) fn for_each_spilled<W: Words>(bucket: W, mut each: impl FnMut(usize)) {
    for group in 0..GROUPS {
        let tags = bucket.word(TAGS + group);
        let mut spilled = !empty(tags) & !tags & HIGH_BITS;
        while spilled != 0 {
            each(group * LANES + lane(spilled));
            spilled &= spilled - 1;
        }
    }
}

/// The bucket to which cells went when this one was full and could not be split; 0 for none.
#[inline(always)]
pub(crate) fn next<W: Words>(bucket: W) -> u32 {
    bucket.word(1) as u32
}

#[inline(always)]
pub(crate) fn head<W: Words>(bucket: W) -> Head {
    Head::unpack(bucket.word(0))
}

/// Loads what a search for this hash reads first, and what a change then writes.
#[inline]
pub(crate) fn prefetch_tags(bucket: Live<'_>, hash: Hash) {
    for word in [0, TAGS + hash.group(), STATES + hash.group()] {
        crate::memory::prefetch(&bucket.0[word]);
    }
}

/// Loads the first cell that may be the key's, or the one that it would get.
#[inline]
pub(crate) fn prefetch_cell(bucket: Live<'_>, hash: Hash) {
    let group = hash.group();
    let tags = bucket.word(TAGS + group);
    let matches = equal(tags, u64::from(hash.tag()) * EACH);
    let wanted = if matches != 0 { matches } else { empty(tags) };
    if wanted != 0 {
        crate::memory::prefetch(&bucket.0[FIRST_CELL + (group * LANES + lane(wanted)) * CELL_WORDS]);
    }
}

/// The cells of a key's home group.
#[inline(always)]
pub(crate) fn prefetch_cells(bucket: Live<'_>, hash: Hash) {
    let group = hash.group();
    let cells = FIRST_CELL + group * LANES * CELL_WORDS;
    // The cells of a group are four cache lines; which of them is known only when the tags are.
    for line in 0..4 {
        crate::memory::prefetch(&bucket.0[cells + line * 8]);
    }
}

/// Where the value set of a key with this hash may be: for loading it ahead, so nothing is compared.
#[inline]
pub(crate) fn guess_set(bucket: Live<'_>, hash: Hash) -> Option<u64> {
    let group = hash.group();
    let tags = bucket.word(TAGS + group);
    let spilled = equal(tags, u64::from(hash.tag()) * EACH) & !tags;
    (spilled != 0).then(|| value(bucket, group * LANES + lane(spilled)).low())
}

impl Live<'_> {
    #[inline(always)]
    fn set(self, index: usize, word: u64) {
        self.0[index].store(word, Ordering::Relaxed);
    }

    #[inline(always)]
    fn set_byte(self, index: usize, lane: usize, value: u8) {
        let word = self.word(index) & !(0xff << (lane * 8));
        self.set(index, word | u64::from(value) << (lane * 8));
    }

    /// What a reader compares: even when the bucket is at rest.
    #[inline(always)]
    pub(crate) fn version(self) -> u32 {
        self.0[0].load(Ordering::Acquire) as u32
    }

    /// From here until [`Live::end`] readers of this bucket wait.
    #[inline]
    pub(crate) fn begin(self) {
        let mut head = head(self);
        head.version |= 1;
        self.set(0, head.pack());
        fence(Ordering::Release);
    }

    /// Lets readers in again.
    #[inline]
    pub(crate) fn end(self) {
        let mut head = head(self);
        head.version = (head.version | 1).wrapping_add(1);
        self.0[0].store(head.pack(), Ordering::Release);
    }

    /// Empties the bucket, keeping its version.
    pub(crate) fn clear(self, depth: u8) {
        let version = head(self).version;
        self.set(0, Head { version, overflow: 0, depth, used: 0 }.pack());
        for index in 1..FIRST_CELL {
            self.set(index, 0);
        }
    }

    pub(crate) fn set_depth(self, depth: u8) {
        self.set(0, Head { depth, ..head(self) }.pack());
    }

    pub(crate) fn set_next(self, next: u32) {
        self.set(1, u64::from(next));
    }

    /// Puts a value into an empty cell; `false` when there is none.
    pub(crate) fn place(self, hash: Hash, key: E, value: E, state: State) -> bool {
        let mut head = head(self);
        if usize::from(head.used) >= CELLS {
            return false;
        }
        let mut group = hash.group();
        for _ in 0..GROUPS {
            let free = empty(self.word(TAGS + group));
            if free != 0 {
                let slot = group * LANES + lane(free);
                self.write(slot, key, value);
                self.set_state(slot, hash, state);
                head.used += 1;
                self.set(0, head.pack());
                return true;
            }
            head.overflow |= 1 << group;
            group = if group == GROUPS - 1 { 0 } else { group + 1 };
        }
        false
    }

    fn write(self, slot: usize, key: E, value: E) {
        let cell = FIRST_CELL + slot * CELL_WORDS;
        self.set(cell, key.high());
        self.set(cell + 1, key.low());
        self.set_value(slot, value);
    }

    pub(crate) fn set_value(self, slot: usize, value: E) {
        let cell = FIRST_CELL + slot * CELL_WORDS;
        self.set(cell + 2, value.high());
        self.set(cell + 3, value.low());
    }

    /// Writes the tag and the state of a cell in use.
    pub(crate) fn set_state(self, slot: usize, hash: Hash, state: State) {
        let tag = hash.tag() | if state.spilled { 0 } else { INLINE };
        self.set_byte(TAGS + slot / LANES, slot % LANES, tag);
        self.set_byte(STATES + slot / LANES, slot % LANES, state.encode());
    }

    /// Empties a cell. Nothing is left behind: the overflow bits say how far a search must go.
    pub(crate) fn remove(self, slot: usize) {
        self.set_byte(TAGS + slot / LANES, slot % LANES, 0);
        self.set_byte(STATES + slot / LANES, slot % LANES, 0);
        let mut head = head(self);
        head.used -= 1;
        if head.used == 0 {
            head.overflow = 0;
        }
        self.set(0, head.pack());
    }

    /// Copies a bucket out of a file.
    pub(crate) fn load(self, stored: Stored<'_>) {
        let version = head(self).version;
        let mut first = head(stored);
        first.version = version;
        self.set(0, first.pack());
        self.set(1, u64::from(next(stored)));
        for index in 2..WORDS {
            self.set(index, stored.word(index));
        }
    }

    /// Copies the bucket as it is.
    pub(crate) fn copy(self, out: &mut [u8; BYTES]) {
        for (word, from) in out.as_chunks_mut().0.iter_mut().zip(self.0) {
            *word = from.load(Ordering::Relaxed).to_le_bytes();
        }
    }
}

/// Makes a copied bucket ready to be sealed: with `next` as the overflow bucket's number in the file, and zeros in unused
/// cells, so that equal links give equal files.
pub(crate) fn tidy(out: &mut [u8; BYTES], next: u32) {
    for slot in 0..CELLS {
        if out[TAGS * 8 + slot] == 0 {
            let start = (FIRST_CELL + slot * CELL_WORDS) * 8;
            out[start..start + CELL_WORDS * 8].fill(0);
        }
    }
    out[8..12].copy_from_slice(&next.to_le_bytes());
}

/// Replaces the value of a cell in a bucket on its way into a file.
pub(crate) fn set_stored_value(out: &mut [u8; BYTES], slot: usize, value: E) {
    let start = (FIRST_CELL + slot * CELL_WORDS + 2) * 8;
    out[start..start + 8].copy_from_slice(&value.high().to_le_bytes());
    out[start + 8..start + 16].copy_from_slice(&value.low().to_le_bytes());
}

/// Where a bucket belongs: the image, and its number there. Its checksum begins with it, so that a sound bucket in the
/// place of another one, or an older one, is noticed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home(u32);

impl Home {
    pub(crate) fn new(image: u64, index: u32) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&image.to_le_bytes()), &index.to_le_bytes()))
    }
}

fn checksum(bytes: &[u8; BYTES], home: Home) -> [u8; 4] {
    let before = crc32c::crc32c_append(home.0, &bytes[..12]);
    crc32c::crc32c_append(crc32c::crc32c_append(before, &[0; 4]), &bytes[16..]).to_le_bytes()
}

/// Writes the checksum of a bucket on its way into a file.
pub(crate) fn seal(out: &mut [u8; BYTES], home: Home) {
    let sum = checksum(out, home);
    out[12..16].copy_from_slice(&sum);
}

/// Bytes that are kept of each bucket beside an image.
pub(crate) const TAG_BYTES: usize = TAG_WORDS * 8;
const TAG_WORDS: usize = 1 + GROUPS;

/// What of a bucket on its way into a file tells that a key is not there: overflow bits, overflow bucket, and tags.
pub(crate) fn tags_of(stored: &[u8; BYTES], out: &mut [u8; TAG_BYTES]) {
    let bucket = Stored(stored);
    let first = u64::from(head(bucket).overflow) | u64::from(next(bucket)) << 32;
    out[..8].copy_from_slice(&first.to_le_bytes());
    out[8..].copy_from_slice(&stored[TAGS * 8..STATES * 8]);
}

/// The tags of all buckets of an image, about nine bits a key, kept in memory: for all but one in twenty of the keys that
/// are not there, the bucket need not be read.
#[derive(Debug, Default)]
pub(crate) struct Tags(Vec<u64>);

impl Tags {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// Whether these are what [`tags_of`] says of a bucket.
    pub(crate) fn agree(&self, index: u32, stored: &[u8; BYTES]) -> bool {
        let mut expected = [0; TAG_BYTES];
        tags_of(stored, &mut expected);
        let start = index as usize * TAG_WORDS;
        let words = self.0.get(start..start + TAG_WORDS).unwrap_or_default();
        words.iter().copied().eq(expected.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `hit` with every cell in which a key with this hash may be: the bucket's number, and the cell. `false` when there
    /// are no tags, or when they lead nowhere.
    #[inline]
    pub(crate) fn find<E>(
        &self,
        head: u32,
        hash: Hash,
        mut hit: impl FnMut(u32, Hit) -> Result<(), E>,
    ) -> Result<bool, E> {
        let pattern = u64::from(hash.tag()) * EACH;
        let mut at = head;
        loop {
            let start = at as usize * TAG_WORDS;
            let Some(words) = self.0.get(start..).and_then(<[u64]>::first_chunk::<TAG_WORDS>) else {
                return Ok(false);
            };
            let overflow = words[0] as u16;
            let mut group = hash.group();
            for _ in 0..GROUPS {
                let tags = words[1 + group];
                let mut matches = equal(tags, pattern);
                while matches != 0 {
                    let lane = lane(matches);
                    hit(at, Hit { slot: group * LANES + lane, inline: byte(tags, lane) & INLINE != 0 })?;
                    matches &= matches - 1;
                }
                if overflow >> group & 1 == 0 {
                    break;
                }
                group = if group == GROUPS - 1 { 0 } else { group + 1 };
            }
            let next = (words[0] >> 32) as u32;
            if next == 0 {
                return Ok(true);
            }
            // Overflow buckets have larger numbers; anything else is for the bucket's reader to report.
            if next <= at {
                return Ok(false);
            }
            at = next;
        }
    }
}

/// What reading a bucket of a file found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Intact,
    /// This many states had a flipped bit, and with them corrected the checksum agrees.
    Corrected(u32),
    Damaged,
}

/// Checks a bucket read from a file, and corrects what its states allow.
pub(crate) fn check(bytes: &mut [u8; BYTES], home: Home) -> Checked {
    if is_intact(bytes, home) {
        return Checked::Intact;
    }
    let mut corrected = 0;
    for state in &mut bytes[STATES * 8..FIRST_CELL * 8] {
        if *state == 0 {
            continue;
        }
        let Some(right) = StateMask(*state).state() else { return Checked::Damaged };
        let right = if right == 0 { 0 } else { StateMask::encode(right).0 };
        if right != *state {
            *state = right;
            corrected += 1;
        }
    }
    if corrected > 0 && is_intact(bytes, home) { Checked::Corrected(corrected) } else { Checked::Damaged }
}

/// Whether the checksum of a bucket read from a file agrees.
pub(crate) fn is_intact(bytes: &[u8; BYTES], home: Home) -> bool {
    bytes[12..16] == checksum(bytes, home)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Box<[AtomicU64; WORDS]> {
        Box::new(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn found(bucket: Live<'_>, hash: Hash, key: E) -> Vec<E> {
        let mut values = Vec::new();
        find(bucket, hash, key, |hit| values.push(value(bucket, hit.slot)));
        values
    }

    #[test]
    fn a_full_bucket_finds_each_of_its_cells_and_nothing_else() {
        let seed = crate::hash::Seed([1, 2]);
        let words = words();
        let bucket = Live(&words);
        for number in 0..CELLS as u128 {
            let key = E::new(number);
            assert!(bucket.place(seed.hash(key), key, E::new(number + 1000), State { spilled: false, order: 0 }));
        }
        assert!(!bucket.place(seed.hash(E::MAX), E::MAX, E::MIN, State { spilled: false, order: 0 }));
        for number in 0..CELLS as u128 {
            let key = E::new(number);
            assert_eq!(found(bucket, seed.hash(key), key), [E::new(number + 1000)]);
        }
        assert!((1000..3000).all(|number| found(bucket, seed.hash(E::new(number)), E::new(number)).is_empty()));
        let mut cells = 0;
        for_each(bucket, |_| cells += 1);
        assert_eq!(cells, CELLS);
    }

    #[test]
    fn a_flipped_bit_in_a_file_is_corrected_in_a_state_and_noticed_anywhere_else() {
        let seed = crate::hash::Seed([3, 4]);
        let words = words();
        let bucket = Live(&words);
        for number in 0..70_u128 {
            let key = E::new(number);
            bucket.place(seed.hash(key), key, key, State { spilled: false, order: (number % 4) as u8 });
        }
        let mut stored = [0; BYTES];
        bucket.copy(&mut stored);
        tidy(&mut stored, 0);
        let home = Home::new(7, 8);
        seal(&mut stored, home);
        assert_eq!(check(&mut stored.clone(), home), Checked::Intact);
        for elsewhere in [Home::new(7, 9), Home::new(6, 8)] {
            assert_eq!(check(&mut stored.clone(), elsewhere), Checked::Damaged);
        }
        for bit in 0..BYTES * 8 {
            let mut flipped = stored;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let in_used_state = (STATES * 8..FIRST_CELL * 8).contains(&(bit / 8)) && stored[bit / 8] != 0;
            match check(&mut flipped, home) {
                Checked::Corrected(1) => assert_eq!(flipped, stored, "bit {bit}"),
                Checked::Damaged => assert!(!in_used_state, "bit {bit}"),
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }
}
