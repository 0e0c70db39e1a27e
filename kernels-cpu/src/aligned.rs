//! Zeroed memory on cache-line boundaries, and on huge-page boundaries once it is large: packed weights and scratch.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The alignment, in bytes, of every buffer: a cache line and a `zmm` register.
pub const ALIGN: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A fixed-size, zero-initialised byte buffer aligned to [`ALIGN`] bytes (to 2 MiB from 4 MiB on).
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer is plain bytes that only its owner frees; shared access is read-only through `&self`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `bytes` zero bytes.
    ///
    /// # Panics
    /// If `bytes` exceeds `isize::MAX`; an allocation that the system refuses aborts, as `Vec` does.
    pub fn zeroed(bytes: usize) -> AlignedBuf {
        let align = if bytes >= 2 * HUGE_PAGE { HUGE_PAGE } else { ALIGN };
        let layout = Layout::from_size_align(bytes.max(1), align).expect("a buffer within the address space");
        // SAFETY: the layout has a nonzero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        AlignedBuf { ptr: NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.layout.size()
    }

    /// Never true: an empty request still gets one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the pointer owns `size` initialised bytes, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}
