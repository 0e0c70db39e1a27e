//! The codebook search against scores written out in f64: ids, scores, margins, ties and padding.

mod support;

use selftok_kernels_cpu::RowMap;
use selftok_kernels_cpu::codebook::{Codebook, CodebookArgmax, CodebookError};
use selftok_kernels_cpu::isa::Features;
use support::{all_features, random, run_all};

fn search(
    book: &Codebook,
    x: &[f32],
    stride: usize,
    rows: usize,
    features: Features,
) -> Vec<(i32, f32, f32)> {
    let (mut ids, mut scores, mut margins) = (vec![-1; rows], vec![0.0; rows], vec![0.0; rows]);
    let kernel = CodebookArgmax {
        codebook: book,
        x: x.as_ptr(),
        x_map: RowMap::dense(stride),
        rows,
        ids: ids.as_mut_ptr(),
        scores: scores.as_mut_ptr(),
        margins: margins.as_mut_ptr(),
    };
    run_all(&kernel, features);
    (0..rows).map(|m| (ids[m], scores[m], margins[m])).collect()
}

fn unit_codes(seed: u64, count: usize, dim: usize) -> Vec<f32> {
    let mut codes = random(seed, count * dim);
    for code in codes.chunks_exact_mut(dim) {
        let norm = code.iter().map(|x| x * x).sum::<f32>().sqrt();
        code.iter_mut().for_each(|x| *x /= norm);
    }
    codes
}

#[test]
fn ids_scores_and_margins_are_those_of_the_full_score_matrix() {
    for (rows, count, dim) in
        [(1, 1, 1), (5, 33, 16), (24, 64, 16), (25, 1000, 16), (50, 4096, 16), (9, 70, 7)]
    {
        let codes = unit_codes(1, count, dim);
        let book = Codebook::pack(&codes, count, dim).unwrap();
        let stride = dim + 3;
        let x = random(2, rows * stride);
        for features in all_features() {
            for (m, (id, score, margin)) in search(&book, &x, stride, rows, features).into_iter().enumerate()
            {
                let row: Vec<f64> = x[m * stride..m * stride + dim].iter().map(|&x| f64::from(x)).collect();
                let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                let mut scores: Vec<f64> = codes
                    .chunks_exact(dim)
                    .map(|code| row.iter().zip(code).map(|(x, &c)| x / norm * f64::from(c)).sum())
                    .collect();
                let chosen = scores[id as usize];
                scores.sort_by(|a, b| b.total_cmp(a));
                let what = format!("{}: row {m} of {rows} x {count} x {dim}", features.isa.name());
                assert!(scores[0] - chosen < 1e-6, "{what}: id {id} scores {chosen}, the best {}", scores[0]);
                assert!(
                    (f64::from(score) - chosen).abs() < 1e-6,
                    "{what}: score {score}, should be {chosen}"
                );
                match scores.get(1) {
                    Some(second) => {
                        assert!((f64::from(margin) - (scores[0] - second)).abs() < 2e-6, "{what}: {margin}")
                    }
                    None => assert_eq!(margin, f32::INFINITY, "{what}"),
                }
            }
        }
    }
}

#[test]
fn the_first_of_equal_codes_wins_wherever_they_stand() {
    let (count, dim) = (700, 4);
    for features in all_features() {
        for (first, other) in [(0, 1), (3, 19), (5, 37), (40, 41), (31, 32), (69, 645), (500, 699)] {
            let mut codes = vec![0.1; count * dim];
            codes[first * dim..][..dim].fill(0.5);
            codes[other * dim..][..dim].fill(0.5);
            let book = Codebook::pack(&codes, count, dim).unwrap();
            let found = search(&book, &[2.0; 4], dim, 1, features);
            assert_eq!(found, [(first as i32, 1.0, 0.0)], "{}", features.isa.name());
        }
    }
}

#[test]
fn padding_never_wins_over_negative_scores_and_a_zero_row_is_no_trap() {
    for features in all_features() {
        let book = Codebook::pack(&[-1.0, -0.5, -0.75], 3, 1).unwrap();
        assert_eq!(search(&book, &[4.0], 1, 1, features), [(1, -0.5, 0.25)]);
        assert_eq!(search(&book, &[0.0], 1, 1, features), [(0, 0.0, 0.0)]);
        assert_eq!(search(&book, &[f32::NAN], 1, 1, features)[0].0, 0);
    }
}

#[test]
fn codes_that_do_not_fit_their_shape_are_refused() {
    let size = |count, dim, got| Err(CodebookError::Size { count, dim, got });
    assert_eq!(Codebook::pack(&[0.0; 7], 2, 4).map(drop), size(2, 4, 7));
    assert_eq!(Codebook::pack(&[], 0, 4).map(drop), size(0, 4, 0));
    assert_eq!(Codebook::pack(&[0.0], usize::MAX, 2).map(drop), size(usize::MAX, 2, 1));
}
