//! How fast the emulator runs the four kernels, with and without its checks, on one thread and on two.
//!
//! A figure is the best of several runs, as others may use the machine. On one thread it counts the thread's own CPU time
//! where the system tells it (Linux), which others cannot lengthen; on more, time passed.
//!
//! `cargo run --release -p selftok-kernels-cuda --example emulator_speed [KERNEL [RUNS]]`

use std::time::Instant;

use bytemuck::Pod;
use half::bf16;
use ptx_emulator::{Checks, Device, Gpu, LaunchConfig, Module, Options};
use selftok_kernels_cuda::{A100, Float, Launch, attention, codebook, gemm, layer_norm};

/// One launch with its arguments, and the floating-point operations it stands for.
struct Case {
    family: &'static str,
    launch: Launch,
    arguments: Vec<u8>,
    flop: f64,
}

fn upload<T: Pod>(device: &Device, values: &[T]) -> u64 {
    let at = allocate(device, size_of_val(values));
    device.memory().write(at, bytemuck::cast_slice(values)).expect("just allocated");
    at
}

fn allocate(device: &Device, bytes: usize) -> u64 {
    device.memory().alloc(bytes as u64).expect("a GPU has room for this")
}

/// Values in -1..1 that differ.
fn values(count: usize) -> Vec<f32> {
    let mut x = 1u32;
    let next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn bf16s(count: usize) -> Vec<bf16> {
    values(count).into_iter().map(bf16::from_f32).collect()
}

fn small_tiles(device: &Device) -> Case {
    product(device, 512, None)
}

/// What a larger product would be cut into: of this size, such tiles would leave most of a GPU idle.
fn large_tiles(device: &Device) -> Case {
    product(device, 1024, Some("gemm_bf16_f32_128x128x32"))
}

fn product(device: &Device, n: usize, entry: Option<&'static str>) -> Case {
    let (size, stride) = (n as u64, n as i64);
    let shape = gemm::Shape { m: size, n: size, k: size, lda: size, ldw: size, output: Float::F32 };
    let arguments = gemm::Arguments {
        a: upload(device, &bf16s(n * n)),
        w: upload(device, &bf16s(n * n)),
        c: allocate(device, n * n * 4),
        bias: 0,
        gate: 0,
        residual: 0,
        m: n as i32,
        n: n as i32,
        k: n as i32,
        lda: stride,
        ldw: stride,
        ldc: stride,
        ldr: stride,
        ldg: stride,
        gate_div: 1,
        gate_rows: 1,
        activation: 0,
    };
    let mut launch = gemm::launch(&shape, &A100).expect("a plain shape");
    if let Some(entry) = entry {
        let tiles = (size / 128 * (size / 128)) as u32;
        let shared_bytes = gemm::FAMILY.entry(entry).expect("an entry of the family").dynamic_shared;
        launch = Launch { entry, grid: [tiles, 1, 1], block: [128, 1, 1], shared_bytes };
    }
    Case { family: "gemm", launch, arguments: arguments.pack(), flop: 2.0 * (n * n * n) as f64 }
}

fn attend(device: &Device) -> Case {
    let (heads, len, width) = (4usize, 256usize, 64usize);
    let shape = attention::Shape {
        batch: 1,
        heads: heads as u64,
        kv_heads: heads as u64,
        q_len: len as u64,
        head_dim: width as u64,
    };
    let (head, row) = ((len * width) as i64, width as i64);
    let tensor = || upload(device, &bf16s(heads * len * width));
    let arguments = attention::Arguments {
        q: tensor(),
        k0: tensor(),
        v0: tensor(),
        k1: 0,
        v1: 0,
        out: allocate(device, heads * len * width * 2),
        q_len: len as i32,
        kv_len0: len as i32,
        kv_len1: 0,
        head_dim: width as i32,
        head_group: 1,
        q_batch: head * heads as i64,
        q_head: head,
        q_row: row,
        kv0_batch: head * heads as i64,
        kv0_head: head,
        kv0_row: row,
        kv1_batch: 0,
        kv1_head: 0,
        kv1_row: 0,
        out_batch: head * heads as i64,
        out_head: head,
        out_row: row,
        causal: 0,
        q_position: 0,
        scale: 0.125,
    };
    let launch = attention::launch(&shape, &A100).expect("a plain shape");
    let flop = (4 * heads * len * len * width) as f64;
    Case { family: "attention", launch, arguments: arguments.pack(), flop }
}

fn nearest(device: &Device) -> Case {
    let (rows, codes, width) = (128usize, 2048usize, 16usize);
    let shape = codebook::Shape { rows: rows as u64, codes: codes as u64, width: width as u64 };
    let launches = codebook::launch(&shape, &A100).expect("a plain shape");
    let arguments = codebook::PartialArguments {
        x: upload(device, &values(rows * width)),
        codes: upload(device, &values(codes * width)),
        candidates: allocate(device, launches.workspace_bytes as usize),
        rows: rows as i32,
        c: width as i32,
        v: codes as i32,
        x_stride: width as i64,
        slice_codes: launches.slice_codes as i32,
        eps: 1e-12,
    };
    let flop = (2 * rows * codes * width) as f64;
    Case { family: "codebook", launch: launches.partial, arguments: arguments.pack(), flop }
}

fn normalise(device: &Device) -> Case {
    let (rows, cols) = (512usize, 768usize);
    let shape =
        layer_norm::Shape { rows: rows as u64, cols: cols as u64, input: Float::F32, output: Float::F32 };
    let arguments = layer_norm::Arguments {
        x: upload(device, &values(rows * cols)),
        y: allocate(device, rows * cols * 4),
        weight: upload(device, &values(cols)),
        bias: upload(device, &values(cols)),
        scale: 0,
        shift: 0,
        rows: rows as i32,
        cols: cols as i32,
        x_stride: cols as i64,
        y_stride: cols as i64,
        modulation_div: 1,
        modulation_rows: 1,
        modulation_stride: cols as i64,
        eps: 1e-6,
        rms: 0,
    };
    let launch = layer_norm::launch(&shape).expect("a plain shape");
    Case { family: "layer_norm", launch, arguments: arguments.pack(), flop: (8 * rows * cols) as f64 }
}

/// CPU seconds of all threads of this process, to a hundredth, where the system counts them.
fn process_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let times: Vec<f64> =
        text.rsplit(')').next()?.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Some(times.iter().sum::<f64>() / 100.0)
}

/// Seconds that this thread ran on a CPU, where the system counts them.
fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-9)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next();
    let runs: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(7);
    println!(
        "{:<28} {:>6} {:>7} {:>9} {:>10} {:>9} {:>9}",
        "entry", "checks", "threads", "ms", "ns/instr", "GFLOP/s", "CPU ms"
    );
    for make in [small_tiles, large_tiles, attend, nearest, normalise] {
        for checks in [Checks::default(), Checks::none()] {
            for threads in [1, 2] {
                let options = Options { checks: checks.clone(), threads, ..Options::default() };
                let device = Device::new(Gpu::a100(), options);
                let case = make(&device);
                if wanted.as_ref().is_some_and(|w| w != case.family) {
                    continue;
                }
                let shipped = selftok_kernels_ptx::module_for(case.family, 8, 0).expect(case.family);
                let module = Module::parse(shipped.ptx).expect("the shipped PTX is right");
                let loaded = device.load(&module).expect("the shipped PTX loads");
                let config = LaunchConfig {
                    grid: case.launch.grid,
                    block: case.launch.block,
                    shared_bytes: case.launch.shared_bytes,
                    ..LaunchConfig::new(1, 1)
                };
                let (mut best, mut issues) = (f64::INFINITY, 0);
                let before = process_seconds();
                for _ in 0..runs {
                    let (start, cpu) = (Instant::now(), thread_seconds());
                    let report = device
                        .launch(&loaded, case.launch.entry, &config, &case.arguments)
                        .expect("a launch within limits");
                    let passed = start.elapsed().as_secs_f64();
                    let cpu = cpu.and_then(|before| Some(thread_seconds()? - before));
                    let seconds = if threads == 1 { cpu.unwrap_or(passed) } else { passed };
                    assert!(report.findings.is_empty(), "{}", report.to_text());
                    best = best.min(seconds);
                    issues = report.issues();
                }
                // Twice the threads in half the time costs the same: this tells how they scale when others are busy too.
                let all = before.and_then(|b| Some(process_seconds()? - b)).unwrap_or(f64::NAN);
                println!(
                    "{:<28} {:>6} {threads:>7} {:>9.2} {:>10.1} {:>9.2} {:>9.1}",
                    case.launch.entry,
                    if checks.race { "on" } else { "off" },
                    best * 1e3,
                    best * 1e9 / issues as f64,
                    case.flop / best * 1e-9,
                    all / runs as f64 * 1e3,
                );
            }
        }
    }
}
