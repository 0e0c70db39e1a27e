//! An open collection of named tensors, whatever file format they lie in.
//!
//! Opening maps the files and reads headers only; the bytes of a tensor are borrowed from the map and reach memory
//! when first touched. So opening nine gigabytes takes milliseconds, and packing needs room for the packed copy
//! alone.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::convert;
use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result};
use crate::gguf::{self, MetaTable, Metadata};
use crate::mapped::MappedFile;
use crate::source::{TensorInfo, TensorSource, check_range};
use crate::{open, safetensors};

/// One tensor of a file: where its bytes lie. Parsers guarantee that the range is inside the file and as long as
/// shape and dtype say.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub file: usize,
    pub range: Range<usize>,
}

/// A borrowed tensor.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// How its elements are stored.
    pub dtype: DType,
    /// Row-major dimensions, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// Its elements, little-endian, row-major, at any alignment.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        checked_numel(self.shape).unwrap_or(usize::MAX)
    }

    /// Reads the elements `elements` (row-major) as f32 into `out`, which must have their number. Nothing else is
    /// converted or copied. I64 and I32 beyond 2^24 round to the nearest f32.
    ///
    /// Errors: a range outside the tensor or not as long as `out`.
    pub fn to_f32_into(&self, elements: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (start, len) = (elements.start, self.numel());
        if elements.end > len || elements.end.checked_sub(start) != Some(out.len()) {
            let end = if elements.end > len { elements.end } else { start.saturating_add(out.len()) };
            return Err(Error::OutOfRange { tensor: self.name.into(), start, end, len });
        }
        convert::to_f32(self.dtype, self.bytes, start, out);
        Ok(())
    }
}

/// An open collection of named tensors over one or more files. Immutable, `Send + Sync`.
pub struct Weights {
    label: PathBuf,
    files: Vec<MappedFile>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    metadata: HashMap<String, String>,
    gguf: Option<MetaTable>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({}, {} tensors)", self.label.display(), self.entries.len())
    }
}

impl Weights {
    /// Opens a file of weights (its format is judged by its first bytes), an `*.index.json` with its shards, or a
    /// folder that holds one of those under the usual names of Hugging Face and diffusers.
    ///
    /// Errors: the file cannot be read, its format is not known, or it contradicts its format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        open::open(path.as_ref())
    }

    /// Reads a whole file from memory; `label` stands for its path in messages.
    ///
    /// Errors: as for [`Weights::open`].
    pub fn from_bytes(label: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        open::file(MappedFile::owned(label.as_ref(), bytes))
    }

    /// A collection of tensors in memory: (name, dtype, shape, little-endian bytes).
    ///
    /// Errors: a name twice, or bytes that do not fit the shape.
    pub fn from_tensors(
        label: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (String, DType, Vec<usize>, Vec<u8>)>,
    ) -> Result<Self> {
        let label = label.as_ref();
        let (mut files, mut entries) = (Vec::new(), Vec::new());
        for (name, dtype, shape, bytes) in tensors {
            if checked_numel(&shape).and_then(|n| dtype.bytes_of(n)) != Some(bytes.len()) {
                let what = format!("{} bytes given for shape {shape:?} of {dtype}", bytes.len());
                return Err(Error::tensor(label, &name, what));
            }
            entries.push(Entry { name, dtype, shape, file: files.len(), range: 0..bytes.len() });
            files.push(MappedFile::owned(label, bytes));
        }
        Self::new(label, files, entries, HashMap::new())
    }

    /// `entries` must lie inside `files`; that no name comes twice is checked here, for all formats.
    pub(crate) fn new(
        label: &Path,
        files: Vec<MappedFile>,
        entries: Vec<Entry>,
        metadata: HashMap<String, String>,
    ) -> Result<Self> {
        let mut index = HashMap::with_capacity(entries.len());
        for (i, e) in entries.iter().enumerate() {
            if let Some(first) = index.insert(e.name.clone(), i) {
                let what = if entries[first].file == e.file {
                    "the name comes twice".to_owned()
                } else {
                    let (a, b) = (files[entries[first].file].path(), files[e.file].path());
                    format!("the name comes in two files, {} and {}", a.display(), b.display())
                };
                return Err(Error::tensor(label, &e.name, what));
            }
        }
        Ok(Weights { label: label.to_owned(), files, entries, index, metadata, gguf: None })
    }

    /// Joins the files of a sharded model into one collection.
    pub(crate) fn join(label: &Path, shards: Vec<Weights>) -> Result<Self> {
        let (mut files, mut entries, mut metadata) = (Vec::new(), Vec::new(), HashMap::new());
        for shard in shards {
            let base = files.len();
            files.extend(shard.files);
            entries.extend(shard.entries.into_iter().map(|e| Entry { file: e.file + base, ..e }));
            metadata.extend(shard.metadata);
        }
        Self::new(label, files, entries, metadata)
    }

    pub(crate) fn from_safetensors(file: MappedFile) -> Result<Self> {
        let (entries, metadata) = safetensors::parse(file.path(), file.bytes())?;
        let label = file.path().to_owned();
        Self::new(&label, vec![file], entries, metadata)
    }

    pub(crate) fn from_gguf(file: MappedFile) -> Result<Self> {
        let (entries, table) = gguf::parse(file.path(), file.bytes())?;
        let label = file.path().to_owned();
        Ok(Weights { gguf: Some(table), ..Self::new(&label, vec![file], entries, HashMap::new())? })
    }

    /// The path that was opened, or the label given instead.
    pub fn path(&self) -> &Path {
        &self.label
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All tensors, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.entries.iter().map(|e| self.borrow(e))
    }

    /// All names, in file order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        self.index.get(name).map(|&i| self.borrow(&self.entries[i]))
    }

    /// A tensor by name, or the error that says there is none.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.get(name).ok_or_else(|| Error::NoTensor { path: self.label.clone(), tensor: name.into() })
    }

    /// A value of the `__metadata__` of a safetensors file.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The typed metadata of a GGUF file; `None` for every other format.
    pub fn gguf(&self) -> Option<Metadata<'_>> {
        let file = self.files.first()?.bytes();
        self.gguf.as_ref().map(|table| Metadata { table, file })
    }

    /// Lets go of a tensor's pages, after it was packed. It can be read again; the pages come back from the file.
    pub fn advise_dontneed(&self, name: &str) {
        if let Some(&i) = self.index.get(name) {
            let e = &self.entries[i];
            self.files[e.file].dontneed(&e.range);
        }
    }

    fn borrow<'a>(&'a self, e: &'a Entry) -> Tensor<'a> {
        Tensor {
            name: &e.name,
            dtype: e.dtype,
            shape: &e.shape,
            bytes: &self.files[e.file].bytes()[e.range.clone()],
        }
    }
}

impl TensorSource for Weights {
    fn label(&self) -> String {
        self.label.display().to_string()
    }

    fn names(&self) -> Vec<&str> {
        Weights::names(self).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let e = &self.entries[*self.index.get(name)?];
        Some(TensorInfo { dtype: e.dtype, shape: e.shape.clone() })
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let t = self.tensor(name)?;
        check_range(name, start, out.len(), t.numel())?;
        convert::to_f32(t.dtype, t.bytes, start, out);
        Ok(())
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(|t| t.bytes)
    }

    fn release(&self, name: &str) {
        self.advise_dontneed(name);
    }
}
