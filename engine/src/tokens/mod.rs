//! Pictures as tokens, and the files that hold them.
//!
//! The original writes `np.save` of an int64 array `[B, K]`; `.npy` files here are those, byte for byte. `.json` is for
//! people and scripts, `.safetensors` for training pipelines. A file holds *index* order unless it is asked to hold
//! *autoregressive* order, the order of writing in which index `K-1` comes first, which is what a language model reads.

mod json;
mod npy;
mod tensors;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic::{self, WriteError};

/// In which order the tokens of a picture stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Index 0 first, as the original writes.
    #[default]
    Index,
    /// Index `K-1` first: the order in which a language model writes them.
    Ar,
}

impl Order {
    /// `index` or `ar`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Ar => "ar",
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Order {
    type Err = TokensError;

    fn from_str(name: &str) -> Result<Self, TokensError> {
        match name {
            "index" => Ok(Self::Index),
            "ar" => Ok(Self::Ar),
            _ => Err(TokensError::UnknownOrder { order: name.into() }),
        }
    }
}

/// Why tokens could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file could not be opened or read.
    #[error("{}: cannot read the token file: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than any token file has reason to be.
    #[error("{}: larger than {} MiB, the limit for such a token file", path.display(), max >> 20)]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        max: u64,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The extension names no format for tokens.
    #[error("{}: token files end in .npy, .json or .safetensors", path.display())]
    UnknownExtension {
        /// The file.
        path: PathBuf,
    },
    /// The content is not what its format or its header says.
    #[error("{name}: {reason}")]
    Malformed {
        /// The file.
        name: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The file says that it holds another order than the one asked for.
    #[error("{name}: holds tokens in {stored} order, but {asked} order was asked for")]
    OrderMismatch {
        /// The file.
        name: String,
        /// The order that the file records.
        stored: Order,
        /// The order that the caller named.
        asked: Order,
    },
    /// Not the name of an order.
    #[error(
        "order {order:?}: choose index (as the original stores tokens) or ar (as a language model writes them)"
    )]
    UnknownOrder {
        /// The name given.
        order: String,
    },
    /// Ids and dimensions do not fit together.
    #[error("{ids} token ids do not make {batch} pictures of {len} tokens")]
    WrongLength {
        /// Number of ids given.
        ids: usize,
        /// Pictures.
        batch: usize,
        /// Tokens of a picture.
        len: usize,
    },
    /// The model has another number of tokens for a picture.
    #[error("{len} tokens for each picture, but the model has {num_tokens}")]
    WrongNumber {
        /// Tokens of a picture here.
        len: usize,
        /// Tokens of a picture in the model.
        num_tokens: usize,
    },
    /// An id is not in the model's codebook.
    #[error("picture {picture}, token {index}: id {id} is not in the codebook of {codebook_size} (0 to {})", codebook_size.saturating_sub(1))]
    OutOfRange {
        /// Which picture of the batch.
        picture: usize,
        /// Which token, in index order.
        index: usize,
        /// The id.
        id: u32,
        /// Number of codes.
        codebook_size: usize,
    },
}

/// The tokens of a batch of pictures: `[batch, len]` ids in index order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>,
    batch: usize,
    len: usize,
}

impl Tokens {
    /// Tokens of `batch` pictures of `len` ids each, picture after picture, in index order.
    pub fn new(ids: Vec<u32>, batch: usize, len: usize) -> Result<Self, TokensError> {
        if ids.is_empty() || batch.checked_mul(len) != Some(ids.len()) {
            return Err(TokensError::WrongLength { ids: ids.len(), batch, len });
        }
        Ok(Self { ids, batch, len })
    }

    /// Number of pictures, at least 1.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of each picture, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "never empty, and `len` is the K of each picture")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All ids: `batch * len`, picture after picture, in index order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids of each picture in turn.
    pub fn pictures(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.ids.chunks_exact(self.len)
    }

    /// The same tokens with those of each picture in the opposite order.
    fn reversed(&self) -> Self {
        let ids = self.pictures().flat_map(|ids| ids.iter().rev().copied()).collect();
        Self { ids, ..*self }
    }

    /// Checks them against a model: its tokens for a picture and the size of its codebook.
    pub fn check(&self, num_tokens: usize, codebook_size: usize) -> Result<(), TokensError> {
        if self.len != num_tokens {
            return Err(TokensError::WrongNumber { len: self.len, num_tokens });
        }
        match self.ids.iter().position(|&id| id as usize >= codebook_size) {
            None => Ok(()),
            Some(at) => {
                let (picture, index, id) = (at / self.len, at % self.len, self.ids[at]);
                Err(TokensError::OutOfRange { picture, index, id, codebook_size })
            }
        }
    }

    /// Reads a `.npy`, `.json` or `.safetensors` file, in the order that it records; an unmarked file holds index order.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TokensError> {
        Self::read(path.as_ref(), None)
    }

    /// Reads a file that holds `order`; a file that records another is refused.
    pub fn load_as(path: impl AsRef<Path>, order: Order) -> Result<Self, TokensError> {
        Self::read(path.as_ref(), Some(order))
    }

    fn read(path: &Path, order: Option<Order>) -> Result<Self, TokensError> {
        let format = Format::of(path)?;
        let max = format.max_file_bytes();
        let bytes = crate::bounded::read(path, max)
            .map_err(|source| TokensError::Read { path: path.into(), source })?
            .ok_or_else(|| TokensError::FileTooLarge { path: path.into(), max })?;
        format.decode(&bytes, &path.display().to_string(), order)
    }

    /// Writes a `.npy`, `.json` or `.safetensors` file in index order, whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TokensError> {
        self.save_as(path, Order::Index)
    }

    /// Writes a file in the given order, whole or not at all.
    pub fn save_as(&self, path: impl AsRef<Path>, order: Order) -> Result<(), TokensError> {
        let path = path.as_ref();
        let bytes = Format::of(path)?.encode(self, order);
        Ok(atomic::write(path, &bytes)?)
    }
}

/// The formats of token files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// NumPy's array file, int64 `[B, K]`; records no order.
    Npy,
    /// `{"order": "index", "tokens": [[...], ...]}`; a bare list is read too.
    Json,
    /// One tensor `tokens`, int64 `[B, K]`, the order in the metadata.
    Safetensors,
}

impl Format {
    /// The format that a file name's extension stands for.
    pub fn of(path: &Path) -> Result<Self, TokensError> {
        match path.extension().map(|e| e.to_string_lossy().to_lowercase()).as_deref() {
            Some("npy") => Ok(Self::Npy),
            Some("json") => Ok(Self::Json),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => Err(TokensError::UnknownExtension { path: path.into() }),
        }
    }

    /// 2^27 int64 values are a quarter of a million pictures of 512 tokens; JSON takes many times its size to parse.
    fn max_file_bytes(self) -> u64 {
        match self {
            Self::Npy | Self::Safetensors => 1 << 30,
            Self::Json => 64 << 20,
        }
    }

    /// The bytes of a file of `tokens` in `order`.
    pub fn encode(self, tokens: &Tokens, order: Order) -> Vec<u8> {
        let reversed;
        let tokens = match order {
            Order::Index => tokens,
            Order::Ar => {
                reversed = tokens.reversed();
                &reversed
            }
        };
        match self {
            Self::Npy => npy::encode(tokens),
            Self::Json => json::encode(tokens, order),
            Self::Safetensors => tensors::encode(tokens, order),
        }
    }

    /// Reads the bytes of a file; `name` is what errors call it, `order` the order it holds;
    /// `None` believes what the file records.
    pub fn decode(self, bytes: &[u8], name: &str, order: Option<Order>) -> Result<Tokens, TokensError> {
        let malformed = |reason| TokensError::Malformed { name: name.into(), reason };
        let (tokens, stored) = match self {
            Self::Npy => (npy::decode(bytes).map_err(malformed)?, None),
            Self::Json => json::decode(bytes).map_err(malformed)?,
            Self::Safetensors => tensors::decode(bytes).map_err(malformed)?,
        };
        if let (Some(stored), Some(asked)) = (stored, order)
            && stored != asked
        {
            return Err(TokensError::OrderMismatch { name: name.into(), stored, asked });
        }
        Ok(match order.or(stored).unwrap_or_default() {
            Order::Index => tokens,
            Order::Ar => tokens.reversed(),
        })
    }
}

/// Integers as files hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dtype {
    I64,
    U64,
    I32,
    U32,
    I16,
    U16,
    U8,
}

impl Dtype {
    fn bytes(self) -> usize {
        match self {
            Self::I64 | Self::U64 => 8,
            Self::I32 | Self::U32 => 4,
            Self::I16 | Self::U16 => 2,
            Self::U8 => 1,
        }
    }

    /// Tokens of `shape` (`[B, K]`, or `[K]` for one picture) from just as many raw values.
    fn tokens(self, data: &[u8], shape: &[usize], big_endian: bool) -> Result<Tokens, String> {
        let (batch, len) = match *shape {
            [len] => (1, len),
            [batch, len] => (batch, len),
            _ => return Err(format!("shape {shape:?}; tokens are [pictures, tokens] or [tokens]")),
        };
        let expected = batch.checked_mul(len).and_then(|n| n.checked_mul(self.bytes()));
        if expected != Some(data.len()) {
            return Err(format!(
                "the header says {batch} x {len} values, but {} bytes of them are there",
                data.len()
            ));
        }
        if data.is_empty() {
            return Err(format!("shape {shape:?} holds no tokens"));
        }
        let read = |raw: &[u8]| {
            let mut bytes = [0; 8];
            bytes[..raw.len()].copy_from_slice(raw);
            if big_endian {
                bytes[..raw.len()].reverse();
            }
            let unsigned = u64::from_le_bytes(bytes);
            match self {
                Self::I32 => i64::from(unsigned as i32),
                Self::I16 => i64::from(unsigned as i16),
                // Above 2^63 the sign shows, and a negative id is refused all the same.
                _ => unsigned as i64,
            }
        };
        let ids = data.chunks_exact(self.bytes()).enumerate().map(|(i, raw)| id(i / len, i % len, read(raw)));
        let ids = ids.collect::<Result<_, _>>()?;
        Tokens::new(ids, batch, len).map_err(|e| e.to_string())
    }
}

/// An id that fits; whether it fits the model is [`Tokens::check`]'s to say.
fn id(picture: usize, index: usize, value: i64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| {
        format!("picture {picture}, position {index}: {value} is no token id (0 to {})", u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Damage, TempDir, golden};

    fn sample() -> Tokens {
        Tokens::new(vec![0, 1, 2, 3, 4095, 32767], 2, 3).unwrap()
    }

    #[test]
    fn every_format_brings_tokens_back_in_either_order() {
        let dir = TempDir::new();
        for name in ["t.npy", "t.json", "t.safetensors", "T.NPY"] {
            for order in [Order::Index, Order::Ar] {
                let path = dir.path().join(name);
                sample().save_as(&path, order).unwrap();
                assert_eq!(Tokens::load_as(&path, order).unwrap(), sample(), "{name} {order}");
            }
        }
    }

    #[test]
    fn an_order_on_record_is_believed_and_a_contradiction_refused() {
        for format in [Format::Json, Format::Safetensors] {
            let bytes = format.encode(&sample(), Order::Ar);
            assert_eq!(format.decode(&bytes, "t", None).unwrap(), sample());
            let error = format.decode(&bytes, "t", Some(Order::Index)).unwrap_err();
            assert_eq!(error.to_string(), "t: holds tokens in ar order, but index order was asked for");
        }
        // An array file has no record: what is asked for holds.
        let bytes = Format::Npy.encode(&sample(), Order::Ar);
        assert_eq!(Format::Npy.decode(&bytes, "t", None).unwrap().ids(), [2, 1, 0, 32767, 4095, 3]);
    }

    #[test]
    fn the_golden_array_is_read_and_written_byte_for_byte() {
        for name in ["pipe_tokens_fp32.npy", "pipe_tokens_bf16.npy"] {
            let tokens = Tokens::load(golden(name)).unwrap();
            assert_eq!((tokens.batch(), tokens.len()), (1, 16));
            assert_eq!(Format::Npy.encode(&tokens, Order::Index), std::fs::read(golden(name)).unwrap());
        }
    }

    #[test]
    fn the_model_decides_what_fits() {
        assert!(sample().check(3, 32768).is_ok());
        let error = sample().check(4, 32768).unwrap_err();
        assert_eq!(error.to_string(), "3 tokens for each picture, but the model has 4");
        let error = sample().check(3, 4096).unwrap_err();
        assert_eq!(
            error.to_string(),
            "picture 1, token 2: id 32767 is not in the codebook of 4096 (0 to 4095)"
        );
    }

    #[test]
    fn ids_must_fill_the_shape() {
        for (batch, len) in [(2, 2), (0, 0), (usize::MAX, 2)] {
            assert!(Tokens::new(vec![1, 2, 3], batch, len).is_err());
        }
        assert!(Tokens::new(vec![], 0, 5).is_err());
    }

    #[test]
    fn errors_name_the_file_and_the_way_out() {
        let error = Tokens::load("tokens.txt").unwrap_err();
        assert_eq!(error.to_string(), "tokens.txt: token files end in .npy, .json or .safetensors");
        let error = Tokens::load("no/such.npy").unwrap_err();
        assert!(error.to_string().starts_with("no/such.npy: cannot read the token file"), "{error}");
        assert!("ascending".parse::<Order>().unwrap_err().to_string().contains("choose index"));
    }

    #[test]
    fn damaged_files_give_tokens_or_an_error_and_never_panic() {
        let mut damage = Damage(11);
        for format in [Format::Npy, Format::Json, Format::Safetensors] {
            let file = format.encode(&sample(), Order::Index);
            let mut refused = 0;
            for _ in 0..4000 {
                refused += usize::from(format.decode(&damage.mutate(&file), "damaged", None).is_err());
            }
            assert!(refused > 1000, "{format:?}: only {refused} refused");
        }
    }
}
