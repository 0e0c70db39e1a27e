//! Launches that a driver refuses, and addresses that a kernel must not follow: the code that a GPU gives, a sentence in the
//! report, and never an end of the process.

mod support;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;
use support::{PTX, run};
use sys::CUresult;

fn context() -> (Arc<CudaContext>, Arc<CudaStream>, CudaFunction) {
    let context = CudaContext::new(0).expect("the stand-in has a device");
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX)).expect("the module loads");
    let f = module.load_function("add_one").expect("the kernel is there");
    (context, stream, f)
}

/// Launches `add_one` on addresses that are given as numbers.
fn add_one(stream: &CudaStream, f: &CudaFunction, out: u64, input: u64, config: LaunchConfig) -> CUresult {
    let mut launch = stream.launch_builder(f);
    let n = 32u32;
    launch.arg(&out).arg(&input).arg(&n);
    // SAFETY: the emulator stops what is wrong.
    match unsafe { launch.launch(config) } {
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(e) => e.0,
    }
}

fn shape(grid: (u32, u32, u32), block: (u32, u32, u32), shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: shared }
}

#[test]
fn a_shape_beyond_the_limits_is_refused_and_the_context_lives_on() {
    let ran = run("a_shape_beyond_the_limits_is_refused_and_the_context_lives_on", &[], || {
        let (_context, stream, f) = context();
        // SAFETY: a stream of this context.
        let a = unsafe { result::malloc_async(stream.cu_stream(), 128) }.unwrap();
        let wrong = [
            (shape((1, 1, 1), (1025, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 1, 1), (64, 32, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 1, 1), (1, 1, 65), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 1, 1), (0, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((0, 1, 1), (32, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 65536, 1), (32, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 1, 65536), (32, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1 << 31, 1, 1), (32, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 1, 1), (32, 1, 1), 48 * 1024 + 1), CUresult::CUDA_ERROR_INVALID_VALUE),
            (shape((1, 1, 1), (32, 1, 1), u32::MAX), CUresult::CUDA_ERROR_INVALID_VALUE),
        ];
        for (config, expected) in wrong {
            assert_eq!(add_one(&stream, &f, a, a, config), expected, "{config:?}");
        }
        // A refused launch leaves nothing behind: the context goes on.
        // SAFETY: the memory of this test.
        unsafe { result::memset_d8_async(a, 0, 128, stream.cu_stream()) }.unwrap();
        assert_eq!(add_one(&stream, &f, a, a, shape((1, 1, 1), (32, 1, 1), 0)), CUresult::CUDA_SUCCESS);
        let mut host = [0u32; 32];
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_sync(&mut host, a) }.unwrap();
        assert_eq!(host, [1; 32]);
        // SAFETY: as above.
        unsafe { result::free_async(a, stream.cu_stream()) }.unwrap();
    });
    assert!(ran.findings().iter().all(|f| f.starts_with("resource")), "{:?}", ran.findings());
    let notes = ran.notes();
    for sentence in ["1025", "65", "49153 bytes of dynamic shared memory"] {
        assert!(notes.contains(sentence), "{sentence} in {notes}");
    }
}

#[test]
fn addresses_of_nothing_are_illegal_and_the_finding_says_what_they_are() {
    for (what, kind, sentence) in [
        ("null", "bounds", "the null page"),
        ("freed", "freed", "freed"),
        ("foreign", "bounds", "far from any allocation"),
        ("host", "bounds", "far from any allocation"),
    ] {
        let name = "addresses_of_nothing_are_illegal_and_the_finding_says_what_they_are";
        let ran = run(name, &[("ADDRESS", what)], || {
            let (_context, stream, f) = context();
            // SAFETY: what is wrong is what the test is about.
            unsafe {
                let good = result::malloc_sync(128).unwrap();
                result::memset_d8_sync(good, 0, 128).unwrap();
                let local = [0u32; 32];
                let bad = match std::env::var("ADDRESS").unwrap().as_str() {
                    "null" => 0,
                    "freed" => {
                        let gone = result::malloc_sync(128).unwrap();
                        result::free_sync(gone).unwrap();
                        gone
                    }
                    "foreign" => 0x1234_5678_9ABC,
                    _ => local.as_ptr() as u64,
                };
                // The driver takes the launch; the kernel meets the address.
                assert_eq!(
                    add_one(&stream, &f, good, bad, shape((1, 1, 1), (32, 1, 1), 0)),
                    CUresult::CUDA_SUCCESS
                );
                assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
                let mut host = [0u32; 1];
                let later = result::memcpy_dtoh_sync(&mut host, good).unwrap_err().0;
                assert_eq!(later, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "the error stays");
            }
        });
        assert!(ran.found(kind).contains(sentence), "{what}: {:?}", ran.findings());
    }
}

#[test]
fn a_launch_with_too_few_arguments_is_refused_where_it_can_be_told() {
    let ran = run("a_launch_with_too_few_arguments_is_refused_where_it_can_be_told", &[], || {
        let (_context, stream, f) = context();
        // SAFETY: arrays that are shorter than the kernel's parameters, with what may lie behind them.
        unsafe {
            let a = result::malloc_sync(128).unwrap();
            let mut address = a;
            let pointer = (&raw mut address).cast();
            for behind in [0usize, 1, 0x1000, 0x7FFF_FFFF_F000, usize::MAX] {
                let mut array = [pointer, pointer, std::ptr::without_provenance_mut(behind)];
                let status = sys::cuLaunchKernel(
                    f.cu_function(),
                    1,
                    1,
                    1,
                    32,
                    1,
                    1,
                    0,
                    stream.cu_stream(),
                    array.as_mut_ptr(),
                    std::ptr::null_mut(),
                );
                assert_eq!(status, CUresult::CUDA_ERROR_INVALID_VALUE, "{behind:#x}");
            }
            // No array, and one that is nowhere.
            for array in [std::ptr::null_mut(), std::ptr::without_provenance_mut(0x1000)] {
                let status = sys::cuLaunchKernel(
                    f.cu_function(),
                    1,
                    1,
                    1,
                    32,
                    1,
                    1,
                    0,
                    stream.cu_stream(),
                    array,
                    std::ptr::null_mut(),
                );
                assert_eq!(status, CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            for function in [std::ptr::null_mut(), std::ptr::without_provenance_mut(0x1234)] {
                let mut array = [pointer, pointer, pointer];
                let status = sys::cuLaunchKernel(
                    function,
                    1,
                    1,
                    1,
                    32,
                    1,
                    1,
                    0,
                    stream.cu_stream(),
                    array.as_mut_ptr(),
                    std::ptr::null_mut(),
                );
                assert_eq!(status, CUresult::CUDA_ERROR_INVALID_HANDLE);
            }
            result::free_sync(a).unwrap();
        }
    });
    assert!(ran.notes().contains("'add_one' takes 3 arguments"), "{}", ran.notes());
}

#[test]
fn threads_share_a_context_and_have_one_each() {
    run("threads_share_a_context_and_have_one_each", &[], || {
        let (context, _, f) = context();
        std::thread::scope(|scope| {
            for k in 0..6u32 {
                let (context, f) = (&context, &f);
                scope.spawn(move || {
                    // A thread begins without a context; cudarc makes this one current at each call.
                    let stream = context.new_stream().unwrap();
                    for round in 0..5 {
                        let a = stream.clone_htod(&[k + round; 256]).unwrap();
                        let mut b = stream.alloc_zeros::<u32>(256).unwrap();
                        let mut launch = stream.launch_builder(f);
                        launch.arg(&mut b).arg(&a).arg(&256u32);
                        // SAFETY: the kernel stays within 256 elements.
                        unsafe { launch.launch(LaunchConfig::for_num_elems(256)) }.unwrap();
                        assert_eq!(stream.clone_dtoh(&b).unwrap(), [k + round + 1; 256]);
                    }
                });
            }
            scope.spawn(|| {
                // Without a context of its own, a raw call is refused.
                let fresh = std::thread::spawn(|| {
                    let mut address = 0;
                    // SAFETY: a writable place.
                    unsafe { sys::cuMemAlloc_v2(&mut address, 64) }
                });
                assert_eq!(fresh.join().unwrap(), CUresult::CUDA_ERROR_INVALID_CONTEXT);
                // The stack of a thread: pushed and popped contexts.
                // SAFETY: the context lives as long as the scope.
                unsafe {
                    let mut top = std::ptr::null_mut();
                    assert_eq!(sys::cuCtxPushCurrent_v2(context.cu_ctx()), CUresult::CUDA_SUCCESS);
                    assert_eq!(sys::cuCtxPopCurrent_v2(&mut top), CUresult::CUDA_SUCCESS);
                    assert_eq!(top, context.cu_ctx());
                    assert_eq!(sys::cuCtxGetCurrent(&mut top), CUresult::CUDA_SUCCESS);
                    assert!(top.is_null());
                }
            });
        });
    })
    .clean();
}
