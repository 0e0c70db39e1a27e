//! Attention over key and value segments, each with its own live rows.

use crate::attention::{Attention, Mask, Segment, Strides};
use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::{Base, SpaceAxis};
use crate::exec::lower::Lowering;
use crate::exec::{BindError, RunError};
use crate::kernel::Kernel as _;
use crate::pool::Worker;
use selftok_graph::{Kernel, Mask as PlanMask, Operand, Slot};

/// Segments that the kernel takes.
const MAX_SEGMENTS: usize = 4;

/// `[B, N, H*D]`
struct Heads {
    base: Base,
    strides: Strides,
    rows: SpaceAxis,
}

struct AttentionStep {
    q: Heads,
    segments: Vec<(Heads, Heads)>,
    batch: SpaceAxis,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    /// Slot of the causal offset.
    causal: Option<Option<Slot>>,
    out: Heads,
}

/// Working space.
pub(super) fn need(q: &Operand, heads: usize) -> Need {
    let width = q.axes.last().map_or(1, |axis| axis.size);
    let none = Strides { batch: 0, row: 0, head: 0 };
    let kernel = Attention {
        q: std::ptr::null(),
        q_strides: none,
        out: std::ptr::null_mut(),
        out_strides: none,
        segments: [Segment::EMPTY; MAX_SEGMENTS],
        batch: 0,
        q_rows: 0,
        heads,
        kv_heads: heads,
        head_dim: width / heads.max(1),
        scale: 1.0,
        mask: Mask::None,
        kv_lens: std::ptr::null(),
        // The fewer workers, the larger the tasks: none at all gives the largest.
        workers: 0,
    };
    Need { worker: kernel.scratch_bytes(), shared: 0 }
}

/// Lowers [`Kernel::Attention`].
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Attention { q, segments, heads, kv_heads, scale, mask, out } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let (heads, kv_heads) = (*heads, *kv_heads);
    let width = q.axes.last().map_or(0, |axis| axis.size);
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || width == 0 || width % heads != 0 {
        let reason = format!("{heads} heads, {kv_heads} of keys, over {width} elements: expected divisors");
        return Err(low.layout("q", reason));
    }
    if segments.len() > MAX_SEGMENTS {
        return Err(low.layout("k", format!("{} segments: expected at most {MAX_SEGMENTS}", segments.len())));
    }
    let head_dim = width / heads;
    let Some(batch) = out.axes.first().map(|axis| SpaceAxis { size: axis.size, extent: axis.extent }) else {
        return Err(low.layout("out", "a scalar: expected [B, N, H*D]".into()));
    };
    let mut pairs = Vec::with_capacity(segments.len());
    for (k, v) in segments {
        let pair =
            (new(low, k, batch, kv_heads, head_dim, "k")?, new(low, v, batch, kv_heads, head_dim, "v")?);
        if pair.0.rows != pair.1.rows {
            return Err(low.layout("v", "its rows are not those of k".into()));
        }
        pairs.push(pair);
    }
    let causal = match mask {
        PlanMask::None => None,
        PlanMask::Causal { offset } => Some(*offset),
    };
    // A query's limit counts all rows of all segments from their first; the kernel counts live rows. These agree where
    // only the last segment is cut, and at its end.
    if let (Some(_), Some(((last, _), earlier))) = (causal, pairs.split_last()) {
        let from_first = last.rows.extent.is_none_or(|e| low.plan.extents[e.0 as usize].lo.is_none());
        if !from_first || earlier.iter().any(|(k, _)| k.rows.extent.is_some()) {
            let reason =
                "a causal mask over a segment whose first rows, or which before the last, is not live";
            return Err(low.layout("k", reason.into()));
        }
    }
    let step = AttentionStep {
        q: new(low, q, batch, heads, head_dim, "q")?,
        segments: pairs,
        batch,
        heads,
        kv_heads,
        head_dim,
        scale: *scale,
        causal,
        out: new(low, out, batch, heads, head_dim, "out")?,
    };
    if step.q.rows != step.out.rows {
        return Err(low.layout("q", "its rows are not those of the result".into()));
    }
    Ok((Box::new(step), need(q, heads)))
}

fn new(
    low: &Lowering<'_>,
    x: &Operand,
    batch: SpaceAxis,
    heads: usize,
    head_dim: usize,
    role: &'static str,
) -> Result<Heads, BindError> {
    let [b, n, c] = x.axes[..] else {
        return Err(low.layout(role, format!("{} axes: expected [B, N, heads * D]", x.axes.len())));
    };
    if c.size != heads * head_dim || (c.stride != 1 && c.size > 1) || c.extent.is_some() {
        return Err(low.layout(role, format!("{c:?}: expected {heads} x {head_dim} contiguous elements")));
    }
    if b.size != 1 && b.size != batch.size {
        return Err(low.layout(role, format!("batch {}, the result has {}", b.size, batch.size)));
    }
    let mut starts = Vec::new();
    let b_stride = if b.size == 1 { 0 } else { low.stride(b.stride, role)? };
    let n_stride = low.stride(n.stride, role)?;
    if let (Some(extent), true) = (batch.extent, b_stride > 0) {
        starts.push((extent, b_stride));
    }
    if let Some(extent) = n.extent {
        starts.push((extent, n_stride));
    }
    Ok(Heads {
        base: low.base(x, starts, role)?,
        strides: Strides { batch: b_stride, row: n_stride, head: head_dim },
        rows: SpaceAxis { size: n.size, extent: n.extent },
    })
}

impl Heads {
    fn live(&self, cx: &Context<'_>) -> std::ops::Range<usize> {
        self.rows.extent.map_or(0..self.rows.size, |extent| cx.range(extent))
    }
}

impl Run for AttentionStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let queries = self.q.live(cx);
        let batch = cx.live(self.batch.size, self.batch.extent);
        if queries.is_empty() || batch == 0 {
            return Ok(());
        }
        let mut segments = [Segment::EMPTY; MAX_SEGMENTS];
        for (segment, (k, v)) in segments.iter_mut().zip(&self.segments) {
            *segment = Segment {
                k: cx.at(&k.base),
                v: cx.at(&v.base),
                rows: k.live(cx).len(),
                k_strides: k.strides,
                v_strides: v.strides,
            };
        }
        let mask = match self.causal {
            None => Mask::None,
            Some(offset) => {
                let offset = offset.map_or(0, |slot| cx.slots[slot.0 as usize] as usize);
                Mask::Causal { q_position0: offset + queries.start }
            }
        };
        let attention = Attention {
            q: cx.at(&self.q.base),
            q_strides: self.q.strides,
            out: cx.at(&self.out.base),
            out_strides: self.out.strides,
            segments,
            batch,
            q_rows: queries.len(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            mask,
            kv_lens: std::ptr::null(),
            workers: worker.count,
        };
        // SAFETY: by the contract of `Run::run` every operand is valid over the live rows; `kv_heads` divides `heads`.
        unsafe { launch(&attention, cx, worker, scratch) };
        Ok(())
    }
}
