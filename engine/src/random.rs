//! Torch's CPU generator, so that a seed gives here the noise it gives there.
//!
//! A diffusion picture is a function of its noise: "seed 7" means something only if the generator, the order of draws
//! and the arithmetic after them agree. The generator is MT19937. Fewer than sixteen normals come from Box and Muller
//! in f64 with the second value kept for later; sixteen or more from f32 uniforms in blocks of sixteen, whose
//! logarithm, sine and cosine are the Cephes polynomials of torch's AVX2 code (`avx_mathfun.h`), contracted to fused
//! multiply-adds where its compiler contracted them. The golden samples are met in every bit, on any CPU: `mul_add`
//! rounds once whether the hardware has it or not.

use std::f64::consts::TAU;

const N: usize = 624;
const M: usize = 397;

/// The generator behind `torch.manual_seed` and `torch.randn` on the CPU.
///
/// A clone is a saved state: it continues with the draws that the original would have made.
///
/// ```
/// use selftok::random::Generator;
/// let mut generator = Generator::new(1234);
/// let mut noise = [0.0; 512];
/// generator.fill_normal(&mut noise);
/// let mut saved = generator.clone();
/// let (mut a, mut b) = ([0.0; 32], [0.0; 32]);
/// generator.fill_normal(&mut a);
/// saved.fill_normal(&mut b);
/// assert_eq!(a, b);
/// ```
#[derive(Clone, PartialEq)]
pub struct Generator {
    seed: u64,
    state: [u32; N],
    next: usize,
    /// The second value of the last f64 pair, not yet given out.
    spare: Option<f64>,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator(seed {})", self.seed)
    }
}

impl Generator {
    /// The state after `torch.manual_seed(seed)`. As there, only the low 32 bits of the seed count; a negative seed of
    /// torch's is its two's complement.
    pub fn new(seed: u64) -> Self {
        let mut state = [seed as u32; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ before >> 30).wrapping_add(i as u32);
        }
        Self { seed, state, next: N, spare: None }
    }

    /// The seed it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next 32 bits of MT19937.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7fff_ffff;
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ y >> 1 ^ odd;
        }
        self.next = 0;
    }

    /// Uniform in `[0, 1)` with 24 bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0xff_ffff) as f32 * 2f32.powi(-24)
    }

    /// Uniform in `[0, 1)` with 53 bits of two draws, the high word first.
    pub(crate) fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let bits = (high << 32 | u64::from(self.next_u32())) & ((1 << 53) - 1);
        bits as f64 * 2f64.powi(-53)
    }

    /// Fills `out` with what `torch.randn(out.len())` would return, and leaves the generator as it would. Allocates
    /// nothing.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        if out.len() < 16 {
            return out.iter_mut().for_each(|x| *x = self.normal_f64() as f32);
        }
        out.iter_mut().for_each(|u| *u = self.uniform_f32());
        let whole = out.len() / 16 * 16;
        out.as_chunks_mut().0.iter_mut().for_each(normal_block);
        if whole < out.len() {
            // Torch draws the last sixteen anew, over values that are already normal.
            let start = out.len() - 16;
            let mut last = [0.0; 16];
            last.iter_mut().for_each(|u| *u = self.uniform_f32());
            normal_block(&mut last);
            out[start..].copy_from_slice(&last);
        }
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = TAU * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Sixteen uniforms to sixteen normals: radii from the first eight, angles from the last eight.
fn normal_block(block: &mut [f32; 16]) {
    for j in 0..8 {
        let radius = (-2.0 * ln(1.0 - block[j])).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * block[j + 8]);
        block[j] = radius * cos;
        block[j + 8] = radius * sin;
    }
}

/// `ln(x)` for normal positive `x`: `x = m 2^e` with `m` in `[sqrt(1/2), sqrt(2))`, a polynomial in `m - 1`.
fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts, so that the product with e is exact in the first.
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const LN2_HIGH: f32 = 355.0 / 512.0;
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut e = ((bits >> 23) as i32 - 126) as f32;
    let mut m = f32::from_bits(bits & 0x807f_ffff | 0x3f00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        m += m - 1.0;
    } else {
        m -= 1.0;
    }
    let square = m * m;
    let p = P[1..].iter().fold(P[0], |p, &c| p.mul_add(m, c)) * m;
    let y = p.mul_add(square, e * LN2_LOW);
    let y = (-square).mul_add(0.5, y);
    e.mul_add(LN2_HIGH, m + y)
}

/// `(sin x, cos x)` for `x` in `[0, 2 pi]`: reduced to an eighth of the circle, one polynomial for each.
fn sin_cos(x: f32) -> (f32, f32) {
    // pi/4 in three parts.
    const QUARTER: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    let octant = ((x * 1.273_239_5) as i32 + 1) & !1;
    let x = QUARTER.iter().fold(x, |x, &part| (octant as f32).mul_add(part, x));
    let z = x * x;
    let c = 2.443_315_7e-5_f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2) * z;
    let c = c.mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.951_529_6e-4_f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1) * z;
    let s = s.mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    let sin = if octant & 4 != 0 { -sin } else { sin };
    let cos = if (octant + 2) & 4 != 0 { -cos } else { cos };
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{golden, repository, tensor_f32};

    fn randn(seed: u64, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Generator::new(seed).fill_normal(&mut out);
        out
    }

    #[test]
    fn mt19937_gives_its_published_numbers() {
        // The C++ standard ([rand.predef]): the 10,000th draw of a generator seeded with 5489.
        let mut generator = Generator::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn torch_samples_are_met_in_every_bit() {
        let file = golden("torch_cpu_randn.safetensors");
        let cases = [
            (0, tensor_f32(&file, "randn_seed0_1x16x32x32")),
            (1234, tensor_f32(&file, "randn_seed1234_2x16x8x8")),
            (1234, tensor_f32(&golden("pipe.io.safetensors"), "fp32.noise")),
            (1234, tensor_f32(&repository("models/mini/golden.safetensors"), "noise_seed_1234")),
        ];
        for (seed, expected) in cases {
            let ours = randn(seed, expected.len());
            let differing = ours.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            assert_eq!(differing, 0, "of {} values of seed {seed}", expected.len());
        }
    }

    #[test]
    fn few_values_come_from_the_f64_path() {
        // `torch.manual_seed(0); torch.randn(10)` and `torch.manual_seed(42); torch.randn(3)`.
        let ten = [
            1.540_996_1,
            -0.293_428_9,
            -2.178_789_4,
            0.568_431_26,
            -1.084_522_4,
            -1.398_595_5,
            0.403_346_84,
            0.838_026_34,
            -0.719_257_6,
            -0.403_343_53,
        ];
        assert_eq!(randn(0, 10), ten);
        for (x, y) in randn(42, 3).iter().zip([0.3367, 0.1288, 0.2345]) {
            assert!((x - y).abs() < 5e-5, "{x} {y}");
        }
    }

    #[test]
    fn the_second_value_of_a_pair_waits_for_the_next_draw() {
        let mut generator = Generator::new(0);
        let mut parts = [0.0; 10];
        for (i, at) in [(3, 0), (1, 3), (6, 4)] {
            generator.fill_normal(&mut parts[at..at + i]);
        }
        assert_eq!(parts.to_vec(), randn(0, 10));
    }

    #[test]
    fn an_uneven_length_draws_its_last_sixteen_anew() {
        let long = randn(9, 64);
        let uneven = randn(9, 40);
        assert_eq!(uneven[..24], long[..24]);
        // 40 uniforms are drawn first, so the tail is made of draws 40..56.
        let mut generator = Generator::new(9);
        (0..40).for_each(|_| {
            generator.next_u32();
        });
        let mut tail = [0.0; 16];
        generator.fill_normal(&mut tail);
        assert_eq!(uneven[24..], tail);
    }

    #[test]
    fn consecutive_draws_continue() {
        let mut generator = Generator::new(3);
        let (mut a, mut b) = ([0.0; 32], [0.0; 32]);
        generator.fill_normal(&mut a);
        generator.fill_normal(&mut b);
        assert_eq!([a, b].concat(), randn(3, 64));
    }

    #[test]
    #[ignore = "a measurement, not a check: prints the best of 50"]
    fn time_of_the_noise_of_one_picture() {
        let (mut generator, mut noise) = (Generator::new(0), vec![0.0; 16 * 32 * 32]);
        let best = (0..50).map(|_| {
            let start = std::time::Instant::now();
            generator.fill_normal(std::hint::black_box(&mut noise));
            start.elapsed()
        });
        println!("16x32x32 normals: {:?}", best.min().unwrap());
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        assert_eq!(randn(5, 16), randn(5 | 1 << 32, 16));
        assert_ne!(randn(5, 16), randn(6, 16));
    }

    #[test]
    fn the_extreme_uniforms_stay_finite() {
        for u in [0.0, 1.0 - 2f32.powi(-24), 0.5] {
            let mut block = [u; 16];
            normal_block(&mut block);
            assert!(block.iter().all(|x| x.is_finite() && x.abs() < 6.0), "{block:?}");
        }
    }
}
