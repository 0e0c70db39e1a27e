//! The registers that an instruction sees, 32 lanes at a time.

use crate::ir::{Instruction, Pred, Slot};
use bytemuck::{Pod, Zeroable};

/// One 32-bit value of each lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Plane(pub [u32; 32]);

/// One 64-bit value of each lane: two planes seen as one row.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Wide([u64; 32]);

/// Fills a constant of 4, 8 or 16 bytes for all lanes.
pub fn splat(planes: &mut [Plane], at: usize, bytes: u32, bits: u64) {
    match bytes {
        8 => wide_mut(planes, at).fill(bits),
        16 => {
            wide_mut(planes, at).fill(bits);
            wide_mut(planes, at + 2).fill(0);
        }
        _ => planes[at].0.fill(bits as u32),
    }
}

#[inline(always)]
fn wide(planes: &[Plane], at: usize) -> &[u64; 32] {
    let pair: &[Plane; 2] = planes[at..at + 2].try_into().expect("two planes");
    &bytemuck::cast_ref::<[Plane; 2], Wide>(pair).0
}

#[inline(always)]
fn wide_mut(planes: &mut [Plane], at: usize) -> &mut [u64; 32] {
    let pair: &mut [Plane; 2] = (&mut planes[at..at + 2]).try_into().expect("two planes");
    &mut bytemuck::cast_mut::<[Plane; 2], Wide>(pair).0
}

/// `f` of each lane; unlike `map` of an array, always a plain loop, which becomes a few vector instructions.
#[inline(always)]
pub fn each_lane<T: Copy, U: Copy + Default>(a: &[T; 32], f: impl Fn(T) -> U) -> [U; 32] {
    let mut out = [U::default(); 32];
    for l in 0..32 {
        out[l] = f(a[l]);
    }
    out
}

/// Registers of the running frame, constants and special registers.
pub struct View<'a> {
    /// Registers of the frame.
    pub registers: &'a mut [Plane],
    /// Predicates of the frame, a bit a lane.
    pub preds: &'a mut [u32],
    /// Constants of the module.
    pub constants: &'a [Plane],
    /// Special registers of the warp.
    pub specials: &'a [Plane],
    /// How approximate instructions err.
    pub approx: crate::approx::Approximation,
    /// How matrix products are summed.
    pub accumulation: crate::approx::Accumulation,
    /// Varies from instruction to instruction, for random errors.
    pub salt: u64,
}

impl View<'_> {
    #[inline(always)]
    fn planes(&self, s: Slot) -> &[Plane] {
        if s.is_register() {
            self.registers
        } else if s.is_constant() {
            self.constants
        } else {
            self.specials
        }
    }

    /// A 32-bit (or narrower) operand.
    #[inline(always)]
    pub fn read32(&self, s: Slot) -> [u32; 32] {
        self.planes(s)[s.index()].0
    }

    /// A 64-bit operand.
    #[inline(always)]
    pub fn read64(&self, s: Slot) -> [u64; 32] {
        *wide(self.planes(s), s.index())
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn write32(&mut self, d: Slot, mask: u32, values: &[u32; 32]) {
        if d.is_none() {
            return;
        }
        let to = &mut self.registers[d.index()].0;
        if mask == u32::MAX {
            *to = *values;
        } else {
            for l in 0..32 {
                to[l] = if mask >> l & 1 != 0 { values[l] } else { to[l] };
            }
        }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn write64(&mut self, d: Slot, mask: u32, values: &[u64; 32]) {
        if d.is_none() {
            return;
        }
        let to = wide_mut(self.registers, d.index());
        if mask == u32::MAX {
            *to = *values;
        } else {
            for l in 0..32 {
                to[l] = if mask >> l & 1 != 0 { values[l] } else { to[l] };
            }
        }
    }

    /// The lanes where a predicate holds.
    #[inline(always)]
    pub fn pred(&self, p: Pred) -> u32 {
        if p.is_none() {
            return u32::MAX;
        }
        let bits = self.preds[p.index()];
        if p.negated() { !bits } else { bits }
    }

    /// Writes a predicate's lanes of `mask`.
    #[inline(always)]
    pub fn write_pred(&mut self, p: Pred, mask: u32, bits: u32) {
        if !p.is_none() {
            let to = &mut self.preds[p.index()];
            *to = *to & !mask | bits & mask;
        }
    }

    /// d = f(a), 32 bits.
    #[inline(always)]
    pub fn map1(&mut self, i: &Instruction, m: u32, f: impl Fn(u32) -> u32) {
        let a = self.read32(i.s[0]);
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l]);
        }
        self.write32(i.d[0], m, &out);
    }

    /// d = f(a, b), 32 bits.
    #[inline(always)]
    pub fn map2(&mut self, i: &Instruction, m: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.read32(i.s[0]), self.read32(i.s[1]));
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l]);
        }
        self.write32(i.d[0], m, &out);
    }

    /// d = f(a, b, c), 32 bits.
    #[inline(always)]
    pub fn map3(&mut self, i: &Instruction, m: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.read32(i.s[0]), self.read32(i.s[1]), self.read32(i.s[2]));
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.write32(i.d[0], m, &out);
    }

    /// d = f(a), 64 bits.
    #[inline(always)]
    pub fn wide1(&mut self, i: &Instruction, m: u32, f: impl Fn(u64) -> u64) {
        let a = self.read64(i.s[0]);
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l]);
        }
        self.write64(i.d[0], m, &out);
    }

    /// d = f(a, b), 64 bits.
    #[inline(always)]
    pub fn wide2(&mut self, i: &Instruction, m: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.read64(i.s[0]), self.read64(i.s[1]));
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l]);
        }
        self.write64(i.d[0], m, &out);
    }

    /// d = f(a, b, c), 64 bits.
    #[inline(always)]
    pub fn wide3(&mut self, i: &Instruction, m: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (self.read64(i.s[0]), self.read64(i.s[1]), self.read64(i.s[2]));
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.write64(i.d[0], m, &out);
    }
}

/// A function over a [`View`], compiled three times: for AVX-512, for AVX2 with FMA, and for any machine.
pub type Versions = [unsafe fn(&mut View, &Instruction, u32); 3];

/// Compiles `$body` for each instruction set; the result is a [`Versions`] table.
macro_rules! versions {
    ($body:path) => {{
        use $crate::exec::view::View;
        use $crate::ir::Instruction;
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt"
        )]
        fn avx512(v: &mut View, i: &Instruction, m: u32) {
            $body(v, i, m)
        }
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
        fn avx2(v: &mut View, i: &Instruction, m: u32) {
            $body(v, i, m)
        }
        fn portable(v: &mut View, i: &Instruction, m: u32) {
            $body(v, i, m)
        }
        [avx512, avx2, portable]
    }};
}
pub(crate) use versions;

/// Which of a [`Versions`] table this machine can run.
pub fn version() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;
        static VERSION: OnceLock<usize> = OnceLock::new();
        *VERSION.get_or_init(|| {
            let fma = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("lzcnt");
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512cd");
            match std::env::var("PTX_EMULATOR_ISA").as_deref() {
                Ok("portable") => 2,
                Ok("avx2") if fma => 1,
                _ if wide && fma => 0,
                _ if fma => 1,
                _ => 2,
            }
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        2
    }
}
