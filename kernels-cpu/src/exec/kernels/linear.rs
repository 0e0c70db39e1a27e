//! The linear layer: its weight packed for every step, or read in place where it serves once a request.

use crate::arch::blocks::BLOCK;
use crate::exec::BindError;
use crate::exec::RunError;
use crate::exec::context::{Context, Fixed, Need, Region, Run};
use crate::exec::layout::{Base, Rows, Space};
use crate::exec::lower::Lowering;
use crate::gemm::RowMap;
use crate::gemm::{
    self, Linear, LinearArgs, LinearSpec, PackedMatrix, RowsDType, Weight, WeightFormat, WeightKind,
};
use crate::isa::Features;
use crate::pool::Worker;
use selftok_graph::{Activation, DType, Kernel, Operand, Place, Stage, Step};
use std::sync::Arc;

enum Matrix {
    Packed(Arc<PackedMatrix>),
    /// Rows from so many bytes behind the base.
    Rows(Base, usize),
}

struct LinearStep {
    linear: Linear,
    space: Space,
    x: Rows,
    matrix: Matrix,
    bias: Option<Base>,
    act: Activation,
    gate: Option<Rows>,
    residual: Option<Rows>,
    out: Rows,
}

/// Lowers [`Kernel::Linear`].
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Linear { x, weight, bias, act, gate, residual, out } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let space = Space::of(out, 1);
    let [n, k] = weight.sizes()[..] else {
        return Err(low.layout("weight", format!("{} axes: expected [N, K]", weight.axes.len())));
    };
    for (operand, role) in [(x, "x"), (weight, "weight"), (out, "out")] {
        low.dtype(operand, DType::F32, role)?;
    }
    let (matrix, kind) = matrix(low, weight, n, k)?;
    let spec = LinearSpec { max_rows: space.max_rows().max(1), n, k, weight: kind, workers: low.threads };
    let features = low.store.borrow().features;
    let linear =
        Linear::prepare(&spec, features).map_err(|source| BindError::Gemm { step: low.name(), source })?;
    let need = Need { worker: linear.scratch_bytes(), shared: 0 };
    let rows = |operand: &Option<Operand>, role| {
        operand.as_ref().map(|operand| Rows::new(low, &space, operand, Some(n), role)).transpose()
    };
    let step = LinearStep {
        x: Rows::new(low, &space, x, Some(k), "x")?,
        matrix,
        bias: bias.as_ref().map(|bias| low.vector(bias, n, "bias")).transpose()?,
        act: *act,
        gate: rows(gate, "gate")?,
        residual: rows(residual, "residual")?,
        out: Rows::new(low, &space, out, Some(n), "out")?,
        linear,
        space,
    };
    Ok((Box::new(step), need))
}

/// Working space, whichever form the weight takes.
pub(super) fn need(step: &Step, features: Features, format: WeightFormat, threads: usize) -> Need {
    let Kernel::Linear { weight, out, .. } = &step.kernel else { return Need::default() };
    let [n, k] = weight.sizes()[..] else { return Need::default() };
    let max_rows = Space::of(out, 1).max_rows().max(1);
    let mut kinds = vec![
        WeightKind::Packed(format),
        WeightKind::Packed(WeightFormat::Bf16Wide),
        WeightKind::Packed(WeightFormat::F16Wide),
        WeightKind::Rows(RowsDType::F32),
        WeightKind::Rows(RowsDType::F16),
    ];
    if k.is_multiple_of(BLOCK) {
        for format in [WeightFormat::Q8_0, WeightFormat::Q4_0, WeightFormat::Q4_1] {
            kinds.extend([format, format.with_int8_activations()].map(WeightKind::Packed));
        }
    }
    if format == WeightFormat::Bf16 {
        kinds.push(WeightKind::Rows(RowsDType::Bf16));
    }
    let bytes = kinds.into_iter().map(|weight| {
        let spec = LinearSpec { max_rows, n, k, weight, workers: threads };
        Linear::prepare(&spec, features).map_or(0, |linear| linear.scratch_bytes())
    });
    Need { worker: bytes.max().unwrap_or(0), shared: 0 }
}

/// The form of the weight that this reader gets.
fn matrix(
    low: &Lowering<'_>,
    weight: &Operand,
    n: usize,
    k: usize,
) -> Result<(Matrix, WeightKind), BindError> {
    let contiguous =
        (weight.axes[1].stride == 1 || k == 1) && (weight.axes[0].stride == k as isize || n == 1);
    if !contiguous || weight.axes.iter().any(|axis| axis.extent.is_some()) {
        return Err(low.layout("weight", format!("{:?}: expected contiguous rows", weight.axes)));
    }
    let Place::Weight(id) = weight.place else {
        let base = low.base(weight, vec![], "weight")?;
        return Ok((Matrix::Rows(base, 0), WeightKind::Rows(RowsDType::F32)));
    };
    if !weight.picks.is_empty() || k == 0 || !weight.offset.is_multiple_of(k) {
        let reason =
            format!("element {} is no start of a row of {k}, or is picked at run time", weight.offset);
        return Err(low.layout("weight", reason));
    }
    let first = weight.offset / k;
    if low.store.borrow().last_stage(id) == Stage::Step {
        let packed = low.store.borrow_mut().packed(id, first..first + n, k, &low.name())?;
        let format = packed.format();
        return Ok((Matrix::Packed(packed), WeightKind::Packed(format)));
    }
    let plain = low.store.borrow_mut().rows(id, low.at_bind)?;
    let dtype = plain.rows().0;
    let region = Region::Fixed(Fixed(low.keep(plain).cast()));
    let base = Base { region, offset: 0, picks: vec![], starts: vec![] };
    Ok((Matrix::Rows(base, first * k * dtype.bytes()), WeightKind::Rows(dtype)))
}

/// The map as the matrix product spells it.
pub(super) fn gemm_map(map: RowMap) -> gemm::RowMap {
    gemm::RowMap { inner: map.inner, outer_stride: map.outer_stride, inner_stride: map.inner_stride }
}

impl Run for LinearStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let rows = self.space.rows(cx);
        if rows == 0 {
            return Ok(());
        }
        let at = |operand: &Rows| {
            let (ptr, map) = operand.at(&self.space, cx);
            (ptr, gemm_map(map))
        };
        let read = |operand: &Rows| {
            let (ptr, map) = at(operand);
            gemm::Rows { ptr: ptr.cast_const(), map }
        };
        let (c, c_map) = at(&self.out);
        let args = LinearArgs {
            rows,
            a: read(&self.x),
            weight: match &self.matrix {
                Matrix::Packed(packed) => Weight::Packed(packed),
                Matrix::Rows(base, bytes) => Weight::Rows(cx.at(base).cast::<u8>().wrapping_add(*bytes)),
            },
            bias: self.bias.as_ref().map(|bias| cx.at(bias).cast_const()),
            act: self.act,
            gate: self.gate.as_ref().map(read),
            residual: self.residual.as_ref().map(read),
            c: gemm::Rows { ptr: c, map: c_map },
        };
        worker.for_each_task(self.linear.tasks(rows), |task| {
            // SAFETY: by the contract of `Run::run` every operand is valid over the live rows; the weight was packed for
            // `cx.features` with this shape; each task is claimed once.
            unsafe { self.linear.run(&args, task, scratch) }
        });
        Ok(())
    }
}
