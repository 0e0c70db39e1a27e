//! Attention over two segments of keys, with and without a causal mask.

use half::bf16;
use selftok_kernels_cuda::attention::{Arguments, Shape};
use selftok_kernels_cuda::device::DeviceError;

use super::host::{Host, address};
use super::random::{BF16_ROUNDING, Random};
use super::{Judged, Proof, Size};

#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    heads: usize,
    /// Query heads to a key head.
    group: usize,
    q_len: usize,
    /// Keys of the two segments.
    kv_len: [usize; 2],
    head_dim: usize,
    causal: bool,
}

pub fn prove(host: &Host, size: Size, repeat: usize) -> Result<Vec<Proof>, DeviceError> {
    let tiny = Case { batch: 2, heads: 2, group: 2, q_len: 20, kv_len: [50, 20], head_dim: 40, causal: true };
    let mut cases = vec![tiny];
    if size >= Size::Small {
        let plain =
            Case { batch: 1, heads: 1, group: 1, q_len: 70, kv_len: [100, 0], head_dim: 64, causal: false };
        cases.extend([8, 32, 80, 128].map(|head_dim| Case { head_dim, ..plain }));
        // Two blocks of 64 queries for every SM, or one of 128.
        let heads = host.kernels.limits().sms as usize / 2;
        cases.push(Case { heads, q_len: 256, kv_len: [40, 30], ..plain });
        cases.push(Case { q_len: 30, kv_len: [0, 9], ..plain });
    }
    if size == Size::Large {
        cases.push(Case {
            batch: 4,
            heads: 24,
            group: 1,
            q_len: 768,
            kv_len: [256, 512],
            head_dim: 64,
            causal: false,
        });
    }
    cases.into_iter().map(|case| one(host, case, repeat)).collect()
}

/// A tensor `[batch, rows, heads, head_dim]` with 8 elements after each row, as fused projections leave them.
struct Rows {
    values: Vec<bf16>,
    rows: usize,
    row: usize,
    head_dim: usize,
}

impl Rows {
    fn new(random: &mut Random, case: &Case, heads: usize, rows: usize) -> Self {
        let width = heads * case.head_dim;
        let row = width + 8;
        Self { values: random.rows(case.batch * rows, width, row), rows, row, head_dim: case.head_dim }
    }

    fn batch_stride(&self) -> i64 {
        (self.rows * self.row) as i64
    }

    fn at(&self, batch: usize, head: usize, row: usize) -> &[bf16] {
        &self.values[(batch * self.rows + row) * self.row + head * self.head_dim..][..self.head_dim]
    }
}

fn one(host: &Host, case: Case, repeat: usize) -> Result<Proof, DeviceError> {
    let Case { batch, heads, group, q_len, kv_len, head_dim, causal } = case;
    let (kv_heads, all) = (heads / group, kv_len[0] + kv_len[1]);
    let mut random = Random::new((q_len * head_dim + all) as u64);
    let q = Rows::new(&mut random, &case, heads, q_len);
    let [k0, v0, k1, v1] = [kv_len[0], kv_len[0], kv_len[1], kv_len[1]]
        .map(|rows| Rows::new(&mut random, &case, kv_heads, rows));
    let scale = 1.0 / (head_dim as f32).sqrt();
    let q_position = if causal { all as i32 - q_len as i32 } else { 0 };

    let mut on = Vec::new();
    for rows in [&q, &k0, &v0, &k1, &v1] {
        on.push(if rows.values.is_empty() { None } else { Some(host.upload_pinned(&rows.values)?) });
    }
    let out_row = heads * head_dim + 8;
    let out = host.zeros::<bf16>(batch * q_len * out_row)?;
    let head = head_dim as i64;
    let arguments = Arguments {
        q: address(on[0].as_ref()),
        k0: address(on[1].as_ref()),
        v0: address(on[2].as_ref()),
        k1: address(on[3].as_ref()),
        v1: address(on[4].as_ref()),
        out: address(Some(&out)),
        q_len: q_len as i32,
        kv_len0: kv_len[0] as i32,
        kv_len1: kv_len[1] as i32,
        head_dim: head_dim as i32,
        head_group: group as i32,
        q_batch: q.batch_stride(),
        q_head: head,
        q_row: q.row as i64,
        kv0_batch: k0.batch_stride(),
        kv0_head: head,
        kv0_row: k0.row as i64,
        kv1_batch: k1.batch_stride(),
        kv1_head: head,
        kv1_row: k1.row as i64,
        out_batch: (q_len * out_row) as i64,
        out_head: head,
        out_row: out_row as i64,
        causal: i32::from(causal),
        q_position,
        scale,
    };
    let shape = Shape {
        batch: batch as u64,
        heads: heads as u64,
        kv_heads: kv_heads as u64,
        q_len: q_len as u64,
        head_dim: head_dim as u64,
    };
    let mut kernels = String::new();
    let marks = host.run(repeat, |stream| {
        // SAFETY: the slices are as large as the lengths and the strides say, and live until the download.
        let launch = unsafe { host.kernels.attention(stream, &shape, &arguments) }?;
        kernels = launch.entry.to_owned();
        Ok(())
    })?;
    let got = host.download(&out)?;

    let milliseconds = marks.best()?;
    let mut judged = Judged::default();
    let step = (batch * heads * q_len * all * head_dim / 100_000_000).max(1);
    for row in (0..batch * heads * q_len).rev().step_by(step) {
        let (b, h, i) = (row / (heads * q_len), row / q_len % heads, row % q_len);
        let kv = h / group;
        let key = |j: usize| match j.checked_sub(kv_len[0]) {
            None => (k0.at(b, kv, j), v0.at(b, kv, j)),
            Some(j) => (k1.at(b, kv, j), v1.at(b, kv, j)),
        };
        let seen = if causal { (q_position + i as i32 + 1) as usize } else { all };
        let dot = |k: &[bf16]| q.at(b, h, i).iter().zip(k).map(|(q, k)| q.to_f64() * k.to_f64()).sum::<f64>();
        let scores: Vec<f64> = (0..seen).map(|j| dot(key(j).0) * f64::from(scale)).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let at = (b * q_len + i) * out_row;
        for d in 0..head_dim {
            let terms = weights.iter().enumerate().map(|(j, w)| w / total * key(j).1[d].to_f64());
            let (exact, magnitude) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            // Each weight is rounded to bf16 before it meets its value, and so is the result; the rest is f32.
            let tolerance = (magnitude * 1.05 + exact.abs() * 1.01) * BF16_ROUNDING + 1e-6;
            judged.compare(got[at + h * head_dim + d].to_f64(), exact, tolerance, || {
                format!("batch {b} head {h} row {i} column {d}")
            });
        }
        if got[at + heads * head_dim..at + out_row].iter().any(|o| o.to_bits() != 0) {
            judged.fail(|| format!("what follows row {i} of batch {b} was written"));
        }
    }
    let mask = if causal { ", causal" } else { "" };
    let shape = format!(
        "{batch}x{heads}/{kv_heads}x{q_len} over {}+{}, width {head_dim}{mask}",
        kv_len[0], kv_len[1]
    );
    let flop = (4 * batch * heads * q_len * all * head_dim) as f64;
    Ok(Proof { kernels, shape, judged, milliseconds, flop })
}
