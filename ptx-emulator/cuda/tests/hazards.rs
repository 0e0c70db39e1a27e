//! What the stand-in is for: host code that is wrong and that a GPU would often let pass.

mod support;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, result, sys,
};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;
use support::{PTX, run};
use sys::CUresult;

/// A context in which cudarc leaves events and waits to the test.
fn context() -> (Arc<CudaContext>, CudaFunction) {
    let context = CudaContext::new(0).expect("the stand-in has a device");
    // SAFETY: the tests are about what happens then.
    unsafe { context.disable_event_tracking() };
    let module = context.load_module(Ptx::from_src(PTX)).expect("the module loads");
    let f = module.load_function("add_one").expect("the kernel is there");
    (context, f)
}

fn add_one(
    stream: &Arc<CudaStream>,
    f: &CudaFunction,
    out: &mut CudaSlice<u32>,
    input: &CudaSlice<u32>,
    n: u32,
) {
    let mut launch = stream.launch_builder(f);
    launch.arg(out).arg(input).arg(&n);
    // SAFETY: where this is wrong, the emulator says so instead of touching foreign memory.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.expect("the launch is accepted");
}

#[test]
fn a_missing_event_wait_is_found_under_every_seed_and_changes_the_result_under_some() {
    let name = "a_missing_event_wait_is_found_under_every_seed_and_changes_the_result_under_some";
    let mut stale = 0;
    for seed in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let ran = run(name, &[("PTX_EMULATOR_SEED", seed)], || {
            let (context, f) = context();
            let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
            let input = a.clone_htod(&[5u32; 512]).unwrap();
            let mut middle = a.alloc_zeros::<u32>(512).unwrap();
            let mut out = b.alloc_zeros::<u32>(512).unwrap();
            a.synchronize().unwrap();
            b.synchronize().unwrap();
            add_one(&a, &f, &mut middle, &input, 512);
            // Missing: b.wait(&a.record_event(None)?)
            add_one(&b, &f, &mut out, &middle, 512);
            let got = b.clone_dtoh(&out).unwrap();
            eprintln!("{}", if got == [7; 512] { "RIGHT" } else { "STALE" });
        });
        let race = ran.found("race");
        assert!(
            race.contains("read by kernel add_one") && race.contains("written by kernel add_one"),
            "{race}"
        );
        stale += usize::from(String::from_utf8_lossy(&ran.output.stderr).contains("STALE"));
    }
    assert!(stale > 0, "no seed let the second kernel run first");
}

#[test]
fn a_missing_wait_between_a_copy_and_a_copy_is_found_under_every_seed() {
    let name = "a_missing_wait_between_a_copy_and_a_copy_is_found_under_every_seed";
    for seed in ["1", "2", "3"] {
        let ran = run(name, &[("PTX_EMULATOR_SEED", seed)], || {
            let (context, _) = context();
            let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
            let mut x = a.alloc_zeros::<u32>(64).unwrap();
            let y = b.clone_htod(&[1u32; 64]).unwrap();
            a.synchronize().unwrap();
            b.synchronize().unwrap();
            b.memcpy_dtod(&y, &mut x).unwrap();
            // Missing: a.wait(&b.record_event(None)?)
            a.clone_dtoh(&x).unwrap();
        });
        assert!(ran.found("race").contains("device-to-host copy"), "{:?}", ran.findings());
    }
}

#[test]
fn a_pinned_buffer_that_is_used_again_too_early_is_found() {
    let ran = run("a_pinned_buffer_that_is_used_again_too_early_is_found", &[], || {
        let (context, _) = context();
        let stream = context.new_stream().unwrap();
        let mut device = stream.alloc_zeros::<u32>(64).unwrap();
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
        let words = pinned.as_mut_ptr().unwrap();
        // SAFETY: `words` points to 64 words; cudarc's own guard is stepped around on purpose.
        unsafe {
            std::slice::from_raw_parts_mut(words, 64).fill(1);
            let (address, _guard) = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut device, &stream);
            result::memcpy_htod_async(address, std::slice::from_raw_parts(words, 64), stream.cu_stream())
                .unwrap();
            // Missing: stream.synchronize()
            std::slice::from_raw_parts_mut(words, 64).fill(2);
        }
        assert_eq!(stream.clone_dtoh(&device).unwrap(), [2; 64], "the copy read late");
    });
    assert!(ran.found("race").contains("page-locked host buffer"));
}

#[test]
fn a_pageable_buffer_may_be_used_again_at_once() {
    run("a_pageable_buffer_may_be_used_again_at_once", &[], || {
        let (context, _) = context();
        let stream = context.new_stream().unwrap();
        let mut device = stream.alloc_zeros::<u32>(64).unwrap();
        let mut host = vec![1u32; 64];
        stream.memcpy_htod(&host, &mut device).unwrap();
        host.fill(2);
        assert_eq!(stream.clone_dtoh(&device).unwrap(), [1; 64]);
    })
    .clean();
}

#[test]
fn out_of_bounds_is_an_illegal_address_that_stays() {
    let ran = run("out_of_bounds_is_an_illegal_address_that_stays", &[], || {
        let (context, f) = context();
        let stream = context.new_stream().unwrap();
        let input = stream.clone_htod(&[1u32; 64]).unwrap();
        let mut out = stream.alloc_zeros::<u32>(60).unwrap();
        add_one(&stream, &f, &mut out, &input, 64);
        assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(stream.alloc_zeros::<u32>(1).unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    let finding = ran.found("bounds");
    assert!(finding.contains("add_one"), "{finding}");
    let first = &ran.report["findings"][0];
    assert_eq!((first["thread"][0].as_u64(), first["error"].as_str()), (Some(60), Some("IllegalAddress")));
}

#[test]
fn a_kernel_on_freed_memory_is_found() {
    let ran = run("a_kernel_on_freed_memory_is_found", &[], || {
        let (context, f) = context();
        let stream = context.new_stream().unwrap();
        let input = stream.clone_htod(&[1u32; 64]).unwrap();
        let mut out = stream.alloc_zeros::<u32>(64).unwrap();
        let (address, _) = cudarc::driver::DevicePtr::device_ptr(&input, &stream);
        // SAFETY: freed behind cudarc's back, on purpose.
        unsafe { result::free_async(address, stream.cu_stream()) }.unwrap();
        add_one(&stream, &f, &mut out, &input, 64);
        assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget(input);
    });
    assert!(ran.found("freed").contains("add_one"));
}

#[test]
fn copies_of_freed_null_and_foreign_memory_are_refused() {
    let ran = run("copies_of_freed_null_and_foreign_memory_are_refused", &[], || {
        let (context, _) = context();
        let stream = context.new_stream().unwrap();
        // SAFETY: addresses that the driver must refuse.
        unsafe {
            let address = result::malloc_sync(256).unwrap();
            result::free_sync(address).unwrap();
            let mut host = [0u8; 64];
            assert_eq!(
                result::memcpy_dtoh_sync(&mut host, address).unwrap_err().0,
                CUresult::CUDA_ERROR_INVALID_VALUE
            );
            assert_eq!(result::free_sync(address).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(result::memcpy_htod_sync(0, &host).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(
                result::memcpy_htod_sync(12345, &host).unwrap_err().0,
                CUresult::CUDA_ERROR_INVALID_VALUE
            );
            let small = result::malloc_sync(32).unwrap();
            assert_eq!(
                result::memcpy_htod_sync(small, &host).unwrap_err().0,
                CUresult::CUDA_ERROR_INVALID_VALUE
            );
            result::free_sync(small).unwrap();
            assert_eq!(
                sys::cuStreamSynchronize(0xDEAD_BEE0 as sys::CUstream),
                CUresult::CUDA_ERROR_INVALID_HANDLE
            );
            assert_eq!(sys::cuEventQuery(std::ptr::null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuMemAlloc_v2(std::ptr::null_mut(), 64), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        stream.synchronize().unwrap();
    });
    assert!(ran.found("freed").contains("freed"));
    assert!(ran.findings().iter().any(|f| f.contains("freed twice")), "{:?}", ran.findings());
    assert!(ran.found("bounds").contains("64 bytes at"));
}

#[test]
fn bad_modules_and_names_are_refused_with_a_sentence() {
    let ran = run("bad_modules_and_names_are_refused_with_a_sentence", &[], || {
        let (context, _) = context();
        let load = |text: &str| context.load_module(Ptx::from_src(text)).map(|_| ()).unwrap_err().0;
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        assert_eq!(
            module.load_function("add_two").map(|_| ()).unwrap_err().0,
            CUresult::CUDA_ERROR_NOT_FOUND
        );
        assert_eq!(load(&PTX[..PTX.len() / 2]), CUresult::CUDA_ERROR_INVALID_PTX);
        assert_eq!(
            load(".version 99.0\n.target sm_80\n.address_size 64\n"),
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        );
        assert_eq!(load("\u{7f}ELF"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(load(&PTX.replace("mad.lo.u32 %r5", "mad.lo.u32 %r99")), CUresult::CUDA_ERROR_INVALID_PTX);
    });
    let notes = ran.notes();
    for sentence in ["no kernel 'add_two'", "add_one", "a cubin holds SASS"] {
        assert!(notes.contains(sentence), "{sentence} in {notes}");
    }
}

#[test]
fn work_that_nobody_waited_for_is_judged_when_the_process_ends() {
    let ran = run("work_that_nobody_waited_for_is_judged_when_the_process_ends", &[], || {
        let (context, f) = context();
        let stream = context.new_stream().unwrap();
        let input = stream.clone_htod(&[1u32; 64]).unwrap();
        let mut out = stream.alloc_zeros::<u32>(60).unwrap();
        add_one(&stream, &f, &mut out, &input, 64);
        std::mem::forget((context, stream, input, out, f));
    });
    assert!(ran.found("bounds").contains("add_one"));
    assert!(ran.notes().contains("never waited for"), "{}", ran.notes());
    assert!(ran.notes().contains("not freed"), "{}", ran.notes());
}

#[test]
fn a_capture_that_is_not_joined_or_that_synchronises_is_refused() {
    run("a_capture_that_is_not_joined_or_that_synchronises_is_refused", &[], || {
        let (context, f) = context();
        let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let input = a.clone_htod(&[1u32; 32]).unwrap();
        let mut out = a.alloc_zeros::<u32>(32).unwrap();
        a.synchronize().unwrap();
        let (mode, flags) = (
            sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
            sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH,
        );
        a.begin_capture(mode).unwrap();
        b.wait(&a.record_event(None).unwrap()).unwrap();
        add_one(&b, &f, &mut out, &input, 32);
        let error = a.end_capture(flags).map(|_| ()).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        a.begin_capture(mode).unwrap();
        assert_eq!(a.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let error = a.end_capture(flags).map(|_| ()).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    });
}

#[test]
fn what_is_not_modelled_says_so() {
    let ran = run("what_is_not_modelled_says_so", &[], || {
        let (_context, _) = context();
        let mut address = 0;
        // SAFETY: a valid place for the result.
        let status = unsafe { sys::cuMemAllocManaged(&mut address, 64, 1) };
        assert_eq!(status, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        // SAFETY: the call looks at none of its arguments.
        let status = unsafe { sys::cuMemAddressFree(0, 0) };
        assert_eq!(status, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    });
    assert!(ran.notes().contains("cuMemAddressFree"), "{}", ran.notes());
}

/// Captures `add_one` from `input` to `middle` in one stream and from `middle` to `out` in another, with or without the wait that
/// orders the two, and runs the graph.
fn run_two_nodes(ordered: bool) -> Vec<u32> {
    let (context, f) = context();
    let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let input = a.clone_htod(&[5u32; 256]).unwrap();
    let (mut middle, mut out) = (a.alloc_zeros::<u32>(256).unwrap(), a.alloc_zeros::<u32>(256).unwrap());
    a.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    if !ordered {
        b.join(&a).unwrap();
    }
    add_one(&a, &f, &mut middle, &input, 256);
    if ordered {
        b.join(&a).unwrap();
    }
    add_one(&b, &f, &mut out, &middle, 256);
    a.join(&b).unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = a.end_capture(flags).unwrap().expect("a graph");
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    a.clone_dtoh(&out).unwrap()
}

#[test]
fn kernels_of_one_graph_are_a_race_unless_a_dependency_orders_them() {
    let name = "kernels_of_one_graph_are_a_race_unless_a_dependency_orders_them";
    for seed in ["1", "2", "3"] {
        for ordered in ["yes", "no"] {
            let ran =
                run(name, &[("PTX_EMULATOR_SEED", seed), ("ORDERED", ordered)], || {
                    match std::env::var("ORDERED").as_deref() {
                        Ok("yes") => assert_eq!(run_two_nodes(true), [7; 256]),
                        _ => drop(run_two_nodes(false)),
                    }
                });
            if ordered == "yes" {
                ran.clean();
            } else {
                let race = ran.found("race");
                assert!(race.contains("kernel add_one of a graph"), "{race}");
            }
        }
    }
}

#[test]
fn page_locked_memory_that_is_freed_before_its_copy_has_run_is_found() {
    let name = "page_locked_memory_that_is_freed_before_its_copy_has_run_is_found";
    for waits in ["yes", "no"] {
        let ran = run(name, &[("WAITS", waits)], || {
            let (context, _) = context();
            let stream = context.new_stream().unwrap();
            // SAFETY: written before it is read; cudarc frees it without a wait, since its tracking is off.
            let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
            pinned.as_mut_slice().unwrap().fill(3);
            let x = stream.clone_htod(&pinned).unwrap();
            if std::env::var("WAITS").as_deref() == Ok("yes") {
                stream.synchronize().unwrap();
            }
            drop(pinned);
            assert_eq!(stream.clone_dtoh(&x).unwrap(), [3; 64]);
        });
        match waits {
            "yes" => _ = ran.clean(),
            _ => assert!(ran.found("freed").contains("page-locked host buffer"), "{:?}", ran.findings()),
        }
    }
}

#[test]
fn what_nobody_wrote_comes_to_the_host_as_what_no_program_expects() {
    let ran = run("what_nobody_wrote_comes_to_the_host_as_what_no_program_expects", &[], || {
        let (context, _) = context();
        let stream = context.new_stream().unwrap();
        // SAFETY: that it is not written is the point.
        let mut x = unsafe { stream.alloc::<f32>(8) }.unwrap();
        stream.memcpy_htod(&[1.0f32; 3], &mut x.slice_mut(2..5)).unwrap();
        let host = stream.clone_dtoh(&x).unwrap();
        assert!(host[..2].iter().chain(&host[5..]).all(|v| v.is_nan()), "{host:?}");
        assert_eq!(host[2..5], [1.0; 3]);
    });
    ran.clean();
    assert!(ran.notes().contains("that nobody wrote"), "{}", ran.notes());
}
