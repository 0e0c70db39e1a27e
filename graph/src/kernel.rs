//! Fused kernels: what a device is asked to do, generic over how operands are named.
//!
//! During compilation an operand is a value of the graph ([`ValueId`](crate::ValueId)), later a
//! view of a stored value, and in the finished plan an [`Operand`](crate::Operand) with a
//! place in memory. One enum serves all three, so a pass cannot forget a kernel.

use crate::{Activation, Binary, Mask, NormKind, RopeStyle, Slot};

/// One fused kernel. Shapes are those of [`Op`](crate::Op); `out` is what it writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel<T> {
    /// `out = residual + gate * act(x W^T + bias)`
    Linear {
        /// `[.., K]`
        x: T,
        /// `[N, K]`: a weight, or consecutive rows of one.
        weight: T,
        /// `[N]`
        bias: Option<T>,
        /// Applied to the biased product.
        act: Activation,
        /// Broadcasts to `out`.
        gate: Option<T>,
        /// Broadcasts to `out`; may be `out` itself.
        residual: Option<T>,
        /// `[.., N]`
        out: T,
    },
    /// `out = residual + act(conv(x) + bias)`, NHWC.
    Conv2d {
        /// `[B, H, W, I]`
        x: T,
        /// `[O, I, kh, kw]`
        weight: T,
        /// `[O]`
        bias: Option<T>,
        /// Step in both directions.
        stride: usize,
        /// Top, bottom, left, right.
        padding: [usize; 4],
        /// Reads pixel `(y/2, x/2)`: a nearest-neighbour upsampling folded into the addressing.
        upsample: bool,
        /// Applied to the biased sum.
        act: Activation,
        /// Of `out`'s shape; may be `out` itself.
        residual: Option<T>,
        /// `[B, H', W', O]`
        out: T,
    },
    /// Nearest-neighbour upsampling on its own.
    Upsample2x {
        /// `[B, H, W, C]`
        x: T,
        /// `[B, 2H, 2W, C]`
        out: T,
    },
    /// `out = norm(x) * weight + bias`, then `* (1 + scale) + shift`.
    Norm {
        /// `[.., C]`
        x: T,
        /// Which.
        kind: NormKind,
        /// Added to the variance.
        eps: f32,
        /// `[C]`
        weight: Option<T>,
        /// `[C]`
        bias: Option<T>,
        /// Broadcasts to `out`; present with `scale` or not at all.
        shift: Option<T>,
        /// Broadcasts to `out`.
        scale: Option<T>,
        /// `[.., C]`; may be `x` itself.
        out: T,
    },
    /// `out = x * (1 + scale) + shift`
    Modulate {
        /// Broadcasts to `out`.
        x: T,
        /// Broadcasts to `out`.
        shift: T,
        /// Broadcasts to `out`.
        scale: T,
        /// Result.
        out: T,
    },
    /// Group norm of NHWC with an activation.
    GroupNorm {
        /// `[B, .., C]`
        x: T,
        /// Number of groups.
        groups: usize,
        /// Added to the variance.
        eps: f32,
        /// `[C]`
        weight: T,
        /// `[C]`
        bias: T,
        /// Applied last.
        act: Activation,
        /// Of `x`'s shape.
        out: T,
    },
    /// Softmax attention over key/value segments.
    Attention {
        /// `[B, N, H*D]`
        q: T,
        /// `k, v [B, M_i, KV*D]` each; read as if joined.
        segments: Vec<(T, T)>,
        /// `H`
        heads: usize,
        /// `KV`
        kv_heads: usize,
        /// Factor on the scores.
        scale: f32,
        /// What is hidden.
        mask: Mask,
        /// `[B, N, H*D]`
        out: T,
    },
    /// Causal softmax attention of packed rows over caches.
    CachedAttention {
        /// `[R, H*D]`
        q: T,
        /// `[S, L, KV*D]`
        k: T,
        /// `[S, L, KV*D]`
        v: T,
        /// `[R]`, i32
        sequence: T,
        /// `[R]`, i32
        position: T,
        /// `H`
        heads: usize,
        /// `KV`
        kv_heads: usize,
        /// Factor on the scores.
        scale: f32,
        /// Rows of the cache that are seen; all where none.
        window: Option<usize>,
        /// `[R, H*D]`
        out: T,
    },
    /// Packed rows into caches; other rows stay.
    CacheAppend {
        /// `[R, C]`
        value: T,
        /// `[R]`, i32
        sequence: T,
        /// `[R]`, i32
        position: T,
        /// `[S, L, C]`
        out: T,
    },
    /// Rotary embedding.
    Rope {
        /// `[B, N, H*D]`
        x: T,
        /// `[P, R]`
        table: T,
        /// Heads in the last axis.
        heads: usize,
        /// Pairing.
        style: RopeStyle,
        /// Slot of the first row's position.
        offset: Option<Slot>,
        /// Of `x`'s shape; may be `x` itself.
        out: T,
    },
    /// Rows of a table.
    Embed {
        /// `[V, C]`
        table: T,
        /// `[..]`, i32
        ids: T,
        /// `[.., C]`
        out: T,
    },
    /// Sinusoids of a timestep.
    TimestepEmbed {
        /// `[..]`
        t: T,
        /// `[F]`
        freqs: T,
        /// Sines before cosines.
        sin_first: bool,
        /// `[.., 2F]`
        out: T,
    },
    /// Nearest code by cosine; the scores are never written.
    Codebook {
        /// `[.., C]`
        x: T,
        /// `[V, C]`
        codes: T,
        /// `[..]`, i32
        ids: T,
        /// `[..]`
        score: T,
        /// `[..]`
        margin: T,
    },
    /// `out = sum_i coeffs[i] * xs[i]`
    Combine {
        /// `[n]`
        coeffs: T,
        /// Each of `out`'s shape.
        xs: Vec<T>,
        /// May be one of `xs`.
        out: T,
    },
    /// `out = act(a)`, or `out = act(a ∘ b)` with broadcasting.
    Map {
        /// Broadcasts to `out`.
        a: T,
        /// Broadcasts to `out`.
        b: Option<(Binary, T)>,
        /// Applied last.
        act: Activation,
        /// Result.
        out: T,
    },
    /// Any strided view into any other of one shape.
    Copy {
        /// Broadcasts to `out`.
        x: T,
        /// Destination.
        out: T,
    },
}

/// Whether an operand is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Written.
    Write,
}

impl<T> Kernel<T> {
    /// The kernel's name.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Linear { .. } => "linear",
            Kernel::Conv2d { .. } => "conv2d",
            Kernel::Upsample2x { .. } => "upsample2x",
            Kernel::Norm { .. } => "norm",
            Kernel::Modulate { .. } => "modulate",
            Kernel::GroupNorm { .. } => "group_norm",
            Kernel::Attention { .. } => "attention",
            Kernel::CachedAttention { .. } => "cached_attention",
            Kernel::CacheAppend { .. } => "cache_append",
            Kernel::Rope { .. } => "rope",
            Kernel::Embed { .. } => "embed",
            Kernel::TimestepEmbed { .. } => "timestep_embed",
            Kernel::Codebook { .. } => "codebook",
            Kernel::Combine { .. } => "combine",
            Kernel::Map { .. } => "map",
            Kernel::Copy { .. } => "copy",
        }
    }

    /// The same kernel over other operands. `f` sees each operand once, with its role's name and access:
    /// reads first, in the order of the fields, then writes.
    pub fn map<'a, U, E>(
        &'a self,
        mut f: impl FnMut(&'a T, &'static str, Access) -> Result<U, E>,
    ) -> Result<Kernel<U>, E> {
        use Access::{Read, Write};
        fn opt<'a, T, U, E>(
            x: &'a Option<T>,
            role: &'static str,
            f: &mut impl FnMut(&'a T, &'static str, Access) -> Result<U, E>,
        ) -> Result<Option<U>, E> {
            x.as_ref().map(|x| f(x, role, Read)).transpose()
        }
        Ok(match self {
            Kernel::Linear { x, weight, bias, act, gate, residual, out } => Kernel::Linear {
                x: f(x, "x", Read)?,
                weight: f(weight, "weight", Read)?,
                bias: opt(bias, "bias", &mut f)?,
                act: *act,
                gate: opt(gate, "gate", &mut f)?,
                residual: opt(residual, "residual", &mut f)?,
                out: f(out, "out", Write)?,
            },
            Kernel::Conv2d { x, weight, bias, stride, padding, upsample, act, residual, out } => {
                Kernel::Conv2d {
                    x: f(x, "x", Read)?,
                    weight: f(weight, "weight", Read)?,
                    bias: opt(bias, "bias", &mut f)?,
                    stride: *stride,
                    padding: *padding,
                    upsample: *upsample,
                    act: *act,
                    residual: opt(residual, "residual", &mut f)?,
                    out: f(out, "out", Write)?,
                }
            }
            Kernel::Upsample2x { x, out } => {
                Kernel::Upsample2x { x: f(x, "x", Read)?, out: f(out, "out", Write)? }
            }
            Kernel::Norm { x, kind, eps, weight, bias, shift, scale, out } => Kernel::Norm {
                x: f(x, "x", Read)?,
                kind: *kind,
                eps: *eps,
                weight: opt(weight, "weight", &mut f)?,
                bias: opt(bias, "bias", &mut f)?,
                shift: opt(shift, "shift", &mut f)?,
                scale: opt(scale, "scale", &mut f)?,
                out: f(out, "out", Write)?,
            },
            Kernel::Modulate { x, shift, scale, out } => Kernel::Modulate {
                x: f(x, "x", Read)?,
                shift: f(shift, "shift", Read)?,
                scale: f(scale, "scale", Read)?,
                out: f(out, "out", Write)?,
            },
            Kernel::GroupNorm { x, groups, eps, weight, bias, act, out } => Kernel::GroupNorm {
                x: f(x, "x", Read)?,
                groups: *groups,
                eps: *eps,
                weight: f(weight, "weight", Read)?,
                bias: f(bias, "bias", Read)?,
                act: *act,
                out: f(out, "out", Write)?,
            },
            Kernel::Attention { q, segments, heads, kv_heads, scale, mask, out } => Kernel::Attention {
                q: f(q, "q", Read)?,
                segments: segments
                    .iter()
                    .map(|(k, v)| Ok((f(k, "k", Read)?, f(v, "v", Read)?)))
                    .collect::<Result<_, E>>()?,
                heads: *heads,
                kv_heads: *kv_heads,
                scale: *scale,
                mask: *mask,
                out: f(out, "out", Write)?,
            },
            Kernel::CachedAttention { q, k, v, sequence, position, heads, kv_heads, scale, window, out } => {
                Kernel::CachedAttention {
                    q: f(q, "q", Read)?,
                    k: f(k, "k", Read)?,
                    v: f(v, "v", Read)?,
                    sequence: f(sequence, "sequence", Read)?,
                    position: f(position, "position", Read)?,
                    heads: *heads,
                    kv_heads: *kv_heads,
                    scale: *scale,
                    window: *window,
                    out: f(out, "out", Write)?,
                }
            }
            Kernel::CacheAppend { value, sequence, position, out } => Kernel::CacheAppend {
                value: f(value, "value", Read)?,
                sequence: f(sequence, "sequence", Read)?,
                position: f(position, "position", Read)?,
                out: f(out, "out", Write)?,
            },
            Kernel::Rope { x, table, heads, style, offset, out } => Kernel::Rope {
                x: f(x, "x", Read)?,
                table: f(table, "table", Read)?,
                heads: *heads,
                style: *style,
                offset: *offset,
                out: f(out, "out", Write)?,
            },
            Kernel::Embed { table, ids, out } => Kernel::Embed {
                table: f(table, "table", Read)?,
                ids: f(ids, "ids", Read)?,
                out: f(out, "out", Write)?,
            },
            Kernel::TimestepEmbed { t, freqs, sin_first, out } => Kernel::TimestepEmbed {
                t: f(t, "t", Read)?,
                freqs: f(freqs, "freqs", Read)?,
                sin_first: *sin_first,
                out: f(out, "out", Write)?,
            },
            Kernel::Codebook { x, codes, ids, score, margin } => Kernel::Codebook {
                x: f(x, "x", Read)?,
                codes: f(codes, "codes", Read)?,
                ids: f(ids, "ids", Write)?,
                score: f(score, "score", Write)?,
                margin: f(margin, "margin", Write)?,
            },
            Kernel::Combine { coeffs, xs, out } => Kernel::Combine {
                coeffs: f(coeffs, "coeffs", Read)?,
                xs: xs.iter().map(|x| f(x, "x", Read)).collect::<Result<_, E>>()?,
                out: f(out, "out", Write)?,
            },
            Kernel::Map { a, b, act, out } => Kernel::Map {
                a: f(a, "a", Read)?,
                b: b.as_ref().map(|(op, b)| Ok((*op, f(b, "b", Read)?))).transpose()?,
                act: *act,
                out: f(out, "out", Write)?,
            },
            Kernel::Copy { x, out } => Kernel::Copy { x: f(x, "x", Read)?, out: f(out, "out", Write)? },
        })
    }

    /// Every operand with its role: reads first, then writes.
    pub fn operands(&self) -> Vec<(&T, &'static str, Access)> {
        let mut operands = Vec::new();
        let Ok(_) = self.map(|operand, role, access| {
            operands.push((operand, role, access));
            Ok::<(), std::convert::Infallible>(())
        });
        operands
    }

    /// The main result: what the iteration space is taken from.
    pub fn result(&self) -> &T {
        match self {
            Kernel::Codebook { ids, .. } => ids,
            Kernel::Linear { out, .. }
            | Kernel::Conv2d { out, .. }
            | Kernel::Upsample2x { out, .. }
            | Kernel::Norm { out, .. }
            | Kernel::Modulate { out, .. }
            | Kernel::GroupNorm { out, .. }
            | Kernel::Attention { out, .. }
            | Kernel::CachedAttention { out, .. }
            | Kernel::CacheAppend { out, .. }
            | Kernel::Rope { out, .. }
            | Kernel::Embed { out, .. }
            | Kernel::TimestepEmbed { out, .. }
            | Kernel::Combine { out, .. }
            | Kernel::Map { out, .. }
            | Kernel::Copy { out, .. } => out,
        }
    }
}
