//! Typed errors, and the CUDA result code that a driver would return for each.

use serde::Serialize;
use thiserror::Error;

/// The subset of `CUresult` that running a kernel can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum CudaError {
    InvalidValue = 1,
    OutOfMemory = 2,
    InvalidImage = 200,
    InvalidPtx = 218,
    UnsupportedPtxVersion = 222,
    NotFound = 500,
    IllegalAddress = 700,
    LaunchOutOfResources = 701,
    LaunchTimeout = 702,
    IllegalInstruction = 715,
    MisalignedAddress = 716,
    InvalidPc = 718,
    LaunchFailed = 719,
    CooperativeLaunchTooLarge = 720,
    NoBinaryForGpu = 209,
    HardwareStackError = 714,
}

impl CudaError {
    /// The value of the `CUresult`.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The name that `cuGetErrorName` gives.
    pub fn name(self) -> &'static str {
        match self {
            CudaError::InvalidValue => "CUDA_ERROR_INVALID_VALUE",
            CudaError::OutOfMemory => "CUDA_ERROR_OUT_OF_MEMORY",
            CudaError::InvalidImage => "CUDA_ERROR_INVALID_IMAGE",
            CudaError::InvalidPtx => "CUDA_ERROR_INVALID_PTX",
            CudaError::UnsupportedPtxVersion => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            CudaError::NotFound => "CUDA_ERROR_NOT_FOUND",
            CudaError::IllegalAddress => "CUDA_ERROR_ILLEGAL_ADDRESS",
            CudaError::LaunchOutOfResources => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            CudaError::LaunchTimeout => "CUDA_ERROR_LAUNCH_TIMEOUT",
            CudaError::IllegalInstruction => "CUDA_ERROR_ILLEGAL_INSTRUCTION",
            CudaError::MisalignedAddress => "CUDA_ERROR_MISALIGNED_ADDRESS",
            CudaError::InvalidPc => "CUDA_ERROR_INVALID_PC",
            CudaError::LaunchFailed => "CUDA_ERROR_LAUNCH_FAILED",
            CudaError::CooperativeLaunchTooLarge => "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
            CudaError::NoBinaryForGpu => "CUDA_ERROR_NO_BINARY_FOR_GPU",
            CudaError::HardwareStackError => "CUDA_ERROR_HARDWARE_STACK_ERROR",
        }
    }
}

/// Why a PTX text was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {message}")]
pub struct ModuleError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What was found and what would be right.
    pub message: String,
    /// The code that `cuModuleLoadData` would return.
    pub code: CudaError,
}

impl ModuleError {
    /// An error of the text itself (`CUDA_ERROR_INVALID_PTX`).
    pub fn new(line: u32, message: impl Into<String>) -> Self {
        ModuleError { line, message: message.into(), code: CudaError::InvalidPtx }
    }
}

/// Why a host access to device memory was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MemoryError {
    /// The modelled GPU, or this machine, has no room.
    #[error("out of device memory: {asked} bytes asked, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes left.
        free: u64,
        /// Bytes of the modelled GPU.
        total: u64,
    },
    /// Not the start of a live allocation.
    #[error("{address:#x} is not the start of a live allocation: {what}")]
    NotAllocated {
        /// The address given.
        address: u64,
        /// What lies there instead.
        what: String,
    },
    /// The range is not inside one live allocation.
    #[error("{len} bytes at {address:#x} are not inside a live allocation: {what}")]
    OutOfBounds {
        /// First address.
        address: u64,
        /// Length in bytes.
        len: u64,
        /// What lies there instead.
        what: String,
    },
}

impl MemoryError {
    /// The code that the driver would return.
    pub fn code(&self) -> CudaError {
        match self {
            MemoryError::OutOfMemory { .. } => CudaError::OutOfMemory,
            _ => CudaError::InvalidValue,
        }
    }
}

/// Why a launch was refused before its first instruction.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {message}", code.name())]
pub struct LaunchError {
    /// The code that `cuLaunchKernel` would return.
    pub code: CudaError,
    /// What exceeds what.
    pub message: String,
}

impl LaunchError {
    /// A refusal with its code.
    pub fn new(code: CudaError, message: impl Into<String>) -> Self {
        LaunchError { code, message: message.into() }
    }
}
