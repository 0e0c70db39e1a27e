//! The codebook kernels in emulation: the index and the margin are those of plain f32, bit for bit.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::emulated::{Emulated, everywhere, settings};
use crate::support::{Random, kept};
use selftok_kernels_cuda::codebook::{MergeArguments, PartialArguments, Shape, launch};
use selftok_kernels_cuda::{A100, GpuLimits};

/// The same sums in the same order on the CPU: fused multiply-adds, the first index on ties, and the margin.
fn reference(x: &[f32], codes: &[f32]) -> (i32, f32) {
    let norm = x.iter().fold(0.0_f32, |s, &v| v.mul_add(v, s)).sqrt().max(1e-12);
    let (mut best, mut second, mut index) = (f32::NEG_INFINITY, f32::NEG_INFINITY, 0);
    for (v, code) in codes.chunks(x.len()).enumerate() {
        let score = x.iter().zip(code).fold(0.0_f32, |s, (&a, &b)| (a / norm).mul_add(b, s));
        if score > best {
            (second, best, index) = (best, score, v as i32);
        } else {
            second = second.max(score);
        }
    }
    (index, best - second)
}

/// The largest of the f64 scores and the next, and where.
fn exact(x: &[f32], codes: &[f32]) -> (i32, f64) {
    let norm = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    let score =
        |code: &[f32]| x.iter().zip(code).map(|(&a, &b)| f64::from(a) / norm * f64::from(b)).sum::<f64>();
    let mut scores: Vec<_> = codes.chunks(x.len()).map(score).zip(0..).collect();
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    (scores[0].1, scores[0].0 - scores.get(1).map_or(f64::NEG_INFINITY, |s| s.0))
}

/// Runs both kernels and gives the indices and margins. The codes begin `start` elements beyond an aligned address.
fn run(
    emulated: &Emulated,
    limits: &GpuLimits,
    x: &[f32],
    codes: &[f32],
    width: usize,
    start: usize,
) -> (Vec<i32>, Vec<f32>) {
    let (rows, count) = (x.len() / width, codes.len() / width);
    let shape = Shape { rows: rows as u64, codes: count as u64, width: width as u64 };
    let launches = launch(&shape, limits).unwrap();
    let candidates = emulated.allocate(launches.workspace_bytes as usize);
    let partial = PartialArguments {
        x: emulated.upload(x),
        codes: emulated.upload(&[&vec![f32::NAN; start], codes].concat()) + start as u64 * 4,
        candidates,
        rows: rows as i32,
        c: width as i32,
        v: count as i32,
        x_stride: width as i64,
        slice_codes: launches.slice_codes as i32,
        eps: 1e-12,
    };
    emulated.launch("codebook", &launches.partial, &partial.pack());
    let (index, margin) = (emulated.allocate(rows * 4), emulated.allocate(rows * 4));
    let merge =
        MergeArguments { candidates, index, margin, rows: rows as i32, slices: launches.slices as i32 };
    emulated.launch("codebook", &launches.merge, &merge.pack());
    (emulated.download(index, 0, rows), emulated.download(margin, 0, rows))
}

pub fn check(emulated: &Emulated, limits: &GpuLimits, x: &[f32], codes: &[f32], width: usize) {
    check_from(emulated, limits, x, codes, width, 0);
}

/// The same for codes that begin `start` elements beyond an aligned address.
pub fn check_from(
    emulated: &Emulated,
    limits: &GpuLimits,
    x: &[f32],
    codes: &[f32],
    width: usize,
    start: usize,
) {
    let (index, margin) = run(emulated, limits, x, codes, width, start);
    let rows = x.chunks(width);
    let references = kept((bits(x), bits(codes), width), || {
        rows.map(|row| (reference(row, codes), exact(row, codes))).collect::<Vec<_>>()
    });
    for (r, &(expected, (best, exact_margin))) in references.iter().enumerate() {
        assert_eq!((index[r], margin[r]), expected, "row {r} over {} codes", codes.len() / width);
        // And f32 is enough wherever the margin says so: a score errs by at most a few roundings of |code| < 16.
        if exact_margin > 1e-4 {
            assert_eq!(index[r], best, "row {r}: f32 and f64 differ at a margin of {exact_margin}");
        }
    }
}

/// Stands for these values in a key.
fn bits(values: &[f32]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    values.iter().for_each(|x| x.to_bits().hash(&mut hasher));
    (values.len(), hasher.finish())
}

#[test]
fn every_width_and_every_slicing_gives_the_f32_answer() {
    // One SM makes one slice of many tiles, 108 make a slice of each tile.
    let one_sm = GpuLimits { sms: 1, ..A100 };
    everywhere(|emulated| {
        for (rows, count, width) in [(70, 330, 16), (33, 130, 7), (65, 70, 31), (3, 200, 64), (1, 1, 20)] {
            let mut random = Random::new((rows * count) as u64);
            let (x, codes) = (random.floats(rows * width), random.floats(count * width));
            for limits in [&A100, &one_sm] {
                check(emulated, limits, &x, &codes, width);
            }
        }
    });
}

#[test]
fn codes_may_begin_at_any_element() {
    let mut random = Random::new(3);
    let (x, codes) = (random.floats(5 * 16), random.floats(700 * 16));
    let one_sm = GpuLimits { sms: 1, ..A100 };
    everywhere(|emulated| check_from(emulated, &one_sm, &x, &codes, 16, 1));
}

#[test]
fn of_equal_scores_the_first_wins_and_the_margin_is_zero() {
    let mut random = Random::new(7);
    let (rows, count, width) = (64, 300, 16);
    let mut codes = random.floats(count * width);
    // The same code four times: twice in one tile, once in another warp's share, once in another slice.
    for copy in [13, 15, 270] {
        codes.copy_within(9 * width..10 * width, copy * width);
    }
    let x: Vec<f32> = (0..rows).flat_map(|_| codes[9 * width..10 * width].to_vec()).collect();
    for setting in settings() {
        let (index, margin) = run(&Emulated::new(setting), &A100, &x, &codes, width, 0);
        assert!(index.iter().all(|&i| i == 9), "{index:?}");
        assert!(margin.iter().all(|&m| m == 0.0), "{margin:?}");
    }
}

/// A row of zeros, one with a NaN, and one shorter than the least norm, beside an ordinary one.
pub fn odd_rows(emulated: &Emulated) {
    let mut random = Random::new(8);
    let codes = random.floats(100 * 16);
    let mut x = random.floats(4 * 16);
    x[16..32].fill(0.0);
    x[40] = f32::NAN;
    x[48..].iter_mut().for_each(|x| *x *= 1e-14);
    let (index, margin) = run(emulated, &A100, &x, &codes, 16, 0);
    assert_eq!((index[0], margin[0]), reference(&x[..16], &codes));
    assert_eq!((index[1], margin[1]), (0, 0.0));
    assert!(index[2] == 0 && margin[2].is_nan(), "{} {}", index[2], margin[2]);
    assert_eq!((index[3], margin[3]), reference(&x[48..], &codes));
}

/// The index alone, where nobody asks for the margin.
pub fn without_margin(emulated: &Emulated) {
    let candidate = |best: f32, index: i32| [best.to_bits() as i32, 0f32.to_bits() as i32, index, 0];
    let candidates = emulated.upload(&[candidate(1.0, 3), candidate(2.0, 70)]);
    let index = emulated.allocate(4);
    let merge = MergeArguments { candidates, index, margin: 0, rows: 1, slices: 2 };
    let shape = Shape { rows: 1, codes: 128, width: 16 };
    emulated.launch("codebook", &launch(&shape, &A100).unwrap().merge, &merge.pack());
    assert_eq!(emulated.download::<i32>(index, 0, 1), [70]);
}

#[test]
fn the_margin_may_be_left_out() {
    without_margin(&Emulated::new(settings()[0]));
}

#[test]
fn a_zero_row_takes_the_first_code_and_a_nan_row_says_so_in_its_margin() {
    odd_rows(&Emulated::new(settings()[0]));
}
