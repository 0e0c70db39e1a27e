//! The tensor-core GEMM in emulation, against f64.

use crate::emulated::{Emulated, everywhere, executed, settings};
use crate::support::{Expected, F32_ROUNDING, Random, kept};
use half::bf16;
use ptx_emulator::Report;
use selftok_kernels_cuda::gemm::{Activation, Arguments, FAMILY};
use selftok_kernels_cuda::{Float, Launch};

/// One product, and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Elements between rows of A and W, a multiple of 8.
    pub ld: usize,
    /// Elements between rows of C, of the residual and of the gate.
    pub ldc: usize,
    pub ldr: usize,
    pub ldg: usize,
    /// Elements by which C, the residual, the bias and the gate begin beyond an address that vectors could be read from.
    pub shift: [usize; 4],
    pub bias: bool,
    /// `(gate_div, gate_rows)`.
    pub gate: Option<(usize, usize)>,
    pub residual: bool,
    pub activation: Activation,
}

pub const fn plain(m: usize, n: usize, k: usize) -> Case {
    let (ld, ldc) = (k.next_multiple_of(8), n.next_multiple_of(4));
    let (bias, gate, residual, activation) = (false, None, false, Activation::None);
    Case { m, n, k, ld, ldc, ldr: ldc, ldg: ldc, shift: [0; 4], bias, gate, residual, activation }
}

/// The operands of a case, and what is right.
struct Prepared {
    a: Vec<bf16>,
    w: Vec<bf16>,
    bias: Vec<f32>,
    residual: Vec<bf16>,
    gate: Vec<f32>,
    /// Row by row, before it is rounded to the output's type.
    expected: Vec<Expected>,
}

fn prepare(case: Case) -> Prepared {
    let Case { m, n, k, ld, ldr, ldg, .. } = case;
    let mut random = Random::new((m * n * k) as u64);
    // What lies between the rows must not matter.
    let padded = |mut values: Vec<bf16>| {
        values.iter_mut().enumerate().filter(|(i, _)| i % ld >= k).for_each(|(_, v)| *v = bf16::NAN);
        values
    };
    let (a, w) = (padded(random.bf16s(m * ld)), padded(random.bf16s(n * ld)));
    let (bias, residual) = (random.floats(n), random.bf16s(m * ldr));
    let (gate_div, gate_rows) = case.gate.unwrap_or((1, 1));
    let gate = random.floats(gate_rows * ldg);
    let value = |i: usize, j: usize| {
        let products = (0..k).map(|x| a[i * ld + x].to_f64() * w[j * ld + x].to_f64());
        let (mut sum, mut magnitude) = products.fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()));
        if case.bias {
            sum += f64::from(bias[j]);
            magnitude += f64::from(bias[j]).abs();
        }
        // Each of k/8 partial sums may lose a unit of the largest; no activation is steeper than 1.13.
        let mut value = case.activation.exact(sum);
        let mut tolerance = 2.5 * F32_ROUNDING * magnitude * (4.0 + k as f64 / 8.0);
        if case.activation != Activation::None {
            tolerance += 16.0 * F32_ROUNDING * (1.0 + sum.abs());
        }
        if case.gate.is_some() {
            let gate = f64::from(gate[i / gate_div % gate_rows * ldg + j]);
            value *= gate;
            tolerance *= gate.abs();
        }
        if case.residual {
            value += residual[i * ldr + j].to_f64();
        }
        tolerance += 4.0 * F32_ROUNDING * value.abs();
        Expected { value, tolerance }
    };
    let expected = (0..m * n).map(|at| value(at / n, at % n)).collect();
    Prepared { a, w, bias, residual, gate, expected }
}

pub fn run(emulated: &Emulated, tile: usize, output: Float, case: Case) -> Report {
    let Case { m, n, k, ld, ldc, ldr, ldg, shift, .. } = case;
    let prepared = kept(case, || prepare(case));
    let Prepared { a, w, bias, residual, gate, expected } = &*prepared;
    let (gate_div, gate_rows) = case.gate.unwrap_or((1, 1));

    let floats = |present: bool, values: &[f32], shift: usize| match present {
        false => 0,
        true => emulated.upload(&[&vec![f32::NAN; shift], values].concat()) + shift as u64 * 4,
    };
    let residual_at = match output {
        _ if !case.residual => 0,
        Float::F32 => floats(true, &residual.iter().map(|r| r.to_f32()).collect::<Vec<_>>(), shift[1]),
        Float::Bf16 => {
            emulated.upload(&[&vec![bf16::NAN; shift[1]], residual.as_slice()].concat()) + shift[1] as u64 * 2
        }
    };
    let size = if output == Float::F32 { 4 } else { 2 };
    let c = emulated.allocate((shift[0] + m * ldc) * size);
    let arguments = Arguments {
        a: emulated.upload(a),
        w: emulated.upload(w),
        c: c + (shift[0] * size) as u64,
        bias: floats(case.bias, bias, shift[2]),
        gate: floats(case.gate.is_some(), gate, shift[3]),
        residual: residual_at,
        m: m as i32,
        n: n as i32,
        k: k as i32,
        lda: ld as i64,
        ldw: ld as i64,
        ldc: ldc as i64,
        ldr: ldr as i64,
        ldg: ldg as i64,
        gate_div: gate_div as i32,
        gate_rows: gate_rows as i32,
        activation: case.activation as i32,
    };
    let entry = match (tile, output) {
        (128, Float::F32) => "gemm_bf16_f32_128x128x32",
        (128, Float::Bf16) => "gemm_bf16_bf16_128x128x32",
        (_, Float::F32) => "gemm_bf16_f32_64x64x32",
        (_, Float::Bf16) => "gemm_bf16_bf16_64x64x32",
    };
    let blocks = (m.div_ceil(tile) * n.div_ceil(tile)) as u32;
    let shared_bytes = FAMILY.entry(entry).unwrap().dynamic_shared;
    let launch = Launch { entry, grid: [blocks, 1, 1], block: [128, 1, 1], shared_bytes };
    let report = emulated.launch("gemm", &launch, &arguments.pack());

    for i in 0..m {
        let got: Vec<f32> = match output {
            Float::F32 => emulated.download(c, shift[0] + i * ldc, n),
            Float::Bf16 => {
                emulated.download::<bf16>(c, shift[0] + i * ldc, n).iter().map(|y| y.to_f32()).collect()
            }
        };
        match output {
            Float::F32 => emulated.untouched::<f32>(c, shift[0] + i * ldc + n, ldc - n),
            Float::Bf16 => emulated.untouched::<bf16>(c, shift[0] + i * ldc + n, ldc - n),
        }
        for j in 0..n {
            let expected = expected[i * n + j];
            let expected = if output == Float::Bf16 { expected.stored_as_bf16() } else { expected };
            expected.check(got[j].into(), || format!("{case:?} tile {tile} row {i} column {j}"));
        }
    }
    report
}

/// Checks that the tiles of 32 columns that K has are copied, and none beyond. Of the 64x64x32 instances.
pub fn no_more_than_needed(report: &Report, case: Case) {
    let tiles = case.m.div_ceil(64) * case.n.div_ceil(64) * case.k.div_ceil(32);
    let copies = executed(report, "gemm", |line| line.starts_with("cp.async.cg"));
    // A tile of A and one of W are 256 chunks of 16 bytes each.
    assert_eq!(copies, tiles * 512, "copies of {case:?}");
}

#[test]
fn no_tile_beyond_k_is_copied() {
    let emulated = Emulated::new(settings()[0]);
    for k in [0, 16, 40, 72, 128, 136] {
        let case = plain(64, 70, k);
        no_more_than_needed(&run(&emulated, 64, Float::F32, case), case);
    }
}

#[test]
fn whole_tiles_and_remainders_in_every_dimension() {
    everywhere(|emulated| {
        for case in
            [plain(64, 64, 64), plain(70, 50, 40), plain(1, 3, 3), plain(65, 129, 136), plain(64, 64, 8)]
        {
            run(emulated, 64, Float::F32, case);
        }
        for case in [plain(128, 128, 96), plain(130, 140, 72), plain(5, 7, 3)] {
            run(emulated, 128, Float::F32, case);
        }
    });
}

#[test]
fn bias_activation_gate_and_residual_follow_the_sum() {
    use Activation::{GeluErf, GeluTanh, None, QuickGelu, Relu, Silu};
    everywhere(|emulated| {
        for activation in [None, Silu, GeluTanh, GeluErf, Relu, QuickGelu] {
            let case =
                Case { bias: true, gate: Some((7, 3)), residual: true, activation, ..plain(70, 50, 40) };
            run(emulated, 64, Float::F32, case);
            run(emulated, 64, Float::Bf16, case);
        }
        let odd = Case { ldc: 143, ldr: 143, ldg: 143, gate: Some((10, 13)), ..plain(130, 142, 40) };
        run(emulated, 128, Float::F32, odd);
        run(emulated, 128, Float::Bf16, Case { residual: true, ..odd });
    });
}

#[test]
fn an_operand_that_is_aligned_to_its_elements_only_is_moved_singly() {
    everywhere(|emulated| {
        let all = Case { bias: true, gate: Some((7, 3)), residual: true, ..plain(9, 8, 16) };
        for k in 0..4 {
            let mut shift = [0; 4];
            shift[k] = 1;
            run(emulated, 64, Float::F32, Case { shift, ..all });
            run(emulated, 64, Float::Bf16, Case { shift, ..all });
        }
        for (ldc, ldr, ldg) in [(9, 8, 8), (8, 9, 8), (8, 8, 9)] {
            run(emulated, 64, Float::F32, Case { ldc, ldr, ldg, ..all });
        }
    });
}

#[test]
fn a_grid_of_more_than_one_band_covers_every_tile() {
    everywhere(|emulated| {
        run(emulated, 64, Float::F32, plain(600, 130, 8));
    });
}

#[test]
fn no_access_to_shared_memory_conflicts_and_no_sector_is_half_used() {
    let emulated = Emulated::new(settings()[0]);
    for (tile, case) in [(64, plain(64, 128, 128)), (128, plain(128, 256, 128))] {
        let report = run(&emulated, tile, Float::F32, case);
        let total = |f: fn(&ptx_emulator::Counter) -> u64| report.counters.iter().map(f).sum::<u64>();
        assert!(total(|c| c.wavefronts) > 0 && total(|c| c.sectors) > 0);
        for c in &report.counters {
            assert_eq!(c.wavefronts, c.ideal_wavefronts, "bank conflicts at PTX line {}", c.line);
            assert_eq!(c.sectors, c.ideal_sectors, "part-filled sectors at PTX line {}", c.line);
        }
    }
}
