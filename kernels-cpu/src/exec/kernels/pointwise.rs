//! Pointwise functions, copies, upsampling, and linear combinations.

use crate::combine::{Combine, MAX_TERMS};
use crate::elementwise::{BinaryOp, Unary};
use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::{Base, Space};
use crate::exec::lower::Lowering;
use crate::exec::walk::{Grid, RunOperand, Runs};
use crate::exec::{BindError, RunError};
use crate::pool::Worker;
use selftok_graph::{Activation, Axis, Binary, Kernel, Operand};

struct UnaryStep {
    act: Activation,
    grid: Grid<2>,
}

struct BinaryStep {
    op: Binary,
    act: Activation,
    grid: Grid<3>,
}

struct CombineStep {
    coeffs: Base,
    terms: usize,
    runs: Runs,
}

/// Lowers [`Kernel::Copy`].
pub(super) fn lower_copy(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Copy { x, out } = &low.step.kernel else { return Err(super::mismatch(low)) };
    low.dtype(x, out.dtype, "x")?;
    let grid = Grid::new(low, [(x, "x"), (out, "out")])?;
    Ok((Box::new(UnaryStep { act: Activation::Identity, grid }), Need::default()))
}

/// Lowers [`Kernel::Map`].
pub(super) fn lower_map(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Map { a, b, act, out } = &low.step.kernel else { return Err(super::mismatch(low)) };
    let step: Box<dyn Run> = match b {
        None => Box::new(UnaryStep { act: *act, grid: Grid::new(low, [(a, "a"), (out, "out")])? }),
        Some((op, b)) => Box::new(BinaryStep {
            op: *op,
            act: *act,
            grid: Grid::new(low, [(a, "a"), (b, "b"), (out, "out")])?,
        }),
    };
    Ok((step, Need::default()))
}

/// Lowers [`Kernel::Upsample2x`]: a copy in which two of six axes repeat.
pub(super) fn lower_upsample(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Upsample2x { x, out } = &low.step.kernel else { return Err(super::mismatch(low)) };
    let ([b, h, w, c], [ob, oh, ow, oc]) = (nhwc(low, x, "x")?, nhwc(low, out, "out")?);
    if oh.size != 2 * h.size || ow.size != 2 * w.size || oc.size != c.size {
        return Err(low.layout("out", format!("{:?}: expected twice the height and width of x", out.sizes())));
    }
    let axis = |size, stride| Axis { size, stride, extent: None };
    let wide = Operand {
        axes: vec![
            ob,
            axis(h.size, 2 * oh.stride),
            axis(2, oh.stride),
            axis(w.size, 2 * ow.stride),
            axis(2, ow.stride),
            oc,
        ],
        ..out.clone()
    };
    let narrow = Operand { axes: vec![b, h, axis(1, 0), w, axis(1, 0), c], ..x.clone() };
    let grid = Grid::new(low, [(&narrow, "x"), (&wide, "out")])?;
    Ok((Box::new(UnaryStep { act: Activation::Identity, grid }), Need::default()))
}

/// The four axes of a batch of pictures.
pub(super) fn nhwc(low: &Lowering<'_>, x: &Operand, role: &'static str) -> Result<[Axis; 4], BindError> {
    match <[Axis; 4]>::try_from(&x.axes[..]) {
        Ok(axes) if axes[1..].iter().all(|axis| axis.extent.is_none()) => Ok(axes),
        _ => Err(low.layout(role, format!("{:?}: expected [B, H, W, C], live in B alone", x.axes))),
    }
}

/// Lowers [`Kernel::Combine`].
pub(super) fn lower_combine(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Combine { coeffs, xs, out } = &low.step.kernel else { return Err(super::mismatch(low)) };
    if xs.is_empty() || xs.len() > MAX_TERMS {
        return Err(low.layout("x", format!("{} terms: expected 1 to {MAX_TERMS}", xs.len())));
    }
    let operands: Vec<_> = xs.iter().map(|x| (x, "x")).chain([(out, "out")]).collect();
    let operands: Vec<_> =
        operands.iter().map(|&(operand, role)| RunOperand { operand, role, width: None }).collect();
    let runs = Runs::new(low, Space::of(out, 0), &operands)?;
    let step = CombineStep { coeffs: low.vector(coeffs, xs.len(), "coeffs")?, terms: xs.len(), runs };
    Ok((Box::new(step), Need::default()))
}

impl Run for UnaryStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let Some(shape) = self.grid.live(cx) else { return Ok(()) };
        let unary = Unary { act: self.act, x: self.grid.at(0, cx), y: self.grid.at(1, cx), shape };
        // SAFETY: by the contract of `Run::run` both operands are valid over the live axes.
        unsafe { launch(&unary, cx, worker, scratch) };
        Ok(())
    }
}

impl Run for BinaryStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let Some(shape) = self.grid.live(cx) else { return Ok(()) };
        let (a, b, y) = (self.grid.at(0, cx), self.grid.at(1, cx), self.grid.at(2, cx));
        // SAFETY: by the contract of `Run::run` the operands are valid over the live axes.
        unsafe { launch(&BinaryOp { op: self.op, act: self.act, a, b, y, shape }, cx, worker, scratch) };
        Ok(())
    }
}

impl Run for CombineStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        self.runs.for_each(cx, |at, len| {
            let mut x = [std::ptr::null(); MAX_TERMS];
            for (i, x) in x[..self.terms].iter_mut().enumerate() {
                *x = at(i).cast_const();
            }
            let coeffs = cx.at(&self.coeffs);
            let combine = Combine { coeffs, x, terms: self.terms, y: at(self.terms), len };
            // SAFETY: by the contract of `Run::run` the operands are valid over the live axes, which a run is part of.
            unsafe { launch(&combine, cx, worker, scratch) };
            Ok(())
        })
    }
}
