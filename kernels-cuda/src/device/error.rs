//! Why a kernel cannot be launched, in the words of whoever has to do something about it.

use cudarc::driver::DriverError;

use crate::LaunchError;

/// What can go wrong between a launch rule and a GPU.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// libcuda cannot be loaded.
    #[error(
        "no CUDA driver: libcuda.so.1 is not on the library path (install NVIDIA's driver, or run on the CPU)"
    )]
    NoDriver,
    /// A GPU from before Ampere.
    #[error("{name} has compute capability {major}.{minor}; the kernels need 8.0 or later")]
    TooOld {
        /// The device.
        name: String,
        /// Its compute capability.
        major: u32,
        /// Its minor part.
        minor: u32,
    },
    /// A name that is in no family.
    #[error("there is no kernel '{0}'")]
    UnknownKernel(String),
    /// Arguments of other kernels.
    #[error("{kernel} was given the arguments of the kernels {kernels}*")]
    WrongArguments {
        /// The kernel.
        kernel: &'static str,
        /// How the names of those begin that take them.
        kernels: &'static str,
    },
    /// A shape that the launch rule refuses.
    #[error(transparent)]
    Shape(#[from] LaunchError),
    /// A call of the driver that failed.
    #[error("{about}: {source}")]
    Driver {
        /// The kernel, the family, or what the call was for.
        about: String,
        /// What the driver says.
        source: DriverError,
    },
}

impl DeviceError {
    /// Names what a failed call was for.
    pub fn call(about: impl Into<String>) -> impl FnOnce(DriverError) -> Self {
        let about = about.into();
        move |source| Self::Driver { about, source }
    }
}
