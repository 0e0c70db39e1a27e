//! Rows of a table by ids, and the sinusoids of a timestep.

use crate::embed::{Gather, TableFormat, TimestepEmbed};
use crate::exec::context::{Context, Fixed, Need, Run, launch};
use crate::exec::layout::{Base, Space};
use crate::exec::lower::Lowering;
use crate::exec::walk::{RunOperand, Runs};
use crate::exec::{BindError, RunError, WeightSource};
use crate::gemm::RowMap;
use crate::pool::Worker;
use selftok_graph::{DType, Kernel, Operand, Place};
use std::sync::Arc;

struct EmbedStep {
    name: String,
    table: Table,
    table_rows: usize,
    width: usize,
    /// ids, out
    runs: Runs,
}

enum Table {
    /// f32, in a region of the plan.
    Region(Base),
    /// Stored rows where the source has them.
    Stored { format: TableFormat, rows: Fixed, _source: Arc<dyn WeightSource> },
}

struct TimestepStep {
    freqs: Base,
    freqs_len: usize,
    sin_first: bool,
    /// t, out
    runs: Runs,
}

/// Lowers [`Kernel::Embed`].
pub(super) fn lower_embed(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Embed { table, ids, out } = &low.step.kernel else { return Err(super::mismatch(low)) };
    low.dtype(ids, DType::I32, "ids")?;
    let (rows, width) = match table.axes[..] {
        [v, c] if (c.stride == 1 || c.size == 1) && (v.stride == c.size as isize || v.size == 1) => {
            (v.size, c.size)
        }
        _ => return Err(low.layout("table", format!("{:?}: expected [V, C], dense", table.axes))),
    };
    let operands = [
        RunOperand { operand: ids, role: "ids", width: None },
        RunOperand { operand: out, role: "out", width: Some(width) },
    ];
    let step = EmbedStep {
        name: low.name(),
        table: find_table(low, table, width)?,
        table_rows: rows,
        width,
        runs: Runs::new(low, Space::of(out, 1), &operands)?,
    };
    Ok((Box::new(step), Need::default()))
}

/// A weight is read where it is stored; anything else is f32 in memory.
fn find_table(low: &Lowering<'_>, table: &Operand, width: usize) -> Result<Table, BindError> {
    if let Place::Weight(id) = table.place
        && table.offset == 0
        && table.picks.is_empty()
        && let Some((format, rows)) = low.store.borrow().table(id, width)
    {
        return Ok(Table::Stored { format, rows, _source: low.store.borrow().source() });
    }
    Ok(Table::Region(low.base(table, vec![], "table")?))
}

/// Lowers [`Kernel::TimestepEmbed`].
pub(super) fn lower_timestep(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::TimestepEmbed { t, freqs, sin_first, out } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    let freqs_len = freqs.axes.iter().map(|axis| axis.size).product();
    let operands = [
        RunOperand { operand: t, role: "t", width: None },
        RunOperand { operand: out, role: "out", width: Some(2 * freqs_len) },
    ];
    let step = TimestepStep {
        freqs: low.vector(freqs, freqs_len, "freqs")?,
        freqs_len,
        sin_first: *sin_first,
        runs: Runs::new(low, Space::of(out, 1), &operands)?,
    };
    Ok((Box::new(step), Need::default()))
}

impl Run for EmbedStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        let mut before = 0;
        self.runs.for_each(cx, |at, rows| {
            let ids = at(0);
            // Every worker looks at every id, so that all come to the same end; ids are few beside what they fetch.
            for i in 0..rows {
                // SAFETY: by the contract of `Run::run` the ids are valid over the live rows.
                let id = unsafe { *ids.cast::<i32>().add(i) };
                if usize::try_from(id).map_or(true, |id| id >= self.table_rows) {
                    let (step, position) = (self.name.clone(), before + i);
                    return Err(RunError::Id { step, id, position, rows: self.table_rows });
                }
            }
            before += rows;
            let (table, format) = match &self.table {
                Table::Region(base) => (cx.at(base).cast_const().cast::<u8>(), TableFormat::F32),
                Table::Stored { format, rows, .. } => (rows.0.cast::<u8>(), *format),
            };
            let gather = Gather {
                table,
                format,
                ids: ids.cast(),
                y: at(1),
                y_map: RowMap::dense(self.runs.stride(1)),
                rows,
                width: self.width,
            };
            // SAFETY: by the contract of `Run::run` the operands are valid over the live rows; the ids are rows of the table.
            unsafe { launch(&gather, cx, worker, scratch) };
            Ok(())
        })
    }
}

impl Run for TimestepStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        self.runs.for_each(cx, |at, rows| {
            let embed = TimestepEmbed {
                t: at(0),
                freqs: cx.at(&self.freqs),
                freqs_len: self.freqs_len,
                y: at(1),
                y_map: RowMap::dense(self.runs.stride(1)),
                rows,
                sin_first: self.sin_first,
            };
            // SAFETY: by the contract of `Run::run` the operands are valid over the live rows.
            unsafe { launch(&embed, cx, worker, scratch) };
            Ok(())
        })
    }
}
