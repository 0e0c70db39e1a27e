//! How near the matrix product and the convolution come to what one core can do.
//!
//! Prints, for each instruction set and weight format, the FMA rate from registers alone and then GFLOP/s and percent of
//! that for the shapes of ViT, DiT and the SD3 autoencoder, on one thread, best of many, bias and residual included.
//! `cargo run --release -p selftok-kernels-cpu --example gemm_peak [-- FILTER]`, FILTER being part of a row's name.

use selftok_graph::Activation;
use selftok_kernels_cpu::aligned::AlignedBuf;
use selftok_kernels_cpu::conv::*;
use selftok_kernels_cpu::gemm::*;
use selftok_kernels_cpu::isa::{Features, Isa};
use std::hint::black_box;
use std::time::{Duration, Instant};

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

/// Nanoseconds that this thread has waited for a core so far, where the system tells (Linux).
fn waited() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').nth(1).and_then(|wait| wait.parse().ok()).unwrap_or(0)
}

/// Seconds of a pass over all tasks, each task at the best of as many passes as fit a second (at least three) and less
/// the time for which another process had the core: the machine need not be idle.
fn best_pass(tasks: usize, mut run: impl FnMut(usize)) -> f64 {
    let (start, mut passes) = (Instant::now(), 0);
    let mut best = vec![f64::INFINITY; tasks];
    while passes < 3 || start.elapsed() < Duration::from_secs(1) {
        for (task, best) in best.iter_mut().enumerate() {
            let outer = Instant::now();
            let waited_before = waited();
            let inner = Instant::now();
            run(task);
            let inner = inner.elapsed();
            let waited = Duration::from_nanos(waited() - waited_before);
            // The outer time holds every wait that is taken off it, so the difference errs to the long side.
            let busy = outer.elapsed().saturating_sub(waited);
            *best = best.min(inner.min(busy).as_secs_f64());
        }
        passes += 1;
    }
    best.iter().sum()
}

const ROUNDS: usize = 100_000;

#[cfg(target_arch = "x86_64")]
mod peak {
    //! Twelve independent chains of FMA: more than latency times throughput, fewer than the registers.
    use super::ROUNDS;
    use std::arch::x86_64::*;

    macro_rules! chains {
        ($name:ident, $features:literal, $zero:expr, $one:expr, $fma:expr) => {
            #[target_feature(enable = $features)]
            pub fn $name() {
                let one = std::hint::black_box($one);
                let mut sums = [$zero; 12];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $fma(*sum, one);
                    }
                }
                std::hint::black_box(sums);
            }
        };
    }
    chains!(f32_avx512, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(1.0), |sum, one| _mm512_fmadd_ps(
        one, one, sum
    ));
    chains!(f32_avx2, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(1.0), |sum, one| _mm256_fmadd_ps(
        one, one, sum
    ));
    chains!(
        bf16_avx512,
        "avx512f,avx512bf16",
        _mm512_setzero_ps(),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(1.0)),
        |sum, one| _mm512_dpbf16_ps(sum, one, one)
    );
}

/// The rate of multiply-adds from registers, in FLOP/s.
fn peak(features: Features, format: WeightFormat) -> f64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `features` names only what this processor executes.
    unsafe {
        if features.isa == Isa::Avx512 && features.bf16 && format == WeightFormat::Bf16 {
            return (ROUNDS * 12 * 64) as f64 / best(|| peak::bf16_avx512());
        }
        match features.isa {
            Isa::Avx512 => return (ROUNDS * 12 * 32) as f64 / best(|| peak::f32_avx512()),
            Isa::Avx2 => return (ROUNDS * 12 * 16) as f64 / best(|| peak::f32_avx2()),
            Isa::Portable => {}
        }
    }
    let _ = format;
    // The baseline has no FMA: a product and a sum of four lanes each.
    let one = black_box([1.0f32; 4]);
    let seconds = best(|| {
        let mut sums = [[0.0f32; 4]; 12];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                for (sum, one) in sum.iter_mut().zip(one) {
                    *sum += *sum * one;
                }
            }
        }
        black_box(sums);
    });
    (ROUNDS * 12 * 8) as f64 / seconds
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect()
}

/// FLOP/s of a linear layer.
fn linear(features: Features, kind: WeightKind, rows: usize, n: usize, k: usize, act: Activation) -> f64 {
    let (a, w, bias, residual) = (values(rows * k), values(n * k), values(n), values(rows * n));
    let mut c = vec![0.0f32; rows * n];
    let packed = match kind {
        WeightKind::Packed(format) => {
            let read = |rows: std::ops::Range<usize>, to: &mut [f32]| {
                to.copy_from_slice(&w[rows.start * k..rows.end * k]);
            };
            Some(PackedMatrix::pack(n, k, format, features, read).expect("sizes in range"))
        }
        WeightKind::Rows(_) => None,
    };
    let weight = packed.as_ref().map_or(Weight::Rows(w.as_ptr().cast()), Weight::Packed);
    let spec = LinearSpec { max_rows: rows, n, k, weight: kind, workers: 2 };
    let linear = Linear::prepare(&spec, features).expect("sizes in range");
    let mut scratch = AlignedBuf::zeroed(linear.scratch_bytes());
    let args = LinearArgs {
        rows,
        a: Rows { ptr: a.as_ptr(), map: RowMap::dense(k) },
        weight,
        bias: Some(bias.as_ptr()),
        act,
        gate: None,
        residual: Some(Rows { ptr: residual.as_ptr(), map: RowMap::dense(n) }),
        c: Rows { ptr: c.as_mut_ptr(), map: RowMap::dense(n) },
    };
    let seconds = best_pass(linear.tasks(rows), |task| {
        // SAFETY: the operands have the sizes that their maps reach.
        unsafe { linear.run(&args, task, scratch.as_mut_slice()) }
    });
    black_box(&c);
    2.0 * (rows * n * k) as f64 / seconds
}

/// FLOP/s of a convolution that keeps the picture's size (or doubles it, upsampled).
fn conv(
    features: Features,
    format: WeightFormat,
    [size, i, o]: [usize; 3],
    kernel: usize,
    upsample: bool,
) -> f64 {
    let taps = kernel * kernel;
    let spec = ConvSpec {
        max_batch: 1,
        input: [size, size],
        in_channels: i,
        out_channels: o,
        kernel: [kernel, kernel],
        stride: 1,
        padding: [kernel / 2; 4],
        upsample,
        format,
        workers: 2,
    };
    let conv = Conv2d::prepare(&spec, features).expect("sizes in range");
    let (x, w, bias) = (values(size * size * i), values(o * i * taps), values(o));
    let weight = pack_conv_weight([o, i, kernel, kernel], format, features, |rows, to| {
        to.copy_from_slice(&w[rows.start * i * taps..rows.end * i * taps]);
    })
    .expect("sizes in range");
    let pixels = conv.output()[0] * conv.output()[1];
    let (residual, mut c) = (values(pixels * o), vec![0.0f32; pixels * o]);
    let map = conv.output_rows(pixels * o, o);
    let mut scratch = AlignedBuf::zeroed(conv.scratch_bytes());
    let args = ConvArgs {
        batch: 1,
        x: x.as_ptr(),
        image_stride: size * size * i,
        pixel_stride: i,
        weight: &weight,
        bias: Some(bias.as_ptr()),
        act: Activation::Identity,
        gate: None,
        residual: Some(Rows { ptr: residual.as_ptr(), map }),
        c: Rows { ptr: c.as_mut_ptr(), map },
    };
    let seconds = best_pass(conv.tasks(1), |task| {
        // SAFETY: the operands have the sizes that their strides reach.
        unsafe { conv.run(&args, task, scratch.as_mut_slice()) }
    });
    2.0 * (pixels * o * i * taps) as f64 / seconds
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let shapes = [
        (197, 768, 768, Activation::Identity),
        (256, 768, 768, Activation::Identity),
        (256, 3072, 768, Activation::GeluTanh),
        (256, 768, 3072, Activation::Identity),
        (512, 1536, 1536, Activation::Identity),
        (512, 6144, 1536, Activation::GeluTanh),
        (512, 1536, 6144, Activation::Identity),
        (1024, 1024, 1024, Activation::Identity),
        (1024, 4096, 4096, Activation::Identity),
        (64, 1536, 1536, Activation::Identity),
        (16, 4096, 4096, Activation::Identity),
        (8, 4096, 4096, Activation::Identity),
        (1, 4096, 4096, Activation::Identity),
        (1, 768, 768, Activation::Identity),
    ];
    let mut runs = Vec::new();
    for features in Isa::available().into_iter().rev().map(Features::lowered_to) {
        runs.push((features, WeightFormat::F32));
        runs.push((features, WeightFormat::Bf16));
        if features.bf16 {
            // As on a processor with AVX-512 but without AVX512_BF16.
            runs.push((Features { bf16: false, ..features }, WeightFormat::Bf16));
        }
    }
    for (features, format) in runs {
        let native = if features.bf16 && format == WeightFormat::Bf16 { "dp" } else { "" };
        let name = format!("{}/{native}{format:?}", features.isa.name()).to_lowercase();
        if !name.contains(filter.split(' ').next().unwrap_or_default()) {
            continue;
        }
        let ceiling = peak(features, format);
        let show = |what: String, run: &dyn Fn() -> f64| {
            let name = format!("{name} {what}");
            if !name.contains(&filter) {
                return;
            }
            let rate = run();
            let percent = 100.0 * rate / ceiling;
            println!("{name:44} {:8.1} GFLOP/s {percent:5.1} %", rate / 1e9);
        };
        println!("{name}: {:.1} GFLOP/s from registers", ceiling / 1e9);
        for (rows, n, k, act) in shapes {
            let kind = WeightKind::Packed(format);
            let act_name = if act == Activation::Identity { "" } else { " gelu" };
            show(format!("linear {rows}x{n}x{k}{act_name}"), &|| linear(features, kind, rows, n, k, act));
        }
        for (rows, n, k) in [(512, 1536, 1536), (16, 4096, 4096), (1, 4096, 4096)] {
            let kind = match format {
                WeightFormat::F32 => WeightKind::Rows(RowsDType::F32),
                WeightFormat::Bf16 => WeightKind::Rows(RowsDType::Bf16),
                // No other form is multiplied where it lies.
                _ => continue,
            };
            show(format!("unpacked {rows}x{n}x{k}"), &|| {
                linear(features, kind, rows, n, k, Activation::Identity)
            });
        }
        for (size, i, o, kernel, upsample) in [
            (32, 512, 512, 3, false),
            (64, 512, 512, 3, false),
            (128, 256, 256, 3, false),
            (256, 128, 128, 3, false),
            (64, 64, 64, 3, false),
            (64, 256, 256, 3, true),
            (64, 512, 512, 1, false),
            (128, 16, 512, 3, false),
            (256, 3, 128, 3, false),
            (256, 128, 3, 3, false),
        ] {
            let note = if upsample { " upsampled" } else { "" };
            show(format!("conv {kernel}x{kernel} {size}² {i}->{o}{note}"), &|| {
                conv(features, format, [size, i, o], kernel, upsample)
            });
        }
    }
}
