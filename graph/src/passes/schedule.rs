//! Schedule: an order of each list that keeps the live set small.
//!
//! Greedy: of the kernels whose operands are ready, the one that grows the live bytes least goes next, the
//! earliest in program order on ties. Program order itself is kept where it is at least as good.

use super::lower::{Lowered, LoweredStep, Root, RootKind};
use crate::{Access, Stage, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Reorders the kernels of an entry: all of stage request, then all of stage step.
pub fn schedule(entry: &mut Lowered, target: &Target) {
    let (request, step): (Vec<_>, Vec<_>) =
        std::mem::take(&mut entry.kernels).into_iter().partition(|step| step.stage == Stage::Request);
    let outlives: BTreeSet<usize> = step.iter().flat_map(|s| roots(s).map(|(root, _)| root)).collect();
    let reorder = |list: Vec<LoweredStep>, kept: &BTreeSet<usize>| {
        if !target.on("schedule") {
            return list;
        }
        let order = greedy(&list, &entry.roots, kept);
        let program: Vec<usize> = (0..list.len()).collect();
        let better = peak(&order, &list, &entry.roots, kept) < peak(&program, &list, &entry.roots, kept);
        let order = if better { order } else { program };
        let mut list: Vec<Option<LoweredStep>> = list.into_iter().map(Some).collect();
        order.into_iter().filter_map(|i| list[i].take()).collect()
    };
    let request = reorder(request, &outlives);
    let step = reorder(step, &BTreeSet::new());
    entry.kernels = request.into_iter().chain(step).collect();
}

fn roots(step: &LoweredStep) -> impl Iterator<Item = (usize, Access)> {
    step.kernel
        .operands()
        .into_iter()
        .map(|(view, _, access)| (view.root, access))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Which kernels must come before each: writers of what it reads; and for memory that is visible outside,
/// every earlier access that conflicts.
fn dependencies(list: &[LoweredStep], all: &[Root]) -> Vec<BTreeSet<usize>> {
    let mut writers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut readers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut before = vec![BTreeSet::new(); list.len()];
    for (index, step) in list.iter().enumerate() {
        for (root, access) in roots(step) {
            let visible = matches!(all[root].kind, RootKind::State { .. } | RootKind::Output(_));
            if access == Access::Read || visible {
                before[index].extend(writers.get(&root).into_iter().flatten().copied());
            }
            if access == Access::Write && visible {
                before[index].extend(readers.get(&root).into_iter().flatten().copied());
            }
        }
        for (root, access) in roots(step) {
            let list = if access == Access::Read { &mut readers } else { &mut writers };
            list.entry(root).or_default().push(index);
        }
        before[index].remove(&index);
    }
    before
}

/// Live bytes as kernels run.
struct Live<'a> {
    roots: &'a [Root],
    kept: &'a BTreeSet<usize>,
    uses: BTreeMap<usize, usize>,
    alive: BTreeSet<usize>,
}

impl<'a> Live<'a> {
    fn new(list: &[LoweredStep], roots_of: &'a [Root], kept: &'a BTreeSet<usize>) -> Self {
        let mut uses = BTreeMap::new();
        for step in list {
            for (root, _) in roots(step) {
                *uses.entry(root).or_insert(0) += 1;
            }
        }
        Live { roots: roots_of, kept, uses, alive: BTreeSet::new() }
    }

    fn counts(&self, root: usize) -> bool {
        matches!(self.roots[root].kind, RootKind::Temp)
    }

    /// Elements that come alive and that die when `step` runs.
    fn delta(&self, step: &LoweredStep) -> (usize, usize) {
        let mut mentions: BTreeMap<usize, usize> = BTreeMap::new();
        for (root, _) in roots(step).filter(|(root, _)| self.counts(*root)) {
            *mentions.entry(root).or_insert(0) += 1;
        }
        let born = mentions.keys().filter(|root| !self.alive.contains(root));
        let dead = mentions.iter().filter(|(root, n)| self.uses[root] == **n && !self.kept.contains(root));
        (
            born.map(|&root| self.roots[root].elements).sum(),
            dead.map(|(&root, _)| self.roots[root].elements).sum(),
        )
    }

    fn run(&mut self, step: &LoweredStep) {
        for (root, _) in roots(step) {
            if let Some(uses) = self.uses.get_mut(&root) {
                *uses -= 1;
            }
            if self.counts(root) {
                self.alive.insert(root);
            }
        }
    }
}

fn greedy(list: &[LoweredStep], all: &[Root], kept: &BTreeSet<usize>) -> Vec<usize> {
    let before = dependencies(list, all);
    let mut live = Live::new(list, all, kept);
    let mut done = vec![false; list.len()];
    let mut order = Vec::with_capacity(list.len());
    while order.len() < list.len() {
        let ready = (0..list.len()).filter(|&i| !done[i] && before[i].iter().all(|&b| done[b]));
        let next = ready.min_by_key(|&i| {
            let (born, dead) = live.delta(&list[i]);
            (born as isize - dead as isize, i)
        });
        let Some(next) = next else { break };
        live.run(&list[next]);
        done[next] = true;
        order.push(next);
    }
    order
}

fn peak(order: &[usize], list: &[LoweredStep], all: &[Root], kept: &BTreeSet<usize>) -> usize {
    let mut live = Live::new(list, all, kept);
    let (mut now, mut peak) = (0usize, 0);
    for &index in order {
        let (born, dead) = live.delta(&list[index]);
        live.run(&list[index]);
        now += born;
        peak = peak.max(now);
        now -= dead.min(now);
    }
    peak
}
