//! Pointwise functions of one or two strided operands; copying and permuting is the identity of one.
//!
//! Three inner loops cover what networks do: all contiguous, one operand repeated along the row, and anything else
//! element by element. A permutation that moves the contiguous axis (NCHW to NHWC) goes by square tiles that are transposed
//! in registers, so that both sides are read and written a cache line at a time.

use selftok_graph::{Activation, Binary};

use crate::arch::gemm::activate;
use crate::isa::Features;
use crate::kernel::{Kernel, STREAM_TASK, part};
use crate::simd::{Program, Simd, each_vector, launch, load, store, with_activation};
use crate::strided::Strided;

/// `y = f(x)`; with [`Activation::Identity`] a copy, permutation or broadcast.
#[derive(Clone, Copy, Debug)]
pub struct Unary {
    /// The function.
    pub act: Activation,
    /// Input.
    pub x: *const f32,
    /// Result; may be `x` itself where the strides are the same.
    pub y: *mut f32,
    /// Sizes, and the strides of x and y.
    pub shape: Strided<2>,
}

/// `y = act(a ∘ b)`.
#[derive(Clone, Copy, Debug)]
pub struct BinaryOp {
    /// The function of two.
    pub op: Binary,
    /// Applied to its result.
    pub act: Activation,
    /// Left operand.
    pub a: *const f32,
    /// Right operand.
    pub b: *const f32,
    /// Result; may be an operand that has the same strides.
    pub y: *mut f32,
    /// Sizes, and the strides of a, b and y.
    pub shape: Strided<3>,
}

/// How a strided loop is cut into tasks: several rows each, or pieces of a long row.
fn cut<const N: usize>(shape: &Strided<N>) -> (usize, usize) {
    let rows = (STREAM_TASK / shape.inner().max(1)).max(1);
    (rows, shape.inner().clamp(1, STREAM_TASK))
}

fn count<const N: usize>(shape: &Strided<N>) -> usize {
    let (rows, piece) = cut(shape);
    shape.rows().div_ceil(rows) * shape.inner().div_ceil(piece)
}

/// The stretches of innermost loops that make up a task: where the operands stand, and how many elements.
#[inline(always)]
fn stretches<const N: usize>(shape: &Strided<N>, task: usize) -> impl Iterator<Item = ([usize; N], usize)> {
    let (rows, piece) = cut(shape);
    let pieces = shape.inner().div_ceil(piece);
    let inside = part(task % pieces, piece, shape.inner());
    let strides = shape.inner_strides();
    part(task / pieces, rows, shape.rows()).map(move |row| {
        let at = shape.offsets(row);
        (std::array::from_fn(|o| at[o] + inside.start * strides[o]), inside.len())
    })
}

/// Edge of the tiles of a transposing copy: 64 x 64 f32 are 16 KiB read and 16 KiB written.
const EDGE: usize = 64;

/// A copy whose two sides have different contiguous dimensions, as `outer` loops over a matrix to be transposed.
#[derive(Clone, Copy)]
struct Transposed {
    /// Outer loops.
    outer: Strided<2>,
    /// Size and y stride of the dimension contiguous in x.
    x_len: usize,
    y_stride: usize,
    /// Size and x stride of the dimension contiguous in y.
    y_len: usize,
    x_stride: usize,
}

impl Unary {
    /// The transposing form, where x and y are contiguous along different dimensions of some length.
    fn transposed(&self) -> Option<Transposed> {
        let shape = &self.shape;
        let (dx, dy) = (shape.contiguous_dim(0)?, shape.contiguous_dim(1)?);
        if dx == dy || self.act != Activation::Identity {
            return None;
        }
        // Both to the inside: x's own last, so that its strides can be read off, then y's.
        let last = shape.with_innermost(dx);
        let (x_len, [_, y_stride]) = (last.inner(), last.inner_strides());
        let rest = last.without_innermost();
        let rest = rest.with_innermost(rest.contiguous_dim(1)?);
        let (y_len, [x_stride, _]) = (rest.inner(), rest.inner_strides());
        (x_len >= 4 && y_len >= 4).then_some(Transposed {
            outer: rest.without_innermost(),
            x_len,
            y_stride,
            y_len,
            x_stride,
        })
    }
}

impl Transposed {
    /// Matrices to be transposed.
    fn matrices(&self) -> usize {
        self.outer.rows() * self.outer.inner()
    }

    fn tasks(&self) -> usize {
        self.matrices() * self.x_len.div_ceil(EDGE) * self.y_len.div_ceil(EDGE)
    }

    #[inline(always)]
    unsafe fn run<V: Simd>(&self, x: *const f32, y: *mut f32, task: usize) {
        let (across, down) = (self.x_len.div_ceil(EDGE), self.y_len.div_ceil(EDGE));
        let (matrix, tile) = (task / (across * down), task % (across * down));
        let mut at = self.outer.offsets(matrix / self.outer.inner());
        let strides = self.outer.inner_strides();
        let step = matrix % self.outer.inner();
        at = [at[0] + step * strides[0], at[1] + step * strides[1]];
        // Element (i, j): i along x's contiguous dimension, j along y's.
        let (is, js) = (part(tile / down, EDGE, self.x_len), part(tile % down, EDGE, self.y_len));
        let lanes = V::LANES;
        // SAFETY: by the contract of `Kernel::run`; indices stay inside the shape.
        unsafe {
            let (x, y) = (x.add(at[0]), y.add(at[1]));
            let (whole_i, whole_j) = (is.end - is.len() % lanes, js.end - js.len() % lanes);
            for j in (js.start..whole_j).step_by(lanes) {
                for i in (is.start..whole_i).step_by(lanes) {
                    let from = x.add(j * self.x_stride + i);
                    V::transpose(from, self.x_stride, y.add(i * self.y_stride + j), self.y_stride);
                }
            }
            for j in js.clone() {
                for i in if j < whole_j { whole_i } else { is.start }..is.end {
                    *y.add(i * self.y_stride + j) = *x.add(j * self.x_stride + i);
                }
            }
        }
    }
}

impl Kernel for Unary {
    fn tasks(&self) -> usize {
        self.transposed().map_or_else(|| count(&self.shape), |t| t.tasks())
    }

    unsafe fn run(&self, features: Features, task: usize, _scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, UnaryTask { args: self, task }) }
    }
}

impl Kernel for BinaryOp {
    fn tasks(&self) -> usize {
        count(&self.shape)
    }

    unsafe fn run(&self, features: Features, task: usize, _scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, BinaryTask { args: self, task }) }
    }
}

struct UnaryTask<'a> {
    args: &'a Unary,
    task: usize,
}

struct BinaryTask<'a> {
    args: &'a BinaryOp,
    task: usize,
}

impl Program for UnaryTask<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        // SAFETY: by the contract of `Kernel::run`.
        unsafe {
            if let Some(transposed) = a.transposed() {
                return transposed.run::<V>(a.x, a.y, self.task);
            }
            let [x_stride, y_stride] = a.shape.inner_strides();
            with_activation!(a.act, ACT => for ([x, y], len) in stretches(&a.shape, self.task) {
                let (x, y) = (a.x.add(x), a.y.add(y));
                if x_stride == 1 && y_stride == 1 {
                    each_vector!(V, len, |i, n| store(activate(ACT, load::<V>(x.add(i), n)), y.add(i), n));
                } else {
                    for i in 0..len {
                        let v = activate(ACT, load::<V>(x.add(i * x_stride), 1));
                        store(v, y.add(i * y_stride), 1);
                    }
                }
            });
        }
    }
}

/// One operand of a contiguous result: a row, or one element repeated.
#[derive(Clone, Copy)]
enum Row<V> {
    At(*const f32),
    Repeated(V),
}

impl<V: Simd> Row<V> {
    #[inline(always)]
    unsafe fn new(p: *const f32, stride: usize) -> Row<V> {
        // SAFETY: the operand has at least one element.
        if stride == 0 { Row::Repeated(unsafe { V::new(*p) }) } else { Row::At(p) }
    }

    #[inline(always)]
    unsafe fn get(&self, i: usize, n: usize) -> V {
        match *self {
            // SAFETY: `n` elements from `i` are inside the row.
            Row::At(p) => unsafe { load(p.add(i), n) },
            Row::Repeated(v) => v,
        }
    }
}

impl Program for BinaryTask<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        // SAFETY: by contract.
        unsafe {
            match self.args.op {
                Binary::Add => self.apply::<V>(V::add),
                Binary::Sub => self.apply::<V>(V::sub),
                Binary::Mul => self.apply::<V>(V::mul),
            }
        }
    }
}

impl BinaryTask<'_> {
    #[inline(always)]
    unsafe fn apply<V: Simd>(&self, op: impl Fn(V, V) -> V) {
        let a = self.args;
        let [a_stride, b_stride, y_stride] = a.shape.inner_strides();
        // SAFETY: by the contract of `Kernel::run`.
        unsafe {
            with_activation!(a.act, ACT => for ([pa, pb, py], len) in stretches(&a.shape, self.task) {
                let (pa, pb, py) = (a.a.add(pa), a.b.add(pb), a.y.add(py));
                if y_stride == 1 && a_stride <= 1 && b_stride <= 1 {
                    let (ra, rb) = (Row::<V>::new(pa, a_stride), Row::<V>::new(pb, b_stride));
                    each_vector!(V, len, |i, n| {
                        store(activate(ACT, op(ra.get(i, n), rb.get(i, n))), py.add(i), n)
                    });
                } else {
                    for i in 0..len {
                        let v = op(load(pa.add(i * a_stride), 1), load(pb.add(i * b_stride), 1));
                        store(activate(ACT, v), py.add(i * y_stride), 1);
                    }
                }
            });
        }
    }
}
