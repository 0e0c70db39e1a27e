//! cudarc's safe API whole: every public function of its driver module either does what CUDA's documentation says, or gives
//! `CUDA_ERROR_NOT_SUPPORTED` and a line in the report.

mod support;

use cudarc::driver::{CudaContext, CudaSlice, LaunchConfig, Profiler, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;
use support::{PTX, run};
use sys::CUresult;

#[test]
fn what_a_device_says_of_itself_is_what_the_data_sheet_says() {
    use sys::CUdevice_attribute_enum as A;
    // Name, capability, SMs, memory in GiB, shared memory of a block with opting in, threads of an SM, L2 in MiB, GB/s.
    let gpus = [
        ("a100", "A100", (8, 0), 108, 80, 163, 2048, 40, 2039.0),
        ("rtx4090", "4090", (8, 9), 128, 24, 99, 1536, 72, 1008.0),
        ("h100", "H100", (9, 0), 132, 80, 227, 2048, 50, 3350.0),
        ("rtx5090", "5090", (12, 0), 170, 32, 99, 1536, 96, 1792.0),
    ];
    for gpu in gpus {
        let name = "what_a_device_says_of_itself_is_what_the_data_sheet_says";
        run(name, &[("PTX_EMULATOR_GPU", gpu.0)], || {
            let asked = std::env::var("PTX_EMULATOR_GPU").unwrap();
            let (_, name, capability, sms, memory, shared, threads, l2, bandwidth) =
                *gpus.iter().find(|g| g.0 == asked).unwrap();
            let context = CudaContext::new(0).unwrap();
            let is = |attribute| context.attribute(attribute).unwrap();
            assert!(context.name().unwrap().contains(name));
            assert!(context.name().unwrap().starts_with("Emulated"));
            assert_eq!(context.compute_capability().unwrap(), capability);
            assert_eq!(context.total_mem().unwrap(), memory << 30);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), sms);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared * 1024);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 48 * 1024);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR), (shared + 1) * 1024);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR), threads);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR), 65536);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE), l2 << 20);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH), 1);
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH), i32::from(capability.0 >= 9));
            assert_eq!(is(A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
            let clock = f64::from(is(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)) * 1e3;
            let bus = f64::from(is(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)) / 8.0;
            let rate = 2.0 * clock * bus / 1e9;
            assert!((rate / bandwidth - 1.0).abs() < 0.01, "{rate} GB/s, not {bandwidth}");
            assert_eq!(context.ordinal(), 0);
            assert_eq!(CudaContext::device_count().unwrap(), 1);
            assert_ne!(context.uuid().unwrap().bytes, [0; 16]);
            assert!(context.has_async_alloc() && context.is_primary());
        })
        .clean();
    }
}

#[test]
fn contexts_keep_their_limits_flags_and_preferences() {
    run("contexts_keep_their_limits_flags_and_preferences", &[], || {
        let context = CudaContext::new(0).unwrap();
        let (free, total) = context.mem_get_info().unwrap();
        assert!(free <= total && total == 80 << 30);
        let stack = sys::CUlimit::CU_LIMIT_STACK_SIZE;
        context.set_limit(stack, 4096).unwrap();
        assert_eq!(context.get_limit(stack).unwrap(), 4096);
        let cache = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_SHARED;
        context.set_cache_config(cache).unwrap();
        assert_eq!(context.get_cache_config().unwrap(), cache);
        context.set_flags(sys::CUctx_flags::CU_CTX_SCHED_SPIN).unwrap();
        context.set_blocking_synchronize().unwrap();
        assert!(context.is_event_tracking() && !context.is_in_multi_stream_mode());
        let stream = context.new_stream().unwrap();
        assert!(context.is_managing_stream_synchronization());
        drop(stream);
        context.synchronize().unwrap();
        context.check_err().unwrap();
        let other = CudaContext::new_non_primary(0, 0).unwrap();
        assert!(!other.is_primary());
        other.synchronize().unwrap();
        drop(other);
        let profiled = Profiler::new();
        context.bind_to_thread().unwrap();
        drop(profiled);
        cudarc::driver::safe::profiler_start().unwrap();
        cudarc::driver::safe::profiler_stop().unwrap();
    })
    .clean();
}

#[test]
fn streams_fork_join_and_tell_when_they_are_done() {
    run("streams_fork_join_and_tell_when_they_are_done", &[], || {
        let context = CudaContext::new(0).unwrap();
        let a = context.new_stream().unwrap();
        let (least, greatest) = result::stream::get_priority_range().unwrap();
        assert!(greatest < least);
        let urgent = context.new_stream_with_priority(greatest).unwrap();
        let x = a.clone_htod(&[1.5f32; 1000]).unwrap();
        let b = a.fork().unwrap();
        let y = b.clone_dtod(&x).unwrap();
        a.join(&b).unwrap();
        urgent.join(&a).unwrap();
        let start = urgent.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        let z = urgent.clone_dtod(&y).unwrap();
        let end = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        end.record(&urgent).unwrap();
        assert!(!end.try_is_complete().unwrap() || end.is_complete(), "polling is waiting too");
        end.synchronize().unwrap();
        assert!(end.try_is_complete().unwrap());
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
        assert_eq!(urgent.clone_dtoh(&z).unwrap(), [1.5; 1000]);
        // Per thread, and one that another library owns.
        let own = context.per_thread_stream();
        let copy = own.clone_dtod(&z).unwrap();
        assert_eq!(own.clone_dtoh(&copy).unwrap(), [1.5; 1000]);
        // SAFETY: `a` outlives the borrowed stream.
        let borrowed = unsafe { context.wrap_borrowed_stream(a.cu_stream()) };
        borrowed.synchronize().unwrap();
    })
    .clean();
}

#[test]
fn slices_are_cut_copied_filled_leaked_and_taken_back() {
    run("slices_are_cut_copied_filled_leaked_and_taken_back", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut x = stream.clone_htod(&(0..100u32).collect::<Vec<_>>()).unwrap();
        assert_eq!((x.len(), x.num_bytes()), (100, 400));
        assert_eq!(stream.clone_dtoh(&x.slice(10..13)).unwrap(), [10, 11, 12]);
        assert!(x.try_slice(90..101).is_none());
        stream.memset_zeros(&mut x.slice_mut(0..50)).unwrap();
        let (mut low, mut high) = x.split_at_mut(50);
        stream.memcpy_dtod(&high.slice(0..25), &mut low.slice_mut(0..25)).unwrap();
        stream.memcpy_htod(&[7u32; 5], &mut high.slice_mut(45..50)).unwrap();
        let all = stream.clone_dtoh(&x).unwrap();
        assert_eq!((all[24], all[25], all[50], all[99]), (74, 0, 50, 7));
        let y = x.try_clone().unwrap();
        let back: Vec<u32> = y.try_into().unwrap();
        assert_eq!(back, all);
        // SAFETY: four bytes to a word, and the memory is as long as it was.
        let bytes = unsafe { x.transmute::<u8>(400) }.unwrap();
        assert_eq!(stream.clone_dtoh(&bytes.slice(396..400)).unwrap(), [7, 0, 0, 0]);
        let address = x.leak();
        // SAFETY: what was leaked.
        let x: CudaSlice<u32> = unsafe { stream.upgrade_device_ptr(address, 100) };
        assert_eq!(stream.clone_dtoh(&x).unwrap(), all);
        let none = stream.null::<f32>().unwrap();
        assert!(none.is_empty());
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(100) }.unwrap();
        stream.memcpy_dtoh(&x, &mut pinned).unwrap();
        assert_eq!(pinned.as_slice().unwrap(), all);
    })
    .clean();
}

extern "C" fn shared_by_block(threads: i32) -> usize {
    threads as usize * 16
}

#[test]
fn functions_tell_their_attributes_and_occupancies() {
    run("functions_tell_their_attributes_and_occupancies", &[("PTX_EMULATOR_GPU", "h100")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let f = module.load_function("add_one").unwrap();
        assert!((16..=255).contains(&f.num_regs().unwrap()));
        assert_eq!((f.shared_size_bytes().unwrap(), f.local_size_bytes().unwrap()), (0, 0));
        assert_eq!(f.const_size_bytes().unwrap(), 0);
        assert_eq!(f.max_threads_per_block().unwrap(), 1024);
        assert_eq!((f.ptx_version().unwrap(), f.binary_version().unwrap()), (70, 90));
        f.set_function_cache_config(sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1).unwrap();
        let carveout = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        f.set_attribute(carveout, 50).unwrap();
        assert_eq!(f.get_attribute(carveout).unwrap(), 50);
        // 2048 threads and 228 KiB an SM, of which a block is charged 1 KiB more than it asks for.
        let resident =
            |threads, shared| f.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None);
        assert_eq!((resident(1024, 0).unwrap(), resident(128, 0).unwrap()), (2, 16));
        assert_eq!(resident(128, 75 * 1024).unwrap(), 3);
        assert_eq!(f.occupancy_available_dynamic_smem_per_block(2, 1024).unwrap(), 113 * 1024);
        let (grid, block) = f.occupancy_max_potential_block_size(shared_by_block, 0, 0, None).unwrap();
        assert_eq!(block % 32, 0);
        assert_eq!(grid, 132 * resident(block, shared_by_block(block as i32)).unwrap());
        let limited = f.occupancy_max_potential_block_size(shared_by_block, 0, 256, None).unwrap();
        assert!(limited.1 <= 256);
        let config = LaunchConfig { grid_dim: (8, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        assert!(f.occupancy_max_active_clusters(config, &stream).unwrap() > 0);
        assert_eq!(f.occupancy_max_potential_cluster_size(config, &stream).unwrap(), 8);
    })
    .clean();
}

#[test]
fn launches_may_be_timed_by_the_builder() {
    run("launches_may_be_timed_by_the_builder", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let f = context.load_module(Ptx::from_src(PTX)).unwrap().load_function("add_one").unwrap();
        let a = stream.clone_htod(&[1u32; 64]).unwrap();
        let mut b = stream.alloc_zeros::<u32>(64).unwrap();
        let mut launch = stream.launch_builder(&f);
        launch.arg(&mut b).arg(&a).arg(&64u32);
        launch.record_kernel_launch(sys::CUevent_flags::CU_EVENT_DEFAULT);
        // SAFETY: the kernel stays within 64 elements.
        let (start, end) = unsafe { launch.launch(LaunchConfig::for_num_elems(64)) }.unwrap().unwrap();
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [2; 64]);
        assert_eq!(
            stream.capture_status().unwrap(),
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
        );
    })
    .clean();
}

#[test]
fn what_the_emulator_lacks_says_so_and_harms_nothing() {
    let ran = run("what_the_emulator_lacks_says_so_and_harms_nothing", &[], || {
        let context = CudaContext::new(0).unwrap();
        // cudarc asks first whether the device has managed memory, and refuses itself.
        // SAFETY: refused.
        let unified = unsafe { context.alloc_unified::<u32>(16, true) };
        assert_eq!(unified.map(|_| ()).unwrap_err().0, CUresult::CUDA_ERROR_NOT_PERMITTED);
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: refused.
        let external = unsafe { context.import_external_memory(file, 4096) };
        assert_eq!(external.map(|_| ()).unwrap_err().0, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let stream = context.default_stream();
        let x = stream.clone_htod(&[1u8, 2]).unwrap();
        assert_eq!(stream.clone_dtoh(&x).unwrap(), [1, 2]);
    });
    ran.clean();
    assert!(ran.notes().contains("cuImportExternalMemory"), "{}", ran.notes());
}
