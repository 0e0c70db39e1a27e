//! Section 6, quantiser, and Section 7: vectors to ids, and ids back to codes.

use super::Config;
use super::blocks::{EPS, Trace};
use crate::{Builder, Tensor};

/// The codes `[V, C]`, as stored.
fn codes<'g>(g: &'g Builder, config: &Config) -> Tensor<'g> {
    let (v, c) = (config.codebook_size, config.code_dim);
    g.weight("quantizer._codebook.embed", [1, v, c]).reshape([v, c])
}

/// Section 6: ids, cosine and margin over the second best code for `q [B, K, query_size]`. In the scope `encoder`.
pub(super) fn quantize<'g>(
    g: &'g Builder,
    config: &Config,
    q: Tensor<'g>,
    trace: Trace<'g>,
) -> (Tensor<'g>, Tensor<'g>, Tensor<'g>) {
    let z = q.linear("quantizer.project_in", config.code_dim);
    trace.output("project_in", z);
    z.codebook(codes(g, config))
}

/// Section 7: `cond = LN(embed[token])`, `[B, K, code_dim]`. In the scope `encoder`, whose checkpoint part it shares.
pub(super) fn dequantize<'g>(
    g: &'g Builder,
    config: &Config,
    tokens: Tensor<'g>,
    trace: Trace<'g>,
) -> Tensor<'g> {
    let code = codes(g, config).embed(tokens);
    trace.output("codes", code);
    let cond = code.layer_norm("final_layer_norm3", EPS);
    trace.output("hidden_states", cond);
    cond
}
