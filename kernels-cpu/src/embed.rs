//! Rows out of tables: token embeddings by id, and the sinusoidal embedding of time.

use crate::RowMap;
use crate::arch::blocks::BLOCK;
use crate::gemm::WeightFormat;
use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};
use half::f16;

/// How the rows of a table are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// f32
    F32,
    /// bf16
    Bf16,
    /// IEEE half
    F16,
    /// Quantised blocks of 32.
    Blocks(WeightFormat),
}

impl TableFormat {
    /// Bytes of a row of `width` elements, a whole number of blocks.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            TableFormat::F32 => width * 4,
            TableFormat::Bf16 | TableFormat::F16 => width * 2,
            TableFormat::Blocks(format) => width / BLOCK * format.block_bytes().unwrap_or(BLOCK * 4),
        }
    }
}

/// `y[m] = table[ids[m]]`.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// `[V, width]`, rows contiguous and one after another, at any alignment.
    pub table: *const u8,
    /// How they are stored.
    pub format: TableFormat,
    /// `[rows]`; the caller has checked that each is in `0..V`.
    pub ids: *const i32,
    /// Result rows.
    pub y: *mut f32,
    /// Where result rows lie.
    pub y_map: RowMap,
    /// Number of ids.
    pub rows: usize,
    /// Elements of a row; a whole number of blocks where the table is in blocks.
    pub width: usize,
}

impl Kernel for Gather {
    fn tasks(&self) -> usize {
        self.rows.div_ceil(rows_per_task(self.width))
    }

    unsafe fn run(&self, _features: Features, task: usize, _scratch: &mut [u8]) {
        let row_bytes = self.format.row_bytes(self.width);
        for m in part(task, rows_per_task(self.width), self.rows) {
            // SAFETY: by contract; the table is read-only and so does not overlap the result.
            let (row, y) = unsafe {
                let row = self.table.add(*self.ids.add(m) as usize * row_bytes);
                let y = self.y.add(self.y_map.offset(m));
                (std::slice::from_raw_parts(row, row_bytes), std::slice::from_raw_parts_mut(y, self.width))
            };
            read_row(self.format, row, y);
        }
    }
}

/// A stored row as f32.
fn read_row(format: TableFormat, row: &[u8], y: &mut [f32]) {
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    let pairs = row.as_chunks::<2>().0;
    match format {
        TableFormat::F32 => {
            y.iter_mut().zip(row.as_chunks::<4>().0).for_each(|(y, b)| *y = f32::from_le_bytes(*b));
        }
        TableFormat::Bf16 => {
            let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            y.iter_mut().zip(pairs).for_each(|(y, b)| *y = wide(b));
        }
        TableFormat::F16 => y.iter_mut().zip(pairs).for_each(|(y, b)| *y = half(b)),
        TableFormat::Blocks(format) => {
            let bytes = format.block_bytes().unwrap_or(BLOCK * 4);
            for (block, y) in row.chunks_exact(bytes).zip(y.as_chunks_mut::<BLOCK>().0) {
                let scale = half(block);
                if let WeightFormat::Q8_0 | WeightFormat::Q8_0Int8 = format {
                    y.iter_mut().zip(&block[2..]).for_each(|(y, &q)| *y = scale * f32::from(q as i8));
                    continue;
                }
                let (minimum, quants, centre) = match format {
                    WeightFormat::Q4_1 | WeightFormat::Q4_1Int8 => (half(&block[2..]), &block[4..], 0),
                    _ => (0.0, &block[2..], 8),
                };
                for (i, &q) in quants.iter().enumerate() {
                    let value = |nibble: u8| scale * (i32::from(nibble) - centre) as f32 + minimum;
                    (y[i], y[i + BLOCK / 2]) = (value(q & 15), value(q >> 4));
                }
            }
        }
    }
}

/// `y[m] = [cos(t[m] * freqs), sin(t[m] * freqs)]`, or sines first.
///
/// The phase is an f32 product, as the reference's is: with an f64 phase the entries at t = 5000 differ by 4e-4 from
/// what the networks were trained with. Its cosine and sine are then taken in f64, exact to the last place at any size.
#[derive(Clone, Copy, Debug)]
pub struct TimestepEmbed {
    /// `[rows]`
    pub t: *const f32,
    /// `[freqs_len]`
    pub freqs: *const f32,
    /// Frequencies; half of a result row.
    pub freqs_len: usize,
    /// Result rows of `2 * freqs_len`.
    pub y: *mut f32,
    /// Where result rows lie.
    pub y_map: RowMap,
    /// Number of times.
    pub rows: usize,
    /// Sines before cosines.
    pub sin_first: bool,
}

impl Kernel for TimestepEmbed {
    fn tasks(&self) -> usize {
        // A sine costs about as much as 32 elements of a copy.
        self.rows.div_ceil(rows_per_task(64 * self.freqs_len))
    }

    unsafe fn run(&self, _features: Features, task: usize, _scratch: &mut [u8]) {
        for m in part(task, rows_per_task(64 * self.freqs_len), self.rows) {
            // SAFETY: by contract.
            unsafe {
                let y = self.y.add(self.y_map.offset(m));
                let (cos_at, sin_at) = if self.sin_first { (self.freqs_len, 0) } else { (0, self.freqs_len) };
                for j in 0..self.freqs_len {
                    let (sin, cos) = f64::from(*self.t.add(m) * *self.freqs.add(j)).sin_cos();
                    *y.add(cos_at + j) = cos as f32;
                    *y.add(sin_at + j) = sin as f32;
                }
            }
        }
    }
}
