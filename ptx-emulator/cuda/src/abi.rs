//! What crosses the C boundary: structures in the layout of `cuda.h`, and pointer wrappers whose one `unsafe` block
//! each states what the caller of a C function promises. Entry points take these instead of raw pointers, so that
//! their bodies are safe Rust and a null is `CUDA_ERROR_INVALID_VALUE` everywhere.

use crate::status::Status;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// An opaque handle. Handles are numbers of this library, never addresses, so a foreign one is told and not followed.
pub type Handle = usize;
/// A device address.
pub type DevicePtr = u64;

/// Where a result goes.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> std::marker::Copy for Out<T> {}

impl<T> Out<T> {
    /// A place that another argument points to.
    pub fn from_pointer(pointer: *mut T) -> Out<T> {
        Out(pointer)
    }

    /// Whether the caller passed null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes the result; null and misaligned pointers are refused.
    pub fn set(self, value: T) -> Result<(), Status> {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null and aligned; the C contract of the entry point says that it points to a writable T.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the result where one is wanted.
    pub fn set_if(self, value: T) -> Result<(), Status> {
        if self.0.is_null() { Ok(()) } else { self.set(value) }
    }

    /// Writes several results, one after another.
    pub fn set_all(self, values: impl IntoIterator<Item = T>) -> Result<(), Status> {
        for (k, value) in values.into_iter().enumerate() {
            Out(self.0.wrapping_add(k)).set(value)?;
        }
        Ok(())
    }

    /// Reads the place, for arguments that go both ways.
    pub fn get(self) -> Result<T, Status>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// The same place as another type, for `void *` results whose type an attribute names.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

impl<T> From<&mut T> for Out<T> {
    fn from(place: &mut T) -> Out<T> {
        Out(place)
    }
}

/// Where an argument lies.
#[repr(transparent)]
pub struct In<T>(pub *const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> std::marker::Copy for In<T> {}

impl<T: Copy> In<T> {
    /// Whether the caller passed null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Reads the argument; null is refused.
    pub fn get(self) -> Result<T, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null; the C contract of the entry point says that it points to a readable T.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Reads the `k`-th element of an array that the C contract says has that many.
    pub fn at(self, k: usize) -> Result<T, Status> {
        if self.0.is_null() { Err(Status::INVALID_VALUE) } else { In(self.0.wrapping_add(k)).get() }
    }

    /// Reads the first `n` elements.
    pub fn list(self, n: usize) -> Result<Vec<T>, Status> {
        (0..n).map(|k| self.at(k)).collect()
    }
}

/// A C string argument.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// The text; null and invalid UTF-8 are refused.
    pub fn get(self) -> Result<String, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null; the C contract says that it points to a string that ends in a zero byte.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Status::INVALID_VALUE)
    }
}

/// A module's image: PTX text, or a binary that starts with a magic number.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Image(pub *const c_char);

impl Image {
    /// The first bytes, up to four, and none after a zero.
    pub fn head(self) -> Result<Vec<u8>, Status> {
        let mut head = Vec::new();
        for k in 0..4 {
            match In(self.0.wrapping_add(k)).get()? {
                0 => break,
                byte => head.push(byte as u8),
            }
        }
        Ok(head)
    }

    /// The image as text.
    pub fn text(self) -> Result<String, Status> {
        Text(self.0).get()
    }
}

/// A range of host memory, kept as a number so that queued work can be sent between threads.
#[derive(Clone, Copy, Debug)]
pub struct HostRange {
    /// First address.
    pub address: usize,
    /// Bytes.
    pub len: usize,
}

impl HostRange {
    /// The range; null with a length is refused.
    pub fn new(pointer: *const c_void, len: usize) -> Result<HostRange, Status> {
        if pointer.is_null() && len > 0 || (pointer as usize).checked_add(len).is_none() {
            return Err(Status::INVALID_VALUE);
        }
        Ok(HostRange { address: pointer as usize, len })
    }

    /// A copy of the bytes.
    pub fn read(self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        if self.len > 0 {
            // SAFETY: the copy's C contract says that `len` bytes are readable there until the copy is done.
            unsafe { std::ptr::copy_nonoverlapping(self.address as *const u8, bytes.as_mut_ptr(), self.len) };
        }
        bytes
    }

    /// A copy of the bytes, or `None` where the process cannot read them: for addresses that are more likely to be wrong than
    /// others, and short, since the system is asked.
    pub fn try_read(self) -> Option<Vec<u8>> {
        #[repr(C)]
        struct IoVec {
            base: *mut c_void,
            len: usize,
        }
        unsafe extern "C" {
            fn getpid() -> c_int;
            fn process_vm_readv(
                process: c_int,
                local: *const IoVec,
                local_count: std::ffi::c_ulong,
                remote: *const IoVec,
                remote_count: std::ffi::c_ulong,
                flags: std::ffi::c_ulong,
            ) -> isize;
        }
        const EFAULT: i32 = 14;
        let mut bytes = vec![0u8; self.len];
        let local = IoVec { base: bytes.as_mut_ptr().cast(), len: self.len };
        let remote = IoVec { base: self.address as *mut c_void, len: self.len };
        // SAFETY: the local range is a buffer of that length; the remote one is read by the system, which checks it.
        let got = unsafe { process_vm_readv(getpid(), &local, 1, &remote, 1, 0) };
        match usize::try_from(got) {
            Ok(n) if n == self.len => Some(bytes),
            Ok(_) => None,
            Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(EFAULT) => None,
            // A system that forbids the question: then as the driver does it.
            Err(_) => Some(self.read()),
        }
    }

    /// Writes the bytes, as many as fit.
    pub fn write(self, bytes: &[u8]) {
        let len = self.len.min(bytes.len());
        if len > 0 {
            // SAFETY: the copy's C contract says that `len` bytes are writable there until the copy is done.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address as *mut u8, len) };
        }
    }

    /// Whether two ranges share a byte.
    pub fn overlaps(self, other: HostRange) -> bool {
        self.address < other.address + other.len && other.address < self.address + self.len
    }
}

/// A function of the host that a stream calls: `CUhostFn`.
pub type HostFn = unsafe extern "C" fn(*mut c_void);
/// A stream callback: `CUstreamCallback`.
pub type StreamCallback = unsafe extern "C" fn(Handle, u32, *mut c_void);
/// Shared memory by block size: `CUoccupancyB2DSize`.
pub type BlockToShared = unsafe extern "C" fn(c_int) -> usize;

/// `CUDA_KERNEL_NODE_PARAMS_v2` (the first version is its prefix).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParams {
    pub function: Handle,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub params: In<*const c_void>,
    pub extra: In<*const c_void>,
    pub kernel: Handle,
    pub context: Handle,
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParamsV1 {
    pub function: Handle,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub params: In<*const c_void>,
    pub extra: In<*const c_void>,
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfigC {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub stream: Handle,
    pub attributes: In<LaunchAttribute>,
    pub attribute_count: c_uint,
}

/// `CUlaunchAttribute`; the value is a union of 64 bytes, read as words.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    pub id: c_uint,
    pub pad: [c_char; 4],
    pub value: [u32; 16],
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemsetNodeParams {
    pub destination: DevicePtr,
    pub pitch: usize,
    pub value: c_uint,
    pub element_size: c_uint,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostNodeParams {
    pub function: Option<HostFn>,
    pub data: *mut c_void,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy2D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_type: c_uint,
    pub src_host: *const c_void,
    pub src_device: DevicePtr,
    pub src_array: Handle,
    pub src_pitch: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_type: c_uint,
    pub dst_host: *mut c_void,
    pub dst_device: DevicePtr,
    pub dst_array: Handle,
    pub dst_pitch: usize,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy3D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_type: c_uint,
    pub src_host: *const c_void,
    pub src_device: DevicePtr,
    pub src_array: Handle,
    pub reserved0: *mut c_void,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_type: c_uint,
    pub dst_host: *mut c_void,
    pub dst_device: DevicePtr,
    pub dst_array: Handle,
    pub reserved1: *mut c_void,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemLocation {
    pub kind: c_uint,
    pub id: c_int,
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemPoolProps {
    pub alloc_type: c_uint,
    pub handle_types: c_uint,
    pub location: MemLocation,
    pub security: *mut c_void,
    pub max_size: usize,
    pub reserved: [u8; 56],
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GraphInstantiateParams {
    pub flags: u64,
    pub upload_stream: Handle,
    pub error_node: Handle,
    pub result: c_uint,
}

/// `CUdevprop`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceProperties {
    pub max_threads_per_block: c_int,
    pub max_threads_dim: [c_int; 3],
    pub max_grid_size: [c_int; 3],
    pub shared_per_block: c_int,
    pub constant_memory: c_int,
    pub warp_size: c_int,
    pub max_pitch: c_int,
    pub registers_per_block: c_int,
    pub clock_khz: c_int,
    pub texture_alignment: c_int,
}
