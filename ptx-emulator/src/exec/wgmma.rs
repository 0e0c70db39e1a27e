//! Products of a warpgroup (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions").
//!
//! Each of the four warps makes sixteen rows of the result, so a warp needs nothing of the others. A product is made
//! when it is waited for, as late as is legal. Until then its registers may not be touched, and its operands in shared
//! memory have been read by the asynchronous proxy (see [`super::bulk`]) at a time that nobody knows.

use super::bulk::swizzle;
use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, Flow};
use crate::approx::Accumulation;
use crate::check::FindingKind;
use crate::float::{f16, f16_near, narrow32};
use crate::ir::{Instruction, Op, Round, Slot};
use crate::memory::shadow::{ASYNC, Epoch, Judge};
use crate::types::Type;

/// An instruction of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOp {
    /// `wgmma.fence`
    Fence,
    /// `wgmma.commit_group`
    Commit,
    /// `wgmma.wait_group N`
    Wait {
        /// Groups that may stay pending.
        groups: u32,
    },
    /// `wgmma.mma_async`
    Product(Product),
}

/// A product: `s[0]` = descriptor of A unless that is in registers, `s[1]` of B, `p[2]`: add to D; `list` = D, then A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Columns.
    pub n: u32,
    /// Type of D.
    pub d: Type,
    /// Type of A.
    pub a: Type,
    /// Type of B.
    pub b: Type,
    /// Whether A and B are negated.
    pub negate: [bool; 2],
    /// Whether A and B lie with M and N innermost.
    pub transposed: [bool; 2],
    /// Whether A is in registers.
    pub registers: bool,
    /// Integers clamp instead of wrapping.
    pub saturate: bool,
}

impl Product {
    /// Depth: 32 bytes of elements.
    pub fn k(&self) -> usize {
        32 / super::mma::element_bytes(self.a)
    }

    /// Registers of D.
    pub fn results(&self) -> usize {
        self.n as usize / if self.d == Type::F16 { 4 } else { 2 }
    }
}

/// A product that is not made yet.
#[derive(Clone, Copy, Debug)]
struct Issued {
    pc: u32,
    group: u32,
    product: Product,
    descriptors: [u64; 2],
    add: bool,
    base: usize,
}

/// Products of a warp that are not made, and what the rules on their registers need.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    issued: Vec<Issued>,
    committed: u32,
    number: u32,
    /// Whether registers are watched: since the first instruction of the family.
    pub watching: bool,
    /// Register planes in use by products, how often.
    busy: Vec<u16>,
    /// Register planes written since the last `wgmma.fence`.
    written: Vec<bool>,
}

/// An ordinary instruction is about to run: it must not touch registers of products that are not done.
pub fn watch(cx: &mut Cx, w: &mut Warp, i: &Instruction, m: u32) {
    if m == 0 || matches!(i.op, Op::Tensor(super::tensor::TensorOp::Group(_))) {
        return;
    }
    let base = w.groups[0].base[0] as usize;
    let (defs, uses) = i.list.split_at(i.list_defs as usize);
    let plane = |s: &Slot| (!s.is_none() && s.is_register()).then(|| base + s.index());
    let busy = i.d.iter().chain(defs).chain(&i.s).chain(uses).filter_map(plane);
    if busy.into_iter().any(|p| w.products.busy.get(p).is_some_and(|n| *n > 0)) {
        cx.report(w, i, m.trailing_zeros(), FindingKind::InFlight, None, || {
            "touches a register of a wgmma.mma_async that was not waited for".into()
        });
    }
    for p in i.d.iter().chain(defs).filter_map(plane) {
        if w.products.written.len() <= p {
            w.products.written.resize(p + 1, false);
        }
        w.products.written[p] = true;
    }
}

/// Runs an instruction of the family; the whole warp is there.
pub fn run(op: GroupOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    w.products.watching = true;
    match op {
        GroupOp::Fence => w.products.written.clear(),
        GroupOp::Commit => w.products.committed += 1,
        GroupOp::Wait { groups } => {
            let until = w.products.committed.saturating_sub(groups);
            let (done, kept): (Vec<_>, Vec<_>) =
                std::mem::take(&mut w.products.issued).into_iter().partition(|p| p.group < until);
            w.products.issued = kept;
            make(cx, w, &done);
        }
        GroupOp::Product(product) => issue(product, cx, w, constants, i, m),
    }
    Flow::Next
}

/// Register planes of a product: D, then A.
fn planes(i: &Instruction, base: usize) -> impl Iterator<Item = usize> + '_ {
    i.list.iter().filter(|s| !s.is_none() && s.is_register()).map(move |s| base + s.index())
}

fn issue(product: Product, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) {
    let v = w.view(constants);
    let add = v.pred(i.p[2]);
    let read = |s: Slot| if s.is_none() { [0; 32] } else { v.read64(s) };
    let (a, b) = (read(i.s[0]), read(i.s[1]));
    let lane = m.trailing_zeros() as usize;
    if lanes(m).any(|l| a[l] != a[lane] || b[l] != b[lane]) || (add & m != 0 && add & m != m) {
        cx.report(w, i, lane as u32, FindingKind::Shuffle, None, || {
            "lanes give different descriptors or scales".into()
        });
    }
    let base = w.groups[0].base[0] as usize;
    if planes(i, base).any(|p| w.products.written.get(p) == Some(&true)) {
        cx.report(w, i, lane as u32, FindingKind::Race, None, || {
            "its registers were written with no wgmma.fence since".into()
        });
    }
    w.products.number += 1;
    if !product.registers {
        enter(cx, w, i, lane, &product, 0, a[lane]);
    }
    enter(cx, w, i, lane, &product, 1, b[lane]);
    for p in planes(i, base) {
        if w.products.busy.len() <= p {
            w.products.busy.resize(p + 1, 0);
        }
        w.products.busy[p] += 1;
    }
    let pc = w.groups[0].pc - 1;
    let (group, descriptors) = (w.products.committed, [a[lane], b[lane]]);
    w.products.issued.push(Issued { pc, group, product, descriptors, add: add & m != 0, base });
    w.clock.tick();
}

/// Where a row's (of A) or column's (of B) element lies (PTX ISA, "Matrix Descriptor Format", "Strides"). `x` counts
/// along M or N, `k` along K.
fn locate(descriptor: u64, bytes: usize, transposed: bool, x: usize, k: usize) -> u32 {
    let field = |shift: u32| (descriptor >> shift & 0x3FFF) as usize * 16;
    let (start, leading, stride) = (field(0), field(16), field(32));
    // 0: none, 1: 128 bytes, 2: 64, 3: 32; tensor maps count the other way.
    let mode = (4 - (descriptor >> 62) as u8) % 4;
    let span = 16usize << mode;
    let at = match (transposed, mode) {
        (false, 0) => k * bytes % 16 + k * bytes / 16 * leading + x % 8 * 16 + x / 8 * stride,
        (false, _) => k * bytes + x % 8 * span + x / 8 * stride,
        (true, 0) => x * bytes % 16 + x * bytes / 16 * stride + k % 8 * 16 + k / 8 * leading,
        (true, _) => x * bytes % span + x * bytes / span * leading + k % 8 * span + k / 8 * stride,
    };
    let offset = (descriptor >> 49 & 7) as usize * 128;
    // A pattern that starts off its boundary is swizzled as if it started on it.
    (swizzle(mode, (start + at).wrapping_sub(offset) as u32) as usize + offset) as u32
}

/// Rows of A of this warp, or columns of B.
fn extent(product: &Product, w: &Warp, operand: usize) -> std::ops::Range<usize> {
    match operand {
        0 => (w.id as usize % 4 * 16)..(w.id as usize % 4 * 16 + 16),
        _ => 0..product.n as usize,
    }
}

/// Judges the reads of an operand in shared memory.
fn enter(
    cx: &mut Cx,
    w: &mut Warp,
    i: &Instruction,
    lane: usize,
    product: &Product,
    operand: usize,
    descriptor: u64,
) {
    let bytes = super::mma::element_bytes(product.a);
    let each =
        |x| (0..product.k()).map(move |k| locate(descriptor, bytes, product.transposed[operand], x, k) / 16);
    let mut rows: Vec<u32> = extent(product, w, operand).flat_map(each).collect();
    rows.sort_unstable();
    rows.dedup();
    let checks = &cx.launch.options.checks;
    let (race, uninitialised) = (checks.race, checks.uninitialised);
    // Products of each warp count for themselves; 0 is bulk copies.
    let me = Epoch::new(w.clock.block | ASYNC, 1 + w.id % 31, 0, w.products.number, false);
    let judge = Judge { clock: &w.clock, lanes: true, warps: true };
    for row in rows {
        let at = row as usize * 16;
        let shared = &mut cx.cluster.blocks[w.block as usize].shared;
        let size = shared.data.len();
        if at + 16 > size {
            cx.report(w, i, lane as u32, FindingKind::Bounds, Some(at as u64), || {
                format!("an operand at {at:#x} of {size} bytes of shared memory")
            });
            return;
        }
        let flying = shared.flying(at, 16);
        let unwritten = shared.written[at..at + 16].contains(&0);
        let unfenced = race && shared.unfenced(w.clock.block, at, 16);
        let found = if race { shared.enter(&judge, me, at as u64, 16, false) } else { None };
        if let Some(by) = flying {
            cx.report(w, i, lane as u32, FindingKind::InFlight, Some(at as u64), || {
                format!("reads bytes that thread {:?} is still copying to", cx.launch.thread(by))
            });
        }
        if unwritten && uninitialised {
            cx.report(w, i, lane as u32, FindingKind::Uninitialised, Some(at as u64), || {
                "reads 16 bytes of shared memory that nobody wrote".into()
            });
        }
        if unfenced {
            cx.report(w, i, lane as u32, FindingKind::Race, Some(at as u64), || {
                "reads what ordinary stores wrote, with no fence.proxy.async since".into()
            });
        }
        if let Some(e) = found {
            cx.race(w, i, lane, at as u64, 16, false, e, me, None);
        }
    }
}

/// Elements in a 32-bit word, as floats; integers are exact.
fn elements(ty: Type, word: u32) -> [f32; 4] {
    match ty {
        Type::Tf32 => [f32::from_bits(word & !0x1FFF), 0.0, 0.0, 0.0],
        Type::Bf16 => [f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000), 0.0, 0.0],
        Type::F16 => [f16(word & 0xFFFF), f16(word >> 16), 0.0, 0.0],
        Type::E4m3 | Type::E5m2 => word.to_le_bytes().map(|b| super::convert::eight_bit_value(ty, b)),
        Type::S8 => word.to_le_bytes().map(|b| f32::from(b as i8)),
        _ => word.to_le_bytes().map(f32::from),
    }
}

/// An operand's elements, `[x][k]`.
fn operand(cx: &Cx, w: &Warp, product: &Product, which: usize, descriptor: u64) -> Vec<f32> {
    let ty = [product.a, product.b][which];
    let (bytes, k) = (super::mma::element_bytes(ty), product.k());
    let data = &cx.cluster.blocks[w.block as usize].shared.data;
    let sign = if product.negate[which] { -1.0 } else { 1.0 };
    let mut out = Vec::new();
    for x in extent(product, w, which) {
        for k in 0..k {
            let at = locate(descriptor, bytes, product.transposed[which], x, k) as usize;
            let mut word = [0; 4];
            // Outside was reported when the product was issued.
            if let Some(from) = data.get(at..at + bytes) {
                word[..bytes].copy_from_slice(from);
            }
            out.push(sign * elements(ty, u32::from_le_bytes(word))[0]);
        }
    }
    out
}

/// A's sixteen rows from registers, laid out as in `mma.sync`.
fn from_registers(w: &Warp, i: &Instruction, p: &Issued) -> Vec<f32> {
    let (each, k) = (4 / super::mma::element_bytes(p.product.a), p.product.k());
    let sign = if p.product.negate[0] { -1.0 } else { 1.0 };
    let mut out = vec![0.0; 16 * k];
    for (r, s) in i.list[p.product.results()..].iter().enumerate() {
        for (l, word) in w.registers[p.base + s.index()].0.iter().enumerate() {
            let (row, first) = (l / 4 + 8 * (r % 2), 4 * each * (r / 2) + each * (l % 4));
            for (j, x) in elements(p.product.a, *word)[..each].iter().enumerate() {
                out[row * k + first + j] = sign * x;
            }
        }
    }
    out
}

/// One result: the sum of products and what was there.
fn sum(mode: Accumulation, a: &[f32], b: &[f32], start: f32) -> f32 {
    match mode {
        Accumulation::Sequential => a.iter().zip(b).fold(start, |s, (x, y)| x.mul_add(*y, s)),
        Accumulation::Pairwise => {
            let mut sums: Vec<f32> = a.iter().zip(b).map(|(x, y)| x * y).collect();
            while sums.len() > 1 {
                let half = sums.len() / 2;
                for j in 0..half {
                    sums[j] += sums[j + half];
                }
                sums.truncate(half);
            }
            start + sums[0]
        }
        Accumulation::Truncating => a.chunks(8).zip(b.chunks(8)).fold(start, |s, (a, b)| {
            let exact: f64 = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            narrow32(exact + f64::from(s), Round::Zero)
        }),
    }
}

/// Makes products, in the order of their issue.
fn make(cx: &mut Cx, w: &mut Warp, done: &[Issued]) {
    let launch = cx.launch;
    let mode = launch.options.accumulation;
    let waited = w.products.number - w.products.issued.len() as u32;
    for p in done {
        let i = &launch.loaded.module.0.code[p.pc as usize];
        let (product, k) = (&p.product, p.product.k());
        let a = match product.registers {
            true => from_registers(w, i, p),
            false => operand(cx, w, product, 0, p.descriptors[0]),
        };
        let b = operand(cx, w, product, 1, p.descriptors[1]);
        for (r, s) in i.list[..product.results()].iter().enumerate() {
            let plane = &mut w.registers[p.base + s.index()].0;
            for (l, word) in plane.iter_mut().enumerate() {
                let dot = |column: usize, row: usize, start: f32| {
                    sum(mode, &a[row * k..row * k + k], &b[column * k..column * k + k], start)
                };
                *word = if product.d == Type::F16 {
                    // Two columns in a register.
                    let (row, column) = (l / 4 + 8 * (r % 2), 8 * (r / 2) + 2 * (l % 4));
                    let half = |h: usize| {
                        let old = if p.add { f16(*word >> (16 * h) & 0xFFFF) } else { 0.0 };
                        f16_near(dot(column + h, row, old))
                    };
                    half(0) | half(1) << 16
                } else {
                    let (row, column) = (l / 4 + 8 * (r / 2 % 2), 8 * (r / 4) + 2 * (l % 4) + r % 2);
                    if product.d == Type::S32 {
                        let exact =
                            (0..k).map(|j| a[row * k + j] as i64 * b[column * k + j] as i64).sum::<i64>()
                                + if p.add { i64::from(*word as i32) } else { 0 };
                        match product.saturate {
                            true => exact.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32,
                            false => exact as u32,
                        }
                    } else {
                        dot(column, row, if p.add { f32::from_bits(*word) } else { 0.0 }).to_bits()
                    }
                };
            }
        }
        for at in planes(i, p.base) {
            w.products.busy[at] -= 1;
        }
    }
    if !done.is_empty() {
        // The reads of what was made are over.
        let mut counts = vec![0; 32];
        counts[1 + w.id as usize % 31] = waited;
        w.clock.join(&[(w.clock.block | ASYNC, counts)].into());
    }
}
