//! Matrix products of a warp (PTX ISA, "mma.sync", "Matrix Fragments for mma.m16n8k…").
//!
//! All fragments follow one rule. With `e` elements in a 32-bit register, `g = lane / 4` and `t = lane % 4`: register
//! `r` of A holds row `g + 8 (r mod 2)`, columns `4e (r / 2) + e t ..`; register `r` of B holds column `g`, rows
//! `4e r + e t ..`; and of C and D, `(g + 8 (r / 2), 2t + r mod 2)`, two in a register when they are f16.

use super::view::{Versions, View, versions};
use crate::approx::Accumulation;
use crate::float::{f16, f16_near, narrow32};
use crate::ir::{Instruction, Op, Round};
use crate::types::Type;

/// The form of a product, of 16x8 results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    /// Depth.
    pub k: u32,
    /// Type of A.
    pub a: Type,
    /// Type of B.
    pub b: Type,
    /// Type of C and D: f32, f16 or s32.
    pub c: Type,
    /// Integers clamp instead of wrapping.
    pub saturate: bool,
}

impl Mma {
    /// 32-bit registers of A, B, and of C and D.
    pub fn registers(&self) -> [usize; 3] {
        let each = 4 / element_bytes(self.a);
        let k = self.k as usize;
        [16 * k / 32 / each, 8 * k / 32 / each, if self.c == Type::F16 { 2 } else { 4 }]
    }
}

/// Bytes of an element in a fragment.
pub fn element_bytes(ty: Type) -> usize {
    if ty == Type::Tf32 { 4 } else { ty.bytes() as usize }
}

/// Runs a product; all lanes take part.
pub static RUN: Versions = [avx512, VERSIONS[1], VERSIONS[2]];
const VERSIONS: Versions = versions!(run);

/// As the first of [`VERSIONS`], except where there is better.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
fn avx512(v: &mut View, i: &Instruction, m: u32) {
    match i.op {
        Op::Tensor(super::tensor::TensorOp::Mma(mma))
            if mma.c == Type::F32 && v.accumulation == Accumulation::Sequential =>
        {
            super::mma_avx512::sequential(v, i, m, mma);
        }
        _ => run(v, i, m),
    }
}

const MAX_K: usize = 32;

#[inline(always)]
fn run(v: &mut View, i: &Instruction, m: u32) {
    let Op::Tensor(super::tensor::TensorOp::Mma(mma)) = i.op else { unreachable!("not a matrix product") };
    match (mma.c, mma.k) {
        (Type::S32, _) => integers(v, i, m, mma),
        (_, 16) => floats::<16>(v, i, m, mma),
        (_, 8) => floats::<8>(v, i, m, mma),
        _ => floats::<4>(v, i, m, mma),
    }
}

#[inline(always)]
fn floats<const K: usize>(v: &mut View, i: &Instruction, m: u32, mma: Mma) {
    let [na, nb, nc] = mma.registers();
    let (at, bt, ct) = (nc, nc + na, nc + na + nb);
    let (mut a, mut b) = ([[0f32; K]; 16], [[0f32; 8]; K]);
    for r in 0..na {
        let rows = unpack(mma.a, &v.read32(i.list[at + r]));
        let (first, width) = if mma.a == Type::Tf32 { (4 * (r / 2), 4) } else { (8 * (r / 2), 8) };
        for g in 0..8 {
            a[g + 8 * (r % 2)][first..first + width].copy_from_slice(&rows[g][..width]);
        }
    }
    for r in 0..nb {
        let columns = unpack(mma.b, &v.read32(i.list[bt + r]));
        let (first, width) = if mma.b == Type::Tf32 { (4 * r, 4) } else { (8 * r, 8) };
        for (j, row) in b[first..first + width].iter_mut().enumerate() {
            for g in 0..8 {
                row[g] = columns[g][j];
            }
        }
    }
    let mut d = [[0f32; 8]; 16];
    for r in 0..nc {
        let bits = v.read32(i.list[ct + r]);
        if nc == 2 {
            let rows = unpack(Type::F16, &bits);
            d[8 * r..8 * r + 8].copy_from_slice(&rows);
        } else {
            let half: &mut [[f32; 8]] = &mut d[8 * (r / 2)..8 * (r / 2) + 8];
            for g in 0..8 {
                for t in 0..4 {
                    half[g][2 * t + r % 2] = f32::from_bits(bits[4 * g + t]);
                }
            }
        }
    }
    match v.accumulation {
        Accumulation::Sequential => {
            for (row, d) in a.iter().zip(&mut d) {
                for (x, b) in row.iter().zip(&b) {
                    for n in 0..8 {
                        d[n] = x.mul_add(b[n], d[n]);
                    }
                }
            }
        }
        Accumulation::Pairwise => {
            for (row, d) in a.iter().zip(&mut d) {
                for n in 0..8 {
                    let mut sums = [0f32; K];
                    for j in 0..K {
                        sums[j] = row[j] * b[j][n];
                    }
                    let mut half = K / 2;
                    while half > 0 {
                        for j in 0..half {
                            sums[j] += sums[j + half];
                        }
                        half /= 2;
                    }
                    d[n] += sums[0];
                }
            }
        }
        Accumulation::Truncating => {
            // Groups of eight products and the sum so far are added at once and cut to f32.
            for (row, d) in a.iter().zip(&mut d) {
                for n in 0..8 {
                    for j in (0..K).step_by(8) {
                        let exact = (j..K.min(j + 8)).map(|q| f64::from(row[q]) * f64::from(b[q][n]));
                        d[n] = narrow32(exact.sum::<f64>() + f64::from(d[n]), Round::Zero);
                    }
                }
            }
        }
    }
    for r in 0..nc {
        let mut out = [0u32; 32];
        for g in 0..8 {
            for t in 0..4 {
                out[4 * g + t] = if nc == 2 {
                    let row = &d[g + 8 * r];
                    f16_near(row[2 * t]) | f16_near(row[2 * t + 1]) << 16
                } else {
                    d[g + 8 * (r / 2)][2 * t + r % 2].to_bits()
                };
            }
        }
        v.write32(i.list[r], m, &out);
    }
}

/// The elements that the four lanes of each group hold in one register, in order: four of tf32, else eight.
#[inline(always)]
fn unpack(ty: Type, bits: &[u32; 32]) -> [[f32; 8]; 8] {
    let mut out = [[0f32; 8]; 8];
    for g in 0..8 {
        for t in 0..4 {
            let x = bits[4 * g + t];
            match ty {
                // A tensor core reads the upper 19 bits.
                Type::Tf32 => out[g][t] = f32::from_bits(x & !0x1FFF),
                Type::Bf16 => {
                    out[g][2 * t] = f32::from_bits(x << 16);
                    out[g][2 * t + 1] = f32::from_bits(x & 0xFFFF_0000);
                }
                _ => {
                    out[g][2 * t] = f16(x & 0xFFFF);
                    out[g][2 * t + 1] = f16(x >> 16);
                }
            }
        }
    }
    out
}

#[inline(always)]
fn integers(v: &mut View, i: &Instruction, m: u32, mma: Mma) {
    let [na, nb, nc] = mma.registers();
    let (at, bt, ct) = (nc, nc + na, nc + na + nb);
    let byte = |ty: Type, x: u32, j: usize| {
        let b = (x >> (8 * j)) as u8;
        if ty == Type::S8 { i32::from(b as i8) } else { i32::from(b) }
    };
    let (mut a, mut b) = ([[0i32; MAX_K]; 16], [[0i32; MAX_K]; 8]);
    for r in 0..na {
        for (lane, &x) in v.read32(i.list[at + r]).iter().enumerate() {
            for j in 0..4 {
                a[lane / 4 + 8 * (r % 2)][16 * (r / 2) + 4 * (lane % 4) + j] = byte(mma.a, x, j);
            }
        }
    }
    for r in 0..nb {
        for (lane, &x) in v.read32(i.list[bt + r]).iter().enumerate() {
            for j in 0..4 {
                b[lane / 4][16 * r + 4 * (lane % 4) + j] = byte(mma.b, x, j);
            }
        }
    }
    for r in 0..nc {
        let c = v.read32(i.list[ct + r]);
        let out: [u32; 32] = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
            let dot: i64 = (0..mma.k as usize).map(|j| i64::from(a[row][j] * b[column][j])).sum();
            let sum = i64::from(c[lane] as i32) + dot;
            if mma.saturate { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32 } else { sum as u32 }
        });
        v.write32(i.list[r], m, &out);
    }
}
