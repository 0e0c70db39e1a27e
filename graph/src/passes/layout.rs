//! Which layouts a kernel can read in place.
//!
//! Kernels that work on rows want unit stride along the last axis and at most two levels of rows. Adjacent
//! axes merge into one level where every operand steps through both with one stride.

use crate::{Axis, ExtentId, Kernel};

/// One level of a nest of loops over rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Rows of this level, at the maximum.
    pub size: usize,
    /// Live range of the outermost axis in this level.
    pub extent: Option<ExtentId>,
    /// Rows per row of that axis: the live range in rows is the extent's, times this.
    pub scale: usize,
    /// Elements from one row to the next, for each operand.
    pub strides: Vec<isize>,
}

/// The fewest levels of loops that walk an iteration space.
///
/// `space` gives sizes and live ranges; each of `operands` gives its strides along the same axes (0 where
/// broadcast). An axis joins the level before it when it is live as a whole and every operand's stride along
/// the outer one is its own stride times its size. Axes of size 1 vanish.
pub fn merge_axes(space: &[Axis], operands: &[Vec<isize>]) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for (i, axis) in space.iter().enumerate() {
        let strides: Vec<isize> = operands.iter().map(|strides| strides[i]).collect();
        match levels.last_mut() {
            _ if axis.size == 1 && axis.extent.is_none() => {}
            Some(outer)
                if axis.extent.is_none()
                    && outer.strides.iter().zip(&strides).all(|(o, s)| *o == s * axis.size as isize) =>
            {
                outer.size *= axis.size;
                outer.scale *= axis.size;
                outer.strides = strides;
            }
            _ => levels.push(Level { size: axis.size, extent: axis.extent, scale: 1, strides }),
        }
    }
    levels
}

/// Strides of `axes` along an iteration space of `rank` axes: aligned at the end, 0 where broadcast.
pub fn strides_along(axes: &[Axis], space: &[Axis]) -> Vec<isize> {
    let missing = space.len() - axes.len().min(space.len());
    let mut strides = vec![0; missing];
    for (axis, over) in axes.iter().zip(&space[missing..]) {
        strides.push(if axis.size == 1 && over.size != 1 { 0 } else { axis.stride });
    }
    strides
}

/// How an operand's layout must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any strides.
    Strided,
    /// Unit stride along the last axis; leading axes are rows of the result.
    Rows,
    /// Unit stride along the last axis, whatever the leading strides.
    UnitLast,
    /// Row-major without gaps.
    Contiguous,
    /// NHWC: unit stride over channels, rows of pixels without gaps between them.
    Pixels,
}

/// What `kernel` wants of its operand in that role.
pub fn want<T>(kernel: &Kernel<T>, role: &str) -> Want {
    match (kernel, role) {
        (Kernel::Linear { .. }, "x" | "gate" | "residual" | "out") => Want::Rows,
        (
            Kernel::Conv2d { .. } | Kernel::GroupNorm { .. } | Kernel::Upsample2x { .. },
            "x" | "residual" | "out",
        ) => Want::Pixels,
        (Kernel::Norm { .. }, "x" | "shift" | "scale" | "out") => Want::Rows,
        (Kernel::Attention { .. } | Kernel::Rope { .. }, "q" | "k" | "v" | "x" | "out") => Want::UnitLast,
        (Kernel::CachedAttention { .. }, "q" | "k" | "v" | "out") => Want::UnitLast,
        (Kernel::CacheAppend { .. }, "value" | "out") => Want::UnitLast,
        (Kernel::Modulate { .. }, _) => Want::Rows,
        (Kernel::Map { .. } | Kernel::Copy { .. }, _) => Want::Strided,
        (Kernel::Embed { .. }, "out") => Want::Rows,
        (Kernel::Codebook { .. }, "x") => Want::Rows,
        (Kernel::TimestepEmbed { .. }, "out") => Want::Rows,
        _ => Want::Contiguous,
    }
}

/// Whether axes satisfy a want that needs no other operand to judge.
pub fn satisfies(axes: &[Axis], want: Want) -> bool {
    let unit_last = axes.last().is_none_or(|axis| axis.stride == 1 || axis.size == 1);
    match want {
        Want::Strided => true,
        Want::Rows | Want::UnitLast => unit_last,
        Want::Contiguous => {
            axes.windows(2).all(|w| w[0].size == 1 || w[0].stride == w[1].stride * w[1].size as isize)
                && unit_last
        }
        Want::Pixels => {
            // Between batch and channels: pixels at one stride.
            let inner = axes.get(1..axes.len().saturating_sub(1)).unwrap_or(&[]);
            unit_last
                && inner.windows(2).all(|w| w[0].size == 1 || w[0].stride == w[1].stride * w[1].size as isize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(sizes: &[usize]) -> Vec<Axis> {
        sizes.iter().map(|&size| Axis { size, stride: 0, extent: None }).collect()
    }

    #[test]
    fn contiguous_rows_are_one_level_and_a_gate_per_batch_makes_two() {
        let space = axes(&[2, 1, 3, 4]);
        let x = vec![96, 0, 32, 8];
        let level =
            |size, extent, scale, strides: &[isize]| Level { size, extent, scale, strides: strides.into() };
        assert_eq!(merge_axes(&space, std::slice::from_ref(&x)), [level(24, None, 12, &[8])]);
        let gate = vec![8, 0, 0, 0];
        assert_eq!(
            merge_axes(&space, &[x, gate]),
            [level(2, None, 1, &[96, 8]), level(12, None, 4, &[8, 0])]
        );
    }

    #[test]
    fn a_live_axis_starts_a_level_and_may_take_whole_axes_in() {
        let mut space = axes(&[2, 3, 4]);
        space[1].extent = Some(ExtentId(0));
        let levels = merge_axes(&space, &[vec![96, 32, 8]]);
        assert_eq!(levels.len(), 2);
        assert_eq!((levels[1].size, levels[1].extent, levels[1].scale), (12, Some(ExtentId(0)), 4));
    }
}
