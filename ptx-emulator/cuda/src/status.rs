//! `CUresult`: every code with its name and the driver's sentence, in one table, so that `cuGetErrorName` cannot
//! disagree with what the entry points return.

use ptx_emulator::CudaError;

/// A `CUresult` that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl From<CudaError> for Status {
    fn from(error: CudaError) -> Status {
        Status(error.code())
    }
}

#[allow(missing_docs)]
impl Status {
    pub const INVALID_VALUE: Status = Status(1);
    pub const OUT_OF_MEMORY: Status = Status(2);
    pub const NOT_INITIALIZED: Status = Status(3);
    pub const INVALID_DEVICE: Status = Status(101);
    pub const INVALID_IMAGE: Status = Status(200);
    pub const INVALID_CONTEXT: Status = Status(201);
    pub const NO_BINARY_FOR_GPU: Status = Status(209);
    pub const UNSUPPORTED_LIMIT: Status = Status(215);
    pub const PEER_ACCESS_ALREADY_ENABLED: Status = Status(704);
    pub const PEER_ACCESS_NOT_ENABLED: Status = Status(705);
    pub const FILE_NOT_FOUND: Status = Status(301);
    pub const INVALID_HANDLE: Status = Status(400);
    pub const NOT_FOUND: Status = Status(500);
    pub const NOT_READY: Status = Status(600);
    pub const ILLEGAL_ADDRESS: Status = Status(700);
    pub const LAUNCH_FAILED: Status = Status(719);
    pub const HOST_MEMORY_ALREADY_REGISTERED: Status = Status(712);
    pub const HOST_MEMORY_NOT_REGISTERED: Status = Status(713);
    pub const NOT_PERMITTED: Status = Status(800);
    pub const NOT_SUPPORTED: Status = Status(801);
    pub const STREAM_CAPTURE_UNSUPPORTED: Status = Status(900);
    pub const STREAM_CAPTURE_INVALIDATED: Status = Status(901);
    pub const STREAM_CAPTURE_MERGE: Status = Status(902);
    pub const STREAM_CAPTURE_UNMATCHED: Status = Status(903);
    pub const STREAM_CAPTURE_UNJOINED: Status = Status(904);
    pub const STREAM_CAPTURE_ISOLATION: Status = Status(905);
    pub const STREAM_CAPTURE_IMPLICIT: Status = Status(906);
    pub const CAPTURED_EVENT: Status = Status(907);
    pub const GRAPH_EXEC_UPDATE_FAILURE: Status = Status(910);
    pub const UNKNOWN: Status = Status(999);

    /// Name and sentence, each ending in a zero byte for C.
    pub fn describe(code: u32) -> Option<(&'static str, &'static str)> {
        let at = TABLE.binary_search_by_key(&code, |row| row.0).ok()?;
        Some((TABLE[at].1, TABLE[at].2))
    }

    /// The name without the zero byte.
    pub fn name(self) -> &'static str {
        Status::describe(self.0).map_or("unknown CUresult", |(name, _)| name.trim_end_matches('\0'))
    }
}

/// Code, name and sentence, by code.
#[rustfmt::skip]
static TABLE: &[(u32, &str, &str)] = &[
    (0, "CUDA_SUCCESS\0", "no error\0"),
    (1, "CUDA_ERROR_INVALID_VALUE\0", "invalid argument\0"),
    (2, "CUDA_ERROR_OUT_OF_MEMORY\0", "out of memory\0"),
    (3, "CUDA_ERROR_NOT_INITIALIZED\0", "initialization error\0"),
    (4, "CUDA_ERROR_DEINITIALIZED\0", "driver shutting down\0"),
    (5, "CUDA_ERROR_PROFILER_DISABLED\0", "profiler disabled\0"),
    (6, "CUDA_ERROR_PROFILER_NOT_INITIALIZED\0", "profiler not initialized\0"),
    (7, "CUDA_ERROR_PROFILER_ALREADY_STARTED\0", "profiler already started\0"),
    (8, "CUDA_ERROR_PROFILER_ALREADY_STOPPED\0", "profiler already stopped\0"),
    (34, "CUDA_ERROR_STUB_LIBRARY\0", "stub library\0"),
    (100, "CUDA_ERROR_NO_DEVICE\0", "no CUDA-capable device is detected\0"),
    (101, "CUDA_ERROR_INVALID_DEVICE\0", "invalid device ordinal\0"),
    (102, "CUDA_ERROR_DEVICE_NOT_LICENSED\0", "device not licensed\0"),
    (200, "CUDA_ERROR_INVALID_IMAGE\0", "device kernel image is invalid\0"),
    (201, "CUDA_ERROR_INVALID_CONTEXT\0", "invalid device context\0"),
    (202, "CUDA_ERROR_CONTEXT_ALREADY_CURRENT\0", "context already current\0"),
    (205, "CUDA_ERROR_MAP_FAILED\0", "map failed\0"),
    (206, "CUDA_ERROR_UNMAP_FAILED\0", "unmap failed\0"),
    (207, "CUDA_ERROR_ARRAY_IS_MAPPED\0", "array is mapped\0"),
    (208, "CUDA_ERROR_ALREADY_MAPPED\0", "already mapped\0"),
    (209, "CUDA_ERROR_NO_BINARY_FOR_GPU\0", "no kernel image is available for execution on the device\0"),
    (210, "CUDA_ERROR_ALREADY_ACQUIRED\0", "already acquired\0"),
    (211, "CUDA_ERROR_NOT_MAPPED\0", "not mapped\0"),
    (212, "CUDA_ERROR_NOT_MAPPED_AS_ARRAY\0", "not mapped as array\0"),
    (213, "CUDA_ERROR_NOT_MAPPED_AS_POINTER\0", "not mapped as pointer\0"),
    (214, "CUDA_ERROR_ECC_UNCORRECTABLE\0", "ecc uncorrectable\0"),
    (215, "CUDA_ERROR_UNSUPPORTED_LIMIT\0", "unsupported limit\0"),
    (216, "CUDA_ERROR_CONTEXT_ALREADY_IN_USE\0", "context already in use\0"),
    (217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED\0", "peer access unsupported\0"),
    (218, "CUDA_ERROR_INVALID_PTX\0", "a PTX JIT compilation failed\0"),
    (219, "CUDA_ERROR_INVALID_GRAPHICS_CONTEXT\0", "invalid graphics context\0"),
    (220, "CUDA_ERROR_NVLINK_UNCORRECTABLE\0", "nvlink uncorrectable\0"),
    (221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND\0", "jit compiler not found\0"),
    (222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION\0", "the provided PTX was compiled with an unsupported toolchain\0"),
    (223, "CUDA_ERROR_JIT_COMPILATION_DISABLED\0", "jit compilation disabled\0"),
    (224, "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY\0", "unsupported exec affinity\0"),
    (300, "CUDA_ERROR_INVALID_SOURCE\0", "invalid source\0"),
    (301, "CUDA_ERROR_FILE_NOT_FOUND\0", "file not found\0"),
    (302, "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND\0", "shared object symbol not found\0"),
    (303, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED\0", "shared object init failed\0"),
    (304, "CUDA_ERROR_OPERATING_SYSTEM\0", "operating system\0"),
    (400, "CUDA_ERROR_INVALID_HANDLE\0", "invalid resource handle\0"),
    (401, "CUDA_ERROR_ILLEGAL_STATE\0", "illegal state\0"),
    (500, "CUDA_ERROR_NOT_FOUND\0", "named symbol not found\0"),
    (600, "CUDA_ERROR_NOT_READY\0", "device not ready\0"),
    (700, "CUDA_ERROR_ILLEGAL_ADDRESS\0", "an illegal memory access was encountered\0"),
    (701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES\0", "too many resources requested for launch\0"),
    (702, "CUDA_ERROR_LAUNCH_TIMEOUT\0", "the launch timed out and was terminated\0"),
    (703, "CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING\0", "launch incompatible texturing\0"),
    (704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED\0", "peer access already enabled\0"),
    (705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED\0", "peer access not enabled\0"),
    (708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE\0", "primary context active\0"),
    (709, "CUDA_ERROR_CONTEXT_IS_DESTROYED\0", "context is destroyed\0"),
    (710, "CUDA_ERROR_ASSERT\0", "assert\0"),
    (711, "CUDA_ERROR_TOO_MANY_PEERS\0", "too many peers\0"),
    (712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED\0", "host memory already registered\0"),
    (713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED\0", "host memory not registered\0"),
    (714, "CUDA_ERROR_HARDWARE_STACK_ERROR\0", "hardware stack error\0"),
    (715, "CUDA_ERROR_ILLEGAL_INSTRUCTION\0", "an illegal instruction was encountered\0"),
    (716, "CUDA_ERROR_MISALIGNED_ADDRESS\0", "misaligned address\0"),
    (717, "CUDA_ERROR_INVALID_ADDRESS_SPACE\0", "invalid address space\0"),
    (718, "CUDA_ERROR_INVALID_PC\0", "invalid pc\0"),
    (719, "CUDA_ERROR_LAUNCH_FAILED\0", "unspecified launch failure\0"),
    (720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE\0", "too many blocks in cooperative launch\0"),
    (800, "CUDA_ERROR_NOT_PERMITTED\0", "not permitted\0"),
    (801, "CUDA_ERROR_NOT_SUPPORTED\0", "operation not supported\0"),
    (802, "CUDA_ERROR_SYSTEM_NOT_READY\0", "system not ready\0"),
    (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\0", "system driver mismatch\0"),
    (804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE\0", "compat not supported on device\0"),
    (805, "CUDA_ERROR_MPS_CONNECTION_FAILED\0", "mps connection failed\0"),
    (806, "CUDA_ERROR_MPS_RPC_FAILURE\0", "mps rpc failure\0"),
    (807, "CUDA_ERROR_MPS_SERVER_NOT_READY\0", "mps server not ready\0"),
    (808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED\0", "mps max clients reached\0"),
    (809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED\0", "mps max connections reached\0"),
    (900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\0", "operation not permitted when stream is capturing\0"),
    (901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED\0", "operation failed due to a previous error during capture\0"),
    (902, "CUDA_ERROR_STREAM_CAPTURE_MERGE\0", "operation would result in a merge of separate capture sequences\0"),
    (903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED\0", "attempt to terminate a thread-local capture sequence from another stream\0"),
    (904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED\0", "capturing stream has unjoined work\0"),
    (905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION\0", "dependency created on uncaptured work in another stream\0"),
    (906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT\0", "operation would make the legacy stream depend on a capturing blocking stream\0"),
    (907, "CUDA_ERROR_CAPTURED_EVENT\0", "operation not permitted on an event last recorded in a capturing stream\0"),
    (908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD\0", "stream capture wrong thread\0"),
    (909, "CUDA_ERROR_TIMEOUT\0", "timeout\0"),
    (910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE\0", "graph exec update failure\0"),
    (911, "CUDA_ERROR_EXTERNAL_DEVICE\0", "external device\0"),
    (999, "CUDA_ERROR_UNKNOWN\0", "unknown error\0"),
];
