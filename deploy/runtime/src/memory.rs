//! What a process gives back of the memory that it does not use any more. With another C library than glibc nothing of this does
//! anything.
//!
//! For processes that hold many small things and rarely need a large block.

use std::convert::Infallible;
use std::time::Duration;

use crate::Stop;
use crate::process_metrics::resident_bytes;

/// Free memory at the end of a heap that is given back, and blocks that are given back each by itself, in bytes: with what glibc
/// begins.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVEN_BACK: libc::c_int = 128 << 10;

/// How long after it began, or gave much back, a process that has grown looks for what is free; and how much that is at least.
const SOON: Duration = Duration::from_secs(10);
const MUCH_BYTES: f64 = 16_000_000.0;

/// How long after it found little, at most: each time is twice the one before.
const LATE: Duration = Duration::from_secs(320);

/// Keeps the allocator at the thresholds that it begins with. It raises them by itself and for ever (mallopt(3),
/// `M_MMAP_THRESHOLD`): a process that let go of one table of 8 MB keeps up to twice that of what is free at the end of each heap.
/// Each large block is asked of the system then.
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

/// Gives back what is free in the middle of the heaps, too, from time to time once the process has grown: after many clients at once
/// with much to say, that is nearly all that they needed.
pub async fn give_back_in_time(stop: Stop) -> Result<(), Infallible> {
    let (Some(began), mut wait) = (resident_bytes(), SOON) else { return Ok(()) };
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        let grown = resident_bytes().unwrap_or(began);
        if grown < began + MUCH_BYTES {
            wait = SOON;
            continue;
        }
        // It takes some milliseconds, in which a heap at a time stands still.
        let _never_panics = tokio::task::spawn_blocking(trim).await;
        let is_much = grown - resident_bytes().unwrap_or(grown) > MUCH_BYTES;
        wait = if is_much { SOON } else { LATE.min(2 * wait) };
    }
}

fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: under the allocator's own locks, as any allocation; only pages without any block in use are given back.
        #[expect(unsafe_code, reason = "it is a function of the C library; see the SAFETY note")]
        let _is_less = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_between_what_is_not_is_given_back() {
        let blocks: Vec<Box<[u8]>> = (0..400_000).map(|_| vec![1; 500].into_boxed_slice()).collect();
        // One in a hundred stays, so that no end of a heap is free.
        let kept: Vec<Box<[u8]>> =
            blocks.into_iter().enumerate().filter_map(|(number, block)| (number % 100 == 0).then_some(block)).collect();
        let grown = resident_bytes().unwrap();
        trim();
        let left = resident_bytes().unwrap();
        // 200 MB are free; other tests run beside.
        assert!(grown - left > 100e6, "{} kept: {grown} bytes before, {left} after", kept.len());
    }
}
