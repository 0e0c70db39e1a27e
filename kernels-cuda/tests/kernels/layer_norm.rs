//! The layer norm kernels in emulation, against f64.

use crate::emulated::{Emulated, everywhere, settings};
use crate::support::{Expected, F32_ROUNDING, Random, kept};
use half::bf16;
use ptx_emulator::Report;
use selftok_kernels_cuda::Float;
use selftok_kernels_cuda::layer_norm::{Arguments, Shape, launch};

/// One call: a shape, and which of the optional operands it has.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub rows: usize,
    pub cols: usize,
    /// Elements between rows beyond `cols`, of x, of y and of the modulation.
    pub gap: usize,
    pub y_gap: usize,
    pub modulation_gap: usize,
    /// Elements by which x, y, weight, bias, scale and shift begin beyond an address that vectors could be read from.
    pub start: [usize; 6],
    /// Which of weight, bias, scale and shift are there; the others are null.
    pub vectors: [bool; 4],
    /// The width for which the launch rule is asked, if not `cols`: any instance must be right for any width.
    pub rule_cols: Option<usize>,
    /// The rows for which the launch rule is asked, if not `rows`: a grid may be larger than this run needs.
    pub rule_rows: Option<usize>,
    /// What the inputs are multiplied by.
    pub spread: f32,
    pub rms: bool,
    /// `(modulation_div, modulation_rows)`.
    pub modulation: (usize, usize),
}

const EPS: f64 = 1e-6;

/// The operands of a case, and what is right.
struct Prepared {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// Row by row, before it is rounded to the output's type.
    expected: Vec<Expected>,
}

impl Case {
    /// Elements from row to row of x, y and the modulation.
    fn strides(&self) -> [usize; 3] {
        [self.gap, self.y_gap, self.modulation_gap].map(|gap| self.cols + gap)
    }
}

fn prepare(case: Case) -> Prepared {
    let Case { rows, cols, rms, .. } = case;
    let mut random = Random::new((rows * cols) as u64);
    let [stride, _, modulation_stride] = case.strides();
    let x = random.floats(rows * stride);
    let x: Vec<f32> = x.iter().map(|x| bf16::from_f32((x + 1.0) * case.spread).to_f32()).collect();
    let (weight, bias) = (random.floats(cols), random.floats(cols));
    let (div, modulation_rows) = case.modulation;
    let modulation = modulation_rows * modulation_stride;
    let (scale, shift) = (random.floats(modulation), random.floats(modulation));
    let operand = |k: usize, value: f32, none: f64| if case.vectors[k] { f64::from(value) } else { none };
    let mut expected = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        let row = &x[r * stride..][..cols];
        let n = cols as f64;
        let mean = if rms { 0.0 } else { row.iter().map(|&x| f64::from(x)).sum::<f64>() / n };
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let deviation = (variance + EPS).sqrt();
        let largest = row.iter().fold(0.0_f64, |m, &x| m.max(f64::from(x).abs())) / deviation;
        for j in 0..cols {
            let (weight, bias) = (operand(0, weight[j], 1.0), operand(1, bias[j], 0.0));
            let at = r / div % modulation_rows * modulation_stride + j;
            let (scale, shift) = (operand(2, scale[at], 0.0), operand(3, shift[at], 0.0));
            let normal = (f64::from(row[j]) - mean) / deviation;
            let value = (normal * weight + bias) * (1.0 + scale) + shift;
            // A few f32 roundings of the largest term, and 1/sqrt by its approximation.
            let terms = ((normal.abs() + largest) * weight.abs() + bias.abs()) * (1.0 + scale.abs());
            expected.push(Expected { value, tolerance: 16.0 * F32_ROUNDING * (terms + shift.abs()) });
        }
    }
    Prepared { x, weight, bias, scale, shift, expected }
}

pub fn run(emulated: &Emulated, case: Case, input: Float, output: Float) -> Report {
    let Case { rows, cols, start, .. } = case;
    let prepared = kept(case, || prepare(case));
    let Prepared { x, weight, bias, scale, shift, expected } = &*prepared;
    let [stride, y_stride, modulation_stride] = case.strides();
    let (div, modulation_rows) = case.modulation;
    let floats = |values: &[f32], start: usize| {
        emulated.upload(&[&vec![f32::NAN; start], values].concat()) + start as u64 * 4
    };
    let x_at = match input {
        Float::F32 => floats(x, start[0]),
        Float::Bf16 => {
            let x = [vec![f32::NAN; start[0]], x.clone()].concat();
            emulated.upload(&x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()) + start[0] as u64 * 2
        }
    };
    let size = if output == Float::F32 { 4 } else { 2 };
    let y_at = emulated.allocate((start[1] + rows * y_stride) * size);
    let optional = |k: usize, values: &[f32]| if case.vectors[k] { floats(values, start[2 + k]) } else { 0 };
    let (rule_rows, rule_cols) = (case.rule_rows.unwrap_or(rows), case.rule_cols.unwrap_or(cols));
    let shape = Shape { rows: rule_rows as u64, cols: rule_cols as u64, input, output };
    let arguments = Arguments {
        x: x_at,
        y: y_at + (start[1] * size) as u64,
        weight: optional(0, weight),
        bias: optional(1, bias),
        scale: optional(2, scale),
        shift: optional(3, shift),
        rows: rows as i32,
        cols: cols as i32,
        x_stride: stride as i64,
        y_stride: y_stride as i64,
        modulation_div: div as i32,
        modulation_rows: modulation_rows as i32,
        modulation_stride: modulation_stride as i64,
        eps: EPS as f32,
        rms: i32::from(case.rms),
    };
    let report = emulated.launch("layer_norm", &launch(&shape).unwrap(), &arguments.pack());

    for r in 0..rows {
        let got: Vec<f32> = match output {
            Float::F32 => emulated.download(y_at, start[1] + r * y_stride, cols),
            Float::Bf16 => emulated
                .download::<bf16>(y_at, start[1] + r * y_stride, cols)
                .iter()
                .map(|y| y.to_f32())
                .collect(),
        };
        match output {
            Float::F32 => emulated.untouched::<f32>(y_at, start[1] + r * y_stride + cols, case.y_gap),
            Float::Bf16 => emulated.untouched::<bf16>(y_at, start[1] + r * y_stride + cols, case.y_gap),
        }
        for j in 0..cols {
            let expected = expected[r * cols + j];
            let expected = if output == Float::Bf16 { expected.stored_as_bf16() } else { expected };
            expected.check(got[j].into(), || format!("{case:?} row {r} column {j}"));
        }
    }
    report
}

pub const PLAIN: Case = Case {
    rows: 5,
    cols: 64,
    gap: 0,
    y_gap: 0,
    modulation_gap: 0,
    start: [0; 6],
    vectors: [false; 4],
    rule_cols: None,
    rule_rows: None,
    spread: 1.0,
    rms: false,
    modulation: (1, 1),
};

/// All four vectors, with a modulation of two rows.
pub const ALL: Case = Case { rows: 3, vectors: [true; 4], modulation: (1, 2), ..PLAIN };

/// Every choice of the vectors that are there.
pub fn choices() -> impl Iterator<Item = [bool; 4]> {
    (0..16).map(|set| [1, 2, 4, 8].map(|bit| set & bit != 0))
}

#[test]
fn rows_of_every_width_are_normalised() {
    everywhere(|emulated| {
        // A lone element, a tail, one warp's registers full, one more, a block's registers full, and beyond.
        for cols in [1, 3, 16, 512, 513, 516, 2048, 2052] {
            for rms in [false, true] {
                run(
                    emulated,
                    Case { cols, rms, gap: cols % 4, y_gap: cols % 3, ..PLAIN },
                    Float::F32,
                    Float::F32,
                );
            }
        }
    });
}

#[test]
fn affine_weights_and_modulation_are_applied() {
    everywhere(|emulated| {
        for modulation in [(1, 9), (3, 3), (9, 1), (2, 2)] {
            let case = Case { rows: 9, modulation, ..ALL };
            run(emulated, case, Float::F32, Float::F32);
            run(emulated, Case { cols: 1000, rms: true, ..case }, Float::F32, Float::Bf16);
        }
    });
}

#[test]
fn bf16_rows_are_read_and_written() {
    everywhere(|emulated| {
        for cols in [60, 61, 768] {
            let vectors = [true, true, false, false];
            let case = Case { cols, vectors, gap: 8 - cols % 4, y_gap: 4 - cols % 4, ..PLAIN };
            run(emulated, case, Float::Bf16, Float::Bf16);
            run(emulated, case, Float::Bf16, Float::F32);
        }
    });
}

#[test]
fn an_operand_that_is_aligned_to_its_elements_only_is_moved_singly() {
    everywhere(|emulated| {
        for cols in [20, 516] {
            for k in 0..6 {
                let mut start = [0; 6];
                start[k] = 1;
                run(emulated, Case { cols, start, ..ALL }, Float::F32, Float::F32);
                run(emulated, Case { cols, start, ..ALL }, Float::F32, Float::Bf16);
            }
            for (gap, y_gap, modulation_gap) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
                run(emulated, Case { cols, gap, y_gap, modulation_gap, ..ALL }, Float::F32, Float::F32);
            }
        }
    });
}

#[test]
fn each_of_the_vectors_may_be_null() {
    everywhere(|emulated| {
        for cols in [75, 76, 645, 1028] {
            for vectors in choices() {
                run(emulated, Case { cols, vectors, ..ALL }, Float::F32, Float::F32);
            }
        }
    });
}

#[test]
fn a_grid_may_be_larger_than_the_rows() {
    everywhere(|emulated| {
        for cols in [75, 516] {
            run(emulated, Case { cols, rule_rows: Some(11), ..ALL }, Float::F32, Float::F32);
        }
    });
}

#[test]
fn aligned_rows_are_moved_four_elements_at_a_time() {
    let emulated = Emulated::new(settings()[0]);
    for cols in [512, 2048] {
        moved_by_fours(&run(&emulated, Case { cols, ..ALL }, Float::F32, Float::F32), 3 * cols);
    }
}

/// A row that the registers hold is read once and written once, and the four vectors are read once for each.
pub fn moved_by_fours(report: &Report, elements: usize) {
    let lanes: u64 = report.counters.iter().filter(|c| c.sectors > 0).map(|c| c.lanes).sum();
    assert_eq!(lanes, 6 * elements as u64 / 4, "lanes that read or write global memory");
}

#[test]
fn where_the_variance_is_small_epsilon_counts() {
    everywhere(|emulated| {
        for spread in [1e-3, 1e-6, 0.0] {
            run(emulated, Case { spread, ..PLAIN }, Float::F32, Float::F32);
        }
    });
}
