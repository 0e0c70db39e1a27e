//! Packed rows of many sequences and their caches: appending to them, and attending over them.

use super::attention::need;
use crate::attention::{Attention, Mask, Segment, Strides};
use crate::cache::CacheAppend;
use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::{Base, SpaceAxis};
use crate::exec::lower::Lowering;
use crate::exec::{BindError, RunError};
use crate::pool::Worker;
use selftok_graph::{DType, Kernel, Operand};

/// `[R, C]`: packed rows.
struct Packed {
    base: Base,
    stride: usize,
}

/// `[S, L, C]`
struct Caches {
    base: Base,
    count: usize,
    length: usize,
    cache_stride: usize,
    row_stride: usize,
}

/// Which cache each row belongs to, and which of its rows it is.
struct Places {
    name: String,
    rows: SpaceAxis,
    sequence: Base,
    position: Base,
}

struct AppendStep {
    value: Packed,
    places: Places,
    cache: Caches,
    width: usize,
}

struct AttentionStep {
    q: Packed,
    k: Caches,
    v: Caches,
    places: Places,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    /// Rows of the cache that a row sees.
    window: usize,
    out: Packed,
}

/// Lowers [`Kernel::CacheAppend`].
pub(super) fn lower_append(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::CacheAppend { value, sequence, position, out } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let width = out.axes.last().map_or(0, |axis| axis.size);
    let step = AppendStep {
        value: packed(low, value, width, "value")?,
        places: places(low, value, sequence, position)?,
        cache: caches(low, out, width, "out")?,
        width,
    };
    Ok((Box::new(step), Need::default()))
}

/// Lowers [`Kernel::CachedAttention`].
pub(super) fn lower_attention(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::CachedAttention { q, k, v, sequence, position, heads, kv_heads, scale, window, out } =
        &low.step.kernel
    else {
        return Err(super::mismatch(low));
    };
    let (heads, kv_heads) = (*heads, *kv_heads);
    let width = q.axes.last().map_or(0, |axis| axis.size);
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || width == 0 || width % heads != 0 {
        let reason = format!("{heads} heads, {kv_heads} of keys, over {width} elements: expected divisors");
        return Err(low.layout("q", reason));
    }
    let head_dim = width / heads;
    let step = AttentionStep {
        q: packed(low, q, width, "q")?,
        k: caches(low, k, kv_heads * head_dim, "k")?,
        v: caches(low, v, kv_heads * head_dim, "v")?,
        places: places(low, out, sequence, position)?,
        heads,
        kv_heads,
        head_dim,
        scale: *scale,
        window: window.unwrap_or(usize::MAX),
        out: packed(low, out, width, "out")?,
    };
    if (step.k.count, step.k.length) != (step.v.count, step.v.length) {
        return Err(low.layout("v", "its caches are not those of k".into()));
    }
    Ok((Box::new(step), need(q, heads)))
}

fn packed(low: &Lowering<'_>, x: &Operand, width: usize, role: &'static str) -> Result<Packed, BindError> {
    match x.axes[..] {
        [r, c] if c.size == width && (c.stride == 1 || c.size == 1) && c.extent.is_none() => {
            let stride = low.stride(r.stride, role)?;
            let starts = r.extent.map(|extent| (extent, stride)).into_iter().collect();
            Ok(Packed { base: low.base(x, starts, role)?, stride })
        }
        _ => Err(low.layout(role, format!("{:?}: expected [R, {width}], rows contiguous", x.axes))),
    }
}

fn caches(low: &Lowering<'_>, x: &Operand, width: usize, role: &'static str) -> Result<Caches, BindError> {
    match x.axes[..] {
        [s, l, c]
            if c.size == width
                && (c.stride == 1 || c.size == 1)
                && x.axes.iter().all(|axis| axis.extent.is_none()) =>
        {
            let (cache_stride, row_stride) = (low.stride(s.stride, role)?, low.stride(l.stride, role)?);
            let base = low.base(x, vec![], role)?;
            Ok(Caches { base, count: s.size, length: l.size, cache_stride, row_stride })
        }
        _ => Err(low.layout(role, format!("{:?}: expected [S, L, {width}], rows contiguous", x.axes))),
    }
}

fn places(
    low: &Lowering<'_>,
    rows: &Operand,
    sequence: &Operand,
    position: &Operand,
) -> Result<Places, BindError> {
    let Some(axis) = rows.axes.first() else {
        return Err(low.layout("out", "a scalar: expected [R, C]".into()));
    };
    let index = |x: &Operand, role| {
        low.dtype(x, DType::I32, role)?;
        match x.axes[..] {
            [r] if r.size == axis.size && (r.stride == 1 || r.size == 1) => {
                let starts = axis.extent.map(|extent| (extent, 1)).into_iter().collect();
                low.base(x, starts, role)
            }
            _ => Err(low.layout(role, format!("{:?}: expected [{}], contiguous", x.axes, axis.size))),
        }
    };
    Ok(Places {
        name: low.name(),
        rows: SpaceAxis { size: axis.size, extent: axis.extent },
        sequence: index(sequence, "sequence")?,
        position: index(position, "position")?,
    })
}

impl Places {
    /// Live rows, and the two indices of the first; every index is checked against the caches.
    ///
    /// Every worker looks at every row, so that all come to the same end; rows are few beside what is done with them.
    ///
    /// # Safety
    /// The indices are valid over the live rows.
    unsafe fn check(
        &self,
        cx: &Context<'_>,
        cache: &Caches,
    ) -> Result<(usize, *const i32, *const i32), RunError> {
        let rows = cx.live(self.rows.size, self.rows.extent);
        let sequence = cx.at(&self.sequence).cast_const().cast::<i32>();
        let position = cx.at(&self.position).cast_const().cast::<i32>();
        for (what, index, bound) in
            [("sequence", sequence, cache.count), ("position", position, cache.length)]
        {
            for i in 0..rows {
                // SAFETY: by contract.
                let id = unsafe { *index.add(i) };
                if usize::try_from(id).map_or(true, |id| id >= bound) {
                    let step = format!("{}, {what}", self.name);
                    return Err(RunError::Id { step, id, position: i, rows: bound });
                }
            }
        }
        Ok((rows, sequence, position))
    }
}

impl Run for AppendStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        // SAFETY: by the contract of `Run::run` the indices are valid over the live rows.
        let (rows, sequence, position) = unsafe { self.places.check(cx, &self.cache)? };
        let append = CacheAppend {
            value: cx.at(&self.value.base),
            value_stride: self.value.stride,
            sequence,
            position,
            cache: cx.at(&self.cache.base),
            cache_stride: self.cache.cache_stride,
            row_stride: self.cache.row_stride,
            rows,
            width: self.width,
        };
        // SAFETY: by the contract of `Run::run` the operands are valid; the indices were just found inside the caches.
        unsafe { launch(&append, cx, worker, scratch) };
        Ok(())
    }
}

impl Run for AttentionStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        // SAFETY: by the contract of `Run::run` the indices are valid over the live rows.
        let (rows, sequence, position) = unsafe { self.places.check(cx, &self.k)? };
        // SAFETY: as above.
        let place = |i: usize| unsafe { (*sequence.add(i) as usize, *position.add(i) as usize) };
        let mut first = 0;
        // Rows that follow one another in one sequence share the tiles of its keys, while they all see its first key; those
        // from which a window hides it go one by one.
        while first < rows {
            let (cache, start) = place(first);
            let mut count = 1;
            while first + count < rows
                && start + count < self.window
                && place(first + count) == (cache, start + count)
            {
                count += 1;
            }
            let hidden = (start + 1).saturating_sub(self.window);
            let strides = |caches: &Caches| Strides { batch: 0, row: caches.row_stride, head: self.head_dim };
            let keys = |caches: &Caches| {
                cx.at(&caches.base).wrapping_add(cache * caches.cache_stride + hidden * caches.row_stride)
            };
            let row = |packed: &Packed| cx.at(&packed.base).wrapping_add(first * packed.stride);
            let rows_of = |packed: &Packed| Strides { batch: 0, row: packed.stride, head: self.head_dim };
            let segment = Segment {
                k: keys(&self.k),
                v: keys(&self.v),
                rows: start + count - hidden,
                k_strides: strides(&self.k),
                v_strides: strides(&self.v),
            };
            let attention = Attention {
                q: row(&self.q),
                q_strides: rows_of(&self.q),
                out: row(&self.out),
                out_strides: rows_of(&self.out),
                segments: [segment, Segment::EMPTY, Segment::EMPTY, Segment::EMPTY],
                batch: 1,
                q_rows: count,
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                scale: self.scale,
                mask: Mask::Causal { q_position0: start - hidden },
                kv_lens: std::ptr::null(),
                workers: worker.count,
            };
            // SAFETY: by the contract of `Run::run` every operand is valid over the live rows; the caches' rows up to
            // the last position were just found inside; `kv_heads` divides `heads`.
            unsafe { launch(&attention, cx, worker, scratch) };
            first += count;
        }
        Ok(())
    }
}
