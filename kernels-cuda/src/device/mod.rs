//! The kernels on a GPU, launched through the CUDA driver by cudarc: what stands between a launch rule and a stream.
//!
//! A [`Kernels`] is one device: its limits as the driver gives them, so that the launch rules decide for the GPU that is
//! there, and the shipped PTX, which the driver compiles when a kernel is first asked for. Memory, streams and their order
//! are the caller's: a launch takes addresses, since an engine plans its own memory, and is `unsafe` for that reason.

mod error;
mod limits;

pub use error::DeviceError;
pub use limits::limits_of;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, sys};
use cudarc::nvrtc::Ptx;

use crate::{FAMILIES, GpuLimits, KernelArguments, Launch, attention, codebook, gemm, layer_norm};

/// Dynamic shared memory that a kernel may have without asking.
const PLAIN_SHARED: u32 = 48 * crate::KIB;

/// Whether there is a CUDA driver to load. Everything else of cudarc panics without one.
pub fn driver_present() -> bool {
    // SAFETY: loads libcuda, whose initialisers are the driver's own, and looks at nothing in it.
    unsafe { sys::is_culib_present() }
}

/// The kernels on one device.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    limits: GpuLimits,
    name: String,
    modules: RwLock<HashMap<&'static str, Arc<CudaModule>>>,
    functions: RwLock<HashMap<&'static str, CudaFunction>>,
}

impl Kernels {
    /// Opens a device by its number. No kernel is compiled yet.
    ///
    /// # Errors
    /// No driver, no such device, or one older than compute capability 8.0.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        if !driver_present() {
            return Err(DeviceError::NoDriver);
        }
        let context = CudaContext::new(ordinal).map_err(DeviceError::call("the device"))?;
        Self::on(context)
    }

    /// The kernels in a context that the caller has.
    ///
    /// # Errors
    /// A device older than compute capability 8.0.
    pub fn on(context: Arc<CudaContext>) -> Result<Self, DeviceError> {
        let limits = limits_of(&context)?;
        let name = context.name().map_err(DeviceError::call("the device's name"))?;
        Ok(Self { context, limits, name, modules: RwLock::default(), functions: RwLock::default() })
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What the launch rules count on.
    pub fn limits(&self) -> &GpuLimits {
        &self.limits
    }

    /// The device's name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A kernel by its name, compiled by the driver at the first call and allowed the shared memory of its launches.
    ///
    /// # Errors
    /// A name that no family has, or a driver that refuses the PTX.
    pub fn function(&self, entry: &str) -> Result<CudaFunction, DeviceError> {
        // A thread that failed with the lock held left a map that is whole.
        if let Some(function) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(entry) {
            return Ok(function.clone());
        }
        let family = FAMILIES.iter().find(|f| f.entry(entry).is_some());
        let Some((family, entry)) = family.and_then(|f| Some((f, f.entry(entry)?))) else {
            return Err(DeviceError::UnknownKernel(entry.to_owned()));
        };
        let module = self.module(family.name)?;
        let function = module.load_function(entry.name).map_err(DeviceError::call(entry.name))?;
        if entry.dynamic_shared > PLAIN_SHARED {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(attribute, entry.dynamic_shared as i32)
                .map_err(DeviceError::call(entry.name))?;
        }
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        Ok(functions.entry(entry.name).or_insert(function).clone())
    }

    fn module(&self, family: &'static str) -> Result<Arc<CudaModule>, DeviceError> {
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(family) {
            return Ok(module.clone());
        }
        let (major, minor) = limits::capability(&self.context)?;
        let shipped = selftok_kernels_ptx::module_for(family, major, minor)
            .ok_or_else(|| DeviceError::TooOld { name: self.name.clone(), major, minor })?;
        let module =
            self.context.load_module(Ptx::from_src(shipped.ptx)).map_err(DeviceError::call(family))?;
        modules.insert(family, module.clone());
        Ok(module)
    }

    /// Launches a kernel with its arguments on a stream.
    ///
    /// # Errors
    /// A kernel that does not take these arguments, or a launch that the driver refuses. What goes wrong while the kernel
    /// runs comes with a later call that waits for it.
    ///
    /// # Safety
    /// Every address in the arguments must lead to device memory of this context that is as large, as aligned and as
    /// typed as the arguments say, and that nothing else touches from where the stream stands until the kernel is done.
    pub unsafe fn launch<A: KernelArguments>(
        &self,
        stream: &CudaStream,
        launch: &Launch,
        arguments: &A,
    ) -> Result<(), DeviceError> {
        if !launch.entry.starts_with(A::KERNELS) {
            return Err(DeviceError::WrongArguments { kernel: launch.entry, kernels: A::KERNELS });
        }
        let function = self.function(launch.entry)?;
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let config = LaunchConfig {
            grid_dim: (gx, gy, gz),
            block_dim: (bx, by, bz),
            shared_mem_bytes: launch.shared_bytes,
        };
        let mut builder = stream.launch_builder(&function);
        arguments.push(&mut builder);
        // SAFETY: the struct lists what the kernel takes (a test holds each against the PTX); the rest is the caller's.
        unsafe { builder.launch(config) }.map_err(DeviceError::call(launch.entry))?;
        Ok(())
    }

    /// `C = residual + gate * act(A Wᵀ + bias)` on a stream; gives the launch that the rule chose.
    ///
    /// # Errors
    /// As [`gemm::launch`] and [`Kernels::launch`].
    ///
    /// # Safety
    /// As [`Kernels::launch`], for a product of this shape.
    pub unsafe fn gemm(
        &self,
        stream: &CudaStream,
        shape: &gemm::Shape,
        arguments: &gemm::Arguments,
    ) -> Result<Launch, DeviceError> {
        let launch = gemm::launch(shape, &self.limits)?;
        // SAFETY: the caller's promise.
        unsafe { self.launch(stream, &launch, arguments) }?;
        Ok(launch)
    }

    /// Attention on a stream; gives the launch that the rule chose.
    ///
    /// # Errors
    /// As [`attention::launch`] and [`Kernels::launch`].
    ///
    /// # Safety
    /// As [`Kernels::launch`], for attention of this shape.
    pub unsafe fn attention(
        &self,
        stream: &CudaStream,
        shape: &attention::Shape,
        arguments: &attention::Arguments,
    ) -> Result<Launch, DeviceError> {
        let launch = attention::launch(shape, &self.limits)?;
        // SAFETY: the caller's promise.
        unsafe { self.launch(stream, &launch, arguments) }?;
        Ok(launch)
    }

    /// The nearest codes on a stream: both kernels, with the slices of `launches`, which [`codebook::launch`] gave for
    /// this device's limits. `candidates` of both arguments is a working space of `launches.workspace_bytes`.
    ///
    /// # Errors
    /// As [`Kernels::launch`].
    ///
    /// # Safety
    /// As [`Kernels::launch`].
    pub unsafe fn codebook(
        &self,
        stream: &CudaStream,
        launches: &codebook::Launches,
        partial: &codebook::PartialArguments,
        merge: &codebook::MergeArguments,
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(stream, &launches.partial, partial) }?;
        // SAFETY: likewise; one stream runs the second kernel after the first.
        unsafe { self.launch(stream, &launches.merge, merge) }
    }

    /// Layer or RMS norm on a stream; gives the launch that the rule chose.
    ///
    /// # Errors
    /// As [`layer_norm::launch`] and [`Kernels::launch`].
    ///
    /// # Safety
    /// As [`Kernels::launch`], for rows of this shape.
    pub unsafe fn layer_norm(
        &self,
        stream: &CudaStream,
        shape: &layer_norm::Shape,
        arguments: &layer_norm::Arguments,
    ) -> Result<Launch, DeviceError> {
        let launch = layer_norm::launch(shape)?;
        // SAFETY: the caller's promise.
        unsafe { self.launch(stream, &launch, arguments) }?;
        Ok(launch)
    }
}
