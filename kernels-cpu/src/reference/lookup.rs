//! Table rows, timestep sinusoids and the nearest code.

use super::array::{Array, dot};

/// The least length by which a vector is divided before it meets the codes: a zero vector stays zero.
const MIN_LENGTH: f64 = 1e-12;

/// Rows of `table [V, C]` by `ids [..]`; `None` where an id is no row. NaN ids (dead rows) give NaN rows.
pub fn embed(table: &Array, ids: &Array) -> Option<Array> {
    let c = table.last();
    let mut data = Vec::with_capacity(ids.data.len() * c);
    for &id in &ids.data {
        if id.is_nan() {
            data.extend(std::iter::repeat_n(f64::NAN, c));
        } else if id >= 0.0 && (id as usize) < table.shape[0] {
            data.extend_from_slice(table.row(id as usize));
        } else {
            return None;
        }
    }
    let mut shape = ids.shape.clone();
    shape.push(c);
    Some(Array { shape, data })
}

/// Cosines, then sines (or the other way round), of `t * freqs`. The phase is rounded to f32 as the original
/// does: at position 5000 that rounding is far above every other error, and is part of the model.
pub fn timestep_embed(t: &Array, freqs: &Array, sin_first: bool) -> Array {
    let n = freqs.data.len();
    let mut shape = t.shape.clone();
    shape.push(2 * n);
    let mut data = Vec::with_capacity(t.data.len() * 2 * n);
    for &t in &t.data {
        let phases = freqs.data.iter().map(|&f| f64::from(t as f32 * f as f32));
        let (cos, sin): (Vec<f64>, Vec<f64>) = phases.map(|p| (p.cos(), p.sin())).unzip();
        let (first, second) = if sin_first { (sin, cos) } else { (cos, sin) };
        data.extend(first);
        data.extend(second);
    }
    Array { shape, data }
}

/// Nearest code by cosine to each row of `x [.., C]`, scaled to unit length, among `codes [V, C]`, as they stand:
/// ids (the first on ties), best score, margin over the second best (infinite where there is one code only).
pub fn codebook(x: &Array, codes: &Array) -> [Array; 3] {
    let shape = &x.shape[..x.shape.len() - 1];
    let mut results = [(); 3].map(|()| Array::filled(shape, f64::NAN));
    for row in 0..x.rows() {
        let x = x.row(row);
        if x.iter().any(|v| v.is_nan()) {
            continue;
        }
        let length = dot(x, x).sqrt().max(MIN_LENGTH);
        let unit: Vec<f64> = x.iter().map(|v| v / length).collect();
        let (mut id, mut best, mut second) = (0, f64::NEG_INFINITY, f64::NEG_INFINITY);
        for code in 0..codes.rows() {
            let score = dot(&unit, codes.row(code));
            if score > best {
                (id, best, second) = (code, score, best);
            } else if score > second {
                second = score;
            }
        }
        results[0].data[row] = id as f64;
        results[1].data[row] = best;
        results[2].data[row] = best - second;
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_id_and_a_wrong_id_is_refused() {
        let table = Array::new(&[2, 2], vec![1., 2., 3., 4.]);
        assert_eq!(embed(&table, &Array::from_i32(&[3], &[1, 0, 1])).unwrap().data, [3., 4., 1., 2., 3., 4.]);
        assert!(embed(&table, &Array::from_i32(&[1], &[2])).is_none());
        assert!(embed(&table, &Array::from_i32(&[1], &[-1])).is_none());
    }

    #[test]
    fn sinusoids_stand_cosines_first_unless_asked() {
        let (t, freqs) = (Array::new(&[1], vec![2.0]), Array::new(&[2], vec![1.0, 0.5]));
        let expected = [2f64.cos(), 1f64.cos(), 2f64.sin(), 1f64.sin()];
        assert_eq!(timestep_embed(&t, &freqs, false).data, expected);
        assert_eq!(timestep_embed(&t, &freqs, true).data[..2], expected[2..]);
    }

    #[test]
    fn the_first_of_equal_codes_wins_with_margin_zero() {
        let codes = Array::new(&[3, 2], vec![0., 1., 1., 0., 1., 0.]);
        let [id, score, margin] = codebook(&Array::new(&[2, 2], vec![5., 0., 0.6, 0.8]), &codes);
        assert_eq!(id.data, [1., 0.]);
        assert_eq!(score.data, [1., 0.8]);
        assert_eq!(margin.data[0], 0.0);
        assert!((margin.data[1] - 0.2).abs() < 1e-12);
    }
}
