//! Where weights come from, as a trait: mapped files in production, a rule that generates them in tests (two thousand
//! million parameters cannot be held at once), a renamed view of either. Whoever packs weights reads them through
//! this and nothing else.

use std::collections::HashMap;
use std::ops::Range;

use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result};

/// Dtype and shape of a tensor. An empty shape is a scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How the elements are stored.
    pub dtype: DType,
    /// Row-major dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements (1 for a scalar). Every source checks at construction that this does not overflow.
    pub fn numel(&self) -> usize {
        checked_numel(&self.shape).unwrap_or(usize::MAX)
    }

    /// Number of rows: the first dimension (1 for a scalar).
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of one row: the product of all dimensions but the first.
    pub fn row_len(&self) -> usize {
        self.shape.get(1..).and_then(checked_numel).unwrap_or(1)
    }
}

/// A collection of named tensors that can be read piece by piece as f32.
pub trait TensorSource: Send + Sync {
    /// What to call the collection in messages: a path, or a word.
    fn label(&self) -> String;

    /// All names, in file order.
    fn names(&self) -> Vec<&str>;

    /// Dtype and shape, or `None` if there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads the elements `start .. start + out.len()` of a tensor, row-major, as f32.
    ///
    /// Errors: no such tensor, or the range leaves it.
    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;

    /// The stored bytes of the whole tensor if they lie in memory as they are, else `None`. May be unaligned.
    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let _ = name;
        None
    }

    /// Copies the stored bytes of whole rows (see [`TensorInfo::rows`]), for formats that are kept as they are, such
    /// as quantised blocks. `out` must be exactly as long as those rows.
    ///
    /// Errors: no such tensor, rows outside it, wrong length of `out`, or the source has no stored bytes for it.
    fn read_rows_raw(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let info = self.require(name)?;
        let Some(bytes) = self.bytes(name) else {
            return Err(no_bytes(name, info.dtype, "this source holds no stored form of it"));
        };
        let range = row_bytes(name, &info, rows, out.len())?;
        out.copy_from_slice(&bytes[range]);
        Ok(())
    }

    /// Tells the source that the tensor has been packed, so that its pages can go. It may be read again, at the price
    /// of fetching it again.
    fn release(&self, name: &str) {
        let _ = name;
    }

    /// Reads the rows `rows` (see [`TensorInfo::rows`]) as f32; `out` must be exactly as long as those rows.
    ///
    /// Errors: no such tensor, rows outside it, or wrong length of `out`.
    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let info = self.require(name)?;
        let len = info.row_len();
        let (start, end) = (rows.start.saturating_mul(len), rows.end.saturating_mul(len));
        if rows.start > rows.end || rows.end > info.rows() || end - start != out.len() {
            let end = if rows.end <= info.rows() { start.saturating_add(out.len()) } else { end };
            return Err(Error::OutOfRange { tensor: name.into(), start, end, len: info.numel() });
        }
        self.read_f32(name, start, out)
    }

    /// The whole tensor as f32. For small tensors; large ones are better read row by row.
    fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.require(name)?.numel()];
        self.read_f32(name, 0, &mut out)?;
        Ok(out)
    }

    /// [`TensorSource::info`], or the error that says the tensor is not there.
    fn require(&self, name: &str) -> Result<TensorInfo> {
        self.info(name).ok_or_else(|| Error::NoTensor { path: self.label().into(), tensor: name.into() })
    }
}

pub(crate) fn no_bytes(name: &str, dtype: DType, what: &str) -> Error {
    Error::NoBytes { tensor: name.into(), dtype, what: what.into() }
}

pub(crate) fn check_range(name: &str, start: usize, count: usize, len: usize) -> Result<()> {
    match start.checked_add(count) {
        Some(end) if end <= len => Ok(()),
        end => Err(Error::OutOfRange { tensor: name.into(), start, end: end.unwrap_or(usize::MAX), len }),
    }
}

/// The bytes of whole rows, checked against the tensor and the length of the receiving slice.
pub(crate) fn row_bytes(
    name: &str,
    info: &TensorInfo,
    rows: Range<usize>,
    out: usize,
) -> Result<Range<usize>> {
    let Some(row) = info.dtype.bytes_of(info.row_len()) else {
        return Err(no_bytes(name, info.dtype, "a row is not a whole number of blocks"));
    };
    let total = row * info.rows();
    let (start, end) = (rows.start.saturating_mul(row), rows.end.saturating_mul(row));
    if rows.start > rows.end || end > total || end - start != out {
        let what = format!(
            "rows {}..{} of {} are {} bytes, the receiver has {out}",
            rows.start,
            rows.end,
            info.rows(),
            end.saturating_sub(start)
        );
        return Err(no_bytes(name, info.dtype, &what));
    }
    Ok(start..end)
}

type Rule = dyn Fn(&str, usize, &mut [f32]) + Send + Sync;

/// Weights that are computed when read, by a rule `(name, first element, out)`. Nothing is stored.
pub struct Generated {
    names: Vec<String>,
    infos: HashMap<String, TensorInfo>,
    rule: Box<Rule>,
}

impl Generated {
    /// A source of f32 tensors of these names and shapes, whose elements the rule computes. If a name comes twice,
    /// the last shape counts.
    pub fn new(
        tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
        rule: impl Fn(&str, usize, &mut [f32]) + Send + Sync + 'static,
    ) -> Self {
        let mut names = Vec::new();
        let mut infos = HashMap::new();
        for (name, shape) in tensors {
            if infos.insert(name.clone(), TensorInfo { dtype: DType::F32, shape }).is_none() {
                names.push(name);
            }
        }
        Generated { names, infos, rule: Box::new(rule) }
    }
}

impl TensorSource for Generated {
    fn label(&self) -> String {
        "generated weights".into()
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.infos.get(name).cloned()
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        check_range(name, start, out.len(), self.require(name)?.numel())?;
        (self.rule)(name, start, out);
        Ok(())
    }
}
