//! Random networks: small graphs that mix every op, view, stage and live extent, for holding a compiler against
//! the reference. One seed, one network.

use selftok_graph::{
    Activation, Binary, Builder, DType, Dim, Graph, Mask, NormKind, RopeStyle, Shape, Slot, Stage, Tensor,
};
use selftok_kernels_cpu::reference::{Array, Named, Slots};

/// A sequence of pseudo-random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// One of the values.
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// That many uniform numbers.
    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// A network, what to give it, and the slot values of its iterations.
pub struct Case {
    /// The graph.
    pub graph: Graph,
    /// Inputs by name.
    pub inputs: Named,
    /// A row of slot values for each iteration.
    pub table: Vec<Slots>,
}

/// Weights of a random network: small, so that depth does not blow values up; a function of the name.
pub fn weight(name: &str, numel: usize, fan_in: usize) -> Vec<f32> {
    let hash =
        name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    let scale = 1.0 / (fan_in.max(1) as f32).sqrt();
    Random(hash).units(numel).into_iter().map(|x| x * scale).collect()
}

/// Steps of the time grid.
const GRID: usize = 3;

struct Grower<'g> {
    g: &'g Builder,
    r: Random,
    /// Values `[B, N, C]`, all rows live.
    pool: Vec<Tensor<'g>>,
    /// Values `[B, N, C]` of which a range of rows is live.
    live: Vec<Tensor<'g>>,
    visible: Dim,
    step: Slot,
    batch: Dim,
    rows: (usize, usize),
    width: usize,
    names: usize,
}

impl<'g> Grower<'g> {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn pick(&mut self) -> Tensor<'g> {
        // Recent values more often, so that networks grow deep.
        let n = self.pool.len();
        let i = if self.r.below(3) > 0 { n - 1 - self.r.below(n.min(3)) } else { self.r.below(n) };
        self.pool[i]
    }

    fn activation(&mut self) -> Activation {
        use Activation::{GeluErf, GeluTanh, Identity, QuickGelu, Relu, Silu, Tanh};
        self.r.of(&[Identity, Silu, GeluTanh, GeluErf, QuickGelu, Relu, Tanh])
    }

    /// Something that broadcasts over `[B, N, width]`.
    fn side(&mut self, width: usize) -> Tensor<'g> {
        let rows = self.rows.0 * self.rows.1;
        let name = self.name("side");
        match self.r.below(4) {
            0 => self.g.weight(&name, [rows, width]),
            1 => self.g.weight(&name, [width]),
            2 => {
                let t = self.g.input("t", [GRID], DType::F32, Stage::Request);
                let freqs = self.g.constant([4], vec![1.0, 0.3, 0.1, 0.03]);
                let sin_first = self.r.below(2) == 0;
                t.timestep_embed(freqs, sin_first).linear(&name, width).pick(0, self.step, Stage::Step)
            }
            _ => self.g.weight(&name, [rows, 8]).linear(&self.name("table"), width),
        }
    }

    fn grow(&mut self) {
        let x = self.pick();
        let width = x.shape().last();
        let rows = self.rows.0 * self.rows.1;
        let made = match self.r.below(16) {
            0..=2 => {
                let out = if self.r.below(2) == 0 { width } else { 8 * (1 + self.r.below(4)) };
                let (name, act) = (self.name("fc"), self.activation());
                let h = x.linear(&name, out).act(act);
                match self.r.below(3) {
                    0 => h,
                    1 if out == width => x + self.side(out) * h,
                    _ => h + self.side(out),
                }
            }
            3 | 4 => {
                let kind = self.r.of(&[NormKind::Layer, NormKind::Rms]);
                let h = match self.r.below(3) {
                    0 => x.layer_norm(&self.name("ln"), 1e-5),
                    1 => x.rms_norm(&self.name("rms"), 1e-5),
                    _ => x.norm(kind, 1e-6),
                };
                if self.r.below(2) == 0 { h } else { h.modulate(self.side(width), self.side(width)) }
            }
            5 => {
                let other = self.pick();
                let other = if other.shape() == x.shape() { other } else { self.side(width) };
                match self.r.of(&[Binary::Add, Binary::Sub, Binary::Mul]) {
                    Binary::Add => x + other,
                    Binary::Sub => x - other,
                    Binary::Mul => x * other,
                }
            }
            6 | 7 => {
                let heads = self.r.of(&[1, 2, 4]);
                let kv_heads = if heads > 1 && self.r.below(2) == 0 { heads / 2 } else { heads };
                let (inner, kv) = (heads * 8, kv_heads * 8);
                let q = x.linear(&self.name("q"), inner);
                let mut segments = Vec::new();
                for i in 0..1 + self.r.below(2) {
                    let source = if i == 0 && !self.live.is_empty() && self.r.below(2) == 0 {
                        self.live[self.r.below(self.live.len())]
                    } else {
                        self.pick()
                    };
                    if self.r.below(2) == 0 {
                        let [k, v] = source.linear(&self.name("kv"), 2 * kv).split();
                        segments.push((k, v));
                    } else {
                        let (k, v) = (source.linear(&self.name("k"), kv), source.linear(&self.name("v"), kv));
                        segments.push((k, v));
                    }
                }
                // Positions count from the first key, which must be live then.
                let whole = segments.iter().all(|(k, _)| k.shape().0[1].extent.is_none());
                let causal = whole && segments.len() == 1 && self.r.below(3) == 0;
                let mask = if causal { Mask::Causal { offset: None } } else { Mask::None };
                let a = q.attention(&segments, heads, kv_heads, mask);
                x + a.linear(&self.name("proj"), width)
            }
            8 => {
                let image = x.reshape([self.batch, self.rows.0.into(), self.rows.1.into(), width.into()]);
                let (name, k) = (self.name("conv"), self.r.of(&[1, 3]));
                let out = if self.r.below(2) == 0 { width } else { 8 };
                let mut h = image.conv2d(&name, out, k, 1, [k / 2; 4]);
                h = h.act(self.activation());
                if out == width && self.r.below(2) == 0 {
                    h = image + h;
                }
                h.reshape([self.batch, rows.into(), out.into()])
            }
            9 => {
                let image = x.reshape([self.batch, self.rows.0.into(), self.rows.1.into(), width.into()]);
                let h =
                    image.group_norm(&self.name("gn"), self.r.of(&[1, 2, 4]), 1e-5).act(self.activation());
                let h = if self.rows.0.is_multiple_of(2) && self.rows.1.is_multiple_of(2) {
                    let small = h.conv2d(&self.name("down"), 8, 3, 2, [0, 1, 0, 1]);
                    small.upsample2x().conv2d(&self.name("up"), width, 3, 1, [1; 4])
                } else {
                    h
                };
                h.reshape([self.batch, rows.into(), width.into()])
            }
            10 => {
                let other = self.pick();
                let joined = x.concat(2, &[other]);
                if self.r.below(2) == 0 { joined } else { joined.linear(&self.name("join"), width) }
            }
            11 if width >= 16 => {
                let start = self.r.below(width / 8) * 8;
                x.slice(2, start, 8)
            }
            12 if width.is_multiple_of(16) => {
                let table: Vec<f32> = (0..rows * 8)
                    .map(|i| {
                        let (row, j) = (i / 8, i % 8);
                        let angle = row as f32 / 10f32.powf((j % 4) as f32 / 4.0);
                        if j < 4 { angle.cos() } else { angle.sin() }
                    })
                    .collect();
                let table = self.g.constant([rows, 8], table);
                let style = self.r.of(&[RopeStyle::Half, RopeStyle::Interleaved]);
                x.rope(table, width / 16, style, None)
            }
            13 => {
                // Heads or rows the other way round and back, so that strides are no longer row-major.
                let swapped = x.permute(&[0, 2, 1]);
                if rows == width || self.r.below(2) == 0 {
                    swapped.act(Activation::Silu).permute(&[0, 2, 1])
                } else {
                    swapped.linear(&self.name("mix"), rows).permute(&[0, 2, 1])
                }
            }
            14 => {
                let other = self.pick();
                let coeffs = self.g.input("coeffs", [GRID, 2], DType::F32, Stage::Request);
                if other.shape() == x.shape() {
                    coeffs.pick(0, self.step, Stage::Step).combine(&[x, other])
                } else {
                    x.act(self.activation())
                }
            }
            _ => {
                // A stream of which only some rows are live.
                let restricted = x.restrict(1, self.visible);
                let h = restricted.norm(NormKind::Layer, 1e-6).linear(&self.name("live"), self.width);
                let h = h.act(self.activation());
                let gated = h + self.side(self.width) * h.linear(&self.name("live"), self.width);
                self.live.push(gated);
                return;
            }
        };
        self.pool.push(made);
    }
}

/// The network of a seed.
pub fn case(seed: u64) -> Case {
    let mut r = Random::new(seed);
    let (batch_max, rows) = (1 + r.below(3), (1 + r.below(4), 1 + r.below(4)));
    let (n, width) = (rows.0 * rows.1, 16 * (1 + r.below(2)));
    let builder = Builder::new(format!("random-{seed}"));
    let g = &builder;
    let batch = g.up_to("batch", batch_max, Stage::Request);
    let visible = g.between("visible", n, Stage::Step);
    let step = g.slot("step");
    let shape: Shape = [batch, n.into(), width.into()].into();
    let x = g.input("x", shape.clone(), DType::F32, Stage::Request);
    let late = g.input("late", shape.clone(), DType::F32, Stage::Step);
    let state = g.state("state", shape.clone());
    // Every input is used, whatever the network becomes.
    let t = g.input("t", [GRID], DType::F32, Stage::Request);
    let coeffs = g.input("coeffs", [GRID, 2], DType::F32, Stage::Request);
    let pool = vec![x, late, state, x + state, t.pick(0, step, Stage::Step) * late];
    let _ = coeffs;
    let names = 0;
    let nodes = 4 + r.below(20);
    let mut grower = Grower { g, r, pool, live: vec![], visible, step, batch, rows, width, names };
    for _ in 0..nodes {
        grower.grow();
    }
    let Grower { pool, live, mut r, .. } = grower;
    for (i, value) in pool.iter().rev().take(2).chain(live.last()).enumerate() {
        g.output(&format!("out{i}"), *value);
    }
    let next = pool.iter().rev().find(|v| v.shape() == shape && v.id() != state.id());
    if let Some(next) = next {
        state.assign(next.norm(NormKind::Layer, 1e-6), None);
    }
    let used = 1 + r.below(batch_max);
    let table = (0..1 + r.below(GRID))
        .map(|i| {
            let lo = r.below(n + 1);
            let hi = lo + r.below(n + 1 - lo);
            [
                ("batch".to_string(), used as u32),
                ("visible.lo".to_string(), lo as u32),
                ("visible.hi".to_string(), hi as u32),
                ("step".to_string(), i as u32),
            ]
            .into()
        })
        .collect();
    let mut array = |shape: &[usize]| {
        let numel = shape.iter().product();
        Array::from_f32(shape, &r.units(numel))
    };
    let inputs = [
        ("x".to_string(), array(&[batch_max, n, width])),
        ("late".to_string(), array(&[batch_max, n, width])),
        ("t".to_string(), array(&[GRID])),
        ("coeffs".to_string(), array(&[GRID, 2])),
    ]
    .into();
    let graph = builder.finish().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    Case { graph, inputs, table }
}
