//! Weights in GGUF's blocks: products and table rows against the dequantised numbers in f64, on every instruction set;
//! with activations as they are, and rounded to bytes.

use half::f16;
use selftok_graph::Activation;
use selftok_kernels_cpu::aligned::AlignedBuf;
use selftok_kernels_cpu::embed::{Gather, TableFormat};
use selftok_kernels_cpu::gemm::{
    Linear, LinearArgs, LinearSpec, PackedMatrix, Rows, Weight, WeightFormat, WeightKind,
};
use selftok_kernels_cpu::isa::Features;
use selftok_kernels_cpu::{Isa, Kernel, RowMap};

const FORMATS: [WeightFormat; 3] = [WeightFormat::Q8_0, WeightFormat::Q4_0, WeightFormat::Q4_1];

/// Every instruction set of this machine, and AVX-512 without its products of bytes.
fn all_features() -> Vec<Features> {
    let mut all: Vec<Features> = Isa::available().into_iter().map(Features::lowered_to).collect();
    let lesser = all.iter().filter(|f| f.vnni).map(|f| Features { vnni: false, ..*f });
    all.extend(lesser.collect::<Vec<_>>());
    all
}

/// A row as int8 activations stand for it: each 32 elements a 127th of the greatest times a whole number.
fn rounded(row: &[f32]) -> Vec<f64> {
    let block = |block: &[f32]| {
        let most = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let (step, up) = if most > 0.0 { (most / 127.0, 127.0 / most) } else { (0.0, 0.0) };
        block.iter().map(|x| f64::from(step) * f64::from((x * up).round_ties_even())).collect::<Vec<_>>()
    };
    row.chunks(32).flat_map(block).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn unit(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 32768.0 - 1.0
    }
}

/// Blocks of random bytes with sane scales, and what they stand for.
fn blocks(format: WeightFormat, count: usize, random: &mut Random) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut values) = (vec![], vec![]);
    for _ in 0..count {
        let scale = f16::from_f32(0.02 * random.unit());
        let minimum = f16::from_f32(0.1 * random.unit());
        bytes.extend(scale.to_le_bytes());
        if format == WeightFormat::Q4_1 {
            bytes.extend(minimum.to_le_bytes());
        }
        let quants: Vec<u8> =
            (0..format.block_bytes().unwrap() - 2 - 2 * usize::from(format == WeightFormat::Q4_1))
                .map(|_| random.next() as u8)
                .collect();
        let (d, m) = (scale.to_f64(), minimum.to_f64());
        values.extend((0..32).map(|i| {
            let nibble = || f64::from(if i < 16 { quants[i] & 15 } else { quants[i - 16] >> 4 });
            match format {
                WeightFormat::Q8_0 => d * f64::from(quants[i] as i8),
                WeightFormat::Q4_0 => d * (nibble() - 8.0),
                _ => d * nibble() + m,
            }
        }));
        bytes.extend(quants);
    }
    (bytes, values)
}

fn product(features: Features, (format, int8): (WeightFormat, bool), rows: usize, n: usize, k: usize) {
    let mut random = Random((rows * 1000 + n * 10 + k) as u64);
    let (bytes, w) = blocks(format, n * k / 32, &mut random);
    let row_bytes = bytes.len() / n;
    let stored = format;
    let format = if int8 { format.with_int8_activations() } else { format };
    let read = |r: std::ops::Range<usize>, to: &mut [u8]| {
        to.copy_from_slice(&bytes[r.start * row_bytes..r.end * row_bytes]);
    };
    let packed = PackedMatrix::pack_blocks(n, k, format, features, read).unwrap();
    // Blocks of very different size, one of them zeros.
    let size = |i: usize| [1.0, 0.01, 0.0, 30.0][i / 32 % 4];
    let a: Vec<f32> = (0..rows * k).map(|i| random.unit() * size(i)).collect();
    let mut c = vec![f32::NAN; rows * n];
    let spec = LinearSpec { max_rows: rows, n, k, weight: WeightKind::Packed(format), workers: 2 };
    let linear = Linear::prepare(&spec, features).unwrap();
    let args = LinearArgs {
        rows,
        a: Rows { ptr: a.as_ptr(), map: RowMap::dense(k) },
        weight: Weight::Packed(&packed),
        bias: None,
        act: Activation::Identity,
        gate: None,
        residual: None,
        c: Rows { ptr: c.as_mut_ptr(), map: RowMap::dense(n) },
    };
    let mut scratch = AlignedBuf::zeroed(linear.scratch_bytes());
    scratch.as_mut_slice().fill(0xff);
    for task in 0..linear.tasks(rows) {
        // SAFETY: the operands have the sizes of their maps.
        unsafe { linear.run(&args, task, scratch.as_mut_slice()) }
    }
    for m in 0..rows {
        let row = &a[m * k..(m + 1) * k];
        let row = if int8 { rounded(row) } else { row.iter().map(|&x| f64::from(x)).collect() };
        for j in 0..n {
            let products = (0..k).map(|i| row[i] * w[j * k + i]);
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let error = (f64::from(c[m * n + j]) - sum).abs();
            // A minimum is added to sums of quants up to 15 scales large.
            let bound = f64::from(f32::EPSILON) * (0.25 * k as f64 + 16.0) * (size + 1.0);
            let what = format!("{features:?} {stored:?} {int8} {rows}x{n}x{k}");
            assert!(error <= bound, "{what}: C[{m},{j}] is off by {error:e}, more than {bound:e}");
        }
    }
}

#[test]
fn products_with_blocks_agree_with_the_dequantised_weight() {
    for features in all_features() {
        for format in FORMATS.into_iter().flat_map(|format| [(format, false), (format, true)]) {
            for rows in (1..=8).chain([13, 40]) {
                for (n, k) in [(1, 32), (16, 64), (33, 96), (70, 576), (31, 1536)] {
                    product(features, format, rows, n, k);
                }
            }
        }
    }
}

#[test]
fn bytes_reach_their_limits_without_overflow_and_what_is_not_finite_shows() {
    let (n, k) = (33, 64);
    for features in all_features() {
        for format in FORMATS {
            // Scale 1, no minimum, every quant the byte 0x80 (-128; nibbles 0 and 8) or 0x7f, or 0xff.
            for byte in [0x80u8, 0x7f, 0xff] {
                let head: &[u8] = if format == WeightFormat::Q4_1 { &[0, 0x3c, 0, 0] } else { &[0, 0x3c] };
                let block: Vec<u8> = (0..format.block_bytes().unwrap())
                    .map(|i| head.get(i).copied().unwrap_or(byte))
                    .collect();
                let int8 = format.with_int8_activations();
                let read = |_: std::ops::Range<usize>, to: &mut [u8]| {
                    to.chunks_mut(block.len()).for_each(|to| to.copy_from_slice(&block));
                };
                let packed = PackedMatrix::pack_blocks(n, k, int8, features, read).unwrap();
                let spec = LinearSpec { max_rows: 1, n, k, weight: WeightKind::Packed(int8), workers: 1 };
                let linear = Linear::prepare(&spec, features).unwrap();
                let run = |a: &[f32]| {
                    let mut c = vec![0.0f32; n];
                    let args = LinearArgs {
                        rows: 1,
                        a: Rows { ptr: a.as_ptr(), map: RowMap::dense(k) },
                        weight: Weight::Packed(&packed),
                        bias: None,
                        act: Activation::Identity,
                        gate: None,
                        residual: None,
                        c: Rows { ptr: c.as_mut_ptr(), map: RowMap::dense(n) },
                    };
                    let mut scratch = AlignedBuf::zeroed(linear.scratch_bytes());
                    for task in 0..linear.tasks(1) {
                        // SAFETY: the operands have the sizes of their maps.
                        unsafe { linear.run(&args, task, scratch.as_mut_slice()) }
                    }
                    c
                };
                let mean = match (format, byte) {
                    (WeightFormat::Q8_0, byte) => f32::from(byte as i8),
                    (WeightFormat::Q4_0, byte) => (f32::from(byte & 15) + f32::from(byte >> 4)) / 2.0 - 8.0,
                    (_, byte) => (f32::from(byte & 15) + f32::from(byte >> 4)) / 2.0,
                };
                for sign in [1.0, -1.0] {
                    let expected = sign * mean * k as f32;
                    for c in run(&vec![sign; k]) {
                        let error = (c - expected).abs();
                        assert!(error <= 1e-5 * expected.abs(), "{features:?} {int8:?}: {c}, not {expected}");
                    }
                }
                assert!(run(&vec![1e-40; k]).iter().all(|c| c.abs() < 1e-30));
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut a = vec![1.0; k];
                    a[37] = bad;
                    assert!(run(&a).iter().all(|c| c.is_nan()), "{features:?} {int8:?} {bad}");
                }
            }
        }
    }
}

#[test]
fn a_depth_of_broken_blocks_is_refused() {
    let features = Features::detect();
    let packed = PackedMatrix::pack_blocks(4, 40, WeightFormat::Q4_0, features, |_, _| ());
    assert!(packed.unwrap_err().to_string().contains("a depth of 40 is not a whole number of blocks of 32"));
}

#[test]
fn a_packed_weight_is_no_larger_than_its_blocks_and_their_heads() {
    let features = Features::detect();
    let (n, k) = (512, 1024);
    for (format, bits) in [(WeightFormat::Q8_0, 9), (WeightFormat::Q4_0, 5), (WeightFormat::Q4_1, 5)] {
        let packed = PackedMatrix::pack_blocks(n, k, format, features, |_, to| to.fill(0)).unwrap();
        assert_eq!(packed.bytes() * 8, n * k * bits);
    }
}

#[test]
fn rows_of_a_table_in_blocks_are_looked_up() {
    let mut random = Random(5);
    for format in FORMATS {
        let (rows, width) = (7, 96);
        let (bytes, values) = blocks(format, rows * width / 32, &mut random);
        let ids = [6, 0, 3, 3];
        let mut y = vec![f32::NAN; ids.len() * width];
        let gather = Gather {
            table: bytes.as_ptr(),
            format: TableFormat::Blocks(format),
            ids: ids.as_ptr(),
            y: y.as_mut_ptr(),
            y_map: RowMap::dense(width),
            rows: ids.len(),
            width,
        };
        for task in 0..gather.tasks() {
            // SAFETY: the table holds every id, and `y` every row.
            unsafe { gather.run(Features::detect(), task, &mut []) }
        }
        for (i, &id) in ids.iter().enumerate() {
            for j in 0..width {
                let (found, expected) = (y[i * width + j], values[id as usize * width + j]);
                assert!(
                    (f64::from(found) - expected).abs() < 1e-6,
                    "{format:?}: {found}, expected {expected}"
                );
            }
        }
    }
}
