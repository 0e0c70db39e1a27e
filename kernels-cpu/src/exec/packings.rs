//! Packed weights that several executables of one source share: another plan of the same model costs no second copy.
//!
//! Held weakly: a packing goes with the last executable that multiplies by it.

use super::BindError;
use crate::gemm::{PackedMatrix, WeightFormat};
use crate::isa::Features;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What makes two packings the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Packing {
    pub name: String,
    pub rows: Range<usize>,
    pub k: usize,
    pub format: WeightFormat,
    pub features: Features,
}

/// The packings of a source that are in use. A source that gives one out must always give the same weights.
#[derive(Default)]
pub struct Packings(Mutex<HashMap<Packing, Weak<PackedMatrix>>>);

impl Packings {
    /// The packing, made by `pack` where nobody has it. While one is made, others wait: they may want the same.
    pub(super) fn share(
        packings: Option<&Packings>,
        packing: Packing,
        pack: impl FnOnce() -> Result<Arc<PackedMatrix>, BindError>,
    ) -> Result<Arc<PackedMatrix>, BindError> {
        let Some(Packings(known)) = packings else { return pack() };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = known.get(&packing).and_then(Weak::upgrade) {
            return Ok(packed);
        }
        let packed = pack()?;
        known.insert(packing, Arc::downgrade(&packed));
        Ok(packed)
    }
}
