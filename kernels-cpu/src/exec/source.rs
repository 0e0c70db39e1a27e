//! Where weights come from, as the executor sees it: shapes, rows as f32, and perhaps the mapped bytes.
//!
//! The executor knows no file format. Whoever opens files (or computes weights by a rule) implements this trait.

use super::{Packings, SourceError};
use crate::gemm::{RowsDType, WeightFormat};
use std::ops::Range;

/// Bytes of a whole tensor as they lie in memory, row-major, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a> {
    /// Element type.
    pub dtype: RowsDType,
    /// The bytes, little-endian.
    pub bytes: &'a [u8],
}

/// A collection of named tensors.
pub trait WeightSource: Send + Sync {
    /// What to call it in messages.
    fn label(&self) -> String;

    /// Shape of a tensor, or `None` where there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Reads elements `start .. start + out.len()`, row-major, as f32.
    ///
    /// # Errors
    /// Whatever keeps the source from doing so.
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError>;

    /// The tensor's bytes where they lie in memory as f32, bf16 or f16. An executable reads them in place for as
    /// long as it lives (it keeps the source alive).
    fn mapped(&self, name: &str) -> Option<Mapped<'_>> {
        let _ = name;
        None
    }

    /// The element type that the tensor is stored in, if it is f32, bf16 or f16; it may be there without being mapped.
    fn dtype(&self, name: &str) -> Option<RowsDType> {
        self.mapped(name).map(|mapped| mapped.dtype)
    }

    /// Where executables of this source share what they pack; `None` where each packs for itself.
    fn packings(&self) -> Option<&Packings> {
        None
    }

    /// The blocks that the tensor `[n, k]` is stored in, where it is quantised; products then read them through
    /// [`WeightSource::read_blocks`] and never expand them.
    fn blocks(&self, name: &str) -> Option<WeightFormat> {
        let _ = name;
        None
    }

    /// Reads the blocks of whole rows as they are stored, for a tensor of which [`WeightSource::blocks`] says the format.
    ///
    /// # Errors
    /// Whatever keeps the source from doing so.
    fn read_blocks(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let _ = (rows, out);
        Err(format!("tensor '{name}' is not stored in blocks").into())
    }

    /// The stored bytes of a quantised tensor where they lie in memory: what rows of a table are looked up in.
    fn mapped_blocks(&self, name: &str) -> Option<&[u8]> {
        let _ = name;
        None
    }

    /// The tensor has been packed: its pages may go. It may be read again.
    fn release(&self, name: &str) {
        let _ = name;
    }
}
