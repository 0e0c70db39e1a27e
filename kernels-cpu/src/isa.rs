//! Which instruction set the kernels use, decided once at run time.
//!
//! The binary is built for the baseline x86-64 (or any other target); each fast kernel lives behind
//! `#[target_feature]` and is entered only through a function pointer that this choice guards.
//! `SELFTOK_ISA=portable|avx2|avx512` lowers the choice, so that every path is tested on one machine.

use std::sync::OnceLock;

/// An instruction set that a kernel may be written for, from the plainest up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: whatever the baseline target vectorises to.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL (with the AVX2 set).
    Avx512,
}

/// What this processor offers beyond the base of its [`Isa`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    /// The instruction set in use.
    pub isa: Isa,
    /// `vdpbf16ps` (AVX512_BF16); only ever true with [`Isa::Avx512`].
    pub bf16: bool,
    /// `vpdpbusd` on 512-bit registers (AVX512_VNNI); only ever true with [`Isa::Avx512`].
    pub vnni: bool,
}

impl Isa {
    /// Every instruction set that this processor can execute, plainest first, whatever the environment says.
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor can execute it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            };
            match self {
                Isa::Portable => true,
                Isa::Avx2 => avx2(),
                Isa::Avx512 => {
                    avx2()
                        && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Portable
        }
    }

    /// The instruction set's name, as `SELFTOK_ISA` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

impl Features {
    /// The features of this processor with the instruction set lowered to `isa`.
    ///
    /// Asking for one that the processor lacks gives the best one below it.
    pub fn lowered_to(isa: Isa) -> Features {
        let isa = Isa::available().into_iter().filter(|&have| have <= isa).max().unwrap_or(Isa::Portable);
        #[cfg(target_arch = "x86_64")]
        let (bf16, vnni) = (is_x86_feature_detected!("avx512bf16"), is_x86_feature_detected!("avx512vnni"));
        #[cfg(not(target_arch = "x86_64"))]
        let (bf16, vnni) = (false, false);
        let wide = isa == Isa::Avx512;
        Features { isa, bf16: wide && bf16, vnni: wide && vnni }
    }

    /// The best of this processor, lowered by `SELFTOK_ISA` where that is set to a known name.
    pub fn detect() -> Features {
        static DETECTED: OnceLock<Features> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let wanted = std::env::var("SELFTOK_ISA").ok();
            let cap = [Isa::Portable, Isa::Avx2, Isa::Avx512]
                .into_iter()
                .find(|isa| wanted.as_deref() == Some(isa.name()))
                .unwrap_or(Isa::Avx512);
            Features::lowered_to(cap)
        })
    }
}
