//! Comparisons that say what differs, where, and by how much.

use selftok_kernels_cpu::reference::Array;

/// Asserts that every element differs by `tolerance` at most; NaN counts as different.
///
/// # Panics
/// Where it does not, naming the value, the place and both elements.
#[track_caller]
pub fn assert_close(name: &str, found: &Array, expected: &Array, tolerance: f64) {
    assert_eq!(found.shape, expected.shape, "{name}: shape");
    let mut worst = (0.0, 0);
    for (i, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
        let difference = (a - b).abs();
        if difference.is_nan() || difference > worst.0 {
            worst = (difference, i);
        }
        if difference.is_nan() {
            break;
        }
    }
    let (difference, i) = worst;
    assert!(
        difference <= tolerance,
        "{name}: at {:?} of {:?} found {}, expected {}: they differ by {difference:e}, above {tolerance:e}",
        index(&found.shape, i),
        found.shape,
        found.data[i],
        expected.data[i],
    );
}

/// Asserts that every element differs by 1e-4 at most, or by 1e-5 of the largest expected one where that is more: some
/// units in the last place of an f32, summed up through a network.
///
/// Untrained networks answer with numbers up to 81, from attention scores up to 1,700, and there no f32 is within 1e-4 of
/// any other. Against torch in f64 the golden answer of `dit`, largest 51, is off by 1.6e-4, that of `sd3`, largest 81,
/// by 2.1e-4. Torch's f32 on one machine with the inputs of every linear layer in another order, 24 orders: `dit` 0.8e-4 to
/// 4.5e-4, median 2.3e-4; `sd3` 2.9e-4 to 12e-4, median 5.4e-4. The engine's: `dit` 1.5e-4 to 2.5e-4, `sd3` 3.8e-4 to
/// 5.2e-4, by the instruction set.
///
/// # Panics
/// As [`assert_close`].
#[track_caller]
pub fn assert_within_f32(name: &str, found: &Array, expected: &Array) {
    let largest = expected.data.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
    assert_close(name, found, expected, 1e-4f64.max(1e-5 * largest));
}

/// Asserts that all ids are equal.
///
/// # Panics
/// Where they are not, naming the first difference and their number.
#[track_caller]
pub fn assert_same_ids(name: &str, found: &Array, expected: &Array) {
    assert_eq!(found.shape, expected.shape, "{name}: shape");
    let wrong: Vec<usize> = (0..found.data.len()).filter(|&i| found.data[i] != expected.data[i]).collect();
    if let Some(&i) = wrong.first() {
        panic!(
            "{name}: {} of {} ids differ, the first at {:?}: found {}, expected {}",
            wrong.len(),
            found.data.len(),
            index(&found.shape, i),
            found.data[i],
            expected.data[i]
        );
    }
}

fn index(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for dim in (0..shape.len()).rev() {
        index[dim] = i % shape[dim];
        i /= shape[dim];
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &[f64]) -> Array {
        Array::new(&[1, data.len()], data.to_vec())
    }

    #[test]
    #[should_panic(expected = "x: at [0, 1] of [1, 2] found 2.5, expected 2")]
    fn the_worst_element_is_named() {
        assert_close("x", &row(&[1.1, 2.5]), &row(&[1.0, 2.0]), 0.2);
    }

    #[test]
    #[should_panic(expected = "differ by NaN")]
    fn nan_is_never_close() {
        assert_close("x", &row(&[f64::NAN, 2.0]), &row(&[1.0, 2.0]), 1e9);
    }

    #[test]
    #[should_panic(expected = "1 of 2 ids differ, the first at [0, 1]")]
    fn ids_are_equal_or_not() {
        assert_same_ids("ids", &row(&[1.0, 2.0]), &row(&[1.0, 3.0]));
    }
}
