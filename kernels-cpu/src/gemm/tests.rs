//! Every instruction set, weight kind, epilogue and row map against a product in f64.
//!
//! An f32 sum of K products is off by at most about `K eps sum |a w|`; bf16 operands are rounded first, in the
//! reference too, so the same bound holds for them. C is surrounded by canaries that must survive.

use super::*;
use crate::aligned::AlignedBuf;
use half::{bf16, f16};
use selftok_graph::Activation;

/// splitmix64, so that the cases are the same everywhere.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Uniform in [-1, 1).
    pub fn f32(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

/// Every choice of features on this machine: AVX-512 with and without bf16.
pub(crate) fn all_features() -> Vec<Features> {
    let mut all: Vec<_> = Isa::available().into_iter().map(Features::lowered_to).collect();
    if let Some(last) = all.last().copied().filter(|f| f.bf16) {
        all.push(Features { bf16: false, ..last });
    }
    all
}

pub(crate) const ACTS: [Activation; 7] = [
    Activation::Identity,
    Activation::Silu,
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Tanh,
];

pub(crate) const KINDS: [WeightKind; 7] = [
    WeightKind::Packed(WeightFormat::F32),
    WeightKind::Packed(WeightFormat::Bf16),
    WeightKind::Rows(RowsDType::F32),
    WeightKind::Rows(RowsDType::Bf16),
    WeightKind::Rows(RowsDType::F16),
    WeightKind::Packed(WeightFormat::Bf16Wide),
    WeightKind::Packed(WeightFormat::F16Wide),
];

/// A value as the kernels see it: A as it is packed, W as it is stored.
pub(crate) fn rounded_a(kind: WeightKind, x: f32) -> f64 {
    match kind {
        WeightKind::Packed(WeightFormat::Bf16) | WeightKind::Rows(RowsDType::Bf16) => {
            bf16::from_f32(x).to_f64()
        }
        _ => x as f64,
    }
}

pub(crate) fn rounded_w(kind: WeightKind, x: f32) -> f64 {
    match kind {
        WeightKind::Rows(RowsDType::F16) | WeightKind::Packed(WeightFormat::F16Wide) => {
            f16::from_f32(x).to_f64()
        }
        WeightKind::Packed(WeightFormat::Bf16Wide) => bf16::from_f32(x).to_f64(),
        _ => rounded_a(kind, x),
    }
}

/// What the sum of products becomes, and how far off f32 may be.
pub(crate) struct Want {
    pub value: f64,
    pub bound: f64,
}

/// `residual + gate * act(sum + bias)` for a sum of `k` products of total magnitude `size`.
pub(crate) fn want(k: usize, sum: f64, size: f64, act: Activation, [bias, gate, residual]: [f64; 3]) -> Want {
    let eps = f32::EPSILON as f64;
    let before = sum + bias;
    let value = residual + gate * act.eval(before);
    // No activation here is steeper than 1.2; its own error is a few ulp of its argument at most.
    let slack = (k as f64 + 4.0) * eps * (size + bias.abs());
    let bound =
        gate.abs() * (1.2 * slack + 4.0 * eps * before.abs()) + eps * (value.abs() + residual.abs()) + 1e-30;
    Want { value, bound }
}

/// A row map over `rows` rows of `cols` columns, and how many elements it spans.
fn some_map(random: &mut Random, rows: usize, cols: usize, may_broadcast: bool) -> (RowMap, usize) {
    let map = match random.below(if may_broadcast { 4 } else { 3 }) {
        0 => RowMap::dense(cols),
        1 => RowMap::dense(cols + 3),
        2 => {
            let (inner, pad) = (1 + random.below(rows), random.below(9));
            RowMap { inner, outer_stride: (inner + 2) * (cols + pad), inner_stride: cols + pad }
        }
        _ => RowMap { inner: 1 + random.below(rows), outer_stride: cols, inner_stride: 0 },
    };
    (map, (0..rows).map(|m| map.offset(m) + cols).max().unwrap_or(0))
}

pub(crate) fn scratch(bytes: usize) -> AlignedBuf {
    let mut scratch = AlignedBuf::zeroed(bytes);
    scratch.as_mut_slice().fill(0xff); // NaN: reading what was not written shows
    scratch
}

#[derive(Clone, Copy, Debug)]
struct Case {
    features: Features,
    kind: WeightKind,
    rows: usize,
    n: usize,
    k: usize,
    act: Activation,
    bias: bool,
    gate: bool,
    /// 0: none, 1: its own, 2: C itself.
    residual: usize,
    workers: usize,
    seed: u64,
}

fn bytes_of(kind: WeightKind, w: &[f32]) -> Vec<u8> {
    // One byte in front: maps are not always aligned.
    let mut bytes = vec![0u8];
    for &x in w {
        match kind {
            WeightKind::Rows(RowsDType::Bf16) => bytes.extend(bf16::from_f32(x).to_le_bytes()),
            WeightKind::Rows(RowsDType::F16) => bytes.extend(f16::from_f32(x).to_le_bytes()),
            _ => bytes.extend(x.to_le_bytes()),
        }
    }
    bytes
}

fn check(case: Case) {
    let Case { features, kind, rows, n, k, act, workers, .. } = case;
    let mut random = Random(case.seed);
    let (a_map, a_len) = some_map(&mut random, rows, k, false);
    let (c_map, c_len) = some_map(&mut random, rows, n, false);
    let (gate_map, gate_len) = some_map(&mut random, rows, n, true);
    let (residual_map, residual_len) =
        if case.residual == 2 { (c_map, 0) } else { some_map(&mut random, rows, n, true) };
    let (a, w) = (random.vec(a_len), random.vec(n * k));
    let (bias, gate, residual) = (random.vec(n), random.vec(gate_len), random.vec(residual_len));
    let canary = f32::from_bits(0x7fc0_1234);
    let mut c = vec![canary; c_len + 5];
    let before: Vec<f32> = (0..rows * n).map(|_| random.f32()).collect();
    if case.residual == 2 {
        for m in 0..rows {
            c[c_map.offset(m)..][..n].copy_from_slice(&before[m * n..(m + 1) * n]);
        }
    }

    let bytes = bytes_of(kind, &w);
    let packed = match kind {
        WeightKind::Packed(format) => Some(
            PackedMatrix::pack(n, k, format, features, |rows, to| {
                to.copy_from_slice(&w[rows.start * k..rows.end * k]);
            })
            .unwrap(),
        ),
        WeightKind::Rows(_) => None,
    };
    let weight = match &packed {
        Some(packed) => Weight::Packed(packed),
        None => Weight::Rows(bytes[1..].as_ptr()),
    };
    let max_rows = rows + random.below(20);
    let linear = Linear::prepare(&LinearSpec { max_rows, n, k, weight: kind, workers }, features).unwrap();
    let c_ptr = c.as_mut_ptr();
    let args = LinearArgs {
        rows,
        a: Rows { ptr: a.as_ptr(), map: a_map },
        weight,
        bias: case.bias.then_some(bias.as_ptr()),
        act,
        gate: case.gate.then_some(Rows { ptr: gate.as_ptr(), map: gate_map }),
        residual: match case.residual {
            0 => None,
            1 => Some(Rows { ptr: residual.as_ptr(), map: residual_map }),
            _ => Some(Rows { ptr: c_ptr.cast_const(), map: c_map }),
        },
        c: Rows { ptr: c_ptr, map: c_map },
    };
    let mut scratch = scratch(linear.scratch_bytes());
    for task in 0..linear.tasks(rows) {
        // SAFETY: the operands are as long as their maps reach, and the weight is of the prepared kind.
        unsafe { linear.run(&args, task, scratch.as_mut_slice()) }
    }

    let mut written = vec![false; c.len()];
    for m in 0..rows {
        for j in 0..n {
            let (mut sum, mut size) = (0.0, 0.0);
            for i in 0..k {
                let product = rounded_a(kind, a[a_map.offset(m) + i]) * rounded_w(kind, w[j * k + i]);
                sum += product;
                size += product.abs();
            }
            let residual = match case.residual {
                0 => 0.0,
                1 => residual[residual_map.offset(m) + j],
                _ => before[m * n + j],
            };
            let gate = if case.gate { gate[gate_map.offset(m) + j] } else { 1.0 };
            let bias = if case.bias { bias[j] } else { 0.0 };
            let want = want(k, sum, size, act, [bias, gate, residual].map(f64::from));
            let at = c_map.offset(m) + j;
            written[at] = true;
            let error = (c[at] as f64 - want.value).abs();
            assert!(error <= want.bound, "{case:?}: C[{m},{j}] = {}, expected {}", c[at], want.value);
        }
    }
    for (at, (&x, written)) in c.iter().zip(written).enumerate() {
        assert!(written || x.to_bits() == canary.to_bits(), "{case:?}: wrote outside C at {at}");
    }
}

fn plain(features: Features, kind: WeightKind, rows: usize, n: usize, k: usize) -> Case {
    let (act, seed) = (Activation::Identity, (rows * 31 + n * 7 + k) as u64);
    Case { features, kind, rows, n, k, act, bias: false, gate: false, residual: 0, workers: 2, seed }
}

#[test]
fn every_remainder_of_rows_columns_and_depth_is_exact() {
    for features in all_features() {
        for kind in KINDS {
            for rows in (1..=15).chain([28, 29]) {
                for n in [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65] {
                    check(plain(features, kind, rows, n, 1 + (rows * n) % 37));
                }
            }
        }
    }
}

#[test]
fn every_epilogue_is_applied_in_order() {
    for features in all_features() {
        for act in ACTS {
            for bits in 0..12 {
                let (bias, gate, residual) = (bits & 1 == 1, bits & 2 == 2, bits / 4);
                for (rows, n, k) in [(3, 21, 8), (31, 70, 33)] {
                    let base = plain(features, KINDS[bits % 2], rows, n, k);
                    check(Case { act, bias, gate, residual, ..base });
                }
            }
        }
    }
}

#[test]
fn depths_beyond_a_block_add_up() {
    for features in all_features() {
        for kind in KINDS {
            for (rows, k) in [(2, 511), (2, 1025), (5, 1100), (40, 513), (40, 1030), (17, 2049)] {
                check(Case { residual: 2, gate: true, ..plain(features, kind, rows, 37, k) });
            }
        }
    }
}

#[test]
fn seeded_random_products_agree() {
    let mut random = Random(20);
    for _ in 0..150 {
        let case = Case {
            features: random.pick(&all_features()),
            kind: random.pick(&KINDS),
            rows: 1 + random.below(90),
            n: 1 + random.below(150),
            k: 1 + random.below(700),
            act: random.pick(&ACTS),
            bias: random.below(2) == 0,
            gate: random.below(2) == 0,
            residual: random.below(3),
            workers: 1 + random.below(16),
            seed: random.next(),
        };
        check(case);
    }
}

#[test]
fn threads_that_share_the_tasks_give_the_same_bits() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let features = Features::detect();
    let (rows, n, k) = (100, 300, 600);
    let mut random = Random(3);
    let (a, w) = (random.vec(rows * k), random.vec(n * k));
    let read = |r: std::ops::Range<usize>, to: &mut [f32]| to.copy_from_slice(&w[r.start * k..r.end * k]);
    let packed = PackedMatrix::pack(n, k, WeightFormat::F32, features, read).unwrap();
    let run = |workers: usize| {
        let spec = LinearSpec { max_rows: rows, n, k, weight: KINDS[0], workers: 4 };
        let linear = Linear::prepare(&spec, features).unwrap();
        assert!(linear.tasks(rows) >= 4);
        let mut c = vec![f32::NAN; rows * n];
        let (next, to) = (AtomicUsize::new(0), c.as_mut_ptr() as usize);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let mut scratch = scratch(linear.scratch_bytes());
                    let args = LinearArgs {
                        rows,
                        a: Rows { ptr: a.as_ptr(), map: RowMap::dense(k) },
                        weight: Weight::Packed(&packed),
                        bias: None,
                        act: Activation::Silu,
                        gate: None,
                        residual: None,
                        c: Rows { ptr: to as *mut f32, map: RowMap::dense(n) },
                    };
                    loop {
                        let task = next.fetch_add(1, Ordering::Relaxed);
                        if task >= linear.tasks(rows) {
                            break;
                        }
                        // SAFETY: the operands have the sizes of their maps, and each task is claimed once.
                        unsafe { linear.run(&args, task, scratch.as_mut_slice()) }
                    }
                });
            }
        });
        c
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn sixteen_bits_of_a_weight_take_sixteen_bits() {
    let (n, k) = (64, 300);
    for features in all_features() {
        let bytes =
            |format| PackedMatrix::pack(n, k, format, features, |_, to| to.fill(0.0)).unwrap().bytes();
        assert_eq!(bytes(WeightFormat::F32), n * k * 4);
        assert_eq!([WeightFormat::F16Wide, WeightFormat::Bf16Wide].map(bytes), [n * k * 2; 2]);
    }
}

#[test]
fn no_rows_are_no_tasks_and_zero_sizes_are_errors() {
    let features = Features::detect();
    let spec = LinearSpec { max_rows: 4, n: 8, k: 8, weight: KINDS[0], workers: 1 };
    assert_eq!(Linear::prepare(&spec, features).unwrap().tasks(0), 0);
    let error = Linear::prepare(&LinearSpec { k: 0, ..spec }, features).err();
    assert_eq!(error, Some(GemmError::Zero { kernel: "linear", size: "k" }));
    let huge = Linear::prepare(&LinearSpec { n: usize::MAX / 2, ..spec }, features).err();
    assert!(matches!(huge, Some(GemmError::Overflow { kernel: "linear", .. })));
}

/// Sums of positive products grow all the way, so every addition rounds at the size of what is there so far. Added up one
/// after another, 512 of them are off by 2.8e-7 of the sum (root mean square); in short chains by less than half of that.
#[test]
fn a_long_sum_is_as_exact_as_short_chains_are() {
    let (rows, n, k) = (16, 64, 512);
    let mut random = Random(3);
    let [a, w] = [rows * k, n * k].map(|len| random.vec(len).iter().map(|x| x.abs()).collect::<Vec<_>>());
    for features in all_features() {
        let format = WeightFormat::F32;
        let packed = PackedMatrix::pack(n, k, format, features, |rows, to| {
            to.copy_from_slice(&w[rows.start * k..rows.end * k]);
        })
        .unwrap();
        let spec = LinearSpec { max_rows: rows, n, k, weight: WeightKind::Packed(format), workers: 1 };
        let linear = Linear::prepare(&spec, features).unwrap();
        let mut c = vec![0.0f32; rows * n];
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
        let mut scratch = scratch(linear.scratch_bytes());
        for task in 0..linear.tasks(rows) {
            // SAFETY: the operands are as long as their maps reach, and the weight is of the prepared kind.
            unsafe { linear.run(&args, task, scratch.as_mut_slice()) }
        }
        let errors = (0..rows * n).map(|at| {
            let (a, w) = (&a[at / n * k..][..k], &w[at % n * k..][..k]);
            let exact: f64 = a.iter().zip(w).map(|(&a, &w)| f64::from(a) * f64::from(w)).sum();
            (f64::from(c[at]) / exact - 1.0).powi(2)
        });
        let error = (errors.sum::<f64>() / (rows * n) as f64).sqrt();
        assert!(error < 1.5e-7, "{features:?}: {error:e}");
    }
}
