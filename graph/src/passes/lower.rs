//! Lower: values become strided views of stored values, and copies are added where nothing else helps.
//!
//! Views (reshape, slice, pick, permute, restrict, concat) cost nothing: they are worked into the offset and
//! strides of whoever reads them. A producer writes straight into its final place where that is known: its
//! part of a concatenation, a state, or the caller's output.

use super::CompileError;
use super::fuse::{Fused, live_nodes};
use super::layout::{Want, merge_axes, satisfies, strides_along, want};
use crate::{Access, Axis, DType, Graph, Kernel, Op, Port, Shape, Slot, Stage, Target, ValueId};
use std::collections::{HashMap, HashSet};

/// A stored value, before it has a place.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its own index.
    pub id: usize,
    /// What it is.
    pub kind: RootKind,
    /// Elements.
    pub elements: usize,
    /// When it is first written.
    pub stage: Stage,
    /// Where in the model.
    pub scope: String,
}

/// Kinds of stored value.
#[derive(Clone, Debug, PartialEq)]
pub enum RootKind {
    /// A weight; `index` is the plan's.
    Weight { name: String, shape: Vec<usize>, index: usize },
    /// Known numbers.
    Literal(Vec<f32>),
    /// Outlives a run; `offset` is the plan's.
    State { name: String, shape: Vec<usize>, offset: usize },
    /// Given by the caller.
    Input(usize),
    /// Given to the caller.
    Output(usize),
    /// Computed at bind: index into the common list.
    Bound(usize),
    /// Computed.
    Temp,
}

/// A strided view of a root.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Which root.
    pub root: usize,
    /// Element type.
    pub dtype: DType,
    /// First element.
    pub offset: usize,
    /// Axes.
    pub axes: Vec<Axis>,
    /// Dynamic offsets.
    pub picks: Vec<(Slot, usize)>,
}

/// A kernel over views.
#[derive(Clone, Debug)]
pub struct LoweredStep {
    /// What.
    pub kernel: Kernel<View>,
    /// When.
    pub stage: Stage,
    /// Where in the model.
    pub scope: String,
}

/// One entry, lowered.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Entry name.
    pub name: String,
    /// Stored values.
    pub roots: Vec<Root>,
    /// Kernels of all stages, in program order.
    pub kernels: Vec<LoweredStep>,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
}

/// Lowers the fused kernels of a graph.
pub fn lower(
    graph: &Graph,
    stages: &[Stage],
    fused: Vec<Fused>,
    target: &Target,
) -> Result<Lowered, CompileError> {
    let mut lowering = Lowering::new(graph, stages, target);
    lowering.plan_destinations(&fused);
    let live = live_nodes(graph);
    let mut fused = fused.into_iter().peekable();
    for (index, node) in graph.nodes.iter().enumerate() {
        while let Some(next) = fused.next_if(|f| f.node == index) {
            lowering.kernel(next)?;
        }
        match node.op {
            Op::Assign { at } => lowering.assign(node.inputs[0], node.inputs[1], at, index, node.stage),
            Op::CacheAppend => lowering.cache_append(index, &node.inputs),
            // Joined here and not where it is read, lest a state that is a part of it changes in between.
            Op::Concat { .. } if live[index] => drop(lowering.view(node.outputs[0])),
            _ => {}
        }
    }
    lowering.write_outputs();
    Ok(lowering.done)
}

struct Lowering<'g> {
    graph: &'g Graph,
    stages: &'g [Stage],
    target: &'g Target,
    done: Lowered,
    views: HashMap<ValueId, View>,
    /// Where a computed value is to be written, when not in a root of its own.
    destinations: HashMap<ValueId, Destination>,
    /// Concatenations whose parts are all written.
    joined: HashSet<ValueId>,
    /// Copies made of values that do not change, so that a second reader shares the first one's.
    copies: Vec<(View, View)>,
    scope: String,
}

#[derive(Clone, Copy)]
enum Destination {
    /// The caller's output of that index.
    Output(usize),
    /// Rows from `start` of dimension `dim` of a concatenation.
    Slice { whole: ValueId, dim: usize, start: usize },
    /// What the assign node of that index writes to.
    State { assign: usize },
}

/// Row-major axes of a shape.
fn axes_of(shape: &Shape) -> Vec<Axis> {
    let strides = shape.strides();
    let axis = |(dim, stride): (&crate::Dim, isize)| Axis { size: dim.size, stride, extent: dim.extent };
    shape.0.iter().zip(strides).map(axis).collect()
}

impl<'g> Lowering<'g> {
    fn new(graph: &'g Graph, stages: &'g [Stage], target: &'g Target) -> Self {
        let port = |name: &str, value: &crate::Value| Port {
            name: name.to_string(),
            axes: axes_of(&value.shape),
            dtype: value.dtype,
        };
        let done = Lowered {
            name: graph.name.clone(),
            roots: vec![],
            kernels: vec![],
            inputs: graph.inputs().map(|(_, value)| port(&value.name, value)).collect(),
            outputs: graph.outputs.iter().map(|(name, id)| port(name, graph.value(*id))).collect(),
        };
        Lowering {
            graph,
            stages,
            target,
            done,
            views: HashMap::new(),
            destinations: HashMap::new(),
            joined: HashSet::new(),
            copies: vec![],
            scope: String::new(),
        }
    }

    fn stage(&self, value: ValueId) -> Stage {
        self.stages[value.index()]
    }

    fn root(&mut self, kind: RootKind, elements: usize, stage: Stage) -> usize {
        let id = self.done.roots.len();
        self.done.roots.push(Root { id, kind, elements, stage, scope: self.scope.clone() });
        id
    }

    /// Decides which computed values are written straight into a larger or outer one.
    fn plan_destinations(&mut self, fused: &[Fused]) {
        let computed: HashMap<ValueId, &Fused> = fused
            .iter()
            .flat_map(|f| {
                let outs = f.kernel.operands().into_iter().filter(|(_, _, access)| *access == Access::Write);
                outs.map(move |(out, _, _)| (*out, f))
            })
            .collect();
        if self.target.on("place.direct") {
            for (index, (_, value)) in self.graph.outputs.iter().enumerate() {
                let source = self.behind_reshapes(*value);
                if computed.contains_key(&source) && self.stage(source) >= Stage::Request {
                    self.destinations.entry(source).or_insert(Destination::Output(index));
                }
            }
            for (index, node) in self.graph.nodes.iter().enumerate() {
                if let Op::Assign { .. } = node.op {
                    let source = self.behind_reshapes(node.inputs[1]);
                    let Some(producer) = computed.get(&source) else { continue };
                    if self.may_write_state(producer, source, node.inputs[0], index)
                        && (source == node.inputs[1] || node.op == Op::Assign { at: None })
                    {
                        self.destinations.entry(source).or_insert(Destination::State { assign: index });
                    }
                }
            }
        }
        if self.target.on("place.concat") {
            for node in self.graph.nodes.iter().rev() {
                let Op::Concat { dim } = node.op else { continue };
                let (whole, mut start) = (node.outputs[0], 0);
                for &part in &node.inputs {
                    if computed.contains_key(&part) && self.stage(part) == self.stage(whole) {
                        let slice = Destination::Slice { whole, dim, start };
                        self.destinations.entry(part).or_insert(slice);
                    }
                    start += self.graph.shape(part).0[dim].size;
                }
            }
        }
    }

    /// The value that `value` is a mere reshape of.
    fn behind_reshapes(&self, mut value: ValueId) -> ValueId {
        while let Op::Reshape = self.graph.producer(value).op {
            value = self.graph.producer(value).inputs[0];
        }
        value
    }

    /// A kernel may write a state itself when nobody still needs the state's old value at other elements: it
    /// does not read the state, or reads it element for element; and nobody reads it between it and the assign.
    fn may_write_state(&self, producer: &Fused, value: ValueId, state: ValueId, assign: usize) -> bool {
        let reads_state = |v: ValueId| self.depends_by_view(v, state);
        let elementwise = matches!(
            producer.kernel,
            Kernel::Combine { .. } | Kernel::Map { .. } | Kernel::Modulate { .. } | Kernel::Rope { .. }
        );
        let plain = |v: ValueId| v == state || !reads_state(v);
        let operands = producer.kernel.operands();
        let reads = operands.iter().filter(|(_, _, access)| *access == Access::Read);
        let safe = reads.clone().all(|(v, _, _)| if elementwise { plain(**v) } else { !reads_state(**v) });
        let between = producer.node + 1..assign;
        let later_reader = self.graph.nodes[between]
            .iter()
            .any(|node| node.inputs.iter().any(|&input| input != value && reads_state(input)));
        safe && !later_reader && producer.stage == self.graph.nodes[assign].stage
    }

    /// Whether `value` is `state` seen through views.
    fn depends_by_view(&self, value: ValueId, state: ValueId) -> bool {
        let node = self.graph.producer(value);
        value == state
            || match node.op {
                Op::Reshape | Op::Slice { .. } | Op::Pick { .. } | Op::Permute(_) | Op::Restrict => {
                    self.depends_by_view(node.inputs[0], state)
                }
                _ => false,
            }
    }

    /// The view of a value that exists by now.
    fn view(&mut self, value: ValueId) -> View {
        let node = self.graph.producer(value).clone();
        let parts_missing = matches!(node.op, Op::Concat { .. }) && !self.joined.contains(&value);
        if let Some(view) = self.views.get(&value).filter(|_| !parts_missing) {
            return view.clone();
        }
        let shape = self.graph.shape(value).clone();
        let view = match &node.op {
            Op::Slice { dim, start } => {
                let mut view = self.view(node.inputs[0]);
                view.offset += start * view.axes[*dim].stride.unsigned_abs();
                view.axes[*dim].size = shape.0[*dim].size;
                view
            }
            Op::Pick { dim, slot } => {
                let mut view = self.view(node.inputs[0]);
                let axis = view.axes.remove(*dim);
                view.picks.push((*slot, axis.stride.unsigned_abs()));
                view
            }
            Op::Permute(perm) => {
                let mut view = self.view(node.inputs[0]);
                view.axes = perm.iter().map(|&i| view.axes[i]).collect();
                view
            }
            Op::Restrict => {
                let mut view = self.view(node.inputs[0]);
                for (axis, dim) in view.axes.iter_mut().zip(&shape.0) {
                    axis.extent = dim.extent;
                }
                view
            }
            Op::Reshape => {
                let view = self.view(node.inputs[0]);
                match reshape_axes(&view.axes, &shape) {
                    Some(axes) => View { axes, ..view },
                    None => {
                        let copy = self.copied(&view, self.stage(node.inputs[0]));
                        let axes = axes_of(&shape);
                        View { axes, ..copy }
                    }
                }
            }
            Op::Concat { dim } => {
                let known = self.views.get(&value).cloned();
                let whole = known.unwrap_or_else(|| self.fresh_or_destination(value));
                self.joined.insert(value);
                let mut start = 0;
                for &part in &node.inputs {
                    let size = self.graph.shape(part).0[*dim].size;
                    let direct = matches!(self.destinations.get(&part),
                        Some(Destination::Slice { whole, start: s, .. }) if *whole == value && *s == start);
                    if !direct {
                        let x = self.view(part);
                        let out = slice_of(&whole, *dim, start, self.graph.shape(part));
                        let stage = self.stage(value);
                        self.push(Kernel::Copy { x, out }, stage);
                    }
                    start += size;
                }
                whole
            }
            Op::Weight => {
                let value = self.graph.value(value);
                let kind =
                    RootKind::Weight { name: value.name.clone(), shape: shape.sizes(), index: usize::MAX };
                self.source(kind, &shape, Stage::Bind, DType::F32)
            }
            Op::Constant(data) => {
                self.source(RootKind::Literal(data.clone()), &shape, Stage::Bind, DType::F32)
            }
            Op::State => {
                let name = self.graph.value(value).name.clone();
                let kind = RootKind::State { name, shape: shape.sizes(), offset: 0 };
                self.source(kind, &shape, Stage::Step, DType::F32)
            }
            Op::Input => {
                let stage = self.stage(value);
                let index = self.graph.inputs().position(|(id, _)| id == value).unwrap_or(0);
                self.source(RootKind::Input(index), &shape, stage, self.graph.value(value).dtype)
            }
            _ => self.fresh_or_destination(value),
        };
        self.views.insert(value, view.clone());
        view
    }

    fn source(&mut self, kind: RootKind, shape: &Shape, stage: Stage, dtype: DType) -> View {
        let root = self.root(kind, shape.numel(), stage);
        View { root, dtype, offset: 0, axes: axes_of(shape), picks: vec![] }
    }

    /// Where a value that is about to be computed goes.
    fn fresh_or_destination(&mut self, value: ValueId) -> View {
        let shape = self.graph.shape(value).clone();
        let dtype = self.graph.value(value).dtype;
        match self.destinations.get(&value).copied() {
            Some(Destination::Slice { whole, dim, start }) => {
                let known = self.views.get(&whole).cloned();
                let whole_view = known.unwrap_or_else(|| {
                    // The concatenation's root comes into being with its first part.
                    let view = self.fresh_or_destination(whole);
                    self.views.entry(whole).or_insert(view).clone()
                });
                slice_of(&whole_view, dim, start, &shape)
            }
            Some(Destination::Output(index)) => {
                let root = self.root(RootKind::Output(index), shape.numel(), self.stage(value));
                View { root, dtype, offset: 0, axes: axes_of(&shape), picks: vec![] }
            }
            Some(Destination::State { assign }) => {
                let node = &self.graph.nodes[assign];
                let Op::Assign { at } = node.op else { return self.fresh(&shape, dtype, Stage::Step) };
                let state = node.inputs[0];
                self.state_view(state, &shape, at)
            }
            None => self.fresh(&shape, dtype, self.stage(value)),
        }
    }

    fn fresh(&mut self, shape: &Shape, dtype: DType, stage: Stage) -> View {
        let root = self.root(RootKind::Temp, shape.numel(), stage);
        View { root, dtype, offset: 0, axes: axes_of(shape), picks: vec![] }
    }

    /// The part of a state that a value of `shape` is written to.
    fn state_view(&mut self, state: ValueId, shape: &Shape, at: Option<(usize, Slot)>) -> View {
        let mut view = self.view(state);
        let Some((dim, slot)) = at else {
            // The whole state, in the order of its elements.
            return View { axes: axes_of(shape), ..view };
        };
        view.picks.push((slot, view.axes[dim].stride.unsigned_abs()));
        for (axis, dim) in view.axes.iter_mut().zip(&shape.0) {
            (axis.size, axis.extent) = (dim.size, dim.extent);
        }
        view
    }

    fn push(&mut self, kernel: Kernel<View>, stage: Stage) {
        self.done.kernels.push(LoweredStep { kernel, stage, scope: self.scope.clone() });
    }

    /// A contiguous copy, made now: at the stage of what it reads, at the latest at `stage`.
    fn copied(&mut self, view: &View, stage: Stage) -> View {
        let made = self
            .copies
            .iter()
            .find(|(source, copy)| source == view && self.done.roots[copy.root].stage <= stage);
        if let Some((_, copy)) = made {
            return copy.clone();
        }
        let dims = view.axes.iter().map(|axis| crate::Dim { size: axis.size, extent: axis.extent }).collect();
        let extents = view.axes.iter().filter_map(|axis| axis.extent);
        let live = extents.map(|e| self.graph.extents[e.0 as usize].stage).max().unwrap_or(Stage::Bind);
        let root = &self.done.roots[view.root];
        let known =
            if view.picks.is_empty() && self.target.on("fold") { root.stage.max(live) } else { stage };
        let changes = matches!(root.kind, RootKind::State { .. } | RootKind::Output(_));
        let out = self.fresh(&Shape(dims), view.dtype, known);
        self.push(Kernel::Copy { x: view.clone(), out: out.clone() }, known);
        if !changes {
            self.copies.push((view.clone(), out.clone()));
        }
        out
    }

    fn kernel(&mut self, fused: Fused) -> Result<(), CompileError> {
        self.scope = fused.scope.clone();
        // Reads first: copies they need come before the kernel.
        let resolved: Result<_, std::convert::Infallible> = fused.kernel.map(|&value, role, access| {
            let view = self.view(value);
            let part = access == Access::Read && role != "weight" && self.is_part_of_weight(&view);
            Ok(if part { self.copied(&view, fused.stage) } else { view })
        });
        let Ok(kernel) = resolved;
        let space = kernel.result().axes.clone();
        let rows = self.rows_in_place(&kernel, &space);
        let mut after = Vec::new();
        let Ok(kernel) = kernel.map(|view, role, access| {
            let wanted = want(&kernel, role);
            let fits = satisfies(&view.axes, wanted) && (wanted != Want::Rows || rows);
            Ok::<_, std::convert::Infallible>(match (fits, access) {
                (true, _) => view.clone(),
                (false, Access::Read) => {
                    let full = if wanted == Want::Rows { self.expanded(view, &space) } else { view.clone() };
                    self.copied(&full, fused.stage)
                }
                (false, Access::Write) => {
                    let dims = view.axes.iter().map(|a| crate::Dim { size: a.size, extent: a.extent });
                    let temp = self.fresh(&Shape(dims.collect()), view.dtype, fused.stage);
                    after.push(Kernel::Copy { x: temp.clone(), out: view.clone() });
                    temp
                }
            })
        });
        if !self.rows_in_place(&kernel, &space) {
            let (view, role, _) = kernel.operands().remove(0);
            return Err(CompileError::Layout {
                entry: self.graph.name.clone(),
                scope: fused.scope,
                kernel: kernel.name(),
                operand: role,
                sizes: view.axes.iter().map(|axis| axis.size).collect(),
            });
        }
        self.push(kernel, fused.stage);
        for copy in after {
            self.push(copy, fused.stage);
        }
        Ok(())
    }

    /// Whether a view is less than the weight it looks at, as a crop of a position table is. A copy made at bind
    /// lets the rest of the weight go. (Rows of a matrix are left to the device, which packs what it needs.)
    fn is_part_of_weight(&self, view: &View) -> bool {
        let root = &self.done.roots[view.root];
        let elements: usize = view.axes.iter().map(|axis| axis.size).product();
        matches!(root.kind, RootKind::Weight { .. }) && elements < root.elements && self.target.on("fold")
    }

    /// A view with the iteration space's leading axes, repeating where it broadcasts.
    fn expanded(&self, view: &View, space: &[Axis]) -> View {
        let leading = space.len().saturating_sub(1);
        let strides = strides_along(&view.axes[..view.axes.len().saturating_sub(1)], &space[..leading]);
        let mut axes: Vec<Axis> = space[..leading].to_vec();
        for (axis, stride) in axes.iter_mut().zip(strides) {
            axis.stride = stride;
        }
        axes.extend(view.axes.last());
        View { axes, ..view.clone() }
    }

    /// Whether the rows of all operands merge into at most two levels.
    fn rows_in_place(&self, kernel: &Kernel<View>, space: &[Axis]) -> bool {
        // A code's rows are its whole space; elsewhere the last axis is the row.
        let leading = match kernel {
            Kernel::Codebook { .. } => space.len(),
            _ => space.len().saturating_sub(1),
        };
        let operands: Vec<Vec<isize>> = kernel
            .operands()
            .iter()
            .filter(|(_, role, _)| want(kernel, role) == Want::Rows)
            .map(|(view, _, _)| {
                strides_along(&view.axes[..view.axes.len().saturating_sub(1)], &space[..leading])
            })
            .collect();
        operands.is_empty() || merge_axes(&space[..leading], &operands).len() <= 2
    }

    fn assign(
        &mut self,
        state: ValueId,
        value: ValueId,
        at: Option<(usize, Slot)>,
        node: usize,
        stage: Stage,
    ) {
        let source = self.behind_reshapes(value);
        if matches!(self.destinations.get(&source), Some(Destination::State { assign }) if *assign == node) {
            return;
        }
        self.scope = self.graph.nodes[node].scope.clone();
        let x = self.view(value);
        let shape = self.graph.shape(value).clone();
        let out = self.state_view(state, &shape, at);
        let stage = stage.max(self.stage(value));
        self.push(Kernel::Copy { x, out }, stage);
    }

    fn cache_append(&mut self, node: usize, inputs: &[ValueId]) {
        self.scope = self.graph.nodes[node].scope.clone();
        let stage = self.graph.nodes[node].stage.max(self.stage(inputs[1]));
        let [out, value, sequence, position] = [0, 1, 2, 3].map(|i| self.view(inputs[i]));
        let kernel = Kernel::CacheAppend { value, sequence, position, out };
        let Ok(kernel) = kernel.map(|view, role, _| {
            let fits = satisfies(&view.axes, want(&kernel, role));
            Ok::<_, std::convert::Infallible>(if fits { view.clone() } else { self.copied(view, stage) })
        });
        self.push(kernel, stage);
    }

    /// Copies each output that its producer has not written itself.
    fn write_outputs(&mut self) {
        for (index, (name, value)) in self.graph.outputs.iter().enumerate() {
            self.scope = name.clone();
            let source = self.behind_reshapes(*value);
            if matches!(self.destinations.get(&source), Some(Destination::Output(i)) if *i == index) {
                continue;
            }
            let x = self.view(*value);
            let stage = self.stage(*value).max(Stage::Request);
            let root = self.root(RootKind::Output(index), self.graph.shape(*value).numel(), stage);
            let axes = axes_of(self.graph.shape(*value));
            let out = View { root, dtype: x.dtype, offset: 0, axes, picks: vec![] };
            self.push(Kernel::Copy { x, out }, stage);
        }
    }
}

/// Rows from `start` of dimension `dim`, of a part's shape.
fn slice_of(whole: &View, dim: usize, start: usize, part: &Shape) -> View {
    let mut view = whole.clone();
    view.offset += start * view.axes[dim].stride.unsigned_abs();
    for (axis, d) in view.axes.iter_mut().zip(&part.0) {
        (axis.size, axis.extent) = (d.size, d.extent);
    }
    view
}

/// The axes of a reshaped view, if its elements stay where they are.
fn reshape_axes(from: &[Axis], to: &Shape) -> Option<Vec<Axis>> {
    // Levels of the source that are stepped through with one stride; each must be cut whole.
    let mut levels: Vec<(usize, isize)> = Vec::new();
    for axis in from.iter().filter(|axis| axis.size != 1) {
        match levels.last_mut() {
            Some((size, stride)) if *stride == axis.stride * axis.size as isize => {
                (*size, *stride) = (*size * axis.size, axis.stride);
            }
            _ => levels.push((axis.size, axis.stride)),
        }
    }
    let mut axes = Vec::with_capacity(to.rank());
    let mut levels = levels.into_iter();
    let mut rest: Option<(usize, isize)> = None;
    for dim in &to.0 {
        if dim.size == 1 {
            axes.push(Axis { size: 1, stride: 0, extent: dim.extent });
            continue;
        }
        let (size, stride) = match rest.take() {
            Some(level) => level,
            None => levels.next()?,
        };
        if size % dim.size != 0 {
            return None;
        }
        let inner = size / dim.size;
        axes.push(Axis { size: dim.size, stride: stride * inner as isize, extent: dim.extent });
        if inner > 1 {
            rest = Some((inner, stride));
        }
    }
    (rest.is_none() && levels.next().is_none()).then_some(axes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(size: usize, stride: isize) -> Axis {
        Axis { size, stride, extent: None }
    }

    #[test]
    fn a_reshape_stays_in_place_where_its_levels_are_cut_whole() {
        // A slice of a wider row, split into heads.
        let axes = reshape_axes(&[axis(4, 96), axis(32, 1)], &[4, 2, 16].into()).unwrap();
        assert_eq!(axes, [axis(4, 96), axis(2, 16), axis(16, 1)]);
        // A crop of a grid cannot become one list of patches.
        assert_eq!(reshape_axes(&[axis(4, 64), axis(4, 8), axis(8, 1)], &[16, 8].into()), None);
        // Transposed axes cannot be merged, but may be split further.
        assert_eq!(reshape_axes(&[axis(4, 1), axis(6, 4)], &[24].into()), None);
        assert!(reshape_axes(&[axis(4, 1), axis(6, 4)], &[4, 2, 3].into()).is_some());
    }
}
