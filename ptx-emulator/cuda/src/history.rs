//! Which stream touched which device memory, so that two operations that nothing orders and that conflict are found
//! whatever order they happened to run in.
//!
//! Every operation has a vector clock: for each stream, the last operation known to be done before it starts. An
//! operation inherits the clocks of its predecessor in the stream, of what it waits for, and of what the host had
//! synchronised with when it was submitted. An access is known to a later operation whose clock reaches it.

use crate::abi::Handle;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Last operation known of each stream.
pub type Clock = BTreeMap<Handle, u64>;

/// Where an operation stands: which one of which stream, what it knows to be done, and which node of a graph it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The stream.
    pub stream: Handle,
    /// The operation's number in it.
    pub seq: u64,
    /// Its vector clock.
    pub clock: Clock,
    /// The context of the stream.
    pub context: Handle,
    /// The node, when the operation is a graph.
    pub node: Option<NodePlace>,
}

/// A node of a graph, and all nodes that are done before it starts.
#[derive(Clone, Debug)]
pub struct NodePlace {
    /// The node.
    pub node: usize,
    /// Those before it.
    pub before: Arc<BTreeSet<usize>>,
}

impl Place {
    /// Whether one of the two is done before the other starts.
    fn ordered(&self, other: &Place) -> bool {
        let knows = |p: &Place, q: &Place| p.clock.get(&q.stream).is_some_and(|k| *k >= q.seq);
        match (&self.node, &other.node) {
            // Two nodes of one run of a graph.
            (Some(a), Some(b)) if (self.stream, self.seq) == (other.stream, other.seq) => {
                a.node == b.node || a.before.contains(&b.node) || b.before.contains(&a.node)
            }
            _ => knows(self, other) || knows(other, self),
        }
    }
}

/// Adds what `from` knows.
pub fn join(into: &mut Clock, from: &Clock) {
    for (&stream, &seq) in from {
        let known = into.entry(stream).or_insert(0);
        *known = (*known).max(seq);
    }
}

/// A range of device memory that an operation reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Whether it is written (allocating and freeing count as writing).
    pub write: bool,
}

impl Access {
    /// A read of a range.
    pub fn read(start: u64, len: u64) -> Access {
        Access { start, len, write: false }
    }

    /// A write of a range.
    pub fn write(start: u64, len: u64) -> Access {
        Access { start, len, write: true }
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether both touch a byte and one of them writes.
    pub fn conflicts(&self, other: &Access) -> bool {
        (self.write || other.write)
            && self.start < other.start + other.len
            && other.start < self.start + self.len
    }
}

/// What one operation touches: ranges by address, none overlapping another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(Vec<Access>);

impl Footprint {
    /// Sorts the ranges and joins those that overlap.
    pub fn new(mut ranges: Vec<Access>) -> Footprint {
        ranges.retain(|a| a.len > 0);
        ranges.sort_by_key(|a| a.start);
        let mut out: Vec<Access> = Vec::with_capacity(ranges.len());
        for next in ranges {
            match out.last_mut() {
                Some(last)
                    if next.start < last.end() || next.start == last.end() && next.write == last.write =>
                {
                    last.len = last.len.max(next.end() - last.start);
                    last.write |= next.write;
                }
                _ => out.push(next),
            }
        }
        Footprint(out)
    }

    /// The first range of this one and the range of the other that conflict.
    fn conflict(&self, other: &Footprint) -> Option<(Access, Access)> {
        if self.0.len() > other.0.len() {
            return other.conflict(self).map(|(a, b)| (b, a));
        }
        self.0.iter().find_map(|a| {
            let from = other.0.partition_point(|b| b.end() <= a.start);
            other.0[from..]
                .iter()
                .take_while(|b| b.start < a.end())
                .find(|b| a.conflicts(b))
                .map(|b| (*a, *b))
        })
    }

    /// Whether every range of the other lies in one of this, written where that is.
    fn covers(&self, other: &Footprint) -> bool {
        other.0.iter().all(|b| {
            let at = self.0.partition_point(|a| a.end() <= b.start);
            self.0.get(at).is_some_and(|a| a.start <= b.start && b.end() <= a.end() && a.write >= b.write)
        })
    }
}

/// A footprint with who made it.
#[derive(Clone, Debug)]
struct Seen {
    footprint: Footprint,
    place: Place,
    what: String,
}

/// Two operations that conflict and are not ordered.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The first address that both touch.
    pub address: u64,
    /// Whether the operation entered now writes there.
    pub writes: bool,
    /// The operation entered earlier.
    pub earlier: String,
    /// Whether it wrote.
    pub earlier_writes: bool,
}

/// Footprints that something may still race with.
#[derive(Debug, Default)]
pub struct History {
    seen: VecDeque<Seen>,
    /// Footprints forgotten because there were too many.
    pub forgotten: u64,
}

/// Footprints kept. A program that never synchronises forgets its oldest.
const KEPT: usize = 4096;

/// Ranges kept of all footprints together.
const RANGES: usize = 1 << 22;

impl History {
    /// Enters what an operation touches; returns the first conflict it makes, if any.
    pub fn enter(&mut self, footprint: Footprint, place: &Place, what: &str) -> Option<Conflict> {
        if footprint.0.is_empty() {
            return None;
        }
        let conflict = self
            .seen
            .iter()
            .filter(|s| !place.ordered(&s.place))
            .find_map(|s| footprint.conflict(&s.footprint).map(|(a, b)| (s, a, b)));
        let conflict = conflict.map(|(s, a, b)| Conflict {
            address: a.start.max(b.start),
            writes: a.write,
            earlier: s.what.clone(),
            earlier_writes: b.write,
        });
        // What does not know this operation does not know an earlier one of the same stream either.
        let older = |p: &Place| p.seq < place.seq || p.seq == place.seq && place.node.is_none();
        self.seen.retain(|s| {
            !(s.place.stream == place.stream && older(&s.place) && footprint.covers(&s.footprint))
        });
        let mut ranges: usize =
            footprint.0.len() + self.seen.iter().map(|s| s.footprint.0.len()).sum::<usize>();
        while self.seen.len() >= KEPT || ranges > RANGES {
            let Some(gone) = self.seen.pop_front() else { break };
            ranges -= gone.footprint.0.len();
            self.forgotten += 1;
        }
        self.seen.push_back(Seen { footprint, place: place.clone(), what: what.to_owned() });
        conflict
    }

    /// Forgets what every clock of `clocks` knows: nothing can race with it any more.
    pub fn prune(&mut self, clocks: &[&Clock]) {
        self.seen
            .retain(|s| !clocks.iter().all(|c| c.get(&s.place.stream).is_some_and(|k| *k >= s.place.seq)));
    }

    /// How many footprints are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(access: Access) -> Footprint {
        Footprint::new(vec![access])
    }

    #[test]
    fn footprints_are_compared_range_by_range() {
        let even = Footprint::new((0..1000).map(|k| Access::write(16 * k, 8)).collect());
        let odd = Footprint::new((0..1000).map(|k| Access::write(16 * k + 8, 8)).collect());
        assert_eq!(even.conflict(&odd), None);
        let one = Footprint::new(vec![Access::read(16 * 500 + 4, 1)]);
        assert_eq!(even.conflict(&one).map(|(a, _)| a.start), Some(16 * 500));
        assert!(even.covers(&one) && !odd.covers(&one) && !one.covers(&even));
        assert_eq!(
            Footprint::new(vec![Access::read(4, 4), Access::write(0, 6)]),
            Footprint(vec![Access::write(0, 8)])
        );
    }

    fn clock(pairs: &[(Handle, u64)]) -> Clock {
        pairs.iter().copied().collect()
    }

    fn place(stream: Handle, seq: u64, clock: Clock) -> Place {
        Place { stream, seq, clock, context: 0, node: None }
    }

    #[test]
    fn nodes_of_one_graph_are_ordered_by_their_dependencies_alone() {
        let mut h = History::default();
        let node = |node: usize, before: &[usize]| {
            let before = Arc::new(before.iter().copied().collect());
            Place { node: Some(NodePlace { node, before }), ..place(1, 1, clock(&[(1, 1)])) }
        };
        assert_eq!(h.enter(one(Access::write(0, 8)), &node(0, &[]), "first"), None);
        assert_eq!(h.enter(one(Access::write(0, 8)), &node(1, &[0]), "after it"), None);
        let found = h.enter(one(Access::read(4, 8)), &node(2, &[0]), "beside it").unwrap();
        assert_eq!((found.address, found.earlier.as_str()), (4, "after it"));
        // The next run of the graph comes after all of this one.
        let again = place(1, 2, clock(&[(1, 2)]));
        assert_eq!(h.enter(one(Access::write(0, 8)), &again, "again"), None);
    }

    #[test]
    fn unordered_writes_conflict_and_ordered_ones_do_not() {
        let mut h = History::default();
        assert_eq!(h.enter(one(Access::write(100, 50)), &place(1, 1, clock(&[(1, 1)])), "copy a"), None);
        let found = h.enter(one(Access::read(120, 4)), &place(2, 1, clock(&[(2, 1)])), "copy b").unwrap();
        assert_eq!((found.address, found.earlier.as_str(), found.earlier_writes), (120, "copy a", true));
        assert_eq!(
            h.enter(one(Access::write(120, 4)), &place(3, 1, clock(&[(1, 1), (2, 1), (3, 1)])), "copy c"),
            None
        );
    }

    #[test]
    fn reads_do_not_conflict_with_reads_nor_with_neighbours() {
        let mut h = History::default();
        h.enter(one(Access::read(0, 64)), &place(1, 1, clock(&[(1, 1)])), "a");
        assert_eq!(h.enter(one(Access::read(0, 64)), &place(2, 1, clock(&[(2, 1)])), "b"), None);
        assert_eq!(h.enter(one(Access::write(64, 8)), &place(3, 1, clock(&[(3, 1)])), "c"), None);
    }

    #[test]
    fn an_operation_judged_late_is_ordered_by_the_other_ones_clock() {
        // Kernels enter their accesses when they end, after later copies were entered.
        let mut h = History::default();
        h.enter(
            one(Access::write(0, 8)),
            &place(2, 1, clock(&[(1, 1), (2, 1)])),
            "a copy that waited for the kernel",
        );
        assert_eq!(h.enter(one(Access::write(0, 8)), &place(1, 1, clock(&[(1, 1)])), "kernel"), None);
    }

    #[test]
    fn repeated_work_does_not_grow_the_history() {
        let mut h = History::default();
        for seq in 1..100 {
            h.enter(one(Access::write(0, 8)), &place(1, seq, clock(&[(1, seq)])), "again");
        }
        assert_eq!(h.len(), 1);
        h.prune(&[&clock(&[(1, 99)])]);
        assert_eq!(h.len(), 0);
    }
}
