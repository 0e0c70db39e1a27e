//! The codebook kernels in emulation: the index and the margin are those of plain f32, bit for bit.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::emulated::{Emulated, everywhere, executed, settings};
use crate::support::{Random, kept};
use ptx_emulator::Report;
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

/// What a call has that the launch rule does not give it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Odd {
    /// Elements by which the codes begin beyond an aligned address.
    pub start: usize,
    /// Slices beyond the last code, as a grid for more codes has them.
    pub empty_slices: u32,
}

/// Runs both kernels and gives the indices, the margins and what the first kernel did.
fn run(
    emulated: &Emulated,
    limits: &GpuLimits,
    x: &[f32],
    codes: &[f32],
    width: usize,
    odd: Odd,
) -> (Vec<i32>, Vec<f32>, Report) {
    let (rows, count) = (x.len() / width, codes.len() / width);
    let shape = Shape { rows: rows as u64, codes: count as u64, width: width as u64 };
    let mut launches = launch(&shape, limits).unwrap();
    launches.partial.grid[1] += odd.empty_slices;
    let slices = launches.slices as usize + odd.empty_slices as usize;
    let candidates = emulated.allocate(slices * rows * 16);
    let start = odd.start;
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
    let report = emulated.launch("codebook", &launches.partial, &partial.pack());
    let (index, margin) = (emulated.allocate(rows * 4), emulated.allocate(rows * 4));
    let merge = MergeArguments { candidates, index, margin, rows: rows as i32, slices: slices as i32 };
    emulated.launch("codebook", &launches.merge, &merge.pack());
    (emulated.download(index, 0, rows), emulated.download(margin, 0, rows), report)
}

pub fn check(emulated: &Emulated, limits: &GpuLimits, x: &[f32], codes: &[f32], width: usize) -> Report {
    check_odd(emulated, limits, x, codes, width, Odd::default())
}

/// The same for a call that the launch rule would not make.
pub fn check_odd(
    emulated: &Emulated,
    limits: &GpuLimits,
    x: &[f32],
    codes: &[f32],
    width: usize,
    odd: Odd,
) -> Report {
    let (index, margin, report) = run(emulated, limits, x, codes, width, odd);
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
    report
}

/// Checks that each tile of 64 codes is copied once, 16 bytes at a time, and waited for once, and that there is none beyond. For
/// aligned codes of width 16, in blocks of 64 rows.
pub fn no_more_than_needed(report: &Report, limits: &GpuLimits, rows: usize, count: usize) {
    let shape = Shape { rows: rows as u64, codes: count as u64, width: 16 };
    let slice = launch(&shape, limits).unwrap().slice_codes as usize;
    let blocks = rows.div_ceil(64);
    let (mut tiles, mut copies) = (0, 0);
    for first in (0..count).step_by(slice) {
        for tile in (first..count.min(first + slice)).step_by(64) {
            tiles += 1;
            copies += (count.min(first + slice) - tile).min(64) * 4;
        }
    }
    let done = |start: &'static str| executed(report, "codebook", move |line| line.starts_with(start));
    assert_eq!(done("cp.async.cg") + done("cp.async.ca"), blocks * copies, "copies");
    assert_eq!(done("cp.async.commit_group"), blocks * 128 * tiles, "tiles asked for");
    assert_eq!(done("cp.async.wait_group"), blocks * 128 * tiles, "tiles waited for");
}

/// Slices in any order, of which some are equal: the lowest index of the largest score wins.
pub fn merged_in_any_order(emulated: &Emulated) {
    let mut random = Random::new(21);
    for slices in 0..120 {
        let mut slice = || (random.normal(), random.normal());
        let list: Vec<(f32, f32, i32)> = (0..slices % 12)
            .map(|at| {
                let (a, b) = slice();
                let best = if a > 0.0 { 2.0 } else { 1.0 };
                (best, best - b.abs(), 7 * at + (b * 1000.0) as i32 % 50 * 70 + 10_000)
            })
            .collect();
        // One more is there than is to be merged.
        let beyond = (3.0_f32, 0.0_f32, 5);
        let packed: Vec<[i32; 4]> = list
            .iter()
            .chain([&beyond])
            .map(|c| [c.0.to_bits() as i32, c.1.to_bits() as i32, c.2, 0])
            .collect();
        let (candidates, index, margin) =
            (emulated.upload(&packed), emulated.allocate(4), emulated.allocate(4));
        let merge = MergeArguments { candidates, index, margin, rows: 1, slices: list.len() as i32 };
        let shape = Shape { rows: 1, codes: 64 * (1 + list.len() as u64), width: 16 };
        emulated.launch("codebook", &launch(&shape, &A100).unwrap().merge, &merge.pack());
        if list.is_empty() {
            assert_eq!(emulated.download::<i32>(index, 0, 1), [0]);
            assert!(emulated.download::<f32>(margin, 0, 1)[0].is_nan());
            continue;
        }
        let best = list.iter().map(|c| c.0).fold(f32::NEG_INFINITY, f32::max);
        let first = list.iter().filter(|c| c.0 == best).min_by_key(|c| c.2).unwrap();
        let others = list.iter().filter(|c| c.2 != first.2).map(|c| c.0).fold(first.1, f32::max);
        assert_eq!(emulated.download::<i32>(index, 0, 1), [first.2], "{list:?}");
        assert_eq!(emulated.download::<f32>(margin, 0, 1), [best - others], "{list:?}");
    }
}

#[test]
fn slices_may_be_merged_in_any_order() {
    everywhere(merged_in_any_order);
}

#[test]
fn no_code_is_copied_twice_and_no_tile_is_empty() {
    let emulated = Emulated::new(settings()[0]);
    let mut random = Random::new(5);
    for (rows, count) in [(70, 330), (5, 64), (3, 129)] {
        let (x, codes) = (random.floats(rows * 16), random.floats(count * 16));
        for limits in [&A100, &GpuLimits { sms: 1, ..A100 }] {
            no_more_than_needed(&check(&emulated, limits, &x, &codes, 16), limits, rows, count);
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
    let odd = Odd { start: 1, ..Odd::default() };
    everywhere(|emulated| drop(check_odd(emulated, &one_sm, &x, &codes, 16, odd)));
}

#[test]
fn a_slice_may_have_no_codes() {
    let mut random = Random::new(9);
    let (x, codes) = (random.floats(70 * 16), random.floats(130 * 16));
    let odd = Odd { empty_slices: 2, ..Odd::default() };
    everywhere(|emulated| {
        let report = check_odd(emulated, &A100, &x, &codes, 16, odd);
        no_more_than_needed(&report, &A100, 70, 130);
    });
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
        let (index, margin, _) = run(&Emulated::new(setting), &A100, &x, &codes, width, Odd::default());
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
    let (index, margin, _) = run(emulated, &A100, &x, &codes, 16, Odd::default());
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
