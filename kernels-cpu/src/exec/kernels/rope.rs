//! Rotary embedding.

use crate::attention::Strides;
use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::{Base, SpaceAxis};
use crate::exec::lower::Lowering;
use crate::exec::{BindError, RunError};
use crate::pool::Worker;
use crate::rope::Rope;
use crate::scratch::floats_bytes;
use selftok_graph::{Kernel, Operand, RopeStyle, Slot};

struct RopeStep {
    x: (Base, Strides),
    out: (Base, Strides),
    batch: SpaceAxis,
    rows: SpaceAxis,
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    style: RopeStyle,
    table: Base,
    offset: Option<Slot>,
}

/// Working space: a row of factors for both elements of each pair.
pub(super) fn need(table: &Operand) -> Need {
    let rotary_dim = table.axes.last().map_or(0, |axis| axis.size);
    Need { worker: 2 * floats_bytes(rotary_dim), shared: 0 }
}

/// Lowers [`Kernel::Rope`]. That the last live row's position stands in the table is checked with each run's slots.
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Rope { x, table, heads, style, offset, out } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let heads = *heads;
    let [b, n, c] = out.axes[..] else {
        return Err(low.layout("out", format!("{} axes: expected [B, N, heads * D]", out.axes.len())));
    };
    if heads == 0 || c.size % heads != 0 || c.extent.is_some() {
        return Err(low.layout("out", format!("{c:?}: expected {heads} heads of one size")));
    }
    let head_dim = c.size / heads;
    let side = |operand: &Operand, role| -> Result<(Base, Strides), BindError> {
        let [ob, on, oc] = operand.axes[..] else {
            return Err(low.layout(role, format!("{} axes: expected 3", operand.axes.len())));
        };
        if operand.sizes() != out.sizes() || (oc.stride != 1 && oc.size > 1) {
            return Err(
                low.layout(role, format!("{:?}: expected rows of {} contiguous", operand.axes, c.size))
            );
        }
        let strides = Strides {
            batch: low.stride(ob.stride, role)?,
            row: low.stride(on.stride, role)?,
            head: head_dim,
        };
        let starts = [(b.extent, strides.batch), (n.extent, strides.row)];
        let starts = starts.into_iter().filter_map(|(extent, stride)| Some((extent?, stride))).collect();
        Ok((low.base(operand, starts, role)?, strides))
    };
    let rotary = match table.axes[..] {
        [p, r]
            if r.size % 2 == 0
                && r.size <= head_dim
                && (r.stride == 1 || r.size == 0)
                && (p.stride == r.size as isize || p.size == 1) =>
        {
            r.size
        }
        _ => return Err(low.layout("table", format!("{:?}: expected [P, <= {head_dim}], dense", table.axes))),
    };
    let step = RopeStep {
        x: side(x, "x")?,
        out: side(out, "out")?,
        batch: SpaceAxis { size: b.size, extent: b.extent },
        rows: SpaceAxis { size: n.size, extent: n.extent },
        heads,
        head_dim,
        rotary_dim: rotary,
        style: *style,
        table: low.base(table, vec![], "table")?,
        offset: *offset,
    };
    Ok((Box::new(step), need(table)))
}

impl Run for RopeStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let rows = cx.live(self.rows.size, self.rows.extent);
        let batch = cx.live(self.batch.size, self.batch.extent);
        if rows == 0 || batch == 0 || self.head_dim == 0 {
            return Ok(());
        }
        let first = self.rows.extent.map_or(0, |extent| cx.range(extent).start);
        let rope = Rope {
            x: cx.at(&self.x.0),
            x_strides: self.x.1,
            y: cx.at(&self.out.0),
            y_strides: self.out.1,
            batch,
            rows,
            heads: self.heads,
            head_dim: self.head_dim,
            rotary_dim: self.rotary_dim,
            style: self.style,
            table: cx.at(&self.table),
            positions: std::ptr::null(),
            position0: first + self.offset.map_or(0, |slot| cx.slots[slot.0 as usize] as usize),
            norm: None,
        };
        // SAFETY: by the contract of `Run::run` every operand is valid over the live rows, and positions stand in the table.
        unsafe { launch(&rope, cx, worker, scratch) };
        Ok(())
    }
}
