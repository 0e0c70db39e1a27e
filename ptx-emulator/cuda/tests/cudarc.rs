//! Unmodified cudarc on the stand-in: the whole of what a host program does, and it is clean.

mod support;

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;
use support::{PTX, run};

fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(PTX)).expect("the module loads");
    module.load_function(name).expect("the kernel is there")
}

fn add_one(stream: &Arc<CudaStream>, f: &CudaFunction, out: &mut CudaSlice<u32>, input: &CudaSlice<u32>) {
    let n = input.len() as u32;
    let mut launch = stream.launch_builder(f);
    launch.arg(out).arg(input).arg(&n);
    // SAFETY: the kernel takes these arguments and stays within n elements.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.expect("the launch is accepted");
}

#[test]
fn a_ptx_module_is_loaded_launched_and_read_back() {
    let ran = run("a_ptx_module_is_loaded_launched_and_read_back", &[], || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "Emulated NVIDIA A100-SXM4-80GB");
        let stream = context.default_stream();
        let f = kernel(&context, "add_one");
        let input = stream.clone_htod(&(0..5000u32).collect::<Vec<_>>()).unwrap();
        let mut out = stream.alloc_zeros::<u32>(5000).unwrap();
        add_one(&stream, &f, &mut out, &input);
        assert_eq!(stream.clone_dtoh(&out).unwrap(), (1..5001).collect::<Vec<u32>>());
    });
    ran.clean();
    assert_eq!(ran.report["counters"]["add_one"]["launches"], 1);
    assert!(ran.report["counters"]["add_one"]["lines"].as_array().unwrap().len() > 10);
    assert!(!ran.notes().contains("leak"), "{}", ran.notes());
}

#[test]
fn streams_joined_by_events_give_the_same_result_under_every_seed() {
    for seed in ["0", "1", "2", "3", "4"] {
        let name = "streams_joined_by_events_give_the_same_result_under_every_seed";
        let ran = run(name, &[("PTX_EMULATOR_SEED", seed)], || {
            let context = CudaContext::new(0).unwrap();
            let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
            let f = kernel(&context, "add_one");
            let input = a.clone_htod(&vec![5u32; 3000]).unwrap();
            let mut middle = a.alloc_zeros::<u32>(3000).unwrap();
            add_one(&a, &f, &mut middle, &input);
            b.wait(&a.record_event(None).unwrap()).unwrap();
            let mut out = b.alloc_zeros::<u32>(3000).unwrap();
            add_one(&b, &f, &mut out, &middle);
            let start = b.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
            let end = b.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
            assert_eq!(b.clone_dtoh(&out).unwrap(), vec![7u32; 3000]);
            assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
            assert!(end.is_complete());
        });
        ran.clean();
    }
}

#[test]
fn work_that_is_captured_runs_at_each_launch_of_the_graph() {
    let ran = run("work_that_is_captured_runs_at_each_launch_of_the_graph", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: one stream at a time touches each buffer in this test.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let f = kernel(&context, "add_one");
        let mut buffer = stream.alloc_zeros::<u32>(100).unwrap();
        let mut other = stream.alloc_zeros::<u32>(100).unwrap();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        add_one(&stream, &f, &mut other, &buffer);
        add_one(&stream, &f, &mut buffer, &other);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph");
        assert_eq!(stream.clone_dtoh(&buffer).unwrap(), vec![0; 100], "capturing runs nothing");
        graph.upload().unwrap();
        for _ in 0..10 {
            graph.launch().unwrap();
        }
        stream.synchronize().unwrap();
        assert_eq!(stream.clone_dtoh(&buffer).unwrap(), vec![20; 100]);
    });
    ran.clean();
    assert_eq!(ran.report["counters"]["add_one"]["launches"], 20);
}

#[test]
fn pinned_memory_is_copied_both_ways() {
    run("pinned_memory_is_copied_both_ways", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        // SAFETY: both buffers are written before they are read.
        let (mut from, mut to) =
            unsafe { (context.alloc_pinned::<u32>(64).unwrap(), context.alloc_pinned::<u32>(64).unwrap()) };
        from.as_mut_slice().unwrap().copy_from_slice(&[9; 64]);
        let mut device = stream.alloc_zeros::<u32>(64).unwrap();
        stream.memcpy_htod(&from, &mut device).unwrap();
        stream.memcpy_dtoh(&device, &mut to).unwrap();
        assert_eq!(to.as_slice().unwrap(), [9; 64]);
    })
    .clean();
}

#[test]
fn dynamic_shared_memory_beyond_48_kib_needs_the_attribute() {
    let ran = run("dynamic_shared_memory_beyond_48_kib_needs_the_attribute", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = kernel(&context, "through_shared");
        let mut out = stream.alloc_zeros::<u32>(32).unwrap();
        let mut launch = |bytes: u32| {
            let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: bytes };
            let mut launch = stream.launch_builder(&f);
            launch.arg(&mut out);
            // SAFETY: the kernel writes 32 words of `out`.
            unsafe { launch.launch(config) }.map(|_| ())
        };
        launch(128).unwrap();
        assert_eq!(launch(100_000).unwrap_err().0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        let dynamic = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        f.set_attribute(dynamic, 100_000).unwrap();
        launch(100_000).unwrap();
        assert!(f.set_attribute(dynamic, 200_000).is_err(), "an A100 block has 163 KiB at most");
        assert_eq!(stream.clone_dtoh(&out).unwrap(), (0..32).collect::<Vec<u32>>());
        assert_eq!(f.occupancy_max_active_blocks_per_multiprocessor(1024, 0, None).unwrap(), 2);
    });
    assert!(ran.found("resource").contains("100000 bytes of dynamic shared memory"));
}

#[test]
fn a_cooperative_launch_meets_at_a_grid_barrier() {
    run("a_cooperative_launch_meets_at_a_grid_barrier", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = kernel(&context, "grid_barrier");
        let mut counter = stream.alloc_zeros::<u32>(1).unwrap();
        let config = LaunchConfig { grid_dim: (64, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
        let mut launch = stream.launch_builder(&f);
        launch.arg(&mut counter).arg(&64u32);
        // SAFETY: the kernel adds to one word.
        unsafe { launch.launch_cooperative(config) }.unwrap();
        assert_eq!(stream.clone_dtoh(&counter).unwrap(), [64]);
        let config = LaunchConfig { grid_dim: (1_000_000, 1, 1), ..config };
        let mut launch = stream.launch_builder(&f);
        launch.arg(&mut counter).arg(&64u32);
        // SAFETY: refused before it runs.
        let error = unsafe { launch.launch_cooperative(config) }.map(|_| ()).unwrap_err();
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    });
}

#[test]
fn module_variables_are_read_and_written() {
    run("module_variables_are_read_and_written", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let mut scale = module.get_global("scale", &stream).unwrap();
        assert_eq!(stream.clone_dtoh(&scale).unwrap(), 3u32.to_le_bytes());
        stream.memcpy_htod(&11u32.to_le_bytes(), &mut scale).unwrap();
        let f = module.load_function("scaled").unwrap();
        let mut out = stream.alloc_zeros::<u32>(1).unwrap();
        let mut launch = stream.launch_builder(&f);
        launch.arg(&mut out);
        let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel writes one word.
        unsafe { launch.launch(one) }.unwrap();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [11]);
    })
    .clean();
}

#[test]
fn two_devices_have_their_contexts_and_copy_between_them() {
    run("two_devices_have_their_contexts_and_copy_between_them", &[("PTX_EMULATOR_DEVICES", "2")], || {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let (one, two) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        let (from, to) = (one.new_stream().unwrap(), two.new_stream().unwrap());
        let a = from.clone_htod(&[1u32, 2, 3]).unwrap();
        let b = to.clone_dtod(&a).unwrap();
        assert_eq!(to.clone_dtoh(&b).unwrap(), [1, 2, 3]);
        assert!(CudaContext::new(2).is_err());
    })
    .clean();
}

#[test]
fn two_contexts_of_one_device_are_apart() {
    let ran = run("two_contexts_of_one_device_are_apart", &[], || {
        let primary = CudaContext::new(0).unwrap();
        let other = CudaContext::new_non_primary(0, 0).unwrap();
        primary.bind_to_thread().unwrap();
        let f = kernel(&primary, "add_one");
        let s = primary.default_stream();
        let input = s.clone_htod(&[1u32; 32]).unwrap();
        let mut out = s.alloc_zeros::<u32>(1).unwrap();
        // Out of bounds: an error of the first context only.
        add_one(&s, &f, &mut out, &input);
        assert_eq!(s.synchronize().unwrap_err().0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(s.synchronize().unwrap_err().0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "it stays");
        other.bind_to_thread().unwrap();
        let t = other.default_stream();
        let data = t.clone_htod(&[4u32; 8]).unwrap();
        assert_eq!(t.clone_dtoh(&data).unwrap(), [4; 8]);
    });
    assert!(ran.found("bounds").contains("add_one"));
}

/// `printf("%d|%5u|%-4x|%.2f|%s|%c|%lld|%%\n", -3, 42, 255, 1.5, "text", 'A', 1ll << 40)`, and a failing `assert`.
const SPEAKING: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.extern .func (.param .b32 r) vprintf (.param .b64 format, .param .b64 arguments);
.extern .func __assertfail (.param .b64 c, .param .b64 f, .param .b32 l, .param .b64 g, .param .b64 s);
.global .align 1 .b8 format[32] = {37, 100, 124, 37, 53, 117, 124, 37, 45, 52, 120, 124, 37, 46, 50, 102, 124, 37, 115, 124, 37, 99, 124, 37, 108, 108, 100, 124, 37, 37, 10, 0};
.global .align 1 .b8 text[5] = {116, 101, 120, 116, 0};
.visible .entry speak(.param .u64 count)
{
    .local .align 8 .b8 buffer[48];
    .reg .b32 %r<2>;
    .reg .b64 %rd<8>;
    mov.u64 %rd1, buffer;
    cvta.local.u64 %rd2, %rd1;
    st.local.s32 [%rd1], -3;
    st.local.u32 [%rd1+4], 42;
    st.local.u32 [%rd1+8], 255;
    st.local.b64 [%rd1+16], 0x3FF8000000000000;
    mov.u64 %rd3, text;
    cvta.global.u64 %rd4, %rd3;
    st.local.u64 [%rd1+24], %rd4;
    st.local.u32 [%rd1+32], 65;
    st.local.u64 [%rd1+40], 1099511627776;
    mov.u64 %rd5, format;
    cvta.global.u64 %rd6, %rd5;
    {
        .param .b64 p0;
        .param .b64 p1;
        .param .b32 r;
        st.param.b64 [p0], %rd6;
        st.param.b64 [p1], %rd2;
        call.uni (r), vprintf, (p0, p1);
        ld.param.b32 %r1, [r];
    }
    ld.param.u64 %rd7, [count];
    st.global.u32 [%rd7], %r1;
    {
        .param .b64 c;
        .param .b64 f;
        .param .b32 l;
        .param .b64 g;
        .param .b64 s;
        st.param.b64 [c], %rd4;
        st.param.b64 [f], %rd4;
        st.param.b32 [l], 12;
        st.param.b64 [g], %rd4;
        st.param.b64 [s], 1;
        call.uni __assertfail, (c, f, l, g, s);
    }
    ret;
}
"#;

#[test]
fn kernels_print_and_assert() {
    let ran = run("kernels_print_and_assert", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = context.load_module(Ptx::from_src(SPEAKING)).unwrap().load_function("speak").unwrap();
        let mut count = stream.alloc_zeros::<u32>(1).unwrap();
        let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        let mut launch = stream.launch_builder(&f);
        launch.arg(&mut count);
        // SAFETY: the kernel writes one word.
        unsafe { launch.launch(one) }.unwrap();
        assert!(stream.synchronize().is_err(), "the assertion fails");
    });
    let printed = String::from_utf8_lossy(&ran.output.stdout).into_owned();
    assert!(printed.contains("-3|   42|ff  |1.50|text|A|1099511627776|%\n"), "{printed}");
    assert!(ran.found("trap").contains("assertion 'text' failed at text:12 in text"));
}
