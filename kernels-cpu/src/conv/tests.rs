//! Every instruction set and format, kernels, strides, paddings, upsampling and slices against a convolution in f64.

use super::*;
use crate::gemm::tests::{ACTS, Random, all_features, rounded_a, rounded_w, scratch, want};

#[derive(Clone, Copy, Debug)]
struct Case {
    features: Features,
    spec: ConvSpec,
    batch: usize,
    act: Activation,
    gate: bool,
    residual: bool,
    seed: u64,
}

fn spec(input: [usize; 2], channels: [usize; 2], kernel: [usize; 2]) -> ConvSpec {
    ConvSpec {
        max_batch: 2,
        input,
        in_channels: channels[0],
        out_channels: channels[1],
        kernel,
        stride: 1,
        padding: [kernel[0] / 2, kernel[0] / 2, kernel[1] / 2, kernel[1] / 2],
        upsample: false,
        format: WeightFormat::F32,
        workers: 2,
    }
}

fn check(case: Case) {
    let Case { features, spec, batch, act, .. } = case;
    let mut random = Random(case.seed);
    let ([h, w], [kh, kw]) = (spec.input, spec.kernel);
    let (i, o) = (spec.in_channels, spec.out_channels);
    let pixel = i + random.below(2) * 5;
    let image = h * w * pixel + random.below(2) * 7;
    let x = random.vec(batch * image);
    let weight = random.vec(o * i * kh * kw);
    let bias = random.vec(o);

    let conv = Conv2d::prepare(&spec, features).unwrap();
    let [ho, wo] = conv.output();
    let packed = pack_conv_weight([o, i, kh, kw], spec.format, features, |rows, to| {
        to.copy_from_slice(&weight[rows.start * i * kh * kw..rows.end * i * kh * kw]);
    })
    .unwrap();
    let c_pixel = o + random.below(2) * 3;
    let map = conv.output_rows(ho * wo * c_pixel + 4, c_pixel);
    let len = (batch - 1) * map.outer_stride + ho * wo * c_pixel;
    let canary = f32::from_bits(0x7fc0_1234);
    let mut c = vec![canary; len + 3];
    let before = random.vec(len);
    if case.residual {
        for m in 0..batch * ho * wo {
            c[map.offset(m)..][..o].copy_from_slice(&before[map.offset(m)..][..o]);
        }
    }
    let gate = random.vec(batch * o);
    let gate_map = RowMap { inner: ho * wo, outer_stride: o, inner_stride: 0 };
    let c_ptr = c.as_mut_ptr();
    let args = ConvArgs {
        batch,
        x: x.as_ptr(),
        image_stride: image,
        pixel_stride: pixel,
        weight: &packed,
        bias: Some(bias.as_ptr()),
        act,
        gate: case.gate.then_some(Rows { ptr: gate.as_ptr(), map: gate_map }),
        residual: case.residual.then_some(Rows { ptr: c_ptr.cast_const(), map }),
        c: Rows { ptr: c_ptr, map },
    };
    let mut scratch = scratch(conv.scratch_bytes());
    for task in 0..conv.tasks(batch) {
        // SAFETY: the operands are as long as their strides reach, and the weight has the spec's shape.
        unsafe { conv.run(&args, task, scratch.as_mut_slice()) }
    }

    let kind = WeightKind::Packed(spec.format);
    let scale = if spec.upsample { 2 } else { 1 };
    let mut written = vec![false; c.len()];
    for m in 0..batch * ho * wo {
        let (b, y, xx) = (m / (ho * wo), m / wo % ho, m % wo);
        for j in 0..o {
            let (mut sum, mut size) = (0.0, 0.0);
            for ky in 0..kh {
                for kx in 0..kw {
                    let sy = (y * spec.stride + ky) as isize - spec.padding[0] as isize;
                    let sx = (xx * spec.stride + kx) as isize - spec.padding[2] as isize;
                    if !(0..(h * scale) as isize).contains(&sy) || !(0..(w * scale) as isize).contains(&sx) {
                        continue;
                    }
                    let (sy, sx) = (sy as usize / scale, sx as usize / scale);
                    for channel in 0..i {
                        let a = x[b * image + (sy * w + sx) * pixel + channel];
                        let w = weight[((j * i + channel) * kh + ky) * kw + kx];
                        let product = rounded_a(kind, a) * rounded_w(kind, w);
                        sum += product;
                        size += f64::abs(product);
                    }
                }
            }
            let at = map.offset(m) + j;
            let residual = if case.residual { before[at] as f64 } else { 0.0 };
            let gate = if case.gate { gate[b * o + j] as f64 } else { 1.0 };
            let want = want(i * kh * kw, sum, size, act, [bias[j] as f64, gate, residual]);
            let error = (c[at] as f64 - want.value).abs();
            assert!(
                error <= want.bound,
                "{case:?}: pixel {m} channel {j} = {}, expected {}",
                c[at],
                want.value
            );
            written[at] = true;
        }
    }
    for (at, (&x, written)) in c.iter().zip(written).enumerate() {
        assert!(written || x.to_bits() == canary.to_bits(), "{case:?}: wrote outside C at {at}");
    }
}

/// Runs a spec on every set and format.
fn check_everywhere(spec: ConvSpec) {
    for features in all_features() {
        for format in [WeightFormat::F32, WeightFormat::Bf16] {
            for seed in 0..2 {
                let spec = ConvSpec { format, ..spec };
                let act = ACTS[seed as usize];
                check(Case { features, spec, batch: 2, act, gate: seed == 1, residual: seed == 0, seed });
            }
        }
    }
}

#[test]
fn the_kernels_of_the_autoencoder_agree() {
    check_everywhere(spec([7, 9], [16, 40], [3, 3]));
    check_everywhere(spec([7, 9], [3, 32], [3, 3]));
    check_everywhere(spec([6, 5], [32, 3], [3, 3]));
    check_everywhere(spec([5, 6], [24, 33], [1, 1]));
}

#[test]
fn strided_downsampling_pads_after_only() {
    check_everywhere(ConvSpec { stride: 2, padding: [0, 1, 0, 1], ..spec([8, 6], [8, 12], [3, 3]) });
}

#[test]
fn patches_do_not_overlap() {
    check_everywhere(ConvSpec { stride: 4, padding: [0; 4], ..spec([12, 8], [3, 20], [4, 4]) });
}

#[test]
fn upsampling_is_folded_into_the_addresses() {
    check_everywhere(ConvSpec { upsample: true, ..spec([4, 5], [12, 18], [3, 3]) });
}

#[test]
fn depths_beyond_a_block_add_up() {
    check_everywhere(spec([6, 6], [130, 20], [3, 3]));
}

#[test]
fn seeded_random_convolutions_agree() {
    let mut random = Random(7);
    for _ in 0..120 {
        let kernel = [1 + random.below(5), 1 + random.below(5)];
        let pad = |random: &mut Random, k: usize| random.below(k + 1);
        let padding = [
            pad(&mut random, kernel[0]),
            pad(&mut random, kernel[0]),
            pad(&mut random, kernel[1]),
            pad(&mut random, kernel[1]),
        ];
        let case = Case {
            features: random.pick(&all_features()),
            spec: ConvSpec {
                stride: 1 + random.below(3),
                padding,
                upsample: random.below(3) == 0,
                format: random.pick(&[WeightFormat::F32, WeightFormat::Bf16]),
                workers: 1 + random.below(8),
                ..spec(
                    [5 + random.below(8), 5 + random.below(8)],
                    [1 + random.below(40), 1 + random.below(40)],
                    kernel,
                )
            },
            batch: 1 + random.below(2),
            act: random.pick(&ACTS),
            gate: random.below(2) == 0,
            residual: random.below(2) == 0,
            seed: random.next(),
        };
        check(case);
    }
}

#[test]
fn impossible_shapes_are_errors() {
    let prepare = |spec| Conv2d::prepare(&spec, Features::detect()).err();
    let base = spec([4, 4], [2, 2], [3, 3]);
    assert_eq!(
        prepare(ConvSpec { stride: 0, ..base }),
        Some(GemmError::Zero { kernel: "conv2d", size: "stride" })
    );
    assert_eq!(
        prepare(ConvSpec { kernel: [9, 3], padding: [1; 4], ..base }),
        Some(GemmError::KernelTooLarge { kernel: [9, 3], input: [6, 6] })
    );
    let huge = ConvSpec { input: [usize::MAX, 4], upsample: true, ..base };
    assert!(matches!(prepare(huge), Some(GemmError::Overflow { kernel: "conv2d", .. })));
}
