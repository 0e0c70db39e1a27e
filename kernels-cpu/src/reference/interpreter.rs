//! The walk over a graph: operands by value, live ranges, states, and the stages.

use super::*;
use selftok_graph::{Graph, Mask, Node, Op, Slot, Stage, ValueId};
use std::rc::Rc;

/// A graph with its weights and everything of stage bind.
pub struct Interpreter<'g> {
    graph: &'g Graph,
    bound: Vec<Option<Rc<Array>>>,
}

/// What one iteration computed.
pub struct Evaluation<'g> {
    graph: &'g Graph,
    values: Vec<Option<Rc<Array>>>,
}

impl Evaluation<'_> {
    /// Any value of the graph, for finding faults.
    pub fn value(&self, id: ValueId) -> Option<&Array> {
        self.values[id.index()].as_deref()
    }

    /// A named output.
    pub fn output(&self, name: &str) -> Option<&Array> {
        let (_, id) = self.graph.outputs.iter().find(|(output, _)| output == name)?;
        self.value(*id)
    }

    /// All named outputs.
    pub fn outputs(&self) -> Named {
        let outputs = self.graph.outputs.iter();
        outputs.filter_map(|(name, id)| Some((name.clone(), self.value(*id)?.clone()))).collect()
    }
}

/// Evaluates `graph` once: request and step.
pub fn run(
    graph: &Graph,
    weights: &Weights<'_>,
    inputs: &Named,
    slots: &Slots,
    states: &mut Named,
) -> Result<Named, ReferenceError> {
    Ok(Interpreter::new(graph, weights)?.run(inputs, slots, states)?.outputs())
}

impl<'g> Interpreter<'g> {
    /// Reads the weights and evaluates what depends on them alone.
    pub fn new(graph: &'g Graph, weights: &Weights<'_>) -> Result<Self, ReferenceError> {
        let mut bound = vec![None; graph.values.len()];
        for (id, value) in graph.weights() {
            let missing = || ReferenceError::Missing {
                graph: graph.name.clone(),
                what: "weight",
                name: value.name.clone(),
            };
            let data = weights(&value.name).ok_or_else(missing)?;
            let shape = value.shape.sizes();
            if data.len() != value.shape.numel() {
                return Err(ReferenceError::Shape {
                    graph: graph.name.clone(),
                    what: "weight",
                    name: value.name.clone(),
                    found: format!("{} elements", data.len()),
                    expected: shape,
                });
            }
            bound[id.index()] = Some(Rc::new(Array::from_f32(&shape, &data)));
        }
        let (mut inputs, mut states) = (Named::new(), Named::new());
        let mut frame = Frame { graph, values: bound, inputs: &mut inputs, slots: &[], states: &mut states };
        frame.evaluate(Stage::Bind)?;
        Ok(Interpreter { graph, bound: frame.values })
    }

    /// One run of one iteration.
    pub fn run(
        &self,
        inputs: &Named,
        slots: &Slots,
        states: &mut Named,
    ) -> Result<Evaluation<'g>, ReferenceError> {
        self.repeat(inputs, std::slice::from_ref(slots), states, &mut |_, _| ())
    }

    /// One run: the request stage under the first row of slot values, then the step stage under every row.
    /// `each` sees every iteration; the last one is returned (the request stage alone, where there is no row).
    pub fn repeat(
        &self,
        inputs: &Named,
        table: &[Slots],
        states: &mut Named,
        each: &mut dyn FnMut(usize, &Evaluation<'g>),
    ) -> Result<Evaluation<'g>, ReferenceError> {
        let graph = self.graph;
        let rows: Vec<Vec<u32>> = table.iter().map(|slots| self.slot_row(slots)).collect::<Result<_, _>>()?;
        let empty = vec![0; graph.slots.len()];
        let mut inputs = inputs.clone();
        let mut frame = Frame {
            graph,
            values: self.bound.clone(),
            inputs: &mut inputs,
            slots: rows.first().unwrap_or(&empty),
            states,
        };
        frame.evaluate(Stage::Request)?;
        let mut last = Evaluation { graph, values: frame.values.clone() };
        for (i, slots) in rows.iter().enumerate() {
            frame.slots = slots;
            frame.evaluate(Stage::Step)?;
            last.values.clone_from(&frame.values);
            each(i, &last);
        }
        Ok(last)
    }

    fn slot_row(&self, slots: &Slots) -> Result<Vec<u32>, ReferenceError> {
        let find = |name: &String| {
            let missing = || ReferenceError::Missing {
                graph: self.graph.name.clone(),
                what: "slot",
                name: name.clone(),
            };
            slots.get(name).copied().ok_or_else(missing)
        };
        self.graph.slots.iter().map(find).collect()
    }
}

/// Values as they come to be.
struct Frame<'a> {
    graph: &'a Graph,
    values: Vec<Option<Rc<Array>>>,
    inputs: &'a mut Named,
    slots: &'a [u32],
    states: &'a mut Named,
}

impl Frame<'_> {
    fn evaluate(&mut self, stage: Stage) -> Result<(), ReferenceError> {
        let graph = self.graph;
        for node in graph.nodes.iter().filter(|node| node.stage == stage) {
            for (&id, mut array) in node.outputs.iter().zip(self.apply(node)?) {
                self.mark_dead(id, &mut array);
                self.values[id.index()] = Some(Rc::new(array));
            }
        }
        Ok(())
    }

    /// The live range of dimension `dim` of a value.
    fn live(&self, id: ValueId, dim: usize) -> std::ops::Range<usize> {
        let dim = self.graph.shape(id).0[dim];
        match dim.extent {
            Some(extent) => self.graph.extents[extent.0 as usize].range(self.slots),
            None => 0..dim.size,
        }
    }

    fn mark_dead(&self, id: ValueId, array: &mut Array) {
        for (i, dim) in self.graph.shape(id).0.iter().enumerate() {
            if dim.extent.is_some() {
                restrict(array, i, self.live(id, i));
            }
        }
    }

    fn slot(&self, slot: Slot) -> usize {
        self.slots[slot.0 as usize] as usize
    }

    /// An operand. A state is memory: it is read as it stands now.
    fn operand(&self, id: ValueId) -> Rc<Array> {
        let value = self.graph.value(id);
        if matches!(self.graph.producer(id).op, Op::State) {
            let unset = || Array::filled(&value.shape.sizes(), f64::NAN);
            let mut array = self.states.get(&value.name).cloned().unwrap_or_else(unset);
            self.mark_dead(id, &mut array);
            return Rc::new(array);
        }
        // Nodes stand in order and stages only grow, so an operand has been computed.
        self.values[id.index()].clone().expect("operands come before their users")
    }

    fn given(&self, id: ValueId) -> Result<Array, ReferenceError> {
        let value = self.graph.value(id);
        let (graph, name, what) = (self.graph.name.clone(), value.name.clone(), "input");
        let expected = value.shape.sizes();
        match self.inputs.get(&value.name) {
            None => Err(ReferenceError::Missing { graph, what, name }),
            Some(array) if array.shape != expected => {
                let found = format!("shape {:?}", array.shape);
                Err(ReferenceError::Shape { graph, what, name, found, expected })
            }
            Some(array) => Ok(array.clone()),
        }
    }

    fn out_of_range(&self, node: &Node, rows: usize) -> ReferenceError {
        ReferenceError::Range {
            graph: self.graph.name.clone(),
            scope: node.scope.clone(),
            op: node.op.name(),
            rows,
        }
    }

    fn apply(&mut self, node: &Node) -> Result<Vec<Array>, ReferenceError> {
        let xs: Vec<Rc<Array>> = node.inputs.iter().map(|&id| self.operand(id)).collect();
        let refs: Vec<&Array> = xs.iter().map(|x| &**x).collect();
        let shape = node.outputs.first().map(|&id| self.graph.shape(id).sizes()).unwrap_or_default();
        let one = match &node.op {
            Op::Input => self.given(node.outputs[0])?,
            Op::Constant(data) => Array::from_f32(&shape, data),
            // A weight was read before anything ran; a state is read at its users.
            Op::Weight | Op::State => return Ok(vec![]),
            Op::Reshape => Array { shape, data: refs[0].data.clone() },
            Op::Slice { dim, start } => slice(refs[0], *dim, *start, shape[*dim]),
            Op::Pick { dim, slot } => {
                let (rows, index) = (refs[0].shape[*dim], self.slot(*slot));
                if index >= rows {
                    return Err(self.out_of_range(node, rows));
                }
                pick(refs[0], *dim, index)
            }
            Op::Permute(perm) => permute(refs[0], perm),
            Op::Restrict => refs[0].clone(),
            Op::Concat { dim } => concat(&refs, *dim),
            Op::Linear { bias } => linear(refs[0], refs[1], bias.then(|| refs[2])),
            Op::Conv2d { stride, padding, bias } => {
                conv2d(refs[0], refs[1], bias.then(|| refs[2]), *stride, *padding)
            }
            Op::Upsample2x => upsample2x(refs[0]),
            Op::Norm { kind, eps, weight, bias } => {
                let mut rest = refs[1..].iter().copied();
                let weight = weight.then(|| rest.next()).flatten();
                let bias = bias.then(|| rest.next()).flatten();
                norm(refs[0], *kind, f64::from(*eps), weight, bias)
            }
            Op::GroupNorm { groups, eps } => group_norm(refs[0], *groups, f64::from(*eps), refs[1], refs[2]),
            Op::Modulate => modulate(refs[0], refs[1], refs[2], &shape),
            Op::Unary(activation) => unary(refs[0], *activation),
            Op::Binary(op) => binary(refs[0], refs[1], *op, &shape),
            Op::Attention { heads, kv_heads, scale, mask } => {
                let segments: Vec<Segment<'_>> = (1..refs.len())
                    .step_by(2)
                    .map(|i| Segment { k: refs[i], v: refs[i + 1], live: self.live(node.inputs[i], 1) })
                    .collect();
                let causal = match mask {
                    Mask::None => None,
                    Mask::Causal { offset } => Some(offset.map_or(0, |slot| self.slot(slot))),
                };
                attention(refs[0], &segments, *heads, *kv_heads, f64::from(*scale), causal, shape[0])
            }
            Op::CachedAttention { heads, kv_heads, scale, window } => {
                let (caches, places) = ((refs[1], refs[2]), (refs[3], refs[4]));
                cached_attention(refs[0], caches, places, (*heads, *kv_heads), f64::from(*scale), *window)
                    .ok_or_else(|| self.out_of_range(node, refs[1].shape[1]))?
            }
            Op::CacheAppend => {
                let state = self.graph.value(node.inputs[0]);
                let unset = || Array::filled(&state.shape.sizes(), f64::NAN);
                let memory = self.states.entry(state.name.clone()).or_insert_with(unset);
                let rows = memory.shape[1];
                match cache_append(memory, refs[1], refs[2], refs[3]) {
                    Some(()) => return Ok(vec![]),
                    None => return Err(self.out_of_range(node, rows)),
                }
            }
            Op::Rope { heads, style, offset } => {
                rope(refs[0], refs[1], *heads, *style, offset.map_or(0, |slot| self.slot(slot)))
            }
            Op::Embed => embed(refs[0], refs[1]).ok_or_else(|| self.out_of_range(node, refs[0].shape[0]))?,
            Op::TimestepEmbed { sin_first } => timestep_embed(refs[0], refs[1], *sin_first),
            Op::Codebook => return Ok(codebook(refs[0], refs[1]).into()),
            Op::Combine => combine(refs[0], &refs[1..]),
            Op::Assign { at } => {
                self.assign(node, *at, refs[1])?;
                return Ok(vec![]);
            }
        };
        Ok(vec![one])
    }

    /// Writes the live elements of `value` into the state; the rest of the state stays.
    fn assign(
        &mut self,
        node: &Node,
        at: Option<(usize, Slot)>,
        value: &Array,
    ) -> Result<(), ReferenceError> {
        let (state, id) = (self.graph.value(node.inputs[0]), node.inputs[1]);
        let sizes = state.shape.sizes();
        let mut start = vec![0; sizes.len()];
        if let Some((dim, slot)) = at {
            start[dim] = self.slot(slot);
        }
        let live: Vec<_> = (0..sizes.len()).map(|dim| self.live(id, dim)).collect();
        for dim in 0..sizes.len() {
            if !live[dim].is_empty() && start[dim] + live[dim].end > sizes[dim] {
                return Err(self.out_of_range(node, sizes[dim]));
            }
        }
        let unset = || Array::filled(&sizes, f64::NAN);
        let memory = self.states.entry(state.name.clone()).or_insert_with(unset);
        let (from, to) = (value.strides(), memory.strides());
        for (i, &v) in value.data.iter().enumerate() {
            let index = |dim: usize| i / from[dim] % value.shape[dim];
            if (0..sizes.len()).all(|dim| live[dim].contains(&index(dim))) {
                let offset: usize = (0..sizes.len()).map(|dim| (start[dim] + index(dim)) * to[dim]).sum();
                memory.data[offset] = v;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selftok_graph::{Builder, DType};

    fn named(values: &[(&str, Array)]) -> Named {
        values.iter().map(|(name, array)| (name.to_string(), array.clone())).collect()
    }

    fn slots(values: &[(&str, u32)]) -> Slots {
        values.iter().map(|&(name, value)| (name.to_string(), value)).collect()
    }

    #[test]
    fn rows_outside_the_live_range_are_nan_and_attention_passes_them_over() {
        let g = Builder::new("live");
        let rows = g.between("rows", 4, Stage::Step);
        let x = g.input("x", [1, 4, 2], DType::F32, Stage::Request);
        let y = x.restrict(1, rows);
        g.output("kept", y);
        g.output("mean", x.slice(1, 0, 1).attention(&[(y, y)], 1, 1, Mask::None));
        let graph = g.finish().unwrap();
        let x = Array::new(&[1, 4, 2], vec![0., 0., 2., 1., 4., 3., 9., 9.]);
        let inputs = named(&[("x", x)]);
        let out =
            run(&graph, &|_| None, &inputs, &slots(&[("rows.lo", 1), ("rows.hi", 3)]), &mut Named::new());
        let out = out.unwrap();
        let kept: Vec<f64> = out["kept"].data.iter().copied().filter(|v| !v.is_nan()).collect();
        assert_eq!(kept, [2., 1., 4., 3.]);
        assert_eq!(out["mean"].data, [3., 2.]);
    }

    #[test]
    fn a_state_outlives_its_run_and_is_read_as_it_stands() {
        let g = Builder::new("counter");
        let rows = g.up_to("rows", 2, Stage::Step);
        let memory = g.state("memory", [4]);
        let x = g.input("x", [rows], DType::F32, Stage::Step);
        memory.assign(x, Some((0, g.slot("at"))));
        g.output("all", memory + g.constant([1], vec![1.0]));
        let graph = g.finish().unwrap();
        let interpreter = Interpreter::new(&graph, &|_| None).unwrap();
        let mut states = named(&[("memory", Array::filled(&[4], 0.0))]);
        let mut step = |x: [f64; 2], rows, at| {
            let inputs = named(&[("x", Array::new(&[2], x.to_vec()))]);
            let out = interpreter.run(&inputs, &slots(&[("rows", rows), ("at", at)]), &mut states);
            out.map(|out| out.output("all").unwrap().data.clone())
        };
        assert_eq!(step([5., 6.], 2, 0).unwrap(), [6., 7., 1., 1.]);
        assert_eq!(step([8., f64::NAN], 1, 3).unwrap(), [6., 7., 1., 9.]);
        assert!(matches!(step([8., 8.], 2, 3), Err(ReferenceError::Range { op: "assign", rows: 4, .. })));
    }

    #[test]
    fn what_was_not_given_is_named() {
        let g = Builder::new("gaps");
        let x = g.input("x", [2], DType::F32, Stage::Request);
        g.output("y", x + g.weight("bias", [2]));
        let graph = g.finish().unwrap();
        let error = |weights: &Weights<'_>, inputs: &Named| {
            run(&graph, weights, inputs, &Slots::new(), &mut Named::new()).unwrap_err().to_string()
        };
        let bias = |_: &str| Some(vec![1.0, 2.0]);
        assert_eq!(error(&|_| None, &Named::new()), "gaps: no weight 'bias' was given");
        assert_eq!(error(&bias, &Named::new()), "gaps: no input 'x' was given");
        let wide = named(&[("x", Array::filled(&[3], 0.0))]);
        assert_eq!(error(&bias, &wide), "gaps: input 'x' has shape [3], the graph wants [2]");
    }

    #[test]
    fn the_request_stage_runs_once_and_the_step_stage_at_every_row() {
        let g = Builder::new("loop");
        let (x, table) = (g.state("x", [1]), g.input("table", [3, 1], DType::F32, Stage::Request));
        let next = x + table.pick(0, g.slot("step"), Stage::Step);
        x.assign(next, None);
        g.output("x", next);
        let graph = g.finish().unwrap();
        let inputs = named(&[("table", Array::new(&[3, 1], vec![1., 10., 100.]))]);
        let mut states = named(&[("x", Array::filled(&[1], 0.5))]);
        let table: Vec<Slots> = (0..3).map(|i| slots(&[("step", i)])).collect();
        let mut seen = vec![];
        let interpreter = Interpreter::new(&graph, &|_| None).unwrap();
        let each = &mut |i, e: &Evaluation<'_>| seen.push((i, e.output("x").unwrap().data[0]));
        interpreter.repeat(&inputs, &table, &mut states, each).unwrap();
        assert_eq!(seen, [(0, 1.5), (1, 11.5), (2, 111.5)]);
        assert_eq!(states["x"].data, [111.5]);
    }
}
