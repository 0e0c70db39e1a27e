//! Procedural weights: numbers that follow from a tensor's name and shape alone.
//!
//! The released configuration has gigabytes of weights. Golden values of it were made with these instead, so that a
//! test of the full size needs no file but its results.

use std::collections::BTreeMap;

/// Number of tokens' positions: token `k` stands at `1000 + 8k`.
fn position(k: usize) -> f64 {
    1000.0 + 8.0 * k as f64
}

/// Uniform numbers in [-1, 1) that follow from a key: FNV-1a seeds SplitMix64.
pub fn uniform(key: &str) -> impl Iterator<Item = f32> {
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let seed = key.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(PRIME));
    (1u64..).map(move |i| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 * (-23f32).exp2() - 1.0
    })
}

/// The weights of a list of names and shapes.
pub struct Procedural {
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Procedural {
    /// For the shapes of a key list such as `full_tok_keys.json`, in `tests/golden/selftok`.
    ///
    /// # Panics
    /// Where the list cannot be read.
    pub fn open(file: &str) -> Procedural {
        let relative = format!("tests/golden/selftok/{file}");
        let text =
            std::fs::read_to_string(super::path(&relative)).unwrap_or_else(|e| panic!("{relative}: {e}"));
        let keys: BTreeMap<String, (Vec<usize>, String)> =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{relative}: {e}"));
        Procedural::of(keys.into_iter().map(|(name, (shape, _))| (name, shape)))
    }

    /// For given names and shapes.
    pub fn of(shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Procedural {
        Procedural { shapes: shapes.into_iter().collect() }
    }

    /// A weight that inference uses, or `None` where the list has none of that name.
    pub fn weight(&self, key: &str) -> Option<Vec<f32>> {
        let shape = self.shapes.get(key)?;
        let numel: usize = shape.iter().product();
        let last = key.rsplit('.').next().unwrap_or(key);
        let scaled =
            |factor: f32, offset: f32| uniform(key).take(numel).map(|x| offset + factor * x).collect();
        Some(match key {
            "encoder.pos_embed" => grid_table(shape),
            "model.context_pos_embed" => {
                (0..shape[1]).flat_map(|k| sincos(shape[2], position(k))).map(|v| v as f32).collect()
            }
            _ if last == "embed" => {
                let values: Vec<f32> = scaled(1.0, 0.0);
                let width = shape[shape.len() - 1];
                values.chunks_exact(width).flat_map(unit).collect()
            }
            _ if key.contains("norm") => scaled(0.25, if last == "weight" { 1.0 } else { 0.0 }),
            _ if ["query_tokens", "pos_embed", "positional_embedding", "mask_token"].contains(&last) => {
                scaled(0.75, 0.0)
            }
            _ if shape.len() >= 2 => {
                let strong = ["attn.qkv", "to_query_kv", "query_linear", "query_proj"];
                let gain = match () {
                    () if key.contains("adaLN") => 0.5,
                    () if strong.iter().any(|part| key.contains(part)) => 2.0,
                    () => 1.0,
                };
                scaled((gain * (3.0 / (numel / shape[0]) as f64).sqrt()) as f32, 0.0)
            }
            _ => scaled(0.15, 0.0),
        })
    }
}

/// A row scaled to unit length in f64.
fn unit(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    row.iter().map(|&x| (f64::from(x) / length) as f32).collect()
}

/// Sines, then cosines, of `p` at `width / 2` falling frequencies.
fn sincos(width: usize, p: f64) -> Vec<f64> {
    let half = width / 2;
    let phase = |i: usize| p * 10000f64.powf(-(i as f64) / half as f64);
    (0..half).map(|i| phase(i).sin()).chain((0..half).map(|i| phase(i).cos())).collect()
}

/// A square table `[1, G*G, D]`: the column's sinusoids, then the row's.
fn grid_table(shape: &[usize]) -> Vec<f32> {
    let (side, width) = (shape[1].isqrt(), shape[2]);
    let cell = |i: usize| {
        let (column, row) = ((i % side) as f64, (i / side) as f64);
        sincos(width / 2, column).into_iter().chain(sincos(width / 2, row))
    };
    (0..shape[1]).flat_map(cell).map(|v| v as f32).collect()
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
                let made = Procedural::of([(name.clone(), shape)]).weight(&name).unwrap();
                let stored = golden.weight(&name).unwrap();
                // Sines and cosines may differ in the last place between libraries.
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 6e-8;
                assert!(made.iter().zip(&stored).all(close), "{file}: {name}");
            }
        }
    }
}
