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
    /// Ranges that asynchronous copies which were not waited for will write: offset, bytes, warp, lane.
    pub in_flight: Vec<(u32, u32, u32, u32)>,
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
            in_flight: Vec::new(),
            published: HashMap::new(),
        }
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
