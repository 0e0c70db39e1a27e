//! Inputs from a seed, the same on every machine, and the roundings that errors are measured by.

use half::bf16;

/// Half a unit in the last place of bf16, relative.
pub const BF16_ROUNDING: f64 = 1.0 / 256.0;
/// The same of f32.
pub const F32_ROUNDING: f64 = 1.0 / 16_777_216.0;

/// A small generator (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Roughly normal, by the sum of four uniforms.
    fn normal(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            sum += (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u64 << 24) as f32;
        }
        (sum - 2.0) * 1.73
    }

    /// `n` normals.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// Rows of `width` normals in bf16, `row` elements apart; what lies between them must not matter, so it is NaN.
    pub fn rows(&mut self, rows: usize, width: usize, row: usize) -> Vec<bf16> {
        let value = |i: usize| if i % row < width { bf16::from_f32(self.normal()) } else { bf16::NAN };
        (0..rows * row).map(value).collect()
    }
}
