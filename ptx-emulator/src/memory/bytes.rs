//! Bytes that several worker threads may touch at once, as a GPU's memory may be: every access is a relaxed atomic.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Brings what is referred to near the processor, where it can be asked to.
#[inline(always)]
pub fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads and writes nothing, from an address that a reference gives.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// A zeroed range of bytes, shared between threads. Pages that nobody touches cost no memory.
#[derive(Debug)]
pub struct Bytes {
    start: NonNull<u8>,
    words: usize,
}

// SAFETY: the range is owned, and reached only through atomic operations (or `&mut` on drop).
unsafe impl Send for Bytes {}
// SAFETY: as above: all shared accesses are atomic.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// Zeroed room for `len` bytes, rounded up to 16; `None` when the machine has no more memory.
    pub fn new(len: usize) -> Option<Bytes> {
        let words = len.div_ceil(16).max(1) * 2;
        let layout = std::alloc::Layout::array::<u64>(words).ok()?;
        // SAFETY: the layout has a size above zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Bytes { start, words })
    }

    /// Length in bytes, a multiple of 16.
    pub fn len(&self) -> usize {
        self.words * 8
    }

    /// Whether there is nothing (never: at least one word is kept).
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The 8 bytes at an offset will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        let p = self.at(offset / 8 * 8, 8);
        // SAFETY: `at` checked range and alignment; the reference is to an atomic, as all accesses are.
        prefetch(unsafe { AtomicU64::from_ptr(p.cast()) });
    }

    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(size) && offset + size <= self.len());
        // SAFETY: the range was just checked to lie inside the allocation.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// The `size` (1, 2, 4 or 8) bytes at an offset aligned to it.
    #[inline(always)]
    pub fn load(&self, offset: usize, size: usize) -> u64 {
        let p = self.at(offset, size);
        // SAFETY: `at` checked range and alignment; all accesses to the range are atomic.
        unsafe {
            match size {
                1 => u64::from(AtomicU8::from_ptr(p).load(Relaxed)),
                2 => u64::from(AtomicU16::from_ptr(p.cast()).load(Relaxed)),
                4 => u64::from(AtomicU32::from_ptr(p.cast()).load(Relaxed)),
                _ => AtomicU64::from_ptr(p.cast()).load(Relaxed),
            }
        }
    }

    /// Stores the low `size` bytes of `value`.
    #[inline(always)]
    pub fn store(&self, offset: usize, size: usize, value: u64) {
        let p = self.at(offset, size);
        // SAFETY: as in `load`.
        unsafe {
            match size {
                1 => AtomicU8::from_ptr(p).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(p.cast()).store(value, Relaxed),
            }
        }
    }

    /// Replaces a value by `f` of it in one step; returns the old one.
    #[inline]
    pub fn update(&self, offset: usize, size: usize, f: impl Fn(u64) -> u64) -> u64 {
        let p = self.at(offset, size);
        // SAFETY: as in `load`.
        unsafe {
            match size {
                2 => {
                    let a = AtomicU16::from_ptr(p.cast());
                    a.fetch_update(Relaxed, Relaxed, |v| Some(f(u64::from(v)) as u16)).map_or(0, u64::from)
                }
                4 => {
                    let a = AtomicU32::from_ptr(p.cast());
                    a.fetch_update(Relaxed, Relaxed, |v| Some(f(u64::from(v)) as u32)).map_or(0, u64::from)
                }
                _ => {
                    AtomicU64::from_ptr(p.cast()).fetch_update(Relaxed, Relaxed, |v| Some(f(v))).unwrap_or(0)
                }
            }
        }
    }

    /// Copies out.
    pub fn read(&self, mut offset: usize, out: &mut [u8]) {
        let mut out = out;
        while !out.is_empty() {
            if offset.is_multiple_of(8) && out.len() >= 8 {
                let (head, tail) = out.split_at_mut(8);
                head.copy_from_slice(&self.load(offset, 8).to_le_bytes());
                out = tail;
                offset += 8;
            } else {
                out[0] = self.load(offset, 1) as u8;
                out = &mut out[1..];
                offset += 1;
            }
        }
    }

    /// Copies in.
    pub fn write(&self, mut offset: usize, mut data: &[u8]) {
        while !data.is_empty() {
            if offset.is_multiple_of(8) && data.len() >= 8 {
                let (head, tail) = data.split_at(8);
                self.store(offset, 8, u64::from_le_bytes(head.try_into().expect("eight bytes")));
                data = tail;
                offset += 8;
            } else {
                self.store(offset, 1, u64::from(data[0]));
                data = &data[1..];
                offset += 1;
            }
        }
    }

    /// Sets `len` bytes to `value`.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            if at.is_multiple_of(8) && at + 8 <= end {
                self.store(at, 8, u64::from_ne_bytes([value; 8]));
                at += 8;
            } else {
                self.store(at, 1, u64::from(value));
                at += 1;
            }
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let layout = std::alloc::Layout::array::<u64>(self.words).expect("checked when allocated");
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) }
    }
}
