//! Weights in GGUF's blocks: products and table rows against the dequantised numbers in f64, on every instruction set.

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

fn product(features: Features, format: WeightFormat, rows: usize, n: usize, k: usize) {
    let mut random = Random((rows * 1000 + n * 10 + k) as u64);
    let (bytes, w) = blocks(format, n * k / 32, &mut random);
    let row_bytes = bytes.len() / n;
    let read = |r: std::ops::Range<usize>, to: &mut [u8]| {
        to.copy_from_slice(&bytes[r.start * row_bytes..r.end * row_bytes]);
    };
    let packed = PackedMatrix::pack_blocks(n, k, format, features, read).unwrap();
    let a: Vec<f32> = (0..rows * k).map(|_| random.unit()).collect();
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
        for j in 0..n {
            let products = (0..k).map(|i| f64::from(a[m * k + i]) * w[j * k + i]);
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let error = (f64::from(c[m * n + j]) - sum).abs();
            // A minimum is added to sums of quants up to 15 scales large.
            let bound = f64::from(f32::EPSILON) * (0.25 * k as f64 + 16.0) * (size + 1.0);
            assert!(error <= bound, "{features:?} {format:?} {rows}x{n}x{k}: C[{m},{j}] is off by {error:e}");
        }
    }
}

#[test]
fn products_with_blocks_agree_with_the_dequantised_weight() {
    for features in Isa::available().into_iter().map(Features::lowered_to) {
        for format in FORMATS {
            for rows in (1..=8).chain([13, 40]) {
                for (n, k) in [(1, 32), (16, 64), (33, 96), (70, 576), (31, 1536)] {
                    product(features, format, rows, n, k);
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
