//! Named tensors as a safetensors file holds them: what goes into a black box and what comes out.
//!
//! Two kinds of number are enough here: every float is read as f32 and every integer as i64, so that a script may
//! save ids and timesteps in whatever type it has them.

use super::NetworkError;
use crate::{Error, atomic};
use safetensors::tensor::TensorView;
use selftok_loader::{DType, TensorSource, Weights};
use std::collections::BTreeMap;
use std::path::Path;

/// The elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floating-point numbers.
    F32(Vec<f32>),
    /// Integers: ids, indices, timesteps.
    I64(Vec<i64>),
}

impl Values {
    pub(super) fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::I64(values) => values.len(),
        }
    }

    /// The numbers as floats.
    pub(super) fn to_f32(&self) -> Vec<f32> {
        match self {
            Values::F32(values) => values.clone(),
            Values::I64(values) => values.iter().map(|&x| x as f32).collect(),
        }
    }

    /// Of a mask: whether each element is set; `None` where one is neither 0 nor 1.
    pub(super) fn mask(&self) -> Option<Vec<bool>> {
        let truth = |zero, one| if zero || one { Some(one) } else { None };
        match self {
            Values::F32(values) => values.iter().map(|&x| truth(x == 0.0, x == 1.0)).collect(),
            Values::I64(values) => values.iter().map(|&x| truth(x == 0, x == 1)).collect(),
        }
    }

    /// Of a mask in rows of `length`: the number of ones with which each begins; `None` where one has none, or ones behind
    /// zeros.
    pub(super) fn ones(&self, length: usize) -> Option<Vec<u32>> {
        let ones = |row: &[bool]| {
            let ones = row.iter().take_while(|set| **set).count();
            (ones > 0 && !row[ones..].contains(&true)).then_some(ones as u32)
        };
        self.mask()?.chunks_exact(length).map(ones).collect()
    }
}

/// A tensor with a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Row-major dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many elements as the shape says.
    pub values: Values,
}

/// Tensors by name, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedTensors {
    tensors: BTreeMap<String, NamedTensor>,
}

impl NamedTensors {
    /// None yet.
    pub fn new() -> NamedTensors {
        NamedTensors::default()
    }

    /// Reads every tensor of a safetensors file (or another that the loader reads).
    ///
    /// # Errors
    /// If the file cannot be read or is not valid.
    pub fn open(path: impl AsRef<Path>) -> Result<NamedTensors, Error> {
        let file = Weights::open(path)?;
        let mut tensors = NamedTensors::new();
        for tensor in file.iter() {
            let values = match tensor.dtype {
                DType::I64 => Values::I64(integers(tensor.bytes, i64::from_le_bytes)),
                DType::I32 => Values::I64(integers(tensor.bytes, |b| i32::from_le_bytes(b).into())),
                DType::I16 => Values::I64(integers(tensor.bytes, |b| i16::from_le_bytes(b).into())),
                DType::I8 => Values::I64(integers(tensor.bytes, |b: [u8; 1]| (b[0] as i8).into())),
                DType::U8 | DType::Bool => Values::I64(integers(tensor.bytes, |b: [u8; 1]| b[0].into())),
                _ => Values::F32(file.to_f32(tensor.name)?),
            };
            let tensor_of_shape = NamedTensor { shape: tensor.shape.to_vec(), values };
            tensors.tensors.insert(tensor.name.to_string(), tensor_of_shape);
        }
        Ok(tensors)
    }

    /// Writes a safetensors file (F32 and I64), whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written; the path is then as it was.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let bytes: Vec<(&String, safetensors::Dtype, &[usize], Vec<u8>)> = self
            .iter()
            .map(|(name, tensor)| {
                let (dtype, bytes) = match &tensor.values {
                    Values::F32(v) => {
                        (safetensors::Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect())
                    }
                    Values::I64(v) => {
                        (safetensors::Dtype::I64, v.iter().flat_map(|x| x.to_le_bytes()).collect())
                    }
                };
                (name, dtype, &tensor.shape[..], bytes)
            })
            .collect();
        let unwritable = |source: safetensors::SafeTensorError| NetworkError::Serialize {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let views = bytes
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.to_vec(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unwritable)?;
        let file = safetensors::serialize(views, None).map_err(unwritable)?;
        atomic::write(path, &file).map_err(NetworkError::from)?;
        Ok(())
    }

    /// Adds a tensor, replacing one of the same name.
    ///
    /// # Errors
    /// If the values do not fill the shape.
    pub fn insert(&mut self, name: impl Into<String>, shape: &[usize], values: Values) -> Result<(), Error> {
        let name = name.into();
        let wanted = if shape.contains(&0) {
            Some(0)
        } else {
            shape.iter().try_fold(1usize, |numel, &size| numel.checked_mul(size))
        };
        if wanted != Some(values.len()) {
            let (shape, len) = (shape.to_vec(), values.len());
            return Err(NetworkError::Fill { name, shape, len }.into());
        }
        self.tensors.insert(name, NamedTensor { shape: shape.to_vec(), values });
        Ok(())
    }

    /// As [`insert`](Self::insert), in a chain of values.
    ///
    /// # Errors
    /// If the values do not fill the shape.
    pub fn with(mut self, name: &str, shape: &[usize], values: Values) -> Result<NamedTensors, Error> {
        self.insert(name, shape, values)?;
        Ok(self)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&NamedTensor> {
        self.tensors.get(name)
    }

    /// The numbers of a tensor of floats.
    pub fn f32(&self, name: &str) -> Option<&[f32]> {
        match &self.get(name)?.values {
            Values::F32(values) => Some(values),
            Values::I64(_) => None,
        }
    }

    /// The numbers of a tensor of integers.
    pub fn i64(&self, name: &str) -> Option<&[i64]> {
        match &self.get(name)?.values {
            Values::I64(values) => Some(values),
            Values::F32(_) => None,
        }
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &NamedTensor)> {
        self.tensors.iter()
    }

    /// Names and shapes, for messages: `input_ids [2, 20], pixel_values [2, 3, 32, 32]`.
    pub fn describe(&self) -> String {
        let list: Vec<_> = self.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.shape)).collect();
        if list.is_empty() { "none".into() } else { list.join(", ") }
    }

    /// The dimensions of an input that must be there and have `N` of them, none empty; `expected` is the whole
    /// signature, for the message.
    ///
    /// # Errors
    /// If it is not there, has another number of dimensions, or an empty one.
    pub fn dims<const N: usize>(&self, name: &'static str, expected: &str) -> Result<[usize; N], Error> {
        let Some(tensor) = self.get(name) else {
            let (given, expected) = (self.describe(), expected.to_string());
            return Err(NetworkError::Missing { name: name.into(), given, expected }.into());
        };
        match <[usize; N]>::try_from(&tensor.shape[..]) {
            Ok(dims) if !dims.contains(&0) => Ok(dims),
            _ => {
                let (name, found, expected) = (name.into(), tensor.shape.clone(), expected.to_string());
                Err(NetworkError::Shape { name, found, expected }.into())
            }
        }
    }

    /// All but the tensor of that name.
    pub fn without(&self, name: &str) -> NamedTensors {
        let mut rest = self.clone();
        rest.tensors.remove(name);
        rest
    }

    /// The rows `range` of the first dimension of every tensor.
    pub(crate) fn rows(&self, range: std::ops::Range<usize>) -> NamedTensors {
        let cut = |tensor: &NamedTensor| {
            let row: usize = tensor.shape[1..].iter().product();
            let elements = range.start * row..range.end * row;
            let mut shape = tensor.shape.clone();
            shape[0] = range.len();
            let values = match &tensor.values {
                Values::F32(values) => Values::F32(values[elements].to_vec()),
                Values::I64(values) => Values::I64(values[elements].to_vec()),
            };
            NamedTensor { shape, values }
        };
        NamedTensors { tensors: self.iter().map(|(name, tensor)| (name.clone(), cut(tensor))).collect() }
    }

    /// Adds the rows of `other`, which has the same names and rows of the same shape, behind one's own.
    pub(crate) fn append(&mut self, other: NamedTensors) {
        for (name, theirs) in other.tensors {
            match self.tensors.entry(name) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(theirs);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let ours = entry.get_mut();
                    ours.shape[0] += theirs.shape[0];
                    match (&mut ours.values, theirs.values) {
                        (Values::F32(a), Values::F32(b)) => a.extend(b),
                        (Values::I64(a), Values::I64(b)) => a.extend(b),
                        _ => unreachable!("one network gives one type by one name"),
                    }
                }
            }
        }
    }
}

fn integers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_file_gives_back_what_was_saved() {
        let dir = TempDir::new();
        let path = dir.path().join("t.safetensors");
        let tensors = NamedTensors::new()
            .with("x", &[2, 1], Values::F32(vec![0.5, -1.0]))
            .and_then(|t| t.with("ids", &[2], Values::I64(vec![1, -(1 << 40)])))
            .and_then(|t| t.with("scalar", &[], Values::F32(vec![3.0])))
            .unwrap();
        tensors.save(&path).unwrap();
        assert_eq!(NamedTensors::open(&path).unwrap(), tensors);
        assert_eq!(tensors.describe(), "ids [2], scalar [], x [2, 1]");
    }

    #[test]
    fn values_must_fill_the_shape() {
        let error = NamedTensors::new().with("x", &[2, 2], Values::F32(vec![0.0; 3])).unwrap_err();
        assert_eq!(error.to_string(), "tensor 'x': 3 numbers do not fill the shape [2, 2]");
        assert!(NamedTensors::new().with("x", &[usize::MAX, 2], Values::F32(vec![])).is_err());
        assert!(NamedTensors::new().with("x", &[usize::MAX, 0, 2], Values::F32(vec![])).is_ok());
    }

    #[test]
    fn what_is_missing_or_misshapen_is_said_with_what_was_expected() {
        let tensors = NamedTensors::new().with("x", &[2], Values::F32(vec![0.0; 2])).unwrap();
        let error = tensors.dims::<2>("y", "y [B, T]").unwrap_err().to_string();
        assert_eq!(error, "input 'y' is missing: given are x [2]; expected y [B, T]");
        let error = tensors.dims::<2>("x", "x [B, T]").unwrap_err().to_string();
        assert_eq!(error, "input 'x' has the shape [2]; expected x [B, T]");
    }
}
