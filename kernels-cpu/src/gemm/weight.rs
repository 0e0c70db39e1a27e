//! The weight of a product: packed once into panels, or rows straight from a memory map.
//!
//! A panel holds two vectors of output columns (the last perhaps one) over the whole depth, unit after unit, so that
//! any block of k is one contiguous run and a matrix-vector product reads memory in order. The columns that pad the
//! last panel are zero.

use super::{GemmError, check_sizes, kernels};
use crate::aligned::AlignedBuf;
use crate::arch::blocks::BLOCK;
use crate::arch::gemm::{GemmKernels, round_to_bf16};
use crate::isa::Features;
use std::ops::Range;

/// In what form packed panels hold their elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// f32, multiplied in f32.
    F32,
    /// bf16; A is rounded to bf16 too, and sums are f32.
    Bf16,
    /// GGUF's blocks of 32 signed bytes and a scale; A stays f32.
    Q8_0,
    /// Blocks of 32 nibbles less 8, and a scale; A stays f32.
    Q4_0,
    /// Blocks of 32 nibbles, a scale and a minimum; A stays f32.
    Q4_1,
    /// bf16, widened and multiplied in f32.
    Bf16Wide,
    /// IEEE half, widened and multiplied in f32.
    F16Wide,
    /// As [`WeightFormat::Q8_0`], and each 32 elements of A are rounded to signed bytes and a scale.
    Q8_0Int8,
    /// As [`WeightFormat::Q4_0`], A rounded to bytes.
    Q4_0Int8,
    /// As [`WeightFormat::Q4_1`], A rounded to bytes.
    Q4_1Int8,
}

impl WeightFormat {
    /// Bytes of a block of 32 elements as a file has them; `None` where elements stand alone.
    pub fn block_bytes(self) -> Option<usize> {
        match self {
            WeightFormat::F32 | WeightFormat::Bf16 | WeightFormat::Bf16Wide | WeightFormat::F16Wide => None,
            WeightFormat::Q8_0 | WeightFormat::Q8_0Int8 => Some(34),
            WeightFormat::Q4_0 | WeightFormat::Q4_0Int8 => Some(18),
            WeightFormat::Q4_1 | WeightFormat::Q4_1Int8 => Some(20),
        }
    }

    /// The same weight, for activations that are rounded to bytes: of quantised formats alone there is such a form.
    pub fn with_int8_activations(self) -> WeightFormat {
        match self {
            WeightFormat::Q8_0 => WeightFormat::Q8_0Int8,
            WeightFormat::Q4_0 => WeightFormat::Q4_0Int8,
            WeightFormat::Q4_1 => WeightFormat::Q4_1Int8,
            other => other,
        }
    }
}

/// The element type of an unpacked weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowsDType {
    /// f32, multiplied in f32.
    F32,
    /// bf16, multiplied as [`WeightFormat::Bf16`].
    Bf16,
    /// IEEE half, widened and multiplied in f32.
    F16,
}

impl RowsDType {
    /// The size of an element, in bytes.
    pub fn bytes(self) -> usize {
        match self {
            RowsDType::F32 => 4,
            RowsDType::Bf16 | RowsDType::F16 => 2,
        }
    }

    /// The panels into which it is packed.
    pub(crate) fn format(self) -> WeightFormat {
        match self {
            RowsDType::F32 | RowsDType::F16 => WeightFormat::F32,
            RowsDType::Bf16 => WeightFormat::Bf16,
        }
    }
}

/// How a product finds its weight; fixed when the product is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightKind {
    /// A [`PackedMatrix`].
    Packed(WeightFormat),
    /// Row-major `[n, k]`, contiguous, at any alignment, packed block by block while the product runs.
    Rows(RowsDType),
}

/// A weight, of the [`WeightKind`] that the product was prepared for.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    /// Panels.
    Packed(&'a PackedMatrix),
    /// The first byte of row 0.
    Rows(*const u8),
}

/// A weight `[n, k]` in panels, for the instruction set it was packed for.
#[derive(Debug)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    format: WeightFormat,
    features: Features,
    panel_words: usize,
    data: AlignedBuf,
}

impl PackedMatrix {
    /// Packs a row-major weight `[n, k]`, a few rows at a time: `read(rows, buffer)` fills `buffer`, `[rows, k]`, with
    /// those rows. Of the unpacked weight no more than one panel's rows are held.
    ///
    /// # Errors
    /// If a size is 0 or the sizes overflow.
    pub fn pack(
        n: usize,
        k: usize,
        format: WeightFormat,
        features: Features,
        mut read: impl FnMut(Range<usize>, &mut [f32]),
    ) -> Result<PackedMatrix, GemmError> {
        check_sizes("pack", &[("n", n), ("k", k)])?;
        let kernels = kernels(format, features);
        let layout = Panels::new(kernels, n, k);
        let mut data = AlignedBuf::packed(layout.total_words() * 4);
        let mut staging = vec![0.0f32; layout.width * k];
        // How an element becomes 16 bits, where it does.
        let narrow: Option<fn(f32) -> u16> = match format {
            WeightFormat::Bf16 | WeightFormat::Bf16Wide => Some(|x| (round_to_bf16(x) >> 16) as u16),
            WeightFormat::F16Wide => Some(|x| half::f16::from_f32(x).to_bits()),
            _ => None,
        };
        // Rows of pairs; an odd depth leaves a zero at the end of each.
        let mut pairs = vec![0u16; if narrow.is_some() { layout.width * layout.units * 2 } else { 0 }];
        for panel in 0..layout.count() {
            let first = panel * layout.width;
            let rows = layout.width.min(n - first);
            read(first..first + rows, &mut staging[..rows * k]);
            let (from, stride) = match (format, narrow) {
                (WeightFormat::F32, _) => (staging.as_ptr().cast::<u8>(), k * 4),
                (_, Some(narrow)) => {
                    for r in 0..rows {
                        for (to, x) in
                            pairs[r * layout.units * 2..].iter_mut().zip(&staging[r * k..(r + 1) * k])
                        {
                            *to = narrow(*x);
                        }
                    }
                    (pairs.as_ptr().cast::<u8>(), layout.units * 4)
                }
                // Blocks are packed as they are, never from f32.
                _ => return Err(GemmError::Blocks { k, block: BLOCK }),
            };
            let to = data.as_mut_slice()[panel * layout.panel_words() * 4..].as_mut_ptr().cast::<f32>();
            // SAFETY: the staging rows hold `rows` rows of `units` words; the panel's words lie within `data`;
            // `kernels` chose a set that this processor executes.
            unsafe { (kernels.transpose)(from, stride, rows, layout.units, to, layout.panel_width(panel)) }
        }
        Ok(PackedMatrix { n, k, format, features, panel_words: layout.panel_words(), data })
    }

    /// Packs a row-major weight `[n, k]` of quantised blocks as they are, nothing expanded: `read(rows, buffer)` fills
    /// `buffer` with the blocks of those rows.
    ///
    /// # Errors
    /// If a size is 0, the sizes overflow, or `k` is not a whole number of blocks.
    pub fn pack_blocks(
        n: usize,
        k: usize,
        format: WeightFormat,
        features: Features,
        mut read: impl FnMut(Range<usize>, &mut [u8]),
    ) -> Result<PackedMatrix, GemmError> {
        check_sizes("pack", &[("n", n), ("k", k)])?;
        let Some(block_bytes) = format.block_bytes().filter(|_| k.is_multiple_of(BLOCK)) else {
            return Err(GemmError::Blocks { k, block: BLOCK });
        };
        let kernels = kernels(format, features);
        let layout = Panels::new(kernels, n, k);
        let mut data = AlignedBuf::packed(layout.total_words() * 4);
        let row_bytes = layout.units * block_bytes;
        let row_words = layout.units * kernels.b_words;
        let mut staging = vec![0u8; layout.width * row_bytes];
        let mut words = vec![0u32; layout.width * row_words];
        // The halves that come before the quants.
        let head = block_bytes - 4 * (kernels.b_words - 1);
        for panel in 0..layout.count() {
            let first = panel * layout.width;
            let rows = layout.width.min(n - first);
            read(first..first + rows, &mut staging[..rows * row_bytes]);
            let blocks = staging[..rows * row_bytes].chunks_exact(block_bytes);
            for (block, words) in blocks.zip(words.chunks_exact_mut(kernels.b_words)) {
                let half = |at: usize| u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
                words[0] = half(0) | if head > 2 { half(2) << 16 } else { 0 };
                for (word, quants) in words[1..].iter_mut().zip(block[head..].as_chunks::<4>().0) {
                    *word = u32::from_le_bytes(*quants);
                }
            }
            let to = data.as_mut_slice()[panel * layout.panel_words() * 4..].as_mut_ptr().cast::<f32>();
            let (from, width) = (words.as_ptr().cast::<u8>(), layout.panel_width(panel));
            // SAFETY: `words` holds `rows` rows of `row_words` words; the panel's words lie within `data`; `kernels` chose a
            // set that this processor executes.
            unsafe { (kernels.transpose)(from, row_words * 4, rows, row_words, to, width) }
        }
        Ok(PackedMatrix { n, k, format, features, panel_words: layout.panel_words(), data })
    }

    /// Output columns (rows of the weight).
    pub fn n(&self) -> usize {
        self.n
    }

    /// Depth.
    pub fn k(&self) -> usize {
        self.k
    }

    /// In what form the elements are held.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// The processor that it was packed for.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The first word of a panel.
    pub(crate) fn panel(&self, panel: usize) -> *const f32 {
        debug_assert!(panel * self.panel_words * 4 < self.data.len());
        self.data.as_ptr().cast::<f32>().wrapping_add(panel * self.panel_words)
    }
}

/// Where the panels of a weight `[n, k]` lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    /// Columns of a panel.
    pub width: usize,
    /// Units of depth.
    pub units: usize,
    /// Words of a column in a unit.
    pub words: usize,
    lanes: usize,
    n: usize,
}

impl Panels {
    pub fn new(kernels: &GemmKernels, n: usize, k: usize) -> Panels {
        let (width, lanes) = (2 * kernels.lanes, kernels.lanes);
        Panels { width, units: k.div_ceil(kernels.unit), words: kernels.b_words, lanes, n }
    }

    /// The number of panels.
    pub fn count(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    /// Columns of panel `panel`, padding included: two vectors, or one if no more than that are left.
    pub fn panel_width(&self, panel: usize) -> usize {
        if self.n - panel * self.width <= self.lanes { self.lanes } else { self.width }
    }

    /// Words of a whole panel.
    pub fn panel_words(&self) -> usize {
        self.width * self.units * self.words
    }

    fn total_words(&self) -> usize {
        let last = self.count() - 1;
        last * self.panel_words() + self.panel_width(last) * self.units * self.words
    }
}
