//! Libraries and their kernels: the newer names for modules and functions, which here are the same things.

use super::module;
use crate::abi::{Handle, Image, Out, Text};
use crate::status::Status;
use std::ffi::{c_char, c_int, c_uint, c_void};

entry! { fn cuLibraryLoadData(
    d, out: Out<Handle>, image: Image, _jit: *const c_void, _jit_values: *const c_void, _jit_count: c_uint,
    _options: *const c_void, _option_values: *const c_void, _option_count: c_uint
) {
    let module = module::load_image(d, image)?;
    Ok(out.set(module)?)
}}

entry! { fn cuLibraryLoadFromFile(
    d, out: Out<Handle>, path: Text, _jit: *const c_void, _jit_values: *const c_void, _jit_count: c_uint,
    _options: *const c_void, _option_values: *const c_void, _option_count: c_uint
) {
    let module = module::load_file(d, path)?;
    Ok(out.set(module)?)
}}

entry! { fn cuLibraryUnload(d, library: Handle) { module::unload(d, library) } }

entry! { fn cuLibraryGetKernel(d, out: Out<Handle>, library: Handle, name: Text) {
    let handle = module::function(d, library, &name.get()?)?;
    Ok(out.set(handle)?)
}}

entry! { fn cuLibraryGetModule(d, out: Out<Handle>, library: Handle) {
    d.modules.get(&library).ok_or(Status::INVALID_HANDLE)?;
    Ok(out.set(library)?)
}}

entry! { fn cuLibraryGetGlobal(d, address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
    module::global(d, address, bytes, library, name)
}}

entry! { fn cuKernelGetFunction(d, out: Out<Handle>, kernel: Handle) {
    d.functions.get(&kernel).ok_or(Status::INVALID_HANDLE)?;
    Ok(out.set(kernel)?)
}}

entry! { fn cuKernelGetAttribute(d, out: Out<c_int>, which: c_uint, kernel: Handle, device: c_int) {
    d.check_device(device)?;
    let value = module::attribute(d, which, kernel)?;
    Ok(out.set(value)?)
}}

entry! { fn cuKernelSetAttribute(d, which: c_uint, value: c_int, kernel: Handle, device: c_int) {
    d.check_device(device)?;
    module::set_attribute(d, which, kernel, value)
}}

entry! { fn cuKernelSetCacheConfig(d, kernel: Handle, config: c_uint, device: c_int) {
    d.check_device(device)?;
    d.functions.get(&kernel).ok_or(Status::INVALID_HANDLE)?;
    if config > 3 { Err(Status::INVALID_VALUE.into()) } else { Ok(()) }
}}

entry! { fn cuKernelGetName(d, out: Out<*const c_char>, kernel: Handle) { module::name(d, out, kernel) } }

entry! { fn cuKernelGetLibrary(d, out: Out<Handle>, kernel: Handle) {
    let library = d.functions.get(&kernel).ok_or(Status::INVALID_HANDLE)?.module;
    Ok(out.set(library)?)
}}

entry! { fn cuKernelGetParamInfo(d, kernel: Handle, index: usize, offset: Out<usize>, size: Out<usize>) {
    module::parameter(d, kernel, index, offset, size)
}}

entry! { fn cuLibraryGetKernelCount(d, out: Out<c_uint>, library: Handle) { module::count(d, out, library) } }

entry! { fn cuLibraryEnumerateKernels(d, out: Out<Handle>, n: c_uint, library: Handle) {
    module::enumerate(d, out, n, library)
}}
