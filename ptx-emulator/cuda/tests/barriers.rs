//! Blocks that wait for one another, launched through cudarc: a barrier over the grid, and a spin on another block's flag. Both
//! end, whatever the order of blocks and however many threads run them, and without the fence each is a race.

mod support;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use support::{Ran, run};

const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

/// Every block writes, meets the others at a counter, and reads what the next one wrote.
fn grid_barrier(fence: &str) -> String {
    format!(
        "{HEAD}.visible .entry meet(.param .u64 data, .param .u64 counter, .param .u64 out)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [data];
    ld.param.u64 %rd2, [counter];
    ld.param.u64 %rd3, [out];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %nctaid.x;
    mul.wide.u32 %rd4, %r1, 4;
    add.u64 %rd5, %rd1, %rd4;
    add.u32 %r3, %r1, 100;
    st.global.u32 [%rd5], %r3;
    {fence}
    atom.global.add.u32 %r4, [%rd2], 1;
SPIN:
    ld.volatile.global.u32 %r5, [%rd2];
    setp.lt.u32 %p1, %r5, %r2;
    @%p1 bra SPIN;
    {fence}
    add.u32 %r6, %r1, 1;
    rem.u32 %r6, %r6, %r2;
    mul.wide.u32 %rd6, %r6, 4;
    add.u64 %rd6, %rd1, %rd6;
    ld.global.u32 %r7, [%rd6];
    add.u64 %rd7, %rd3, %rd4;
    st.global.u32 [%rd7], %r7;
    ret;
}}
"
    )
}

/// The last block writes and sets a flag; all others spin on the flag and read.
fn flag(fence: &str) -> String {
    format!(
        "{HEAD}.visible .entry meet(.param .u64 data, .param .u64 flag, .param .u64 out)
{{
    .reg .pred %p<3>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [data];
    ld.param.u64 %rd2, [flag];
    ld.param.u64 %rd3, [out];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %nctaid.x;
    sub.u32 %r3, %r2, 1;
    setp.ne.u32 %p1, %r1, %r3;
    @%p1 bra SPIN;
    st.global.u32 [%rd1], 77;
    {fence}
    mov.u32 %r4, 1;
    st.volatile.global.u32 [%rd2], %r4;
    bra READ;
SPIN:
    ld.volatile.global.u32 %r5, [%rd2];
    setp.eq.u32 %p2, %r5, 0;
    @%p2 bra SPIN;
    {fence}
READ:
    ld.global.u32 %r7, [%rd1];
    mul.wide.u32 %rd4, %r1, 4;
    add.u64 %rd5, %rd3, %rd4;
    st.global.u32 [%rd5], %r7;
    ret;
}}
"
    )
}

const BLOCKS: usize = 24;

/// Launches the kernel `meet`, cooperatively where asked, and gives what the blocks read.
fn meet(ptx: &str, cooperative: bool) -> Vec<u32> {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let f = context.load_module(Ptx::from_src(ptx)).unwrap().load_function("meet").unwrap();
    let mut data = stream.alloc_zeros::<u32>(BLOCKS).unwrap();
    let mut counter = stream.alloc_zeros::<u32>(1).unwrap();
    let mut out = stream.alloc_zeros::<u32>(BLOCKS).unwrap();
    let config = LaunchConfig { grid_dim: (BLOCKS as u32, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    let mut launch = stream.launch_builder(&f);
    launch.arg(&mut data).arg(&mut counter).arg(&mut out);
    // SAFETY: each block touches its own words, the counter, and words that the others have written by then.
    unsafe {
        match cooperative {
            true => launch.launch_cooperative(config),
            false => launch.launch(config),
        }
    }
    .unwrap();
    stream.clone_dtoh(&out).unwrap()
}

/// Runs a test under orders of blocks and numbers of threads.
fn everywhere(name: &str, body: fn(), check: fn(&Ran)) {
    for (order, threads) in
        [("forward", "1"), ("reverse", "1"), ("random:3", "1"), ("forward", "2"), ("random:9", "2")]
    {
        let variables = [("PTX_EMULATOR_ORDER", order), ("PTX_EMULATOR_THREADS", threads)];
        check(&run(name, &variables, body));
    }
}

#[test]
fn a_grid_barrier_of_a_cooperative_launch_ends_and_is_clean() {
    everywhere(
        "a_grid_barrier_of_a_cooperative_launch_ends_and_is_clean",
        || {
            let expected: Vec<u32> = (0..BLOCKS as u32).map(|b| 100 + (b + 1) % BLOCKS as u32).collect();
            assert_eq!(meet(&grid_barrier("membar.gl;"), true), expected);
        },
        |ran| _ = ran.clean(),
    );
}

#[test]
fn a_grid_barrier_without_its_fence_is_a_race() {
    everywhere(
        "a_grid_barrier_without_its_fence_is_a_race",
        || drop(meet(&grid_barrier(""), true)),
        |ran| assert!(ran.found("race").contains("meet")),
    );
}

#[test]
fn a_spin_on_the_flag_of_another_block_ends_and_is_clean() {
    everywhere(
        "a_spin_on_the_flag_of_another_block_ends_and_is_clean",
        || assert_eq!(meet(&flag("membar.gl;"), false), [77; BLOCKS]),
        |ran| _ = ran.clean(),
    );
}

#[test]
fn a_spin_on_a_flag_without_the_fence_is_a_race() {
    everywhere(
        "a_spin_on_a_flag_without_the_fence_is_a_race",
        || drop(meet(&flag(""), false)),
        |ran| assert!(ran.found("race").contains("meet")),
    );
}
