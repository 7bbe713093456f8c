//! Zeroed memory for results, on huge pages where the system gives them when asked.
//!
//! A page of 4 KiB costs the system a third of a nanosecond for each byte when it is first touched, which is more than
//! decoding takes.

/// From this length on it is asked for. Pages of 2 MiB may hold several results, which lie side by side.
const LARGE: usize = 1 << 20;

/// `len` zeros. Large results are best decoded to memory from here: on Linux it is on huge pages where these are
/// available to programs that ask (`/sys/kernel/mm/transparent_hugepage/enabled`), and cheaper to touch for the first time.
pub fn zeroed(len: usize) -> Vec<u8> {
    let room = vec![0; len];
    if len >= LARGE {
        ask_for_huge_pages(&room);
    }
    room
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn ask_for_huge_pages(room: &[u8]) {
    // SAFETY: sysconf reads a constant of the system.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    if !page.is_power_of_two() {
        return;
    }
    // From the page that it begins in, so that there is no gap in what is advised to the result before it.
    let before = room.as_ptr().addr() & (page - 1);
    let start = room.as_ptr().wrapping_sub(before).cast_mut();
    // SAFETY: the pages are mapped, since parts of `room` are in them. Advice on huge pages changes no byte of them, nor whether they
    // can be read or written; that it fails costs nothing but time.
    let _ = unsafe { libc::madvise(start.cast(), before + room.len(), libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_room: &[u8]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_results_is_zeros_of_every_length_and_can_be_written() {
        for len in [0, 1, LARGE - 1, LARGE, 3 * LARGE + 1, 40 * LARGE] {
            let mut room = zeroed(len);
            assert!(room.len() == len && room.iter().all(|byte| *byte == 0));
            room.fill(7);
        }
    }
}
