//! Matrix products in AVX-512, summed in order.
//!
//! The fragments need no reordering: the four lanes that hold a row of A are the four words of a 128-bit part of a
//! vector, so an element of the row is spread by a shuffle within the parts; and the columns of B that belong to those
//! lanes' results are four words, the same for each part.

use super::mma::Mma;
use super::view::View;
use crate::ir::Instruction;
use crate::types::Type;
use std::arch::x86_64::*;

/// Words of B by lane (`4n + t`) in the order that the results want: of `t` and `t + 1`, the even columns, then the odd.
const COLUMNS: [i32; 16] = [0, 8, 16, 24, 4, 12, 20, 28, 1, 9, 17, 25, 5, 13, 21, 29];

#[target_feature(enable = "avx512f")]
fn vector(words: &[u32; 16]) -> __m512i {
    // SAFETY: sixteen words are sixty-four bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn vectors(words: &[u32; 32]) -> [__m512i; 2] {
    let [low, high] = words.as_chunks::<16>().0 else { unreachable!("thirty-two words") };
    [vector(low), vector(high)]
}

#[target_feature(enable = "avx512f")]
fn words(vector: __m512) -> [f32; 16] {
    let mut words = [0.0; 16];
    // SAFETY: sixteen words are sixty-four bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(words.as_mut_ptr(), vector) };
    words
}

/// The elements in the low and high halves of words; of tf32, the one that a word holds, twice.
#[target_feature(enable = "avx512f,avx512bw")]
fn elements(ty: Type, x: __m512i) -> [__m512; 2] {
    match ty {
        Type::Tf32 => {
            let x = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(!0x1FFF)));
            [x, x]
        }
        Type::Bf16 => [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)),
            _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(!0xFFFF))),
        ],
        _ => [
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)),
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(x))),
        ],
    }
}

/// A product of floats with f32 results, each summed in the order of K.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,fma")]
pub fn sequential(v: &mut View, i: &Instruction, m: u32, mma: Mma) {
    let [na, nb, nc] = mma.registers();
    let (at, bt, ct) = (nc, nc + na, nc + na + nb);
    let halves = if mma.a == Type::Tf32 { 1 } else { 2 };
    let columns = vector(&COLUMNS.map(|x| x as u32));
    let next = _mm512_add_epi32(columns, _mm512_set1_epi32(2));
    // By register; lanes 0..16 and 16..32.
    let mut d = [[_mm512_setzero_ps(); 2]; 4];
    for (r, d) in d.iter_mut().enumerate() {
        let [low, high] = vectors(&v.read32(i.list[ct + r]));
        *d = [_mm512_castsi512_ps(low), _mm512_castsi512_ps(high)];
    }
    for p in 0..nb {
        let [b0, b1] = vectors(&v.read32(i.list[bt + p]));
        let first = elements(mma.b, _mm512_permutex2var_epi32(b0, columns, b1));
        let last = elements(mma.b, _mm512_permutex2var_epi32(b0, next, b1));
        // By half; two fours of columns for each word of a lane group.
        let b = [[words(first[0]), words(last[0])], [words(first[1]), words(last[1])]];
        // By rows 0..8 or 8..16, by lanes, by half.
        let mut a = [[[_mm512_setzero_ps(); 2]; 2]; 2];
        for (r, a) in a.iter_mut().enumerate() {
            let [low, high] = vectors(&v.read32(i.list[at + 2 * p + r]));
            *a = [elements(mma.a, low), elements(mma.a, high)];
        }
        macro_rules! step {
            ($t:literal, $spread:literal) => {
                for h in 0..halves {
                    let fours = b[h][$t / 2].as_chunks::<4>().0;
                    let (even, odd) = (four(&fours[$t % 2 * 2]), four(&fours[$t % 2 * 2 + 1]));
                    for r in 0..2 {
                        for z in 0..2 {
                            let x = _mm512_permute_ps::<$spread>(a[r][z][h]);
                            d[2 * r][z] = _mm512_fmadd_ps(x, even, d[2 * r][z]);
                            d[2 * r + 1][z] = _mm512_fmadd_ps(x, odd, d[2 * r + 1][z]);
                        }
                    }
                }
            };
        }
        step!(0, 0x00);
        step!(1, 0x55);
        step!(2, 0xAA);
        step!(3, 0xFF);
    }
    for (r, d) in d.iter().enumerate() {
        let out: [[f32; 16]; 2] = [words(d[0]), words(d[1])];
        v.write32(i.list[r], m, bytemuck::cast_ref(&out));
    }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn four(x: &[f32; 4]) -> __m512 {
    // SAFETY: four words are sixteen bytes; the load needs no alignment.
    _mm512_broadcast_f32x4(unsafe { _mm_loadu_ps(x.as_ptr()) })
}

#[cfg(test)]
mod tests {
    use super::super::mma::{Mma, RUN};
    use super::super::tensor::TensorOp;
    use super::super::view::{Plane, View, version};
    use crate::ir::{Instruction, Op, Pred, Slot};
    use crate::types::Type;

    /// The registers that a product of arbitrary operands leaves, by one compiled version.
    fn product(version: usize, mma: Mma) -> Vec<Plane> {
        let count = mma.registers().iter().sum::<usize>() + mma.registers()[2];
        let mut x = 7u32;
        let mut registers: Vec<Plane> = vec![Plane::default(); count];
        for (r, plane) in registers.iter_mut().enumerate() {
            for word in &mut plane.0 {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Finite in each type: exponents of 16-bit halves and of the word stay small.
                *word = if r + 4 >= count { (x >> 9) | 0x3F00_0000 } else { x & 0xBBFF_BBFF };
            }
        }
        let i = Instruction {
            list: (0..count).map(|r| Slot::register(r as u32)).collect(),
            op: Op::Tensor(TensorOp::Mma(mma)),
            guard: Pred::NONE,
            d: [Slot::NONE; 2],
            s: [Slot::NONE; 4],
            p: [Pred::NONE; 3],
            list_defs: mma.registers()[2] as u32,
            line: 1,
            watched: false,
        };
        let mut view = View {
            registers: &mut registers,
            preds: &mut [],
            constants: &[],
            specials: &[],
            approx: Default::default(),
            accumulation: Default::default(),
            salt: 0,
        };
        // SAFETY: the caller gives a version that this machine can run.
        unsafe { RUN[version](&mut view, &i, u32::MAX) };
        registers
    }

    #[test]
    fn each_type_gives_the_bits_of_the_portable_code() {
        for (ty, depths) in [(Type::Bf16, [8, 16]), (Type::F16, [8, 16]), (Type::Tf32, [4, 8])] {
            for k in depths {
                let mma = Mma { k, a: ty, b: ty, c: Type::F32, saturate: false };
                assert_eq!(product(version(), mma), product(2, mma), "{ty:?} k{k}");
            }
        }
    }
}
