//! The released configuration at full size, with procedural weights.

use selftok_graph::Program;
use selftok_graph::models::{autoencoder, selftok};
use selftok_workspace::backend::{all, inputs, slots};
use selftok_workspace::procedural::Procedural;
use selftok_workspace::{Golden, assert_close};

/// Of 512 positions of the full encoder, those whose two best codes lie nearer than this may go either way.
const CLEAR_MARGIN: f64 = 1e-3;

#[test]
#[ignore = "50 G multiplications in the plain f64 interpreter: about 40 s"]
fn the_full_encoder_agrees_with_the_original() {
    let (weights, io) = (
        Procedural::open("full_tok_keys.json"),
        Golden::open("tests/golden/selftok/full_tok.io.safetensors"),
    );
    let config = selftok::Config::released(512);
    let program = Program::from(selftok::encoder(&config, 1, [32, 32], true).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let values = inputs([("latent", io.get("input_latent"))]);
        let out = session.run("encode", &values, &[slots([("batch", 1)])]);
        assert_close("block0.q", &out["block0.q"], &io.get("block0.q"), 2e-3);
        let expected = io.get("encoder_out_before_quant");
        assert_close("hidden_states", &out["hidden_states"], &expected, 2e-3);
        let (indices, margin) = (io.get("indices"), io.get("margin"));
        let differ: Vec<usize> = (0..512).filter(|&i| out["indices"].data[i] != indices.data[i]).collect();
        assert!(differ.len() <= 2 && differ.iter().all(|&i| margin.data[i] < CLEAR_MARGIN), "{differ:?}");
    }
}

#[test]
#[ignore = "450 G multiplications in the plain f64 interpreter: minutes of two processors"]
fn the_full_autoencoder_agrees_with_diffusers() {
    let (weights, io) = (
        Procedural::open("full_vae_keys.json"),
        Golden::open("tests/golden/selftok/full_vae.io.safetensors"),
    );
    let config = autoencoder::Config::sd3();
    let entries = vec![
        autoencoder::encode(&config, 1, [256, 256], true).unwrap(),
        autoencoder::decode(&config, 1, [32, 32], false).unwrap(),
    ];
    let program = Program::new("autoencoder", entries).unwrap();
    let image = selftok_workspace::procedural::uniform("golden.vae_full.image")
        .take(3 * 256 * 256)
        .map(|x| (x * 3f32.sqrt()).clamp(-1.0, 1.0))
        .collect::<Vec<f32>>();
    let image = selftok_workspace::Array::from_f32(&[1, 3, 256, 256], &image);
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let one = [slots([("batch", 1)])];
        let out = session.run("autoencoder.encode", &inputs([("pixel_values", image.clone())]), &one);
        assert_close("mean", &out["mean"], &io.get("mean"), 2e-3);
        // The golden latent is what diffusers' decoder takes, past the change of scale.
        let (shift, scale) = (f64::from(config.shift_factor.unwrap()), f64::from(config.scaling_factor));
        let mut latent = io.get("latent");
        latent.data.iter_mut().for_each(|v| *v = (*v - shift) * scale);
        let out = session.run("autoencoder.decode", &inputs([("latent", latent)]), &one);
        assert_close("pixel_values", &out["pixel_values"], &io.get("decoded"), 2e-3);
    }
}
