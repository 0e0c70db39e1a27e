//! Layer, RMS and group norm against their formulas in f64.

mod support;

use selftok_graph::{Activation, NormKind};
use selftok_kernels_cpu::RowMap;
use selftok_kernels_cpu::group_norm::{GroupNormApply, GroupNormStats, Pictures};
use selftok_kernels_cpu::norm::Norm;
use support::{all_features, assert_close, random, run_all};

const EPS: f32 = 1e-6;

fn normalised(kind: Option<NormKind>, row: &[f32]) -> Vec<f64> {
    let n = row.len() as f64;
    let x = row.iter().map(|&x| f64::from(x));
    let mean = if kind == Some(NormKind::Layer) { x.clone().sum::<f64>() / n } else { 0.0 };
    let variance = x.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let factor = if kind.is_none() { 1.0 } else { 1.0 / (variance + f64::from(EPS)).sqrt() };
    x.map(|x| (x - mean) * factor).collect()
}

#[test]
fn rows_of_any_width_with_every_combination_of_parts() {
    // Two sequences of 3 rows in space for 5; the scale is one row for each sequence, the shift a table for all.
    let (rows, inner) = (6, 3);
    for width in [1, 3, 16, 31, 64, 65, 100, 512, 1000] {
        let (x_row, y_row) = (width + 3, width + 1);
        let x = random(1, 2 * 5 * x_row);
        let [weight, bias] = [2, 3].map(|seed| random(seed, width));
        let scale = random(4, 2 * width);
        let shift = random(5, inner * width);
        let x_map = RowMap { inner, outer_stride: 5 * x_row, inner_stride: x_row };
        for kind in [None, Some(NormKind::Layer), Some(NormKind::Rms)] {
            for parts in 0..16 {
                let has = |bit: u32| parts >> bit & 1 == 1;
                let pick = |bit, v: &[f32]| if has(bit) { v.as_ptr() } else { std::ptr::null() };
                for features in all_features() {
                    let mut y = vec![0.0; rows * y_row];
                    let norm = Norm {
                        kind,
                        x: x.as_ptr(),
                        x_map,
                        y: y.as_mut_ptr(),
                        y_map: RowMap::dense(y_row),
                        rows,
                        width,
                        eps: EPS,
                        weight: pick(0, &weight),
                        bias: pick(1, &bias),
                        scale: pick(2, &scale),
                        scale_map: RowMap { inner, outer_stride: width, inner_stride: 0 },
                        shift: pick(3, &shift),
                        shift_map: RowMap { inner, outer_stride: 0, inner_stride: width },
                    };
                    run_all(&norm, features);
                    let mut want = vec![0.0f64; rows * y_row];
                    for m in 0..rows {
                        let at = x_map.offset(m);
                        for (j, mut v) in normalised(kind, &x[at..at + width]).into_iter().enumerate() {
                            let get = |v: &[f32], i: usize| f64::from(v[i]);
                            v *= if has(0) { get(&weight, j) } else { 1.0 };
                            v += if has(1) { get(&bias, j) } else { 0.0 };
                            v *= if has(2) { 1.0 + get(&scale, m / inner * width + j) } else { 1.0 };
                            v += if has(3) { get(&shift, m % inner * width + j) } else { 0.0 };
                            want[m * y_row + j] = v;
                        }
                    }
                    // A row of one element has variance 0, so its value is 0 / sqrt(eps): rounding times 1000.
                    let bound = if width <= 3 { 2e-4 } else { 4e-6 };
                    assert_close(&format!("{} {kind:?} {width}", features.isa.name()), &y, &want, |_| bound);
                }
            }
        }
    }
}

#[test]
fn the_variance_survives_a_mean_that_dwarfs_it() {
    let width = 1536;
    let x: Vec<f32> = random(7, width).iter().map(|x| 1000.0 + x).collect();
    for features in all_features() {
        let mut y = x.clone();
        let map = RowMap::dense(width);
        let norm = Norm {
            kind: Some(NormKind::Layer),
            x: y.as_ptr(),
            x_map: map,
            y: y.as_mut_ptr(),
            y_map: map,
            rows: 1,
            width,
            eps: EPS,
            weight: std::ptr::null(),
            bias: std::ptr::null(),
            scale: std::ptr::null(),
            scale_map: map,
            shift: std::ptr::null(),
            shift_map: map,
        };
        run_all(&norm, features);
        // The mean is rounded to 2^-14 at 1000, against a spread of 0.58.
        assert_close(features.isa.name(), &y, &normalised(Some(NormKind::Layer), &x), |_| 4e-4);
    }
}

#[test]
fn group_norm_of_pictures_small_and_split() {
    let acts = [Activation::Identity, Activation::Silu];
    for (pixels, channels, groups) in [(1, 4, 2), (35, 32, 4), (7, 48, 16), (3000, 33, 3), (6000, 64, 32)] {
        let shape = Pictures { batch: 2, pixels, channels, groups };
        let (x_pixel, y_pixel) = (channels + 2, channels + 1);
        let x: Vec<f32> = random(1, 2 * pixels * x_pixel).iter().map(|x| 5.0 + x).collect();
        let [weight, bias] = [2, 3].map(|seed| random(seed, channels));
        for act in acts {
            let mut want = vec![0.0f64; 2 * pixels * y_pixel];
            let of_group = channels / groups;
            for b in 0..2 {
                for g in 0..groups {
                    let at = |p: usize, c: usize| (b * pixels + p) * x_pixel + g * of_group + c;
                    let flat: Vec<f32> =
                        (0..pixels * of_group).map(|i| x[at(i / of_group, i % of_group)]).collect();
                    for (i, v) in normalised(Some(NormKind::Layer), &flat).into_iter().enumerate() {
                        let (p, c) = (i / of_group, g * of_group + i % of_group);
                        let v = v * f64::from(weight[c]) + f64::from(bias[c]);
                        want[(b * pixels + p) * y_pixel + c] = act.eval(v);
                    }
                }
            }
            for features in all_features() {
                let mut y = vec![0.0f32; 2 * pixels * y_pixel];
                let mut partials = vec![0.0f64; shape.partial_sums()];
                let x_strides = [pixels * x_pixel, x_pixel];
                let partials = partials.as_mut_ptr();
                run_all(&GroupNormStats { shape, x: x.as_ptr(), x_strides, partials }, features);
                let apply = GroupNormApply {
                    shape,
                    x: x.as_ptr(),
                    x_strides,
                    y: y.as_mut_ptr(),
                    y_strides: [pixels * y_pixel, y_pixel],
                    weight: weight.as_ptr(),
                    bias: bias.as_ptr(),
                    eps: EPS,
                    act,
                    partials,
                };
                run_all(&apply, features);
                // The mean is 5 and the spread 0.58 (0.3 at worst in the smallest group): both terms of
                // x * factor + offset round at 5 / 0.3.
                let bound = if pixels == 1 { 2e-3 } else { 4e-6 };
                assert_close(&format!("{} {pixels}x{channels}", features.isa.name()), &y, &want, |_| bound);
            }
        }
    }
}
