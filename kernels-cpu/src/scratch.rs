//! A worker's scratch memory, cut into f32 arrays without allocating.

use crate::aligned::ALIGN;

/// What is left of a worker's scratch.
pub(crate) struct Scratch<'a>(&'a mut [u8]);

impl<'a> Scratch<'a> {
    /// Starts cutting `bytes`, which are aligned to [`ALIGN`].
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        debug_assert_eq!(bytes.as_ptr() as usize % ALIGN, 0, "scratch must be aligned to {ALIGN} bytes");
        Scratch(bytes)
    }

    /// The next `len` f32, aligned to a cache line; their content is whatever was there.
    ///
    /// # Panics
    /// If the scratch is smaller than the kernel's `scratch_bytes()` says.
    pub(crate) fn floats(&mut self, len: usize) -> *mut f32 {
        let bytes = floats_bytes(len);
        let whole = std::mem::take(&mut self.0);
        assert!(bytes <= whole.len(), "scratch is {} bytes short", bytes - whole.len());
        let (cut, rest) = whole.split_at_mut(bytes);
        self.0 = rest;
        cut.as_mut_ptr().cast()
    }
}

/// Bytes that [`Scratch::floats`] takes for `len` f32.
pub(crate) const fn floats_bytes(len: usize) -> usize {
    (len * 4).next_multiple_of(ALIGN)
}
