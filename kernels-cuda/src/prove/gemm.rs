//! Products, with all that may follow one.

use half::bf16;
use selftok_kernels_cuda::Float;
use selftok_kernels_cuda::device::DeviceError;
use selftok_kernels_cuda::gemm::{Activation, Arguments, Shape};

use super::host::{Host, address};
use super::random::{BF16_ROUNDING, F32_ROUNDING, Random};
use super::{Judged, Proof, Size};

#[derive(Clone, Copy)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    output: Float,
    activation: Activation,
    /// Bias, gate and residual.
    epilogue: bool,
}

/// Rows that share a row of the gate, and rows of the gate.
const GATE: (usize, usize) = (7, 3);

pub fn prove(host: &Host, size: Size, repeat: usize) -> Result<Vec<Proof>, DeviceError> {
    let case = |m, n, k, output, activation| Case { m, n, k, output, activation, epilogue: true };
    let mut cases = vec![case(70, 50, 40, Float::F32, Activation::GeluTanh)];
    if size >= Size::Small {
        // A tile of 128 for every SM: what the large tile is for.
        let rows = 128 * host.kernels.limits().sms as usize;
        let plain = Case { epilogue: false, ..case(rows, 128, 32, Float::F32, Activation::None) };
        cases.extend([
            case(70, 50, 40, Float::Bf16, Activation::Silu),
            case(33, 200, 136, Float::F32, Activation::GeluErf),
            case(1, 3, 3, Float::F32, Activation::Relu),
            case(130, 66, 264, Float::Bf16, Activation::QuickGelu),
            plain,
            Case { output: Float::Bf16, ..plain },
        ]);
    }
    if size == Size::Large {
        let plain = Case { epilogue: false, ..case(4096, 4096, 4096, Float::Bf16, Activation::None) };
        cases.extend([plain, Case { m: 768, n: 6144, k: 1536, epilogue: true, ..plain }]);
    }
    cases.into_iter().map(|case| one(host, case, repeat)).collect()
}

fn one(host: &Host, case: Case, repeat: usize) -> Result<Proof, DeviceError> {
    let Case { m, n, k, output, .. } = case;
    let ld = k.next_multiple_of(8) + 8;
    // Two columns of C's rows belong to somebody else.
    let ldc = n + 2;
    let mut random = Random::new((m * n + k) as u64);
    let (a, w) = (random.rows(m, k, ld), random.rows(n, k, ld));
    let (bias, gate) = (random.floats(n), random.floats(GATE.1 * n));
    let residual = random.rows(m, n, n);

    let (a_on, w_on) = (host.upload(&a)?, host.upload(&w)?);
    let epilogue = if case.epilogue { Some((host.upload(&bias)?, host.upload(&gate)?)) } else { None };
    let mut arguments = Arguments {
        a: address(Some(&a_on)),
        w: address(Some(&w_on)),
        c: 0,
        bias: address(epilogue.as_ref().map(|e| &e.0)),
        gate: address(epilogue.as_ref().map(|e| &e.1)),
        residual: 0,
        m: m as i32,
        n: n as i32,
        k: k as i32,
        lda: ld as i64,
        ldw: ld as i64,
        ldc: ldc as i64,
        ldr: n as i64,
        ldg: n as i64,
        gate_div: GATE.0 as i32,
        gate_rows: GATE.1 as i32,
        activation: case.activation as i32,
    };
    let shape = Shape { m: m as u64, n: n as u64, k: k as u64, lda: ld as u64, ldw: ld as u64, output };
    let mut kernels = String::new();
    let (got, milliseconds): (Vec<f32>, f32) = match output {
        Float::F32 => {
            let values: Vec<f32> = residual.iter().map(|r| r.to_f32()).collect();
            let residual = if case.epilogue { Some(host.upload(&values)?) } else { None };
            let c = host.zeros::<f32>(m * ldc)?;
            (arguments.c, arguments.residual) = (address(Some(&c)), address(residual.as_ref()));
            let marks = host.run(repeat, |stream| {
                // SAFETY: the slices are as large as the shape and the strides say, and live until the download.
                let launch = unsafe { host.kernels.gemm(stream, &shape, &arguments) }?;
                kernels = launch.entry.to_owned();
                Ok(())
            })?;
            (host.download(&c)?, marks.best()?)
        }
        Float::Bf16 => {
            let residual = if case.epilogue { Some(host.upload(&residual)?) } else { None };
            let c = host.zeros::<bf16>(m * ldc)?;
            (arguments.c, arguments.residual) = (address(Some(&c)), address(residual.as_ref()));
            let marks = host.run(repeat, |stream| {
                // SAFETY: as above.
                let launch = unsafe { host.kernels.gemm(stream, &shape, &arguments) }?;
                kernels = launch.entry.to_owned();
                Ok(())
            })?;
            (host.download(&c)?.iter().map(|c| c.to_f32()).collect(), marks.best()?)
        }
    };

    let mut judged = Judged::default();
    // Of a large product some rows, the last among them.
    let step = (m * n * k / 200_000_000).max(1);
    for i in (0..m).rev().step_by(step) {
        for j in 0..n {
            let products = (0..k).map(|x| a[i * ld + x].to_f64() * w[j * ld + x].to_f64());
            let (mut sum, mut magnitude) = products.fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()));
            let (mut gate_at, mut residual_at) = (1.0, 0.0);
            if case.epilogue {
                sum += f64::from(bias[j]);
                magnitude += f64::from(bias[j]).abs();
                gate_at = f64::from(gate[i / GATE.0 % GATE.1 * n + j]);
                residual_at = residual[i * n + j].to_f64();
            }
            // Each of k/8 partial sums may lose a unit of the largest; no activation is steeper than 1.13.
            let mut tolerance = 2.5 * F32_ROUNDING * magnitude * (4.0 + k as f64 / 8.0);
            if case.activation != Activation::None {
                tolerance += 16.0 * F32_ROUNDING * (1.0 + sum.abs());
            }
            let exact = case.activation.exact(sum) * gate_at + residual_at;
            tolerance = tolerance * gate_at.abs() + 4.0 * F32_ROUNDING * exact.abs();
            if output == Float::Bf16 {
                tolerance += exact.abs() * BF16_ROUNDING * 1.01;
            }
            judged.compare(got[i * ldc + j].into(), exact, tolerance, || format!("row {i} column {j}"));
        }
        if got[i * ldc + n..(i + 1) * ldc].iter().any(|c| c.to_bits() != 0) {
            judged.fail(|| format!("what follows row {i} was written"));
        }
    }
    let extras =
        if case.epilogue { format!(", bias, {:?}, gate, residual", case.activation) } else { String::new() };
    let shape = format!("{m}x{n}x{k}{extras}");
    Ok(Proof { kernels, shape, judged, milliseconds, flop: 2.0 * (m * n * k) as f64 })
}
