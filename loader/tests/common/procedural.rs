//! The weights of the golden files, which are a rule and not data: element i of a tensor is a hash of the tensor's
//! name and i, scaled by what kind of tensor it is. So the full-size model needs no storage: it is computed while it
//! is read.
#![allow(dead_code)]

use std::collections::HashMap;

use selftok_loader::Generated;

/// Uniform in [-1, 1): element `i` of the stream of `key` (FNV-1a of the name, SplitMix64 of the index).
pub fn uniform(key: &str) -> impl Fn(usize) -> f32 + use<> {
    let h = key.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
    move |i| {
        let mut z = h.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 * 2f32.powi(-23) - 1.0
    }
}

/// Entry `i` of the sin-cos table of width `d` at position `p`: sines first.
fn sincos(d: usize, p: f64, i: usize) -> f32 {
    let phase = |i: usize| p * 10000f64.powf(-(i as f64) / (d as f64 / 2.0));
    (if i < d / 2 { phase(i).sin() } else { phase(i - d / 2).cos() }) as f32
}

/// The elements `start ..` of the tensor `key` of this shape. `diffusion.*` is not covered: nothing reads it.
pub fn fill(key: &str, shape: &[usize], start: usize, out: &mut [f32]) {
    let x = uniform(key);
    let last = key.rsplit('.').next().unwrap_or(key);
    let numel: usize = shape.iter().product();
    let width = shape.last().copied().unwrap_or(1);
    let each = |out: &mut [f32], f: &dyn Fn(usize) -> f32| {
        for (i, o) in out.iter_mut().enumerate() {
            *o = f(start + i);
        }
    };
    match (key, last) {
        ("encoder.pos_embed", _) => {
            let (side, d) = (shape[1].isqrt(), width);
            each(out, &|i| {
                let (cell, c) = (i / d, i % d);
                let at = if c < d / 2 { cell % side } else { cell / side };
                sincos(d / 2, at as f64, c % (d / 2))
            });
        }
        ("model.context_pos_embed", _) => {
            each(out, &|i| sincos(width, 1000.0 + 8.0 * (i / width) as f64, i % width))
        }
        (_, "initted" | "tpc_initted") => out.fill(1.0),
        (_, "timestep_p_over_c") => out.fill(1.0 / width as f32),
        (_, "cluster_size" | "cluster_size_wo_react" | "embed_avg" | "steps" | "count" | "continuous") => {
            out.fill(0.0)
        }
        (_, "embed") => {
            let mut known = (usize::MAX, 0.0);
            for (i, o) in out.iter_mut().enumerate() {
                let row = (start + i) / width;
                if known.0 != row {
                    let squares = (row * width..(row + 1) * width).map(|i| (x(i) as f64).powi(2));
                    known = (row, squares.sum::<f64>().sqrt());
                }
                *o = (x(start + i) as f64 / known.1) as f32;
            }
        }
        (_, "query_tokens" | "pos_embed" | "positional_embedding" | "mask_token") => {
            each(out, &|i| 0.75 * x(i))
        }
        (key, _) if key.contains("norm") => {
            let base = if last == "weight" { 1.0 } else { 0.0 };
            each(out, &|i| base + 0.25 * x(i));
        }
        (key, _) if shape.len() >= 2 => {
            let wide = ["attn.qkv", "to_query_kv", "query_linear", "query_proj"];
            let gain = match key {
                k if k.contains("adaLN") => 0.5,
                k if wide.iter().any(|w| k.contains(w)) => 2.0,
                _ => 1.0,
            };
            let fan = (numel / shape[0]) as f64;
            let scale = (gain * (3.0 / fan).sqrt()) as f32;
            each(out, &|i| x(i) * scale);
        }
        _ => each(out, &|i| 0.15 * x(i)),
    }
}

/// A source of these tensors.
pub fn source(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Generated {
    let shapes: HashMap<String, Vec<usize>> = tensors.into_iter().collect();
    let names: Vec<_> = shapes.iter().map(|(n, s)| (n.clone(), s.clone())).collect();
    Generated::new(names, move |name, start, out| fill(name, &shapes[name], start, out))
}
