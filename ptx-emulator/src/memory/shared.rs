//! The memory of a block: bytes, which of them were written, and the shadow by which races are judged.
//!
//! Matrix loads and asynchronous copies move aligned rows of sixteen bytes. The row functions do all that is to be done
//! for one in a few instructions when nothing at all is wrong with it, and leave everything as it was when anything
//! might be: the caller then goes the long way, which knows how to say what.

use super::clock::raise;
use super::shadow::{Cell, Epoch, Judge, Published, byte_mask};
use crate::exec::mbarrier::Mbarrier;
use std::collections::HashMap;

/// Bytes of a row.
pub const ROW: usize = 16;
const WRITTEN: [u8; ROW] = [1; ROW];

/// Shared memory of one block. Only one worker runs a cluster at a time, so plain bytes serve.
#[derive(Debug, Default)]
pub struct Shared {
    /// The bytes.
    pub data: Vec<u8>,
    /// 1 for each byte that was written.
    pub written: Vec<u8>,
    /// Of rows whose words share one history, their cell; of split ones, the first word's.
    first: Vec<Cell>,
    /// Of split rows, the cells of the other three words.
    rest: Vec<[Cell; 3]>,
    split: Vec<bool>,
    /// For every four bytes, the thread (plus one) whose asynchronous copy will write them and was not waited for.
    in_flight: Vec<[u16; ROW / 4]>,
    flights: u32,
    /// What strong accesses published, by offset.
    pub published: HashMap<u32, Published>,
    /// `mbarrier` objects, by offset.
    pub mbarriers: HashMap<u32, Mbarrier>,
    /// By warp, up to which count its accesses were made known to the asynchronous proxy.
    fenced: Vec<u32>,
}

impl Shared {
    /// `bytes` of memory that nobody wrote.
    pub fn new(bytes: usize, shadow: bool) -> Shared {
        let rows = bytes.div_ceil(ROW);
        let judged = if shadow { rows } else { 0 };
        Shared {
            data: vec![0; bytes],
            written: vec![0; bytes],
            first: vec![[0; 3]; judged],
            rest: vec![[[0; 3]; 3]; judged],
            split: vec![false; judged],
            in_flight: vec![[0; ROW / 4]; rows],
            flights: 0,
            published: HashMap::new(),
            mbarriers: HashMap::new(),
            fenced: Vec::new(),
        }
    }

    /// The words that are in flight, in order.
    fn words(&mut self) -> &mut [u16] {
        self.in_flight.as_flattened_mut()
    }

    /// A thread's copy will write `bytes` at `offset`.
    pub fn take_off(&mut self, offset: u32, bytes: u32, thread: u32) {
        self.words()[offset as usize / 4..(offset + bytes) as usize / 4].fill(thread as u16 + 1);
        self.flights += 1;
    }

    /// The copy has been waited for.
    pub fn land(&mut self, offset: u32, bytes: u32, thread: u32) {
        for cell in &mut self.words()[offset as usize / 4..(offset + bytes) as usize / 4] {
            if *cell == thread as u16 + 1 {
                *cell = 0;
            }
        }
        self.flights -= 1;
    }

    /// The thread that is still copying to some of these bytes.
    #[inline(always)]
    pub fn flying(&self, offset: usize, bytes: u32) -> Option<u32> {
        if self.flights == 0 {
            return None;
        }
        let cells = &self.in_flight.as_flattened()[offset / 4..(offset + bytes as usize).div_ceil(4)];
        cells.iter().find(|c| **c != 0).map(|c| u32::from(*c) - 1)
    }

    /// Enters an access for the race checks; returns what it races with.
    #[inline(always)]
    pub fn enter(&mut self, judge: &Judge, me: Epoch, offset: u64, size: u32, write: bool) -> Option<Epoch> {
        if self.first.is_empty() {
            return None;
        }
        let whole = size as usize == ROW && (offset as usize).is_multiple_of(ROW);
        if whole && !self.split[offset as usize / ROW] {
            return judge.enter(&mut self.first[offset as usize / ROW], me, 0xF, write);
        }
        let mut found = None;
        let end = offset + u64::from(size);
        let mut at = offset & !3;
        while at < end {
            let mask = byte_mask(at, offset, end);
            let row = at as usize / ROW;
            if !self.split[row] {
                self.rest[row] = [self.first[row]; 3];
                self.split[row] = true;
            }
            let cell = match at as usize % ROW / 4 {
                0 => &mut self.first[row],
                k => &mut self.rest[row][k - 1],
            };
            found = judge.enter(cell, me, mask, write).or(found);
            at += 4;
        }
        if whole && write {
            // All four words now remember this write and nothing else.
            self.split[offset as usize / ROW] = false;
        }
        found
    }

    /// A `fence.proxy.async` of one that knows these counts of the block's warps.
    pub fn fence_proxy(&mut self, known: &[u32]) {
        raise(&mut self.fenced, known);
    }

    /// Whether ordinary stores of the block wrote some of these bytes, and no proxy fence made that known.
    pub fn unfenced(&self, block: u32, offset: usize, bytes: u32) -> bool {
        if self.first.is_empty() {
            return false;
        }
        (offset / 4..(offset + bytes as usize).div_ceil(4)).any(|word| {
            let row = word / 4;
            let cell = match word % 4 {
                k if k > 0 && self.split[row] => self.rest[row][k - 1],
                _ => self.first[row],
            };
            let last = Epoch(cell[0]);
            let fenced = self.fenced.get(last.warp() as usize).copied().unwrap_or(0);
            last.0 != 0 && last.block() == block && last.count() > fenced
        })
    }

    /// The row at an address, when it is one of this memory.
    #[inline(always)]
    fn row(&self, at: u64) -> Option<usize> {
        let fits = at.is_multiple_of(ROW as u64) && at.checked_add(ROW as u64)? <= self.data.len() as u64;
        fits.then_some(at as usize / ROW)
    }

    #[inline(always)]
    fn bytes(bytes: &mut [u8], row: usize) -> Option<&mut [u8; ROW]> {
        bytes.get_mut(row * ROW..row * ROW + ROW)?.try_into().ok()
    }

    /// Reads a row for a lane, unless anything might be wrong with that.
    #[inline(always)]
    pub fn read_row(&mut self, judge: &Judge, me: Epoch, at: u64, initialised: bool) -> Option<u128> {
        let row = self.row(at)?;
        if self.flights != 0 && self.in_flight[row] != [0; ROW / 4] {
            return None;
        }
        if initialised && *Self::bytes(&mut self.written, row)? != WRITTEN {
            return None;
        }
        if let Some(cell) = self.first.get_mut(row)
            && (self.split[row] || !judge.reads_whole(cell, me))
        {
            return None;
        }
        Some(u128::from_le_bytes(*Self::bytes(&mut self.data, row)?))
    }

    /// A lane's copy will write a row, unless anything might be wrong with that.
    #[inline(always)]
    pub fn take_off_row(&mut self, judge: &Judge, me: Epoch, at: u64, thread: u32) -> bool {
        let Some(row) = self.row(at) else { return false };
        if self.in_flight[row] != [0; ROW / 4] {
            return false;
        }
        if let Some(cell) = self.first.get_mut(row)
            && (self.split[row] || !judge.writes_whole(cell, me))
        {
            return false;
        }
        self.in_flight[row] = [thread as u16 + 1; ROW / 4];
        self.flights += 1;
        true
    }

    /// Does a lane's copy of a row, unless anything might be wrong with that.
    #[inline(always)]
    pub fn land_row(&mut self, judge: &Judge, me: Epoch, at: u64, thread: u32, value: u128) -> bool {
        let Some(row) = self.row(at) else { return false };
        if self.in_flight[row] != [thread as u16 + 1; ROW / 4] {
            return false;
        }
        if let Some(cell) = self.first.get_mut(row)
            && (self.split[row] || !judge.writes_whole(cell, me))
        {
            return false;
        }
        self.in_flight[row] = [0; ROW / 4];
        self.flights -= 1;
        if let (Some(data), Some(written)) =
            (Self::bytes(&mut self.data, row), Self::bytes(&mut self.written, row))
        {
            *data = value.to_le_bytes();
            *written = WRITTEN;
        }
        true
    }
}
