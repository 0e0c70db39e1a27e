//! The descriptor that `cp.async.bulk.tensor` reads: what `cuTensorMapEncodeTiled` packs into 128 opaque bytes.
//!
//! NVIDIA does not publish its layout, so this one is the emulator's own; it starts with a magic number, so that
//! bytes that nobody encoded are told from a map. Words of 64 bits, little-endian: 0 magic; 1 address; 2 data type,
//! rank, interleave, swizzle, L2 promotion and fill, a byte each from the lowest; 3 to 7 dimensions; 8 to 11 strides
//! of dimensions 1 to 4; 12 the first four box dimensions, 16 bits each; 13 the fifth, then five element strides, 8
//! bits each; 14 and 15 zero.

use crate::types::Type;

/// Marks an encoded map.
const MAGIC: u64 = u64::from_le_bytes(*b"PTXTMAP1");

/// A tiled view of a tensor in global memory. Dimension 0 is the innermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// `CUtensorMapDataType`: 0 u8, 1 u16, 2 u32, 3 s32, 4 u64, 5 s64, 6 f16, 7 f32, 8 f64, 9 bf16, 10 f32 with
    /// denormals flushed, 11 tf32, 12 tf32 with denormals flushed.
    pub data_type: u8,
    /// Dimensions, 1 to 5.
    pub rank: u8,
    /// Address of element 0.
    pub address: u64,
    /// Elements along each dimension; 1 beyond the rank.
    pub dims: [u64; 5],
    /// Bytes from one element to the next along each dimension; that of dimension 0 is the element's size.
    pub strides: [u64; 5],
    /// Elements of the box along each dimension, before element strides; 1 beyond the rank.
    pub box_dims: [u32; 5],
    /// Every how-manieth element is taken, along each dimension.
    pub element_strides: [u32; 5],
    /// `CUtensorMapInterleave`: 0 none, 1 16 bytes, 2 32 bytes.
    pub interleave: u8,
    /// `CUtensorMapSwizzle`: 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes.
    pub swizzle: u8,
    /// `CUtensorMapL2promotion`, which changes no result.
    pub promotion: u8,
    /// What lies outside of the tensor: 0 zeros, 1 NaN.
    pub fill: u8,
}

/// Bytes of an element, by data type.
const ELEMENT_BYTES: [u8; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];

/// Types of an element, by data type.
const ELEMENT: [Type; 13] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::S32,
    Type::U64,
    Type::S64,
    Type::F16,
    Type::F32,
    Type::F64,
    Type::Bf16,
    Type::F32,
    Type::Tf32,
    Type::Tf32,
];

impl TensorMap {
    /// Type of an element.
    pub fn element(&self) -> Type {
        ELEMENT[self.data_type as usize % ELEMENT.len()]
    }

    /// A map, judged by the rules of `cuTensorMapEncodeTiled` (CUDA driver API, "Tensor Map Object Management").
    /// `dims`, `box_dims` and `element_strides` have `rank` entries, `strides` (bytes, of dimensions 1 and up) one less.
    ///
    /// # Errors
    /// A sentence that says which argument breaks which rule.
    #[allow(clippy::too_many_arguments)]
    pub fn tiled(
        data_type: u32,
        address: u64,
        dims: &[u64],
        strides: &[u64],
        box_dims: &[u32],
        element_strides: &[u32],
        interleave: u32,
        swizzle: u32,
        promotion: u32,
        fill: u32,
    ) -> Result<TensorMap, String> {
        let rank = dims.len();
        let Some(&size) = ELEMENT_BYTES.get(data_type as usize) else {
            return Err(format!("{data_type} is no tensor data type"));
        };
        if !(1..=5).contains(&rank)
            || strides.len() != rank - 1
            || box_dims.len() != rank
            || element_strides.len() != rank
        {
            return Err(format!("rank {rank} with {} strides; 1 to 5 with one less is right", strides.len()));
        }
        if interleave > 2 || swizzle > 3 || promotion > 3 || fill > 1 {
            return Err(format!(
                "interleave {interleave}, swizzle {swizzle}, promotion {promotion} or fill {fill} is unknown"
            ));
        }
        let align = if interleave == 2 { 32 } else { 16 };
        if address == 0 || !address.is_multiple_of(align) {
            return Err(format!("the address {address:#x} is not a multiple of {align}"));
        }
        if let Some(k) = dims.iter().position(|n| *n == 0 || *n > 1 << 32) {
            return Err(format!("dimension {k} is {}; 1 to 2^32 is allowed", dims[k]));
        }
        if let Some(k) = strides.iter().position(|s| !s.is_multiple_of(align) || *s >= 1 << 40) {
            return Err(format!(
                "the stride of dimension {} is {}; multiples of {align} below 2^40 are allowed",
                k + 1,
                strides[k]
            ));
        }
        if let Some(k) = box_dims.iter().position(|n| *n == 0 || *n > 256) {
            return Err(format!("box dimension {k} is {}; 1 to 256 is allowed", box_dims[k]));
        }
        if let Some(k) = element_strides.iter().position(|n| *n == 0 || *n > 8) {
            return Err(format!("element stride {k} is {}; 1 to 8 is allowed", element_strides[k]));
        }
        let inner = box_dims[0] * u32::from(size);
        if interleave == 0 && !inner.is_multiple_of(16) {
            return Err(format!("the inner box dimension is {inner} bytes; a multiple of 16 is needed"));
        }
        let span = [u32::MAX, 32, 64, 128][swizzle as usize];
        if interleave == 0 && inner > span {
            return Err(format!("the inner box dimension is {inner} bytes; the swizzle spans {span}"));
        }
        if interleave != 0 && rank < 3 {
            return Err("an interleaved layout needs rank 3 or more".into());
        }
        if interleave == 2 && swizzle != 1 {
            return Err("interleave of 32 bytes needs a swizzle of 32 bytes".into());
        }
        if fill == 1 && data_type < 6 {
            return Err("NaN fill needs a floating-point type".into());
        }
        let mut map = TensorMap {
            data_type: data_type as u8,
            rank: rank as u8,
            address,
            dims: [1; 5],
            strides: [0; 5],
            box_dims: [1; 5],
            element_strides: [1; 5],
            interleave: interleave as u8,
            swizzle: swizzle as u8,
            promotion: promotion as u8,
            fill: fill as u8,
        };
        map.dims[..rank].copy_from_slice(dims);
        map.strides[0] = u64::from(size);
        map.strides[1..rank].copy_from_slice(strides);
        map.box_dims[..rank].copy_from_slice(box_dims);
        map.element_strides[..rank].copy_from_slice(element_strides);
        Ok(map)
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> u32 {
        self.strides[0] as u32
    }

    /// Elements of the box that are copied along each dimension: every `element_strides`-th.
    pub fn copied(&self) -> [u32; 5] {
        std::array::from_fn(|k| self.box_dims[k].div_ceil(self.element_strides[k]))
    }

    /// Bytes that one box takes in shared memory, which are also the bytes its barrier counts.
    pub fn box_bytes(&self) -> u32 {
        self.copied().iter().product::<u32>() * self.element_bytes()
    }

    /// The 128 bytes, as words.
    pub fn encode(&self) -> [u64; 16] {
        let mut w = [0u64; 16];
        w[0] = MAGIC;
        w[1] = self.address;
        let bytes =
            [self.data_type, self.rank, self.interleave, self.swizzle, self.promotion, self.fill, 0, 0];
        w[2] = u64::from_le_bytes(bytes);
        w[3..8].copy_from_slice(&self.dims);
        w[8..12].copy_from_slice(&self.strides[1..]);
        for k in 0..4 {
            w[12] |= u64::from(self.box_dims[k]) << (16 * k);
        }
        w[13] = u64::from(self.box_dims[4]);
        for k in 0..5 {
            w[13] |= u64::from(self.element_strides[k]) << (16 + 8 * k);
        }
        w
    }

    /// Reads what [`TensorMap::encode`] wrote; `None` for any other bytes.
    pub fn decode(w: &[u64; 16]) -> Option<TensorMap> {
        let [data_type, rank, interleave, swizzle, promotion, fill, 0, 0] = w[2].to_le_bytes() else {
            return None;
        };
        if w[0] != MAGIC || !(1..=5).contains(&rank) {
            return None;
        }
        let size = *ELEMENT_BYTES.get(usize::from(data_type))?;
        let mut strides = [u64::from(size), 0, 0, 0, 0];
        strides[1..].copy_from_slice(&w[8..12]);
        let box_dim =
            |k: usize| if k < 4 { (w[12] >> (16 * k)) as u32 & 0xFFFF } else { w[13] as u32 & 0xFFFF };
        let map = TensorMap {
            data_type,
            rank,
            address: w[1],
            dims: std::array::from_fn(|k| w[3 + k]),
            strides,
            box_dims: std::array::from_fn(box_dim),
            element_strides: std::array::from_fn(|k| (w[13] >> (16 + 8 * k)) as u32 & 0xFF),
            interleave,
            swizzle,
            promotion,
            fill,
        };
        let sound = map.box_dims.iter().all(|n| (1..=256).contains(n))
            && map.element_strides.iter().all(|n| (1..=8).contains(n))
            && swizzle <= 3
            && interleave <= 2;
        sound.then_some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> TensorMap {
        TensorMap::tiled(9, 0x2_0000_0000, &[1000, 300], &[2048], &[64, 128], &[1, 1], 0, 3, 2, 0).unwrap()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let map = matrix();
        assert_eq!(TensorMap::decode(&map.encode()), Some(map.clone()));
        assert_eq!((map.element_bytes(), map.box_bytes()), (2, 64 * 128 * 2));
        let deep = TensorMap::tiled(
            7,
            64,
            &[8, 2, 3, 4, 5],
            &[32, 64, 192, 768],
            &[8, 2, 1, 4, 256],
            &[1, 2, 1, 1, 8],
            0,
            0,
            0,
            1,
        );
        let deep = deep.unwrap();
        assert_eq!(TensorMap::decode(&deep.encode()), Some(deep.clone()));
        assert_eq!(deep.copied(), [8, 1, 1, 4, 32]);
    }

    #[test]
    fn other_bytes_are_no_map() {
        assert_eq!(TensorMap::decode(&[0; 16]), None);
        let mut words = matrix().encode();
        words[13] = 0;
        assert_eq!(TensorMap::decode(&words), None);
    }

    #[test]
    fn each_rule_is_held() {
        let make = |address, dims: &[u64], strides: &[u64], boxes: &[u32], swizzle| {
            let ones = vec![1; dims.len()];
            TensorMap::tiled(9, address, dims, strides, boxes, &ones, 0, swizzle, 0, 0)
        };
        let says = |result: Result<TensorMap, String>, what: &str| {
            let error = result.unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        says(make(8, &[64, 64], &[128], &[64, 64], 0), "address");
        says(make(16, &[64, 0], &[128], &[64, 64], 0), "dimension 1 is 0");
        says(make(16, &[64, 64], &[130], &[64, 64], 0), "stride of dimension 1");
        says(make(16, &[64, 64], &[128], &[64, 257], 0), "box dimension 1");
        says(make(16, &[64, 64], &[128], &[4, 64], 0), "multiple of 16");
        says(make(16, &[64, 64], &[128], &[64, 64], 1), "swizzle spans 32");
        says(make(16, &[64, 64], &[], &[64, 64], 0), "strides");
    }
}
