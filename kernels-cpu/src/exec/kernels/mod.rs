//! One lowering for each kernel of the plan: which hand-written kernel does it, and with what arguments.

mod attention;
mod codebook;
mod conv;
mod group_norm;
mod linear;
mod lookup;
mod norm;
mod pointwise;
mod rope;

use super::BindError;
use super::context::{Need, Run};
use super::lower::{Lowering, step_name};
use crate::gemm::WeightFormat;
use crate::isa::Features;
use selftok_graph::{Kernel, Step};

/// Makes the step of `low` ready.
pub(super) fn lower(low: &Lowering<'_>) -> Result<(Box<dyn Run>, Need), BindError> {
    match &low.step.kernel {
        Kernel::Linear { .. } => linear::lower(low),
        Kernel::Conv2d { .. } => conv::lower(low),
        Kernel::Upsample2x { .. } => pointwise::lower_upsample(low),
        Kernel::Norm { .. } | Kernel::Modulate { .. } => norm::lower(low),
        Kernel::GroupNorm { .. } => group_norm::lower(low),
        Kernel::Attention { .. } => attention::lower(low),
        Kernel::Rope { .. } => rope::lower(low),
        Kernel::Embed { .. } => lookup::lower_embed(low),
        Kernel::TimestepEmbed { .. } => lookup::lower_timestep(low),
        Kernel::Codebook { .. } => codebook::lower(low),
        Kernel::Combine { .. } => pointwise::lower_combine(low),
        Kernel::Map { .. } => pointwise::lower_map(low),
        Kernel::Copy { .. } => pointwise::lower_copy(low),
    }
}

/// What a step needs at most, whatever form its weight will have: the workspace rule of the target.
pub(super) fn need(step: &Step, features: Features, format: WeightFormat, threads: usize) -> Need {
    match &step.kernel {
        Kernel::Linear { .. } => linear::need(step, features, format, threads),
        Kernel::Conv2d { .. } => conv::need(step, features, format, threads),
        Kernel::GroupNorm { x, groups, .. } => group_norm::need(x, *groups),
        Kernel::Attention { q, heads, .. } => attention::need(q, *heads),
        Kernel::Codebook { codes, .. } => codebook::need(codes),
        Kernel::Rope { table, .. } => rope::need(table),
        _ => Need::default(),
    }
}

/// A kernel that came to the lowering of another: a fault of this table.
fn mismatch(low: &Lowering<'_>) -> BindError {
    BindError::Inconsistent { step: step_name(low.step), what: "lowered as another kernel".into() }
}
