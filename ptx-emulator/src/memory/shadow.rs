//! Who touched each word last: the shadow by which races are judged.
//!
//! A cell stands for four bytes and remembers the last write and two reads that nothing has ordered yet, each as an
//! [`Epoch`] with the bytes it covered. Of more than two unordered readers some are forgotten: a race may then go unseen
//! at this word, but nothing is ever reported that is not one. As long as sixteen aligned bytes, a row, are only touched
//! all at once, the cells of its four words would be the same, and one cell stands for them all.

use super::clock::WarpClock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

/// Counts stop here.
pub const MAX_CLOCK: u32 = (1 << 27) - 1;
/// Blocks are told apart up to this number.
pub const MAX_BLOCK: u32 = (1 << 21) - 1;
/// Added to a block's number: the asynchronous copies that it issued. Their number is their count.
pub const ASYNC: u32 = MAX_BLOCK + 1;

/// One access, packed: count 27 bits, block 22, warp 5, lane 5, strong 1, bytes touched 4. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub u64);

impl Epoch {
    /// An access by a lane, without its bytes.
    #[inline(always)]
    pub fn new(block: u32, warp: u32, lane: u32, count: u32, strong: bool) -> Epoch {
        Epoch(
            u64::from(count)
                | u64::from(block & (MAX_BLOCK | ASYNC)) << 27
                | u64::from(warp) << 49
                | u64::from(lane) << 54
                | u64::from(strong) << 59,
        )
    }

    /// The same by a lane, of one by lane 0.
    #[inline(always)]
    pub fn of_lane(self, lane: u32) -> Epoch {
        Epoch(self.0 | u64::from(lane) << 54)
    }

    /// The warp's count at the time.
    #[inline(always)]
    pub fn count(self) -> u32 {
        self.0 as u32 & MAX_CLOCK
    }

    /// Linear block of the grid.
    #[inline(always)]
    pub fn block(self) -> u32 {
        (self.0 >> 27) as u32 & (MAX_BLOCK | ASYNC)
    }

    /// Warp of the block.
    #[inline(always)]
    pub fn warp(self) -> u32 {
        (self.0 >> 49) as u32 & 31
    }

    /// Lane of the warp.
    #[inline(always)]
    pub fn lane(self) -> u32 {
        (self.0 >> 54) as u32 & 31
    }

    #[inline(always)]
    fn strong(self) -> bool {
        self.0 >> 59 & 1 != 0
    }

    #[inline(always)]
    fn bytes(self) -> u64 {
        self.0 >> 60
    }

    #[inline(always)]
    fn with_bytes(self, mask: u64) -> Epoch {
        Epoch(self.0 | mask << 60)
    }

    /// Same warp at the same count.
    #[inline(always)]
    fn same_warp_and_count(self, other: Epoch) -> bool {
        (self.0 ^ other.0) & ((1 << 54) - 1) == 0
    }

    /// Same warp of the same block.
    #[inline(always)]
    pub fn same_warp(self, other: Epoch) -> bool {
        (self.0 ^ other.0) & (((1 << 54) - 1) ^ u64::from(MAX_CLOCK)) == 0
    }
}

/// The accesses remembered of four bytes: a write and two reads.
pub type Cell = [u64; 3];

/// What judging needs to know of the one who accesses.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Clock of the warp.
    pub clock: &'a WarpClock,
    /// Whether lanes of one warp are held against each other.
    pub lanes: bool,
    /// Whether warps are.
    pub warps: bool,
}

impl Judge<'_> {
    /// Whether an access happened before one by `me`.
    #[inline(always)]
    pub fn ordered(&self, earlier: Epoch, me: Epoch) -> bool {
        if earlier.same_warp(me) {
            // Within a warp: one's own program order, or a synchronisation since.
            !self.lanes || earlier.lane() == me.lane() || earlier.count() < me.count()
        } else {
            !self.warps || self.clock.knows(earlier.block(), earlier.warp(), earlier.count())
        }
    }

    /// Enters an access to the bytes of `mask` into a cell; returns the earlier access that it races with.
    #[inline(always)]
    pub fn enter(&self, cell: &mut Cell, me: Epoch, mask: u64, write: bool) -> Option<Epoch> {
        let mut found = None;
        let against =
            |e: Epoch| e.bytes() & mask != 0 && !(e.strong() && me.strong()) && !self.ordered(e, me);
        let last = Epoch(cell[0]);
        if last.0 != 0 && against(last) {
            found = Some(last);
        }
        if write {
            for read in [cell[1], cell[2]] {
                if read != 0 && against(Epoch(read)) {
                    found = Some(Epoch(read));
                }
            }
            let kept =
                if last.same_warp_and_count(me) && last.strong() == me.strong() { last.bytes() } else { 0 };
            // A partial write keeps the readers of the other bytes.
            *cell = [
                me.with_bytes(mask | kept).0,
                if Epoch(cell[1]).bytes() & !mask != 0 { cell[1] } else { 0 },
                if Epoch(cell[2]).bytes() & !mask != 0 { cell[2] } else { 0 },
            ];
        } else {
            let slot = |c: u64| c == 0 || (Epoch(c).same_warp(me)) || self.ordered(Epoch(c), me);
            let k = if slot(cell[1]) { 1 } else { 2 };
            if k == 2 && !slot(cell[2]) && witnesses(Epoch(cell[1]), Epoch(cell[2]), me, mask) {
                return found;
            }
            let old = Epoch(cell[k]);
            let kept = if old.0 != 0 && old.same_warp_and_count(me) { old.bytes() } else { 0 };
            cell[k] = me.with_bytes(mask | kept).0;
        }
        found
    }
}

impl Judge<'_> {
    /// Enters a read of all that a cell stands for when it races with nothing; else leaves the cell as it is.
    #[inline(always)]
    pub fn reads_whole(&self, cell: &mut Cell, me: Epoch) -> bool {
        let last = Epoch(cell[0]);
        if last.0 != 0 && !self.ordered(last, me) {
            return false;
        }
        if Epoch(cell[1]).0 == 0 || Epoch(cell[1]).same_warp(me) {
            cell[1] = me.with_bytes(0xF).0;
        } else {
            self.enter(cell, me, 0xF, false);
        }
        true
    }

    /// Enters a write of all that a cell stands for when it races with nothing; else leaves the cell as it is.
    #[inline(always)]
    pub fn writes_whole(&self, cell: &mut Cell, me: Epoch) -> bool {
        for e in *cell {
            if e != 0 && !self.ordered(Epoch(e), me) {
                return false;
            }
        }
        *cell = [me.with_bytes(0xF).0, 0, 0];
        true
    }
}

/// Whether any write that races with a read by `me` also races with one of two reads that are remembered: they are by
/// two blocks, no block is ordered after both, and they are as weak and as wide.
#[inline(always)]
fn witnesses(a: Epoch, b: Epoch, me: Epoch, mask: u64) -> bool {
    let wide = a.bytes() & b.bytes() & mask == mask;
    let weak = !(a.strong() || b.strong()) || me.strong();
    a.block() != b.block() && wide && weak
}

/// Bytes that one page of global shadow stands for.
const PAGE: usize = 4096;
/// Rows of a page.
const ROWS: usize = PAGE / 16;
type SharedCell = [AtomicU64; 3];

/// The cells of a page. Rows start whole and, once split, stay so: a worker that still takes a row for whole then
/// enters an access to all of it, which is true of each word.
#[derive(Debug)]
struct Page {
    /// Of whole rows; of split ones, of the first word.
    first: [SharedCell; ROWS],
    /// A bit for each row that was split.
    split: [AtomicU64; ROWS / 64],
    /// Of the other three words.
    rest: OnceLock<Box<[[SharedCell; 3]; ROWS]>>,
}

const fn empty() -> SharedCell {
    [const { AtomicU64::new(0) }; 3]
}

impl Page {
    fn new() -> Box<Page> {
        Box::new(Page {
            first: [const { empty() }; ROWS],
            split: [const { AtomicU64::new(0) }; ROWS / 64],
            rest: OnceLock::new(),
        })
    }

    #[inline(always)]
    fn is_split(&self, row: usize) -> bool {
        self.split[row / 64].load(Ordering::Relaxed) >> (row % 64) & 1 != 0
    }

    #[inline]
    fn words(&self, row: usize) -> &[SharedCell; 3] {
        &self.rest.get_or_init(|| Box::new([const { [const { empty() }; 3] }; ROWS]))[row]
    }

    /// The cell that stands for a word.
    fn cell(&self, word: usize) -> &SharedCell {
        match word % 4 {
            k if k > 0 && self.is_split(word / 4) => &self.words(word / 4)[k - 1],
            _ => &self.first[word / 4],
        }
    }

    fn split(&self, row: usize) {
        // Read before the bit: what a split row's first word holds must not be taken for the whole row's.
        let whole: Cell = std::array::from_fn(|k| self.first[row][k].load(Ordering::Acquire));
        if !self.is_split(row) {
            for word in self.words(row) {
                (0..3).for_each(|k| word[k].store(whole[k], Ordering::Relaxed));
            }
            self.split[row / 64].fetch_or(1 << (row % 64), Ordering::Release);
        }
    }
}

#[inline(always)]
fn peek(cells: &SharedCell) -> Cell {
    [cells[0].load(Ordering::Relaxed), cells[1].load(Ordering::Relaxed), cells[2].load(Ordering::Relaxed)]
}

#[inline(always)]
fn enter_shared(cells: &SharedCell, judge: &Judge, me: Epoch, mask: u64, write: bool) -> Option<Epoch> {
    let before = peek(cells);
    let mut cell = before;
    let found = judge.enter(&mut cell, me, mask, write);
    for k in 0..3 {
        if cell[k] != before[k] {
            cells[k].store(cell[k], Ordering::Release);
        }
    }
    found
}

/// The shadow of one allocation during one launch; pages appear when touched.
#[derive(Debug)]
pub struct AllocationShadow {
    pages: Box<[OnceLock<Box<Page>>]>,
}

impl AllocationShadow {
    fn new(bytes: u64) -> AllocationShadow {
        let n = (bytes as usize).div_ceil(PAGE);
        AllocationShadow { pages: (0..n).map(|_| OnceLock::new()).collect() }
    }

    #[inline(always)]
    fn page(&self, index: usize) -> &Page {
        self.pages[index].get_or_init(Page::new)
    }

    /// A row will be read soon: its cell is brought near.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        super::bytes::prefetch(&self.page(offset / PAGE).first[offset % PAGE / 16]);
    }

    /// Enters a read of a row, unless it might race or the row is split.
    #[inline(always)]
    pub fn read_row(&self, judge: &Judge, me: Epoch, offset: usize) -> bool {
        let (page, row) = (self.page(offset / PAGE), offset % PAGE / 16);
        if page.is_split(row) {
            return false;
        }
        let cells = &page.first[row];
        let before = peek(cells);
        let mut cell = before;
        if !judge.reads_whole(&mut cell, me) {
            return false;
        }
        for k in 1..3 {
            if cell[k] != before[k] {
                cells[k].store(cell[k], Ordering::Release);
            }
        }
        true
    }

    /// Enters an access of `size` bytes at `offset`; returns what it races with.
    #[inline]
    pub fn enter(&self, judge: &Judge, me: Epoch, offset: u64, size: u32, write: bool) -> Option<Epoch> {
        if size == 16 && offset.is_multiple_of(16) {
            let (page, row) = (self.page(offset as usize / PAGE), offset as usize % PAGE / 16);
            if !page.is_split(row) {
                return enter_shared(&page.first[row], judge, me, 0xF, write);
            }
        }
        let mut found = None;
        let end = offset + u64::from(size);
        let mut at = offset & !3;
        while at < end {
            let mask = byte_mask(at, offset, end);
            let (page, row) = (self.page(at as usize / PAGE), at as usize % PAGE / 16);
            if !page.is_split(row) {
                page.split(row);
            }
            let cells = match at as usize / 4 % 4 {
                0 => &page.first[row],
                k => &page.words(row)[k - 1],
            };
            found = enter_shared(cells, judge, me, mask, write).or(found);
            at += 4;
        }
        found
    }
}

impl AllocationShadow {
    /// Adds the ranges that were touched, by address. Strong accesses are left out: they order, they do not race.
    fn touched(&self, base: u64, out: &mut Vec<Touched>) {
        for (index, page) in self.pages.iter().enumerate() {
            let Some(page) = page.get() else { continue };
            for word in 0..PAGE / 4 {
                let [write, a, b] = peek(page.cell(word)).map(Epoch);
                let weak = |e: Epoch| if e.strong() { 0 } else { e.bytes() };
                let (written, read) = (weak(write), weak(a) | weak(b));
                for byte in (0..4u64).filter(|byte| (written | read) >> byte & 1 != 0) {
                    let start = base + (index * PAGE + 4 * word) as u64 + byte;
                    let write = written >> byte & 1 != 0;
                    match out.last_mut() {
                        Some(last) if last.start + last.len == start && last.write == write => last.len += 1,
                        _ => out.push(Touched { start, len: 1, write }),
                    }
                }
            }
        }
    }
}

/// Which of the four bytes at `at` the range `[start, end)` covers.
#[inline(always)]
pub fn byte_mask(at: u64, start: u64, end: u64) -> u64 {
    let low = start.saturating_sub(at);
    let high = (end - at).min(4);
    (0xF >> (4 - high)) & (0xF << low)
}

/// A range of device memory that a launch touched with ordinary accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Whether it was written; otherwise only read.
    pub write: bool,
}

/// The shadow of all device memory during one launch, and what was published at its addresses.
#[derive(Debug, Default)]
pub struct GlobalShadow {
    allocations: RwLock<HashMap<u64, Arc<AllocationShadow>>>,
    published: Mutex<HashMap<u64, Published>>,
}

/// What was published at an address: to all, and to each block.
#[derive(Debug, Default, Clone)]
pub struct Published {
    device: Option<Arc<super::clock::Known>>,
    block: Option<(u32, Arc<super::clock::Known>)>,
}

impl Published {
    /// Adds a clock; `replace` when an ordinary store starts anew, false for a read-modify-write.
    pub fn publish(&mut self, clock: &WarpClock, release: Option<crate::types::Scope>, replace: bool) {
        use crate::types::Scope;
        if replace {
            *self = Published::default();
        }
        let (mut device, mut block) = (clock.ready[1].clone(), clock.ready[0].clone());
        match release {
            Some(Scope::Cta) => block = Some(Arc::new(clock.publish())),
            Some(_) => device = Some(Arc::new(clock.publish())),
            None => {}
        }
        if let Some(d) = device {
            self.device = Some(join(self.device.take(), d));
        }
        if let Some(b) = block {
            let old = self.block.take().filter(|(owner, _)| *owner == clock.block).map(|(_, k)| k);
            self.block = Some((clock.block, join(old, b)));
        }
    }

    /// What a reader in `block` finds.
    pub fn seen_by(&self, block: u32) -> impl Iterator<Item = Arc<super::clock::Known>> + '_ {
        let own = self.block.iter().filter(move |(b, _)| *b == block).map(|(_, k)| k.clone());
        self.device.iter().cloned().chain(own)
    }

    /// Whether nothing is published here.
    pub fn is_empty(&self) -> bool {
        self.device.is_none() && self.block.is_none()
    }
}

fn join(old: Option<Arc<super::clock::Known>>, new: Arc<super::clock::Known>) -> Arc<super::clock::Known> {
    match old {
        None => new,
        Some(old) if Arc::ptr_eq(&old, &new) => old,
        Some(mut old) => {
            super::clock::merge(Arc::make_mut(&mut old), &new);
            old
        }
    }
}

impl GlobalShadow {
    /// What the launch touched so far, by address.
    pub fn touched(&self) -> Vec<Touched> {
        let mut all: Vec<(u64, Arc<AllocationShadow>)> = self
            .allocations
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
            .map(|(base, shadow)| (*base, shadow.clone()))
            .collect();
        all.sort_by_key(|(base, _)| *base);
        let mut out = Vec::new();
        for (base, shadow) in all {
            shadow.touched(base, &mut out);
        }
        out
    }

    /// The shadow of an allocation.
    pub fn of(&self, base: u64, bytes: u64) -> Arc<AllocationShadow> {
        if let Some(s) = self.allocations.read().unwrap_or_else(|e| e.into_inner()).get(&base) {
            return s.clone();
        }
        let mut all = self.allocations.write().unwrap_or_else(|e| e.into_inner());
        all.entry(base).or_insert_with(|| Arc::new(AllocationShadow::new(bytes))).clone()
    }

    /// What is published at addresses of device memory.
    pub fn published(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Published>> {
        self.published.lock().unwrap_or_else(|e| e.into_inner())
    }
}
