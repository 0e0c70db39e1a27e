//! The compiler: fold · fuse · lower · schedule · place.
//!
//! Each pass is a pure function over plain data, and each can be turned off by name
//! ([`Target::off`]) for finding faults: `fold`, `fuse.linear`, `fuse.norm`, `fuse.conv`, `fuse.map`,
//! `bind.share`, `place.concat`, `place.direct`, `place.inplace`, `place.reuse`, `schedule`.

mod fold;
mod fuse;
mod layout;
mod lower;
mod place;
mod schedule;
mod share;

use crate::{GraphError, Kernel, Operand, Plan, Program, Stage, StateRef, Step, Target};
use lower::{Lowered, RootKind, View};
use std::collections::HashMap;

/// Why a program cannot be compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// The program itself is wrong.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Two entries give one extent two meanings.
    #[error("program '{program}': extent '{name}' differs between entries")]
    Extent {
        /// Program.
        program: String,
        /// Extent.
        name: String,
    },
    /// An operand has a layout that its kernel cannot read, and copying does not help.
    #[error("entry '{entry}', {scope}: {kernel} cannot take operand '{operand}' of sizes {sizes:?}")]
    Layout {
        /// Entry.
        entry: String,
        /// Place in the model.
        scope: String,
        /// Kernel.
        kernel: &'static str,
        /// Role of the operand.
        operand: &'static str,
        /// Its sizes.
        sizes: Vec<usize>,
    },
}

/// Compiles a program for a target.
pub fn compile(program: &Program, target: &Target) -> Result<Plan, CompileError> {
    let mut names = Names::default();
    let mut lowered = Vec::with_capacity(program.entries.len());
    for graph in &program.entries {
        let stages = fold::stages(graph, target);
        let fused = fuse::fuse(graph, &stages, target);
        let mut entry = lower::lower(graph, &stages, fused, target)?;
        names.join(program, graph, &mut entry)?;
        lowered.push(entry);
    }
    let bind = share::share_bind(&mut lowered, target);
    for entry in &mut lowered {
        schedule::schedule(entry, target);
    }
    Ok(assemble(program, target, names, bind, lowered))
}

/// Slots, extents, weights and states of the whole program, joined by name.
#[derive(Default)]
struct Names {
    slots: Vec<String>,
    extents: Vec<crate::Extent>,
    weights: Vec<crate::WeightRef>,
    states: Vec<StateRef>,
    state_elements: usize,
}

impl Names {
    /// Rewrites an entry's slot and extent numbers, and weight and state roots, to the program's.
    fn join(
        &mut self,
        program: &Program,
        graph: &crate::Graph,
        entry: &mut Lowered,
    ) -> Result<(), CompileError> {
        let slots: Vec<u32> = graph
            .slots
            .iter()
            .map(|name| match self.slots.iter().position(|slot| slot == name) {
                Some(index) => index as u32,
                None => {
                    self.slots.push(name.clone());
                    self.slots.len() as u32 - 1
                }
            })
            .collect();
        let slot = |s: crate::Slot| crate::Slot(slots[s.0 as usize]);
        let mut extents = Vec::new();
        for extent in &graph.extents {
            let mut extent = extent.clone();
            (extent.lo, extent.hi) = (extent.lo.map(slot), slot(extent.hi));
            // One name may have another maximum in another entry (a batch, say): that is another extent.
            let known = self.extents.iter().position(|e| e.name == extent.name && e.max == extent.max);
            let index = match known {
                Some(index) if self.extents[index] != extent => {
                    return Err(CompileError::Extent { program: program.name.clone(), name: extent.name });
                }
                Some(index) => index,
                None => {
                    self.extents.push(extent);
                    self.extents.len() - 1
                }
            };
            extents.push(crate::ExtentId(index as u32));
        }
        let view = |view: &View| {
            let mut view = view.clone();
            for axis in &mut view.axes {
                axis.extent = axis.extent.map(|e| extents[e.0 as usize]);
            }
            for (s, _) in &mut view.picks {
                *s = slot(*s);
            }
            view
        };
        for step in &mut entry.kernels {
            let Ok(mut kernel) = step.kernel.map(|v, _, _| Ok::<_, std::convert::Infallible>(view(v)));
            match &mut kernel {
                Kernel::Attention { mask: crate::Mask::Causal { offset: Some(s) }, .. }
                | Kernel::Rope { offset: Some(s), .. } => *s = slot(*s),
                _ => {}
            }
            step.kernel = kernel;
        }
        for port in entry.inputs.iter_mut().chain(&mut entry.outputs) {
            for axis in &mut port.axes {
                axis.extent = axis.extent.map(|e| extents[e.0 as usize]);
            }
        }
        // In an entry without steps the request is the whole work, and its weights are worth packing.
        let has_steps = entry.kernels.iter().any(|step| step.stage == Stage::Step);
        let mut last_stage: HashMap<usize, Stage> = HashMap::new();
        for step in &entry.kernels {
            let used = match step.stage {
                Stage::Request if !has_steps => Stage::Step,
                stage => stage,
            };
            for (view, _, _) in step.kernel.operands() {
                let stage = last_stage.entry(view.root).or_insert(Stage::Bind);
                *stage = (*stage).max(used);
            }
        }
        for (index, root) in entry.roots.iter_mut().enumerate() {
            let stage = last_stage.get(&index).copied().unwrap_or(Stage::Bind);
            match &mut root.kind {
                RootKind::Weight { name, shape, index } => {
                    if !last_stage.contains_key(&root.id) {
                        continue;
                    }
                    let known = self.weights.iter().position(|w| w.name == *name);
                    *index = known.unwrap_or_else(|| {
                        let (name, shape) = (name.clone(), shape.clone());
                        self.weights.push(crate::WeightRef { name, shape, last_stage: stage });
                        self.weights.len() - 1
                    });
                    let weight = &mut self.weights[*index];
                    weight.last_stage = weight.last_stage.max(stage);
                }
                RootKind::State { name, shape, offset } => {
                    let known = self.states.iter().find(|s| s.name == *name).map(|s| s.offset);
                    *offset = known.unwrap_or_else(|| {
                        let offset = self.state_elements;
                        self.states.push(StateRef { name: name.clone(), shape: shape.clone(), offset });
                        let elements: usize = shape.iter().product();
                        self.state_elements += elements.next_multiple_of(16);
                        offset
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn assemble(
    program: &Program,
    target: &Target,
    names: Names,
    bind: share::Bind,
    lowered: Vec<Lowered>,
) -> Plan {
    let placed_bind = place::place_bind(&bind, target);
    let mut plan = Plan {
        name: program.name.clone(),
        target: target.name.clone(),
        slots: names.slots,
        extents: names.extents,
        weights: names.weights,
        literals: placed_bind.literals,
        bind: placed_bind.steps,
        bind_scratch_bytes: placed_bind.scratch_bytes,
        constant_bytes: placed_bind.constant_bytes,
        states: names.states,
        state_bytes: names.state_elements * 4,
        request_bytes: 0,
        scratch_bytes: 0,
        workspace_bytes: 0,
        entries: vec![],
    };
    for entry in lowered {
        plan.entries.push(place::place_entry(entry, &placed_bind.constants, target));
    }
    for entry in &plan.entries {
        plan.request_bytes = plan.request_bytes.max(entry.request_bytes);
        plan.scratch_bytes = plan.scratch_bytes.max(entry.scratch_bytes);
    }
    let steps = plan.entries.iter().flat_map(|entry| entry.request.iter().chain(&entry.step));
    plan.workspace_bytes = steps.map(|step| (target.workspace)(step)).max().unwrap_or(0);
    plan
}

/// Turns a kernel over views into a plan's step.
fn finish_step(step: &lower::LoweredStep, mut operand: impl FnMut(&View) -> Operand) -> Step {
    let Ok(kernel) = step.kernel.map(|view, _, _| Ok::<_, std::convert::Infallible>(operand(view)));
    let (flop, bytes) = cost(&kernel);
    Step { kernel, scope: step.scope.clone(), flop, bytes }
}

/// Floating-point operations (a multiply-add counts two) and bytes touched, at maximum extents.
fn cost(kernel: &Kernel<Operand>) -> (u64, u64) {
    let numel = |o: &Operand| o.sizes().iter().product::<usize>() as u64;
    let bytes = kernel
        .operands()
        .iter()
        .map(|(o, _, _)| {
            let distinct = o.axes.iter().filter(|a| a.stride != 0).map(|a| a.size as u64).product::<u64>();
            distinct * o.dtype.size() as u64
        })
        .sum();
    let out = numel(kernel.result());
    let flop = match kernel {
        Kernel::Linear { x, .. } => 2 * out * x.sizes().last().copied().unwrap_or(1) as u64,
        Kernel::Conv2d { weight, .. } => 2 * out * weight.sizes()[1..].iter().product::<usize>() as u64,
        Kernel::Attention { q, segments, kv_heads, heads, out: o, .. } => {
            let keys: usize = segments.iter().map(|(k, _)| k.sizes()[1]).sum();
            let _ = (q, kv_heads, heads);
            4 * numel(o) * keys as u64
        }
        Kernel::CachedAttention { q, k, .. } => 4 * numel(q) * k.sizes()[1] as u64,
        Kernel::Codebook { x, codes, .. } => 2 * numel(x) * codes.sizes()[0] as u64,
        Kernel::Norm { .. } | Kernel::GroupNorm { .. } => 8 * out,
        Kernel::Combine { xs, .. } => 2 * xs.len() as u64 * out,
        Kernel::Rope { .. } => 3 * out,
        Kernel::Modulate { .. } => 2 * out,
        Kernel::Map { .. } => out,
        Kernel::TimestepEmbed { .. }
        | Kernel::CacheAppend { .. }
        | Kernel::Embed { .. }
        | Kernel::Copy { .. }
        | Kernel::Upsample2x { .. } => 0,
    };
    (flop, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Builder, DType, Mask, NormKind, Place, Tensor};

    /// Two streams with joint attention over a live range, a folded table, and a state that is updated.
    fn sampler() -> crate::Graph {
        let g = Builder::new("sampler");
        let batch = g.up_to("batch", 2, Stage::Request);
        let live = g.between("visible", 6, Stage::Step);
        let step = g.slot("step");
        let x = g.state("x", [batch, 4.into(), 8.into()]);
        let t = g.input("t", [10], DType::F32, Stage::Request);
        let tokens = g.input("tokens", [batch, 6.into(), 8.into()], DType::F32, Stage::Request);
        let freqs = g.constant([4], vec![1.0, 0.5, 0.25, 0.125]);
        let c = t.timestep_embed(freqs, false).linear("t_embedder", 8).act(Activation::Silu);
        let [shift, scale] = c.linear("ada", 16).pick(0, step, Stage::Step).split();
        let table = g.weight("pos", [6, 8]).linear("table", 8);
        let ctx = (tokens + table).restrict(1, live);
        fn heads<'g>(h: Tensor<'g>, name: &str) -> [Tensor<'g>; 3] {
            h.linear(name, 24).split()
        }
        let [q, k, v] = heads(x.norm(NormKind::Layer, 1e-6).modulate(shift, scale), "qkv");
        let [_, ck, cv] = heads(ctx, "ctx_qkv");
        let a = q.attention(&[(ck, cv), (k, v)], 2, 2, Mask::None);
        let y = x + a.linear("proj", 8);
        let coeffs = g.input("coeffs", [10, 2], DType::F32, Stage::Request).pick(0, step, Stage::Step);
        let next = coeffs.combine(&[x, y]);
        x.assign(next, None);
        g.output("latent", next);
        g.finish().unwrap()
    }

    #[test]
    fn each_value_is_computed_at_its_stage_and_the_state_is_updated_in_place() {
        let plan = compile(&sampler().into(), &Target::generic()).unwrap();
        let names = |steps: &[Step]| steps.iter().map(|s| s.kernel.name()).collect::<Vec<_>>();
        assert_eq!(names(&plan.bind), ["linear"]);
        let entry = &plan.entries[0];
        assert_eq!(names(&entry.request), ["timestep_embed", "linear", "linear", "map"]);
        let step = names(&entry.step);
        assert_eq!(step.iter().filter(|n| **n == "attention").count(), 1);
        let combine = entry.step.iter().find(|s| s.kernel.name() == "combine").unwrap();
        let Kernel::Combine { out, .. } = &combine.kernel else { panic!() };
        assert!(matches!(out.place, Place::State | Place::Output(0)));
        let weights: Vec<_> = plan.weights.iter().filter(|w| w.last_stage == Stage::Bind).collect();
        assert!(weights.iter().any(|w| w.name == "table.weight"));
    }

    #[test]
    fn any_pass_may_be_off_and_folding_off_moves_work_to_the_step() {
        for pass in ["fold", "fuse", "place", "schedule", "bind.share"] {
            let target = Target { off: vec![pass.into()], ..Target::generic() };
            let plan = compile(&sampler().into(), &target).unwrap();
            if pass == "fold" {
                assert!(plan.bind.is_empty() && plan.entries[0].request.is_empty());
            }
        }
    }

    #[test]
    fn entries_share_what_depends_on_weights_alone() {
        let (mut a, mut b) = (sampler(), sampler());
        (a.name, b.name) = ("a".into(), "b".into());
        let program = Program::new("two", vec![a, b]).unwrap();
        let plan = compile(&program, &Target::generic()).unwrap();
        assert_eq!((plan.bind.len(), plan.entries.len()), (1, 2));
        let off = Target { off: vec!["bind.share".into()], ..Target::generic() };
        assert_eq!(compile(&program, &off).unwrap().bind.len(), 2);
    }

    #[test]
    fn a_concatenation_is_written_by_its_producers() {
        let g = Builder::new("concat");
        let x = g.input("x", [2, 4, 4, 8], DType::F32, Stage::Request);
        let (a, b) = (x.conv2d("a", 8, 3, 1, [1; 4]), x.conv2d("b", 16, 3, 1, [1; 4]));
        g.output("y", a.concat(3, &[b]).conv2d("c", 8, 1, 1, [0; 4]));
        let graph = g.finish().unwrap();
        let count = |off: &[&str]| {
            let off = off.iter().map(|s| s.to_string()).collect();
            let plan = compile(&graph.clone().into(), &Target { off, ..Target::generic() }).unwrap();
            plan.entries[0].request.iter().filter(|s| s.kernel.name() == "copy").count()
        };
        assert_eq!((count(&[]), count(&["place.concat"])), (0, 2));
    }

    #[test]
    fn scratch_in_use_at_once_never_overlaps() {
        let plan = compile(&sampler().into(), &Target::generic()).unwrap();
        let buffers: Vec<_> = plan.entries[0].buffers.iter().filter(|b| b.place == Place::Scratch).collect();
        for (i, a) in buffers.iter().enumerate() {
            for b in &buffers[i + 1..] {
                let meet = a.live.0 < b.live.1 && b.live.0 < a.live.1;
                let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                assert!(!meet || apart, "{a:?} {b:?}");
            }
        }
        assert!(plan.entries[0].scratch_bytes >= plan.entries[0].scratch_lower_bound);
    }

    /// The entry of a graph compiled without some passes.
    fn entry(record: impl Fn(&Builder), off: &[&str]) -> crate::Entry {
        let g = Builder::new("test");
        record(&g);
        let off = off.iter().map(|s| s.to_string()).collect();
        let target = Target { off, ..Target::generic() };
        compile(&g.finish().unwrap().into(), &target).unwrap().entries.remove(0)
    }

    #[test]
    fn scheduling_ends_one_wide_value_before_it_begins_the_next() {
        let two_wide = |g: &Builder| {
            let x = g.input("x", [16, 8], DType::F32, Stage::Request);
            let (a, b) = (x.linear("a", 256), x.linear("b", 256));
            g.output("y", a.linear("c", 8));
            g.output("z", b.linear("d", 8));
        };
        let (on, off) = (entry(two_wide, &[]), entry(two_wide, &["schedule"]));
        assert!(on.scratch_bytes < off.scratch_bytes, "{} {}", on.scratch_bytes, off.scratch_bytes);
        assert!(off.scratch_bytes >= 2 * 16 * 256 * 4);
    }

    #[test]
    fn values_in_turn_share_bytes_and_a_last_reader_writes_in_place() {
        let chain = |g: &Builder| {
            let mut x = g.input("x", [4, 64], DType::F32, Stage::Request);
            for i in 0..4 {
                x = x.linear(&format!("fc{i}"), 64).norm(NormKind::Layer, 1e-6);
            }
            g.output("y", x);
        };
        let bytes = 4 * 64 * 4;
        assert_eq!(entry(chain, &[]).scratch_bytes, 2 * bytes);
        // Apart, inputs and results of the norms are still served by two buffers in turn.
        assert_eq!(entry(chain, &["place.inplace"]).scratch_bytes, 2 * bytes);
        // Where nothing is ever given back, each of the seven values has its own; the eighth is the output.
        assert_eq!(entry(chain, &["place.reuse"]).scratch_bytes, 7 * bytes);
    }

    #[test]
    fn a_residual_is_added_in_place() {
        let block = |g: &Builder| {
            let x = g.input("x", [4, 64], DType::F32, Stage::Request).linear("in", 64);
            let y = x + x.norm(NormKind::Layer, 1e-6).linear("fc", 64);
            g.output("y", y.linear("out", 64));
        };
        let bytes = 4 * 64 * 4;
        assert_eq!(entry(block, &[]).scratch_bytes, 2 * bytes);
        assert_eq!(entry(block, &["place.inplace"]).scratch_bytes, 3 * bytes);
    }

    #[test]
    fn an_output_is_written_by_its_producer() {
        let record = |g: &Builder| {
            g.output(
                "y",
                g.input("x", [4, 8], DType::F32, Stage::Request).linear("fc", 8).reshape([2, 2, 8]),
            );
        };
        let copies = |off: &[&str]| {
            entry(record, off).request.iter().filter(|step| step.kernel.name() == "copy").count()
        };
        assert_eq!((copies(&[]), copies(&["place.direct"])), (0, 1));
    }
}
