//! What each kernel costs on each GPU, printed for people: static evidence, not measurements.

use std::fs;

use selftok_kernels_cuda::{FAMILIES, MODELLED_GPUS};
use selftok_kernels_ptx::{MODULES, resources};

use super::build::Scratch;
use super::toolchain::Toolchain;
use super::{Error, ptxas, sass};

/// Prints registers, shared memory and occupancy, then the modelled main loops.
pub fn report(toolchain: &Toolchain) -> Result<(), Error> {
    let rows = resources()
        .map_err(|e| Error::Unexpected { name: "resources.tsv".to_owned(), message: e.to_string() })?;
    println!("SASS assembled for sm_80, sm_89, sm_90a, sm_100 and sm_120; nothing here was run on a GPU.\n");
    println!(
        "{:<28} {:<8} {:>9} {:>6} {:>7} {:>8} {:>14} {:>8}",
        "kernel", "arch", "registers", "spills", "static", "dynamic", "blocks per SM", "warps"
    );
    for row in &rows {
        let Some(entry) = FAMILIES.iter().find_map(|f| f.entry(&row.entry)) else { continue };
        let gpu = MODELLED_GPUS.iter().find(|g| g.architecture == row.architecture);
        let blocks =
            gpu.map(|g| g.occupancy(entry.threads, row.registers, row.shared + entry.dynamic_shared));
        println!(
            "{:<28} {:<8} {:>9} {:>6} {:>7} {:>8} {:>14} {:>8}",
            row.entry,
            row.architecture,
            row.registers,
            row.spill_stores + row.spill_loads,
            row.shared,
            entry.dynamic_shared,
            blocks.map_or("-".to_owned(), |b| b.to_string()),
            blocks.map_or("-".to_owned(), |b| (b * entry.threads / 32).to_string()),
        );
    }

    let Some(nvdisasm) = &toolchain.nvdisasm else {
        println!("\nThe main loops are not modelled: no nvdisasm; run toolchain/install.sh --inspect.");
        return Ok(());
    };
    println!(
        "\nMain loops, MODELLED: clocks of one SM for one iteration of one block, from the SASS. The ceiling is tensor"
    );
    println!(
        "(without any, f32) clocks over the largest, of that unit's own peak; latency, caches and clock rates are not in it.\n"
    );
    println!(
        "{:<28} {:<9} {:>7} {:>7} {:>7} {:>7} {:>8}  {:<8} {:>8}",
        "kernel", "gpu", "tensor", "float", "shared", "issue", "special", "bound", "ceiling"
    );
    let scratch = Scratch::new()?;
    for gpu in MODELLED_GPUS {
        for module in MODULES.iter().filter(|m| m.target.architectures().contains(&gpu.architecture)) {
            let ptx = scratch.0.join(module.family).with_extension("ptx");
            let cubin = ptx.with_extension("cubin");
            fs::write(&ptx, module.ptx).map_err(Error::io(&ptx))?;
            ptxas::assemble(&toolchain.ptxas, &ptx, gpu.architecture, &cubin)?;
            for (name, mix) in sass::main_loops(nvdisasm, &cubin)? {
                let Some(entry) = FAMILIES.iter().find_map(|f| f.entry(&name)) else { continue };
                // What the layer norm waits for, memory, is not in its instructions.
                if mix.tensor == 0 && (mix.global > 0 || mix.float * 2 < mix.issued) {
                    continue;
                }
                let clocks = mix.clocks(u64::from(entry.threads / 32), gpu);
                let (unit, most) = clocks.bound();
                let useful = if mix.tensor > 0 { clocks.tensor } else { clocks.float };
                println!(
                    "{:<28} {:<9} {:>7} {:>7} {:>7} {:>7} {:>8}  {:<8} {:>7.0}%",
                    name,
                    gpu.name,
                    clocks.tensor,
                    clocks.float,
                    clocks.shared,
                    clocks.issue,
                    clocks.special,
                    unit,
                    100.0 * useful as f64 / most as f64
                );
            }
        }
    }
    Ok(())
}
