//! Launches: the arguments gathered, the shape judged at once, the kernel run later.

use crate::abi::{Handle, HostRange, In, LaunchConfigC};
use crate::driver::{Held, Outcome};
use crate::status::Status;
use crate::work::{KernelCall, Work};
use ptx_emulator::{FindingKind, LaunchConfig};
use std::ffi::{c_uint, c_void};

/// Arguments of a launch as the host gives them.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// A pointer to each argument.
    pub params: In<*const c_void>,
    /// Or one buffer with all of them.
    pub extra: In<*const c_void>,
}

/// Puts a launch together and refuses what the driver would refuse.
pub fn prepare(
    d: &mut Held,
    function: Handle,
    config: LaunchConfig,
    arguments: Arguments,
) -> Outcome<KernelCall> {
    let f = d
        .functions
        .get(&function)
        .ok_or_else(|| Status::INVALID_HANDLE.because("no such function, or its module was unloaded"))?;
    let (name, room) = (f.name.clone(), f.max_dynamic_shared);
    let loaded = d.modules.get(&f.module).ok_or(Status::INVALID_HANDLE)?.loaded.clone();
    let kernel = loaded.module().kernel(&name).ok_or(Status::INVALID_HANDLE)?;
    let size = kernel.params.iter().map(|p| p.offset + p.bytes).max().unwrap_or(0) as usize;
    let mut args = vec![0; size];
    if !arguments.params.is_null() {
        for (k, param) in kernel.params.iter().enumerate() {
            let array = HostRange { address: arguments.params.0 as usize + k * 8, len: 8 };
            let pointer = array.try_read().and_then(|b| b.try_into().ok()).map_or(0, usize::from_le_bytes);
            let pointer = std::ptr::without_provenance::<c_void>(pointer);
            let given = HostRange { address: pointer as usize, len: param.bytes as usize };
            // An array that is too short goes on with whatever lies behind it, often a null or an address of nothing.
            let bytes = given.try_read().filter(|_| !pointer.is_null()).ok_or_else(|| {
                let count = kernel.params.len();
                Status::INVALID_VALUE.because(format!(
                    "'{name}' takes {count} arguments, and the pointer to argument {k} leads nowhere ({pointer:?}): were fewer given?"
                ))
            })?;
            let at = param.offset as usize;
            args[at..at + param.bytes as usize].copy_from_slice(&bytes);
        }
    } else if !arguments.extra.is_null() {
        let given = extra_buffer(arguments.extra)?;
        if given.len() < size {
            return Err(Status::INVALID_VALUE
                .because(format!("{} bytes of arguments; '{name}' takes {size}", given.len())));
        }
        args.copy_from_slice(&given[..size]);
    } else if size > 0 {
        return Err(
            Status::INVALID_VALUE.because(format!("'{name}' takes {} arguments", kernel.params.len()))
        );
    }
    if config.shared_bytes > room {
        let message = format!(
            "{} bytes of dynamic shared memory; '{name}' may have {room} (raise \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES where the GPU allows more)",
            config.shared_bytes
        );
        return Err(refuse(d, &name, Status::INVALID_VALUE, message));
    }
    match d.device.prepare(&loaded, &name, &config, &args) {
        // It is prepared again when its turn comes: memory may be another by then.
        Ok(_) => Ok(KernelCall { function, name, loaded, config, args }),
        Err(e) => Err(refuse(d, &name, e.code.into(), e.message)),
    }
}

/// A launch beyond the limits of the GPU is a finding as well as an error.
fn refuse(d: &mut Held, kernel: &str, status: Status, message: String) -> crate::driver::Refusal {
    d.report.host_finding(FindingKind::Resource, kernel, None, message.clone());
    status.because(message)
}

/// `CU_LAUNCH_PARAM_BUFFER_POINTER` (1), its size (2), end (0).
fn extra_buffer(extra: In<*const c_void>) -> Outcome<Vec<u8>> {
    let (mut pointer, mut size) = (std::ptr::null(), 0);
    for k in (0..16).step_by(2) {
        match extra.at(k)? as usize {
            0 => return Ok(HostRange::new(pointer, size)?.read()),
            1 => pointer = extra.at(k + 1)?,
            2 => size = In(extra.at(k + 1)?.cast::<usize>()).get()?,
            other => return Err(Status::INVALID_VALUE.because(format!("{other} in `extra` of a launch"))),
        }
    }
    Err(Status::INVALID_VALUE.because("`extra` has no end"))
}

fn launch(
    d: &mut Held,
    function: Handle,
    config: LaunchConfig,
    stream: Handle,
    arguments: Arguments,
) -> Outcome {
    d.current()?;
    let stream = d.resolve_stream(stream)?;
    let mut call = prepare(d, function, config, arguments)?;
    if d.leaves_out("launch") {
        return Ok(());
    }
    d.mutate_launch(&mut call);
    let stream = d.swapped(stream);
    d.submit(stream, Work::Kernel(call, None), &[])?;
    Ok(())
}

entry! { fn cuLaunchKernel | cuLaunchKernel_ptsz(
    d, function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint,
    stream: Handle, params: In<*const c_void>, extra: In<*const c_void>
) {
    let config = LaunchConfig { grid: [gx, gy, gz], block: [bx, by, bz], ..LaunchConfig::new(1, 1).shared(shared) };
    launch(d, function, config, stream, Arguments { params, extra })
}}

entry! { fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz(
    d, function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint,
    stream: Handle, params: In<*const c_void>
) {
    let mut config = LaunchConfig { grid: [gx, gy, gz], block: [bx, by, bz], ..LaunchConfig::new(1, 1).shared(shared) };
    config.cooperative = true;
    launch(d, function, config, stream, Arguments { params, extra: In(std::ptr::null()) })
}}

impl LaunchConfigC {
    /// The shape, with what its attributes ask for.
    pub fn shape(&self) -> Outcome<LaunchConfig> {
        let mut config = LaunchConfig {
            grid: self.grid,
            block: self.block,
            ..LaunchConfig::new(1, 1).shared(self.shared)
        };
        for attribute in self.attributes.list(self.attribute_count as usize)? {
            match attribute.id {
                2 => config.cooperative = attribute.value[0] != 0,
                4 => config.cluster = [attribute.value[0], attribute.value[1], attribute.value[2]],
                // Caching, priority, scheduling and early starts change when, not what.
                0 | 1 | 3 | 5 | 6 | 8..=10 => {}
                7 => return Err(Status::NOT_SUPPORTED.because("programmatic events")),
                id => return Err(Status::NOT_SUPPORTED.because(format!("launch attribute {id}"))),
            }
        }
        Ok(config)
    }
}

entry! { fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(
    d, config: In<LaunchConfigC>, function: Handle, params: In<*const c_void>, extra: In<*const c_void>
) {
    let config = config.get()?;
    let shape = config.shape()?;
    launch(d, function, shape, config.stream, Arguments { params, extra })
}}
