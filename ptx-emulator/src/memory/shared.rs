//! The memory of a block: bytes, which of them were written, and the shadow by which races are judged.

use super::shadow::{Cell, Epoch, Judge, Published, byte_mask};
use std::collections::HashMap;

/// Shared memory of one block. Only one worker runs a cluster at a time, so plain bytes serve.
#[derive(Debug, Default)]
pub struct Shared {
    /// The bytes.
    pub data: Vec<u8>,
    /// 1 for each byte that was written.
    pub written: Vec<u8>,
    /// A cell for every four bytes.
    cells: Vec<Cell>,
    /// For every four bytes, the thread (plus one) whose asynchronous copy will write them and was not waited for.
    in_flight: Vec<u16>,
    flights: u32,
    /// What strong accesses published, by offset.
    pub published: HashMap<u32, Published>,
}

impl Shared {
    /// `bytes` of memory that nobody wrote.
    pub fn new(bytes: usize, shadow: bool) -> Shared {
        Shared {
            data: vec![0; bytes],
            written: vec![0; bytes],
            cells: vec![[0; 3]; if shadow { bytes.div_ceil(4) } else { 0 }],
            in_flight: vec![0; bytes.div_ceil(4)],
            flights: 0,
            published: HashMap::new(),
        }
    }

    /// A thread's copy will write `bytes` at `offset`.
    pub fn take_off(&mut self, offset: u32, bytes: u32, thread: u32) {
        self.in_flight[offset as usize / 4..(offset + bytes) as usize / 4].fill(thread as u16 + 1);
        self.flights += 1;
    }

    /// The copy has been waited for.
    pub fn land(&mut self, offset: u32, bytes: u32, thread: u32) {
        for cell in &mut self.in_flight[offset as usize / 4..(offset + bytes) as usize / 4] {
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
        let cells = &self.in_flight[offset / 4..(offset + bytes as usize).div_ceil(4)];
        cells.iter().find(|c| **c != 0).map(|c| u32::from(*c) - 1)
    }

    /// Enters an access for the race checks; returns what it races with.
    #[inline(always)]
    pub fn enter(&mut self, judge: &Judge, me: Epoch, offset: u64, size: u32, write: bool) -> Option<Epoch> {
        if self.cells.is_empty() {
            return None;
        }
        let mut found = None;
        let end = offset + u64::from(size);
        let mut at = offset & !3;
        while at < end {
            let mask = byte_mask(at, offset, end);
            found = judge.enter(&mut self.cells[at as usize / 4], me, mask, write).or(found);
            at += 4;
        }
        found
    }
}
