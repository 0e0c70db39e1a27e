//! Softmax attention over key/value segments, and rotary embedding.

use super::array::{Array, dot, for_rows};
use selftok_graph::RopeStyle;
use std::ops::Range;

/// One pair of key and value, and the rows of it that are live.
pub struct Segment<'a> {
    /// Keys `[B or 1, M, KV*D]`.
    pub k: &'a Array,
    /// Values, of the same shape.
    pub v: &'a Array,
    /// Live rows of `M`.
    pub live: Range<usize>,
}

/// Softmax attention of `q [B or 1, N, H*D]` over segments read one after another, for a result of `batch`
/// rows: `[batch, N, H*D]`. `causal` holds the offset of [`selftok_graph::Mask::Causal`], which counts the rows of
/// the joined segments. A query that may see no key gives zeros.
pub fn attention(
    q: &Array,
    segments: &[Segment<'_>],
    heads: usize,
    kv_heads: usize,
    scale: f64,
    causal: Option<usize>,
    batch: usize,
) -> Array {
    let (n, width) = (q.shape[1], q.shape[2]);
    let d = width / heads;
    let mut out = Array::filled(&[batch, n, width], 0.0);
    let keys: usize = segments.iter().map(|s| s.live.len()).sum();
    for_rows(&mut out.data, width, batch * n * width * keys * 2, |row, out| {
        let (b, i) = (row / n, row % n);
        let at = |x: &Array, i: usize| (if x.shape[0] == 1 { 0 } else { b } * x.shape[1] + i) * x.shape[2];
        // (segment, row) of every key that this query may see.
        let mut visible = Vec::with_capacity(keys);
        let mut joined = 0;
        for segment in segments {
            for j in segment.live.clone() {
                if causal.is_none_or(|offset| joined + j <= offset + i) {
                    visible.push((segment, j));
                }
            }
            joined += segment.k.shape[1];
        }
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let kv = head / (heads / kv_heads) * d;
            let q = &q.data[at(q, i) + head * d..][..d];
            let scores: Vec<f64> =
                visible.iter().map(|(s, j)| scale * dot(q, &s.k.data[at(s.k, *j) + kv..][..d])).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for ((s, j), weight) in visible.iter().zip(&weights) {
                let v = &s.v.data[at(s.v, *j) + kv..][..d];
                out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
            }
        }
    });
    out
}

/// Rotary embedding of `x [B, N, H*D]`: row `i` turns by row `offset + i` of `table [P, R]` (`R/2` cosines, then
/// `R/2` sines), in the first `R` elements of each head.
pub fn rope(x: &Array, table: &Array, heads: usize, style: RopeStyle, offset: usize) -> Array {
    let (n, d) = (x.shape[1], x.shape[2] / heads);
    let half = table.last() / 2;
    let mut out = x.clone();
    for (row, head) in out.data.chunks_exact_mut(d).enumerate().map(|(i, head)| (i / heads % n, head)) {
        if offset + row >= table.shape[0] {
            head.fill(f64::NAN);
            continue;
        }
        let (cos, sin) = table.row(offset + row).split_at(half);
        for i in 0..half {
            let (a, b) = match style {
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                RopeStyle::Half => (i, i + half),
            };
            let (x, y) = (head[a], head[b]);
            head[a] = x * cos[i] - y * sin[i];
            head[b] = y * cos[i] + x * sin[i];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], seed: u64) -> Array {
        let mut state = seed;
        let data = (0..shape.iter().product::<usize>()).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / 8388608.0 - 1.0
        });
        Array::new(shape, data.collect())
    }

    #[test]
    fn equal_keys_average_the_values_of_every_live_row_of_every_segment() {
        let q = array(&[1, 1, 2], 1);
        let k = Array::filled(&[1, 3, 2], 0.5);
        let v = Array::new(&[1, 3, 2], vec![1., 10., 2., 20., f64::NAN, f64::NAN]);
        let w = Array::new(&[1, 1, 2], vec![6., 60.]);
        let one = Array::filled(&[1, 1, 2], 0.5);
        let segments = [Segment { k: &k, v: &v, live: 0..2 }, Segment { k: &one, v: &w, live: 0..1 }];
        assert_eq!(attention(&q, &segments, 1, 1, 1.0, None, 1).data, [3.0, 30.0]);
    }

    #[test]
    fn splitting_keys_into_segments_changes_nothing() {
        let (q, k, v) = (array(&[2, 3, 8], 1), array(&[2, 5, 4], 2), array(&[2, 5, 4], 3));
        let cut = |x: &Array, from, len| super::super::views::slice(x, 1, from, len);
        let (k0, v0, k1, v1) = (cut(&k, 0, 2), cut(&v, 0, 2), cut(&k, 2, 3), cut(&v, 2, 3));
        for causal in [None, Some(0), Some(2)] {
            let whole = attention(&q, &[Segment { k: &k, v: &v, live: 0..5 }], 4, 2, 0.7, causal, 2);
            let parts = [Segment { k: &k0, v: &v0, live: 0..2 }, Segment { k: &k1, v: &v1, live: 0..3 }];
            assert_eq!(attention(&q, &parts, 4, 2, 0.7, causal, 2), whole);
        }
    }

    #[test]
    fn the_first_causal_row_sees_only_the_first_value() {
        let (q, k, v) = (array(&[1, 2, 2], 1), array(&[1, 2, 2], 2), array(&[1, 2, 2], 3));
        let y = attention(&q, &[Segment { k: &k, v: &v, live: 0..2 }], 1, 1, 1.0, Some(0), 1);
        assert_eq!(y.data[..2], v.data[..2]);
    }

    #[test]
    fn a_quarter_turn_swaps_the_pair() {
        let x = Array::new(&[1, 1, 4], vec![1., 2., 3., 4.]);
        let table = Array::new(&[2, 4], vec![1., 1., 0., 0., 0., 0., 1., 1.]);
        assert_eq!(rope(&x, &table, 1, RopeStyle::Half, 1).data, [-3., -4., 1., 2.]);
        assert_eq!(rope(&x, &table, 1, RopeStyle::Interleaved, 1).data, [-2., 1., -4., 3.]);
        assert_eq!(rope(&x, &table, 1, RopeStyle::Half, 0).data, x.data);
    }
}
