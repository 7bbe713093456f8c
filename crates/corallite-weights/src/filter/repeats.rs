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
/// Of so many windows one is looked at first; all are where it has a find.
const FIRST_LOOK: usize = 4;
const TABLE_BITS: u32 = 12;
/// Where more of the hash is in an entry.
const TAG: u32 = !0 << 16;
const MAX_DISTANCE: usize = 32 * 1024;

/// What has been seen of one buffer.
pub(super) struct Repeats {
    /// Of the last anchor with this hash, the lower bits of the position, and from bit 16 on more of its hash, which saves
    /// a look at the bytes.
    anchors: Box<[u32; 1 << TABLE_BITS]>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { anchors: Box::new([0; 1 << TABLE_BITS]) }
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
        let is_found =
            |repeats: &Self, at: usize| (at..at + ANCHOR_STRIDE).any(|position| repeats.seen(buffer, position, length));
        // The last window has to be whole.
        let windows = (start..end).step_by(WINDOW_STRIDE);
        let is_whole = |at: &usize| buffer.len() - at >= ANCHOR_STRIDE + length - 1;
        let mut share = 0.0;
        let mut done = start;
        // Whether to look at all, by windows that have not been looked at.
        for (i, at) in windows.clone().enumerate() {
            if i % FIRST_LOOK == 0 && is_whole(&at) && is_found(self, at) {
                share = 1.0;
                break;
            }
            done = (at + WINDOW_STRIDE).min(end);
            self.remember_from(buffer, at, done);
        }
        if share > 0.0 {
            let (mut looked_at, mut found) = (0_u32, 0_u32);
            for at in windows.filter(is_whole) {
                looked_at += 1;
                found += u32::from(is_found(self, at));
                if at >= done {
                    self.remember_from(buffer, at, (at + WINDOW_STRIDE).min(end));
                }
            }
            share = found as f32 / looked_at.max(1) as f32;
        }
        share
    }

    #[inline(always)]
    fn remember_from(&mut self, buffer: &[u8], start: usize, end: usize) {
        (start..end).step_by(ANCHOR_STRIDE).for_each(|anchor| self.remember(buffer, anchor));
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
            self.anchors[slot] = tag | position as u32 & !TAG;
        }
    }

    #[inline(always)]
    fn seen(&self, buffer: &[u8], position: usize, length: usize) -> bool {
        let Some(here) = word(buffer, position) else { return false };
        let (slot, tag) = hash(here);
        let found = self.anchors[slot];
        if found & TAG != tag {
            return false;
        }
        // The last position before this one with these lower bits; whether it was an anchor matters not, as its bytes are
        // compared.
        let distance = ((position as u32).wrapping_sub(found) & !TAG) as usize;
        // A run of one value is no find: it needs no search.
        distance > 0
            && distance <= MAX_DISTANCE.min(position)
            && word(buffer, position - distance) == Some(here)
            && here != here.rotate_left(8)
            && buffer
                .get(position..position + length)
                .is_some_and(|here| here == &buffer[position - distance..][..length])
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
fn hash(word: u64) -> (usize, u32) {
    let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash >> (64 - TABLE_BITS)) as usize, (hash >> 20) as u32 & TAG)
}
