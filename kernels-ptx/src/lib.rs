//! The PTX that ships, as text in the binary.
//!
//! A GPU driver compiles PTX when a program starts, so the text is the product and no CUDA toolkit is needed to build
//! or to run. `generated/` comes from the CUDA C++ of `kernels-cuda` by its build tool and is checked in: the tool's
//! `check` recompiles it and compares bytes. `hand/` is for PTX that no compiler wrote.
//!
//! PTX for `compute_80` runs on every GPU from the A100 on. A kernel may have a second module for `compute_90a`
//! (wgmma, TMA), which runs on Hopper alone and is never the only one.

mod resources;

pub use resources::{Resources, ResourcesError, resources, resources_of};

/// The virtual architecture that a module is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Ampere and everything after it.
    Compute80,
    /// Hopper alone: the `a` promises wgmma, TMA and setmaxnreg, and gives up every later architecture.
    Compute90a,
}

impl Target {
    /// The name that NVRTC takes and that file names carry, as `compute_80`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute80 => "compute_80",
            Self::Compute90a => "compute_90a",
        }
    }

    /// The name in a module's `.target` line, as `sm_80`.
    pub fn directive(self) -> &'static str {
        match self {
            Self::Compute80 => "sm_80",
            Self::Compute90a => "sm_90a",
        }
    }

    /// The PTX version that shipped modules declare: the lowest that has the instructions, since a driver refuses
    /// a version newer than itself whatever the module uses.
    pub fn ptx_version(self) -> &'static str {
        match self {
            Self::Compute80 => "7.0",
            Self::Compute90a => "8.0",
        }
    }

    /// The GPUs that `ptxas` must be able to assemble this target for.
    pub fn architectures(self) -> &'static [&'static str] {
        match self {
            Self::Compute80 => &["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"],
            Self::Compute90a => &["sm_90a"],
        }
    }

    /// Whether a GPU of this compute capability can run the target.
    pub fn runs_on(self, major: u32, minor: u32) -> bool {
        match self {
            Self::Compute80 => major >= 8,
            Self::Compute90a => (major, minor) == (9, 0),
        }
    }
}

/// One PTX file: a kernel family for one target.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// The family, which is also the folder of its source in `kernels-cuda/src`.
    pub family: &'static str,
    /// What it is written for.
    pub target: Target,
    /// The PTX text.
    pub ptx: &'static str,
    /// The names of its kernels, as a driver's `cuModuleGetFunction` takes them.
    pub entries: &'static [&'static str],
}

macro_rules! generated {
    ($family:literal, $target:ident, $file:literal, [$($entry:literal),+ $(,)?]) => {
        Module {
            family: $family,
            target: Target::$target,
            ptx: include_str!(concat!("../generated/", $file)),
            entries: &[$($entry),+],
        }
    };
}

/// Every module, sorted by family and target.
pub const MODULES: &[Module] = &[
    generated!(
        "attention",
        Compute80,
        "attention.compute_80.ptx",
        [
            "attention_d128_q64",
            "attention_d32_q64",
            "attention_d64_q128",
            "attention_d64_q64",
            "attention_d96_q64",
        ]
    ),
    generated!(
        "codebook",
        Compute80,
        "codebook.compute_80.ptx",
        ["codebook_merge", "codebook_partial_c16", "codebook_partial_c32", "codebook_partial_c64",]
    ),
    generated!(
        "gemm",
        Compute80,
        "gemm.compute_80.ptx",
        [
            "gemm_bf16_bf16_128x128x32",
            "gemm_bf16_bf16_64x64x32",
            "gemm_bf16_f32_128x128x32",
            "gemm_bf16_f32_64x64x32",
        ]
    ),
    generated!(
        "layer_norm",
        Compute80,
        "layer_norm.compute_80.ptx",
        [
            "layer_norm_bf16_bf16_block",
            "layer_norm_bf16_bf16_warp",
            "layer_norm_bf16_f32_block",
            "layer_norm_bf16_f32_warp",
            "layer_norm_f32_bf16_block",
            "layer_norm_f32_bf16_warp",
            "layer_norm_f32_f32_block",
            "layer_norm_f32_f32_warp",
        ]
    ),
];

/// The best module of a family for a GPU of this compute capability: the most specific target that runs on it.
pub fn module_for(family: &str, major: u32, minor: u32) -> Option<&'static Module> {
    MODULES.iter().filter(|m| m.family == family && m.target.runs_on(major, minor)).max_by_key(|m| m.target)
}

/// The names of the kernels that a PTX text defines, in order.
pub fn entry_names(ptx: &str) -> Vec<&str> {
    ptx.lines()
        .filter_map(|line| line.trim_start().split_once(".entry "))
        .map(|(_, rest)| rest.split(['(', ' ']).next().unwrap_or(rest))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_defines_exactly_the_entries_it_lists() {
        for module in MODULES {
            let mut defined = entry_names(module.ptx);
            let mut listed = module.entries.to_vec();
            defined.sort_unstable();
            listed.sort_unstable();
            assert_eq!(defined, listed, "{} {}", module.family, module.target.name());
        }
    }

    #[test]
    fn every_module_declares_the_lowered_version_and_its_target() {
        for module in MODULES {
            let version = format!(".version {}", module.target.ptx_version());
            let target = format!(".target {}", module.target.directive());
            assert!(module.ptx.lines().any(|line| line == version), "{}: no line {version}", module.family);
            assert!(module.ptx.lines().any(|line| line == target), "{}: no line {target}", module.family);
        }
    }

    #[test]
    fn no_entry_name_is_used_twice() {
        for target in [Target::Compute80, Target::Compute90a] {
            let mut names: Vec<_> =
                MODULES.iter().filter(|m| m.target == target).flat_map(|m| m.entries).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        }
    }

    #[test]
    fn every_family_runs_on_every_gpu_from_ampere_on() {
        for module in MODULES {
            for (major, minor) in [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)] {
                assert!(
                    module_for(module.family, major, minor).is_some(),
                    "{} on {major}.{minor}",
                    module.family
                );
            }
            assert!(module_for(module.family, 7, 5).is_none());
        }
    }
}
