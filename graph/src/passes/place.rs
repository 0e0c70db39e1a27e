//! Place: every stored value gets its bytes.
//!
//! Values that outlive their list (constants, request values that steps read) are laid one after another.
//! The rest share a scratch region: the largest first, each in the smallest gap that is free for its whole
//! life. Where an elementwise kernel is the last reader of a value and writes one of the same layout, both
//! are one buffer.

use super::finish_step;
use super::lower::{Lowered, LoweredStep, Root, RootKind, View};
use super::share::Bind;
use crate::{Buffer, Entry, Kernel, Operand, Place, Stage, Step, Target};
use std::collections::{BTreeMap, HashMap};

/// The placed bind list.
pub struct PlacedBind {
    /// Offset (in elements) and contents of literals.
    pub literals: Vec<(usize, Vec<f32>)>,
    /// Steps.
    pub steps: Vec<Step>,
    /// Bytes of scratch.
    pub scratch_bytes: usize,
    /// Bytes of constants.
    pub constant_bytes: usize,
    /// Offset of each kept root, in elements.
    pub constants: HashMap<usize, usize>,
}

/// A buffer that may be shared by several roots in turn.
#[derive(Clone, Debug)]
struct Life {
    elements: usize,
    first: usize,
    last: usize,
}

/// Places the common bind list.
pub fn place_bind(bind: &Bind, target: &Target) -> PlacedBind {
    let align = alignment(target);
    let mut constants = HashMap::new();
    let (mut literals, mut end) = (vec![], 0usize);
    for root in &bind.roots {
        if !bind.kept[root.id] || matches!(root.kind, RootKind::Weight { .. }) {
            continue;
        }
        constants.insert(root.id, end);
        if let RootKind::Literal(data) = &root.kind {
            literals.push((end, data.clone()));
        }
        end += root.elements.next_multiple_of(align);
    }
    let is_scratch = |root: &Root| matches!(root.kind, RootKind::Temp) && !bind.kept[root.id];
    let scratch = Scratch::new(&bind.roots, &bind.steps, is_scratch, target);
    let steps = bind.steps.iter().map(|step| {
        finish_step(step, |view| {
            let root = &bind.roots[view.root];
            let (place, base) = match &root.kind {
                RootKind::Weight { index, .. } => (Place::Weight(*index as u32), 0),
                _ => match constants.get(&root.id) {
                    Some(&offset) => (Place::Constants, offset),
                    None => (Place::Scratch, scratch.offset(root.id)),
                },
            };
            operand(view, place, base)
        })
    });
    PlacedBind {
        literals,
        steps: steps.collect(),
        scratch_bytes: scratch.elements * 4,
        constant_bytes: end * 4,
        constants,
    }
}

/// Places one entry.
pub fn place_entry(entry: Lowered, constants: &HashMap<usize, usize>, target: &Target) -> Entry {
    let align = alignment(target);
    let requests = entry.kernels.iter().filter(|step| step.stage == Stage::Request).count();
    let (mut request_offsets, mut request_end) = (BTreeMap::new(), 0usize);
    for step in &entry.kernels[requests..] {
        for (view, _, _) in step.kernel.operands() {
            let root = &entry.roots[view.root];
            if matches!(root.kind, RootKind::Temp) && root.stage <= Stage::Request {
                request_offsets.entry(root.id).or_insert_with(|| {
                    let offset = request_end;
                    request_end += root.elements.next_multiple_of(align);
                    offset
                });
            }
        }
    }
    let is_scratch =
        |root: &Root| matches!(root.kind, RootKind::Temp) && !request_offsets.contains_key(&root.id);
    let scratch = Scratch::new(&entry.roots, &entry.kernels, is_scratch, target);
    let locate = |root: &Root| match &root.kind {
        RootKind::Weight { index, .. } => (Place::Weight(*index as u32), 0),
        RootKind::State { offset, .. } => (Place::State, *offset),
        RootKind::Input(index) => (Place::Input(*index as u32), 0),
        RootKind::Output(index) => (Place::Output(*index as u32), 0),
        RootKind::Bound(index) => (Place::Constants, constants.get(index).copied().unwrap_or(0)),
        RootKind::Literal(_) | RootKind::Temp => match request_offsets.get(&root.id) {
            Some(&offset) => (Place::Request, offset),
            None => (Place::Scratch, scratch.offset(root.id)),
        },
    };
    let mut steps: Vec<Step> = entry
        .kernels
        .iter()
        .map(|step| {
            finish_step(step, |view| {
                let (place, base) = locate(&entry.roots[view.root]);
                operand(view, place, base)
            })
        })
        .collect();
    let buffers = buffers(&entry, &scratch, &request_offsets);
    let step = steps.split_off(requests);
    Entry {
        name: entry.name,
        inputs: entry.inputs,
        outputs: entry.outputs,
        request: steps,
        step,
        buffers,
        scratch_bytes: scratch.elements * 4,
        scratch_lower_bound: scratch.lower_bound * 4,
        request_bytes: request_end * 4,
    }
}

fn buffers(entry: &Lowered, scratch: &Scratch, request: &BTreeMap<usize, usize>) -> Vec<Buffer> {
    let lives = lives(&entry.kernels);
    let mut buffers: Vec<Buffer> = entry
        .roots
        .iter()
        .filter_map(|root| {
            let live = *lives.get(&root.id)?;
            let (place, offset) = match request.get(&root.id) {
                Some(&offset) => (Place::Request, offset),
                None => (Place::Scratch, *scratch.offsets.get(&root.id)?),
            };
            let bytes = root.elements * 4;
            Some(Buffer { scope: root.scope.clone(), place, offset: offset * 4, bytes, live })
        })
        .collect();
    buffers.sort_by_key(|buffer| (buffer.place, buffer.live, buffer.offset));
    buffers
}

fn operand(view: &View, place: Place, base: usize) -> Operand {
    Operand {
        place,
        dtype: view.dtype,
        offset: base + view.offset,
        axes: view.axes.clone(),
        picks: view.picks.clone(),
    }
}

/// Alignment in elements.
fn alignment(target: &Target) -> usize {
    (target.alignment / 4).max(1)
}

/// First and last step that touches each root.
fn lives(steps: &[LoweredStep]) -> HashMap<usize, (usize, usize)> {
    let mut lives: HashMap<usize, (usize, usize)> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        for (view, _, _) in step.kernel.operands() {
            lives.entry(view.root).or_insert((index, index)).1 = index;
        }
    }
    lives
}

/// The layout of a scratch region.
struct Scratch {
    /// Offset of each root, in elements.
    offsets: HashMap<usize, usize>,
    /// Size of the region.
    elements: usize,
    /// Largest live set.
    lower_bound: usize,
}

impl Scratch {
    fn offset(&self, root: usize) -> usize {
        self.offsets.get(&root).copied().unwrap_or(0)
    }

    fn new(
        roots: &[Root],
        steps: &[LoweredStep],
        is_scratch: impl Fn(&Root) -> bool,
        target: &Target,
    ) -> Scratch {
        let align = alignment(target);
        let lives = lives(steps);
        let mut ids: Vec<usize> = lives.keys().copied().filter(|&id| is_scratch(&roots[id])).collect();
        ids.sort_unstable();
        // Each root starts as a buffer of its own; in-place kernels join two.
        let mut owner: HashMap<usize, usize> = ids.iter().map(|&id| (id, id)).collect();
        let mut buffers: BTreeMap<usize, Life> = ids
            .iter()
            .map(|&id| {
                let (first, last) = lives[&id];
                let last = if target.on("place.reuse") { last } else { usize::MAX };
                (id, Life { elements: roots[id].elements.next_multiple_of(align), first, last })
            })
            .collect();
        if target.on("place.inplace") {
            for (index, step) in steps.iter().enumerate() {
                let Some((input, output)) = in_place(&step.kernel) else { continue };
                let (Some(&from), Some(&to)) = (owner.get(&input), owner.get(&output)) else { continue };
                if from == to
                    || buffers[&from].last != index
                    || buffers[&to].first != index
                    || buffers[&from].elements != buffers[&to].elements
                {
                    continue;
                }
                let Some(merged) = buffers.remove(&to) else { continue };
                if let Some(life) = buffers.get_mut(&from) {
                    life.last = merged.last;
                }
                for root in owner.values_mut().filter(|o| **o == to) {
                    *root = from;
                }
            }
        }
        let lower_bound = (0..steps.len())
            .map(|i| buffers.values().filter(|b| b.first <= i && i <= b.last).map(|b| b.elements).sum())
            .max()
            .unwrap_or(0);
        let (placed, elements) = best_fit(&buffers);
        let offsets = owner.iter().map(|(&root, buffer)| (root, placed[buffer])).collect();
        Scratch { offsets, elements, lower_bound }
    }
}

/// Places the largest buffers first, each in the smallest gap that is free for its whole life.
fn best_fit(buffers: &BTreeMap<usize, Life>) -> (HashMap<usize, usize>, usize) {
    let mut order: Vec<(&usize, &Life)> = buffers.iter().collect();
    order.sort_by_key(|(id, life)| (std::cmp::Reverse(life.elements), life.first, **id));
    let mut placed: Vec<(usize, &Life)> = Vec::with_capacity(order.len());
    let (mut offsets, mut end) = (HashMap::new(), 0);
    for (&id, life) in order {
        let mut busy: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, other)| other.first <= life.last && life.first <= other.last)
            .map(|(offset, other)| (*offset, offset + other.elements))
            .collect();
        busy.sort_unstable();
        let (mut cursor, mut best): (usize, Option<(usize, usize)>) = (0, None);
        for (from, to) in busy {
            if from >= cursor + life.elements && best.is_none_or(|(gap, _)| from - cursor < gap) {
                best = Some((from - cursor, cursor));
            }
            cursor = cursor.max(to);
        }
        let offset = best.map_or(cursor, |(_, offset)| offset);
        placed.push((offset, life));
        offsets.insert(id, offset);
        end = end.max(offset + life.elements);
    }
    (offsets, end)
}

/// An input that a kernel may overwrite with its result: read element for element (or row for row), once, in
/// the same layout.
fn in_place(kernel: &Kernel<View>) -> Option<(usize, usize)> {
    let candidates: Vec<&View> = match kernel {
        Kernel::Linear { residual, .. } | Kernel::Conv2d { residual, .. } => residual.iter().collect(),
        Kernel::Norm { x, .. } | Kernel::Modulate { x, .. } | Kernel::Rope { x, .. } => vec![x],
        Kernel::Map { a, b, .. } => std::iter::once(a).chain(b.iter().map(|(_, b)| b)).collect(),
        Kernel::Combine { xs, .. } => xs.iter().collect(),
        _ => return None,
    };
    let out = kernel.result();
    let mentions = |root: usize| kernel.operands().iter().filter(|(view, _, _)| view.root == root).count();
    // The stride of an axis of size 1 says nothing.
    let same = |a: &crate::Axis, b: &crate::Axis| {
        a.size == b.size && a.extent == b.extent && (a.size == 1 || a.stride == b.stride)
    };
    let fits = |x: &&&View| {
        x.axes.len() == out.axes.len()
            && x.axes.iter().zip(&out.axes).all(|(a, b)| same(a, b))
            && x.offset == out.offset
            && x.picks.is_empty()
            && out.picks.is_empty()
            && mentions(x.root) == 1
    };
    let found = candidates.iter().find(fits)?;
    (mentions(out.root) == 1).then_some((found.root, out.root))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(elements: usize, first: usize, last: usize) -> Life {
        Life { elements, first, last }
    }

    #[test]
    fn buffers_that_never_meet_share_bytes_and_others_do_not_overlap() {
        let buffers: BTreeMap<usize, Life> =
            [(0, life(64, 0, 1)), (1, life(32, 1, 2)), (2, life(64, 2, 3)), (3, life(32, 0, 3))].into();
        let (offsets, end) = best_fit(&buffers);
        assert_eq!(end, 128);
        for (a, x) in &buffers {
            for (b, y) in &buffers {
                let meet = x.first <= y.last && y.first <= x.last;
                let apart = offsets[a] + x.elements <= offsets[b] || offsets[b] + y.elements <= offsets[a];
                assert!(a == b || !meet || apart, "{a} and {b}");
            }
        }
    }
}
