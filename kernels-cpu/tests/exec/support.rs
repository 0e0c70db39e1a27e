//! Runs one graph twice, compiled on the CPU and op by op in f64, and compares what is live.

use selftok_graph::{DType, Graph, Op, Program, compile};
use selftok_kernels_cpu::exec::*;
use selftok_kernels_cpu::reference::{Array, Interpreter, Named, Slots};
use std::sync::Arc;

/// Numbers that depend on a name and a position alone: uniform in -1..1.
pub fn noise(name: &str, index: usize) -> f32 {
    let mut x =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    x = x.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// `len` of them.
pub fn noises(name: &str, len: usize) -> Vec<f32> {
    (0..len).map(|i| noise(name, i)).collect()
}

/// Weights made of noise, scaled to keep products of a size.
pub struct NoiseWeights(pub Vec<(String, Vec<usize>)>);

impl NoiseWeights {
    pub fn of(program: &Program) -> NoiseWeights {
        let graphs = program.entries.iter();
        NoiseWeights(
            graphs
                .flat_map(|g| g.weights())
                .map(|(_, value)| (value.name.clone(), value.shape.sizes()))
                .collect(),
        )
    }
}

/// What is read of a weight.
pub fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let len: usize = shape.iter().product();
    let scale = 1.0 / (len as f32 / shape.first().copied().unwrap_or(1).max(1) as f32).sqrt();
    (0..len).map(|i| noise(name, i) * scale).collect()
}

impl WeightSource for NoiseWeights {
    fn label(&self) -> String {
        "noise".into()
    }
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone())
    }
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), SourceError> {
        let shape = self.shape(name).ok_or("no such weight")?;
        out.copy_from_slice(&weight(name, &shape)[start..start + out.len()]);
        Ok(())
    }
}

/// Compiles and binds.
pub fn executable(program: &Program, device: &CpuDevice) -> Executable {
    let plan = compile(program, &device.target()).expect("compiles");
    match Executable::bind(plan.clone(), Arc::new(NoiseWeights::of(program)), device) {
        Ok(executable) => executable,
        Err(error) => panic!("{error}\n{plan}"),
    }
}

/// A device of so many threads.
pub fn device(threads: usize) -> CpuDevice {
    CpuDevice::new(CpuOptions { threads, ..Default::default() }).expect("threads")
}

/// Inputs by name: noise, or ids below a limit for integers.
pub fn inputs(graph: &Graph, id_limit: usize) -> Vec<(String, DType, Vec<f32>)> {
    let values = graph.inputs().map(|(_, value)| {
        let data = noises(&value.name, value.shape.numel());
        let data = match value.dtype {
            DType::F32 => data,
            DType::I32 => data.iter().map(|x| ((x + 1.0) / 2.0 * id_limit as f32).floor()).collect(),
        };
        (value.name.clone(), value.dtype, data)
    });
    values.collect()
}

/// Runs every row of `table` on `device` in one call and in the reference, and compares all outputs and states where the
/// reference is not NaN. `tolerance` is relative to the largest element.
pub fn agree(graph: &Graph, device: &CpuDevice, table: &[&[(&str, u32)]], id_limit: usize, tolerance: f64) {
    let program = Program::from(graph.clone());
    let executable = executable(&program, device);
    let plan = executable.plan().clone();
    let entry = &plan.entries[0];
    let given = inputs(graph, id_limit);
    let mut session = executable.session();
    // States begin alike.
    let mut states = Named::new();
    for node in graph.nodes.iter().filter(|node| matches!(node.op, Op::State)) {
        let value = graph.value(node.outputs[0]);
        let data = noises(&value.name, value.shape.numel());
        session.write_state(&value.name, &data).expect("a state");
        states.insert(value.name.clone(), Array::from_f32(&value.shape.sizes(), &data));
    }
    let rows: Vec<Slots> = table
        .iter()
        .map(|row| row.iter().map(|(name, value)| (name.to_string(), *value)).collect())
        .collect();
    let slots: Vec<u32> = rows.iter().flat_map(|row| plan.slots.iter().map(|slot| row[slot])).collect();
    // Data, by port.
    let by_name = |name: &str| given.iter().find(|(n, _, _)| n == name).expect("an input");
    let ints: Vec<Vec<i32>> =
        entry.inputs.iter().map(|port| by_name(&port.name).2.iter().map(|x| *x as i32).collect()).collect();
    let ins: Vec<Input> = entry
        .inputs
        .iter()
        .zip(&ints)
        .map(|(port, ints)| match port.dtype {
            DType::F32 => Input::F32(&by_name(&port.name).2),
            DType::I32 => Input::I32(ints),
        })
        .collect();
    let len = |port: &selftok_graph::Port| port.axes.iter().map(|axis| axis.size).product::<usize>();
    let mut floats: Vec<Vec<f32>> = entry.outputs.iter().map(|port| vec![f32::NAN; len(port)]).collect();
    let mut ids: Vec<Vec<i32>> = entry.outputs.iter().map(|port| vec![i32::MIN; len(port)]).collect();
    let outs: Vec<Output> = entry
        .outputs
        .iter()
        .zip(floats.iter_mut().zip(&mut ids))
        .map(|(port, (floats, ids))| match port.dtype {
            DType::F32 => Output::F32(floats),
            DType::I32 => Output::I32(ids),
        })
        .collect();
    session
        .run(
            0,
            &slots,
            rows.len(),
            ins.into_iter().enumerate(),
            outs.into_iter().enumerate(),
            RunOptions::default(),
        )
        .unwrap_or_else(|error| panic!("{error}\n{plan}"));

    let weights = |name: &str| {
        let (_, value) = graph.weights().find(|(_, value)| value.name == name)?;
        Some(weight(name, &value.shape.sizes()))
    };
    let reference = Interpreter::new(graph, &weights).expect("weights");
    let named: Named = graph
        .inputs()
        .map(|(_, value)| {
            (value.name.clone(), Array::from_f32(&value.shape.sizes(), &by_name(&value.name).2))
        })
        .collect();
    let last = reference.repeat(&named, &rows, &mut states, &mut |_, _| ()).expect("reference");
    for ((port, floats), ids) in entry.outputs.iter().zip(&floats).zip(&ids) {
        let want = last.output(&port.name).expect("an output");
        let found: Vec<f64> = match port.dtype {
            DType::F32 => floats.iter().map(|x| f64::from(*x)).collect(),
            DType::I32 => ids.iter().map(|x| f64::from(*x)).collect(),
        };
        compare(&port.name, &found, &want.data, tolerance, &plan);
    }
    for (name, want) in &states {
        let mut found = vec![0.0; want.data.len()];
        session.read_state(name, &mut found).expect("a state");
        let found: Vec<f64> = found.into_iter().map(f64::from).collect();
        compare(name, &found, &want.data, tolerance, &plan);
    }
}

fn compare(name: &str, found: &[f64], want: &[f64], tolerance: f64, plan: &selftok_graph::Plan) {
    assert_eq!(found.len(), want.len(), "{name}");
    let scale = want.iter().filter(|x| !x.is_nan()).fold(1e-6, |m: f64, x| m.max(x.abs()));
    let live = want.iter().filter(|x| !x.is_nan()).count();
    assert!(live > 0 || want.is_empty(), "{name}: nothing is live");
    for (i, (found, want)) in found.iter().zip(want).enumerate().filter(|(_, (_, want))| !want.is_nan()) {
        let error = (found - want).abs() / scale;
        assert!(error <= tolerance, "{name}[{i}]: {found}, expected {want} (error {error:.2e})\n{plan}");
    }
}
