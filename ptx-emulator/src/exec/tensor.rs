//! Matrix loads and stores of a warp (PTX ISA, "ldmatrix", "stmatrix"); products are in [`super::mma`].

use super::access::addresses;
use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, Flow};
use crate::ir::Instruction;
use crate::types::Space;

/// Instructions of the tensor family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorOp {
    /// `ldmatrix.m8n8.xN[.trans].b16`
    LoadMatrix {
        /// Matrices.
        count: u32,
        /// Whether each is transposed.
        transposed: bool,
        /// Added to the addresses.
        offset: i64,
        /// Whether the address register has 64 bits.
        wide_address: bool,
    },
    /// `mma.sync`: `list` = D, A, B, C.
    Mma(super::mma::Mma),
    /// `wgmma`
    Group(super::wgmma::GroupOp),
    /// `stmatrix.m8n8.xN[.trans].b16`
    StoreMatrix {
        /// Matrices.
        count: u32,
        /// Whether each is transposed.
        transposed: bool,
        /// Added to the addresses.
        offset: i64,
        /// Whether the address register has 64 bits.
        wide_address: bool,
    },
}

/// The element of an 8x8 matrix that half `h` of lane `l`'s register holds: row, column.
fn element(l: usize, h: usize, transposed: bool) -> (usize, usize) {
    let (r, c) = (l / 4, l % 4 * 2 + h);
    if transposed { (c, r) } else { (r, c) }
}

/// Runs a matrix instruction; all lanes are there.
pub fn run(op: &TensorOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    let pc = w.groups[0].pc - 1;
    match *op {
        TensorOp::LoadMatrix { count, transposed, offset, wide_address } => {
            let at = addresses(w, constants, i.s[0], wide_address, offset);
            for k in 0..count as usize {
                // Lane 8k + r gives the address of row r of matrix k.
                let mut rows = [0u128; 8];
                let mut wrong = 0u32;
                let initialised = cx.launch.options.checks.uninitialised;
                let (judge, me) = cx.judge(w, 0);
                let shared = &mut cx.cluster.blocks[w.block as usize].shared;
                for (r, row) in rows.iter_mut().enumerate() {
                    let l = 8 * k + r;
                    match shared.read_row(&judge, me.of_lane(l as u32), at[l], initialised) {
                        Some(found) => *row = found,
                        None => wrong |= 1 << r,
                    }
                }
                for r in lanes(wrong) {
                    rows[r] = cx.load(w, i, 8 * k + r, Space::Shared, at[8 * k + r], 16, false);
                }
                let out: [u32; 32] = if transposed {
                    let rows: [[u16; 8]; 8] = bytemuck::cast(rows);
                    let mut out = [[0u16; 2]; 32];
                    for (l, halves) in out.iter_mut().enumerate() {
                        *halves = [rows[l % 4 * 2][l / 4], rows[l % 4 * 2 + 1][l / 4]];
                    }
                    bytemuck::cast(out)
                } else {
                    // Lane 4r + t holds word t of row r: they are in order already.
                    bytemuck::cast(rows)
                };
                w.view(constants).write32(i.list[k], m, &out);
            }
            let used = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
            cx.count(w, pc, Space::Shared, &at, 16, used);
        }
        TensorOp::Mma(_) => {
            let (version, accumulation) = (cx.worker.version, cx.launch.options.accumulation);
            let mut view = w.view(constants);
            view.accumulation = accumulation;
            // SAFETY: `version` is what this machine was found to support.
            unsafe { super::mma::RUN[version](&mut view, i, m) };
        }
        TensorOp::Group(op) => return super::wgmma::run(op, cx, w, constants, i, m),
        TensorOp::StoreMatrix { count, transposed, offset, wide_address } => {
            let at = addresses(w, constants, i.s[0], wide_address, offset);
            for k in 0..count as usize {
                let from = w.view(constants).read32(i.list[k]);
                let mut rows = [0u128; 8];
                for (l, bits) in from.iter().enumerate() {
                    for h in 0..2 {
                        let (r, c) = element(l, h, transposed);
                        rows[r] |= u128::from(bits >> (16 * h) & 0xFFFF) << (16 * c);
                    }
                }
                for (r, row) in rows.iter().enumerate() {
                    cx.store(w, i, 8 * k + r, Space::Shared, at[8 * k + r], 16, false, *row, None);
                }
            }
            let used = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
            cx.count(w, pc, Space::Shared, &at, 16, used);
        }
    }
    Flow::Next
}
