//! What the kernel tests share: inputs from a seed, bf16, and the comparison with an f64 reference.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use half::bf16;

/// A small generator: the same numbers on every machine.
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Roughly normal, by the sum of twelve uniforms.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }

    /// `n` normals.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// `n` normals, rounded to bf16.
    pub fn bf16s(&mut self, n: usize) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.normal())).collect()
    }
}

/// Half a unit in the last place of bf16, relative.
pub const BF16_ROUNDING: f64 = 1.0 / 256.0;
/// The same of f32.
pub const F32_ROUNDING: f64 = 1.0 / 16_777_216.0;

/// An expected value and how far off a right kernel may be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The f64 result.
    pub value: f64,
    /// The most that rounding explains.
    pub tolerance: f64,
}

impl Expected {
    /// Allows for the rounding of the output type too.
    pub fn stored_as_bf16(self) -> Self {
        Self { tolerance: self.tolerance + self.value.abs() * BF16_ROUNDING * 1.01, ..self }
    }

    /// Panics with the place if `got` is further off than rounding explains.
    pub fn check(self, got: f64, place: impl FnOnce() -> String) {
        let error = (got - self.value).abs();
        // A NaN must fail, so the comparison is for being inside; an infinity is met by itself alone.
        let inside = got == self.value || self.value.is_finite() && error <= self.tolerance;
        assert!(inside, "{}: got {got}, expected {} ± {:.3e}", place(), self.value, self.tolerance);
    }
}

/// What [`kept`] keeps.
static KEPT: LazyLock<Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>> = LazyLock::new(Mutex::default);

/// What `make` gives for `key`, worked out once a process: a mutation test runs a case thousands of times, and its inputs and
/// reference cost more than the kernel.
pub fn kept<T: Send + Sync + 'static>(key: impl Debug, make: impl FnOnce() -> T) -> Arc<T> {
    let key = format!("{} {key:?}", std::any::type_name::<T>());
    let lock = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = lock().get(&key).cloned();
    let value = known.unwrap_or_else(|| {
        let made: Arc<dyn Any + Send + Sync> = Arc::new(make());
        lock().entry(key).or_insert(made).clone()
    });
    value.downcast().expect("the key names the type")
}
