//! Zeroed memory on cache-line boundaries, and in huge pages once it is large: packed weights and scratch.
//!
//! A network's weights are read from end to end, over and over: in pages of 4 KiB each page is a miss of the TLB, which on a
//! virtual machine costs as much as reading the page. Linux gives pages of 2 MiB to those who ask. Most matrices are smaller
//! than that, so packed weights share large mappings ([`AlignedBuf::packed`]). Mapped memory is zero without being
//! written: what is never touched takes none.

use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The alignment, in bytes, of every buffer: a cache line and a `zmm` register.
pub const ALIGN: usize = 64;
const HUGE_PAGE: usize = 2 << 20;
/// From this size on, a buffer is a mapping of its own.
const MAPPED_FROM: usize = 2 * HUGE_PAGE;
/// The mapping that packed weights share; what is not used of it is only addresses.
const SLAB_BYTES: usize = 64 << 20;

/// A fixed-size, zero-initialised byte buffer aligned to [`ALIGN`] bytes.
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
    memory: Memory,
}

/// Who owns the bytes.
#[derive(Debug)]
enum Memory {
    Heap(Layout),
    Mapped { _map: MmapMut },
    Shared { _slab: Arc<Slab> },
}

/// A mapping that gives out its bytes once, from the front.
#[derive(Debug)]
struct Slab {
    map: MmapMut,
    first: NonNull<u8>,
    used: Mutex<usize>,
}

// SAFETY: the pointer leads into the slab's own mapping; parts of it are given out once each, under the lock.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

/// The slab that still has room, as long as someone uses it.
static OPEN: Mutex<Weak<Slab>> = Mutex::new(Weak::new());

// SAFETY: the buffer is plain bytes that only its owner frees; shared access is read-only through `&self`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

/// `bytes` zero bytes on a huge page's boundary, in huge pages where the system has them.
fn mapped(bytes: usize) -> (MmapMut, NonNull<u8>) {
    let layout = layout(bytes);
    let Some(mut map) = bytes.checked_add(HUGE_PAGE).and_then(|len| MmapMut::map_anon(len).ok()) else {
        handle_alloc_error(layout)
    };
    #[cfg(target_os = "linux")]
    // Refused by a kernel without huge pages: slower, nothing else.
    let _ = map.advise(memmap2::Advice::HugePage);
    let skip = map.as_ptr().align_offset(HUGE_PAGE);
    let first = NonNull::new(map.as_mut_ptr().wrapping_add(skip));
    (map, first.unwrap_or_else(|| handle_alloc_error(layout)))
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), ALIGN).expect("a buffer within the address space")
}

impl AlignedBuf {
    /// `bytes` zero bytes.
    ///
    /// # Panics
    /// If `bytes` exceeds `isize::MAX`; an allocation that the system refuses aborts, as `Vec` does.
    pub fn zeroed(bytes: usize) -> AlignedBuf {
        let layout = layout(bytes);
        if bytes >= MAPPED_FROM {
            let (map, ptr) = mapped(bytes);
            return AlignedBuf { ptr, len: bytes, memory: Memory::Mapped { _map: map } };
        }
        // SAFETY: the layout has a nonzero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuf { ptr, len: layout.size(), memory: Memory::Heap(layout) }
    }

    /// The same for what lives long and is read over and over: small ones share a mapping of huge pages, which goes with
    /// the last of them.
    ///
    /// # Panics
    /// As [`AlignedBuf::zeroed`].
    pub fn packed(bytes: usize) -> AlignedBuf {
        if bytes >= MAPPED_FROM {
            return AlignedBuf::zeroed(bytes);
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = open.upgrade().and_then(|slab| Slab::take(&slab, bytes)) {
            return buffer;
        }
        let (map, first) = mapped(SLAB_BYTES);
        let slab = Arc::new(Slab { map, first, used: Mutex::new(0) });
        *open = Arc::downgrade(&slab);
        Slab::take(&slab, bytes).unwrap_or_else(|| AlignedBuf::zeroed(bytes))
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.len
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
        // SAFETY: the pointer owns `len` initialised bytes, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Slab {
    /// The next `bytes`, if so many are left.
    fn take(slab: &Arc<Slab>, bytes: usize) -> Option<AlignedBuf> {
        let mut used = slab.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, len) = (*used, bytes.max(1));
        *used = from.checked_add(len.next_multiple_of(ALIGN)).filter(|end| *end <= SLAB_BYTES)?;
        debug_assert!(slab.map.as_ptr_range().contains(&slab.first.as_ptr().cast_const()));
        // SAFETY: the mapping has `SLAB_BYTES` from `first` on, and the part ends within them.
        let ptr = unsafe { slab.first.add(from) };
        drop(used);
        Some(AlignedBuf { ptr, len, memory: Memory::Shared { _slab: Arc::clone(slab) } })
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Memory::Heap(layout) = self.memory {
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_aligned_zero_and_its_own() {
        let sizes = [0, 1, 63, 64, 1 << 20, MAPPED_FROM - 1, MAPPED_FROM, MAPPED_FROM + 3, SLAB_BYTES + 1];
        for make in [AlignedBuf::zeroed, AlignedBuf::packed] {
            let mut buffers: Vec<AlignedBuf> = sizes.iter().map(|&bytes| make(bytes)).collect();
            for (i, (buffer, bytes)) in buffers.iter_mut().zip(sizes).enumerate() {
                assert!((buffer.as_ptr() as usize).is_multiple_of(ALIGN));
                assert_eq!(buffer.len(), bytes.max(1));
                assert!(buffer.as_mut_slice().iter().all(|&x| x == 0));
                buffer.as_mut_slice().fill(i as u8 + 1);
            }
            for (i, buffer) in buffers.iter_mut().enumerate() {
                assert!(buffer.as_mut_slice().iter().all(|&x| x == i as u8 + 1));
            }
        }
    }

    #[test]
    fn a_shared_mapping_outlives_its_first_buffers_and_gives_no_byte_twice() {
        let first = AlignedBuf::packed(100);
        let mut last = AlignedBuf::packed(100);
        assert_ne!(first.as_ptr(), last.as_ptr());
        last.as_mut_slice().fill(7);
        drop(first);
        // More than one mapping's worth, some of it dropped on the way.
        let many: Vec<_> = (0..40).map(|_| AlignedBuf::packed(3 << 20)).collect();
        let fresh = AlignedBuf::packed(100).as_mut_slice().iter().all(|&x| x == 0);
        drop(many);
        assert!(fresh && last.as_mut_slice().iter().all(|&x| x == 7));
    }
}
