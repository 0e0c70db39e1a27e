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

/// Causal attention of packed rows `q [R, H*D]` over caches `k, v [S, L, KV*D]`: row `i` sees rows `0..=position[i]` of
/// cache `sequence[i]`, or the last `window` of them. Dead rows (NaN indices) give NaN; `None` where an index is no row of the caches.
pub fn cached_attention(
    q: &Array,
    (k, v): (&Array, &Array),
    (sequence, position): (&Array, &Array),
    (heads, kv_heads): (usize, usize),
    scale: f64,
    window: Option<usize>,
) -> Option<Array> {
    let (width, d) = (q.last(), q.last() / heads);
    let mut out = Array::filled(&q.shape, f64::NAN);
    for row in 0..q.rows() {
        let (sequence, position) = (sequence.data[row], position.data[row]);
        if sequence.is_nan() || position.is_nan() {
            continue;
        }
        if sequence < 0.0 || sequence >= k.shape[0] as f64 || position < 0.0 || position >= k.shape[1] as f64
        {
            return None;
        }
        let at = |j: usize| (sequence as usize * k.shape[1] + j) * k.shape[2];
        let position = position as usize;
        let seen = (position + 1).saturating_sub(window.unwrap_or(usize::MAX))..position + 1;
        for head in 0..heads {
            let kv = head / (heads / kv_heads) * d;
            let q = &q.data[row * width + head * d..][..d];
            let scores: Vec<f64> = seen.clone().map(|j| scale * dot(q, &k.data[at(j) + kv..][..d])).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let out = &mut out.data[row * width + head * d..][..d];
            out.fill(0.0);
            for (j, weight) in seen.clone().zip(&weights) {
                let v = &v.data[at(j) + kv..][..d];
                out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
            }
        }
    }
    Some(out)
}

/// Writes packed rows `value [R, C]` into the cache `[S, L, C]`; dead rows (NaN indices) write nothing. `None` where an
/// index is no row of it.
pub fn cache_append(cache: &mut Array, value: &Array, sequence: &Array, position: &Array) -> Option<()> {
    let (caches, length, width) = (cache.shape[0] as f64, cache.shape[1] as f64, cache.shape[2]);
    for (row, (&sequence, &position)) in sequence.data.iter().zip(&position.data).enumerate() {
        if sequence.is_nan() || position.is_nan() {
            continue;
        }
        if !(0.0..caches).contains(&sequence) || !(0.0..length).contains(&position) {
            return None;
        }
        let at = (sequence * length + position) as usize * width;
        cache.data[at..at + width].copy_from_slice(value.row(row));
    }
    Some(())
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
    fn a_packed_row_attends_to_its_own_cache_up_to_itself() {
        let (k, v) = (array(&[2, 4, 4], 2), array(&[2, 4, 4], 3));
        let q = array(&[3, 8], 1);
        let (sequence, position) =
            (Array::new(&[3], vec![1., 0., f64::NAN]), Array::new(&[3], vec![2., 0., f64::NAN]));
        let y = cached_attention(&q, (&k, &v), (&sequence, &position), (4, 2), 0.7, None).unwrap();
        // Row 0: the whole attention of one query at position 2 over the second cache.
        let cut = |x: &Array| super::super::views::slice(x, 0, 1, 1);
        let (k1, v1, q0) = (cut(&k), cut(&v), Array::new(&[1, 1, 8], q.data[..8].to_vec()));
        let whole = attention(&q0, &[Segment { k: &k1, v: &v1, live: 0..3 }], 4, 2, 0.7, None, 1);
        assert_eq!(y.data[..8], whole.data);
        // A window of two: as if the cache began a row later.
        let windowed = cached_attention(&q, (&k, &v), (&sequence, &position), (4, 2), 0.7, Some(2)).unwrap();
        let whole = attention(&q0, &[Segment { k: &k1, v: &v1, live: 1..3 }], 4, 2, 0.7, None, 1);
        assert_eq!((&windowed.data[..8], &windowed.data[8..16]), (&whole.data[..], &y.data[8..16]));
        // Row 1 sees one value alone; grouped heads share it.
        assert_eq!(y.data[8..12], [v.data[0], v.data[1], v.data[0], v.data[1]]);
        assert!(y.data[16..].iter().all(|x| x.is_nan()));
        let outside = Array::new(&[3], vec![2., 0., 0.]);
        assert!(cached_attention(&q, (&k, &v), (&outside, &position), (4, 2), 0.7, None).is_none());
        let mut cache = Array::filled(&[2, 4, 2], 0.0);
        let value = Array::new(&[3, 2], vec![1., 2., 3., 4., 5., 6.]);
        cache_append(&mut cache, &value, &sequence, &position).unwrap();
        assert_eq!((&cache.data[12..14], &cache.data[..2]), (&[1., 2.][..], &[3., 4.][..]));
        assert_eq!(cache.data.iter().sum::<f64>(), 10.0);
        assert!(cache_append(&mut cache, &value, &outside, &position).is_none());
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
