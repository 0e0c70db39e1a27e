//! Recording a graph so that a model reads like its formulas.
//!
//! [`Tensor`] is a small copyable handle with operators, so `x + gate * y` records three nodes. Nothing here
//! fails or panics: the builder remembers the first error with the op, its operands and what would be right,
//! goes on with a value of a plausible shape, and [`Builder::finish`] returns that error.

use crate::{
    Activation, Binary, DType, Dim, Extent, ExtentId, Graph, GraphError, Mask, Node, NormKind, Op, RopeStyle,
    Shape, Slot, Stage, Value, ValueId,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Add, Mul, Sub};

/// Records one graph.
#[derive(Debug)]
pub struct Builder {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    graph: Graph,
    scope: Vec<String>,
    /// Weights, inputs and states by kind and name, so that a second mention is the same value.
    named: HashMap<(&'static str, String), ValueId>,
    error: Option<GraphError>,
}

/// How [`Tensor::cached_attention_with`] attends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CachedHeads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Factor on the scores; `head_dim^-1/2` where none.
    pub scale: Option<f32>,
    /// How many rows of the cache a row sees, its own included; all up to itself where none.
    pub window: Option<usize>,
}

/// A value being recorded.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'g> {
    g: &'g Builder,
    id: ValueId,
}

impl Builder {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Builder {
        let graph = Graph {
            name: name.into(),
            nodes: vec![],
            values: vec![],
            outputs: vec![],
            slots: vec![],
            extents: vec![],
        };
        Builder { inner: RefCell::new(Inner { graph, scope: vec![], named: HashMap::new(), error: None }) }
    }

    /// The finished graph, or the first error met while recording it.
    pub fn finish(self) -> Result<Graph, GraphError> {
        let inner = self.inner.into_inner();
        match inner.error {
            Some(error) => Err(error),
            None => Ok(inner.graph),
        }
    }

    /// Records `f` inside a named part of the model; weight names within are relative to it.
    pub fn scope<R>(&self, name: impl Into<String>, f: impl FnOnce() -> R) -> R {
        self.inner.borrow_mut().scope.push(name.into());
        let result = f();
        self.inner.borrow_mut().scope.pop();
        result
    }

    fn path(&self, name: &str) -> String {
        let inner = self.inner.borrow();
        let mut parts: Vec<&str> = inner.scope.iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
        if !name.is_empty() {
            parts.push(name);
        }
        parts.join(".")
    }

    // ---- declarations ----

    /// A number that the host sets: the slot of that name.
    pub fn slot(&self, name: &str) -> Slot {
        let slots = &mut self.inner.borrow_mut().graph.slots;
        let index = slots.iter().position(|slot| slot == name).unwrap_or_else(|| {
            slots.push(name.to_string());
            slots.len() - 1
        });
        Slot(index as u32)
    }

    /// A live range `[0, hi)` of a dimension of size `max`; the slot carries the same name.
    pub fn up_to(&self, name: &str, max: usize, stage: Stage) -> Dim {
        let hi = self.slot(name);
        self.extent(Extent { name: name.into(), lo: None, hi, max, stage })
    }

    /// A live range `[lo, hi)` of a dimension of size `max`, from the slots `{name}.lo` and `{name}.hi`.
    pub fn between(&self, name: &str, max: usize, stage: Stage) -> Dim {
        let (lo, hi) = (self.slot(&format!("{name}.lo")), self.slot(&format!("{name}.hi")));
        self.extent(Extent { name: name.into(), lo: Some(lo), hi, max, stage })
    }

    fn extent(&self, extent: Extent) -> Dim {
        let mut inner = self.inner.borrow_mut();
        let size = extent.max;
        let known = inner.graph.extents.iter().position(|e| e.name == extent.name);
        let index = match known {
            Some(index) => {
                let first = inner.graph.extents[index].clone();
                if first != extent && inner.error.is_none() {
                    inner.error = Some(GraphError::Redeclared {
                        graph: inner.graph.name.clone(),
                        what: "extent",
                        name: extent.name.clone(),
                        first: format!("{first:?}"),
                        second: format!("{extent:?}"),
                    });
                }
                index
            }
            None => {
                inner.graph.extents.push(extent);
                inner.graph.extents.len() - 1
            }
        };
        Dim { size, extent: Some(ExtentId(index as u32)) }
    }

    /// A tensor that the caller gives at every run.
    pub fn input(&self, name: &str, shape: impl Into<Shape>, dtype: DType, stage: Stage) -> Tensor<'_> {
        self.declare("input", Op::Input, name.into(), shape.into(), dtype, stage.max(Stage::Request))
    }

    /// A weight of the current scope, of the reference library's shape.
    pub fn weight(&self, name: &str, shape: impl Into<Shape>) -> Tensor<'_> {
        self.declare("weight", Op::Weight, self.path(name), shape.into(), DType::F32, Stage::Bind)
    }

    /// Memory that outlives a run.
    pub fn state(&self, name: &str, shape: impl Into<Shape>) -> Tensor<'_> {
        self.declare("state", Op::State, name.into(), shape.into(), DType::F32, Stage::Step)
    }

    /// Known numbers.
    pub fn constant(&self, shape: impl Into<Shape>, data: Vec<f32>) -> Tensor<'_> {
        let shape = shape.into();
        if data.len() != shape.numel() {
            self.fail("constant", &[], format!("{} numbers do not fill {shape}", data.len()));
        }
        let data = if data.len() == shape.numel() { data } else { vec![0.0; shape.numel()] };
        self.record(Op::Constant(data), vec![], vec![(shape, DType::F32)], Stage::Bind)[0]
    }

    fn declare(
        &self,
        kind: &'static str,
        op: Op,
        name: String,
        shape: Shape,
        dtype: DType,
        stage: Stage,
    ) -> Tensor<'_> {
        let known = self.inner.borrow().named.get(&(kind, name.clone())).copied();
        if let Some(id) = known {
            let mut inner = self.inner.borrow_mut();
            let first = inner.graph.value(id).clone();
            if (first.shape != shape || first.dtype != dtype) && inner.error.is_none() {
                inner.error = Some(GraphError::Redeclared {
                    graph: inner.graph.name.clone(),
                    what: kind,
                    name,
                    first: format!("{} {}", first.dtype, first.shape),
                    second: format!("{dtype} {shape}"),
                });
            }
            return Tensor { g: self, id };
        }
        let tensor = self.record(op, vec![], vec![(shape, dtype)], stage)[0];
        let mut inner = self.inner.borrow_mut();
        inner.graph.values[tensor.id.index()].name = name.clone();
        inner.named.insert((kind, name), tensor.id);
        tensor
    }

    /// Names a result.
    pub fn output(&self, name: &str, value: Tensor<'_>) {
        self.inner.borrow_mut().graph.outputs.push((name.to_string(), value.id));
    }

    // ---- recording ----

    fn record(
        &self,
        op: Op,
        inputs: Vec<ValueId>,
        results: Vec<(Shape, DType)>,
        stage: Stage,
    ) -> Vec<Tensor<'_>> {
        let scope = self.path("");
        let mut inner = self.inner.borrow_mut();
        let graph = &mut inner.graph;
        let extents = results.iter().flat_map(|(shape, _)| &shape.0).filter_map(|dim| dim.extent);
        let stage = inputs
            .iter()
            .map(|&id| graph.value(id).stage)
            .chain(extents.map(|e| graph.extents[e.0 as usize].stage))
            .chain([stage])
            .max()
            .unwrap_or(Stage::Bind);
        let node = graph.nodes.len();
        let mut outputs = Vec::with_capacity(results.len());
        for (shape, dtype) in results {
            outputs.push(ValueId(graph.values.len() as u32));
            graph.values.push(Value { name: String::new(), shape, dtype, stage, node });
        }
        graph.nodes.push(Node { op, inputs, outputs: outputs.clone(), scope, stage });
        outputs.into_iter().map(|id| Tensor { g: self, id }).collect()
    }

    /// Remembers an error unless there is one.
    fn fail(&self, op: &str, operands: &[Tensor<'_>], expected: String) {
        let scope = self.path("");
        let mut inner = self.inner.borrow_mut();
        if inner.error.is_some() {
            return;
        }
        let operands = operands.iter().map(|t| {
            let value = inner.graph.value(t.id);
            let name = if value.name.is_empty() { format!("%{}", t.id.0) } else { value.name.clone() };
            format!("{name} {}", value.shape)
        });
        let operands = operands.collect::<Vec<_>>().join(", ");
        let error = GraphError::Shape {
            graph: inner.graph.name.clone(),
            scope: if scope.is_empty() { "top level".into() } else { scope },
            op: op.to_string(),
            operands,
            expected,
        };
        inner.error = Some(error);
    }

    /// Remembers an error of a model's configuration.
    pub fn fail_config(&self, field: &str, value: impl ToString, expected: impl Into<String>) {
        let mut inner = self.inner.borrow_mut();
        if inner.error.is_none() {
            inner.error = Some(GraphError::Config {
                model: inner.graph.name.clone(),
                field: field.to_string(),
                value: value.to_string(),
                expected: expected.into(),
            });
        }
    }
}

impl<'g> Tensor<'g> {
    /// The builder that records it.
    pub(crate) fn builder(self) -> &'g Builder {
        self.g
    }

    /// The value in the graph.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// Shape.
    pub fn shape(self) -> Shape {
        self.g.inner.borrow().graph.value(self.id).shape.clone()
    }

    fn dtype(self) -> DType {
        self.g.inner.borrow().graph.value(self.id).dtype
    }

    fn one(self, op: Op, others: &[Tensor<'g>], shape: Shape) -> Tensor<'g> {
        self.typed(op, others, shape, DType::F32)
    }

    fn typed(self, op: Op, others: &[Tensor<'g>], shape: Shape, dtype: DType) -> Tensor<'g> {
        let inputs = std::iter::once(self.id).chain(others.iter().map(|t| t.id)).collect();
        self.g.record(op, inputs, vec![(shape, dtype)], Stage::Bind)[0]
    }

    fn require(self, ok: bool, op: &str, others: &[Tensor<'g>], expected: impl FnOnce() -> String) -> bool {
        if !ok {
            let mut operands = vec![self];
            operands.extend_from_slice(others);
            self.g.fail(op, &operands, expected());
        }
        ok
    }

    // ---- views ----

    /// Same elements, another shape. Dimensions with a live range keep size, stride and place in order.
    pub fn reshape(self, shape: impl Into<Shape>) -> Tensor<'g> {
        let (from, mut to) = (self.shape(), shape.into());
        self.require(from.numel() == to.numel(), "reshape", &[], || format!("cannot become {to}"));
        if from.numel() != to.numel() {
            return self;
        }
        // A live dimension must stand in both shapes with the same stride.
        let (from_strides, to_strides) = (from.strides(), to.strides());
        for (dim, stride) in from.0.iter().zip(&from_strides).filter(|(dim, _)| dim.extent.is_some()) {
            let place = to.0.iter().zip(&to_strides).position(|(d, s)| d.size == dim.size && s == stride);
            match place {
                Some(place) => to.0[place].extent = dim.extent,
                None => {
                    self.g.fail("reshape", &[self], format!("{to} would merge or split a live dimension"));
                }
            }
        }
        self.typed(Op::Reshape, &[], to, self.dtype())
    }

    /// `len` rows of dimension `dim` from `start`.
    pub fn slice(self, dim: usize, start: usize, len: usize) -> Tensor<'g> {
        let mut shape = self.shape();
        let ok = dim < shape.rank() && start + len <= shape.0[dim].size && shape.0[dim].extent.is_none();
        if !self.require(ok, "slice", &[], || format!("rows {start}..{} of dimension {dim}", start + len)) {
            return self;
        }
        if start == 0 && len == shape.0[dim].size {
            return self;
        }
        shape.0[dim] = len.into();
        self.typed(Op::Slice { dim, start }, &[], shape, self.dtype())
    }

    /// The last axis cut into `N` equal parts.
    pub fn split<const N: usize>(self) -> [Tensor<'g>; N] {
        let (rank, last) = (self.shape().rank(), self.shape().last());
        self.require(last.is_multiple_of(N), "split", &[], || format!("last axis divisible by {N}"));
        let part = last / N;
        std::array::from_fn(|i| self.slice(rank - 1, i * part, part))
    }

    /// Row `slot` of dimension `dim`; the dimension disappears.
    pub fn pick(self, dim: usize, slot: Slot, stage: Stage) -> Tensor<'g> {
        let mut shape = self.shape();
        if !self.require(dim < shape.rank(), "pick", &[], || format!("a dimension {dim}")) {
            return self;
        }
        shape.0.remove(dim);
        self.g.record(Op::Pick { dim, slot }, vec![self.id], vec![(shape, self.dtype())], stage)[0]
    }

    /// Dimensions in another order: result dimension `i` is `perm[i]`.
    pub fn permute(self, perm: &[usize]) -> Tensor<'g> {
        let shape = self.shape();
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        let ok = sorted == (0..shape.rank()).collect::<Vec<_>>();
        if !self.require(ok, "permute", &[], || format!("{perm:?} is no order of the dimensions")) {
            return self;
        }
        let dims = perm.iter().map(|&i| shape.0[i]).collect::<Vec<_>>();
        self.typed(Op::Permute(perm.to_vec()), &[], dims.into(), self.dtype())
    }

    /// Marks dimension `dim` as live only in the extent of `live`.
    pub fn restrict(self, dim: usize, live: Dim) -> Tensor<'g> {
        let mut shape = self.shape();
        let ok = dim < shape.rank() && shape.0[dim].size == live.size && shape.0[dim].extent.is_none();
        if !self.require(ok, "restrict", &[], || format!("dimension {dim} of size {}", live.size)) {
            return self;
        }
        shape.0[dim] = live;
        self.typed(Op::Restrict, &[], shape, self.dtype())
    }

    /// Joined with others along `dim`.
    pub fn concat(self, dim: usize, others: &[Tensor<'g>]) -> Tensor<'g> {
        let mut shape = self.shape();
        let mut ok = dim < shape.rank();
        for other in others {
            let theirs = other.shape();
            ok = ok
                && theirs.rank() == shape.rank()
                && theirs.0.iter().zip(&shape.0).enumerate().all(|(i, (a, b))| {
                    if i == dim { a.extent.is_none() && b.extent.is_none() } else { a == b }
                });
            if ok {
                shape.0[dim].size += theirs.0[dim].size;
            }
        }
        if !self.require(ok, "concat", others, || format!("same sizes outside dimension {dim}")) {
            return self;
        }
        self.typed(Op::Concat { dim }, others, shape, self.dtype())
    }

    // ---- arithmetic ----

    /// `x W^T + b` with weights `{name}.weight [n, K]` and `{name}.bias [n]`.
    pub fn linear(self, name: &str, n: usize) -> Tensor<'g> {
        let bias = self.g.weight(&format!("{name}.bias"), [n]);
        self.linear_with(self.g.weight(&format!("{name}.weight"), [n, self.shape().last()]), Some(bias))
    }

    /// `x W^T` with weight `{name}.weight [n, K]`.
    pub fn linear_no_bias(self, name: &str, n: usize) -> Tensor<'g> {
        self.linear_with(self.g.weight(&format!("{name}.weight"), [n, self.shape().last()]), None)
    }

    /// `x W^T + b` for given weights.
    pub fn linear_with(self, weight: Tensor<'g>, bias: Option<Tensor<'g>>) -> Tensor<'g> {
        let (mut shape, w) = (self.shape(), weight.shape());
        let ok = w.rank() == 2
            && shape.rank() >= 1
            && shape.last() == w.0[1].size
            && bias.is_none_or(|b| b.shape().sizes() == [w.0[0].size]);
        if !self.require(ok, "linear", &[weight], || "x [.., K], weight [N, K], bias [N]".into()) {
            return self;
        }
        let rank = shape.rank();
        shape.0[rank - 1] = w.0[0];
        let mut others = vec![weight];
        others.extend(bias);
        self.one(Op::Linear { bias: bias.is_some() }, &others, shape)
    }

    /// Convolution of NHWC with weights `{name}.weight [out, I, k, k]`, `{name}.bias [out]`;
    /// `padding` is top, bottom, left, right.
    pub fn conv2d(self, name: &str, out: usize, k: usize, stride: usize, padding: [usize; 4]) -> Tensor<'g> {
        let bias = self.g.weight(&format!("{name}.bias"), [out]);
        let weight = self.g.weight(&format!("{name}.weight"), [out, self.shape().last(), k, k]);
        self.conv2d_with(weight, Some(bias), stride, padding)
    }

    /// Convolution of NHWC for given `weight [out, I, kh, kw]` and `bias [out]`.
    pub fn conv2d_with(
        self,
        weight: Tensor<'g>,
        bias: Option<Tensor<'g>>,
        stride: usize,
        padding: [usize; 4],
    ) -> Tensor<'g> {
        let (shape, w) = (self.shape(), weight.shape());
        let [t, b, l, r] = padding;
        let &[out, channels, kh, kw] = &w.sizes()[..] else {
            self.g.fail("conv2d", &[self, weight], "weight [out, I, kh, kw]".into());
            return self;
        };
        let ok = shape.rank() == 4
            && stride > 0
            && kh.min(kw) > 0
            && shape.last() == channels
            && shape.0[1].size + t + b >= kh
            && shape.0[2].size + l + r >= kw
            && shape.0[1..].iter().all(|dim| dim.extent.is_none())
            && bias.is_none_or(|bias| bias.shape().sizes() == [out]);
        let want = || format!("NHWC of {channels} channels and at least {kh} x {kw} pixels, bias [{out}]");
        if !self.require(ok, "conv2d", &[weight], want) {
            return self;
        }
        let side = |n: usize, pad: usize, k: usize| Dim::from((n + pad - k) / stride + 1);
        let dims =
            [shape.0[0], side(shape.0[1].size, t + b, kh), side(shape.0[2].size, l + r, kw), out.into()];
        let mut others = vec![weight];
        others.extend(bias);
        self.one(Op::Conv2d { stride, padding, bias: bias.is_some() }, &others, dims.into())
    }

    /// Convolution of NHWC with weights `{name}.weight [out, I, k, k]` alone, without padding.
    pub fn conv2d_no_bias(self, name: &str, out: usize, k: usize, stride: usize) -> Tensor<'g> {
        let shape = self.shape();
        let ok = shape.rank() == 4
            && stride > 0
            && k > 0
            && shape.0[1..3].iter().all(|dim| dim.size >= k)
            && shape.0[1..].iter().all(|dim| dim.extent.is_none());
        if !self.require(ok, "conv2d", &[], || format!("NHWC of at least {k} x {k} pixels")) {
            return self;
        }
        let weight = self.g.weight(&format!("{name}.weight"), [out, shape.last(), k, k]);
        let side = |n: usize| Dim::from((n - k) / stride + 1);
        let dims = [shape.0[0], side(shape.0[1].size), side(shape.0[2].size), out.into()];
        self.one(Op::Conv2d { stride, padding: [0; 4], bias: false }, &[weight], dims.into())
    }

    /// This value once for each item of a batch: dimension 0, of size 1, becomes `batch`.
    pub fn expand(self, batch: Dim) -> Tensor<'g> {
        let shape = self.shape();
        let ok = shape.0.first().is_some_and(|dim| dim.size == 1 && dim.extent.is_none());
        if !self.require(ok, "expand", &[], || "a first dimension of size 1".into()) {
            return self;
        }
        // A sum with zeros: known at bind where the value is, so that a run only copies it.
        let mut ones = vec![1; shape.rank()];
        ones[0] = batch.size;
        let x = self + self.g.constant(Shape::fixed(&ones), vec![0.0; batch.size]);
        if batch.extent.is_some() { x.restrict(0, batch) } else { x }
    }

    /// Each pixel of NHWC twice in both directions.
    pub fn upsample2x(self) -> Tensor<'g> {
        let mut shape = self.shape();
        if !self.require(shape.rank() == 4, "upsample2x", &[], || "NHWC".into()) {
            return self;
        }
        shape.0[1].size *= 2;
        shape.0[2].size *= 2;
        self.one(Op::Upsample2x, &[], shape)
    }

    /// Normalisation over the last axis, without weights.
    pub fn norm(self, kind: NormKind, eps: f32) -> Tensor<'g> {
        self.one(Op::Norm { kind, eps, weight: false, bias: false }, &[], self.shape())
    }

    /// Layer norm with `{name}.weight`, `{name}.bias`.
    pub fn layer_norm(self, name: &str, eps: f32) -> Tensor<'g> {
        let c = self.shape().last();
        let (w, b) =
            (self.g.weight(&format!("{name}.weight"), [c]), self.g.weight(&format!("{name}.bias"), [c]));
        self.one(Op::Norm { kind: NormKind::Layer, eps, weight: true, bias: true }, &[w, b], self.shape())
    }

    /// RMS norm with `{name}.weight`.
    pub fn rms_norm(self, name: &str, eps: f32) -> Tensor<'g> {
        let w = self.g.weight(&format!("{name}.weight"), [self.shape().last()]);
        self.one(Op::Norm { kind: NormKind::Rms, eps, weight: true, bias: false }, &[w], self.shape())
    }

    /// Group norm of NHWC with `{name}.weight`, `{name}.bias`.
    pub fn group_norm(self, name: &str, groups: usize, eps: f32) -> Tensor<'g> {
        let shape = self.shape();
        let c = shape.last();
        let ok = groups > 0 && c.is_multiple_of(groups) && shape.rank() >= 2;
        if !self.require(ok, "group_norm", &[], || format!("channels divisible by {groups} groups")) {
            return self;
        }
        let (w, b) =
            (self.g.weight(&format!("{name}.weight"), [c]), self.g.weight(&format!("{name}.bias"), [c]));
        self.one(Op::GroupNorm { groups, eps }, &[w, b], shape)
    }

    /// `x * (1 + scale) + shift`
    pub fn modulate(self, shift: Tensor<'g>, scale: Tensor<'g>) -> Tensor<'g> {
        let shape = self.shape().broadcast(&shift.shape()).and_then(|s| s.broadcast(&scale.shape()));
        let ok = shape.as_ref().is_some_and(|s| s.last() == self.shape().last());
        if !self.require(ok, "modulate", &[shift, scale], || "shift and scale that broadcast to x".into()) {
            return self;
        }
        self.one(Op::Modulate, &[shift, scale], shape.unwrap_or_default())
    }

    /// A nonlinearity.
    pub fn act(self, activation: Activation) -> Tensor<'g> {
        self.one(Op::Unary(activation), &[], self.shape())
    }

    fn binary(self, op: Binary, other: Tensor<'g>) -> Tensor<'g> {
        let shape = self.shape().broadcast(&other.shape());
        if !self.require(shape.is_some(), "binary", &[other], || "shapes that broadcast".into()) {
            return self;
        }
        self.one(Op::Binary(op), &[other], shape.unwrap_or_default())
    }

    /// Softmax attention of `self` over key and value segments, read one after another; see
    /// [`Op::Attention`]. The scale is `head_dim^-1/2`.
    pub fn attention(
        self,
        segments: &[(Tensor<'g>, Tensor<'g>)],
        heads: usize,
        kv_heads: usize,
        mask: Mask,
    ) -> Tensor<'g> {
        let q = self.shape();
        let others: Vec<_> = segments.iter().flat_map(|&(k, v)| [k, v]).collect();
        let mut ok = heads > 0
            && kv_heads > 0
            && heads.is_multiple_of(kv_heads)
            && !segments.is_empty()
            && q.rank() == 3
            && q.last().is_multiple_of(heads);
        let mut batch = q.0.first().copied().unwrap_or(1.into());
        let head_dim = if ok { q.last() / heads } else { 1 };
        for (k, v) in segments {
            let (k, v) = (k.shape(), v.shape());
            ok = ok && k == v && k.rank() == 3 && k.last() == kv_heads * head_dim;
            if ok {
                let joint = Shape(vec![batch]).broadcast(&Shape(vec![k.0[0]]));
                ok = joint.is_some();
                batch = joint.map_or(batch, |s| s.0[0]);
            }
        }
        let want = || format!("q [B, N, {heads}*D], each k and v [B, M, {kv_heads}*D]");
        if !self.require(ok, "attention", &others, want) {
            return self;
        }
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let shape = Shape(vec![batch, q.0[1], q.0[2]]);
        self.one(Op::Attention { heads, kv_heads, scale, mask }, &others, shape)
    }

    /// Causal attention of packed rows over the caches `k` and `v`; see [`Op::CachedAttention`]. The scale is
    /// `head_dim^-1/2`.
    pub fn cached_attention(
        self,
        caches: (Tensor<'g>, Tensor<'g>),
        places: (Tensor<'g>, Tensor<'g>),
        heads: usize,
        kv_heads: usize,
    ) -> Tensor<'g> {
        self.cached_attention_with(caches, places, CachedHeads { heads, kv_heads, scale: None, window: None })
    }

    /// The same with a scale or a window of its own.
    pub fn cached_attention_with(
        self,
        (k, v): (Tensor<'g>, Tensor<'g>),
        (sequence, position): (Tensor<'g>, Tensor<'g>),
        CachedHeads { heads, kv_heads, scale, window }: CachedHeads,
    ) -> Tensor<'g> {
        let (q, cache) = (self.shape(), k.shape());
        let ok = heads > 0
            && kv_heads > 0
            && heads.is_multiple_of(kv_heads)
            && window != Some(0)
            && q.rank() == 2
            && q.last().is_multiple_of(heads)
            && cache == v.shape()
            && cache.rank() == 3
            && cache.last() == q.last() / heads * kv_heads
            && indexes(q.0[0], sequence)
            && indexes(q.0[0], position);
        let others = [k, v, sequence, position];
        let want =
            || format!("q [R, {heads}*D], k and v [S, L, {kv_heads}*D], integer sequence [R], position [R]");
        if !self.require(ok, "cached_attention", &others, want) {
            return self;
        }
        let scale = scale.unwrap_or_else(|| (1.0 / ((q.last() / heads) as f64).sqrt()) as f32);
        self.one(Op::CachedAttention { heads, kv_heads, scale, window }, &others, q)
    }

    /// Rotary embedding; see [`Op::Rope`].
    pub fn rope(self, table: Tensor<'g>, heads: usize, style: RopeStyle, offset: Option<Slot>) -> Tensor<'g> {
        let (x, t) = (self.shape(), table.shape());
        let ok = x.rank() == 3
            && t.rank() == 2
            && heads > 0
            && x.last().is_multiple_of(heads)
            && t.last().is_multiple_of(2)
            && t.last() <= x.last() / heads
            && t.0[0].size >= x.0[1].size;
        if !self.require(ok, "rope", &[table], || "x [B, N, heads*D], table [>= N, <= D]".into()) {
            return self;
        }
        self.one(Op::Rope { heads, style, offset }, &[table], x)
    }

    /// Rows of this table `[V, C]` by `ids`.
    pub fn embed(self, ids: Tensor<'g>) -> Tensor<'g> {
        let ok = self.shape().rank() == 2 && ids.dtype() == DType::I32;
        if !self.require(ok, "embed", &[ids], || "table [V, C] and integer ids".into()) {
            return self;
        }
        let mut shape = ids.shape();
        shape.0.push(self.shape().0[1]);
        self.one(Op::Embed, &[ids], shape)
    }

    /// Sinusoids of `self [..]` at the frequencies `freqs [F]`: `[.., 2F]`.
    pub fn timestep_embed(self, freqs: Tensor<'g>, sin_first: bool) -> Tensor<'g> {
        let mut shape = self.shape();
        if !self.require(freqs.shape().rank() == 1, "timestep_embed", &[freqs], || "freqs [F]".into()) {
            return self;
        }
        shape.0.push((2 * freqs.shape().last()).into());
        self.one(Op::TimestepEmbed { sin_first }, &[freqs], shape)
    }

    /// Nearest codes by cosine: ids, best score, margin.
    pub fn codebook(self, codes: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>, Tensor<'g>) {
        let (mut shape, c) = (self.shape(), codes.shape());
        let ok = c.rank() == 2 && shape.rank() >= 1 && c.last() == shape.last();
        if !self.require(ok, "codebook", &[codes], || "x [.., C] and codes [V, C]".into()) {
            return (self, self, self);
        }
        shape.0.pop();
        let results = vec![(shape.clone(), DType::I32), (shape.clone(), DType::F32), (shape, DType::F32)];
        let out = self.g.record(Op::Codebook, vec![self.id, codes.id], results, Stage::Bind);
        (out[0], out[1], out[2])
    }

    /// `sum_i self[i] * xs[i]`, `self` being the coefficients `[n]`.
    pub fn combine(self, xs: &[Tensor<'g>]) -> Tensor<'g> {
        let first = xs.first().map(|x| x.shape()).unwrap_or_default();
        let ok =
            !xs.is_empty() && self.shape().sizes() == [xs.len()] && xs.iter().all(|x| x.shape() == first);
        if !self.require(ok, "combine", xs, || "coefficients [n] and n values of one shape".into()) {
            return self;
        }
        self.one(Op::Combine, xs, first)
    }

    /// Writes packed rows into this state `[S, L, C]`; see [`Op::CacheAppend`].
    pub fn cache_append(self, value: Tensor<'g>, (sequence, position): (Tensor<'g>, Tensor<'g>)) {
        let (state, v) = (self.shape(), value.shape());
        let is_state = matches!(self.g.inner.borrow().graph.producer(self.id).op, Op::State);
        let ok = is_state
            && state.rank() == 3
            && v.rank() == 2
            && state.last() == v.last()
            && indexes(v.0[0], sequence)
            && indexes(v.0[0], position);
        let others = [value, sequence, position];
        let want = || "a state [S, L, C], value [R, C], integer sequence [R], position [R]".into();
        if self.require(ok, "cache_append", &others, want) {
            let stages = others.map(|t| self.g.inner.borrow().graph.value(t.id).stage);
            let stage = stages.into_iter().max().unwrap_or(Stage::Step).max(Stage::Request);
            let inputs = std::iter::once(self.id).chain(others.map(|t| t.id)).collect();
            self.g.record(Op::CacheAppend, inputs, vec![], stage);
            // The state's own stage is step; the write happens when its rows are known.
            if let Some(node) = self.g.inner.borrow_mut().graph.nodes.last_mut() {
                node.stage = stage;
            }
        }
    }

    /// Writes `value` into this state, whole, or from row `at.1` of dimension `at.0`.
    pub fn assign(self, value: Tensor<'g>, at: Option<(usize, Slot)>) {
        let (state, v) = (self.shape(), value.shape());
        let is_state = matches!(self.g.inner.borrow().graph.producer(self.id).op, Op::State);
        let fits = state.rank() == v.rank()
            && state.0.iter().zip(&v.0).enumerate().all(|(i, (s, d))| {
                if at.is_some_and(|(dim, _)| dim == i) { d.size <= s.size } else { d.size == s.size }
            });
        if self.require(is_state && fits, "assign", &[value], || "a state and a value of its shape".into()) {
            // The state's own stage is step; the write happens when the value is known.
            let stage = self.g.inner.borrow().graph.value(value.id).stage;
            self.g.record(Op::Assign { at }, vec![self.id, value.id], vec![], stage);
            if let Some(node) = self.g.inner.borrow_mut().graph.nodes.last_mut() {
                node.stage = stage.max(Stage::Request);
            }
        }
    }
}

/// Whether `index` holds one integer for each of `rows`.
fn indexes(rows: Dim, index: Tensor<'_>) -> bool {
    index.dtype() == DType::I32 && index.shape() == Shape(vec![rows])
}

impl<'g> Add for Tensor<'g> {
    type Output = Tensor<'g>;
    fn add(self, other: Tensor<'g>) -> Tensor<'g> {
        self.binary(Binary::Add, other)
    }
}

impl<'g> Sub for Tensor<'g> {
    type Output = Tensor<'g>;
    fn sub(self, other: Tensor<'g>) -> Tensor<'g> {
        self.binary(Binary::Sub, other)
    }
}

impl<'g> Mul for Tensor<'g> {
    type Output = Tensor<'g>;
    fn mul(self, other: Tensor<'g>) -> Tensor<'g> {
        self.binary(Binary::Mul, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mlp_reads_like_its_formula_and_knows_its_stages() {
        let g = Builder::new("mlp");
        let batch = g.up_to("batch", 4, Stage::Request);
        let x = g.input("x", [batch, 8.into()], DType::F32, Stage::Request);
        let y = g.scope("mlp", || x.linear("fc1", 32).act(Activation::GeluTanh).linear("fc2", 8));
        g.output("y", x + y);
        let table = g.weight("table", [16, 8]).linear("proj", 8);
        let stage = g.inner.borrow().graph.value(table.id).stage;
        assert_eq!(stage, Stage::Bind);
        let graph = g.finish().unwrap();
        assert_eq!(graph.weights().next().unwrap().1.name, "mlp.fc1.bias");
        assert_eq!(graph.shape(graph.outputs[0].1).to_string(), "[4~0, 8]");
        assert_eq!(graph.value(graph.outputs[0].1).stage, Stage::Request);
    }

    #[test]
    fn the_first_error_names_op_operands_and_what_would_be_right() {
        let g = Builder::new("bad");
        let x = g.input("x", [2, 8], DType::F32, Stage::Request);
        let y = g.input("y", [3, 7], DType::F32, Stage::Request);
        let z = g.scope("block.0", || x + y);
        g.output("z", z.attention(&[], 0, 0, Mask::None));
        let error = g.finish().unwrap_err().to_string();
        assert_eq!(error, "graph 'bad', block.0: binary(x [2, 8], y [3, 7]): shapes that broadcast");
    }

    #[test]
    fn a_live_dimension_survives_only_a_reshape_that_leaves_it_alone() {
        let g = Builder::new("reshape");
        let live = g.up_to("n", 4, Stage::Step);
        let x = g.input("x", [2.into(), live, 6.into()], DType::F32, Stage::Request);
        assert_eq!(x.reshape([2, 4, 2, 3]).shape().to_string(), "[2, 4~0, 2, 3]");
        x.reshape([8, 6]);
        assert!(g.finish().unwrap_err().to_string().contains("live dimension"));
    }

    #[test]
    fn a_name_declared_twice_must_mean_the_same() {
        let g = Builder::new("twice");
        g.weight("w", [2]);
        g.weight("w", [3]);
        assert!(matches!(g.finish(), Err(GraphError::Redeclared { what: "weight", .. })));
    }
}
