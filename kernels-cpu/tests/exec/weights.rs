//! Forms of weights: packed, read in the map, copied; on every instruction set of this machine.

use crate::support::{agree, device, noises, weight};
use half::{bf16, f16};
use selftok_graph::*;
use selftok_kernels_cpu::Isa;
use selftok_kernels_cpu::exec::*;
use selftok_kernels_cpu::gemm::RowsDType;
use std::sync::Arc;
use std::sync::Mutex;

#[test]
fn every_instruction_set_computes_the_same_network() {
    let g = Builder::new("all");
    let rows = g.up_to("rows", 9, Stage::Step);
    let x = g.input("x", [2.into(), rows, 24.into()], DType::F32, Stage::Step);
    let [q, k, v] = x.layer_norm("norm", 1e-6).linear("qkv", 72).split();
    let y = x + q.attention(&[(k, v)], 2, 2, Mask::None).linear("proj", 24).act(Activation::GeluErf);
    g.output("y", y);
    let picture = g.input("picture", [1, 6, 5, 7], DType::F32, Stage::Step);
    g.output("features", picture.conv2d("conv", 10, 3, 2, [1; 4]).group_norm("group", 2, 1e-6));
    let graph = g.finish().unwrap();
    for isa in Isa::available() {
        for compute in [ComputeType::F32, ComputeType::Bf16] {
            let options = CpuOptions { threads: 2, isa: Some(isa), compute, ..CpuOptions::default() };
            let tolerance = if compute == ComputeType::F32 { 2e-5 } else { 3e-2 };
            agree(&graph, &CpuDevice::new(options).unwrap(), &[&[("rows", 7)]], 1, tolerance);
        }
    }
}

/// Tensors as a file maps them, at odd addresses, and a record of what was read as f32 and released.
struct Map {
    dtype: RowsDType,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
    read: Mutex<Vec<String>>,
    released: Mutex<Vec<String>>,
}

impl Map {
    fn new(graph: &Graph, dtype: RowsDType) -> Map {
        let tensors = graph.weights().map(|(_, value)| {
            let mut bytes = vec![0; usize::from(dtype != RowsDType::F32)];
            for x in weight(&value.name, &value.shape.sizes()) {
                match dtype {
                    RowsDType::F32 => bytes.extend(x.to_le_bytes()),
                    RowsDType::Bf16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
                    RowsDType::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                }
            }
            (value.name.clone(), value.shape.sizes(), bytes)
        });
        Map { dtype, tensors: tensors.collect(), read: Mutex::default(), released: Mutex::default() }
    }

    fn find(&self, name: &str) -> Option<(&Vec<usize>, &[u8])> {
        let found = self.tensors.iter().find(|(n, _, _)| n == name);
        found.map(|(_, shape, bytes)| (shape, &bytes[usize::from(self.dtype != RowsDType::F32)..]))
    }
}

impl WeightSource for Map {
    fn label(&self) -> String {
        "map".into()
    }
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.find(name).map(|(shape, _)| shape.clone())
    }
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError> {
        let (_, bytes) = self.find(name).ok_or("no such tensor")?;
        self.read.lock().unwrap().push(name.into());
        for (i, out) in out.iter_mut().enumerate() {
            let at = (start + i) * self.dtype.bytes();
            *out = match self.dtype {
                RowsDType::F32 => f32::from_le_bytes(bytes[at..at + 4].try_into()?),
                RowsDType::Bf16 => bf16::from_le_bytes(bytes[at..at + 2].try_into()?).to_f32(),
                RowsDType::F16 => f16::from_le_bytes(bytes[at..at + 2].try_into()?).to_f32(),
            };
        }
        Ok(())
    }
    fn mapped(&self, name: &str) -> Option<Mapped<'_>> {
        self.find(name).map(|(_, bytes)| Mapped { dtype: self.dtype, bytes })
    }
    fn release(&self, name: &str) {
        self.released.lock().unwrap().push(name.into());
    }
}

/// A matrix for each stage: `bind` of a table, `request` once a run, `step` at every step.
fn staged() -> Graph {
    let g = Builder::new("staged");
    let step = g.slot("step");
    let table = g.weight("table", [5, 16]).linear_no_bias("bind", 24);
    let t = g.input("t", [5, 24], DType::F32, Stage::Request);
    let c = (t + table).linear_no_bias("request", 32).pick(0, step, Stage::Step);
    let x = g.input("x", [3, 32], DType::F32, Stage::Step);
    g.output("y", (x + c).linear_no_bias("step", 8));
    g.finish().unwrap()
}

#[test]
fn a_weight_of_the_request_stays_in_the_map_and_one_of_bind_is_let_go() {
    let graph = staged();
    let run = |compute, dtype| {
        let device = device(2).with_compute(compute);
        let plan = compile(&graph.clone().into(), &device.target()).unwrap();
        let stage = |name: &str| plan.weights.iter().find(|w| w.name == name).unwrap().last_stage;
        assert_eq!(
            ["bind.weight", "request.weight", "step.weight"].map(stage),
            [Stage::Bind, Stage::Request, Stage::Step]
        );
        let map = Arc::new(Map::new(&graph, dtype));
        let executable = Executable::bind(plan, Arc::clone(&map) as Arc<dyn WeightSource>, &device).unwrap();
        let (t, x) = (noises("t", 120), noises("x", 96));
        let ports = executable.plan().entries[0].inputs.iter().map(|port| port.name.as_str());
        let inputs: Vec<_> =
            ports.map(|name| Input::F32(if name == "t" { &t } else { &x })).enumerate().collect();
        let mut y = vec![0.0; 24];
        let mut session = executable.session();
        session.run(0, &[3], 1, inputs, [(0, Output::F32(&mut y))], RunOptions::default()).unwrap();
        let read = map.read.lock().unwrap().clone();
        let released = map.released.lock().unwrap().clone();
        (y, read, released, executable.footprint().weights)
    };
    let (want, read, released, bytes) = run(ComputeType::F32, RowsDType::F32);
    assert!(!read.contains(&"request.weight".into()), "{read:?}");
    assert!(
        released.contains(&"bind.weight".into()) && released.contains(&"step.weight".into()),
        "{released:?}"
    );
    // What is held is the packed matrix of the step, columns padded to a panel.
    assert!((8 * 32 * 4..=64 * 32 * 4).contains(&bytes), "{bytes}");
    for (compute, dtype, tolerance) in [
        (ComputeType::F32, RowsDType::F16, 5e-3),
        (ComputeType::F32, RowsDType::Bf16, 3e-2),
        (ComputeType::Bf16, RowsDType::Bf16, 5e-2),
        (ComputeType::Bf16, RowsDType::F32, 5e-2),
    ] {
        let (found, read, _, held) = run(compute, dtype);
        // In f32, products take no bf16 matrix in place: that would round the activations.
        let copied = read.contains(&"request.weight".into());
        assert_eq!(copied, (compute, dtype) == (ComputeType::F32, RowsDType::Bf16));
        // What is packed keeps the file's sixteen bits, whatever it is multiplied in.
        let request = if copied { 32 * 24 * 4 } else { 0 };
        assert_eq!(held, bytes / 2 + request, "{compute:?} {dtype:?}");
        for (found, want) in found.iter().zip(&want) {
            assert!((found - want).abs() <= tolerance, "{compute:?} {dtype:?}: {found}, expected {want}");
        }
    }
}

/// A source whose executables share what they pack, and a count of the reads.
struct Shared(Map, Packings);

impl WeightSource for Shared {
    fn label(&self) -> String {
        self.0.label()
    }
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError> {
        self.0.read_f32(name, start, out)
    }
    fn packings(&self) -> Option<&Packings> {
        Some(&self.1)
    }
}

#[test]
fn plans_of_one_source_share_what_they_pack_as_long_as_one_is_there() {
    let graph = |rows: usize| {
        let g = Builder::new("net");
        let x = g.input("x", [rows, 64], DType::F32, Stage::Step);
        g.output("y", x.linear_no_bias("fc", 64));
        g.finish().unwrap()
    };
    let source = Arc::new(Shared(Map::new(&graph(1), RowsDType::F32), Packings::default()));
    let device = device(1);
    let bind = |rows, device: &CpuDevice| {
        let plan = compile(&graph(rows).into(), &device.target()).unwrap();
        Executable::bind(plan, Arc::clone(&source) as Arc<dyn WeightSource>, device).unwrap()
    };
    let reads = || source.0.read.lock().unwrap().len();
    let first = bind(1, &device);
    let once = reads();
    let second = bind(9, &device);
    assert_eq!(reads(), once, "the second plan packs nothing");
    assert_eq!(first.footprint().weights, second.footprint().weights);
    let run = |executable: &Executable, rows: usize| {
        let (x, mut y) = (noises("x", 64 * 9), vec![0.0; 64 * rows]);
        let (inputs, outputs) = ([(0, Input::F32(&x[..64 * rows]))], [(0, Output::F32(&mut y))]);
        executable.session().run(0, &[], 1, inputs, outputs, RunOptions::default()).unwrap();
        y
    };
    assert_eq!(run(&first, 1), run(&second, 9)[..64]);
    // Another form of the weight is another packing, and one that nobody holds is made anew.
    bind(1, &device.with_compute(ComputeType::Bf16));
    assert!(reads() > once);
    let before = reads();
    drop((first, second));
    bind(1, &device);
    assert!(reads() > before);
}

#[test]
fn one_packed_copy_serves_all_entries() {
    let entry = |name: &str| {
        let g = Builder::new(name);
        let x = g.input("x", [4, 64], DType::F32, Stage::Step);
        g.output("y", x.linear_no_bias("fc", 64));
        g.finish().unwrap()
    };
    let bytes = |entries| {
        let program = Program::new("p", entries).unwrap();
        crate::support::executable(&program, &device(1)).footprint().weights
    };
    assert_eq!(bytes(vec![entry("a")]), bytes(vec![entry("a"), entry("b")]));
}
