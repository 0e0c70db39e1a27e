//! Kernels on a pool: results are those of one thread, bit for bit, whoever does which task.

mod support;

use selftok_graph::Activation;
use selftok_kernels_cpu::Kernel;
use selftok_kernels_cpu::aligned::AlignedBuf;
use selftok_kernels_cpu::attention::{Attention, Mask, Segment, Strides};
use selftok_kernels_cpu::group_norm::{GroupNormApply, GroupNormStats, Pictures};
use selftok_kernels_cpu::isa::Features;
use selftok_kernels_cpu::pool::Pool;
use support::random;

/// Kernels with a barrier after each; they hold pointers, so each worker builds its own from addresses.
fn run_on(threads: usize, build: impl Fn() -> Vec<Box<dyn Kernel>> + Sync) {
    let pool = Pool::new(threads).unwrap();
    pool.run(|worker| {
        let kernels = build();
        let bytes = kernels.iter().map(|k| k.scratch_bytes()).max().unwrap();
        let mut scratch = AlignedBuf::zeroed(bytes);
        for kernel in kernels {
            worker.for_each_task(kernel.tasks(), |task| {
                // SAFETY: the operands cover the shapes and outlive the run.
                unsafe { kernel.run(Features::detect(), task, scratch.as_mut_slice()) }
            });
            worker.barrier();
        }
    });
}

/// An address that workers may share.
fn address(x: &mut [f32]) -> usize {
    x.as_mut_ptr() as usize
}

#[test]
fn attention_with_a_causal_mask() {
    let (heads, rows, dim) = (6, 300, 32);
    let len = heads * rows * dim;
    let [mut q, mut k, mut v] = [1, 2, 3].map(|seed| random(seed, len));
    let (q, k, v) = (address(&mut q), address(&mut k), address(&mut v));
    let strides = Strides { batch: 0, row: heads * dim, head: dim };
    let results = [1, 2, 5].map(|threads| {
        let mut out = vec![0.0f32; len];
        let to = address(&mut out);
        run_on(threads, || {
            let mut segments = [Segment::EMPTY; 4];
            let (k, v) = (k as *const f32, v as *const f32);
            segments[0] = Segment { k, v, rows, k_strides: strides, v_strides: strides };
            vec![Box::new(Attention {
                q: q as *const f32,
                q_strides: strides,
                out: to as *mut f32,
                out_strides: strides,
                segments,
                batch: 1,
                q_rows: rows,
                heads,
                kv_heads: heads,
                head_dim: dim,
                scale: 0.2,
                mask: Mask::Causal { q_position0: 0 },
                kv_lens: std::ptr::null(),
                workers: 2,
            })]
        });
        out
    });
    assert!(results[0].iter().all(|x| x.abs() > 0.0));
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn group_norm_with_its_two_passes() {
    let shape = Pictures { batch: 2, pixels: 5000, channels: 40, groups: 8 };
    let len = shape.batch * shape.pixels * shape.channels;
    let [mut x, mut weight] = [1, 2].map(|seed| random(seed, len));
    let (x, weight) = (address(&mut x), address(&mut weight));
    let strides = [shape.pixels * shape.channels, shape.channels];
    let results = [1, 2, 5].map(|threads| {
        let (mut y, mut partials) = (vec![0.0f32; len], vec![0.0f64; shape.partial_sums()]);
        let (to, partials) = (address(&mut y), partials.as_mut_ptr() as usize);
        run_on(threads, || {
            let (x, partials) = (x as *const f32, partials as *mut f64);
            let stats = GroupNormStats { shape, x, x_strides: strides, partials };
            let apply = GroupNormApply {
                shape,
                x,
                x_strides: strides,
                y: to as *mut f32,
                y_strides: strides,
                weight: weight as *const f32,
                bias: weight as *const f32,
                eps: 1e-6,
                act: Activation::Silu,
                partials,
            };
            vec![Box::new(stats), Box::new(apply)]
        });
        y
    });
    assert!(results[0].iter().any(|x| x.abs() > 0.1));
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}
