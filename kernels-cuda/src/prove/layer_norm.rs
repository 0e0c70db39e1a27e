//! Layer and RMS norm, with weights and modulation.

use half::bf16;
use selftok_kernels_cuda::Float;
use selftok_kernels_cuda::device::DeviceError;
use selftok_kernels_cuda::layer_norm::{Arguments, Shape};

use super::host::{Host, address};
use super::random::{BF16_ROUNDING, F32_ROUNDING, Random};
use super::{Judged, Proof, Size};

#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    cols: usize,
    input: Float,
    output: Float,
    rms: bool,
}

const EPS: f32 = 1e-6;
/// Rows that share a row of modulation, and rows of modulation.
const MODULATION: (usize, usize) = (2, 2);

pub fn prove(host: &Host, size: Size, repeat: usize) -> Result<Vec<Proof>, DeviceError> {
    let case = |rows, cols, input, output| Case { rows, cols, input, output, rms: false };
    let mut cases = vec![case(5, 75, Float::F32, Float::F32)];
    if size >= Size::Small {
        for (input, output) in [
            (Float::F32, Float::F32),
            (Float::F32, Float::Bf16),
            (Float::Bf16, Float::Bf16),
            (Float::Bf16, Float::F32),
        ] {
            cases.extend([case(9, 512, input, output), case(5, 1530, input, output)]);
        }
        cases.push(Case { rms: true, ..case(7, 2052, Float::F32, Float::F32) });
    }
    if size == Size::Large {
        cases.push(case(4096, 1536, Float::F32, Float::Bf16));
    }
    cases.into_iter().map(|case| one(host, case, repeat)).collect()
}

fn one(host: &Host, case: Case, repeat: usize) -> Result<Proof, DeviceError> {
    let Case { rows, cols, input, output, rms } = case;
    let stride = cols + 4;
    let mut random = Random::new((rows * cols) as u64);
    let x = random.rows(rows, cols, stride);
    let [weight, bias] = [0; 2].map(|_| random.floats(cols));
    let [scale, shift] = [0; 2].map(|_| random.floats(MODULATION.1 * cols));

    let [weight_on, bias_on] = [host.upload(&weight)?, host.upload(&bias)?];
    let [scale_on, shift_on] = [host.upload(&scale)?, host.upload(&shift)?];
    let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let (mut x_wide, mut x_narrow, mut y_wide, mut y_narrow) = (None, None, None, None);
    match input {
        Float::F32 => x_wide = Some(host.upload(&wide)?),
        Float::Bf16 => x_narrow = Some(host.upload(&x)?),
    }
    match output {
        Float::F32 => y_wide = Some(host.zeros::<f32>(rows * stride)?),
        Float::Bf16 => y_narrow = Some(host.zeros::<bf16>(rows * stride)?),
    }
    let arguments = Arguments {
        x: address(x_wide.as_ref()) | address(x_narrow.as_ref()),
        y: address(y_wide.as_ref()) | address(y_narrow.as_ref()),
        weight: address(Some(&weight_on)),
        bias: address(Some(&bias_on)),
        scale: address(Some(&scale_on)),
        shift: address(Some(&shift_on)),
        rows: rows as i32,
        cols: cols as i32,
        x_stride: stride as i64,
        y_stride: stride as i64,
        modulation_div: MODULATION.0 as i32,
        modulation_rows: MODULATION.1 as i32,
        modulation_stride: cols as i64,
        eps: EPS,
        rms: i32::from(rms),
    };
    let shape = Shape { rows: rows as u64, cols: cols as u64, input, output };
    let mut kernels = String::new();
    let marks = host.run(repeat, |stream| {
        // SAFETY: the slices are as large as the shape and the strides say, and live until the download.
        let launch = unsafe { host.kernels.layer_norm(stream, &shape, &arguments) }?;
        kernels = launch.entry.to_owned();
        Ok(())
    })?;
    let got: Vec<f32> = match (&y_wide, &y_narrow) {
        (Some(y), _) => host.download(y)?,
        (_, Some(y)) => host.download(y)?.iter().map(|y| y.to_f32()).collect(),
        _ => Vec::new(),
    };

    let milliseconds = marks.best()?;
    let mut judged = Judged::default();
    for r in 0..rows {
        let row: Vec<f64> = x[r * stride..][..cols].iter().map(|x| x.to_f64()).collect();
        let n = cols as f64;
        let mean = if rms { 0.0 } else { row.iter().sum::<f64>() / n };
        let deviation = (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + f64::from(EPS)).sqrt();
        let largest = row.iter().fold(0.0_f64, |m, x| m.max(x.abs())) / deviation;
        let m = r / MODULATION.0 % MODULATION.1 * cols;
        for j in 0..cols {
            let (w, b) = (f64::from(weight[j]), f64::from(bias[j]));
            let (s, t) = (f64::from(scale[m + j]), f64::from(shift[m + j]));
            let normal = (row[j] - mean) / deviation;
            let exact = (normal * w + b) * (1.0 + s) + t;
            // A few f32 roundings of the largest term, and 1/sqrt by its approximation.
            let terms = ((normal.abs() + largest) * w.abs() + b.abs()) * (1.0 + s.abs()) + t.abs();
            let mut tolerance = 16.0 * F32_ROUNDING * terms;
            if output == Float::Bf16 {
                tolerance += exact.abs() * BF16_ROUNDING * 1.01;
            }
            judged.compare(got[r * stride + j].into(), exact, tolerance, || format!("row {r} column {j}"));
        }
        if got[r * stride + cols..(r + 1) * stride].iter().any(|y| y.to_bits() != 0) {
            judged.fail(|| format!("what follows row {r} was written"));
        }
    }
    let kind = if rms { "RMS" } else { "layer" };
    let shape = format!("{rows} rows of {cols}, {kind} norm, weights, modulation");
    Ok(Proof { kernels, shape, judged, milliseconds, flop: (8 * rows * cols) as f64 })
}
