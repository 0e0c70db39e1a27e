//! The parts of the driver API that cudarc offers as raw symbols only: graph nodes, cluster launches, tensor maps,
//! entry points by name, per-thread streams, host functions, the report in process.

mod support;

use cudarc::driver::{CudaContext, result, sys};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use support::{PTX, run};
use sys::CUresult;

fn context() -> (Arc<CudaContext>, sys::CUfunction, sys::CUmodule) {
    let context = CudaContext::new(0).expect("the stand-in has a device");
    let text = std::ffi::CString::new(PTX).unwrap();
    // SAFETY: the text ends in a zero byte.
    let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.expect("the module loads");
    // SAFETY: the module was loaded above.
    let function =
        unsafe { result::module::get_function(module, c"add_one".into()) }.expect("the kernel is there");
    (context, function, module)
}

/// Fails with the code's name.
fn ok(status: CUresult) {
    assert_eq!(status, CUresult::CUDA_SUCCESS);
}

#[test]
fn the_parameters_of_an_instantiated_kernel_node_are_changed() {
    run("the_parameters_of_an_instantiated_kernel_node_are_changed", &[], || {
        let (_context, function, _) = context();
        // SAFETY: every pointer below points to a live local or to device memory allocated here.
        unsafe {
            let (mut a, mut b, mut n) =
                (result::malloc_sync(256).unwrap(), result::malloc_sync(256).unwrap(), 64u32);
            ok(sys::cuMemsetD32_v2(a, 5, 64));
            ok(sys::cuMemsetD32_v2(b, 0, 64));
            let mut args = [&raw mut b as *mut c_void, &raw mut a as *mut c_void, &raw mut n as *mut c_void];
            let mut params: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
            params.func = function;
            (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
            (params.blockDimX, params.blockDimY, params.blockDimZ) = (64, 1, 1);
            params.kernelParams = args.as_mut_ptr();
            let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
            let (mut first, mut second) = (std::ptr::null_mut(), std::ptr::null_mut());
            ok(sys::cuGraphCreate(&mut graph, 0));
            ok(sys::cuGraphAddKernelNode_v2(&mut first, graph, std::ptr::null(), 0, &params));
            let fill = sys::CUDA_MEMSET_NODE_PARAMS {
                dst: a,
                pitch: 0,
                value: 70,
                elementSize: 4,
                width: 64,
                height: 1,
            };
            ok(sys::cuGraphAddMemsetNode(&mut second, graph, &first, 1, &fill, std::ptr::null_mut()));
            let mut count = 0;
            ok(sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count));
            assert_eq!(count, 2);
            let mut nodes = [std::ptr::null_mut(); 2];
            ok(sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
            assert_eq!(nodes, [first, second]);
            let mut read: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
            ok(sys::cuGraphKernelNodeGetParams_v2(first, &mut read));
            assert_eq!(*(*read.kernelParams.add(2)).cast::<u32>(), 64);
            ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            ok(sys::cuGraphLaunch(exec, std::ptr::null_mut()));
            let mut host = [0u32; 64];
            result::memcpy_dtoh_sync(&mut host, b).unwrap();
            assert_eq!(host, [6; 64]);
            // The same graph, on fewer elements.
            (&raw mut n).write(10);
            ok(sys::cuGraphExecKernelNodeSetParams_v2(exec, first, &params));
            ok(sys::cuGraphLaunch(exec, std::ptr::null_mut()));
            result::memcpy_dtoh_sync(&mut host, b).unwrap();
            assert_eq!((host[9], host[10]), (71, 6));
            assert_eq!(
                sys::cuGraphExecKernelNodeSetParams_v2(exec, second, &params),
                CUresult::CUDA_ERROR_INVALID_VALUE,
                "the second node is no kernel"
            );
            ok(sys::cuGraphExecDestroy(exec));
            ok(sys::cuGraphDestroy(graph));
            result::free_sync(a).unwrap();
            result::free_sync(b).unwrap();
        }
    })
    .clean();
}

#[test]
fn clusters_need_a_gpu_that_has_them() {
    for (gpu, expected) in [("h100", "0"), ("a100", "1")] {
        let name = "clusters_need_a_gpu_that_has_them";
        run(name, &[("PTX_EMULATOR_GPU", gpu), ("EXPECTED", expected)], || {
            let (_context, function, _) = context();
            // SAFETY: as in the test above.
            unsafe {
                let (mut a, mut n) = (result::malloc_sync(256).unwrap(), 64u32);
                ok(sys::cuMemsetD32_v2(a, 5, 64));
                let mut args =
                    [&raw mut a as *mut c_void, &raw mut a as *mut c_void, &raw mut n as *mut c_void];
                let mut cluster: sys::CUlaunchAttribute = std::mem::zeroed();
                cluster.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
                cluster.value.clusterDim.x = 2;
                cluster.value.clusterDim.y = 1;
                cluster.value.clusterDim.z = 1;
                let mut config: sys::CUlaunchConfig = std::mem::zeroed();
                (config.gridDimX, config.gridDimY, config.gridDimZ) = (2, 1, 1);
                (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
                (config.attrs, config.numAttrs) = (&mut cluster, 1);
                let status =
                    sys::cuLaunchKernelEx(&config, function, args.as_mut_ptr(), std::ptr::null_mut());
                assert_eq!((status as u32).to_string(), std::env::var("EXPECTED").unwrap());
                ok(sys::cuCtxSynchronize());
                result::free_sync(a).unwrap();
            }
        });
    }
}

#[test]
fn arguments_may_come_in_one_buffer() {
    run("arguments_may_come_in_one_buffer", &[], || {
        let (_context, function, _) = context();
        // SAFETY: as in the first test.
        unsafe {
            let a = result::malloc_sync(256).unwrap();
            ok(sys::cuMemsetD32_v2(a, 5, 64));
            let mut buffer = [a.to_le_bytes(), a.to_le_bytes(), 64u64.to_le_bytes()].concat();
            let mut size = 20usize;
            let mut extra = [
                std::ptr::without_provenance_mut(1),
                buffer.as_mut_ptr().cast(),
                std::ptr::without_provenance_mut(2),
                &raw mut size as *mut c_void,
                std::ptr::null_mut(),
            ];
            let launch = |extra: *mut *mut c_void| {
                let null = std::ptr::null_mut();
                sys::cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, null, std::ptr::null_mut(), extra)
            };
            ok(launch(extra.as_mut_ptr()));
            let mut host = [0u32; 64];
            result::memcpy_dtoh_sync(&mut host, a).unwrap();
            assert_eq!(host, [6; 64]);
            assert_eq!(
                launch(std::ptr::null_mut()),
                CUresult::CUDA_ERROR_INVALID_VALUE,
                "no arguments at all"
            );
            (&raw mut size).write(8);
            assert_eq!(launch(extra.as_mut_ptr()), CUresult::CUDA_ERROR_INVALID_VALUE, "too few bytes");
            result::free_sync(a).unwrap();
        }
    });
}

#[test]
fn tensor_maps_are_checked_and_encoded() {
    run("tensor_maps_are_checked_and_encoded", &[("PTX_EMULATOR_GPU", "h100")], || {
        let (_context, _, _) = context();
        // SAFETY: the arrays have as many entries as the rank says.
        unsafe {
            let a = result::malloc_sync(1 << 16).unwrap();
            let encode = |strides: [u64; 1], swizzle| {
                let mut map: sys::CUtensorMap = std::mem::zeroed();
                let status = sys::cuTensorMapEncodeTiled(
                    &mut map,
                    sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    2,
                    a as *mut c_void,
                    [64u64, 128].as_ptr(),
                    strides.as_ptr(),
                    [64u32, 32].as_ptr(),
                    [1u32, 1].as_ptr(),
                    sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                    swizzle,
                    sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                    sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                );
                (status, map)
            };
            let (status, map) = encode([128], sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B);
            ok(status);
            let decoded = ptx_emulator::tensor_map::TensorMap::decode(&map.opaque).expect("a map");
            assert_eq!(
                (decoded.address, decoded.dims[1], decoded.swizzle, decoded.box_bytes()),
                (a, 128, 3, 4096)
            );
            assert_eq!(encode([100], sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B).0 as u32, 1);
            assert_eq!(encode([128], sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B).0 as u32, 1);
            result::free_sync(a).unwrap();
        }
    });
}

#[test]
fn entry_points_are_found_by_name() {
    run("entry_points_are_found_by_name", &[], || {
        let (_context, _, _) = context();
        let find = |name: &std::ffi::CStr| {
            let (mut at, mut status) =
                (std::ptr::null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
            // SAFETY: the name ends in a zero byte and both places are writable.
            let result = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut at, 12020, 0, &mut status) };
            (result, at, status as u32)
        };
        let (status, at, _) = find(c"cuMemGetInfo");
        ok(status);
        // SAFETY: the driver says that this is `cuMemGetInfo`.
        let info: extern "C" fn(*mut usize, *mut usize) -> u32 = unsafe { std::mem::transmute(at) };
        let (mut free, mut total) = (0, 0);
        assert_eq!(info(&mut free, &mut total), 0);
        assert_eq!((total, total - free), (80 << 30, 4), "the module has a variable of 4 bytes");
        let (status, at, why) = find(c"cuMakeCoffee");
        assert_eq!((status, at.is_null(), why), (CUresult::CUDA_ERROR_NOT_FOUND, true, 1));
    });
}

unsafe extern "C" fn count_up(data: *mut c_void) {
    // SAFETY: the test passes a counter that outlives the stream's work.
    unsafe {
        (*data.cast::<std::sync::atomic::AtomicU32>()).fetch_add(1, std::sync::atomic::Ordering::SeqCst)
    };
}

#[test]
fn host_functions_run_in_the_order_of_their_stream_and_not_before_they_must() {
    run("host_functions_run_in_the_order_of_their_stream_and_not_before_they_must", &[], || {
        let (context, _, _) = context();
        let stream = context.new_stream().unwrap();
        let count = std::sync::atomic::AtomicU32::new(0);
        let data = (&raw const count).cast_mut().cast();
        for _ in 0..3 {
            // SAFETY: `count` outlives the synchronisation below.
            ok(unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(count_up), data) });
        }
        let now = || count.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(now(), 0, "nothing runs before somebody waits");
        // SAFETY: the stream is alive.
        while unsafe { sys::cuStreamQuery(stream.cu_stream()) } == CUresult::CUDA_ERROR_NOT_READY {}
        assert_eq!(now(), 3, "polling is waiting too");
    })
    .clean();
}

unsafe extern "C" fn synchronise_itself(data: *mut c_void) {
    // SAFETY: the test passes a place for the result that outlives the stream's work.
    unsafe { *data.cast::<u32>() = sys::cuCtxSynchronize() as u32 };
}

#[test]
fn a_host_function_may_not_call_the_driver() {
    let ran = run("a_host_function_may_not_call_the_driver", &[], || {
        let (context, _, _) = context();
        let stream = context.new_stream().unwrap();
        let mut result = 0u32;
        // SAFETY: `result` outlives the synchronisation below.
        unsafe {
            ok(sys::cuLaunchHostFunc(stream.cu_stream(), Some(synchronise_itself), (&raw mut result).cast()));
            stream.synchronize().unwrap();
            assert_eq!((&raw const result).read_volatile(), CUresult::CUDA_ERROR_NOT_PERMITTED as u32);
        }
    });
    assert!(ran.notes().contains("must not call the driver"), "{}", ran.notes());
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_not_for_others() {
    for (flags, racy) in [(0u32, false), (1, true)] {
        let name = "the_legacy_stream_waits_for_blocking_streams_and_not_for_others";
        let ran = run(name, &[("FLAGS", if flags == 0 { "0" } else { "1" })], || {
            let (_context, _, _) = context();
            let flags: u32 = std::env::var("FLAGS").unwrap().parse().unwrap();
            // SAFETY: as in the first test.
            unsafe {
                let a = result::malloc_sync(256).unwrap();
                let mut stream = std::ptr::null_mut();
                ok(sys::cuStreamCreate(&mut stream, flags));
                ok(sys::cuMemsetD32Async(a, 5, 64, stream));
                ok(sys::cuMemsetD32Async(a, 6, 64, std::ptr::null_mut()));
                ok(sys::cuMemsetD32Async(a, 7, 64, stream));
                ok(sys::cuCtxSynchronize());
                if flags == 0 {
                    let mut host = [0u32; 64];
                    result::memcpy_dtoh_sync(&mut host, a).unwrap();
                    assert_eq!(host, [7; 64]);
                }
                result::free_sync(a).unwrap();
                ok(sys::cuStreamDestroy_v2(stream));
            }
        });
        assert_eq!(ran.findings().iter().any(|f| f.starts_with("race")), racy, "{:?}", ran.findings());
    }
}

#[test]
fn the_report_is_fetched_and_cleared_in_process() {
    let ran = run("the_report_is_fetched_and_cleared_in_process", &[], || {
        let (_context, _, _) = context();
        // SAFETY: an address that is refused; then a symbol of the stand-in with this signature, and room for its text.
        unsafe {
            assert!(result::memcpy_htod_sync(4096, &[0u8; 4]).is_err());
            type Fetch = extern "C" fn(*mut c_char, usize, c_int) -> usize;
            let fetch = *sys::culib().get::<Fetch>(b"ptx_emulator_report").unwrap();
            let needed = fetch(std::ptr::null_mut(), 0, 0);
            let mut text = vec![0u8; needed];
            assert_eq!(fetch(text.as_mut_ptr().cast(), needed, 1), needed);
            let report: serde_json::Value = serde_json::from_slice(&text[..needed - 1]).unwrap();
            assert_eq!(report["findings"][0]["kind"], "bounds");
        }
    });
    ran.clean();
}

/// The context of a device, made current.
fn device_context(device: i32) -> sys::CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: a writable place.
    ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) });
    // SAFETY: the context was just retained.
    ok(unsafe { sys::cuCtxSetCurrent(context) });
    context
}

#[test]
fn a_copy_between_devices_is_ordered_with_both_in_a_default_stream_and_in_no_other() {
    for (stream, racy) in [("default", false), ("created", true)] {
        for seed in ["1", "2", "3"] {
            let name = "a_copy_between_devices_is_ordered_with_both_in_a_default_stream_and_in_no_other";
            let variables = [("PTX_EMULATOR_DEVICES", "2"), ("PTX_EMULATOR_SEED", seed), ("STREAM", stream)];
            let ran = run(name, &variables, || {
                // SAFETY: contexts, streams and memory made here, used as long as they live.
                unsafe {
                    ok(sys::cuInit(0));
                    let one = device_context(0);
                    let a = result::malloc_sync(256).unwrap();
                    let mut stream = std::ptr::null_mut();
                    if std::env::var("STREAM").unwrap() == "created" {
                        ok(sys::cuStreamCreate(&mut stream, 0));
                    }
                    ok(sys::cuMemsetD32Async(a, 5, 64, stream));
                    let two = device_context(1);
                    let b = result::malloc_sync(256).unwrap();
                    ok(sys::cuMemsetD32Async(b, 9, 64, std::ptr::null_mut()));
                    ok(sys::cuCtxSetCurrent(one));
                    ok(sys::cuMemcpyPeerAsync(b, two, a, one, 256, stream));
                    ok(sys::cuCtxSetCurrent(two));
                    let mut host = [0u32; 64];
                    result::memcpy_dtoh_sync(&mut host, b).unwrap();
                    if stream.is_null() {
                        assert_eq!(host, [5; 64]);
                    }
                    ok(sys::cuCtxSetCurrent(one));
                    ok(sys::cuCtxSynchronize());
                    ok(sys::cuMemFree_v2(a));
                    ok(sys::cuCtxSetCurrent(two));
                    ok(sys::cuMemFree_v2(b));
                }
            });
            assert_eq!(ran.findings().iter().any(|f| f.starts_with("race")), racy, "{:?}", ran.findings());
        }
    }
}

#[test]
fn modules_and_graphs_are_looked_into() {
    type Count = extern "C" fn(*mut u32, sys::CUmodule) -> u32;
    type List = extern "C" fn(*mut sys::CUfunction, u32, sys::CUmodule) -> u32;
    type Name = extern "C" fn(*mut *const c_char, sys::CUfunction) -> u32;
    type Parameter = extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> u32;
    type Edges = extern "C" fn(sys::CUgraph, *mut usize, *mut usize, *mut [u8; 8], *mut usize) -> u32;
    type Depend = extern "C" fn(sys::CUgraph, *const usize, *const usize, *const [u8; 8], usize) -> u32;
    run("modules_and_graphs_are_looked_into", &[], || {
        let (_context, function, module) = context();
        // SAFETY: symbols of the stand-in with these signatures, and places that outlive the calls.
        unsafe {
            let library = sys::culib();
            let count = library.get::<Count>(b"cuModuleGetFunctionCount").unwrap();
            let list = library.get::<List>(b"cuModuleEnumerateFunctions").unwrap();
            let name = library.get::<Name>(b"cuFuncGetName").unwrap();
            let parameter = library.get::<Parameter>(b"cuFuncGetParamInfo").unwrap();
            let mut n = 0;
            assert_eq!((count(&mut n, module), n), (0, 4));
            let mut functions = [std::ptr::null_mut(); 4];
            assert_eq!(list(functions.as_mut_ptr(), 4, module), 0);
            assert!(functions.contains(&function));
            let mut text = std::ptr::null();
            assert_eq!(name(&mut text, function), 0);
            assert_eq!(std::ffi::CStr::from_ptr(text), c"add_one");
            let (mut offset, mut size) = (0, 0);
            assert_eq!((parameter(function, 2, &mut offset, &mut size), offset, size), (0, 16, 4));
            assert_eq!(parameter(function, 3, &mut offset, &mut size), 1);

            let depend = library.get::<Depend>(b"cuGraphAddDependencies_v2").unwrap();
            let edges = library.get::<Edges>(b"cuGraphGetEdges_v2").unwrap();
            let mut graph = std::ptr::null_mut();
            ok(sys::cuGraphCreate(&mut graph, 0));
            let mut nodes = [std::ptr::null_mut(); 2];
            for node in &mut nodes {
                ok(sys::cuGraphAddEmptyNode(node, graph, std::ptr::null(), 0));
            }
            let [a, b] = nodes.map(|n| n as usize);
            assert_eq!(depend(graph, &a, &b, &[1; 8], 1), 801, "no programmatic edges");
            assert_eq!(depend(graph, &a, &b, std::ptr::null(), 1), 0);
            assert_eq!(depend(graph, &a, &b, std::ptr::null(), 1), 1, "it is there already");
            let (mut from, mut to, mut data, mut n) = (0, 0, [9; 8], 1);
            assert_eq!(edges(graph, &mut from, &mut to, &mut data, &mut n), 0);
            assert_eq!((from, to, data, n), (a, b, [0; 8], 1));
            ok(sys::cuGraphDestroy(graph));
            // By name, an older program gets the older signature.
            let find = |version| {
                let mut at = std::ptr::null_mut();
                let name = c"cuGraphAddDependencies".as_ptr();
                ok(sys::cuGetProcAddress_v2(name, &mut at, version, 0, std::ptr::null_mut()));
                at
            };
            assert_eq!(find(13000) as usize, *depend as usize);
            assert_ne!(find(12020), find(13000));
        }
    })
    .clean();
}

#[test]
fn pools_count_what_is_taken_in_their_name() {
    run("pools_count_what_is_taken_in_their_name", &[], || {
        let (context, _, _) = context();
        let stream = context.new_stream().unwrap();
        let queue = stream.cu_stream();
        // SAFETY: every pointer leads to a live local of the type that its attribute has, or to memory of the pool.
        unsafe {
            let mut default = std::ptr::null_mut();
            ok(sys::cuDeviceGetDefaultMemPool(&mut default, 0));
            let mut properties: sys::CUmemPoolProps = std::mem::zeroed();
            properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
            properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
            let mut pool = std::ptr::null_mut();
            ok(sys::cuMemPoolCreate(&mut pool, &properties));
            assert_ne!(pool, default);
            use sys::CUmemPool_attribute_enum as A;
            let is = |attribute| {
                let mut value = 0u64;
                ok(sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()));
                value
            };
            let mut keep = u64::MAX;
            ok(sys::cuMemPoolSetAttribute(
                pool,
                A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut keep).cast(),
            ));
            assert_eq!(is(A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), u64::MAX);
            let (mut a, mut b) = (0, 0);
            ok(sys::cuMemAllocFromPoolAsync(&mut a, 1000, pool, queue));
            ok(sys::cuMemAllocFromPoolAsync(&mut b, 500, pool, queue));
            assert_eq!(is(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 1500);
            ok(sys::cuMemFreeAsync(a, queue));
            ok(sys::cuStreamSynchronize(queue));
            assert_eq!(is(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 500);
            assert_eq!(is(A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 1500);
            ok(sys::cuMemPoolTrimTo(pool, 0));
            let mut of = std::ptr::null_mut::<c_void>();
            let attribute = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE;
            ok(sys::cuPointerGetAttribute((&raw mut of).cast(), attribute, b));
            assert_eq!(of, pool.cast());
            // What cudarc allocates comes from the device's current pool.
            ok(sys::cuDeviceSetMemPool(0, pool));
            let c = stream.alloc_zeros::<u8>(100).unwrap();
            assert_eq!(is(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 600);
            drop(c);
            ok(sys::cuDeviceSetMemPool(0, default));
            ok(sys::cuMemFreeAsync(b, queue));
            ok(sys::cuStreamSynchronize(queue));
            ok(sys::cuMemPoolDestroy(pool));
            assert_eq!(
                sys::cuMemAllocFromPoolAsync(&mut a, 8, pool, queue),
                CUresult::CUDA_ERROR_INVALID_VALUE,
                "the pool is gone"
            );
        }
    })
    .clean();
}

#[test]
fn an_instantiated_graph_takes_over_another_of_the_same_shape_and_switches_nodes_off() {
    let name = "an_instantiated_graph_takes_over_another_of_the_same_shape_and_switches_nodes_off";
    run(name, &[], || {
        let (_context, _, _) = context();
        // SAFETY: as in the first test.
        unsafe {
            let a = result::malloc_sync(64).unwrap();
            let graph = |value: u32, nodes: usize| {
                let mut graph = std::ptr::null_mut();
                ok(sys::cuGraphCreate(&mut graph, 0));
                let mut last: sys::CUgraphNode = std::ptr::null_mut();
                for k in 0..nodes {
                    let fill = sys::CUDA_MEMSET_NODE_PARAMS {
                        dst: a + 4 * k as u64,
                        pitch: 0,
                        value: value + k as u32,
                        elementSize: 4,
                        width: 1,
                        height: 1,
                    };
                    let (before, n) = (last, usize::from(k > 0));
                    ok(sys::cuGraphAddMemsetNode(&mut last, graph, &before, n, &fill, std::ptr::null_mut()));
                }
                (graph, last)
            };
            let words = |exec| {
                ok(sys::cuMemsetD32_v2(a, 0, 16));
                ok(sys::cuGraphLaunch(exec, std::ptr::null_mut()));
                let mut host = [0u32; 3];
                result::memcpy_dtoh_sync(&mut host, a).unwrap();
                host
            };
            let ((first, last), (second, _), (longer, _)) = (graph(1, 2), graph(10, 2), graph(100, 3));
            let mut exec = std::ptr::null_mut();
            ok(sys::cuGraphInstantiateWithFlags(&mut exec, first, 0));
            assert_eq!(words(exec), [1, 2, 0]);
            ok(sys::cuGraphNodeSetEnabled(exec, last, 0));
            assert_eq!(words(exec), [1, 0, 0]);
            ok(sys::cuGraphNodeSetEnabled(exec, last, 1));
            let mut info: sys::CUgraphExecUpdateResultInfo = std::mem::zeroed();
            ok(sys::cuGraphExecUpdate_v2(exec, second, &mut info));
            assert_eq!(words(exec), [10, 11, 0]);
            assert_eq!(
                sys::cuGraphExecUpdate_v2(exec, longer, &mut info),
                CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
            );
            assert_eq!(words(exec), [10, 11, 0], "a refused update changes nothing");
            let mut clone = std::ptr::null_mut();
            ok(sys::cuGraphClone(&mut clone, longer));
            let mut of_clone = std::ptr::null_mut();
            ok(sys::cuGraphInstantiateWithFlags(&mut of_clone, clone, 0));
            for graph in [first, second, longer, clone] {
                ok(sys::cuGraphDestroy(graph));
            }
            assert_eq!(words(of_clone), [100, 101, 102]);
            ok(sys::cuGraphExecDestroy(exec));
            ok(sys::cuGraphExecDestroy(of_clone));
            assert_eq!(
                sys::cuGraphLaunch(exec, std::ptr::null_mut()),
                CUresult::CUDA_ERROR_INVALID_HANDLE,
                "it is gone"
            );
            result::free_sync(a).unwrap();
        }
    })
    .clean();
}
