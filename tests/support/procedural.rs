//! Procedural weights: numbers that follow from a tensor's name and shape alone.
//!
//! The released configuration has gigabytes of weights. Golden values of it were made with these instead, so that a
//! test of the full size needs no file but its results. Each element follows from its index, so any part of a tensor
//! can be made without the rest: an engine that packs weights row by row never holds them twice.

use selftok_loader::Generated;
use std::collections::BTreeMap;

/// Uniform numbers in [-1, 1) that follow from a key and an index: FNV-1a seeds SplitMix64.
pub fn uniform(key: &str) -> impl Fn(usize) -> f32 + Copy + use<> {
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let seed = key.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(PRIME));
    move |i| {
        let z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 * (1.0 / (1 << 23) as f32) - 1.0
    }
}

/// The first numbers of a key, of unit variance: how the golden inputs were made.
pub fn unit_noise(key: &str, numel: usize) -> Vec<f32> {
    let x = uniform(key);
    (0..numel).map(|i| x(i) * 3f32.sqrt()).collect()
}

/// Names and shapes of a key list such as `full_tok_keys.json`, in `tests/golden/selftok`.
///
/// # Panics
/// Where the list cannot be read.
pub fn shapes(file: &str) -> BTreeMap<String, Vec<usize>> {
    let relative = format!("tests/golden/selftok/{file}");
    let text = std::fs::read_to_string(super::path(&relative)).unwrap_or_else(|e| panic!("{relative}: {e}"));
    let keys: BTreeMap<String, (Vec<usize>, String)> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{relative}: {e}"));
    keys.into_iter().map(|(name, (shape, _))| (name, shape)).collect()
}

/// A source of the weights of these names and shapes.
pub fn source(shapes: BTreeMap<String, Vec<usize>>) -> Generated {
    Generated::new(shapes.clone(), move |name, start, out| fill(name, &shapes[name], start, out))
}

/// Elements `start ..` of a weight that inference uses.
pub fn fill(key: &str, shape: &[usize], start: usize, out: &mut [f32]) {
    let x = uniform(key);
    let last = key.rsplit('.').next().unwrap_or(key);
    let width = shape[shape.len() - 1];
    let scaled = |factor: f32, offset: f32, out: &mut [f32]| {
        for (i, out) in out.iter_mut().enumerate() {
            *out = offset + factor * x(start + i);
        }
    };
    match key {
        // A square table `[1, G*G, D]`: the column's sinusoids, then the row's.
        "encoder.pos_embed" => {
            let (side, half) = (shape[1].isqrt(), width / 2);
            for (i, out) in (start..).zip(out) {
                let (cell, c) = (i / width, i % width);
                let place = if c < half { cell % side } else { cell / side };
                *out = sinusoid(half, place as f64, c % half);
            }
        }
        // Token `k` stands at `1000 + 8k`.
        "model.context_pos_embed" => {
            for (i, out) in (start..).zip(out) {
                *out = sinusoid(width, 1000.0 + 8.0 * (i / width) as f64, i % width);
            }
        }
        // Rows of unit length, scaled in f64.
        _ if last == "embed" => {
            let (mut row, mut length) = (usize::MAX, 1.0);
            for (i, out) in (start..).zip(out) {
                if row != i / width {
                    row = i / width;
                    let squares = (row * width..(row + 1) * width).map(|i| f64::from(x(i)) * f64::from(x(i)));
                    length = squares.sum::<f64>().sqrt();
                }
                *out = (f64::from(x(i)) / length) as f32;
            }
        }
        _ if key.contains("norm") => scaled(0.25, if last == "weight" { 1.0 } else { 0.0 }, out),
        _ if ["query_tokens", "pos_embed", "positional_embedding", "mask_token"].contains(&last) => {
            scaled(0.75, 0.0, out)
        }
        _ if shape.len() >= 2 => {
            let strong = ["attn.qkv", "to_query_kv", "query_linear", "query_proj"];
            let gain = match () {
                () if key.contains("adaLN") => 0.5,
                () if strong.iter().any(|part| key.contains(part)) => 2.0,
                () => 1.0,
            };
            let fan: usize = shape[1..].iter().product();
            scaled((gain * (3.0 / fan as f64).sqrt()) as f32, 0.0, out)
        }
        _ => scaled(0.15, 0.0, out),
    }
}

/// Element `i` of `width` sinusoids of `p`: sines, then cosines, at `width / 2` falling frequencies.
fn sinusoid(width: usize, p: f64, i: usize) -> f32 {
    let half = width / 2;
    let phase = p * 10000f64.powf(-((i % half) as f64) / half as f64);
    (if i < half { phase.sin() } else { phase.cos() }) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Golden;

    /// The stored tiny weights were made by this very recipe.
    #[test]
    fn the_recipe_gives_the_stored_tiny_weights_to_the_bit() {
        for file in ["tiny_tokenizer", "tiny_renderer"] {
            let golden = Golden::open(&format!("tests/golden/selftok/{file}.weights.safetensors"));
            let used = |name: &String| {
                !name.starts_with("diffusion.")
                    && ["tpc_initted", "initted", "cluster_size", "cluster_size_wo_react", "embed_avg"]
                        .iter()
                        .chain(&["timestep_p_over_c", "steps", "count", "continuous"])
                        .all(|last| !name.ends_with(last))
            };
            for name in golden.names().into_iter().filter(used) {
                let shape = golden.get(&name).shape;
                let stored = golden.weight(&name).unwrap();
                // From the middle of a row on, too.
                for start in [0, stored.len() / 3] {
                    let mut made = vec![f32::NAN; stored.len() - start];
                    fill(&name, &shape, start, &mut made);
                    // Sines and cosines may differ in the last place between libraries.
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 6e-8;
                    assert!(made.iter().zip(&stored[start..]).all(close), "{file}: {name}");
                }
            }
        }
    }
}
