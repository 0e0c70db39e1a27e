//! Name tables: how the tensors of a file become those that a model asks for.
//!
//! A table ([`Dialect`]) is data: each rule says which source names (patterns) give which target name and through
//! which rearrangement. Applying it makes a [`View`], a [`TensorSource`] of its own that rearranges while it reads,
//! so that renaming nine gigabytes copies nothing. All rearrangements but the transpose map runs of the result to
//! runs of the source, found by one function; the transpose gathers column pieces.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::dtype::{DType, checked_numel};
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::source::{TensorInfo, TensorSource, check_range, no_bytes, row_bytes};

/// How a target tensor is made of its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transform {
    /// As it is.
    Identity,
    /// A matrix [m, n] becomes [n, m].
    Transpose,
    /// The indices `start .. start + len` of an axis.
    Slice {
        /// Which axis.
        axis: usize,
        /// First index.
        start: usize,
        /// Number of indices.
        len: usize,
    },
    /// The piece `index` of an axis that is cut into `of` equal pieces, such as q of a fused q, k, v.
    Part {
        /// Which axis.
        axis: usize,
        /// Which piece, from 0.
        index: usize,
        /// How many pieces.
        of: usize,
    },
    /// All sources, one after the other along an axis.
    Concat {
        /// Which axis.
        axis: usize,
    },
    /// Undoes the row order that llama.cpp gives q and k: there, row `2j + s` of a head is what Hugging Face has at
    /// `s · head_dim/2 + j`, so that the pairs of a rotation are neighbours.
    Unpermute {
        /// Heads of this projection (for k, the number of key-value heads).
        heads: usize,
    },
}

/// One line of a table.
#[derive(Debug, Clone)]
struct Rule {
    from: Vec<Pattern>,
    to: Pattern,
    transform: Transform,
}

/// A table of names. A source name that no rule mentions keeps its name; one that several rules mention goes to all
/// of them.
#[derive(Debug, Clone, Default)]
pub struct Dialect {
    rules: Vec<Rule>,
}

impl Dialect {
    /// An empty table: everything keeps its name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a renaming.
    pub fn rename(self, from: &str, to: &str) -> Self {
        self.rule(&[from], to, Transform::Identity)
    }

    /// Adds a rule. For every source name that matches the first pattern of `from`, the other patterns and `to` are
    /// filled with what its letters and stars stood for. All transforms but `Concat` take one source.
    pub fn rule(mut self, from: &[&str], to: &str, transform: Transform) -> Self {
        let from = from.iter().map(|p| Pattern::new(p)).collect();
        self.rules.push(Rule { from, to: Pattern::new(to), transform });
        self
    }

    /// The view that this table gives of a source.
    ///
    /// Errors: a rule that lacks one of its sources, does not fit their shapes, or gives a name that is taken.
    pub fn apply(&self, source: Arc<dyn TensorSource>) -> Result<View> {
        let mut view = View { source: source.clone(), names: Vec::new(), tensors: HashMap::new() };
        let mut used = HashSet::new();
        for rule in &self.rules {
            for name in source.names() {
                let Some(first) = rule.from.first() else { continue };
                let Some(captures) = first.matches(name) else { continue };
                let fill = |p: &Pattern| {
                    p.fill(&captures).ok_or_else(|| Error::Dialect {
                        what: format!(
                            "the rule for `{name}` uses a letter or star that its first pattern lacks"
                        ),
                    })
                };
                let parts = rule.from.iter().map(fill).collect::<Result<Vec<_>>>()?;
                let to = fill(&rule.to)?;
                used.extend(parts.iter().cloned());
                view.add(to, parts, &rule.transform)?;
            }
        }
        for name in source.names() {
            if !used.contains(name) {
                view.add(name.to_owned(), vec![name.to_owned()], &Transform::Identity)?;
            }
        }
        Ok(view)
    }
}

/// A source seen through a table of names.
pub struct View {
    source: Arc<dyn TensorSource>,
    names: Vec<String>,
    tensors: HashMap<String, Mapped>,
}

struct Mapped {
    info: TensorInfo,
    parts: Vec<String>,
    op: Op,
}

/// A transform with the numbers of its shapes put in; lengths in elements.
enum Op {
    Identity,
    Transpose,
    /// `period` elements of the result lie in `source_period` of the source, from `offset` on.
    Slice {
        period: usize,
        source_period: usize,
        offset: usize,
    },
    /// Each period of the result is one period of every part.
    Concat {
        periods: Vec<usize>,
    },
    Unpermute {
        head_dim: usize,
        row: usize,
    },
}

impl View {
    fn add(&mut self, to: String, parts: Vec<String>, transform: &Transform) -> Result<()> {
        let bad = |what: String| Error::Dialect { what: format!("`{to}` of {parts:?}: {what}") };
        let infos = parts
            .iter()
            .map(|p| self.source.info(p).ok_or_else(|| bad(format!("{} has no `{p}`", self.source.label()))))
            .collect::<Result<Vec<_>>>()?;
        let (info, op) = resolve(transform, &infos).map_err(bad)?;
        let duplicate = Error::Dialect { what: format!("two rules give `{to}`") };
        if self.tensors.insert(to.clone(), Mapped { info, parts, op }).is_some() {
            return Err(duplicate);
        }
        self.names.push(to);
        Ok(())
    }

    fn mapped(&self, name: &str) -> Result<&Mapped> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::NoTensor { path: self.label().into(), tensor: name.into() })
    }
}

/// Shape, dtype and operation of the result; the error says what does not fit.
fn resolve(transform: &Transform, infos: &[TensorInfo]) -> Result<(TensorInfo, Op), String> {
    let [first, others @ ..] = infos else { return Err("no sources".into()) };
    if !others.is_empty() && !matches!(transform, Transform::Concat { .. }) {
        return Err(format!("{transform:?} takes one source"));
    }
    let shape = &first.shape;
    let inner = |axis: usize| checked_numel(&shape[axis + 1..]).unwrap_or(0);
    let mut info = first.clone();
    let op = match *transform {
        Transform::Identity => Op::Identity,
        Transform::Transpose => {
            let &[m, n] = &shape[..] else { return Err(format!("{shape:?} is not a matrix")) };
            info.shape = vec![n, m];
            Op::Transpose
        }
        Transform::Part { axis, index, of } => {
            let Some(&n) = shape.get(axis) else { return Err(format!("{shape:?} has no axis {axis}")) };
            if of == 0 || index >= of || n % of != 0 {
                return Err(format!("{n} cannot be cut into {of} equal pieces of which {index} is one"));
            }
            return resolve(&Transform::Slice { axis, start: index * (n / of), len: n / of }, infos);
        }
        Transform::Slice { axis, start, len } => {
            let Some(&n) = shape.get(axis) else { return Err(format!("{shape:?} has no axis {axis}")) };
            if start.checked_add(len).is_none_or(|end| end > n) {
                return Err(format!("{start}..+{len} leaves the {n} of axis {axis}"));
            }
            info.shape[axis] = len;
            let inner = inner(axis);
            Op::Slice { period: len * inner, source_period: n * inner, offset: start * inner }
        }
        Transform::Concat { axis } => {
            if axis >= shape.len() {
                return Err(format!("{shape:?} has no axis {axis}"));
            }
            let mut total = 0usize;
            for i in infos {
                let alike = i.shape.len() == shape.len()
                    && i.shape.iter().zip(shape).enumerate().all(|(a, (x, y))| a == axis || x == y);
                if !alike || i.dtype != first.dtype {
                    return Err(format!(
                        "{shape:?} of {} and {:?} of {} do not join",
                        first.dtype, i.shape, i.dtype
                    ));
                }
                total = total.checked_add(i.shape[axis]).ok_or("the result is impossibly large")?;
            }
            info.shape[axis] = total;
            checked_numel(&info.shape).ok_or("the result is impossibly large")?;
            Op::Concat { periods: infos.iter().map(|i| i.shape[axis] * inner(axis)).collect() }
        }
        Transform::Unpermute { heads } => {
            let rows = first.rows();
            if shape.is_empty() || heads == 0 || rows % (2 * heads) != 0 {
                return Err(format!("{rows} rows are not {heads} heads of an even size"));
            }
            Op::Unpermute { head_dim: rows / heads, row: first.row_len() }
        }
    };
    // Only whole rows of blocks can stay blocks; anything finer is read as f32.
    let keeps_rows = match *transform {
        Transform::Identity | Transform::Unpermute { .. } => true,
        Transform::Slice { axis, .. } | Transform::Concat { axis } => axis == 0 && shape.len() > 1,
        _ => false,
    };
    if info.dtype.is_quantised() && !keeps_rows {
        info.dtype = DType::F32;
    }
    Ok((info, op))
}

impl Op {
    /// Where element `e` of the result lies: which part, which element of it, and for how many elements the two run
    /// together. The transpose has no runs; the caller treats it apart.
    fn locate(&self, e: usize) -> (usize, usize, usize) {
        match self {
            Op::Identity | Op::Transpose => (0, e, usize::MAX),
            &Op::Slice { period, source_period, offset } => {
                let (outer, at) = (e / period, e % period);
                (0, outer * source_period + offset + at, period - at)
            }
            Op::Concat { periods } => {
                let whole: usize = periods.iter().sum();
                let (outer, mut at) = (e / whole, e % whole);
                for (part, &period) in periods.iter().enumerate() {
                    if at < period {
                        return (part, outer * period + at, period - at);
                    }
                    at -= period;
                }
                unreachable!("a remainder is smaller than the sum of the periods")
            }
            &Op::Unpermute { head_dim, row } => {
                let (r, column) = (e / row, e % row);
                let (head, in_head) = (r / head_dim, r % head_dim);
                let (s, j) = (in_head / (head_dim / 2), in_head % (head_dim / 2));
                (0, (head * head_dim + 2 * j + s) * row + column, row - column)
            }
        }
    }
}

impl TensorSource for View {
    fn label(&self) -> String {
        self.source.label()
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|t| t.info.clone())
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let t = self.mapped(name)?;
        check_range(name, start, out.len(), t.info.numel())?;
        if let Op::Transpose = t.op {
            return transpose(&*self.source, &t.parts[0], &t.info.shape, start, out);
        }
        let mut done = 0;
        while done < out.len() {
            let (part, at, run) = t.op.locate(start + done);
            let take = run.min(out.len() - done);
            self.source.read_f32(&t.parts[part], at, &mut out[done..done + take])?;
            done += take;
        }
        Ok(())
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let t = self.tensors.get(name)?;
        match t.op {
            Op::Identity => self.source.bytes(&t.parts[0]),
            _ => None,
        }
    }

    fn read_rows_raw(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let t = self.mapped(name)?;
        row_bytes(name, &t.info, rows.clone(), out.len())?;
        let len = t.info.row_len();
        let dtype = t.info.dtype;
        // A row must lie whole in one source row; a slice or a join of columns, and a transpose, break rows up.
        let whole_rows = match &t.op {
            Op::Transpose => false,
            Op::Identity | Op::Unpermute { .. } => true,
            Op::Slice { period, source_period, .. } => period == source_period || *period == t.info.numel(),
            Op::Concat { periods } => periods.iter().sum::<usize>() == t.info.numel(),
        };
        if !whole_rows || len == 0 {
            return Err(no_bytes(name, dtype, "the name table rearranges it within rows"));
        }
        let row_size = out.len() / rows.len().max(1);
        let mut row = rows.start;
        while row < rows.end {
            let (part, at, run) = t.op.locate(row * len);
            let take = (run / len).max(1).min(rows.end - row);
            let done = (row - rows.start) * row_size;
            let from = at / len;
            self.source.read_rows_raw(
                &t.parts[part],
                from..from + take,
                &mut out[done..done + take * row_size],
            )?;
            row += take;
        }
        Ok(())
    }

    fn release(&self, name: &str) {
        for part in self.tensors.get(name).map_or(&[][..], |t| &t.parts) {
            self.source.release(part);
        }
    }
}

/// Source rows and columns that the transpose turns at a time: 16 kB on the stack, and whole cache lines on both
/// sides.
const TILE: [usize; 2] = [16, 256];

/// Reads elements of the transpose, of shape [n, m], of a source matrix [m, n]: for each source row the piece of it
/// that falls into the wanted rows of the result. So the cost is that of the result, however small the pieces asked
/// for.
fn transpose(
    source: &dyn TensorSource,
    name: &str,
    shape: &[usize],
    start: usize,
    out: &mut [f32],
) -> Result<()> {
    let (n, m) = (shape[0], shape[1]);
    if out.is_empty() {
        return Ok(());
    }
    let end = start + out.len();
    let rows = start / m..end.div_ceil(m);
    let mut tile = [[0f32; TILE[1]]; TILE[0]];
    for first in rows.clone().step_by(TILE[1]) {
        let count = TILE[1].min(rows.end - first);
        for column in (0..m).step_by(TILE[0]) {
            let columns = TILE[0].min(m - column);
            for (c, piece) in tile[..columns].iter_mut().enumerate() {
                source.read_f32(name, (column + c) * n + first, &mut piece[..count])?;
            }
            for row in first..first + count {
                // The first and the last row of the result may be wanted in part only.
                let at = row * m + column;
                let wanted = at.max(start)..(at + columns).min(end);
                for e in wanted {
                    out[e - start] = tile[e - at][row - first];
                }
            }
        }
    }
    Ok(())
}
