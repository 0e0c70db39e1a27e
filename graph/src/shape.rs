//! Shapes: every dimension has a fixed size, and may be *live* only in a range read at run time.
//!
//! A network with a growing cache, a part-filled batch or a shrinking set of visible tokens would ask for
//! dynamic shapes. Here the size (and so every stride and offset) is fixed when the graph is built, and an
//! [`Extent`] says which half-open range of that dimension exists during a run. Rows keep their absolute
//! position, so a table over all rows lines up with a value that has only some of them.

use std::fmt;

/// The element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point: all activations.
    F32,
    /// 32-bit signed integers: token ids and indices.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        4
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::I32 => "i32",
        })
    }
}

/// A number that the host sets before a run (and may change at every iteration): index into the slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Index of an [`Extent`] in its graph or plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtentId(pub u32);

/// When a value can be computed. Each is computed once, at its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Depends on weights and constants alone.
    Bind,
    /// Once a run: the time grid, the tokens, the prompt.
    Request,
    /// At every iteration of a run.
    Step,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Bind => "bind",
            Stage::Request => "request",
            Stage::Step => "step",
        })
    }
}

/// The part of a dimension that is live: `[lo, hi)`, read from slots at run time, never past `max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Name, for printing.
    pub name: String,
    /// Slot of the first live row; 0 where none.
    pub lo: Option<Slot>,
    /// Slot of one past the last live row.
    pub hi: Slot,
    /// Size of the dimension.
    pub max: usize,
    /// When the slots are known: values over this extent are of this stage at least.
    pub stage: Stage,
}

impl Extent {
    /// The live range under a table of slot values, cut to `max`.
    pub fn range(&self, slots: &[u32]) -> std::ops::Range<usize> {
        let hi = (slots[self.hi.0 as usize] as usize).min(self.max);
        let lo = self.lo.map_or(0, |slot| slots[slot.0 as usize] as usize).min(hi);
        lo..hi
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    /// The size that strides are computed from.
    pub size: usize,
    /// The live range, where it is not the whole dimension.
    pub extent: Option<ExtentId>,
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Dim { size, extent: None }
    }
}

/// The dimensions of a value, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape without extents.
    pub fn fixed(sizes: &[usize]) -> Shape {
        Shape(sizes.iter().map(|&size| size.into()).collect())
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Sizes of all dimensions.
    pub fn sizes(&self) -> Vec<usize> {
        self.0.iter().map(|dim| dim.size).collect()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.0.iter().map(|dim| dim.size).product()
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.0.last().map_or(1, |dim| dim.size)
    }

    /// Row-major strides, in elements.
    pub fn strides(&self) -> Vec<isize> {
        let mut strides = vec![1isize; self.rank()];
        for i in (0..self.rank().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * self.0[i + 1].size as isize;
        }
        strides
    }

    /// The shape that `self` and `other` broadcast to, by the usual rule (aligned at the end, 1 stretches).
    ///
    /// A live range wins over a whole dimension; two different live ranges do not go together.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |shape: &Shape, i: usize| {
            (i + shape.rank()).checked_sub(rank).map_or(Dim::from(1), |i| shape.0[i])
        };
        let mut dims = Vec::with_capacity(rank);
        for i in 0..rank {
            let (a, b) = (at(self, i), at(other, i));
            dims.push(match (a.size, b.size) {
                (x, y) if x == y => match (a.extent, b.extent) {
                    (Some(p), Some(q)) if p != q => return None,
                    (p, q) => Dim { size: x, extent: p.or(q) },
                },
                (1, _) => b,
                (_, 1) => a,
                _ => return None,
            });
        }
        Some(Shape(dims))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", dim.size)?;
            if let Some(extent) = dim.extent {
                write!(f, "~{}", extent.0)?;
            }
        }
        f.write_str("]")
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Self {
        Shape(dims)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Self {
        Shape::fixed(&sizes)
    }
}

impl<const N: usize> From<[Dim; N]> for Shape {
    fn from(dims: [Dim; N]) -> Self {
        Shape(dims.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_aligns_at_the_end_and_keeps_the_live_range() {
        let live = Dim { size: 4, extent: Some(ExtentId(0)) };
        let a = Shape(vec![2.into(), live, 3.into()]);
        assert_eq!(a.broadcast(&[4, 3].into()), Some(a.clone()));
        assert_eq!(a.broadcast(&[1, 1, 3].into()), Some(a.clone()));
        assert_eq!(a.broadcast(&[5, 3].into()), None);
        let other = Shape(vec![Dim { size: 4, extent: Some(ExtentId(1)) }, 3.into()]);
        assert_eq!(a.broadcast(&other), None);
    }

    #[test]
    fn an_extent_never_leaves_its_dimension() {
        let e = Extent { name: "e".into(), lo: Some(Slot(0)), hi: Slot(1), max: 8, stage: Stage::Step };
        assert_eq!(e.range(&[2, 5]), 2..5);
        assert_eq!(e.range(&[9, 20]), 8..8);
        assert_eq!(e.range(&[5, 2]), 2..2);
    }
}
