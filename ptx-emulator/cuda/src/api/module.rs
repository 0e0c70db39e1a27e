//! Modules from PTX text, their kernels and variables.

use crate::abi::{Handle, Image, In, Out, Text};
use crate::driver::{Function, Held, LoadedEntry, Outcome, thread_number};
use crate::status::Status;
use ptx_emulator::Module;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_void};

/// Loads a module into the current context.
pub fn load_text(d: &mut Held, text: &str) -> Outcome<Handle> {
    let context = d.current()?;
    d.refuse_unsafe_call(thread_number())?;
    let parsed = Module::parse(text).map_err(|e| Status::from(e.code).because(e.to_string()))?;
    let loaded = d.device.load(&parsed).map_err(|e| Status::from(e.code).because(e.to_string()))?;
    let handle = d.handle();
    d.modules.insert(handle, LoadedEntry { context, loaded, functions: BTreeMap::new() });
    Ok(handle)
}

/// Loads an image: PTX text; binaries are refused.
pub fn load_image(d: &mut Held, image: Image) -> Outcome<Handle> {
    let head = image.head()?;
    if head.starts_with(b"\x7FELF") {
        return Err(
            Status::NO_BINARY_FOR_GPU.because("a cubin holds SASS, which is not emulated: pass its PTX")
        );
    }
    if head == 0x4662_43B1u32.to_le_bytes() || head == 0xBA55_ED50u32.to_le_bytes() {
        return Err(Status::NO_BINARY_FOR_GPU.because("a fat binary is not taken apart: pass its PTX"));
    }
    let text =
        image.text().map_err(|s| Status::INVALID_IMAGE.because(format!("not PTX text ({})", s.name())))?;
    load_text(d, &text)
}

/// Loads a file.
pub fn load_file(d: &mut Held, path: Text) -> Outcome<Handle> {
    let path = path.get()?;
    let bytes = std::fs::read(&path).map_err(|e| Status::FILE_NOT_FOUND.because(format!("{path}: {e}")))?;
    if bytes.starts_with(b"\x7FELF") {
        return Err(Status::NO_BINARY_FOR_GPU.because(format!("{path} is a cubin: SASS is not emulated")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Status::INVALID_IMAGE.because(format!("{path} is not PTX text")))?;
    load_text(d, text.trim_end_matches('\0'))
}

entry! { fn cuModuleLoad(d, out: Out<Handle>, path: Text) {
    let module = load_file(d, path)?;
    Ok(out.set(module)?)
}}

entry! { fn cuModuleLoadData(d, out: Out<Handle>, image: Image) {
    let module = load_image(d, image)?;
    Ok(out.set(module)?)
}}

entry! { fn cuModuleLoadFatBinary(d, out: Out<Handle>, image: Image) {
    let module = load_image(d, image)?;
    Ok(out.set(module)?)
}}

entry! { fn cuModuleLoadDataEx(
    d, out: Out<Handle>, image: Image, n: c_uint, options: In<c_uint>, values: In<*mut c_void>
) {
    let (mut log, mut log_len) = (std::ptr::null_mut::<c_char>(), 0);
    for k in 0..n as usize {
        let value = values.at(k)?;
        match options.at(k)? {
            // CU_JIT_ERROR_LOG_BUFFER and its size; other options ask for what the emulator has no use for.
            5 => log = value.cast(),
            6 => log_len = value as usize as u32 as usize,
            _ => {}
        }
    }
    let result = load_image(d, image);
    if let Err(refusal) = &result
        && !log.is_null()
        && log_len > 0
    {
        let text = refusal.message.bytes().take(log_len - 1).map(|b| b as c_char);
        Out::from_pointer(log).set_all(text.chain([0]))?;
    }
    Ok(out.set(result?)?)
}}

/// Forgets a module, when the work of its context is done.
pub fn unload(d: &mut Held, module: Handle) -> Outcome {
    let context =
        d.modules.get(&module).ok_or_else(|| Status::INVALID_HANDLE.because("no such module"))?.context;
    let result = d.synchronise_context(context);
    if let Some(entry) = d.modules.remove(&module) {
        d.device.unload(&entry.loaded);
    }
    d.functions.retain(|_, f| f.module != module);
    result
}

entry! { fn cuModuleUnload(d, module: Handle) {
    d.refuse_unsafe_call(thread_number())?;
    unload(d, module)
}}

/// The handle of a kernel.
pub fn function(d: &mut Held, module: Handle, name: &str) -> Outcome<Handle> {
    let entry = d.modules.get(&module).ok_or_else(|| Status::INVALID_HANDLE.because("no such module"))?;
    if let Some(&known) = entry.functions.get(name) {
        return Ok(known);
    }
    let parsed = entry.loaded.module();
    let Some(f) = parsed.kernel(name) else {
        let names: Vec<&str> = parsed.kernels().take(20).collect();
        return Err(
            Status::NOT_FOUND.because(format!("no kernel '{name}'; the module has: {}", names.join(", ")))
        );
    };
    let room = d.settings.gpu.shared_per_block.saturating_sub(f.shared_bytes);
    let function = Function {
        module,
        name: name.into(),
        c_name: std::ffi::CString::new(name).map_err(|_| Status::NOT_FOUND)?,
        max_dynamic_shared: room,
        attributes: BTreeMap::new(),
    };
    let handle = d.handle();
    d.functions.insert(handle, function);
    if let Some(entry) = d.modules.get_mut(&module) {
        entry.functions.insert(name.to_owned(), handle);
    }
    Ok(handle)
}

entry! { fn cuModuleGetFunction(d, out: Out<Handle>, module: Handle, name: Text) {
    // The module says which context is meant, so that none need be current.
    let handle = function(d, module, &name.get()?)?;
    Ok(out.set(handle)?)
}}

/// Address and size of a variable.
pub fn global(d: &Held, address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) -> Outcome {
    let entry = d.modules.get(&module).ok_or_else(|| Status::INVALID_HANDLE.because("no such module"))?;
    let name = name.get()?;
    let (at, len) = entry
        .loaded
        .variable(&name)
        .ok_or_else(|| Status::NOT_FOUND.because(format!("no variable '{name}'")))?;
    address.set_if(at)?;
    Ok(bytes.set_if(len as usize)?)
}

entry! { fn cuModuleGetGlobal_v2(d, address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
    d.current()?;
    global(d, address, bytes, module, name)
}}

entry! { fn cuModuleGetLoadingMode(_d, mode: Out<c_uint>) {
    // Eager.
    Ok(mode.set(1)?)
}}

entry! { fn cuFuncGetModule(d, out: Out<Handle>, function: Handle) {
    let f = d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    Ok(out.set(f.module)?)
}}

/// One attribute of a kernel (`CUfunction_attribute`).
pub fn attribute(d: &Held, attribute: c_uint, function: Handle) -> Outcome<c_int> {
    let f = d.functions.get(&function).ok_or_else(|| Status::INVALID_HANDLE.because("no such function"))?;
    let entry = d.modules.get(&f.module).ok_or(Status::INVALID_HANDLE)?;
    let module = entry.loaded.module();
    let kernel = module.kernel(&f.name).ok_or(Status::INVALID_HANDLE)?;
    let gpu = &d.settings.gpu;
    let stored = f.attributes.get(&attribute).copied();
    Ok(match attribute {
        0 => kernel.max_threads.map_or(gpu.threads_per_block, |t| t.iter().product()) as c_int,
        1 => kernel.shared_bytes as c_int,
        2 => module.data().variables.iter().filter(|v| v.constant).map(|v| v.bytes as c_int).sum(),
        3 => kernel.local_bytes as c_int,
        // PTX says nothing of registers beyond a ceiling: this is a guess that occupancy is computed from.
        4 => kernel.max_registers.unwrap_or(32) as c_int,
        5 => (module.data().version.0 * 10 + module.data().version.1) as c_int,
        6 => (gpu.capability.0 * 10 + gpu.capability.1) as c_int,
        7 => 0,
        8 => f.max_dynamic_shared as c_int,
        9 => stored.unwrap_or(-1),
        10 => c_int::from(kernel.required_cluster.is_some()),
        11..=13 => {
            kernel.required_cluster.map_or(stored.unwrap_or(0), |c| c[attribute as usize - 11] as c_int)
        }
        14 | 15 => stored.unwrap_or(0),
        _ => return Err(Status::INVALID_VALUE.because(format!("{attribute} is no function attribute"))),
    })
}

/// Sets an attribute of a kernel.
pub fn set_attribute(d: &mut Held, attribute: c_uint, function: Handle, value: c_int) -> Outcome {
    let limit = d.settings.gpu.shared_per_block_optin;
    let static_bytes = self::attribute(d, 1, function)? as u32;
    let name = d.settings.gpu.name;
    let f = d.functions.get_mut(&function).ok_or(Status::INVALID_HANDLE)?;
    match attribute {
        8 => {
            let most = limit.saturating_sub(static_bytes);
            if value < 0 || value as u32 > most {
                return Err(Status::INVALID_VALUE.because(format!(
                    "{value} bytes of dynamic shared memory for '{}'; {name} allows {most} beside its static memory",
                    f.name
                )));
            }
            f.max_dynamic_shared = value as u32;
        }
        9 if !(-1..=100).contains(&value) => {
            return Err(Status::INVALID_VALUE.because("a carveout is -1 to 100 per cent"));
        }
        9 | 11..=15 => {
            f.attributes.insert(attribute, value);
        }
        _ => return Err(Status::INVALID_VALUE.because(format!("attribute {attribute} cannot be set"))),
    }
    Ok(())
}

entry! { fn cuFuncGetAttribute(d, out: Out<c_int>, which: c_uint, function: Handle) {
    let value = attribute(d, which, function)?;
    Ok(out.set(value)?)
}}

entry! { fn cuFuncSetAttribute(d, function: Handle, which: c_uint, value: c_int) {
    set_attribute(d, which, function, value)
}}

entry! { fn cuFuncSetCacheConfig(d, function: Handle, config: c_uint) {
    d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    if config > 3 { Err(Status::INVALID_VALUE.into()) } else { Ok(()) }
}}

entry! { fn cuFuncSetSharedMemConfig(d, function: Handle, config: c_uint) {
    d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    if config > 2 { Err(Status::INVALID_VALUE.into()) } else { Ok(()) }
}}

/// The name of a kernel, as long as its module is loaded.
pub fn name(d: &Held, out: Out<*const c_char>, function: Handle) -> Outcome {
    let f = d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    Ok(out.set(f.c_name.as_ptr())?)
}

/// Offset and size of a parameter.
pub fn parameter(d: &Held, function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) -> Outcome {
    let f = d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    let entry = d.modules.get(&f.module).ok_or(Status::INVALID_HANDLE)?;
    let kernel = entry.loaded.module().kernel(&f.name).ok_or(Status::INVALID_HANDLE)?;
    let parameter = kernel.params.get(index).ok_or_else(|| {
        Status::INVALID_VALUE.because(format!("parameter {index}; '{}' has {}", f.name, kernel.params.len()))
    })?;
    offset.set(parameter.offset as usize)?;
    Ok(size.set_if(parameter.bytes as usize)?)
}

/// How many kernels a module has.
pub fn count(d: &Held, out: Out<c_uint>, module: Handle) -> Outcome {
    let entry = d.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
    Ok(out.set(entry.loaded.module().kernels().count() as c_uint)?)
}

/// The kernels of a module, `n` at most.
pub fn enumerate(d: &mut Held, out: Out<Handle>, n: c_uint, module: Handle) -> Outcome {
    let entry = d.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
    let names: Vec<String> = entry.loaded.module().kernels().take(n as usize).map(str::to_owned).collect();
    let handles = names.iter().map(|name| function(d, module, name)).collect::<Result<Vec<_>, _>>()?;
    Ok(out.set_all(handles)?)
}

entry! { fn cuFuncGetName(d, out: Out<*const c_char>, function: Handle) { name(d, out, function) } }
entry! { fn cuFuncGetParamInfo(d, function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) {
    parameter(d, function, index, offset, size)
}}
entry! { fn cuFuncIsLoaded(d, state: Out<c_uint>, function: Handle) {
    d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    // Loaded.
    Ok(state.set(1)?)
}}
entry! { fn cuFuncLoad(d, function: Handle) {
    d.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    Ok(())
}}
entry! { fn cuModuleGetFunctionCount(d, out: Out<c_uint>, module: Handle) { count(d, out, module) } }
entry! { fn cuModuleEnumerateFunctions(d, out: Out<Handle>, n: c_uint, module: Handle) {
    enumerate(d, out, n, module)
}}
