//! From an operand of the plan to the pointer and row map that a kernel takes.
//!
//! Kernels count rows; operands have axes. The rows of a step are the product of the *live* sizes of the result's
//! leading axes, and each operand, aligned at the end and with size-1 axes repeated, must find row `m` by at most two
//! strides ([`RowMap`]). Which axes fall under which stride is settled at bind; only the live sizes (the lengths of
//! the groups) and the first live row are read at run time.

use super::context::{Context, Region};
use super::{BindError, lower::Lowering};
use crate::gemm::RowMap;
use selftok_graph::{DType, ExtentId, Operand, Slot};

/// First live row of an extent times elements.
type Starts = Vec<(ExtentId, usize)>;

/// Where an operand's first live element is.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub region: Region,
    pub offset: usize,
    /// Slot value times elements.
    pub picks: Vec<(Slot, usize)>,
    pub starts: Starts,
}

/// An axis of an iteration: its size and what part of it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpaceAxis {
    pub size: usize,
    pub extent: Option<ExtentId>,
}

/// The rows of a step: the leading axes of its result.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub axes: Vec<SpaceAxis>,
}

/// An operand whose rows are contiguous runs.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub base: Base,
    /// The first axis that the inner stride walks.
    inner_from: usize,
    outer_stride: usize,
    inner_stride: usize,
}

impl Space {
    /// All axes of the result but the last `tail`.
    pub fn of(result: &Operand, tail: usize) -> Space {
        let lead = result.axes.len().saturating_sub(tail);
        let axes = result.axes[..lead].iter().map(|a| SpaceAxis { size: a.size, extent: a.extent }).collect();
        Space { axes }
    }

    /// Rows if everything is live.
    pub fn max_rows(&self) -> usize {
        self.axes.iter().map(|axis| axis.size).product()
    }

    /// Live rows now.
    pub fn rows(&self, cx: &Context<'_>) -> usize {
        self.live_from(0, cx)
    }

    fn live_from(&self, first: usize, cx: &Context<'_>) -> usize {
        self.axes[first..].iter().map(|axis| cx.live(axis.size, axis.extent)).product()
    }
}

/// The strides of an operand's leading axes (all but the last `tail`), aligned at the end with the axes of the space; 0
/// where it repeats. Also the starts of live ranges.
pub(super) fn aligned(
    low: &Lowering<'_>,
    space: &Space,
    operand: &Operand,
    tail: usize,
    role: &'static str,
) -> Result<(Vec<usize>, Starts), BindError> {
    let lead = operand.axes.len().saturating_sub(tail);
    let Some(skip) = space.axes.len().checked_sub(lead) else {
        return Err(low.layout(role, format!("{lead} leading axes, the result has {}", space.axes.len())));
    };
    let mut strides = vec![0; space.axes.len()];
    let mut starts = Vec::new();
    for (i, axis) in operand.axes[..lead].iter().enumerate() {
        let over = space.axes[skip + i];
        if axis.size != over.size && axis.size != 1 {
            return Err(
                low.layout(role, format!("axis {i} has size {}, the result {}", axis.size, over.size))
            );
        }
        let stride = match axis.size {
            1 => 0,
            _ => low.stride(axis.stride, role)?,
        };
        strides[skip + i] = stride;
        if let (Some(extent), true) = (over.extent, stride > 0) {
            starts.push((extent, stride));
        }
    }
    Ok((strides, starts))
}

impl Rows {
    /// The operand as rows of `width` contiguous elements (or as single elements, with `tail` 0).
    ///
    /// # Errors
    /// If its last axis is not that, or its leading axes need more than two strides.
    pub fn new(
        low: &Lowering<'_>,
        space: &Space,
        operand: &Operand,
        width: Option<usize>,
        role: &'static str,
    ) -> Result<Rows, BindError> {
        let tail = usize::from(width.is_some());
        if let Some(width) = width {
            match operand.axes.last() {
                Some(last) if last.size != width || (last.stride != 1 && width > 1) => {
                    let (size, stride) = (last.size, last.stride);
                    let reason =
                        format!("last axis of {size} at stride {stride}: expected {width} contiguous");
                    return Err(low.layout(role, reason));
                }
                Some(last) if last.extent.is_some() => {
                    return Err(low.layout(role, "its last axis has a live range".into()));
                }
                None if width != 1 => {
                    return Err(low.layout(role, format!("a scalar: expected {width} contiguous elements")));
                }
                _ => {}
            }
        }
        let (strides, starts) = aligned(low, space, operand, tail, role)?;
        let (inner_from, outer_stride, inner_stride) = low.two_levels(space, &strides, role)?;
        Ok(Rows { base: low.base(operand, starts, role)?, inner_from, outer_stride, inner_stride })
    }

    /// The map for the live sizes of now. Only for a space with at least one live row.
    pub fn map(&self, space: &Space, cx: &Context<'_>) -> RowMap {
        if self.outer_stride == 0 && (self.inner_from == 0 || self.inner_stride == 0) {
            return RowMap::dense(self.inner_stride);
        }
        RowMap {
            inner: space.live_from(self.inner_from, cx),
            outer_stride: self.outer_stride,
            inner_stride: self.inner_stride,
        }
    }

    /// Pointer to the first live row, and the map.
    pub fn at(&self, space: &Space, cx: &Context<'_>) -> (*mut f32, RowMap) {
        (cx.at(&self.base), self.map(space, cx))
    }
}

/// Groups axes, innermost first, under strides; see [`merge`].
struct Group {
    /// First axis.
    from: usize,
    stride: usize,
    /// Elements from the group's first row to one past its last, or `None` where that is only known at run time.
    span: Option<usize>,
}

/// Merges axes into as few strided groups as hold for every live range: two axes go together where both repeat, or where
/// the inner group is wholly live and the outer stride is exactly its length. Outermost first: (first axis, stride).
pub(super) fn merge(axes: &[SpaceAxis], strides: &[usize]) -> Vec<(usize, usize)> {
    let mut groups: Vec<Group> = Vec::new();
    for i in (0..axes.len()).rev() {
        let (axis, stride) = (axes[i], strides[i]);
        if axis.size == 1 && groups.is_empty() && i > 0 && axis.extent.is_none() {
            continue;
        }
        let span = axis.extent.is_none().then_some(axis.size * stride);
        match groups.last_mut() {
            // An axis of one row, dead or live, moves nothing: it may join whatever stands inside it.
            Some(group) if axis.size == 1 => group.from = i,
            Some(group) if group.stride == 0 && stride == 0 => {
                group.from = i;
            }
            Some(group) if group.span == Some(stride) && stride > 0 => {
                group.from = i;
                group.span = span;
            }
            _ => groups.push(Group { from: i, stride, span }),
        }
    }
    groups.reverse();
    if let Some(first) = groups.first_mut() {
        first.from = 0;
    }
    groups.into_iter().map(|group| (group.from, group.stride)).collect()
}

impl Lowering<'_> {
    fn two_levels(
        &self,
        space: &Space,
        strides: &[usize],
        role: &'static str,
    ) -> Result<(usize, usize, usize), BindError> {
        match merge(&space.axes, strides)[..] {
            [] => Ok((0, 0, 0)),
            [(_, inner)] => Ok((0, 0, inner)),
            [(_, outer), (from, inner)] => Ok((from, outer, inner)),
            ref more => {
                Err(self.layout(role, format!("{} strides over its rows: expected at most 2", more.len())))
            }
        }
    }

    /// A stride of the plan, which must not be negative.
    pub(super) fn stride(&self, stride: isize, role: &'static str) -> Result<usize, BindError> {
        usize::try_from(stride).map_err(|_| self.layout(role, format!("negative stride {stride}")))
    }

    /// Where an operand begins.
    pub(super) fn base(
        &self,
        operand: &Operand,
        starts: Vec<(ExtentId, usize)>,
        role: &'static str,
    ) -> Result<Base, BindError> {
        let region = self.region(operand.place, role)?;
        Ok(Base { region, offset: operand.offset, picks: operand.picks.clone(), starts })
    }

    /// An operand of `len` contiguous elements without live ranges: a bias, a norm's weight.
    pub(super) fn vector(
        &self,
        operand: &Operand,
        len: usize,
        role: &'static str,
    ) -> Result<Base, BindError> {
        let wide: Vec<_> = operand.axes.iter().filter(|axis| axis.size != 1).collect();
        let fits = match wide[..] {
            [] => len == 1,
            [axis] => axis.size == len && axis.stride == 1 && axis.extent.is_none(),
            _ => false,
        };
        match fits {
            true => self.base(operand, vec![], role),
            false => Err(self.layout(role, format!("{:?}: expected [{len}], contiguous", operand.axes))),
        }
    }

    /// Refuses an operand of another element type.
    pub(super) fn dtype(&self, operand: &Operand, want: DType, role: &'static str) -> Result<(), BindError> {
        match operand.dtype == want {
            true => Ok(()),
            false => Err(self.layout(role, format!("{}: expected {want}", operand.dtype))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(sizes: &[(usize, bool)]) -> Vec<SpaceAxis> {
        let axis = |&(size, live): &(usize, bool)| SpaceAxis { size, extent: live.then_some(ExtentId(0)) };
        sizes.iter().map(axis).collect()
    }

    #[test]
    fn contiguous_axes_become_one_and_a_live_inner_axis_stays_apart() {
        let fixed = axes(&[(2, false), (3, false), (4, false)]);
        assert_eq!(merge(&fixed, &[120, 40, 10]), [(0, 10)]);
        let live_inner = axes(&[(2, false), (3, true)]);
        assert_eq!(merge(&live_inner, &[30, 10]), [(0, 30), (1, 10)]);
        let live_outer = axes(&[(2, true), (3, false)]);
        assert_eq!(merge(&live_outer, &[30, 10]), [(0, 10)]);
    }

    #[test]
    fn repeated_axes_merge_whatever_is_live() {
        let live = axes(&[(2, true), (3, true)]);
        assert_eq!(merge(&live, &[0, 0]), [(0, 0)]);
        assert_eq!(merge(&live, &[10, 0]), [(0, 10), (1, 0)]);
        assert_eq!(merge(&live, &[0, 10]), [(0, 0), (1, 10)]);
    }

    #[test]
    fn axes_of_one_row_take_no_level() {
        let mixed = axes(&[(1, false), (3, true), (1, true), (4, false), (1, false)]);
        assert_eq!(merge(&mixed, &[0, 80, 0, 10, 0]), [(0, 80), (2, 10)]);
        assert_eq!(merge(&[], &[]), []);
        assert_eq!(merge(&axes(&[(1, true)]), &[0]), [(0, 0)]);
    }
}
