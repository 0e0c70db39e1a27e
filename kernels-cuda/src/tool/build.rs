//! Sources to PTX, and PTX against sources.
//!
//! Both commands compile everything into memory first and hold it against the same gates. Then one writes and the
//! other compares.

use std::fs;
use std::path::{Path, PathBuf};

use selftok_kernels_cuda::{COMMON_HEADERS, FAMILIES, Family};
use selftok_kernels_ptx::{Resources, Target, entry_names};

use super::nvrtc::Nvrtc;
use super::toolchain::Toolchain;
use super::{Error, ptxas};

/// A file of `kernels-ptx/generated`.
struct Artefact {
    name: String,
    text: String,
}

/// Compiles all and writes what changed.
pub fn build(toolchain: &Toolchain) -> Result<(), Error> {
    let (artefacts, resources) = compile_all(toolchain)?;
    let failures = gates(&resources);
    if !failures.is_empty() {
        return Err(Error::Failed(failures));
    }
    for artefact in &artefacts {
        let path = generated().join(&artefact.name);
        if fs::read(&path).is_ok_and(|old| old == artefact.text.as_bytes()) {
            println!("unchanged  {}", artefact.name);
        } else {
            fs::write(&path, &artefact.text).map_err(Error::io(&path))?;
            println!("written    {} ({} KiB)", artefact.name, artefact.text.len() / 1024);
        }
    }
    for name in strays(&artefacts)? {
        let path = generated().join(&name);
        fs::remove_file(&path).map_err(Error::io(&path))?;
        println!("removed    {name}");
    }
    Ok(())
}

/// Compiles all and compares it with what is checked in.
pub fn check(toolchain: &Toolchain) -> Result<(), Error> {
    let (artefacts, resources) = compile_all(toolchain)?;
    let mut failures = gates(&resources);
    for artefact in &artefacts {
        let path = generated().join(&artefact.name);
        match fs::read(&path) {
            Ok(old) if old == artefact.text.as_bytes() => println!("same       {}", artefact.name),
            Ok(_) => {
                failures.push(format!("{}: differs from what its source gives; run `build`", path.display()))
            }
            Err(error) => failures.push(format!("{}: {error}; run `build`", path.display())),
        }
    }
    failures.extend(strays(&artefacts)?.iter().map(|name| format!("{name}: has no source; run `build`")));
    if failures.is_empty() {
        println!("{} kernels assembled, no spills, every one under its ceilings", resources.len());
        Ok(())
    } else {
        Err(Error::Failed(failures))
    }
}

/// The folder of the other crate that this tool fills.
pub fn generated() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels-ptx/generated")
}

/// Files in the folder that no source makes.
fn strays(artefacts: &[Artefact]) -> Result<Vec<String>, Error> {
    let folder = generated();
    let mut strays = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let name = entry.map_err(Error::io(&folder))?.file_name().to_string_lossy().into_owned();
        if !artefacts.iter().any(|a| a.name == name) {
            strays.push(name);
        }
    }
    Ok(strays)
}

/// Every PTX module and the table of resources, in memory.
fn compile_all(toolchain: &Toolchain) -> Result<(Vec<Artefact>, Vec<Resources>), Error> {
    let nvrtc = Nvrtc::load(&toolchain.nvrtc)?;
    let scratch = Scratch::new()?;
    let mut artefacts = Vec::new();
    let mut resources = Vec::new();
    for family in FAMILIES {
        let target = Target::Compute80;
        let name = format!("{}.{}.ptx", family.name, target.name());
        let text = compile(&nvrtc, toolchain, family, target)?;
        let path = scratch.0.join(&name);
        fs::write(&path, &text).map_err(Error::io(&path))?;
        for part in assemble_all(toolchain, &path, target) {
            resources.extend(part?);
        }
        artefacts.push(Artefact { name, text });
    }
    let table = Resources::print(&resources);
    artefacts.push(Artefact { name: "resources.tsv".to_owned(), text: table });
    Ok((artefacts, resources))
}

/// Assembles one module for all architectures, each in its own process at the same time.
fn assemble_all(toolchain: &Toolchain, ptx: &Path, target: Target) -> Vec<Result<Vec<Resources>, Error>> {
    std::thread::scope(|scope| {
        let assemble = |architecture: &'static str| {
            let cubin = ptx.with_extension(format!("{architecture}.cubin"));
            scope.spawn(move || ptxas::assemble(&toolchain.ptxas, ptx, architecture, &cubin))
        };
        let running: Vec<_> = target.architectures().iter().map(|&a| assemble(a)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// One family to the PTX that ships.
fn compile(nvrtc: &Nvrtc, toolchain: &Toolchain, family: &Family, target: Target) -> Result<String, Error> {
    let name = format!("{}.cu", family.name);
    // No -lineinfo: it would write the path of this checkout into the text.
    let options = [
        format!("--gpu-architecture={}", target.name()),
        "--std=c++17".to_owned(),
        "--device-as-default-execution-space".to_owned(),
        format!("--fmad={}", family.fmad),
        format!("--include-path={}", toolchain.include.display()),
    ];
    let ptx = nvrtc.compile(&name, family.source, COMMON_HEADERS, &options)?;
    let ptx = lower_version(&ptx, target).ok_or_else(|| Error::Unexpected {
        name: name.clone(),
        message: "its PTX has no .version line".to_owned(),
    })?;
    let (mut found, mut listed) =
        (entry_names(&ptx), family.entries.iter().map(|e| e.name).collect::<Vec<_>>());
    found.sort_unstable();
    listed.sort_unstable();
    if found != listed {
        let message = format!("defines the kernels {found:?}, but its family lists {listed:?}");
        return Err(Error::Unexpected { name, message });
    }
    Ok(ptx)
}

/// Rewrites the `.version` line to the lowest that the target needs. That the rest is legal in it, ptxas then proves.
fn lower_version(ptx: &str, target: Target) -> Option<String> {
    let at = ptx.find("\n.version ")? + 1;
    let end = at + ptx[at..].find('\n')?;
    Some(format!("{}.version {}{}", &ptx[..at], target.ptx_version(), &ptx[end..]))
}

/// What no kernel may do.
fn gates(resources: &[Resources]) -> Vec<String> {
    let mut failures = Vec::new();
    for row in resources {
        let at = format!("{} on {}", row.entry, row.architecture);
        let Some(entry) = FAMILIES.iter().find_map(|f| f.entry(&row.entry)) else {
            failures.push(format!("{at}: no family lists it"));
            continue;
        };
        if row.spill_stores + row.spill_loads + row.stack > 0 {
            failures.push(format!(
                "{at}: {} bytes of stack, {} stored and {} loaded by spills; none is allowed",
                row.stack, row.spill_stores, row.spill_loads
            ));
        }
        if row.registers > entry.max_registers {
            failures
                .push(format!("{at}: {} registers; its ceiling is {}", row.registers, entry.max_registers));
        }
        if row.shared > entry.max_static_shared {
            let most = entry.max_static_shared;
            failures
                .push(format!("{at}: {} bytes of static shared memory; its ceiling is {most}", row.shared));
        }
    }
    failures
}

/// A folder of its own for one run, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes it.
    pub fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("selftok-kernels-cuda-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the system's folder for temporary files does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(registers: u32, spill_stores: u32, shared: u32) -> Resources {
        Resources {
            entry: "layer_norm_f32_f32_warp".to_owned(),
            architecture: "sm_80".to_owned(),
            registers,
            spill_stores,
            spill_loads: 0,
            stack: 0,
            shared,
        }
    }

    #[test]
    fn only_the_version_line_is_lowered() {
        let ptx = "// .version 8.8 is newest\n.version 8.8\n.target sm_80\n";
        let lowered = lower_version(ptx, Target::Compute80).unwrap();
        assert_eq!(lowered, "// .version 8.8 is newest\n.version 7.0\n.target sm_80\n");
        assert_eq!(lower_version(".target sm_80\n", Target::Compute80), None);
    }

    #[test]
    fn a_spill_too_many_registers_or_too_much_shared_memory_fails() {
        assert_eq!(gates(&[row(64, 0, 0)]), Vec::<String>::new());
        assert!(gates(&[row(64, 4, 0)])[0].contains("spills"));
        assert!(gates(&[row(65, 0, 0)])[0].contains("ceiling is 64"));
        assert!(gates(&[row(64, 0, 4)])[0].contains("static shared"));
        assert!(gates(&[Resources { entry: "other".to_owned(), ..row(1, 0, 0) }])[0].contains("no family"));
    }
}
