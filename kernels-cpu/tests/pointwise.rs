//! Rope, embeddings, combinations, softmax and pointwise functions against their formulas in f64.

mod support;

use selftok_graph::{Activation, Binary, RopeStyle};
use selftok_kernels_cpu::attention::Strides;
use selftok_kernels_cpu::combine::{Combine, MAX_TERMS};
use selftok_kernels_cpu::elementwise::{BinaryOp, Unary};
use selftok_kernels_cpu::embed::{Gather, TableFormat, TimestepEmbed};
use selftok_kernels_cpu::rope::{HeadNorm, Rope};
use selftok_kernels_cpu::softmax::Softmax;
use selftok_kernels_cpu::strided::Strided;
use selftok_kernels_cpu::{Kernel, RowMap};
use support::{all_features, assert_close, random, run_all};

#[test]
fn rope_rotates_pairs_of_either_style_with_and_without_a_norm_before() {
    let (batch, rows, heads) = (2, 5, 3);
    for (head_dim, rotary_dim) in [(64, 64), (40, 40), (24, 16), (80, 20), (16, 0)] {
        let row = heads * head_dim + 5;
        let x = random(1, batch * rows * row);
        let table = random(2, 50 * rotary_dim);
        let weight = random(3, head_dim);
        let positions: Vec<u32> = (0..10).map(|i| (i * 7 + 3) % 50).collect();
        let strides = Strides { batch: rows * row, row, head: head_dim };
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            for (norm, own) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                for m in 0..batch * rows {
                    let position = if own { positions[m] as usize } else { 4 + m % rows };
                    for h in 0..heads {
                        let head = &mut want[m * row + h * head_dim..][..head_dim];
                        if norm {
                            let square = head.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
                            head.iter_mut()
                                .zip(&weight)
                                .for_each(|(x, &w)| *x *= f64::from(w) / (square + 1e-5).sqrt());
                        }
                        let half = rotary_dim / 2;
                        for i in 0..half {
                            let (p, q) =
                                if style == RopeStyle::Half { (i, i + half) } else { (2 * i, 2 * i + 1) };
                            let [c, s] = [i, half + i].map(|j| f64::from(table[position * rotary_dim + j]));
                            (head[p], head[q]) = (head[p] * c - head[q] * s, head[q] * c + head[p] * s);
                        }
                    }
                }
                for (features, in_place) in all_features().into_iter().flat_map(|f| [(f, false), (f, true)]) {
                    // What lies between the rows stays as it was.
                    let mut y = x.clone();
                    let rope = Rope {
                        x: if in_place { y.as_ptr() } else { x.as_ptr() },
                        x_strides: strides,
                        y: y.as_mut_ptr(),
                        y_strides: strides,
                        batch,
                        rows,
                        heads,
                        head_dim,
                        rotary_dim,
                        style,
                        table: table.as_ptr(),
                        positions: if own { positions.as_ptr() } else { std::ptr::null() },
                        position0: 4,
                        norm: norm.then_some(HeadNorm { weight: weight.as_ptr(), eps: 1e-5 }),
                    };
                    run_all(&rope, features);
                    assert_close(&format!("{} {style:?} {head_dim}", features.isa.name()), &y, &want, |_| {
                        2e-6
                    });
                }
            }
        }
    }
}

#[test]
fn gathered_rows_are_the_tables_bit_for_bit() {
    let (width, rows) = (37, 500);
    let table = random(1, 100 * width);
    let ids: Vec<i32> = (0..rows as i32).map(|i| i * 31 % 100).collect();
    let mut y = vec![0.0f32; rows * width];
    let kernel = Gather {
        table: table.as_ptr().cast(),
        format: TableFormat::F32,
        ids: ids.as_ptr(),
        y: y.as_mut_ptr(),
        y_map: RowMap::dense(width),
        rows,
        width,
    };
    run_all(&kernel, all_features()[0]);
    for (row, &id) in y.chunks_exact(width).zip(&ids) {
        assert_eq!(row, &table[id as usize * width..][..width]);
    }
}

#[test]
fn time_is_embedded_by_an_f32_phase_and_exact_sines() {
    let t: Vec<f32> = [0.0, 0.5, 999.0, 5088.0, 10_000.0].into_iter().chain(random(1, 40)).collect();
    let freqs: Vec<f32> = (0..128).map(|j| (-(10_000f32.ln()) * j as f32 / 128.0).exp()).collect();
    for sin_first in [false, true] {
        let mut y = vec![0.0f32; t.len() * 256];
        let kernel = TimestepEmbed {
            t: t.as_ptr(),
            freqs: freqs.as_ptr(),
            freqs_len: 128,
            y: y.as_mut_ptr(),
            y_map: RowMap::dense(256),
            rows: t.len(),
            sin_first,
        };
        run_all(&kernel, all_features()[0]);
        for (row, &t) in y.chunks_exact(256).zip(&t) {
            for (j, &f) in freqs.iter().enumerate() {
                let phase = f64::from(t * f);
                let (first, second) = if sin_first { phase.sin_cos() } else { (phase.cos(), phase.sin()) };
                assert_eq!((row[j], row[128 + j]), (first as f32, second as f32));
            }
        }
    }
}

#[test]
fn combinations_of_one_to_eight_terms_in_place_too() {
    for len in [1, 17, 20_000] {
        for terms in 1..=MAX_TERMS {
            let coeffs = random(9, terms);
            let inputs: Vec<Vec<f32>> = (0..terms as u64).map(|seed| random(seed, len)).collect();
            let want: Vec<f64> = (0..len)
                .map(|i| inputs.iter().zip(&coeffs).map(|(x, &c)| f64::from(x[i]) * f64::from(c)).sum())
                .collect();
            for features in all_features() {
                let mut y = inputs[0].clone();
                let mut x = [std::ptr::null(); MAX_TERMS];
                for (x, input) in x.iter_mut().zip(&inputs) {
                    *x = input.as_ptr();
                }
                x[0] = y.as_ptr();
                run_all(&Combine { coeffs: coeffs.as_ptr(), x, terms, y: y.as_mut_ptr(), len }, features);
                assert_close(features.isa.name(), &y, &want, |_| 1.2e-7 * 8.0 * terms as f64);
            }
        }
    }
}

#[test]
fn softmax_rows_sum_to_one_and_follow_the_formula() {
    for width in [1, 5, 16, 100, 1000] {
        let x: Vec<f32> = random(3, 4 * width).iter().map(|x| x * 40.0).collect();
        for features in all_features() {
            let mut y = x.clone();
            let map = RowMap::dense(width);
            run_all(
                &Softmax { x: y.as_ptr(), x_map: map, y: y.as_mut_ptr(), y_map: map, rows: 4, width },
                features,
            );
            for (got, row) in y.chunks_exact(width).zip(x.chunks_exact(width)) {
                let max = row.iter().fold(f32::MIN, |m, &x| m.max(x));
                let e: Vec<f64> = row.iter().map(|&x| f64::from(x - max).exp()).collect();
                let total: f64 = e.iter().sum();
                let want: Vec<f64> = e.iter().map(|e| e / total).collect();
                assert_close(features.isa.name(), got, &want, |i| 1e-6 * want[i] + 1e-30);
            }
        }
    }
}

#[test]
fn every_activation_follows_its_formula() {
    use Activation::*;
    let x: Vec<f32> = random(1, 40_003).iter().map(|x| x * 12.0).collect();
    for act in [Identity, Silu, GeluTanh, GeluErf, QuickGelu, Relu] {
        let want: Vec<f64> = x.iter().map(|&x| act.eval(f64::from(x))).collect();
        for features in all_features() {
            let mut y = vec![0.0f32; x.len()];
            let shape = Strided::new(&[x.len()], [&[1], &[1]]).unwrap();
            run_all(&Unary { act, x: x.as_ptr(), y: y.as_mut_ptr(), shape }, features);
            // GELU's factor 1 + erf cancels for negative x: its error is absolute, a few ulp of |x|.
            assert_close(&format!("{act:?} {}", features.isa.name()), &y, &want, |i| {
                4e-7 * f64::from(x[i].abs())
            });
        }
    }
}

/// Row-major strides of `sizes`.
fn dense(sizes: &[usize]) -> Vec<usize> {
    (0..sizes.len()).map(|d| sizes[d + 1..].iter().product()).collect()
}

/// All index tuples of `sizes`, each turned into offsets for several stride lists.
fn offsets(sizes: &[usize], strides: &[&[usize]]) -> Vec<Vec<usize>> {
    (0..sizes.iter().product::<usize>())
        .map(|mut i| {
            let mut at = vec![0; strides.len()];
            for d in (0..sizes.len()).rev() {
                at.iter_mut().zip(strides).for_each(|(at, s)| *at += i % sizes[d] * s[d]);
                i /= sizes[d];
            }
            at
        })
        .collect()
}

#[test]
fn permutations_move_every_element_to_its_place() {
    let cases: [(&[usize], &[usize]); 9] = [
        (&[2, 3, 5, 7], &[0, 2, 3, 1]),
        (&[1, 16, 32, 32], &[0, 2, 3, 1]),
        (&[2, 9, 9, 70], &[0, 3, 1, 2]),
        (&[130, 67], &[1, 0]),
        (&[64, 64], &[1, 0]),
        (&[3, 4, 5, 6, 2, 3], &[5, 3, 1, 0, 2, 4]),
        (&[2, 4, 6, 8], &[0, 2, 1, 3]),
        (&[5, 300], &[0, 1]),
        (&[1, 1, 40_000], &[2, 0, 1]),
    ];
    for (sizes, perm) in cases {
        let x = random(1, sizes.iter().product());
        let x_dense = dense(sizes);
        let out_sizes: Vec<usize> = perm.iter().map(|&p| sizes[p]).collect();
        let x_strides: Vec<usize> = perm.iter().map(|&p| x_dense[p]).collect();
        let y_strides = dense(&out_sizes);
        for features in all_features() {
            let mut y = vec![f32::NAN; x.len()];
            let shape = Strided::new(&out_sizes, [&x_strides, &y_strides]).unwrap();
            run_all(&Unary { act: Activation::Identity, x: x.as_ptr(), y: y.as_mut_ptr(), shape }, features);
            for at in offsets(&out_sizes, &[&x_strides, &y_strides]) {
                assert_eq!(y[at[1]], x[at[0]], "{sizes:?} by {perm:?} on {}", features.isa.name());
            }
        }
    }
}

#[test]
fn repeating_strides_enlarge_a_picture() {
    for (h, w, c) in [(3, 5, 7), (8, 4, 64), (5, 9, 1)] {
        let x = random(1, h * w * c);
        let sizes = [h, 2, w, 2, c];
        for features in all_features() {
            let mut y = vec![f32::NAN; 4 * x.len()];
            let shape = Strided::new(&sizes, [&[w * c, 0, c, 0, 1], &dense(&sizes)]).unwrap();
            run_all(&Unary { act: Activation::Identity, x: x.as_ptr(), y: y.as_mut_ptr(), shape }, features);
            for (i, y) in y.into_iter().enumerate() {
                let (row, column, channel) = (i / (2 * w * c), i / c % (2 * w), i % c);
                assert_eq!(
                    y,
                    x[(row / 2 * w + column / 2) * c + channel],
                    "{h}x{w}x{c} on {}",
                    features.isa.name()
                );
            }
        }
    }
}

#[test]
fn binary_functions_broadcast_and_slice() {
    type Case<'a> = (&'a [usize], &'a [usize], &'a [usize], &'a [usize]);
    let cases: [Case; 7] = [
        (&[40_000], &[1], &[1], &[1]),
        (&[4, 50], &[50, 1], &[0, 1], &[60, 1]),
        (&[4, 50], &[50, 1], &[1, 0], &[50, 1]),
        (&[3, 4, 5], &[20, 5, 1], &[0, 0, 0], &[20, 5, 1]),
        (&[3, 4, 5], &[1, 3, 12], &[20, 5, 1], &[20, 5, 1]),
        (&[2, 3, 2, 3, 2, 3], &[108, 36, 18, 6, 3, 1], &[0, 1, 0, 3, 0, 9], &[108, 36, 18, 6, 3, 1]),
        (&[0, 4], &[4, 1], &[4, 1], &[4, 1]),
    ];
    for (sizes, a_strides, b_strides, y_strides) in cases {
        let (a, b) = (random(1, 40_000), random(2, 40_000));
        use Activation::{Identity, Relu};
        for (op, act) in
            [(Binary::Add, Identity), (Binary::Sub, Identity), (Binary::Mul, Identity), (Binary::Sub, Relu)]
        {
            for features in all_features() {
                let mut y = vec![f32::NAN; 40_000];
                let shape = Strided::new(sizes, [a_strides, b_strides, y_strides]).unwrap();
                run_all(
                    &BinaryOp { op, act, a: a.as_ptr(), b: b.as_ptr(), y: y.as_mut_ptr(), shape },
                    features,
                );
                let mut written = 0;
                for at in offsets(sizes, &[a_strides, b_strides, y_strides]) {
                    let (p, q) = (a[at[0]], b[at[1]]);
                    let want = match op {
                        Binary::Add => p + q,
                        Binary::Sub => p - q,
                        Binary::Mul => p * q,
                    };
                    let want = if act == Relu { want.max(0.0) } else { want };
                    assert_eq!(y[at[2]], want, "{sizes:?} on {}", features.isa.name());
                    written += 1;
                }
                assert_eq!(
                    y.iter().filter(|y| !y.is_nan()).count(),
                    written,
                    "{sizes:?}: nothing else is written"
                );
            }
        }
    }
}

#[test]
fn loops_are_merged_and_misfits_refused() {
    assert_eq!(Strided::new(&[2, 1, 3, 4], [&[12, 7, 4, 1], &[12, 0, 4, 1]]).unwrap().dims(), 1);
    assert_eq!(Strided::new(&[2, 3, 4], [&[12, 4, 1], &[0, 4, 1]]).unwrap().dims(), 2);
    assert!(Strided::new(&[2, 3], [&[3, 1], &[1]]).is_none());
    assert!(Strided::<1>::new(&[1; 7], [&[1; 7]]).is_none());
    let shape = Strided::new(&[], [&[], &[]]).unwrap();
    assert_eq!(Unary { act: Activation::Relu, x: &-1.0, y: &mut 0.0, shape }.tasks(), 1);
}
