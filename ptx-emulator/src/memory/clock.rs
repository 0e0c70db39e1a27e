//! Vector clocks: what a warp knows to have happened before, and what it has published.
//!
//! A warp's own entry counts its synchronisations. An access at count `c` of warp `w` happened before everything of
//! a warp that knows `w` up to `c` or more. Barriers join the clocks of those who meet; a fence followed by a strong
//! write publishes a clock at an address; a strong read followed by a fence takes it over.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Known counts, by block of the grid and warp of the block.
pub type Known = BTreeMap<u32, Vec<u32>>;

/// The clock of one warp.
#[derive(Clone, Debug)]
pub struct WarpClock {
    /// Linear index of the warp's block in the grid.
    pub block: u32,
    /// The warp's index in its block.
    pub warp: u32,
    /// Counts known of the warps of its own block; its own entry is the current count.
    pub own: Vec<u32>,
    /// Counts known of other blocks' warps.
    pub others: Known,
    /// What the last fence made ready to be published (block scope, device scope).
    pub ready: [Option<Arc<Known>>; 2],
    /// What strong reads have seen, to be taken over by the next fence.
    pub seen: Vec<Arc<Known>>,
}

impl WarpClock {
    /// The clock of a warp that has done nothing.
    pub fn new(block: u32, warp: u32, warps: u32) -> WarpClock {
        let mut own = vec![0; warps as usize];
        own[warp as usize] = 1;
        WarpClock { block, warp, own, others: Known::new(), ready: [None, None], seen: Vec::new() }
    }

    /// The warp's own count.
    #[inline(always)]
    pub fn now(&self) -> u32 {
        self.own[self.warp as usize]
    }

    /// Starts a new count: what is done from here on is not part of what was published.
    pub fn tick(&mut self) {
        let own = &mut self.own[self.warp as usize];
        *own = (*own + 1).min(super::shadow::MAX_CLOCK);
    }

    /// Everything known, to be handed to others.
    pub fn publish(&self) -> Known {
        let mut known = self.others.clone();
        known.insert(self.block, self.own.clone());
        known
    }

    /// Takes over what another knows.
    pub fn join(&mut self, known: &Known) {
        for (block, counts) in known {
            if *block == self.block {
                // One's own count is never behind what others know of it.
                raise(&mut self.own, counts);
            } else {
                raise(self.others.entry(*block).or_default(), counts);
            }
        }
    }

    /// Whether an access of `warp` of `block` at `count` happened before what this warp does now.
    #[inline(always)]
    pub fn knows(&self, block: u32, warp: u32, count: u32) -> bool {
        if block == self.block {
            self.own.get(warp as usize).is_some_and(|c| *c >= count)
        } else {
            self.others.get(&block).and_then(|k| k.get(warp as usize)).is_some_and(|c| *c >= count)
        }
    }
}

/// Element-wise maximum.
pub fn raise(mine: &mut Vec<u32>, theirs: &[u32]) {
    if mine.len() < theirs.len() {
        mine.resize(theirs.len(), 0);
    }
    for (m, t) in mine.iter_mut().zip(theirs) {
        *m = (*m).max(*t);
    }
}

/// Adds what `b` knows to `a`.
pub fn merge(a: &mut Known, b: &Known) {
    for (block, counts) in b {
        raise(a.entry(*block).or_default(), counts);
    }
}
