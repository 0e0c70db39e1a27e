//! ptxas as a process: assembles a module for one architecture and reads what its `-v` says of each kernel.

use std::path::Path;
use std::process::Command;

use selftok_kernels_ptx::Resources;

use super::Error;

/// Assembles `ptx` and gives each kernel's resources; `cubin` receives the machine code.
pub fn assemble(ptxas: &Path, ptx: &Path, architecture: &str, cubin: &Path) -> Result<Vec<Resources>, Error> {
    let output = Command::new(ptxas)
        .args(["-v", "-arch", architecture, "-o"])
        .args([cubin, ptx])
        .output()
        .map_err(Error::io(ptxas))?;
    let log = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() {
        let (name, architecture) = (ptx.display().to_string(), architecture.to_owned());
        return Err(Error::Assemble { name, architecture, log });
    }
    read_verbose(&log, architecture).ok_or_else(|| Error::Unexpected {
        name: ptx.display().to_string(),
        message: format!("ptxas -v says something that does not read as resources:\n{log}"),
    })
}

/// Reads, for each kernel, the three lines that ptxas prints.
fn read_verbose(log: &str, architecture: &str) -> Option<Vec<Resources>> {
    let mut rows: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            rows.push(Resources {
                entry: rest.split('\'').next()?.to_owned(),
                architecture: architecture.to_owned(),
                registers: 0,
                spill_stores: 0,
                spill_loads: 0,
                stack: 0,
                shared: 0,
            });
        } else if line.contains("bytes stack frame") {
            let row = rows.last_mut()?;
            row.stack = count_before(line, "bytes stack frame")?;
            row.spill_stores = count_before(line, "bytes spill stores")?;
            row.spill_loads = count_before(line, "bytes spill loads")?;
        } else if line.contains("Used ") {
            let row = rows.last_mut()?;
            row.registers = count_before(line, "registers")?;
            row.shared = count_before(line, "bytes smem").unwrap_or(0);
        }
    }
    rows.sort_by(|a, b| a.entry.cmp(&b.entry));
    rows.iter().all(|r| r.registers > 0).then_some(rows)
}

/// The number that stands before `unit` in a line.
fn count_before(line: &str, unit: &str) -> Option<u32> {
    line.split_once(unit)?.0.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 60 registers, used 1 barriers, 32 bytes smem, 448 bytes cmem[0]
ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 58 registers, used 0 barriers, 448 bytes cmem[0]
";

    #[test]
    fn every_count_is_read_and_kernels_are_sorted() {
        let rows = read_verbose(LOG, "sm_80").unwrap();
        let b = &rows[1];
        assert_eq!((rows[0].entry.as_str(), rows[0].registers, rows[0].shared), ("a", 58, 0));
        assert_eq!((b.registers, b.spill_stores, b.spill_loads, b.stack, b.shared), (60, 8, 4, 16, 32));
    }

    #[test]
    fn a_log_without_registers_is_not_taken_for_zero() {
        assert_eq!(read_verbose("Compiling entry function 'a' for 'sm_80'", "sm_80"), None);
    }
}
