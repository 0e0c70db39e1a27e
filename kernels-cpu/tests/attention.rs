//! Attention against softmax written out in f64, over head sizes, segments, masks, groups and strides.

mod support;

use selftok_kernels_cpu::attention::{Attention, Mask, Segment, Strides};
use support::{all_features, assert_close, random, run_all};

#[derive(Clone)]
struct Case {
    batch: usize,
    q_rows: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    segments: Vec<usize>,
    mask: Mask,
    lens: Option<Vec<u32>>,
    /// Magnitude of the queries: large ones make the softmax peaked.
    sharpness: f32,
}

impl Case {
    fn new(q_rows: usize, dim: usize, segments: &[usize]) -> Case {
        Case {
            batch: 1,
            q_rows,
            heads: 2,
            kv_heads: 2,
            dim,
            segments: segments.to_vec(),
            mask: Mask::None,
            lens: None,
            sharpness: 3.0,
        }
    }
}

fn check(case: &Case) {
    let Case { batch, q_rows, heads, kv_heads, dim, .. } = *case;
    // Rows are wider than what is used of them, as those of a fused qkv projection are.
    let (q_row, kv_row, out_row) = (heads * dim + 5, kv_heads * dim + 3, heads * dim + 7);
    let q: Vec<f32> = random(1, batch * q_rows * q_row).iter().map(|x| x * case.sharpness).collect();
    let kv: Vec<(Vec<f32>, Vec<f32>)> = case
        .segments
        .iter()
        .enumerate()
        .map(|(i, &rows)| {
            (random(10 + i as u64, batch * rows * kv_row), random(20 + i as u64, batch * rows * kv_row))
        })
        .collect();
    let scale = 1.0 / (dim as f32).sqrt();

    let mut want = vec![0.0f64; batch * q_rows * out_row];
    for b in 0..batch {
        for h in 0..heads {
            let g = h / (heads / kv_heads);
            let joined: Vec<(&[f32], &[f32])> = kv
                .iter()
                .zip(&case.segments)
                .flat_map(|((k, v), &rows)| {
                    (0..rows).map(move |r| {
                        let at = (b * rows + r) * kv_row + g * dim;
                        (&k[at..at + dim], &v[at..at + dim])
                    })
                })
                .collect();
            for i in 0..q_rows {
                let mut seen = case.lens.as_ref().map_or(joined.len(), |l| l[b] as usize);
                if let Mask::Causal { q_position0 } = case.mask {
                    seen = seen.min(q_position0 + i + 1);
                }
                let at = (b * q_rows + i) * q_row + h * dim;
                let dot = |k: &[f32]| -> f64 {
                    q[at..at + dim].iter().zip(k).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>()
                        * f64::from(scale)
                };
                let scores: Vec<f64> = joined[..seen].iter().map(|(k, _)| dot(k)).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for d in 0..dim {
                    let sum: f64 =
                        scores.iter().zip(&joined).map(|(s, (_, v))| (s - max).exp() * f64::from(v[d])).sum();
                    want[(b * q_rows + i) * out_row + h * dim + d] =
                        if seen == 0 { 0.0 } else { sum / total };
                }
            }
        }
    }

    let mut segments = [Segment::EMPTY; 4];
    for (i, ((k, v), &rows)) in kv.iter().zip(&case.segments).enumerate() {
        let strides = Strides { batch: rows * kv_row, row: kv_row, head: dim };
        segments[i] = Segment { k: k.as_ptr(), v: v.as_ptr(), rows, k_strides: strides, v_strides: strides };
    }
    for (features, workers) in all_features().into_iter().flat_map(|f| [(f, 1), (f, 64)]) {
        let mut out = vec![0.0f32; batch * q_rows * out_row];
        let args = Attention {
            q: q.as_ptr(),
            q_strides: Strides { batch: q_rows * q_row, row: q_row, head: dim },
            out: out.as_mut_ptr(),
            out_strides: Strides { batch: q_rows * out_row, row: out_row, head: dim },
            segments,
            batch,
            q_rows,
            heads,
            kv_heads,
            head_dim: dim,
            scale,
            mask: case.mask,
            kv_lens: case.lens.as_ref().map_or(std::ptr::null(), |l| l.as_ptr()),
            workers,
        };
        run_all(&args, features);
        // Scores are at most sharpness * sqrt(dim) in size; their rounding is the relative error of a weight.
        let size = f64::from(case.sharpness) * (dim as f64).sqrt();
        let bound = 1.2e-7 * (8.0 + 2.0 * size);
        assert_close(&format!("{}, {q_rows} x {dim}", features.isa.name()), &out, &want, |_| bound);
    }
}

#[test]
fn head_sizes_with_and_without_remainders() {
    for dim in [1, 5, 8, 16, 24, 64, 72, 80, 88, 96, 100, 128, 160, 512] {
        check(&Case::new(19, dim, &[37]));
        check(&Case::new(3, dim, &[37]));
    }
}

#[test]
fn row_and_key_counts_around_the_tiles() {
    for q_rows in [1, 2, 3, 5, 7, 8, 9, 15, 33, 127, 150, 256, 257] {
        for keys in [1, 15, 31, 33, 127, 128, 129, 300] {
            check(&Case::new(q_rows, 16, &[keys]));
        }
    }
}

#[test]
fn segments_read_as_if_joined() {
    for q_rows in [2, 40] {
        for segments in [&[100, 60][..], &[0, 5, 0, 7], &[1, 1, 1, 1], &[130, 3, 17, 128], &[33, 0, 0, 16]] {
            check(&Case::new(q_rows, 64, segments));
        }
    }
}

#[test]
fn causal_masks_at_any_position() {
    for (q_rows, q_position0, keys) in
        [(17, 0, 17), (200, 0, 200), (1, 30, 31), (4, 100, 104), (50, 100, 150), (20, 0, 300), (9, 3, 5)]
    {
        let mask = Mask::Causal { q_position0 };
        check(&Case { mask, ..Case::new(q_rows, 24, &[keys]) });
        check(&Case { mask, heads: 6, kv_heads: 2, ..Case::new(q_rows, 16, &[keys / 2, keys - keys / 2]) });
    }
}

#[test]
fn grouped_queries_and_batches_of_their_own_lengths() {
    for q_rows in [1, 2, 70] {
        let lens = Some(vec![40, 0, 129]);
        check(&Case { batch: 3, heads: 8, kv_heads: 2, lens, ..Case::new(q_rows, 32, &[100, 30]) });
        let lens = Some(vec![7, 130]);
        check(&Case {
            batch: 2,
            heads: 4,
            kv_heads: 1,
            lens,
            mask: Mask::Causal { q_position0: 5 },
            ..Case::new(q_rows, 40, &[130])
        });
    }
}

#[test]
fn peaked_scores_do_not_overflow() {
    check(&Case { sharpness: 200.0, ..Case::new(33, 64, &[150]) });
    check(&Case { sharpness: 200.0, ..Case::new(2, 64, &[150]) });
}
