//! How near attention comes to the machine's FMA rate, the codebook search too, and the norms to its memory.
//!
//! `cargo run --release -p selftok-kernels-cpu --example kernels_peak [-- FILTER] [--threads N] [--isa NAME]`: for each instruction set the
//! FMA rate from registers, then one row a kernel and shape. One thread (the default): the sum of each task's best time;
//! several: the best of whole runs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use selftok_graph::{Activation, NormKind, RopeStyle};
use selftok_kernels_cpu::aligned::AlignedBuf;
use selftok_kernels_cpu::attention::{Attention, Mask, Segment, Strides};
use selftok_kernels_cpu::codebook::{Codebook, CodebookArgmax};
use selftok_kernels_cpu::elementwise::Unary;
use selftok_kernels_cpu::group_norm::{GroupNormApply, GroupNormStats, Pictures};
use selftok_kernels_cpu::isa::{Features, Isa};
use selftok_kernels_cpu::norm::Norm;
use selftok_kernels_cpu::pool::{Pool, Worker};
use selftok_kernels_cpu::rope::Rope;
use selftok_kernels_cpu::simd::{Program, Simd, launch};
use selftok_kernels_cpu::strided::Strided;
use selftok_kernels_cpu::{Kernel, RowMap};

/// Seconds of the fastest of as many runs as fit half a second (at least three).
fn best(mut run: impl FnMut()) -> f64 {
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || start.elapsed() < Duration::from_millis(500) {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 / 50.5 - 1.0).collect()
}

/// Twelve independent chains of multiply-adds in registers.
struct Chains;

const ROUNDS: usize = 100_000;

impl Program for Chains {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        // SAFETY: `launch` picked a vector type that the processor has.
        unsafe {
            let x = V::new(black_box(1.0));
            let mut sums = [V::new(0.0); 12];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = x.mul_add(x, *sum);
                }
            }
            black_box(&sums);
        }
    }
}

fn lanes(features: Features) -> usize {
    match features.isa {
        Isa::Portable => 4,
        Isa::Avx2 => 8,
        Isa::Avx512 => 16,
    }
}

/// FLOP/s of all workers together.
fn peak(pool: &Pool, features: Features) -> f64 {
    // SAFETY: the features are those of this machine.
    let seconds = best(|| pool.run(|_| unsafe { launch(features, Chains) }));
    (pool.threads() * ROUNDS * 12 * lanes(features) * 2) as f64 / seconds
}

struct Bench<'a> {
    pool: &'a Pool,
    features: Features,
    peak: f64,
    filter: &'a str,
}

impl Bench<'_> {
    /// Seconds of one run of kernels with a barrier after each, or None where the filter leaves it out.
    fn time(&self, name: &str, kernels: &[&(dyn Kernel + Sync)]) -> Option<f64> {
        if !name.contains(self.filter) {
            return None;
        }
        let bytes = kernels.iter().map(|k| k.scratch_bytes().next_multiple_of(64)).max().unwrap_or(0);
        let mut scratch = AlignedBuf::zeroed(bytes * self.pool.threads());
        let base = scratch.as_mut_slice().as_mut_ptr() as usize;
        if self.pool.threads() == 1 {
            return Some(
                kernels.iter().map(|kernel| self.sum_of_best(*kernel, scratch.as_mut_slice())).sum(),
            );
        }
        let run = |worker: &Worker| {
            // SAFETY: each worker has its own part of the scratch.
            let part =
                unsafe { std::slice::from_raw_parts_mut((base + worker.index * bytes) as *mut u8, bytes) };
            for kernel in kernels {
                // SAFETY: operands cover the shapes.
                worker.for_each_task(kernel.tasks(), |task| unsafe { kernel.run(self.features, task, part) });
                worker.barrier();
            }
        };
        Some(best(|| self.pool.run(run)))
    }

    /// Seconds of a kernel on one thread as the sum of each task's best: on a busy machine a whole run of many
    /// milliseconds is never left alone, but a task is.
    fn sum_of_best(&self, kernel: &dyn Kernel, scratch: &mut [u8]) -> f64 {
        let mut times = vec![f64::INFINITY; kernel.tasks()];
        let (start, mut runs) = (Instant::now(), 0);
        while runs < 5 || start.elapsed() < Duration::from_millis(600) {
            for (task, time) in times.iter_mut().enumerate() {
                let begin = Instant::now();
                // SAFETY: operands cover the shapes.
                unsafe { kernel.run(self.features, task, scratch) }
                *time = time.min(begin.elapsed().as_secs_f64());
            }
            runs += 1;
        }
        times.iter().sum()
    }

    fn flops(&self, name: &str, flop: f64, kernels: &[&(dyn Kernel + Sync)]) {
        if let Some(seconds) = self.time(name, kernels) {
            let (rate, part) = (flop / seconds / 1e9, 100.0 * flop / seconds / self.peak);
            println!("  {name:<44} {:9.3} ms {rate:8.1} GFLOP/s {part:5.1} %", seconds * 1e3);
        }
    }

    fn bytes(&self, name: &str, bytes: usize, kernels: &[&(dyn Kernel + Sync)]) {
        if let Some(seconds) = self.time(name, kernels) {
            println!("  {name:<44} {:9.3} ms {:8.1} GB/s", seconds * 1e3, bytes as f64 / seconds / 1e9);
        }
    }

    fn attention(&self, [heads, kv_heads, q_rows, keys, dim]: [usize; 5], mask: Mask) {
        let q = values(q_rows * heads * dim);
        let (k, v) = (values(keys * kv_heads * dim), values(keys * kv_heads * dim));
        let mut out = vec![0.0f32; q.len()];
        let strides =
            |heads: usize, rows: usize| Strides { batch: rows * heads * dim, row: heads * dim, head: dim };
        let mut segments = [Segment::EMPTY; 4];
        let kv = strides(kv_heads, keys);
        segments[0] = Segment { k: k.as_ptr(), v: v.as_ptr(), rows: keys, k_strides: kv, v_strides: kv };
        let args = Shared(Attention {
            q: q.as_ptr(),
            q_strides: strides(heads, q_rows),
            out: out.as_mut_ptr(),
            out_strides: strides(heads, q_rows),
            segments,
            batch: 1,
            q_rows,
            heads,
            kv_heads,
            head_dim: dim,
            scale: 1.0 / (dim as f32).sqrt(),
            mask,
            kv_lens: std::ptr::null(),
            workers: self.pool.threads(),
        });
        let causal = if mask == Mask::None { "" } else { " causal" };
        let name = format!("attention [{heads}/{kv_heads}, {q_rows}x{keys}, {dim}]{causal}");
        let share = if mask == Mask::None { 1.0 } else { 0.5 };
        if q_rows > 4 {
            self.flops(&name, share * (4 * heads * q_rows * keys * dim) as f64, &[&args]);
        } else {
            self.bytes(&name, 8 * keys * kv_heads * dim, &[&args]);
        }
    }

    fn codebook(&self, rows: usize, count: usize, dim: usize) {
        let book = Codebook::pack(&values(count * dim), count, dim).expect("a codebook of that shape");
        let x = values(rows * dim);
        let (mut ids, mut scores, mut margins) = (vec![0; rows], vec![0.0; rows], vec![0.0; rows]);
        let kernel = Shared(CodebookArgmax {
            codebook: &book,
            x: x.as_ptr(),
            x_map: RowMap::dense(dim),
            rows,
            ids: ids.as_mut_ptr(),
            scores: scores.as_mut_ptr(),
            margins: margins.as_mut_ptr(),
        });
        self.flops(&format!("codebook {rows}x{count}x{dim}"), (2 * rows * count * dim) as f64, &[&kernel]);
    }

    fn norm(&self, rows: usize, width: usize) {
        let (x, table) = (values(rows * width), values(2 * width));
        let mut y = vec![0.0f32; x.len()];
        let kernel = Shared(Norm {
            kind: Some(NormKind::Layer),
            x: x.as_ptr(),
            x_map: RowMap::dense(width),
            y: y.as_mut_ptr(),
            y_map: RowMap::dense(width),
            rows,
            width,
            eps: 1e-6,
            weight: std::ptr::null(),
            bias: std::ptr::null(),
            scale: table.as_ptr(),
            scale_map: RowMap::broadcast(),
            shift: table[width..].as_ptr(),
            shift_map: RowMap::broadcast(),
        });
        self.bytes(&format!("layer norm + modulation {rows}x{width}"), 8 * rows * width, &[&kernel]);
    }

    fn group_norm(&self, pixels: usize, channels: usize) {
        let shape = Pictures { batch: 1, pixels, channels, groups: 32 };
        let (x, table) = (values(pixels * channels), values(2 * channels));
        let (mut y, mut partials) = (vec![0.0f32; x.len()], vec![0.0f64; shape.partial_sums()]);
        let (partials, x_strides) = (partials.as_mut_ptr(), [pixels * channels, channels]);
        let stats = Shared(GroupNormStats { shape, x: x.as_ptr(), x_strides, partials });
        let apply = Shared(GroupNormApply {
            shape,
            x: x.as_ptr(),
            x_strides,
            y: y.as_mut_ptr(),
            y_strides: x_strides,
            weight: table.as_ptr(),
            bias: table[channels..].as_ptr(),
            eps: 1e-6,
            act: Activation::Silu,
            partials,
        });
        self.bytes(&format!("group norm + silu {pixels}x{channels}"), 12 * x.len(), &[&stats, &apply]);
    }

    fn pointwise(&self) {
        let (rows, width) = (1024, 1536);
        let (x, table) = (values(rows * width), values(rows * 64));
        let mut y = vec![0.0f32; x.len()];
        for act in [Activation::Identity, Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
            let shape = Strided::new(&[x.len()], [&[1], &[1]]).expect("one dimension");
            let kernel = Shared(Unary { act, x: x.as_ptr(), y: y.as_mut_ptr(), shape });
            self.bytes(&format!("{act:?} of {rows}x{width}"), 8 * x.len(), &[&kernel]);
        }
        let shape = Strided::new(&[width, rows], [&[1, width], &[rows, 1]]).expect("two dimensions");
        let kernel = Shared(Unary { act: Activation::Identity, x: x.as_ptr(), y: y.as_mut_ptr(), shape });
        self.bytes(&format!("transpose {rows}x{width}"), 8 * x.len(), &[&kernel]);
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            let strides = Strides { batch: 0, row: width, head: 64 };
            let kernel = Shared(Rope {
                x: x.as_ptr(),
                x_strides: strides,
                y: y.as_mut_ptr(),
                y_strides: strides,
                batch: 1,
                rows,
                heads: width / 64,
                head_dim: 64,
                rotary_dim: 64,
                style,
                table: table.as_ptr(),
                positions: std::ptr::null(),
                position0: 0,
                norm: None,
            });
            self.bytes(&format!("rope {style:?} {rows}x{width}"), 8 * x.len(), &[&kernel]);
        }
    }
}

/// A kernel that several workers use at once.
struct Shared<K>(K);

// SAFETY: tasks of a kernel write disjoint memory, and the operands outlive the run.
unsafe impl<K> Sync for Shared<K> {}

impl<K: Kernel> Kernel for Shared<K> {
    fn tasks(&self) -> usize {
        self.0.tasks()
    }
    fn scratch_bytes(&self) -> usize {
        self.0.scratch_bytes()
    }
    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { self.0.run(features, task, scratch) }
    }
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut threads = 1;
    if let Some(at) = args.iter().position(|a| a == "--threads") {
        threads = args.get(at + 1).and_then(|n| n.parse().ok()).expect("--threads takes a number");
        args.drain(at..at + 2);
    }
    let isa = args.iter().position(|a| a == "--isa").map(|at| args.drain(at..at + 2).nth(1));
    let only = isa.as_ref().and_then(|name| name.as_deref());
    let filter = args.first().cloned().unwrap_or_default();
    let pool = Pool::new(threads).expect("threads can be started");
    let begin = Instant::now();
    for _ in 0..1000 {
        pool.run(|worker| worker.barrier());
    }
    println!("run + barrier, {threads} threads: {:.2} µs", begin.elapsed().as_secs_f64() * 1e3);
    for isa in Isa::available().into_iter().filter(|isa| only.is_none_or(|only| only == isa.name())) {
        let features = Features::lowered_to(isa);
        let peak = peak(&pool, features);
        println!("{}: {:.1} GFLOP/s from registers, {threads} threads", isa.name(), peak / 1e9);
        let bench = Bench { pool: &pool, features, peak, filter: &filter };
        for shape in [
            [16, 16, 1024, 1024, 64],
            [24, 24, 1280, 1280, 64],
            [12, 12, 197, 197, 64],
            [16, 16, 1024, 1024, 80],
            [16, 16, 1024, 1024, 128],
            [4, 4, 256, 256, 16],
            [1, 1, 1024, 1024, 512],
        ] {
            bench.attention(shape, Mask::None);
        }
        bench.attention([16, 16, 1024, 1024, 64], Mask::Causal { q_position0: 0 });
        bench.attention([32, 32, 1, 4096, 64], Mask::None);
        bench.attention([32, 8, 1, 4096, 128], Mask::None);
        bench.attention([32, 32, 1, 128, 64], Mask::None);
        bench.attention([32, 8, 1, 128, 128], Mask::None);
        bench.codebook(512, 32768, 16);
        bench.codebook(64, 4096, 16);
        bench.norm(1024, 1536);
        bench.norm(256, 64);
        bench.group_norm(256 * 256, 128);
        bench.group_norm(32 * 32, 512);
        bench.pointwise();
    }
}
