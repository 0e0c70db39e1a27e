//! An allocator that counts, for the tests that say that a run allocates nothing. A test binary takes it in by path, and
//! then has it as its allocator; no library does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALL: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// Allocations of the process so far, those of its worker threads among them: for a binary with one test.
#[allow(dead_code)] // each binary uses the one or the other
pub fn of_process() -> usize {
    ALL.load(Ordering::Relaxed)
}

/// Allocations of this thread so far: where other tests run at the same time.
#[allow(dead_code)] // each binary uses the one or the other
pub fn of_thread() -> usize {
    HERE.get()
}

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing (the thread's counter has no
// destructor and is initialised at compile time).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALL.fetch_add(1, Ordering::Relaxed);
        HERE.set(HERE.get() + 1);
        // SAFETY: passed on from the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: passed on from the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
