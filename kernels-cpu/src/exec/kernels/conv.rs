//! Convolution over NHWC; its weight is always packed.

use super::linear::gemm_map;
use super::pointwise::nhwc;
use crate::conv::{Conv2d, ConvArgs, ConvSpec};
use crate::exec::context::{Context, Need, Run};
use crate::exec::layout::{Base, Rows, Space, SpaceAxis};
use crate::exec::lower::Lowering;
use crate::exec::{BindError, RunError};
use crate::gemm::{self, PackedMatrix, WeightFormat};
use crate::isa::Features;
use crate::pool::Worker;
use selftok_graph::{Activation, Kernel, Place, Step};
use std::sync::Arc;

struct ConvStep {
    conv: Conv2d,
    weight: Arc<PackedMatrix>,
    space: Space,
    batch: SpaceAxis,
    x: Base,
    image_stride: usize,
    pixel_stride: usize,
    bias: Option<Base>,
    act: Activation,
    residual: Option<Rows>,
    out: Rows,
}

/// The shape of a step whose operands have four axes.
fn spec(step: &Step, format: WeightFormat, workers: usize) -> Option<ConvSpec> {
    let Kernel::Conv2d { x, weight, stride, padding, upsample, .. } = &step.kernel else { return None };
    let (&[b, h, w, i], &[o, _, kh, kw]) = (&x.sizes()[..], &weight.sizes()[..]) else { return None };
    Some(ConvSpec {
        max_batch: b.max(1),
        input: [h, w],
        in_channels: i,
        out_channels: o,
        kernel: [kh, kw],
        stride: *stride,
        padding: *padding,
        upsample: *upsample,
        format,
        workers,
    })
}

/// Working space.
pub(super) fn need(step: &Step, features: Features, format: WeightFormat, threads: usize) -> Need {
    let conv = spec(step, format, threads).and_then(|spec| Conv2d::prepare(&spec, features).ok());
    Need { worker: conv.map_or(0, |conv| conv.scratch_bytes()), shared: 0 }
}

/// Lowers [`Kernel::Conv2d`].
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Conv2d { x, weight, bias, act, residual, out, .. } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let (features, format) = (low.store.borrow().features, low.store.borrow().format);
    let [b, h, w, c] = nhwc(low, x, "x")?;
    let [ob, oh, ow, o] = nhwc(low, out, "out")?;
    let Some(spec) = spec(low.step, format, low.threads) else {
        return Err(low.layout("weight", format!("{:?}: expected [O, I, kh, kw]", weight.sizes())));
    };
    let conv =
        Conv2d::prepare(&spec, features).map_err(|source| BindError::Gemm { step: low.name(), source })?;
    if [oh.size, ow.size, o.size] != [conv.output()[0], conv.output()[1], spec.out_channels]
        || ob.size != b.size
    {
        return Err(low.layout("out", format!("{:?}: expected pictures of {:?}", out.sizes(), conv.output())));
    }
    let pixel_stride = low.stride(w.stride, "x")?;
    if (c.stride != 1 && c.size > 1) || (h.size > 1 && h.stride != w.stride * w.size as isize) {
        return Err(low.layout("x", format!("{:?}: expected rows of pixels that follow one another", x.axes)));
    }
    let dense = [weight.axes[3].size, weight.axes[2].size, weight.axes[1].size];
    let mut stride = 1;
    let mut contiguous = weight.axes[3].stride == 1 || dense[0] == 1;
    for (i, size) in dense.into_iter().enumerate() {
        stride *= size as isize;
        contiguous &= weight.axes[2 - i].stride == stride || weight.axes[2 - i].size == 1;
    }
    let row = stride as usize;
    let Place::Weight(id) = weight.place else {
        return Err(low.layout("weight", format!("in {:?}: expected a weight", weight.place)));
    };
    if !contiguous || weight.axes[1].size != c.size || row == 0 || weight.offset % row != 0 {
        let reason = format!("{:?}: expected whole rows of a weight over {} channels", weight.axes, c.size);
        return Err(low.layout("weight", reason));
    }
    let first = weight.offset / row;
    let shape = [o.size, c.size, spec.kernel[0], spec.kernel[1]];
    let weight = low.store.borrow_mut().packed_conv(id, first, shape, &low.name())?;
    let image_stride = if b.size == 1 { 0 } else { low.stride(b.stride, "x")? };
    let starts = ob.extent.filter(|_| image_stride > 0).map(|extent| (extent, image_stride));
    let space = Space::of(out, 1);
    let rows = |operand, role| Rows::new(low, &space, operand, Some(o.size), role);
    let need = Need { worker: conv.scratch_bytes(), shared: 0 };
    let step = ConvStep {
        weight,
        batch: SpaceAxis { size: ob.size, extent: ob.extent },
        x: low.base(x, starts.into_iter().collect(), "x")?,
        image_stride,
        pixel_stride,
        bias: bias.as_ref().map(|bias| low.vector(bias, o.size, "bias")).transpose()?,
        act: *act,
        residual: residual.as_ref().map(|operand| rows(operand, "residual")).transpose()?,
        out: rows(out, "out")?,
        conv,
        space,
    };
    Ok((Box::new(step), need))
}

impl Run for ConvStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let batch = cx.live(self.batch.size, self.batch.extent);
        if batch == 0 {
            return Ok(());
        }
        let (c, c_map) = self.out.at(&self.space, cx);
        let residual = self.residual.as_ref().map(|residual| {
            let (ptr, map) = residual.at(&self.space, cx);
            gemm::Rows { ptr: ptr.cast_const(), map: gemm_map(map) }
        });
        let args = ConvArgs {
            batch,
            x: cx.at(&self.x),
            image_stride: self.image_stride,
            pixel_stride: self.pixel_stride,
            weight: &self.weight,
            bias: self.bias.as_ref().map(|bias| cx.at(bias).cast_const()),
            act: self.act,
            gate: None,
            residual,
            c: gemm::Rows { ptr: c, map: gemm_map(c_map) },
        };
        worker.for_each_task(self.conv.tasks(batch), |task| {
            // SAFETY: by the contract of `Run::run` every operand is valid over the live pictures; the weight was packed for
            // `cx.features` with this shape; each task is claimed once.
            unsafe { self.conv.run(&args, task, scratch) }
        });
        Ok(())
    }
}
