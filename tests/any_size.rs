//! Nothing is special to the released or the small sizes: random widths, depths, heads, tokens, codebooks, patches and
//! latents that are not square, each network compiled and held against the reference.

use selftok_graph::models::autoencoder;
use selftok_graph::models::selftok::{self as networks, Config, decoder};
use selftok_graph::{Graph, Program};
use selftok_workspace::backend::{Backend, Reference, engines, inputs, slots};
use selftok_workspace::random::Random;
use selftok_workspace::{Array, Named, Slots, procedural};
use std::collections::BTreeMap;

/// From `low` to `high`.
fn between(r: &mut Random, low: usize, high: usize) -> usize {
    low + r.below(high - low + 1)
}

/// A configuration, and a latent's rows and columns.
fn config(r: &mut Random) -> (Config, [usize; 2]) {
    // Heads of odd sizes too; at least 4 wide, as a table of positions in two directions needs.
    let width = |r: &mut Random| {
        let heads = between(r, 1, 5);
        (heads * between(r, 4, 33), heads)
    };
    let ((hidden, heads), (query, query_heads), (trunk, trunk_heads)) = (width(r), width(r), width(r));
    let (patch, grid) = (between(r, 1, 3), between(r, 1, 5));
    let stages: Vec<usize> = (0..5).map(|_| between(r, 1, 9)).collect();
    let mut config = Config::released(512);
    config.patch_size = patch;
    config.latent_size = patch * grid;
    config.image_size = 8 * config.latent_size;
    config.latent_channels = between(r, 1, 17);
    config.num_tokens = stages.iter().sum();
    config.tokens_per_stage = Some(stages);
    config.codebook_size = between(r, 2, 300);
    config.code_dim = between(r, 2, 21);
    (config.encoder.hidden_size, config.encoder.num_heads) = (hidden, heads);
    (config.encoder.query_size, config.encoder.query_heads) = (query, query_heads);
    (config.decoder.hidden_size, config.decoder.num_heads) = (trunk, trunk_heads);
    (config.encoder.depth, config.decoder.depth) = (between(r, 1, 3), between(r, 1, 3));
    (config.encoder.mlp_ratio, config.decoder.mlp_ratio) = (between(r, 1, 4), between(r, 1, 4));
    (config.encoder.pos_grid, config.decoder.pos_grid) = (between(r, 6, 9), between(r, 6, 9));
    config.decoder.repeat = r.below(2) == 0;
    (config, [patch * between(r, 1, 6), patch * between(r, 1, 6)])
}

/// Runs of entries, one after the other in one session.
type Runs = Vec<(&'static str, Named, Vec<Slots>)>;

/// Holds every engine against the reference. An id is compared where the reference's margin is clear of rounding.
fn check(what: &str, graphs: Vec<Graph>, runs: &Runs) {
    let weights: BTreeMap<String, Vec<usize>> = graphs
        .iter()
        .flat_map(Graph::weights)
        .map(|(_, value)| (value.name.clone(), value.shape.sizes()))
        .collect();
    let program = Program::new(what, graphs).unwrap();
    let read = |name: &str| {
        let shape = weights.get(name)?;
        let mut values = vec![0.0; shape.iter().product()];
        procedural::fill(name, shape, 0, &mut values);
        Some(values)
    };
    let all = |backend: &dyn Backend| -> Vec<Named> {
        let mut session = backend.open(&program, &read);
        runs.iter().map(|(entry, inputs, table)| session.run(entry, inputs, table)).collect()
    };
    let expected = all(&Reference);
    for backend in engines() {
        for (found, expected) in all(&*backend).iter().zip(&expected) {
            for name in expected.keys() {
                compare(&format!("{what}, {}, {name}", backend.name()), name, found, expected);
            }
        }
    }
}

fn compare(what: &str, name: &str, found: &Named, expected: &Named) {
    let (margin, found, expected) = (expected.get("margin"), &found[name], &expected[name]);
    assert_eq!(found.shape, expected.shape, "{what}");
    // Rows that are not live are NaN in the reference; an id near a tie may go either way.
    let tie = |i: usize| name == "indices" && margin.is_some_and(|margin| margin.data[i] < 1e-4);
    let live = || (0..expected.data.len()).filter(|&i| !expected.data[i].is_nan() && !tie(i));
    let largest = live().fold(1.0f64, |most, i| most.max(expected.data[i].abs()));
    // Ids are numbers here, but no id is near another.
    let tolerance = if name == "indices" { 0.0 } else { 1e-4 * largest };
    assert!(live().count() > 0, "{what}: nothing to compare");
    for i in live() {
        let (a, b) = (found.data[i], expected.data[i]);
        assert!((a - b).abs() <= tolerance, "{what}: element {i} is {a}, not {b}");
    }
}

fn noise(r: &mut Random, shape: &[usize]) -> Array {
    Array::from_f32(shape, &r.units(shape.iter().product()))
}

fn ids(r: &mut Random, batch: usize, config: &Config) -> Array {
    let ids = (0..batch * config.num_tokens).map(|_| r.below(config.codebook_size) as f32);
    Array::from_f32(&[batch, config.num_tokens], &ids.collect::<Vec<_>>())
}

#[test]
fn selftok_of_any_size_computes_what_the_reference_does() {
    for seed in 0..12 {
        let r = &mut Random::new(seed);
        let (config, latent) = config(r);
        let what = |network: &str| format!("seed {seed}, {network}, latent {latent:?}, {config:?}");
        let batch = between(r, 1, 3);
        let live = between(r, 1, batch);
        let shape = [batch, config.latent_channels, latent[0], latent[1]];

        let graph = networks::encoder(&config, batch, latent, false).unwrap();
        let run = ("encode", inputs([("latent", noise(r, &shape))]), vec![slots([("batch", live)])]);
        check(&what("encoder"), vec![graph], &vec![run]);

        let (tokens, lo) = (ids(r, batch, &config), r.below(config.num_tokens));
        let hi = between(r, lo, config.num_tokens);
        let visible = [("batch", live), ("visible.lo", lo), ("visible.hi", hi)];
        let options = decoder::Options { context_see_xt: r.below(2) == 0, trace: false };
        let times = Array::from_f32(&[batch], &r.units(batch).iter().map(|t| t.abs()).collect::<Vec<_>>());
        let values = inputs([("tokens", tokens.clone()), ("x_t", noise(r, &shape)), ("t", times)]);
        let graph = decoder::velocity(&config, batch, latent, options).unwrap();
        check(&what("velocity"), vec![graph], &vec![("velocity", values, vec![slots(visible)])]);

        let grid = between(r, 1, 4);
        let graphs = vec![
            decoder::start(&config, batch, latent).unwrap(),
            decoder::sample(&config, batch, latent, grid, options).unwrap(),
        ];
        let start = ("start", inputs([("noise", noise(r, &shape))]), vec![slots([("batch", live)])]);
        let table = (0..grid).map(|step| {
            let mut row = slots(visible);
            // Fewer tokens at each step.
            let hi = lo.max(hi.saturating_sub(step));
            row.extend([("grid".into(), grid as u32), ("step".into(), step as u32)]);
            row.insert("visible.hi".into(), hi as u32);
            row
        });
        let values = inputs([
            ("tokens", tokens.clone()),
            (
                "t",
                Array::from_f32(
                    &[grid],
                    &(0..grid).map(|i| 1.0 - i as f32 / grid as f32).collect::<Vec<_>>(),
                ),
            ),
            ("coeffs", Array::from_f32(&[grid, 2], &[1.0, -1.0 / grid as f32].repeat(grid))),
        ]);
        let sample = ("sample", values, table.collect());
        check(&what("diffusion"), graphs, &vec![start, sample]);

        let graph = networks::renderer(&config, batch, false).unwrap();
        let run = ("render", inputs([("tokens", tokens)]), vec![slots([("batch", live)])]);
        check(&what("renderer"), vec![graph], &vec![run]);
    }
}

#[test]
fn an_autoencoder_of_any_size_computes_what_the_reference_does() {
    for seed in 100..112 {
        let r = &mut Random::new(seed);
        let mut config = autoencoder::Config::sd3();
        let (groups, levels) = (between(r, 1, 4), between(r, 1, 3));
        config.norm_num_groups = groups;
        config.block_out_channels = (0..levels).map(|_| groups * between(r, 1, 7)).collect();
        config.down_block_types = vec!["DownEncoderBlock2D".into(); levels];
        config.up_block_types = vec!["UpDecoderBlock2D".into(); levels];
        config.layers_per_block = between(r, 1, 2);
        config.latent_channels = between(r, 1, 9);
        config.mid_block_add_attention = r.below(3) > 0;
        (config.use_quant_conv, config.use_post_quant_conv) = (r.below(2) == 0, r.below(2) == 0);
        let latent = [between(r, 1, 5), between(r, 1, 5)];
        let side = latent.map(|side| side << (levels - 1));
        let (batch, what) = (between(r, 1, 2), format!("seed {seed}, latent {latent:?}, {config:?}"));
        let live = [slots([("batch", between(r, 1, batch))])];
        let graphs = vec![
            autoencoder::encode(&config, batch, side, false).unwrap(),
            autoencoder::decode(&config, batch, latent, false).unwrap(),
        ];
        let pixels = inputs([("pixel_values", noise(r, &[batch, 3, side[0], side[1]]))]);
        let latents = inputs([("latent", noise(r, &[batch, config.latent_channels, latent[0], latent[1]]))]);
        let runs = vec![
            ("autoencoder.encode", pixels, live.to_vec()),
            ("autoencoder.decode", latents, live.to_vec()),
        ];
        check(&what, graphs, &runs);
    }
}
