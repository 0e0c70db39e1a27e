//! Fuse: what follows a product, a normalisation or an upsampling joins its kernel.
//!
//! A node joins only where it is the one reader of a value of the same stage, so nothing is computed twice or
//! later than before. The fused kernel stands where its last node stood, so every other operand is known by
//! then.

use crate::{Activation, Binary, Graph, Kernel, Node, Op, Stage, Target, ValueId};

/// A fused kernel in the position of its last node.
pub struct Fused {
    /// What.
    pub kernel: Kernel<ValueId>,
    /// When.
    pub stage: Stage,
    /// Where it stands in the model: its first node's scope.
    pub scope: String,
    /// Index of its last node.
    pub node: usize,
}

/// All live computation as fused kernels, in program order.
pub fn fuse(graph: &Graph, stages: &[Stage], target: &Target) -> Vec<Fused> {
    let uses = Uses::new(graph, stages);
    let mut absorbed = vec![false; graph.nodes.len()];
    let mut fused = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if !uses.live[index] || absorbed[index] || node.outputs.is_empty() {
            continue;
        }
        let mut chain = Chain { uses: &uses, absorbed: &absorbed, out: node.outputs[0], nodes: vec![index] };
        let Some(kernel) = start(&mut chain, node, target) else { continue };
        let (out, nodes) = (chain.out, chain.nodes);
        for &member in &nodes {
            absorbed[member] = true;
        }
        let last = *nodes.last().unwrap_or(&index);
        let stage = stages[out.index()];
        fused.push(Fused { kernel, stage, scope: node.scope.clone(), node: last });
    }
    fused.sort_by_key(|f| f.node);
    fused
}

/// The kernel that begins with `node`, with what joins it; `None` for sources and views.
fn start(chain: &mut Chain, node: &Node, target: &Target) -> Option<Kernel<ValueId>> {
    let x = node.inputs.first().copied();
    let operand = |i: usize| node.inputs[i];
    Some(match node.op {
        Op::Linear { bias } => {
            let mut e = Epilogue::default();
            if target.on("fuse.linear") {
                e.absorb(chain, true);
            }
            Kernel::Linear {
                x: x?,
                weight: operand(1),
                bias: bias.then(|| operand(2)),
                act: e.act,
                gate: e.gate,
                residual: e.residual,
                out: chain.out,
            }
        }
        Op::Upsample2x => {
            if target.on("fuse.upsample")
                && let Some(reader) = chain.reader()
                && let Op::Conv2d { .. } = chain.uses.graph.nodes[reader].op
                && chain.uses.graph.nodes[reader].inputs[0] == chain.out
            {
                chain.join(reader);
                return conv(chain, &chain.uses.graph.nodes[reader], x?, true, target);
            }
            Kernel::Upsample2x { x: x?, out: chain.out }
        }
        Op::Conv2d { .. } => return conv(chain, node, x?, false, target),
        Op::Norm { kind, eps, weight, bias } => {
            let (weight, bias) = (weight.then(|| operand(1)), bias.then(|| operand(1 + weight as usize)));
            let (mut shift, mut scale) = (None, None);
            if target.on("fuse.norm")
                && let Some(reader) = chain.reader()
                && let Op::Modulate = chain.uses.graph.nodes[reader].op
                && let [x, by, factor] = chain.uses.graph.nodes[reader].inputs[..]
                && x == chain.out
            {
                (shift, scale) = (Some(by), Some(factor));
                chain.join(reader);
            }
            Kernel::Norm { x: x?, kind, eps, weight, bias, shift, scale, out: chain.out }
        }
        Op::GroupNorm { groups, eps } => {
            let act = activation(chain, target.on("fuse.norm"));
            Kernel::GroupNorm {
                x: x?,
                groups,
                eps,
                weight: operand(1),
                bias: operand(2),
                act,
                out: chain.out,
            }
        }
        Op::Modulate => Kernel::Modulate { x: x?, shift: operand(1), scale: operand(2), out: chain.out },
        Op::Unary(act) => Kernel::Map { a: x?, b: None, act, out: chain.out },
        Op::Binary(op) => {
            let act = activation(chain, target.on("fuse.map"));
            Kernel::Map { a: x?, b: Some((op, operand(1))), act, out: chain.out }
        }
        Op::Attention { heads, kv_heads, scale, mask } => {
            let segments = node.inputs[1..].chunks(2).map(|kv| (kv[0], kv[1])).collect();
            Kernel::Attention { q: x?, segments, heads, kv_heads, scale, mask, out: chain.out }
        }
        Op::CachedAttention { heads, kv_heads, scale, window } => Kernel::CachedAttention {
            q: x?,
            k: operand(1),
            v: operand(2),
            sequence: operand(3),
            position: operand(4),
            heads,
            kv_heads,
            scale,
            window,
            out: chain.out,
        },
        Op::Rope { heads, style, offset } => {
            Kernel::Rope { x: x?, table: operand(1), heads, style, offset, out: chain.out }
        }
        Op::Embed => Kernel::Embed { table: x?, ids: operand(1), out: chain.out },
        Op::TimestepEmbed { sin_first } => {
            Kernel::TimestepEmbed { t: x?, freqs: operand(1), sin_first, out: chain.out }
        }
        Op::Codebook => Kernel::Codebook {
            x: x?,
            codes: operand(1),
            ids: node.outputs[0],
            score: node.outputs[1],
            margin: node.outputs[2],
        },
        Op::Combine => Kernel::Combine { coeffs: x?, xs: node.inputs[1..].to_vec(), out: chain.out },
        Op::Input
        | Op::Weight
        | Op::Constant(_)
        | Op::State
        | Op::Reshape
        | Op::Slice { .. }
        | Op::Pick { .. }
        | Op::Permute(_)
        | Op::Restrict
        | Op::Concat { .. }
        | Op::CacheAppend
        | Op::Assign { .. } => return None,
    })
}

/// A convolution, after an upsampling or not, with its activation and residual.
fn conv(
    chain: &mut Chain,
    node: &Node,
    x: ValueId,
    upsample: bool,
    target: &Target,
) -> Option<Kernel<ValueId>> {
    let Op::Conv2d { stride, padding, bias } = node.op else { return None };
    let mut e = Epilogue::default();
    if target.on("fuse.conv") {
        e.absorb(chain, false);
    }
    Some(Kernel::Conv2d {
        x,
        weight: node.inputs[1],
        bias: bias.then(|| node.inputs[2]),
        stride,
        padding,
        upsample,
        act: e.act,
        residual: e.residual,
        out: chain.out,
    })
}

/// An activation that follows, if it may join.
fn activation(chain: &mut Chain, on: bool) -> Activation {
    if on
        && let Some(reader) = chain.reader()
        && let Op::Unary(act) = chain.uses.graph.nodes[reader].op
    {
        chain.join(reader);
        return act;
    }
    Activation::Identity
}

/// The nodes that have become one kernel.
struct Chain<'u> {
    uses: &'u Uses<'u>,
    /// Nodes that other kernels have taken: the sum of two products joins the first of them only.
    absorbed: &'u [bool],
    out: ValueId,
    nodes: Vec<usize>,
}

impl Chain<'_> {
    /// The one node that reads the chain's result, if it may join.
    fn reader(&self) -> Option<usize> {
        self.uses.only_reader(self.out).filter(|&reader| !self.absorbed[reader])
    }

    fn join(&mut self, node: usize) {
        self.nodes.push(node);
        self.out = self.uses.graph.nodes[node].outputs[0];
    }
}

/// What a matrix product does to its result before writing it: `residual + gate * act(..)`.
#[derive(Default)]
struct Epilogue {
    act: Activation,
    gate: Option<ValueId>,
    residual: Option<ValueId>,
}

impl Epilogue {
    /// Absorbs an activation, a gate (where the kernel has one) and a residual, in this order, each optional.
    fn absorb(&mut self, chain: &mut Chain, can_gate: bool) {
        let graph = chain.uses.graph;
        while let Some(reader) = chain.reader() {
            let node = &graph.nodes[reader];
            if graph.shape(node.outputs[0]) != graph.shape(chain.out) {
                return;
            }
            let other = |a: ValueId, b: ValueId| if a == chain.out { b } else { a };
            match (&node.op, &node.inputs[..]) {
                (Op::Unary(act), _) if self.act == Activation::Identity && self.gate.is_none() => {
                    self.act = *act;
                    chain.join(reader);
                }
                (Op::Binary(Binary::Mul), &[a, b]) if can_gate && self.gate.is_none() && a != b => {
                    self.gate = Some(other(a, b));
                    chain.join(reader);
                }
                (Op::Binary(Binary::Add), &[a, b]) if a != b => {
                    self.residual = Some(other(a, b));
                    chain.join(reader);
                    return;
                }
                _ => return,
            }
        }
    }
}

/// Nodes that an output or an assignment needs.
pub fn live_nodes(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.nodes.len()];
    for (_, value) in &graph.outputs {
        live[graph.value(*value).node] = true;
    }
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        live[index] |= matches!(node.op, Op::Assign { .. } | Op::CacheAppend);
        if live[index] {
            for &input in &node.inputs {
                live[graph.value(input).node] = true;
            }
        }
    }
    live
}

/// Readers of each value, counting only nodes that something needs.
struct Uses<'g> {
    graph: &'g Graph,
    stages: &'g [Stage],
    readers: Vec<Vec<usize>>,
    is_output: Vec<bool>,
    live: Vec<bool>,
}

impl<'g> Uses<'g> {
    fn new(graph: &'g Graph, stages: &'g [Stage]) -> Self {
        let live = live_nodes(graph);
        let mut is_output = vec![false; graph.values.len()];
        let mut readers = vec![vec![]; graph.values.len()];
        for (_, value) in &graph.outputs {
            is_output[value.index()] = true;
        }
        for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| live[*index]) {
            for &input in &node.inputs {
                readers[input.index()].push(index);
            }
        }
        Uses { graph, stages, readers, is_output, live }
    }

    /// The one node that reads `value` (once), if it computes at the same stage.
    fn only_reader(&self, value: ValueId) -> Option<usize> {
        match self.readers[value.index()][..] {
            [reader] if !self.is_output[value.index()] => {
                let result = *self.graph.nodes[reader].outputs.first()?;
                (self.stages[result.index()] == self.stages[value.index()]).then_some(reader)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, DType, NormKind};

    fn fused(record: impl FnOnce(&Builder), off: &[&str]) -> Vec<Kernel<ValueId>> {
        let g = Builder::new("test");
        record(&g);
        let graph = g.finish().unwrap();
        let target = Target { off: off.iter().map(|s| s.to_string()).collect(), ..Target::generic() };
        let stages = super::super::fold::stages(&graph, &target);
        fuse(&graph, &stages, &target).into_iter().map(|f| f.kernel).collect()
    }

    fn gated_mlp(g: &Builder) {
        let x = g.input("x", [2, 4, 8], DType::F32, Stage::Request);
        let gate = g.input("gate", [2, 1, 8], DType::F32, Stage::Request);
        let h = x.norm(NormKind::Layer, 1e-6).modulate(gate, gate).linear("fc1", 32);
        g.output("y", x + gate * h.act(Activation::GeluTanh).linear("fc2", 8));
    }

    #[test]
    fn a_gated_residual_mlp_is_three_kernels() {
        let kernels = fused(gated_mlp, &[]);
        let names: Vec<_> = kernels.iter().map(Kernel::name).collect();
        assert_eq!(names, ["norm", "linear", "linear"]);
        assert!(matches!(kernels[0], Kernel::Norm { shift: Some(_), .. }));
        assert!(matches!(kernels[1], Kernel::Linear { act: Activation::GeluTanh, gate: None, .. }));
        assert!(matches!(kernels[2], Kernel::Linear { gate: Some(_), residual: Some(_), .. }));
    }

    #[test]
    fn turned_off_every_op_is_a_kernel_of_its_own() {
        let names: Vec<_> = fused(gated_mlp, &["fuse"]).iter().map(|k| k.name()).collect();
        assert_eq!(names, ["norm", "modulate", "linear", "map", "linear", "map", "map"]);
    }

    #[test]
    fn a_value_that_is_read_twice_or_given_out_is_not_absorbed() {
        let kernels = fused(
            |g| {
                let x = g.input("x", [2, 8], DType::F32, Stage::Request);
                let h = x.linear("fc", 8);
                g.output("h", h);
                let k = x.linear("fc2", 8);
                g.output("y", h.act(Activation::Silu) + k * k);
            },
            &[],
        );
        let names: Vec<_> = kernels.iter().map(Kernel::name).collect();
        assert_eq!(names, ["linear", "linear", "map", "map", "map"]);
    }

    #[test]
    fn the_sum_of_two_products_joins_one_of_them() {
        let kernels = fused(
            |g| {
                let x = g.input("x", [2, 8], DType::F32, Stage::Request);
                g.output("y", x.linear("a", 8) + x.linear("b", 8));
            },
            &[],
        );
        let residuals = kernels.iter().filter(|k| matches!(k, Kernel::Linear { residual: Some(_), .. }));
        assert_eq!((kernels.len(), residuals.count()), (2, 1));
    }

    #[test]
    fn a_later_stage_does_not_drag_an_earlier_one_along() {
        let kernels = fused(
            |g| {
                let x = g.input("x", [2, 8], DType::F32, Stage::Request);
                let late = g.input("late", [2, 8], DType::F32, Stage::Step);
                g.output("y", x.linear("fc", 8) + late);
            },
            &[],
        );
        assert_eq!(kernels.iter().map(Kernel::name).collect::<Vec<_>>(), ["linear", "map"]);
    }

    #[test]
    fn upsampling_group_norm_and_convolution_take_what_follows() {
        let kernels = fused(
            |g| {
                let x = g.input("x", [1, 4, 4, 8], DType::F32, Stage::Request);
                let h = x.group_norm("norm", 2, 1e-6).act(Activation::Silu).conv2d("conv", 8, 3, 1, [1; 4]);
                g.output("y", (x + h).upsample2x().conv2d("up", 8, 3, 1, [1; 4]));
            },
            &[],
        );
        let names: Vec<_> = kernels.iter().map(Kernel::name).collect();
        assert_eq!(names, ["group_norm", "conv2d", "conv2d"]);
        assert!(matches!(kernels[0], Kernel::GroupNorm { act: Activation::Silu, .. }));
        assert!(matches!(kernels[1], Kernel::Conv2d { residual: Some(_), .. }));
        assert!(matches!(kernels[2], Kernel::Conv2d { upsample: true, .. }));
    }
}
