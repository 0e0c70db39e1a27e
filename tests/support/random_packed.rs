//! Random causal networks: packed rows of several sequences over caches, run several times with different rows, as
//! decoding does. One seed, one network and its runs.

use crate::random::Random;
use selftok_graph::{
    Activation, Builder, CachedHeads, DType, Dim, Graph, NormKind, RopeStyle, Stage, Tensor,
};
use selftok_kernels_cpu::reference::{Array, Named, Slots};

/// A network and what its runs are given, one after another.
pub struct Case {
    /// The graph.
    pub graph: Graph,
    /// Inputs by name and slot values, a pair for each run.
    pub runs: Vec<(Named, Slots)>,
}

/// Most rows of a run, most of them read out, caches, rows of a cache, ids.
struct Sizes {
    rows: usize,
    wanted: usize,
    sequences: usize,
    context: usize,
    vocabulary: usize,
}

struct Grower<'g> {
    g: &'g Builder,
    r: Random,
    sizes: &'g Sizes,
    /// Values `[R, C]`.
    pool: Vec<Tensor<'g>>,
    /// Caches of keys or values that a later block may read too, with their heads.
    caches: Vec<(Tensor<'g>, Tensor<'g>, usize)>,
    places: (Tensor<'g>, Tensor<'g>),
    turns: Tensor<'g>,
    names: usize,
}

const HEAD: usize = 8;

impl<'g> Grower<'g> {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn pick(&mut self) -> Tensor<'g> {
        let n = self.pool.len();
        let i = if self.r.below(3) > 0 { n - 1 - self.r.below(n.min(2)) } else { self.r.below(n) };
        self.pool[i]
    }

    fn turned(&mut self, x: Tensor<'g>, heads: usize) -> Tensor<'g> {
        let rows = self.sizes.rows;
        let style = self.r.of(&[RopeStyle::Half, RopeStyle::Interleaved]);
        let batch = x.reshape([1, rows, heads * HEAD]);
        batch.rope(self.turns, heads, style, None).reshape(x.shape())
    }

    fn attention(&mut self, x: Tensor<'g>) -> Tensor<'g> {
        let heads: usize = self.r.of(&[1, 2, 4]);
        let old = self.caches.iter().copied().find(|(_, _, kv)| heads.is_multiple_of(*kv));
        let (k, v, kv_heads) = match old {
            // Keys of an earlier block, as networks that share a cache between layers read them.
            Some(cache) if self.r.below(3) == 0 => cache,
            _ => {
                let kv_heads = if heads > 1 && self.r.below(2) == 0 { heads / 2 } else { heads };
                let width = kv_heads * HEAD;
                let [mut k, v] = if self.r.below(2) == 0 {
                    x.linear(&self.name("kv"), 2 * width).split()
                } else {
                    [x.linear(&self.name("k"), width), x.linear_no_bias(&self.name("v"), width)]
                };
                if self.r.below(2) == 0 {
                    let each = k.reshape([self.sizes.rows, kv_heads, HEAD]);
                    k = each.rms_norm(&self.name("k_norm"), 1e-5).reshape(k.shape());
                }
                if self.r.below(2) == 0 {
                    k = self.turned(k, kv_heads);
                }
                let shape = [self.sizes.sequences, self.sizes.context, width];
                let (keys, values) =
                    (self.g.state(&self.name("keys"), shape), self.g.state(&self.name("values"), shape));
                keys.cache_append(k, self.places);
                values.cache_append(v, self.places);
                self.caches.push((keys, values, kv_heads));
                (keys, values, kv_heads)
            }
        };
        let mut q = x.linear(&self.name("q"), heads * HEAD);
        if self.r.below(2) == 0 {
            q = self.turned(q, heads);
        }
        let window = (self.r.below(3) == 0).then(|| 1 + self.r.below(self.sizes.context));
        let heads = CachedHeads { heads, kv_heads, scale: None, window };
        let attended = q.cached_attention_with((k, v), self.places, heads);
        attended.linear(&self.name("proj"), x.shape().last())
    }

    fn grow(&mut self) {
        let x = self.pick();
        let width = x.shape().last();
        let activation =
            self.r.of(&[Activation::Silu, Activation::GeluTanh, Activation::Relu, Activation::Identity]);
        let made = match self.r.below(8) {
            0..=2 => {
                let norm = match self.r.below(3) {
                    0 => x.layer_norm(&self.name("ln"), 1e-5),
                    1 => x.rms_norm(&self.name("rms"), 1e-5),
                    _ => x.norm(NormKind::Rms, 1e-6),
                };
                let h = self.attention(norm);
                if self.r.below(4) > 0 { x + h } else { h }
            }
            3 | 4 => {
                let h = x.rms_norm(&self.name("rms"), 1e-5);
                let gate = h.linear_no_bias(&self.name("gate"), 2 * width).act(activation);
                let up = h.linear_no_bias(&self.name("up"), 2 * width);
                x + (gate * up).linear_no_bias(&self.name("down"), width)
            }
            5 => x.linear(&self.name("fc"), width).act(activation),
            6 => {
                let other = self.pick();
                let positions = self.g.weight(&self.name("wpe"), [self.sizes.context, width]);
                if other.shape() == x.shape() { x * other } else { x + positions.embed(self.places.1) }
            }
            _ => x.linear(&self.name("fc"), HEAD * (1 + self.r.below(4))),
        };
        self.pool.push(made);
    }
}

/// The network of a seed.
pub fn case(seed: u64) -> Case {
    let mut r = Random::new(seed);
    let sizes = Sizes {
        rows: 1 + r.below(12),
        wanted: 1 + r.below(3),
        sequences: 1 + r.below(3),
        context: 4 + r.below(20),
        vocabulary: 5 + r.below(40),
    };
    let builder = Builder::new(format!("packed-{seed}"));
    let g = &builder;
    let live = g.up_to("rows", sizes.rows, Stage::Step);
    let queries = g.up_to("wanted", sizes.wanted, Stage::Step);
    let index = |name: &str, dim: Dim| g.input(name, [dim], DType::I32, Stage::Step);
    let (ids, places) = (index("ids", live), (index("sequence", live), index("position", live)));
    let wanted = index("wanted_rows", queries);
    let width = 16 * (1 + r.below(2));
    let embedding = g.weight("embedding", [sizes.vocabulary, width]);
    let angles = (0..sizes.context * HEAD).map(|i| {
        let (position, j) = (i / HEAD, i % HEAD);
        let angle = position as f32 / 10f32.powf((j % (HEAD / 2)) as f32 / 4.0);
        if j < HEAD / 2 { angle.cos() } else { angle.sin() }
    });
    let turns = g.constant([sizes.context, HEAD], angles.collect()).embed(places.1);
    let pool = vec![embedding.embed(ids)];
    let blocks = 2 + r.below(8);
    let mut grower = Grower { g, r, sizes: &sizes, pool, caches: vec![], places, turns, names: 0 };
    for _ in 0..blocks {
        grower.grow();
    }
    let Grower { pool, mut r, .. } = grower;
    let last = pool[pool.len() - 1];
    let picked = last.embed(wanted).norm(NormKind::Rms, 1e-6);
    g.output("hidden", last);
    match picked.shape().last() == width {
        // The head of a network that is tied to its embedding, and a quantizer at its end.
        true => {
            g.output("logits", picked.linear_with(embedding, None));
            let (ids, score, margin) = picked.codebook(embedding);
            g.output("ids", ids);
            g.output("score", score);
            g.output("margin", margin);
        }
        false => g.output("logits", picked.linear_no_bias("head", sizes.vocabulary)),
    }
    let runs = runs(&mut r, &sizes);
    let graph = builder.finish().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    Case { graph, runs }
}

/// Some rows of some sequences at each run, each sequence going on where it ended.
fn runs(r: &mut Random, sizes: &Sizes) -> Vec<(Named, Slots)> {
    let mut lengths = vec![0; sizes.sequences];
    let mut runs = Vec::new();
    for _ in 0..2 + r.below(4) {
        let mut rows: Vec<(usize, usize)> = Vec::new();
        for _ in 0..1 + r.below(sizes.rows) {
            let sequence = r.below(sizes.sequences);
            if lengths[sequence] < sizes.context {
                rows.push((sequence, lengths[sequence]));
                lengths[sequence] += 1;
            }
        }
        if rows.is_empty() {
            break;
        }
        let index = |size: usize, mut values: Vec<f64>| {
            values.resize(size, 0.0);
            Array::new(&[size], values)
        };
        let ids = (0..sizes.rows).map(|_| r.below(sizes.vocabulary) as f64).collect();
        let wanted: Vec<f64> = (0..1 + r.below(sizes.wanted)).map(|_| r.below(rows.len()) as f64).collect();
        let slots = [("rows".to_string(), rows.len() as u32), ("wanted".to_string(), wanted.len() as u32)];
        let inputs = [
            ("ids".to_string(), index(sizes.rows, ids)),
            ("sequence".to_string(), index(sizes.rows, rows.iter().map(|row| row.0 as f64).collect())),
            ("position".to_string(), index(sizes.rows, rows.iter().map(|row| row.1 as f64).collect())),
            ("wanted_rows".to_string(), index(sizes.wanted, wanted)),
        ];
        runs.push((inputs.into(), slots.into()));
    }
    runs
}
