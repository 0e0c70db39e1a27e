//! Pictures as sequences of patches, and back: what every transformer over latents shares.

use crate::Tensor;

/// The centre of a square position table `[1, G*G, D]` that covers `grid` patches: `[h, w, D]`.
pub(super) fn centre_crop<'g>(table: Tensor<'g>, side: usize, grid: [usize; 2]) -> Tensor<'g> {
    let width = table.shape().last();
    let [h, w] = grid;
    table.reshape([side, side, width]).slice(0, (side - h) / 2, h).slice(1, (side - w) / 2, w)
}

/// Rows of patches `[B, h, w, D]` as one sequence `[B, N, D]`.
pub(super) fn sequence(x: Tensor<'_>) -> Tensor<'_> {
    let shape = x.shape().0;
    x.reshape([shape[0], (shape[1].size * shape[2].size).into(), shape[3]])
}

/// `y [B, N, side*side*C]` as `[B, h, side, w, side, C]`, which is the picture `[B, h*side, w*side, C]` with both
/// directions split. A view: whoever writes it out joins them.
pub(super) fn unpatchify<'g>(y: Tensor<'g>, grid: [usize; 2], side: usize) -> Tensor<'g> {
    let (shape, [h, w]) = (y.shape(), grid);
    let channels = shape.last() / (side * side);
    let patches = [shape.0[0], h.into(), w.into(), side.into(), side.into(), channels.into()];
    y.reshape(patches).permute(&[0, 1, 3, 2, 4, 5])
}

/// A picture `[B, h, side, w, side, C]` in NCHW.
pub(super) fn join_nchw(x: Tensor<'_>) -> Tensor<'_> {
    let s = x.shape().0;
    let [height, width] = [s[1].size * s[2].size, s[3].size * s[4].size];
    x.permute(&[0, 5, 1, 2, 3, 4]).reshape([s[0], s[5], height.into(), width.into()])
}
