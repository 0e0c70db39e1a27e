//! Approximate instructions: the exact result plus an error within the bound that the PTX ISA states.
//!
//! A kernel that is right must be right for every such error, so that tests run it at −max, +max and random.

use serde::Serialize;

/// How far approximate results are from exact ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ApproximationMode {
    /// Correctly rounded.
    #[default]
    Exact,
    /// As far below as is allowed.
    Below,
    /// As far above as is allowed.
    Above,
    /// Anywhere between.
    Random,
}

/// The order in which a matrix product is summed, which the PTX ISA leaves open: results must pass with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Accumulation {
    /// One product after the other.
    #[default]
    Sequential,
    /// A tree of products, then the accumulator.
    Pairwise,
    /// Eight products at a time with the accumulator, cut towards zero.
    Truncating,
}

/// The mode, and the seed of random errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Default)]
pub struct Approximation {
    /// Mode.
    pub mode: ApproximationMode,
    /// Seed of [`ApproximationMode::Random`].
    pub seed: u64,
}

/// A bound on the error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Units in the last place of an f32 result.
    Ulp(f64),
    /// Relative to the result.
    Relative(f64),
    /// Absolute.
    Absolute(f64),
}

/// A number in [-1, 1] that depends on all of its inputs (SplitMix64's finaliser).
fn noise(seed: u64, input: u64, salt: u64) -> f64 {
    let mut z = seed ^ input.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

impl Approximation {
    /// The exact result `x` moved within `bound`, before it is rounded to its type. Zeros, infinities and NaN stay.
    ///
    /// `input` and `salt` choose the random error: one input gives one result throughout an instruction.
    pub fn apply(&self, x: f64, bound: Bound, input: u64, salt: u64) -> f64 {
        let part = match self.mode {
            ApproximationMode::Exact => return x,
            ApproximationMode::Below => -1.0,
            ApproximationMode::Above => 1.0,
            ApproximationMode::Random => noise(self.seed, input, salt),
        };
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        // Rounding to the result's type adds up to half an ulp, so that much is kept back.
        match bound {
            Bound::Ulp(n) => x + part * (n - 0.5) * ulp(x),
            Bound::Relative(r) => x + part * (r * x.abs() - 0.5 * ulp(x)).max(0.0),
            Bound::Absolute(a) => x + part * (a - 0.5 * ulp(x)).max(0.0),
        }
    }
}

/// The f32 unit in the last place at `x`.
fn ulp(x: f64) -> f64 {
    let e = ((x.abs().to_bits() >> 52) as i32 - 1023).max(-126);
    f64::from_bits(((e - 23 + 1023) as u64) << 52)
}

impl std::str::FromStr for ApproximationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "exact" => ApproximationMode::Exact,
            "below" => ApproximationMode::Below,
            "above" => ApproximationMode::Above,
            "random" => ApproximationMode::Random,
            _ => return Err(format!("'{text}' is no mode: exact, below, above or random")),
        })
    }
}
