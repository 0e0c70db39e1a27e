//! The nearest code: codes packed at bind, whether they are a weight or constants computed from one.

use crate::codebook::{Codebook, CodebookArgmax};
use crate::exec::context::{Context, Need, Run, launch};
use crate::exec::layout::Space;
use crate::exec::lower::Lowering;
use crate::exec::walk::{RunOperand, Runs};
use crate::exec::{BindError, RunError};
use crate::gemm::RowMap;
use crate::kernel::Kernel as _;
use crate::pool::Worker;
use selftok_graph::{DType, Kernel, Operand, Place};
use std::sync::Arc;

struct CodebookStep {
    codebook: Arc<Codebook>,
    /// x, ids, score, margin
    runs: Runs,
}

fn argmax(codebook: &Codebook) -> CodebookArgmax<'_> {
    CodebookArgmax {
        codebook,
        x: std::ptr::null(),
        x_map: RowMap::broadcast(),
        rows: 0,
        ids: std::ptr::null_mut(),
        scores: std::ptr::null_mut(),
        margins: std::ptr::null_mut(),
    }
}

/// Working space: it depends on the length of a code alone.
pub(super) fn need(codes: &Operand) -> Need {
    let dim = codes.axes.last().map_or(0, |axis| axis.size);
    let worker = Codebook::pack(&vec![0.0; dim], 1, dim).map_or(0, |one| argmax(&one).scratch_bytes());
    Need { worker, shared: 0 }
}

/// Lowers [`Kernel::Codebook`].
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    let Kernel::Codebook { x, codes, ids, score, margin } = &low.step.kernel else {
        return Err(super::mismatch(low));
    };
    low.dtype(ids, DType::I32, "ids")?;
    let [v, c] = codes.axes[..] else {
        return Err(low.layout("codes", format!("{} axes: expected [V, C]", codes.axes.len())));
    };
    let dense = (c.stride == 1 || c.size == 1) && (v.stride == c.size as isize || v.size == 1);
    if !dense || !codes.picks.is_empty() || c.extent.is_some() || v.extent.is_some() {
        return Err(low.layout("codes", format!("{:?}: expected [V, C], dense and wholly live", codes.axes)));
    }
    let range = codes.offset..codes.offset + v.size * c.size;
    let codebook = match (codes.place, low.constants) {
        (Place::Weight(id), _) => low.store.borrow_mut().codebook(id, range, c.size, &low.name())?,
        (Place::Constants, Some(constants)) => {
            let packed = Codebook::pack(&constants[range], v.size, c.size);
            Arc::new(packed.map_err(|source| BindError::Codebook { step: low.name(), source })?)
        }
        (place, _) => {
            return Err(low.layout("codes", format!("in {place:?}: expected what is known at bind")));
        }
    };
    let operands = [
        RunOperand { operand: x, role: "x", width: Some(c.size) },
        RunOperand { operand: ids, role: "ids", width: None },
        RunOperand { operand: score, role: "score", width: None },
        RunOperand { operand: margin, role: "margin", width: None },
    ];
    let runs = Runs::new(low, Space::of(ids, 0), &operands)?;
    let need = Need { worker: argmax(&codebook).scratch_bytes(), shared: 0 };
    Ok((Box::new(CodebookStep { codebook, runs }), need))
}

impl Run for CodebookStep {
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError> {
        self.runs.for_each(cx, |at, rows| {
            let search = CodebookArgmax {
                x: at(0),
                x_map: RowMap::dense(self.runs.stride(0)),
                rows,
                ids: at(1).cast(),
                scores: at(2),
                margins: at(3),
                ..argmax(&self.codebook)
            };
            // SAFETY: by the contract of `Run::run` the operands are valid over the live rows.
            unsafe { launch(&search, cx, worker, scratch) };
            Ok(())
        })
    }
}
