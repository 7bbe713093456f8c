//! Code compiled twice: for every processor, and for those that have vectors of 32 bytes and shifts by any register.

/// Runs `work`, which has to be inlined with all it calls (`#[inline(always)]`) to gain from it, compiled for the processor at hand.
#[inline]
pub(super) fn for_this_processor<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
    {
        // SAFETY: the processor has all that the function is compiled for.
        return unsafe { for_recent(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn for_recent<R>(work: impl FnOnce() -> R) -> R {
    work()
}
