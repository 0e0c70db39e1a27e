//! The SD3 autoencoder against diffusers' golden values.

use selftok_graph::Program;
use selftok_graph::models::autoencoder::{Config, decode, encode};
use selftok_workspace::backend::{all, inputs, slots};
use selftok_workspace::{Array, Golden, assert_close, path};

const TOLERANCE: f64 = 1e-4;

fn config(folder: &str) -> Config {
    let text = std::fs::read_to_string(path(folder).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn weights(folder: &str) -> Golden {
    Golden::open(&format!("{folder}/diffusion_pytorch_model.safetensors"))
}

/// Values in the latent's own scale, brought to unit variance by the configuration.
fn normalised(config: &Config, latent: &Array) -> Array {
    let (shift, scale) = (f64::from(config.shift_factor.unwrap()), f64::from(config.scaling_factor));
    Array::new(&latent.shape, latent.data.iter().map(|v| (v - shift) * scale).collect())
}

const TINY: &str = "tests/golden/selftok/tiny_vae/vae";

#[test]
fn the_tiny_encoder_agrees_with_diffusers_at_every_stage() {
    let (config, weights) = (config(TINY), weights(TINY));
    let io = Golden::open("tests/golden/selftok/tiny_vae.io.safetensors");
    let program = Program::from(encode(&config, 1, [64, 64], true).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let values = inputs([("pixel_values", io.get("image"))]);
        let out = session.run("autoencoder.encode", &values, &[slots([("batch", 1)])]);
        for stage in ["enc.conv_in", "enc.down0", "enc.down1", "enc.down3", "enc.mid", "enc.moments", "mean"]
        {
            assert_close(stage, &out[stage], &io.get(stage), TOLERANCE);
        }
        assert_close("latent", &out["latent"], &normalised(&config, &io.get("mean")), TOLERANCE);
    }
}

#[test]
fn the_tiny_decoder_agrees_with_diffusers_at_every_stage() {
    let (config, weights) = (config(TINY), weights(TINY));
    let io = Golden::open("tests/golden/selftok/tiny_vae.io.safetensors");
    let program = Program::from(decode(&config, 1, [8, 8], true).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        // The golden latent is what diffusers' decoder takes, past the change of scale.
        let values = inputs([("latent", normalised(&config, &io.get("latent")))]);
        let out = session.run("autoencoder.decode", &values, &[slots([("batch", 1)])]);
        for stage in ["dec.conv_in", "dec.mid", "dec.up0", "dec.up3"] {
            assert_close(stage, &out[stage], &io.get(stage), TOLERANCE);
        }
        assert_close("pixel_values", &out["pixel_values"], &io.get("decoded"), TOLERANCE);
    }
}

/// Pictures `[B, 3, H, W]` of bytes, in [-1, 1].
fn from_bytes(bytes: &Array) -> Array {
    Array::new(&bytes.shape, bytes.data.iter().map(|v| v / 127.5 - 1.0).collect())
}

#[test]
fn the_small_models_autoencoder_agrees_on_real_pictures() {
    let folder = "models/mini/vae";
    let (config, weights, golden) =
        (config(folder), weights(folder), Golden::open("models/mini/golden.safetensors"));
    let size = golden.rows("pictures", 1).shape[2];
    let side = size / config.downsampling();
    let entries = vec![
        encode(&config, 1, [size, size], false).unwrap(),
        decode(&config, 1, [side, side], false).unwrap(),
    ];
    let program = Program::new("autoencoder", entries).unwrap();
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let one = [slots([("batch", 1)])];
        let pictures = from_bytes(&golden.rows("pictures", 1));
        let out = session.run("autoencoder.encode", &inputs([("pixel_values", pictures)]), &one);
        assert_close("latent", &out["latent"], &golden.rows("latent", 1), TOLERANCE);
        let values = inputs([("latent", golden.rows("rendered_latent", 1))]);
        let out = session.run("autoencoder.decode", &values, &one);
        let bytes = |v: f64| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round();
        let rendered = Array::new(
            &out["pixel_values"].shape,
            out["pixel_values"].data.iter().map(|&v| bytes(v)).collect(),
        );
        // A value that lies half way between two bytes may fall either way.
        assert_close("rendered", &rendered, &golden.rows("rendered", 1), 1.0);
    }
}

#[test]
fn sides_need_not_be_equal_and_the_1x1_convolutions_are_built_where_configured() {
    let mut config = config(TINY);
    (config.use_quant_conv, config.use_post_quant_conv) = (true, true);
    config.mid_block_add_attention = false;
    let graph = encode(&config, 3, [64, 32], false).unwrap();
    let shape = |name: &str| {
        let (_, id) = graph.outputs.iter().find(|(output, _)| output == name).unwrap();
        graph.shape(*id).sizes()
    };
    assert_eq!(shape("latent"), [3, 16, 8, 4]);
    let names: Vec<&str> = graph.weights().map(|(_, value)| value.name.as_str()).collect();
    assert!(names.contains(&"quant_conv.weight"));
    assert!(!names.iter().any(|name| name.contains("attentions")));
    let graph = decode(&config, 3, [8, 4], false).unwrap();
    assert!(graph.weights().any(|(_, value)| value.name == "post_quant_conv.weight"));
}
