//! The main loop of a kernel in machine code, and a model of its time.
//!
//! The loop is the smallest stretch between a label and a branch back to it that holds all the tensor instructions any
//! such stretch holds, or, in a kernel without them, the largest share of multiply-adds. Counting its instructions gives clocks of the units
//! that an SM has; the largest bounds the loop from below. It knows no latency, no cache and no clock rate. Whatever it says is *modelled*.

use std::path::Path;
use std::process::Command;

use selftok_kernels_cuda::GpuLimits;

use super::Error;

/// Instructions of one iteration, of one warp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mix {
    /// All.
    pub issued: u64,
    /// HMMA.16816: 2048 multiply-adds each.
    pub tensor: u64,
    /// FFMA, FADD and FMUL: 32 lanes each.
    pub float: u64,
    /// Wavefronts of shared memory, 128 bytes each, if none conflicts.
    pub wavefronts: u64,
    /// MUFU: exponentials, reciprocals and the like.
    pub special: u64,
    /// Loads from global memory.
    pub global: u64,
}

/// Clocks that one block keeps each unit of an SM busy for one iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Tensor cores.
    pub tensor: u64,
    /// f32 lanes.
    pub float: u64,
    /// Shared memory, one wavefront a clock.
    pub shared: u64,
    /// The four schedulers, one instruction a clock each.
    pub issue: u64,
    /// Special functions, 16 lanes a clock.
    pub special: u64,
}

impl Mix {
    /// The clocks of a block of `warps` warps.
    pub fn clocks(&self, warps: u64, limits: &GpuLimits) -> Clocks {
        Clocks {
            tensor: self.tensor * warps * 2048 / u64::from(limits.mma_per_clock),
            float: self.float * warps * 32 / u64::from(limits.f32_per_clock),
            shared: self.wavefronts * warps,
            issue: (self.issued * warps).div_ceil(4),
            special: self.special * warps * 2,
        }
    }
}

impl Clocks {
    /// The unit that is busy longest, and how long.
    pub fn bound(&self) -> (&'static str, u64) {
        let units = [
            ("tensor", self.tensor),
            ("float", self.float),
            ("shared", self.shared),
            ("issue", self.issue),
            ("special", self.special),
        ];
        units.into_iter().max_by_key(|u| u.1).unwrap_or(("issue", self.issue))
    }
}

/// Disassembles a cubin and finds each kernel's main loop; kernels without a loop are left out.
pub fn main_loops(nvdisasm: &Path, cubin: &Path) -> Result<Vec<(String, Mix)>, Error> {
    let output =
        Command::new(nvdisasm).args(["-ndf", "-c"]).arg(cubin).output().map_err(Error::io(nvdisasm))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Unexpected { name: cubin.display().to_string(), message });
    }
    Ok(kernels(&text).into_iter().filter_map(|(name, lines)| Some((name, main_loop(&lines)?))).collect())
}

/// The lines of each `.text.NAME` section.
fn kernels(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut kernels: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            kernels.push((name.to_owned(), Vec::new()));
        } else if let Some((_, lines)) = kernels.last_mut() {
            lines.push(line);
        }
    }
    kernels
}

/// The opcode with its modifiers, as `HMMA.16816.F32.BF16`, of a line that holds an instruction.
fn opcode(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    rest.split_whitespace().find(|word| !word.starts_with('@'))
}

fn mix(lines: &[&str]) -> Mix {
    let mut mix = Mix::default();
    for (line, opcode) in lines.iter().filter_map(|l| Some((l, opcode(l)?))) {
        let mut parts = opcode.split('.');
        let base = parts.next().unwrap_or(opcode).trim_end_matches(';');
        mix.issued += 1;
        if line.contains("@!PT ") {
            continue; // never executed: ptxas puts such reads before asynchronous copies
        }
        let width = if opcode.contains(".128") {
            4
        } else if opcode.contains(".64") {
            2
        } else {
            1
        };
        match base {
            "HMMA" => mix.tensor += 1,
            "FFMA" | "FADD" | "FMUL" => mix.float += 1,
            "LDG" => mix.global += 1,
            "MUFU" => mix.special += 1,
            // The last suffix of LDSM.16.M88.4 is ldmatrix.x4: four matrices of 128 bytes.
            "LDSM" => mix.wavefronts += parts.next_back().and_then(|p| p.parse().ok()).unwrap_or(1),
            "LDGSTS" | "STS" => mix.wavefronts += width,
            // A broadcast of one address is a wavefront whatever its width; the loops here read in no other way.
            "LDS" => mix.wavefronts += 1,
            _ => {}
        }
    }
    mix
}

fn main_loop(lines: &[&str]) -> Option<Mix> {
    let label = |name: &str| lines.iter().position(|l| l.strip_suffix(':') == Some(name));
    let loops = lines.iter().enumerate().filter_map(|(end, line)| {
        if !opcode(line)?.starts_with("BRA") {
            return None;
        }
        let (_, target) = line.split_once("`(")?;
        let start = label(target.split(')').next()?)?;
        (start < end).then(|| mix(&lines[start..=end]))
    });
    loops.max_by_key(|m| (m.tensor, m.float * 1000 / m.issued.max(1), std::cmp::Reverse(m.issued)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use selftok_kernels_cuda::A100;

    const TEXT: &str = "\
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDSM.16.M88.4 R4, [R2] ;
.L_x_0:
        /*0020*/                   HMMA.16816.F32.BF16 R28, R48, R40.reuse, R28 ;
        /*0028*/              @!PT LDS RZ, [RZ] ;
        /*0030*/               @P0 LDGSTS.E.BYPASS.128 [R3], [R4.64] ;
        /*0040*/                   MUFU.EX2 R4, R5 ;
        /*0050*/              @!P0 BRA `(.L_x_0) ;
        /*0060*/               @P1 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2) ;
";

    #[test]
    fn the_main_loop_is_the_smallest_with_all_the_tensor_work() {
        let kernels = kernels(TEXT);
        assert_eq!(kernels[0].0, "kernel");
        let expected = Mix { issued: 5, tensor: 1, float: 0, wavefronts: 4, special: 1, global: 0 };
        assert_eq!(main_loop(&kernels[0].1), Some(expected));
    }

    #[test]
    fn clocks_are_those_of_the_whole_block() {
        let mix = Mix { issued: 10, tensor: 8, float: 3, wavefronts: 24, special: 1, global: 0 };
        let clocks = mix.clocks(4, &A100);
        assert_eq!(clocks, Clocks { tensor: 64, float: 6, shared: 96, issue: 10, special: 8 });
        assert_eq!(clocks.bound(), ("shared", 96));
    }
}
