//! Matrix products of a warp (PTX ISA, "mma.sync", "Matrix Fragments for mma.m16n8k…").
//!
//! All fragments follow one rule. With `e` elements in a 32-bit register, `g = lane / 4` and `t = lane % 4`: register
//! `r` of A holds row `g + 8 (r mod 2)`, columns `4e (r / 2) + e t ..`; register `r` of B holds column `g`, rows
//! `4e r + e t ..`; and of C and D, `(g + 8 (r / 2), 2t + r mod 2)`, two in a register when they are f16.

use super::view::{Versions, View, versions};
use crate::approx::Accumulation;
use crate::float::{bf16, f16, f16_near, narrow32};
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
pub static RUN: Versions = versions!(run);

const MAX_K: usize = 32;

#[inline(always)]
fn run(v: &mut View, i: &Instruction, m: u32) {
    let Op::Tensor(super::tensor::TensorOp::Mma(mma)) = i.op else { unreachable!("not a matrix product") };
    let [na, nb, nc] = mma.registers();
    let (at, bt, ct) = (nc, nc + na, nc + na + nb);
    if mma.c == Type::S32 {
        return integers(v, i, m, mma, [at, bt, ct]);
    }
    let (mut a, mut b) = ([[0f32; MAX_K]; 16], [[0f32; 8]; MAX_K]);
    for r in 0..na {
        let bits = v.read32(i.list[at + r]);
        unpack(mma.a, r / 2, &bits, |lane, column, x| a[lane / 4 + 8 * (r % 2)][column] = x);
    }
    for r in 0..nb {
        let bits = v.read32(i.list[bt + r]);
        unpack(mma.b, r, &bits, |lane, row, x| b[row][lane / 4] = x);
    }
    let mut d = [[0f32; 8]; 16];
    for r in 0..nc {
        let bits = v.read32(i.list[ct + r]);
        for (lane, &x) in bits.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4 * 2);
            if nc == 2 {
                d[g + 8 * r][t] = f16(x & 0xFFFF);
                d[g + 8 * r][t + 1] = f16(x >> 16);
            } else {
                d[g + 8 * (r / 2)][t + r % 2] = f32::from_bits(x);
            }
        }
    }
    let k = mma.k as usize;
    match v.accumulation {
        Accumulation::Sequential => {
            for (row, d) in a.iter().zip(&mut d) {
                for (x, b) in row[..k].iter().zip(&b) {
                    for n in 0..8 {
                        d[n] = x.mul_add(b[n], d[n]);
                    }
                }
            }
        }
        Accumulation::Pairwise => {
            for (row, d) in a.iter().zip(&mut d) {
                for n in 0..8 {
                    let mut sums = [0f32; MAX_K];
                    for j in 0..k {
                        sums[j] = row[j] * b[j][n];
                    }
                    let mut half = k / 2;
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
                    for j in (0..k).step_by(8) {
                        let exact = (j..k.min(j + 8)).map(|q| f64::from(row[q]) * f64::from(b[q][n]));
                        d[n] = narrow32(exact.sum::<f64>() + f64::from(d[n]), Round::Zero);
                    }
                }
            }
        }
    }
    for r in 0..nc {
        let out: [u32; 32] = std::array::from_fn(|lane| {
            let (g, t) = (lane / 4, lane % 4 * 2);
            if nc == 2 {
                f16_near(d[g + 8 * r][t]) | f16_near(d[g + 8 * r][t + 1]) << 16
            } else {
                d[g + 8 * (r / 2)][t + r % 2].to_bits()
            }
        });
        v.write32(i.list[r], m, &out);
    }
}

/// Calls `put(lane, index along k, value)` for the elements of register block `block`.
#[inline(always)]
fn unpack(ty: Type, block: usize, bits: &[u32; 32], mut put: impl FnMut(usize, usize, f32)) {
    for (lane, &x) in bits.iter().enumerate() {
        let t = lane % 4;
        match ty {
            // A tensor core reads the upper 19 bits.
            Type::Tf32 => put(lane, 4 * block + t, f32::from_bits(x & !0x1FFF)),
            Type::Bf16 => {
                put(lane, 8 * block + 2 * t, bf16(x & 0xFFFF));
                put(lane, 8 * block + 2 * t + 1, bf16(x >> 16));
            }
            _ => {
                put(lane, 8 * block + 2 * t, f16(x & 0xFFFF));
                put(lane, 8 * block + 2 * t + 1, f16(x >> 16));
            }
        }
    }
}

#[inline(always)]
fn integers(v: &mut View, i: &Instruction, m: u32, mma: Mma, [at, bt, ct]: [usize; 3]) {
    let [na, nb, nc] = mma.registers();
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
