//! Operands of kernels that know less of strides than the plan does: walked jointly, cut into runs that the kernel takes.
//!
//! [`Grid`] is a pointwise loop over all axes, reduced to the few that every operand steps through evenly. [`Runs`] serves
//! kernels whose operands must be dense (ids, times, terms of a sum): the innermost axes that are dense in all of
//! them form one run, and the axes outside are walked run by run.

use super::BindError;
use super::context::Context;
use super::layout::{Base, Space, SpaceAxis, aligned, merge};
use super::lower::Lowering;
use crate::strided::{MAX_DIMS, Strided};
use selftok_graph::Operand;

/// `N` operands over all axes of a result, which is the last of them.
#[derive(Debug)]
pub(super) struct Grid<const N: usize> {
    /// Merged axes: the axis that is live, and how many elements a row of it has (1 unless axes were merged into it).
    axes: Vec<(SpaceAxis, usize)>,
    strides: [Vec<usize>; N],
    bases: [Base; N],
}

impl<const N: usize> Grid<N> {
    /// # Errors
    /// If an operand does not broadcast, or more than [`MAX_DIMS`] axes are left.
    pub fn new(low: &Lowering<'_>, operands: [(&Operand, &'static str); N]) -> Result<Grid<N>, BindError> {
        let (result, role) = operands[N - 1];
        let space = Space::of(result, 0);
        let mut own = Vec::with_capacity(N);
        let mut bases = Vec::with_capacity(N);
        for (operand, role) in operands {
            let (strides, starts) = aligned(low, &space, operand, 0, role)?;
            bases.push(low.base(operand, starts, role)?);
            own.push(strides);
        }
        let mut axes: Vec<(SpaceAxis, usize)> = Vec::new();
        let mut strides: [Vec<usize>; N] = std::array::from_fn(|_| Vec::new());
        for (i, &axis) in space.axes.iter().enumerate() {
            if axis.size == 1 && axis.extent.is_none() {
                continue;
            }
            let even = |o: usize| strides[o].last() == Some(&(own[o][i] * axis.size));
            match axes.last_mut() {
                // The outer axis may be live: its rows just grow longer.
                Some((_, row)) if axis.extent.is_none() && (0..N).all(even) => {
                    *row *= axis.size;
                    for o in 0..N {
                        if let Some(last) = strides[o].last_mut() {
                            *last = own[o][i];
                        }
                    }
                }
                _ => {
                    axes.push((axis, 1));
                    for o in 0..N {
                        strides[o].push(own[o][i]);
                    }
                }
            }
        }
        if axes.len() > MAX_DIMS {
            return Err(low.layout(role, format!("{} strided axes: expected at most {MAX_DIMS}", axes.len())));
        }
        match <[Base; N]>::try_from(bases) {
            Ok(bases) => Ok(Grid { axes, strides, bases }),
            Err(_) => Err(low.layout(role, "operands and bases differ in number".into())),
        }
    }

    /// The loop over what is live now; `None` if nothing is.
    pub fn live(&self, cx: &Context<'_>) -> Option<Strided<N>> {
        let mut sizes = [1; MAX_DIMS];
        for (size, (axis, row)) in sizes.iter_mut().zip(&self.axes) {
            *size = cx.live(axis.size, axis.extent) * row;
        }
        let sizes = &sizes[..self.axes.len()];
        if sizes.contains(&0) {
            return None;
        }
        Strided::new(sizes, std::array::from_fn(|o| &self.strides[o][..]))
    }

    /// Pointer to operand `o`.
    pub fn at(&self, o: usize, cx: &Context<'_>) -> *mut f32 {
        cx.at(&self.bases[o])
    }
}

/// Most axes of a walk.
const MAX_AXES: usize = 8;

/// Operands over the rows of a space, as runs.
#[derive(Debug)]
pub(super) struct Runs {
    space: Space,
    /// Axes outside the runs.
    outer: usize,
    operands: Vec<(Base, Vec<usize>)>,
    /// Strides within a run.
    inner: Vec<usize>,
}

/// An operand of [`Runs`].
pub(super) struct RunOperand<'a> {
    pub operand: &'a Operand,
    pub role: &'static str,
    /// Elements of a row: `None` where a row is one element, and rows must follow one another.
    pub width: Option<usize>,
}

impl Runs {
    /// # Errors
    /// If an operand does not broadcast, or is not dense where it must be.
    pub fn new(low: &Lowering<'_>, space: Space, operands: &[RunOperand<'_>]) -> Result<Runs, BindError> {
        if space.axes.len() > MAX_AXES {
            return Err(low.layout("out", format!("{} axes: expected at most {MAX_AXES}", space.axes.len())));
        }
        let mut outer = 0;
        let mut walked = Vec::with_capacity(operands.len());
        for RunOperand { operand, role, width } in operands {
            if let Some(width) = *width {
                let last = operand.axes.last();
                let fits = last
                    .is_some_and(|a| a.size == width && a.extent.is_none() && (a.stride == 1 || width == 1));
                if !fits {
                    return Err(low.layout(role, format!("{last:?}: expected {width} contiguous elements")));
                }
            }
            let (strides, starts) = aligned(low, &space, operand, usize::from(width.is_some()), role)?;
            let from = merge(&space.axes, &strides).last().map_or(0, |&(from, _)| from);
            outer = outer.max(from);
            walked.push((low.base(operand, starts, role)?, strides));
        }
        let mut inner = Vec::with_capacity(operands.len());
        let run: usize = space.axes[outer..].iter().map(|axis| axis.size).product();
        for ((_, strides), RunOperand { role, width, .. }) in walked.iter().zip(operands) {
            let stride =
                merge(&space.axes[outer..], &strides[outer..]).last().map_or(0, |&(_, stride)| stride);
            if width.is_none() && stride != 1 && run > 1 {
                return Err(low.layout(role, format!("stride {stride} between its elements: expected 1")));
            }
            inner.push(stride);
        }
        Ok(Runs { space, outer, operands: walked, inner })
    }

    /// Stride of operand `o` within a run.
    pub fn stride(&self, o: usize) -> usize {
        self.inner[o]
    }

    /// Calls `f(offset of each operand's run, rows)` for every run that has live rows.
    pub fn for_each<E>(
        &self,
        cx: &Context<'_>,
        mut f: impl FnMut(&dyn Fn(usize) -> *mut f32, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let live = |axes: &[SpaceAxis]| axes.iter().map(|a| cx.live(a.size, a.extent)).product::<usize>();
        let rows = live(&self.space.axes[self.outer..]);
        let outer = &self.space.axes[..self.outer];
        if rows == 0 {
            return Ok(());
        }
        for run in 0..live(outer) {
            let mut index = [0; MAX_AXES];
            let mut rest = run;
            for (i, axis) in outer.iter().enumerate().rev() {
                let size = cx.live(axis.size, axis.extent);
                index[i] = rest % size;
                rest /= size;
            }
            let at = |o: usize| {
                let (base, strides) = &self.operands[o];
                let moved: usize =
                    index[..self.outer].iter().zip(strides).map(|(i, stride)| i * stride).sum();
                cx.at(base).wrapping_add(moved)
            };
            f(&at, rows)?;
        }
        Ok(())
    }
}
