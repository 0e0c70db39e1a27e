//! Group norm: sums over runs of pixels, a barrier, then the norm itself. The partial sums are the one thing that the
//! workers of a step share.

use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::{Base, SpaceAxis, merge};
use crate::exec::lower::Lowering;
use crate::exec::{BindError, RunError};
use crate::group_norm::{GroupNormApply, GroupNormStats, Pictures};
use crate::kernel::Kernel as _;
use crate::pool::Worker;
use selftok_graph::{Activation, ExtentId, Kernel, Operand};

struct GroupNormStep {
    shape: Pictures,
    batch: SpaceAxis,
    x: (Base, [usize; 2]),
    out: (Base, [usize; 2]),
    weight: Base,
    bias: Base,
    eps: f32,
    act: Activation,
}

fn pictures(x: &Operand, groups: usize) -> Pictures {
    let sizes = x.sizes();
    let (batch, channels) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    let pixels = sizes.get(1..sizes.len().saturating_sub(1)).map_or(1, |inner| inner.iter().product());
    Pictures { batch, pixels, channels, groups }
}

/// Working space.
pub(super) fn need(x: &Operand, groups: usize) -> Need {
    let shape = pictures(x, groups);
    if shape.channels == 0 {
        return Need::default();
    }
    let stats =
        GroupNormStats { shape, x: std::ptr::null(), x_strides: [0; 2], partials: std::ptr::null_mut() };
    let apply = GroupNormApply {
        shape,
        x: std::ptr::null(),
        x_strides: [0; 2],
        y: std::ptr::null_mut(),
        y_strides: [0; 2],
        weight: std::ptr::null(),
        bias: std::ptr::null(),
        eps: 0.0,
        act: Activation::Identity,
        partials: std::ptr::null(),
    };
    let worker = stats.scratch_bytes().max(apply.scratch_bytes());
    Need { worker, shared: shape.partial_sums() * size_of::<f64>() }
}

/// Lowers [`Kernel::GroupNorm`].
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::GroupNorm { x, groups, eps, weight, bias, act, out } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let shape = pictures(out, *groups);
    if out.axes.len() < 2 || *groups == 0 || shape.channels == 0 || !shape.channels.is_multiple_of(*groups) {
        let reason = format!("{:?}: expected [B, .., C] with channels in {groups} groups", out.sizes());
        return Err(low.layout("out", reason));
    }
    let batch = SpaceAxis { size: out.axes[0].size, extent: out.axes[0].extent };
    let step = GroupNormStep {
        shape,
        batch,
        x: side(low, x, out, batch.extent, "x")?,
        out: side(low, out, out, batch.extent, "out")?,
        weight: low.vector(weight, shape.channels, "weight")?,
        bias: low.vector(bias, shape.channels, "bias")?,
        eps: *eps,
        act: *act,
    };
    Ok((Box::new(step), need(x, *groups)))
}

/// Where pictures lie: strides from picture to picture and from pixel to pixel.
fn side(
    low: &Lowering<'_>,
    x: &Operand,
    out: &Operand,
    batch: Option<ExtentId>,
    role: &'static str,
) -> Result<(Base, [usize; 2]), BindError> {
    let last = x.axes.len() - 1;
    let live = x.axes[1..].iter().any(|axis| axis.extent.is_some());
    if x.sizes() != out.sizes() || live || (x.axes[last].stride != 1 && x.axes[last].size > 1) {
        return Err(low.layout(role, format!("{:?}: expected [B, .., C], live in B alone", x.axes)));
    }
    let image = low.stride(x.axes[0].stride, role)?;
    let axes: Vec<_> = x.axes[1..last].iter().map(|a| SpaceAxis { size: a.size, extent: None }).collect();
    let strides =
        x.axes[1..last].iter().map(|a| low.stride(a.stride, role)).collect::<Result<Vec<_>, _>>()?;
    let strides: Vec<_> = axes.iter().zip(strides).map(|(a, s)| if a.size == 1 { 0 } else { s }).collect();
    let pixel = match merge(&axes, &strides)[..] {
        [] => 0,
        [(_, stride)] => stride,
        _ => return Err(low.layout(role, format!("{:?}: expected pixels at one stride", x.axes))),
    };
    let starts = batch.map(|extent| (extent, image)).into_iter().collect();
    Ok((low.base(x, starts, role)?, [image, pixel]))
}

impl Run for GroupNormStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let shape = Pictures { batch: cx.live(self.batch.size, self.batch.extent), ..self.shape };
        if shape.batch == 0 || shape.pixels == 0 {
            return Ok(());
        }
        let (x, partials) = (cx.at(&self.x.0), cx.shared.cast::<f64>());
        let stats = GroupNormStats { shape, x, x_strides: self.x.1, partials };
        // SAFETY: by the contract of `Run::run` every operand is valid over the live pictures; the shared space holds the sums.
        unsafe { launch(&stats, cx, worker, scratch) };
        worker.barrier();
        let apply = GroupNormApply {
            shape,
            x,
            x_strides: self.x.1,
            y: cx.at(&self.out.0),
            y_strides: self.out.1,
            weight: cx.at(&self.weight),
            bias: cx.at(&self.bias),
            eps: self.eps,
            act: self.act,
            partials,
        };
        // SAFETY: as above.
        unsafe { launch(&apply, cx, worker, scratch) };
        Ok(())
    }
}
