//! What a process gives back of the memory that it does not use any more.

/// Free memory at the end of a heap that is given back, and blocks that are given back each by itself, in bytes: with what glibc
/// begins.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVEN_BACK: libc::c_int = 128 << 10;

/// Keeps the allocator at the thresholds that it begins with. It raises them by itself and for ever (mallopt(3),
/// `M_MMAP_THRESHOLD`): a process that let go of one table of 8 MB keeps up to twice that of what is free at the end of each heap. For processes that hold many small things and rarely need a large block, because each of those
/// is asked of the system now. Does nothing with another C library.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for threshold in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number of the allocator, under the allocator's own lock; no block that is in use is touched.
        #[expect(unsafe_code, reason = "it is a function of the C library; see the SAFETY note")]
        let is_set = unsafe { libc::mallopt(threshold, GIVEN_BACK) };
        if is_set == 0 {
            tracing::warn!(threshold, "the allocator keeps its own threshold");
        }
    }
}
