//! The kernels that carry the full model, each at the shapes it meets there, through the engine on one thread.
//!
//! `cargo bench --bench kernels [-- FILTER]`. Throughput is in elements, of which one is a floating-point operation: "Gelem/s"
//! reads GFLOP/s. Before it is timed, each kernel is checked at a few places of its result against sums in f64. How near
//! the kernels come to what the processor can do is what `kernels-cpu/examples/{gemm_peak,kernels_peak}.rs` print.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selftok::{CpuOptions, Device, Executable, Input, Output, Session};
use selftok_graph::{Builder, DType, Graph, Mask, Stage, compile};
use selftok_loader::Generated;
use selftok_workspace::random::Random;
use std::sync::Arc;
use std::time::Duration;

/// A weight of this name: the same numbers wherever it is asked for.
fn weight(name: &str, numel: usize) -> Vec<f32> {
    selftok_workspace::random::weight(name, numel, 1)
}

fn bind(graph: Graph, device: &Device) -> Session {
    let shapes: Vec<_> =
        graph.weights().map(|(_, value)| (value.name.clone(), value.shape.sizes())).collect();
    let stored: std::collections::HashMap<String, Vec<f32>> =
        shapes.iter().map(|(name, shape)| (name.clone(), weight(name, shape.iter().product()))).collect();
    let source = Generated::new(shapes, move |name, start, out| {
        out.copy_from_slice(&stored[name][start..start + out.len()]);
    });
    let plan = compile(&graph.into(), &device.target()).unwrap();
    Executable::bind(plan, Arc::new(source), device).unwrap().session()
}

/// One kernel: its network of one op, what goes in, and element `i` of what comes out in f64.
struct Case {
    name: String,
    flop: usize,
    graph: Graph,
    inputs: Vec<Vec<f32>>,
    expected: Box<dyn Fn(usize) -> f64>,
}

fn noise(seed: u64, numel: usize) -> Vec<f32> {
    Random::new(seed).units(numel)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn linear(rows: usize, n: usize, k: usize) -> Case {
    let g = Builder::new("linear");
    g.output("y", g.input("x", [rows, k], DType::F32, Stage::Step).linear("fc", n));
    let (x, w, b) = (noise(1, rows * k), weight("fc.weight", n * k), weight("fc.bias", n));
    let input = x.clone();
    Case {
        name: format!("linear {rows}x{n}x{k}"),
        flop: 2 * rows * n * k,
        graph: g.finish().unwrap(),
        inputs: vec![input],
        expected: Box::new(move |i| {
            let (row, column) = (i / n, i % n);
            f64::from(b[column]) + dot(&x[row * k..][..k], &w[column * k..][..k])
        }),
    }
}

fn attention(rows: usize, keys: usize, heads: usize, head_dim: usize) -> Case {
    let width = heads * head_dim;
    let g = Builder::new("attention");
    let input = |name: &str, rows: usize| g.input(name, [1, rows, width], DType::F32, Stage::Step);
    let (q, k, v) = (input("q", rows), input("k", keys), input("v", keys));
    g.output("y", q.attention(&[(k, v)], heads, heads, Mask::None));
    let inputs = vec![noise(1, rows * width), noise(2, keys * width), noise(3, keys * width)];
    let [q, k, v] = [0, 1, 2].map(|i: usize| inputs[i].clone());
    Case {
        name: format!("attention {rows}x{keys}, {heads} heads of {head_dim}"),
        flop: 4 * rows * keys * width,
        graph: g.finish().unwrap(),
        inputs,
        expected: Box::new(move |i| {
            let (row, column) = (i / width, i % width);
            let head = column / head_dim * head_dim;
            let q = &q[row * width + head..][..head_dim];
            let score = |key: usize| dot(q, &k[key * width + head..][..head_dim]) / (head_dim as f64).sqrt();
            let shares: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
            let sum: f64 = (0..keys).map(|key| shares[key] * f64::from(v[key * width + column])).sum();
            sum / shares.iter().sum::<f64>()
        }),
    }
}

fn conv(side: usize, channels: usize, out: usize) -> Case {
    let g = Builder::new("conv2d");
    let x = g.input("x", [1, side, side, channels], DType::F32, Stage::Step);
    g.output("y", x.conv2d("conv", out, 3, 1, [1; 4]));
    let (x, w) = (noise(1, side * side * channels), weight("conv.weight", out * channels * 9));
    let (b, input) = (weight("conv.bias", out), x.clone());
    Case {
        name: format!("conv 3x3, {side}² {channels} to {out}"),
        flop: 2 * side * side * out * channels * 9,
        graph: g.finish().unwrap(),
        inputs: vec![input],
        expected: Box::new(move |i| {
            let (pixel, o) = (i / out, i % out);
            let (row, column) = (pixel / side, pixel % side);
            let mut sum = f64::from(b[o]);
            for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                let (r, c) = ((row + dy).wrapping_sub(1), (column + dx).wrapping_sub(1));
                if r < side && c < side {
                    for channel in 0..channels {
                        let x = x[(r * side + c) * channels + channel];
                        sum += f64::from(x) * f64::from(w[((o * channels + channel) * 3 + dy) * 3 + dx]);
                    }
                }
            }
            sum
        }),
    }
}

/// The id alone: scores and margins have tests of their own.
fn codebook(rows: usize, codes: usize, dim: usize) -> Case {
    let g = Builder::new("codebook");
    let x = g.input("x", [rows, dim], DType::F32, Stage::Step);
    let (ids, _, _) = x.codebook(g.weight("codes", [codes, dim]));
    g.output("y", ids);
    let (x, w) = (noise(1, rows * dim), weight("codes", codes * dim));
    let input = x.clone();
    Case {
        name: format!("codebook {rows}x{codes}x{dim}"),
        flop: 2 * rows * codes * dim,
        graph: g.finish().unwrap(),
        inputs: vec![input],
        expected: Box::new(move |row| {
            let score = |code: usize| dot(&x[row * dim..][..dim], &w[code * dim..][..dim]);
            let best = (0..codes).max_by(|&a, &b| score(a).total_cmp(&score(b)).then(b.cmp(&a)));
            best.expect("codes") as f64
        }),
    }
}

/// Places of the result that are checked: the corners and some between.
const CHECKED: usize = 40;

fn kernels(c: &mut Criterion) {
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let mut group = c.benchmark_group(format!("kernels, {device}"));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    // The decoder's patches and tokens, the encoder's queries, the autoencoder's levels.
    let cases = [
        linear(256, 4608, 1536),
        linear(256, 1536, 6144),
        linear(512, 6144, 1536),
        linear(512, 1536, 512),
        linear(256, 192, 64),
        attention(768, 768, 24, 64),
        attention(512, 768, 8, 64),
        attention(256, 256, 4, 16),
        codebook(512, 32768, 16),
        conv(32, 512, 512),
        conv(128, 256, 256),
        conv(256, 128, 128),
        conv(256, 128, 3),
    ];
    for case in cases {
        let mut session = bind(case.graph, &device);
        let exe = session.executable().clone();
        let entry = &exe.plan().entries[0];
        let inputs: Vec<_> = entry
            .inputs
            .iter()
            .zip(&case.inputs)
            .map(|(port, values)| (exe.input(&port.name).unwrap(), Input::F32(values)))
            .collect();
        let port = &entry.outputs[0];
        let numel: usize = port.axes.iter().map(|axis| axis.size).product();
        let (mut floats, mut ids) = (vec![f32::NAN; numel], vec![-1; numel]);
        let result = match port.dtype {
            DType::F32 => Output::F32(&mut floats),
            DType::I32 => Output::I32(&mut ids),
        };
        let mut outputs = [(exe.output("y").unwrap(), result)];
        session.run(&inputs, &mut outputs).unwrap();
        for i in (0..CHECKED).map(|i| i * (numel - 1) / (CHECKED - 1)) {
            let found = match &outputs[0].1 {
                Output::F32(values) => f64::from(values[i]),
                Output::I32(values) => f64::from(values[i]),
            };
            let expected = (case.expected)(i);
            let close = (found - expected).abs() <= 1e-4 * expected.abs().max(1.0);
            assert!(close, "{}: element {i} is {found}, not {expected}", case.name);
        }
        group.throughput(Throughput::Elements(case.flop as u64));
        group.bench_function(&case.name, |b| b.iter(|| session.run(&inputs, &mut outputs).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
