//! Flash attention in emulation, against f64.

use crate::emulated::{Emulated, everywhere, executed, settings};
use crate::support::{BF16_ROUNDING, Expected, Random, kept};
use half::bf16;
use ptx_emulator::Report;
use selftok_kernels_cuda::Launch;
use selftok_kernels_cuda::attention::{Arguments, FAMILY};

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub entry: &'static str,
    pub batch: usize,
    pub heads: usize,
    pub head_group: usize,
    pub q_len: usize,
    /// Keys of the two segments.
    pub kv_len: [usize; 2],
    pub head_dim: usize,
    /// The position of the first query, if the mask is causal.
    pub causal: Option<i32>,
    /// Whether all queries are positive and all keys negative, so that a key that is not there, and counts as zero, would outweigh all
    /// that are.
    pub opposed: bool,
    /// Whether the first key has a -inf, so that positive queries give it no weight, or the first value has an inf, which is then the
    /// output's in that column. Neither may reach columns or keys that are not there.
    pub infinite: Option<Infinite>,
}

/// Where a [`Case`] has an infinity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Infinite {
    Key,
    Value,
}

pub const PLAIN: Case = Case {
    entry: "attention_d64_q64",
    batch: 1,
    heads: 1,
    head_group: 1,
    q_len: 64,
    kv_len: [64, 0],
    head_dim: 64,
    causal: None,
    opposed: false,
    infinite: None,
};

/// A tensor `[batch, rows, heads, head_dim]` with a gap after each row, as fused projections leave it. What is in the gap must not
/// matter, so it is NaN.
struct Rows {
    values: Vec<bf16>,
    rows: usize,
    row: usize,
    head_dim: usize,
}

impl Rows {
    fn new(random: &mut Random, case: &Case, heads: usize, rows: usize, gap: usize) -> Self {
        let width = heads * case.head_dim;
        let row = width + gap;
        let mut values = random.bf16s(case.batch * rows * row);
        values.iter_mut().enumerate().filter(|(i, _)| i % row >= width).for_each(|(_, v)| *v = bf16::NAN);
        Self { values, rows, row, head_dim: case.head_dim }
    }

    fn batch_stride(&self) -> i64 {
        (self.rows * self.row) as i64
    }

    fn at(&self, batch: usize, head: usize, row: usize, column: usize) -> f64 {
        self.values[(batch * self.rows + row) * self.row + head * self.head_dim + column].to_f64()
    }
}

/// The operands of a case, and what is right.
struct Prepared {
    q: Rows,
    k0: Rows,
    v0: Rows,
    k1: Rows,
    v1: Rows,
    /// `[batch, q_len, heads, head_dim]`.
    expected: Vec<Expected>,
}

/// 1/sqrt(head_dim).
fn scale(case: &Case) -> f32 {
    1.0 / (case.head_dim as f32).sqrt()
}

fn prepare(case: Case) -> Prepared {
    let Case { batch, heads, head_group, q_len, kv_len, head_dim, causal, opposed, .. } = case;
    let mut random = Random::new((q_len * head_dim + kv_len[0]) as u64);
    // Gaps that reach to the end of the widest padded head, and differ, so that no stride can stand in for another.
    let mut q = Rows::new(&mut random, &case, heads, q_len, 56);
    let kv_heads = heads / head_group;
    let [mut k0, mut v0, mut k1, v1] = [(kv_len[0], 64), (kv_len[0], 64), (kv_len[1], 72), (kv_len[1], 72)]
        .map(|(rows, gap)| Rows::new(&mut random, &case, kv_heads, rows, gap));
    if opposed {
        q.values.iter_mut().for_each(|x| *x = bf16::from_f32(x.to_f32().abs()));
        let keys = k0.values.iter_mut().chain(&mut k1.values);
        keys.for_each(|x| *x = bf16::from_f32(-x.to_f32().abs()));
    }
    match case.infinite {
        None => {}
        Some(Infinite::Key) => k0.values[0] = bf16::NEG_INFINITY,
        Some(Infinite::Value) => v0.values[0] = bf16::INFINITY,
    }
    let scale = scale(&case);
    let mut expected = Vec::with_capacity(batch * q_len * heads * head_dim);
    for b in 0..batch {
        for i in 0..q_len {
            for h in 0..heads {
                let kv = h / head_group;
                let key = |j: usize, d: usize| match j.checked_sub(kv_len[0]) {
                    None => (k0.at(b, kv, j, d), v0.at(b, kv, j, d)),
                    Some(j) => (k1.at(b, kv, j, d), v1.at(b, kv, j, d)),
                };
                let all = kv_len[0] + kv_len[1];
                let seen = causal.map_or(all, |p| (p + i as i32 + 1).clamp(0, all as i32) as usize);
                let scores: Vec<f64> = (0..seen)
                    .map(|j| {
                        (0..head_dim).map(|d| q.at(b, h, i, d) * key(j, d).0).sum::<f64>() * f64::from(scale)
                    })
                    .collect();
                let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
                let total: f64 = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                expected.extend((0..head_dim).map(|d| {
                    let terms = weights.iter().enumerate().map(|(j, w)| w / total * key(j, d).1);
                    let (value, magnitude) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
                    // Each weight is rounded to bf16 before it meets its value; the rest is f32.
                    let tolerance = magnitude * BF16_ROUNDING * 1.05 + 1e-6;
                    Expected { value, tolerance }.stored_as_bf16()
                }));
            }
        }
    }
    Prepared { q, k0, v0, k1, v1, expected }
}

pub fn run(emulated: &Emulated, case: Case) -> Report {
    let Case { entry, batch, heads, head_group, q_len, kv_len, head_dim, causal, .. } = case;
    let prepared = kept(case, || prepare(case));
    let Prepared { q, k0, v0, k1, v1, expected } = &*prepared;
    let upload = |rows: &Rows| if rows.values.is_empty() { 0 } else { emulated.upload(&rows.values) };
    let out_row = heads * head_dim + 8;
    let out = emulated.allocate(batch * q_len * out_row * 2);
    let arguments = Arguments {
        q: upload(q),
        k0: upload(k0),
        v0: upload(v0),
        k1: upload(k1),
        v1: upload(v1),
        out,
        q_len: q_len as i32,
        kv_len0: kv_len[0] as i32,
        kv_len1: kv_len[1] as i32,
        head_dim: head_dim as i32,
        head_group: head_group as i32,
        q_batch: q.batch_stride(),
        q_head: head_dim as i64,
        q_row: q.row as i64,
        kv0_batch: k0.batch_stride(),
        kv0_head: head_dim as i64,
        kv0_row: k0.row as i64,
        kv1_batch: k1.batch_stride(),
        kv1_head: head_dim as i64,
        kv1_row: k1.row as i64,
        out_batch: (q_len * out_row) as i64,
        out_head: head_dim as i64,
        out_row: out_row as i64,
        causal: i32::from(causal.is_some()),
        q_position: causal.unwrap_or(0),
        scale: scale(&case),
    };
    let queries = if entry.ends_with("q128") { 128 } else { 64 };
    let launch = Launch {
        entry,
        grid: [q_len.div_ceil(queries) as u32, heads as u32, batch as u32],
        block: [128, 1, 1],
        shared_bytes: FAMILY.entry(entry).unwrap().dynamic_shared,
    };
    let report = emulated.launch("attention", &launch, &arguments.pack());
    let width = heads * head_dim;
    for row in 0..batch * q_len {
        let got: Vec<bf16> = emulated.download(out, row * out_row, width);
        emulated.untouched::<bf16>(out, row * out_row + width, 8);
        for (at, (got, expected)) in got.iter().zip(&expected[row * width..]).enumerate() {
            let place = || format!("{case:?} row {row} head {} column {}", at / head_dim, at % head_dim);
            expected.check(got.to_f64(), place);
        }
    }
    report
}

/// Checks that a block copies and multiplies the tiles of 64 keys of which one of its queries sees a key, and no others, and tests
/// single keys only in those that a warp of it does not see whole. Of `attention_d64_q64`.
pub fn no_more_than_needed(report: &Report, case: Case) {
    let [len0, len1] = case.kv_len.map(|n| n as i64);
    let (mut tiles, mut tested) = (0, 0);
    for block in (0..case.q_len as i64).step_by(64) {
        let position = |row: i64| i64::from(case.causal.unwrap_or(i32::MAX)) + row;
        let last = (block + 64).min(case.q_len as i64) - 1;
        let visible = (position(last) + 1).clamp(0, len0 + len1);
        let segments = [(visible.min(len0), len0, 0), ((visible - len0).max(0), len1, len0)];
        for (seen, len, before) in segments {
            for first in (0..seen).step_by(64) {
                tiles += 1;
                let whole =
                    |warp: i64| first + 64 <= len && before + first + 63 <= position(block + 16 * warp);
                tested += (0..4).filter(|&warp| !whole(warp)).count();
            }
        }
    }
    let grids = case.batch * case.heads;
    let count = |wanted: fn(&str) -> bool| executed(report, "attention", wanted);
    let place = format!("{case:?}");
    // A warp multiplies 16 fragments of keys and 16 of values, by two m16n8k16 each; a thread copies eight chunks, and has 32 scores.
    assert_eq!(count(|l| l.starts_with("mma")), grids * tiles * 128 * 64, "products of {place}");
    assert_eq!(count(|l| l.starts_with("cp.async.cg")), grids * tiles * 128 * 8, "copies of {place}");
    let masks = count(|l| l.starts_with("selp.f32") && l.contains("0fFF800000"));
    assert_eq!(masks, grids * tested * 32 * 32, "scores tested of {place}");
}

#[test]
fn no_tile_is_loaded_that_nobody_sees() {
    let emulated = Emulated::new(settings()[0]);
    for (causal, kv_len) in work() {
        let case = Case { q_len: 150, kv_len, causal, ..PLAIN };
        no_more_than_needed(&run(&emulated, case), case);
    }
}

/// Masks and segments that leave tiles unseen, seen in part and seen whole.
pub fn work() -> impl Iterator<Item = (Option<i32>, [usize; 2])> {
    [
        (None, [128, 0]),
        (None, [100, 64]),
        (None, [64, 30]),
        (Some(0), [150, 0]),
        (Some(1), [150, 0]),
        (Some(20), [250, 0]),
        (Some(63), [214, 0]),
        (Some(-1), [200, 0]),
        (Some(-70), [200, 0]),
        (Some(-200), [70, 3]),
        (Some(0), [70, 200]),
        (Some(0), [64, 128]),
        (Some(1000), [70, 64]),
    ]
    .into_iter()
}

#[test]
fn an_infinity_stays_where_it_is() {
    everywhere(|emulated| {
        let case = Case { q_len: 20, ..PLAIN };
        for kv_len in [[5, 0], [70, 0], [130, 0], [5, 70]] {
            run(emulated, Case { kv_len, infinite: Some(Infinite::Value), ..case });
            let key = Case { kv_len, opposed: true, infinite: Some(Infinite::Key), ..case };
            run(emulated, Case { head_dim: 40, ..key });
        }
    });
}

#[test]
fn whole_tiles_remainders_and_both_block_sizes() {
    everywhere(|emulated| {
        run(emulated, PLAIN);
        run(emulated, Case { q_len: 70, kv_len: [100, 0], ..PLAIN });
        run(emulated, Case { entry: "attention_d64_q128", q_len: 130, kv_len: [70, 0], ..PLAIN });
    });
}

#[test]
fn a_second_segment_follows_the_first() {
    everywhere(|emulated| {
        run(emulated, Case { q_len: 20, kv_len: [65, 37], ..PLAIN });
        run(emulated, Case { q_len: 5, kv_len: [0, 9], ..PLAIN });
    });
}

#[test]
fn keys_end_anywhere_in_a_tile_and_heads_at_any_multiple_of_eight() {
    everywhere(|emulated| {
        for end in 1..=16 {
            run(emulated, Case { q_len: 3, kv_len: [64 + 4 * end - end % 2, 0], opposed: true, ..PLAIN });
        }
        for head_dim in (8..64).step_by(8) {
            run(emulated, Case { q_len: 9, kv_len: [9, 0], head_dim, ..PLAIN });
        }
    });
}

#[test]
fn groups_of_heads_share_keys_in_every_sequence() {
    everywhere(|emulated| {
        run(emulated, Case { batch: 2, heads: 4, head_group: 2, q_len: 10, kv_len: [12, 5], ..PLAIN });
    });
}

#[test]
fn every_width_of_head_has_an_instance() {
    everywhere(|emulated| {
        for (entry, head_dim) in [
            ("attention_d32_q64", 16),
            ("attention_d32_q64", 32),
            ("attention_d64_q64", 40),
            ("attention_d96_q64", 80),
            ("attention_d96_q64", 96),
            ("attention_d128_q64", 128),
        ] {
            run(emulated, Case { entry, head_dim, q_len: 20, kv_len: [70, 0], ..PLAIN });
        }
    });
}

#[test]
fn a_causal_mask_counts_positions_through_both_segments() {
    everywhere(|emulated| {
        run(emulated, Case { q_len: 70, kv_len: [70, 0], causal: Some(0), ..PLAIN });
        run(emulated, Case { q_len: 20, kv_len: [50, 20], causal: Some(50), ..PLAIN });
        // The first ten queries see nothing, and give zeros.
        run(emulated, Case { q_len: 30, kv_len: [70, 3], causal: Some(-10), ..PLAIN });
        run(
            emulated,
            Case { entry: "attention_d64_q128", q_len: 130, kv_len: [130, 0], causal: Some(0), ..PLAIN },
        );
    });
}

#[test]
fn no_access_to_shared_memory_conflicts() {
    let emulated = Emulated::new(settings()[0]);
    for (entry, head_dim) in [
        ("attention_d32_q64", 32),
        ("attention_d64_q64", 64),
        ("attention_d96_q64", 96),
        ("attention_d128_q64", 128),
    ] {
        let report = run(&emulated, Case { entry, head_dim, kv_len: [128, 0], ..PLAIN });
        assert!(report.counters.iter().any(|c| c.wavefronts > 0));
        for c in &report.counters {
            assert_eq!(c.wavefronts, c.ideal_wavefronts, "{entry}: bank conflicts at PTX line {}", c.line);
        }
    }
}
