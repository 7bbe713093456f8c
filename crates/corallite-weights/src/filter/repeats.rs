//! Notices, at a fraction of a compressor's cost, whether a stretch of bytes repeats sequences.
//!
//! Every 32nd position is remembered by the bytes at it. In a window of 32 positions every
//! kilobyte those are looked for: a window inside a copy of something in the last 32 KiB cannot
//! miss one. The share of windows with a find decides whether a real search is worth its time.

/// The least length of what counts as a find.
const SHORTEST: usize = 12;

/// The greatest.
const LONGEST: usize = 160;

const ANCHOR_STRIDE: usize = 32;
const WINDOW_STRIDE: usize = 1024;
const TABLE_BITS: u32 = 12;
/// Where a hash is in an entry.
const TAG: u64 = !0 << 32;
const MAX_DISTANCE: usize = 32 * 1024;

/// What has been seen of one buffer.
pub(super) struct Repeats {
    /// Of the last anchor with this hash, the position plus one, and from bit 32 on more of its hash, which saves a look
    /// at the bytes. 0 for none.
    anchors: Vec<u64>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { anchors: vec![0; 1 << TABLE_BITS] }
    }
}

impl Repeats {
    /// Starts a new buffer.
    pub(super) fn reset(&mut self) {
        self.anchors.fill(0);
    }

    /// The share, 0 to 1, of windows in `start..end` that repeat `length` bytes before them. To be called
    /// for the parts of a buffer in order, each once.
    pub(super) fn share(&mut self, buffer: &[u8], start: usize, end: usize, length: usize) -> f32 {
        let (mut windows, mut found) = (0u32, 0u32);
        let mut at = start;
        while at < end {
            let stretch_end = (at + WINDOW_STRIDE).min(end);
            if buffer.get(at..at + ANCHOR_STRIDE + length - 1).is_some() {
                windows += 1;
                found += u32::from((at..at + ANCHOR_STRIDE).any(|position| self.seen(buffer, position, length)));
            }
            for anchor in (at..stretch_end).step_by(ANCHOR_STRIDE) {
                self.remember(buffer, anchor);
            }
            at = stretch_end;
        }
        if windows == 0 { 0.0 } else { found as f32 / windows as f32 }
    }

    /// As [`Repeats::share`], of all positions in a short stretch: those whose bytes were seen before.
    pub(super) fn dense_share(&mut self, buffer: &[u8], start: usize, end: usize, length: usize) -> f32 {
        let mut found = 0_u32;
        for position in start..end {
            found += u32::from(self.seen(buffer, position, length));
            self.remember(buffer, position);
        }
        found as f32 / (end - start).max(1) as f32
    }

    #[inline(always)]
    fn remember(&mut self, buffer: &[u8], position: usize) {
        if let Some(word) = word(buffer, position) {
            let (slot, tag) = hash(word);
            self.anchors[slot] = tag | (position as u64 + 1);
        }
    }

    #[inline(always)]
    fn seen(&self, buffer: &[u8], position: usize, length: usize) -> bool {
        let Some(here) = word(buffer, position) else { return false };
        let (slot, tag) = hash(here);
        let found = self.anchors[slot];
        if found & TAG != tag || found == 0 {
            return false;
        }
        let anchor = (found & !TAG) as usize - 1;
        // A run of one value is no find: it needs no search.
        position - anchor <= MAX_DISTANCE
            && word(buffer, anchor) == Some(here)
            && here != here.rotate_left(8)
            && buffer.get(position..position + length).is_some_and(|here| here == &buffer[anchor..anchor + length])
    }
}

/// How long a sequence must be to be a find in bytes of which two at random are equal with probability `p`, rather
/// than chance: exponent planes of real weights carry a little over two bits a byte, so that eight bytes
/// recur by chance in one window of six, and twelve in one of thousands. Planes of differences carry less.
pub(super) fn telling_length(p: f32) -> usize {
    // 32 positions meet 1024 anchors in reach.
    let bits = -p.log2();
    if bits > 22.0 / LONGEST as f32 { ((22.0 / bits) as usize).clamp(SHORTEST, LONGEST) } else { LONGEST }
}

fn word(buffer: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*buffer.get(at..)?.first_chunk()?))
}

/// The place of a word in the table, and what is kept of its hash there.
#[inline(always)]
fn hash(word: u64) -> (usize, u64) {
    let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash >> (64 - TABLE_BITS)) as usize, hash << TABLE_BITS & TAG)
}
