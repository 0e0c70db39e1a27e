//! Bulk copies and reductions: `cp.async.bulk`, `cp.reduce.async.bulk` and the same of tensors (PTX ISA, "Data Movement
//! and Conversion Instructions: Bulk copy", "Tensors").
//!
//! Another agent does them, the asynchronous proxy: its accesses are entered in the shadow as those of a block of its
//! own, with the copy's number for a clock, when the copy is issued. So whoever touches the same bytes without having
//! waited for the copy races with it, before the bytes have moved and after. Bytes move when somebody waits for them.
//! What ordinary stores wrote is seen by the proxy only after a `fence.proxy.async`. Reductions are relaxed atomics.

use super::access::{Place, addresses};
use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, Flow};
use crate::check::FindingKind;
use crate::ir::{AtomOp, Instruction};
use crate::memory::clock::Known;
use crate::memory::shadow::{ASYNC, Epoch, Judge};
use crate::tensor_map::TensorMap;
use crate::types::{Space, Type};

/// An address operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Whether the register has 64 bits.
    pub wide: bool,
    /// Added to it.
    pub offset: i64,
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From device memory to shared memory, announced to a barrier.
    Load,
    /// From shared memory to device memory, in a bulk group.
    Store,
    /// From the block's shared memory to that of a block of the cluster, announced to a barrier there.
    Exchange,
}

/// A bulk copy. `s[0]` = shared address (where an exchange goes), `s[1]` = global address, tensor map or where an
/// exchange comes from, `s[2]` = barrier, `s[3]` = bytes; `list` = coordinates, then, when there is one, the mask of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkOp {
    /// From where to where.
    pub way: Way,
    /// The operation and type, where it combines with what is there. A tensor's type is that of its map.
    pub reduction: Option<(AtomOp, Type)>,
    /// Dimensions of the tensor; 0 for plain bytes.
    pub rank: u8,
    /// To the blocks of a mask, the last of `list`.
    pub multicast: bool,
    /// Shared address.
    pub shared: At,
    /// Global address.
    pub global: At,
    /// Barrier.
    pub barrier: At,
}

/// `st.async` and `red.async`: registers to the shared memory of a block of the cluster, announced to a barrier there.
/// `s[0]` = where to, `s[2]` = barrier, `list` = values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteOp {
    /// Type of a value.
    pub ty: Type,
    /// The operation, where it combines with what is there.
    pub reduction: Option<AtomOp>,
    /// Where to.
    pub to: At,
    /// Barrier.
    pub barrier: At,
}

/// Bytes that lie together on both sides.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Offset in the block's shared memory.
    shared: u32,
    /// Address; 0 is outside of the tensor.
    global: u64,
    bytes: u32,
}

/// A copy that is not done.
#[derive(Clone, Debug)]
pub struct Bulk {
    way: Way,
    reduction: Option<(AtomOp, Type)>,
    /// Where an exchange comes from: block and offset.
    source: (u32, u32),
    /// Block whose shared memory it concerns.
    rank: u32,
    pieces: Vec<Piece>,
    /// Bytes of an element outside of the tensor, as it repeats.
    fill: u32,
    barrier: Option<u32>,
    /// Warp and lane that issued it, and the bulk group.
    issuer: (u32, u32, u32),
    group: u32,
    /// Bytes on their way, once they have been read.
    taken: Option<Vec<u8>>,
    number: u32,
    line: u32,
}

impl Bulk {
    fn bytes(&self) -> u32 {
        self.pieces.iter().map(|p| p.bytes).sum()
    }

    /// What those know who have waited for it.
    fn known(&self, block: u32) -> Known {
        Known::from([(block | ASYNC, vec![self.number])])
    }
}

/// Issues a bulk copy for the lanes of `m`.
pub fn run(op: BulkOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    let shared = addresses(w, constants, i.s[0], op.shared.wide, op.shared.offset);
    let global = addresses(w, constants, i.s[1], op.global.wide, op.global.offset);
    let v = w.view(constants);
    let sizes = if i.s[3].is_none() { [0; 32] } else { v.read32(i.s[3]) };
    let list: Vec<[u32; 32]> = i.list.iter().map(|s| v.read32(*s)).collect();
    let barriers = match i.s[2] {
        s if s.is_none() => [0; 32],
        s => addresses(w, constants, s, op.barrier.wide, op.barrier.offset),
    };
    for l in lanes(m) {
        let Some(Place::Shared(rank, offset)) = cx.place(w, i, l, Space::Shared, shared[l], 16) else {
            continue;
        };
        let (mut pieces, mut fill) = (Vec::new(), 0);
        let (mut reduction, mut source) = (op.reduction, (0, 0));
        if op.rank == 0 {
            if !sizes[l].is_multiple_of(16) || !global[l].is_multiple_of(16) {
                cx.report(w, i, l as u32, FindingKind::Misaligned, Some(global[l]), || {
                    format!("a bulk copy of {} bytes: sizes and addresses must be multiples of 16", sizes[l])
                });
                continue;
            }
            let mut from = global[l];
            if op.way == Way::Exchange {
                let Some(Place::Shared(block, at)) = cx.place(w, i, l, Space::Shared, global[l], 16) else {
                    continue;
                };
                (source, from) = ((block as u32, at as u32), 0);
            }
            pieces.push(Piece { shared: offset as u32, global: from, bytes: sizes[l] });
        } else {
            let words = load_map(cx, w, i, l, global[l]);
            let Some(map) = TensorMap::decode(&words) else {
                cx.report(w, i, l as u32, FindingKind::Trap, Some(global[l]), || {
                    "a tensor map that nobody encoded".into()
                });
                continue;
            };
            let align = if map.swizzle == 0 && op.way == Way::Store { 16 } else { 128 };
            if map.rank != op.rank || map.interleave != 0 || !offset.is_multiple_of(align) {
                let kind =
                    if !offset.is_multiple_of(align) { FindingKind::Misaligned } else { FindingKind::Trap };
                cx.report(w, i, l as u32, kind, Some(shared[l]), || {
                    format!(
                        "a copy of rank {} with a map of rank {} and interleave {} (which is not modelled), to {offset:#x} (a multiple of {align} is needed)",
                        op.rank, map.rank, map.interleave
                    )
                });
                continue;
            }
            let bytes =
                map.copied().iter().map(|n| u64::from(*n)).product::<u64>() * u64::from(map.element_bytes());
            let size = cx.cluster.blocks[rank].shared.data.len();
            if offset as u64 + bytes > size as u64 {
                cx.report(w, i, l as u32, FindingKind::Bounds, Some(shared[l]), || {
                    format!("a box of {bytes} bytes at {offset:#x} of {size} bytes of shared memory")
                });
                continue;
            }
            let mut at = [0i32; 5];
            (0..op.rank as usize).for_each(|k| at[k] = list[k][l] as i32);
            pieces = tile(&map, at, offset as u32);
            if let Some((operation, _)) = reduction {
                let ty = map.element();
                if !reduces(operation, ty) {
                    cx.report(w, i, l as u32, FindingKind::Trap, Some(global[l]), || {
                        format!("a reduction by {operation:?} of elements of type {ty:?}")
                    });
                    continue;
                }
                reduction = Some((operation, ty));
            }
            fill = match (map.fill, map.element_bytes()) {
                (0, _) => 0,
                (_, 2) => 0x7FFF_7FFF,
                _ => 0x7FFF_FFFF,
            };
        }
        let mask = if op.multicast { list[list.len() - 1][l] } else { 1 << rank };
        // The barrier has the same offset in each block of the mask.
        let barrier = match op.way {
            Way::Store => None,
            _ => match cx.place(w, i, l, Space::Shared, barriers[l], 8) {
                Some(Place::Shared(block, _)) if op.way == Way::Exchange && block != rank => {
                    cx.report(w, i, l as u32, FindingKind::Trap, Some(barriers[l]), || {
                        format!("the barrier is in block {block} of the cluster, the destination in {rank}")
                    });
                    continue;
                }
                Some(Place::Shared(_, offset)) => Some(offset as u32),
                _ => continue,
            },
        };
        for to in lanes(mask) {
            if to < cx.cluster.blocks.len() {
                let copy = Bulk {
                    way: op.way,
                    reduction,
                    source,
                    rank: to as u32,
                    pieces: pieces.clone(),
                    fill,
                    barrier,
                    issuer: (w.block, w.id, l as u32),
                    group: w.copies.bulk_group(l),
                    taken: None,
                    number: 0,
                    line: i.line,
                };
                issue(cx, w, i, l, copy);
            } else {
                cx.report(w, i, l as u32, FindingKind::Bounds, None, || format!("block {to} of the cluster"));
            }
        }
    }
    // What the issuer does from here on is not what the copy was issued after.
    w.clock.tick();
    Flow::Next
}

/// Issues asynchronous stores or reductions for the lanes of `m`.
pub fn send(op: RemoteOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    let to = addresses(w, constants, i.s[0], op.to.wide, op.to.offset);
    let barriers = addresses(w, constants, i.s[2], op.barrier.wide, op.barrier.offset);
    let v = w.view(constants);
    let each = op.ty.bytes();
    let values: Vec<[u64; 32]> =
        i.list.iter().map(|s| if each == 8 { v.read64(*s) } else { v.read32(*s).map(u64::from) }).collect();
    for l in lanes(m) {
        let bytes = each * values.len() as u32;
        let place = cx.place(w, i, l, Space::Shared, to[l], bytes);
        let barrier = cx.place(w, i, l, Space::Shared, barriers[l], 8);
        let (Some(Place::Shared(rank, offset)), Some(Place::Shared(block, at))) = (place, barrier) else {
            continue;
        };
        if rank != block {
            cx.report(w, i, l as u32, FindingKind::Trap, Some(barriers[l]), || {
                format!("the barrier is in block {block} of the cluster, the destination in {rank}")
            });
            continue;
        }
        let taken = values.iter().flat_map(|x| x[l].to_le_bytes().into_iter().take(each as usize)).collect();
        let copy = Bulk {
            way: Way::Exchange,
            reduction: op.reduction.map(|how| (how, op.ty)),
            source: (w.block, 0),
            rank: rank as u32,
            pieces: vec![Piece { shared: offset as u32, global: 0, bytes }],
            fill: 0,
            barrier: Some(at as u32),
            issuer: (w.block, w.id, l as u32),
            group: w.copies.bulk_group(l),
            taken: Some(taken),
            number: 0,
            line: i.line,
        };
        issue(cx, w, i, l, copy);
    }
    w.clock.tick();
    Flow::Next
}

fn load_map(cx: &mut Cx, w: &mut Warp, i: &Instruction, lane: usize, address: u64) -> [u64; 16] {
    let mut words = [0; 16];
    for (k, pair) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let value = cx.load(w, i, lane, Space::Generic, address + 16 * k as u64, 16, false);
        *pair = [value as u64, (value >> 64) as u64];
    }
    words
}

/// The pieces of a box whose first element is at `at`, which may lie outside of the tensor.
fn tile(map: &TensorMap, at: [i32; 5], shared: u32) -> Vec<Piece> {
    let (count, size) = (map.copied(), map.element_bytes());
    let mut pieces: Vec<Piece> = Vec::new();
    let mut to = shared;
    for row in 0..count[1..].iter().product::<u32>() {
        let mut rest = row;
        let (mut base, mut inside) = (map.address, true);
        for k in 1..5 {
            let x = i64::from(at[k]) + i64::from(rest % count[k] * map.element_strides[k]);
            rest /= count[k];
            inside &= (0..map.dims[k] as i64).contains(&x);
            base = base.wrapping_add_signed(x.wrapping_mul(map.strides[k] as i64));
        }
        for e in 0..count[0] {
            let x = i64::from(at[0]) + i64::from(e * map.element_strides[0]);
            let inside = inside && (0..map.dims[0] as i64).contains(&x);
            let global = if inside { base.wrapping_add_signed(x * i64::from(size)) } else { 0 };
            let shared = swizzle(map.swizzle, to);
            to += size;
            if let Some(p) = pieces.last_mut() {
                let follows =
                    p.shared + p.bytes == shared && (map.swizzle == 0 || !shared.is_multiple_of(16));
                if follows
                    && (if inside {
                        p.global != 0 && p.global + u64::from(p.bytes) == global
                    } else {
                        p.global == 0
                    })
                {
                    p.bytes += size;
                    continue;
                }
            }
            pieces.push(Piece { shared, global, bytes: size });
        }
    }
    pieces
}

/// Where a byte of shared memory goes: rows of 16 bytes change places within their span (PTX ISA, "Tensor: Swizzling
/// Modes"), by the bits of the address above it.
pub fn swizzle(mode: u8, at: u32) -> u32 {
    match mode {
        1 => at ^ (at >> 7 & 1) << 4,
        2 => at ^ (at >> 7 & 3) << 4,
        3 => at ^ (at >> 7 & 7) << 4,
        _ => at,
    }
}

/// Whether elements of a type can be combined by an operation (PTX ISA, "cp.reduce.async.bulk").
pub fn reduces(op: AtomOp, ty: Type) -> bool {
    use Type::*;
    match op {
        AtomOp::Add => matches!(ty, U32 | S32 | U64 | F16 | Bf16 | F32 | F64),
        AtomOp::Min | AtomOp::Max => matches!(ty, U32 | S32 | U64 | S64 | F16 | Bf16),
        AtomOp::Inc | AtomOp::Dec => ty == U32,
        AtomOp::And | AtomOp::Or | AtomOp::Xor => matches!(ty, B32 | B64 | U32 | S32 | U64 | S64),
        AtomOp::Exch | AtomOp::Cas => false,
    }
}

/// Judges all accesses of a copy as the proxy's, and puts it among those to be done.
fn issue(cx: &mut Cx, w: &mut Warp, i: &Instruction, lane: usize, mut copy: Bulk) {
    cx.cluster.bulk_count += 1;
    copy.number = cx.cluster.bulk_count;
    let me = Epoch::new(w.clock.block | ASYNC, 0, 0, copy.number, false);
    // Reductions do not race with each other.
    let target = Epoch::new(w.clock.block | ASYNC, 0, 0, copy.number, copy.reduction.is_some());
    let clock = w.clock.clone();
    let judge = Judge { clock: &clock, lanes: true, warps: true };
    for p in &copy.pieces {
        let fine = match copy.way {
            Way::Load => judge_shared(cx, w, i, lane, &judge, target, copy.rank, p, Touch::Writes),
            Way::Store => judge_shared(cx, w, i, lane, &judge, me, copy.rank, p, Touch::Reads),
            Way::Exchange => {
                let from = Piece { shared: copy.source.1, ..*p };
                let touch = match (&copy.reduction, &copy.taken) {
                    (None, _) => Touch::Writes,
                    (_, None) => Touch::Changes,
                    _ => Touch::ChangesDirectly,
                };
                (copy.taken.is_some()
                    || judge_shared(cx, w, i, lane, &judge, me, copy.source.0, &from, Touch::Reads))
                    && judge_shared(cx, w, i, lane, &judge, target, copy.rank, p, touch)
            }
        };
        if !fine {
            return;
        }
        let touch = match (copy.way, copy.reduction) {
            (Way::Load, _) => Touch::Reads,
            (_, Some(_)) => Touch::Changes,
            _ => Touch::Writes,
        };
        let epoch = if copy.way == Way::Load { me } else { target };
        if p.global != 0 && !judge_global(cx, w, i, lane, &judge, epoch, p, touch) {
            return;
        }
    }
    cx.cluster.bulk.push(copy);
}

/// What a copy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    Reads,
    Writes,
    /// Reads and writes as an atomic does.
    Changes,
    /// The same, by the thread itself and not by the asynchronous proxy.
    ChangesDirectly,
}

impl Touch {
    /// Whether it is the proxy's, which sees what ordinary stores wrote only after a fence.
    fn proxied(self) -> bool {
        self != Touch::ChangesDirectly
    }
}

/// Judges what a copy does with bytes of a block's shared memory. False when it cannot be done.
#[allow(clippy::too_many_arguments)]
fn judge_shared(
    cx: &mut Cx,
    w: &mut Warp,
    i: &Instruction,
    lane: usize,
    judge: &Judge,
    me: Epoch,
    rank: u32,
    p: &Piece,
    touch: Touch,
) -> bool {
    let thread = w.id * 32 + lane as u32;
    let checks = &cx.launch.options.checks;
    let (race, uninitialised) = (checks.race, checks.uninitialised);
    let (start, end) = (p.shared as usize, p.shared as usize + p.bytes as usize);
    let block = cx.cluster.blocks[rank as usize].linear & crate::memory::shadow::MAX_BLOCK;
    let shared = &mut cx.cluster.blocks[rank as usize].shared;
    if end > shared.data.len() {
        let size = shared.data.len();
        cx.report(w, i, lane as u32, FindingKind::Bounds, Some(start as u64), || {
            format!("{} bytes at {start:#x} of {size} bytes of shared memory", p.bytes)
        });
        return false;
    }
    let (reads, writes) = (touch != Touch::Writes, touch != Touch::Reads);
    let flying = shared.flying(start, p.bytes);
    let unwritten = reads && shared.written[start..end].contains(&0);
    let found = if race { shared.enter(judge, me, start as u64, p.bytes, writes) } else { None };
    let unfenced = touch.proxied() && reads && race && shared.unfenced(block, start, p.bytes);
    if touch == Touch::Writes {
        shared.take_off(p.shared, p.bytes.next_multiple_of(4), thread);
    }
    if let Some(by) = flying {
        cx.report(w, i, lane as u32, FindingKind::InFlight, Some(start as u64), || {
            format!("a bulk copy of bytes that thread {:?} is still copying to", cx.launch.thread(by))
        });
    }
    if unwritten && uninitialised {
        cx.report(w, i, lane as u32, FindingKind::Uninitialised, Some(start as u64), || {
            "a bulk copy of shared memory that nobody wrote".into()
        });
    }
    if let Some(e) = found {
        cx.race(w, i, lane, start as u64, p.bytes, writes, e, me, None);
    }
    if unfenced {
        cx.report(w, i, lane as u32, FindingKind::Race, Some(start as u64), || {
            "a bulk copy of what ordinary stores wrote, with no fence.proxy.async since".into()
        });
    }
    true
}

#[allow(clippy::too_many_arguments)]
fn judge_global(
    cx: &mut Cx,
    w: &mut Warp,
    i: &Instruction,
    lane: usize,
    judge: &Judge,
    me: Epoch,
    p: &Piece,
    touch: Touch,
) -> bool {
    let (reads, writes) = (touch != Touch::Writes, touch != Touch::Reads);
    let found = cx.worker.meet(cx.launch, p.global).filter(|k| {
        let a = &cx.worker.met[*k].allocation;
        p.global - a.base + u64::from(p.bytes) <= a.bytes && !a.is_freed()
    });
    let Some(k) = found else {
        let freed = cx.launch.memory.was_freed(p.global);
        let kind = if freed { FindingKind::Freed } else { FindingKind::Bounds };
        cx.report(w, i, lane as u32, kind, Some(p.global), || {
            format!("{} bytes at {}", p.bytes, cx.launch.memory.describe(p.global))
        });
        return false;
    };
    let met = &cx.worker.met[k];
    let offset = p.global - met.allocation.base;
    if writes && met.allocation.read_only {
        cx.report(w, i, lane as u32, FindingKind::ReadOnly, Some(p.global), || {
            "writes to constant memory".into()
        });
        return false;
    }
    let unwritten = (0..p.bytes as usize).any(|b| !met.allocation.is_written(offset as usize + b, 1));
    let race = met.shadow.as_ref().and_then(|s| s.enter(judge, me, offset, p.bytes, writes));
    if reads && unwritten && cx.launch.options.checks.uninitialised {
        cx.report(w, i, lane as u32, FindingKind::Uninitialised, Some(p.global), || {
            format!("a bulk copy of bytes that nobody wrote: {}", cx.launch.memory.describe(p.global))
        });
    }
    if let Some(e) = race {
        cx.race(w, i, lane, p.global, p.bytes, writes, e, me, None);
    }
    true
}

fn word(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

/// Combines elements with those that are there.
fn combine((op, ty): (AtomOp, Type), there: &mut [u8], with: &[u8]) {
    let n = ty.bytes() as usize;
    for (old, value) in there.chunks_exact_mut(n).zip(with.chunks_exact(n)) {
        let new = super::access::combine(op, ty, word(old), word(value), 0);
        old.copy_from_slice(&new.to_le_bytes()[..n]);
    }
}

/// Somebody looks at a barrier: the copies that it only waits for are done.
pub fn land_for(cx: &mut Cx, rank: usize, barrier: u32) {
    loop {
        let waits =
            cx.cluster.blocks[rank].shared.mbarriers.get(&barrier).is_some_and(|b| b.waits_for_bytes());
        let mine = |c: &Bulk| c.rank as usize == rank && c.barrier == Some(barrier);
        let Some(at) = cx.cluster.bulk.iter().position(mine).filter(|_| waits) else { return };
        let c = cx.cluster.bulk.remove(at);
        let block = cx.cluster.blocks[c.issuer.0 as usize].linear & crate::memory::shadow::MAX_BLOCK;
        let thread = c.issuer.1 * 32 + c.issuer.2;
        let fill = c.fill.to_le_bytes();
        for p in &c.pieces {
            let mut bytes: Vec<u8> = (0..p.bytes as usize).map(|k| fill[k % 4]).collect();
            if let Some(values) = &c.taken {
                bytes.copy_from_slice(values);
            } else if c.way == Way::Exchange {
                let (block, at) = (c.source.0 as usize, c.source.1 as usize);
                bytes.copy_from_slice(&cx.cluster.blocks[block].shared.data[at..at + p.bytes as usize]);
            } else if p.global != 0
                && let Some(k) = cx.worker.meet(cx.launch, p.global)
            {
                let a = &cx.worker.met[k].allocation;
                a.data.read((p.global - a.base) as usize, &mut bytes);
            }
            let shared = &mut cx.cluster.blocks[rank].shared;
            let range = p.shared as usize..(p.shared + p.bytes) as usize;
            match c.reduction {
                Some(how) => combine(how, &mut shared.data[range], &bytes),
                None => {
                    shared.data[range.clone()].copy_from_slice(&bytes);
                    shared.written[range].fill(1);
                    shared.land(p.shared, p.bytes.next_multiple_of(4), thread);
                }
            }
        }
        cx.worker.changes += 1;
        if let Some(b) = cx.cluster.blocks[rank].shared.mbarriers.get_mut(&barrier) {
            b.complete(c.bytes(), &c.known(block));
        }
    }
}

/// `cp.async.bulk.wait_group`: copies out of shared memory, of the lanes of `m` in groups before `until`, have read
/// their source, and, unless only that is asked, have written.
pub fn wait(cx: &mut Cx, w: &mut Warp, m: u32, until: &[u32; 32], only_read: bool) {
    let mut all = std::mem::take(&mut cx.cluster.bulk);
    for c in &mut all {
        let lane = c.issuer.2;
        let mine = (c.issuer.0, c.issuer.1) == (w.block, w.id) && m >> lane & 1 != 0 && c.way == Way::Store;
        if !mine || c.group >= until[lane as usize] {
            continue;
        }
        let data = &cx.cluster.blocks[c.rank as usize].shared.data;
        let bytes = c.taken.take().unwrap_or_else(|| {
            c.pieces
                .iter()
                .flat_map(|p| &data[p.shared as usize..(p.shared + p.bytes) as usize])
                .copied()
                .collect()
        });
        // Its reads are over. Its writes may not be, but one number stands for both.
        w.clock.join(&c.known(w.clock.block));
        if only_read {
            c.taken = Some(bytes);
            continue;
        }
        let mut rest = bytes.as_slice();
        for p in c.pieces.drain(..) {
            let (part, tail) = rest.split_at(p.bytes as usize);
            rest = tail;
            if p.global != 0
                && let Some(k) = cx.worker.meet(cx.launch, p.global)
            {
                let a = &cx.worker.met[k].allocation;
                let offset = (p.global - a.base) as usize;
                match c.reduction {
                    None => a.write_bytes(offset, part),
                    Some((op, ty)) => {
                        for (n, value) in part.chunks_exact(ty.bytes() as usize).enumerate() {
                            let (at, value) = (offset + n * value.len(), word(value));
                            a.data.update(at, ty.bytes() as usize, |old| {
                                super::access::combine(op, ty, old, value, 0)
                            });
                        }
                    }
                }
            }
        }
        cx.worker.changes += 1;
    }
    all.retain(|c| !c.pieces.is_empty());
    cx.cluster.bulk = all;
}

/// Threads exit: their copies out of shared memory must have read it, and are done.
pub fn at_exit(cx: &mut Cx, w: &mut Warp, m: u32) {
    if cx.cluster.bulk.is_empty() {
        return;
    }
    let unread = |c: &&Bulk| {
        c.way == Way::Store
            && c.taken.is_none()
            && (c.issuer.0, c.issuer.1) == (w.block, w.id)
            && m >> c.issuer.2 & 1 != 0
    };
    if let Some(c) = cx.cluster.bulk.iter().find(unread) {
        let place = (cx.cluster.blocks[w.block as usize].id, cx.launch.thread(w.id * 32 + c.issuer.2));
        cx.launch.report(FindingKind::InFlight, c.line, place, None, || {
            "the thread exits while its bulk copy still reads shared memory".into()
        });
    }
    wait(cx, w, m, &[u32::MAX; 32], false);
}
