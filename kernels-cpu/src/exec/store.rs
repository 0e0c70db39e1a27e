//! The weights of an executable, each held in the one form that its readers want.
//!
//! A weight that every step multiplies by is packed once, for all entries. One that is multiplied by once a request is
//! read straight from the file's map, packed block by block in the product itself, and so takes no memory. Norms, biases
//! and tables are f32 arrays. Nothing is held twice, and the file's pages are let go tensor by tensor.

use super::context::Fixed;
use super::packings::{Packing, Packings};
use super::{Activations, BindError, WeightSource};
use crate::aligned::AlignedBuf;
use crate::arch::blocks::BLOCK;
use crate::codebook::Codebook;
use crate::conv::pack_conv_weight;
use crate::embed::TableFormat;
use crate::gemm::{GemmError, PackedMatrix, RowsDType, WeightFormat};
use crate::isa::Features;
use selftok_graph::{Plan, Stage};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// How packing asks for rows.
type Read<'a> = dyn FnMut(Range<usize>, &mut [f32]) + 'a;

/// From this size on, an aligned f32 tensor of the map is read where it is instead of being copied.
const IN_PLACE_BYTES: usize = 64 << 10;

/// A tensor that is read row-major.
#[derive(Clone)]
pub(super) enum Plain {
    /// f32 in memory of its own.
    Owned(Arc<AlignedBuf>),
    /// In the source's map, which is alive as long as the source.
    Mapped { dtype: RowsDType, ptr: Fixed, _source: Arc<dyn WeightSource> },
}

impl Plain {
    /// Element type and first byte.
    pub fn rows(&self) -> (RowsDType, *const u8) {
        match self {
            Plain::Owned(buffer) => (RowsDType::F32, buffer.as_ptr()),
            Plain::Mapped { dtype, ptr, .. } => (*dtype, ptr.0.cast()),
        }
    }
}

/// Gives out weights while a plan is being bound.
pub(super) struct Store {
    plan: Arc<Plan>,
    source: Arc<dyn WeightSource>,
    pub features: Features,
    /// What weights are multiplied in where a device may choose.
    pub format: WeightFormat,
    activations: Activations,
    plain: HashMap<u32, Plain>,
    packed: HashMap<(u32, Range<usize>, bool), Arc<PackedMatrix>>,
    codebooks: HashMap<(u32, Range<usize>), Arc<Codebook>>,
    /// Bytes held by what was given out, apart from `plain` of stage bind.
    pub bytes: usize,
}

impl Store {
    /// Checks that every weight is there with the right shape.
    pub fn new(
        plan: Arc<Plan>,
        source: Arc<dyn WeightSource>,
        features: Features,
        (format, activations): (WeightFormat, Activations),
    ) -> Result<Store, BindError> {
        for weight in &plan.weights {
            match source.shape(&weight.name) {
                Some(shape) if shape == weight.shape => {}
                Some(found) => {
                    return Err(BindError::WeightShape {
                        name: weight.name.clone(),
                        expected: weight.shape.clone(),
                        found,
                        source_label: source.label(),
                    });
                }
                None => {
                    return Err(BindError::MissingWeight {
                        name: weight.name.clone(),
                        expected: weight.shape.clone(),
                        source_label: source.label(),
                    });
                }
            }
        }
        Ok(Store {
            plan,
            source,
            features,
            format,
            activations,
            plain: HashMap::new(),
            packed: HashMap::new(),
            codebooks: HashMap::new(),
            bytes: 0,
        })
    }

    /// The latest stage that reads a weight.
    pub fn last_stage(&self, id: u32) -> Stage {
        self.plan.weights[id as usize].last_stage
    }

    fn numel(&self, id: u32) -> usize {
        self.plan.weights[id as usize].shape.iter().product()
    }

    /// The whole tensor as f32 at an aligned address.
    pub fn f32(&mut self, id: u32) -> Result<Plain, BindError> {
        if let Some(plain) = self.plain.get(&id).filter(|plain| plain.rows().0 == RowsDType::F32) {
            return Ok(plain.clone());
        }
        let bytes = self.numel(id) * 4;
        let large = bytes >= IN_PLACE_BYTES;
        let mapped = self
            .in_map(id, |dtype, ptr| large && dtype == RowsDType::F32 && (ptr as usize).is_multiple_of(4));
        let plain = match mapped {
            Some(plain) => plain,
            None => self.copy(id)?,
        };
        self.plain.insert(id, plain.clone());
        Ok(plain)
    }

    /// The whole tensor in rows that a product can read at full precision: in the map, or a copy in f32. Weights in
    /// bf16 are multiplied as such only where the device computes in bf16.
    pub fn rows(&mut self, id: u32, exact: bool) -> Result<Plain, BindError> {
        if let Some(plain) = self.plain.get(&id) {
            return Ok(plain.clone());
        }
        let bf16 = self.format == WeightFormat::Bf16 && !exact;
        let plain = match self.in_map(id, |dtype, _| bf16 || dtype != RowsDType::Bf16) {
            Some(plain) => plain,
            None => self.copy(id)?,
        };
        self.plain.insert(id, plain.clone());
        Ok(plain)
    }

    fn in_map(&self, id: u32, suits: impl Fn(RowsDType, *const u8) -> bool) -> Option<Plain> {
        let mapped = self.source.mapped(&self.plan.weights[id as usize].name)?;
        let (dtype, ptr) = (mapped.dtype, mapped.bytes.as_ptr());
        let whole = mapped.bytes.len() == self.numel(id) * dtype.bytes();
        (whole && suits(dtype, ptr)).then(|| Plain::Mapped {
            dtype,
            ptr: Fixed(ptr.cast()),
            _source: Arc::clone(&self.source),
        })
    }

    fn copy(&mut self, id: u32) -> Result<Plain, BindError> {
        let name = &self.plan.weights[id as usize].name;
        let mut buffer = AlignedBuf::zeroed(self.numel(id) * 4);
        let floats = floats_mut(&mut buffer, self.numel(id));
        let read = self.source.read_f32(name, 0, floats);
        read.map_err(|source| BindError::ReadWeight { name: name.clone(), source })?;
        if self.last_stage(id) > Stage::Bind {
            self.bytes += buffer.len();
        }
        self.source.release(name);
        Ok(Plain::Owned(Arc::new(buffer)))
    }

    /// Rows of a weight `[_, k]`, packed for products; one copy serves all who ask.
    pub fn packed(
        &mut self,
        id: u32,
        rows: Range<usize>,
        k: usize,
        step: &str,
    ) -> Result<Arc<PackedMatrix>, BindError> {
        let (n, features) = (rows.len(), self.features);
        let name = &self.plan.weights[id as usize].name;
        // Blocks stay as they are where a row is a whole number of them, and so do 16 bits.
        let blocks = self.source.blocks(name).filter(|_| k.is_multiple_of(BLOCK));
        let format = match (blocks, self.format, self.source.dtype(name)) {
            (Some(blocks), ..) if self.activations == Activations::Int8 => blocks.with_int8_activations(),
            (Some(blocks), ..) => blocks,
            (None, WeightFormat::F32, Some(RowsDType::Bf16)) => WeightFormat::Bf16Wide,
            (None, WeightFormat::F32, Some(RowsDType::F16)) => WeightFormat::F16Wide,
            (None, format, _) => format,
        };
        let key = (id, rows.clone(), false);
        if let Some(packed) = self.packed.get(&key) {
            return Ok(Arc::clone(packed));
        }
        let source = Arc::clone(&self.source);
        let packing = Packing { name: name.clone(), rows, k, format, features };
        let packed = Packings::share(source.packings(), packing, || match blocks {
            Some(_) => self.pack_blocks(&key, k, format, step),
            None => self.pack(&key, k, step, |read| PackedMatrix::pack(n, k, format, features, read)),
        })?;
        self.bytes += packed.bytes();
        self.packed.insert(key, Arc::clone(&packed));
        Ok(packed)
    }

    fn pack_blocks(
        &self,
        key: &(u32, Range<usize>, bool),
        k: usize,
        format: WeightFormat,
        step: &str,
    ) -> Result<Arc<PackedMatrix>, BindError> {
        let name = &self.plan.weights[key.0 as usize].name;
        let (n, first) = (key.1.len(), key.1.start);
        let mut failure = None;
        let packed = PackedMatrix::pack_blocks(n, k, format, self.features, |rows, out| {
            if failure.is_none() {
                failure = self.source.read_blocks(name, first + rows.start..first + rows.end, out).err();
            }
        });
        if let Some(source) = failure {
            return Err(BindError::ReadWeight { name: name.clone(), source });
        }
        self.source.release(name);
        packed.map(Arc::new).map_err(|source| BindError::Gemm { step: step.into(), source })
    }

    /// The rows of a weight `[v, width]` as a table to look up in, in whatever form they are stored, and their first byte:
    /// nothing is copied where they lie in memory. The source must be kept alive.
    pub fn table(&self, id: u32, width: usize) -> Option<(TableFormat, Fixed)> {
        let name = &self.plan.weights[id as usize].name;
        if let (Some(format), Some(bytes)) = (self.source.blocks(name), self.source.mapped_blocks(name)) {
            let format = TableFormat::Blocks(format);
            let whole = bytes.len() == format.row_bytes(width) * (self.numel(id) / width.max(1));
            return (whole && width.is_multiple_of(BLOCK)).then(|| (format, Fixed(bytes.as_ptr().cast())));
        }
        let mapped = self.source.mapped(name)?;
        let format = match mapped.dtype {
            RowsDType::F32 => return None,
            RowsDType::Bf16 => TableFormat::Bf16,
            RowsDType::F16 => TableFormat::F16,
        };
        let whole = mapped.bytes.len() == self.numel(id) * 2;
        whole.then(|| (format, Fixed(mapped.bytes.as_ptr().cast())))
    }

    /// The source, to be kept alive by whoever points into it.
    pub fn source(&self) -> Arc<dyn WeightSource> {
        Arc::clone(&self.source)
    }

    /// Output channels of a weight `[_, I, kh, kw]` from `first` on, packed for convolutions.
    pub fn packed_conv(
        &mut self,
        id: u32,
        first: usize,
        shape: [usize; 4],
        step: &str,
    ) -> Result<Arc<PackedMatrix>, BindError> {
        let (format, features) = (self.format, self.features);
        let key = (id, first..first + shape[0], true);
        let row = shape[1..].iter().product();
        if let Some(packed) = self.packed.get(&key) {
            return Ok(Arc::clone(packed));
        }
        let packed = self.pack(&key, row, step, |read| pack_conv_weight(shape, format, features, read))?;
        self.bytes += packed.bytes();
        self.packed.insert(key, Arc::clone(&packed));
        Ok(packed)
    }

    fn pack(
        &self,
        key: &(u32, Range<usize>, bool),
        row: usize,
        step: &str,
        pack: impl FnOnce(&mut Read<'_>) -> Result<PackedMatrix, GemmError>,
    ) -> Result<Arc<PackedMatrix>, BindError> {
        let name = &self.plan.weights[key.0 as usize].name;
        let mut failure = None;
        let packed = pack(&mut |part, out| {
            if failure.is_none() {
                failure = self.source.read_f32(name, (key.1.start + part.start) * row, out).err();
            }
        });
        if let Some(source) = failure {
            return Err(BindError::ReadWeight { name: name.clone(), source });
        }
        self.source.release(name);
        packed.map(Arc::new).map_err(|source| BindError::Gemm { step: step.into(), source })
    }

    /// Elements of a weight as codes of `dim`, packed for the search.
    pub fn codebook(
        &mut self,
        id: u32,
        elements: Range<usize>,
        dim: usize,
        step: &str,
    ) -> Result<Arc<Codebook>, BindError> {
        let key = (id, elements.clone());
        if let Some(packed) = self.codebooks.get(&key) {
            return Ok(Arc::clone(packed));
        }
        let name = &self.plan.weights[id as usize].name;
        let mut codes = vec![0.0; elements.len()];
        let read = self.source.read_f32(name, elements.start, &mut codes);
        read.map_err(|source| BindError::ReadWeight { name: name.clone(), source })?;
        let packed = Codebook::pack(&codes, elements.len().checked_div(dim).unwrap_or(0), dim);
        let packed = Arc::new(packed.map_err(|source| BindError::Codebook { step: step.into(), source })?);
        self.source.release(name);
        self.bytes += codes.len() * 4;
        self.codebooks.insert(key, Arc::clone(&packed));
        Ok(packed)
    }

    /// Lets go of the plain copies of weights that only bind reads, except those that steps to come will read.
    pub fn forget_bind(&mut self, still_needed: impl Fn(u32) -> bool) {
        let (plan, source) = (&self.plan, &self.source);
        self.plain.retain(|&id, plain| {
            let weight = &plan.weights[id as usize];
            let keep = weight.last_stage > Stage::Bind || still_needed(id);
            if !keep && matches!(plain, Plain::Mapped { .. }) {
                source.release(&weight.name);
            }
            keep
        });
    }
}

/// A buffer as f32.
pub(super) fn floats_mut(buffer: &mut AlignedBuf, len: usize) -> &mut [f32] {
    let bytes = &mut buffer.as_mut_slice()[..len * 4];
    bytemuck::cast_slice_mut(bytes)
}
