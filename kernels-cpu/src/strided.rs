//! Loops over up to six strided dimensions, reduced to as few as possible before anything runs.
//!
//! Broadcasts, slices and permutations differ only in strides. Dimensions of one element vanish, and neighbours that
//! every operand walks through evenly become one, so that most cases end as one or two contiguous loops.

/// Most dimensions.
pub const MAX_DIMS: usize = 6;

/// `N` operands that are walked together: sizes and strides, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided<const N: usize> {
    dims: usize,
    sizes: [usize; MAX_DIMS],
    strides: [[usize; MAX_DIMS]; N],
}

impl<const N: usize> Strided<N> {
    /// The loop over `sizes`, with each operand's strides in elements (0 repeats); None if there are more than
    /// [`MAX_DIMS`] sizes or an operand's strides are not as many.
    pub fn new(sizes: &[usize], strides: [&[usize]; N]) -> Option<Strided<N>> {
        if sizes.len() > MAX_DIMS || strides.iter().any(|s| s.len() != sizes.len()) {
            return None;
        }
        let mut out = Strided { dims: 0, sizes: [1; MAX_DIMS], strides: [[0; MAX_DIMS]; N] };
        for d in 0..sizes.len() {
            if sizes[d] == 1 {
                continue;
            }
            let last = out.dims.wrapping_sub(1);
            let merges = out.dims > 0 && (0..N).all(|o| out.strides[o][last] == strides[o][d] * sizes[d]);
            let at = if merges { last } else { out.dims };
            out.sizes[at] *= sizes[d];
            for (o, strides) in strides.iter().enumerate() {
                out.strides[o][at] = strides[d];
            }
            out.dims = at + 1;
        }
        Some(out)
    }

    /// Number of dimensions left.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Elements of the innermost loop.
    pub fn inner(&self) -> usize {
        if self.dims == 0 { 1 } else { self.sizes[self.dims - 1] }
    }

    /// The operands' strides in the innermost loop.
    pub fn inner_strides(&self) -> [usize; N] {
        std::array::from_fn(|o| if self.dims == 0 { 1 } else { self.strides[o][self.dims - 1] })
    }

    /// How often the innermost loop runs.
    pub fn rows(&self) -> usize {
        self.sizes[..self.dims.saturating_sub(1)].iter().product()
    }

    /// Where the operands stand at the start of innermost loop `row`.
    #[inline(always)]
    pub fn offsets(&self, mut row: usize) -> [usize; N] {
        let mut at = [0; N];
        for d in (0..self.dims.saturating_sub(1)).rev() {
            let i = row % self.sizes[d];
            row /= self.sizes[d];
            for (o, at) in at.iter_mut().enumerate() {
                *at += i * self.strides[o][d];
            }
        }
        at
    }

    /// The same loop with dimension `d` moved inside all others.
    pub(crate) fn with_innermost(mut self, d: usize) -> Strided<N> {
        if d < self.dims {
            self.sizes[d..self.dims].rotate_left(1);
            for strides in &mut self.strides {
                strides[d..self.dims].rotate_left(1);
            }
        }
        self
    }

    /// The loop without its innermost dimension.
    pub(crate) fn without_innermost(mut self) -> Strided<N> {
        if self.dims > 0 {
            self.dims -= 1;
            self.sizes[self.dims] = 1;
        }
        self
    }

    /// The outermost-first position of the dimension in which operand `o` has stride 1.
    pub(crate) fn contiguous_dim(&self, o: usize) -> Option<usize> {
        (0..self.dims).find(|&d| self.strides[o][d] == 1)
    }
}
