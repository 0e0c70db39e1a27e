//! Norms with their affine part and modulation, and modulation alone: one kernel over rows.

use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::{Base, Rows, Space};
use crate::exec::lower::Lowering;
use crate::exec::{BindError, RunError};
use crate::gemm::RowMap;
use crate::norm::Norm;
use crate::pool::Worker;
use selftok_graph::{Kernel, NormKind, Operand};

struct NormStep {
    kind: Option<NormKind>,
    eps: f32,
    width: usize,
    space: Space,
    x: Rows,
    weight: Option<Base>,
    bias: Option<Base>,
    shift: Option<Rows>,
    scale: Option<Rows>,
    out: Rows,
}

/// Lowers [`Kernel::Norm`] and [`Kernel::Modulate`].
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let (kind, eps, x, weight, bias, shift, scale, out) = match &low.step.kernel {
        Kernel::Norm { x, kind, eps, weight, bias, shift, scale, out } => {
            (Some(*kind), *eps, x, weight.as_ref(), bias.as_ref(), shift.as_ref(), scale.as_ref(), out)
        }
        Kernel::Modulate { x, shift, scale, out } => {
            (None, 0.0, x, None, None, Some(shift), Some(scale), out)
        }
        _ => return Err(super::mismatch(low)),
    };
    let width = out.axes.last().map_or(1, |axis| axis.size);
    let space = Space::of(out, 1);
    let rows = |operand: Option<&Operand>, role| {
        operand.map(|operand| Rows::new(low, &space, operand, Some(width), role)).transpose()
    };
    let vector = |operand: Option<&Operand>, role| operand.map(|o| low.vector(o, width, role)).transpose();
    let step = NormStep {
        kind,
        eps,
        width,
        x: Rows::new(low, &space, x, Some(width), "x")?,
        weight: vector(weight, "weight")?,
        bias: vector(bias, "bias")?,
        shift: rows(shift, "shift")?,
        scale: rows(scale, "scale")?,
        out: Rows::new(low, &space, out, Some(width), "out")?,
        space,
    };
    Ok((Box::new(step), Need::default()))
}

impl Run for NormStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let rows = self.space.rows(cx);
        if rows == 0 || self.width == 0 {
            return Ok(());
        }
        let vector = |base: &Option<Base>| base.as_ref().map_or(std::ptr::null(), |b| cx.at(b).cast_const());
        let optional = |operand: &Option<Rows>| match operand {
            Some(operand) => operand.at(&self.space, cx),
            None => (std::ptr::null_mut(), RowMap::broadcast()),
        };
        let (x, x_map) = self.x.at(&self.space, cx);
        let (y, y_map) = self.out.at(&self.space, cx);
        let (scale, scale_map) = optional(&self.scale);
        let (shift, shift_map) = optional(&self.shift);
        let norm = Norm {
            kind: self.kind,
            x,
            x_map,
            y,
            y_map,
            rows,
            width: self.width,
            eps: self.eps,
            weight: vector(&self.weight),
            bias: vector(&self.bias),
            scale,
            scale_map,
            shift,
            shift_map,
        };
        // SAFETY: by the contract of `Run::run` every operand is valid over the live rows.
        unsafe { launch(&norm, cx, worker, scratch) };
        Ok(())
    }
}
