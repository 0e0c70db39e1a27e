//! The matrix product of a warp (PTX ISA, "mma", fragments of "Matrix Fragments for mma.m16n8k16 with floating point type").
//!
//! bf16 products are exact in f32. How a tensor core orders and rounds their sum is not specified; here each element of D starts from C and
//! takes the sixteen products one after the other, each rounded to f32.

use super::view::Plane;
use super::warp::Warp;
use crate::ir::Instruction;

/// Elements of A: 16 x 16, of B: 16 x 8, of C and D: 16 x 8.
const M: usize = 16;
const N: usize = 8;
const K: usize = 16;

/// The two bf16 of a register as f32, the lower half first.
fn halves(bits: u32) -> [f32; 2] {
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xFFFF_0000)]
}

/// Runs `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32`; the operand list is D (4), A (4), B (2), C (4).
pub fn bf16_m16n8k16(w: &mut Warp, constants: &[Plane], i: &Instruction, mask: u32) {
    let mut view = w.view(constants);
    let (mut a, mut b, mut d) = ([[0.0_f32; K]; M], [[0.0_f32; N]; K], [[0.0_f32; N]; M]);
    for register in 0..4 {
        let bits = view.read32(i.list[4 + register]);
        for (lane, &bits) in bits.iter().enumerate() {
            let (row, column) = (lane / 4 + register % 2 * 8, lane % 4 * 2 + register / 2 * 8);
            a[row][column..column + 2].copy_from_slice(&halves(bits));
        }
    }
    for register in 0..2 {
        let bits = view.read32(i.list[8 + register]);
        for (lane, &bits) in bits.iter().enumerate() {
            let (row, column) = (lane % 4 * 2 + register * 8, lane / 4);
            let [low, high] = halves(bits);
            b[row][column] = low;
            b[row + 1][column] = high;
        }
    }
    let place = |lane: usize, register: usize| (lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
    for register in 0..4 {
        let bits = view.read32(i.list[10 + register]);
        for (lane, &bits) in bits.iter().enumerate() {
            let (row, column) = place(lane, register);
            d[row][column] = f32::from_bits(bits);
        }
    }
    for (d, a) in d.iter_mut().zip(&a) {
        for (a, b) in a.iter().zip(&b) {
            for (d, b) in d.iter_mut().zip(b) {
                *d += a * b;
            }
        }
    }
    for register in 0..4 {
        let bits = std::array::from_fn(|lane| {
            let (row, column) = place(lane, register);
            d[row][column].to_bits()
        });
        view.write32(i.list[register], mask, &bits);
    }
}
