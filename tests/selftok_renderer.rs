//! The one-step renderer against the original's golden values.

mod selftok_configs;

use selftok_configs::{mini, tiny};
use selftok_graph::{Program, Stage, models::selftok};
use selftok_workspace::backend::{all, inputs, slots};
use selftok_workspace::{Golden, assert_close};

const TOLERANCE: f64 = 1e-4;

#[test]
fn the_tiny_renderer_agrees_with_the_original_at_every_stage() {
    let weights = Golden::open("tests/golden/selftok/tiny_renderer.weights.safetensors");
    let io = Golden::open("tests/golden/selftok/tiny_renderer.io.safetensors");
    let program = Program::from(selftok::renderer(&tiny(), 2, true).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let out = session.run("render", &inputs([("tokens", io.get("tokens"))]), &[slots([("batch", 2)])]);
        for stage in ["hidden_states", "block0.context", "block0.x", "block1.x"] {
            assert_close(stage, &out[stage], &io.get(stage), TOLERANCE);
        }
        // Time is a constant here, so it is embedded once for the whole batch.
        assert_close("t_emb", &out["t_emb"], &io.rows("t_emb", 1), TOLERANCE);
        assert_close("rendered_latent", &out["rendered_latent"], &io.get("pred_x0"), TOLERANCE);
    }
}

#[test]
fn the_small_model_renders_what_the_original_does() {
    let (weights, golden) =
        (Golden::open("models/mini/renderer.safetensors"), Golden::open("models/mini/golden.safetensors"));
    let program = Program::from(selftok::renderer(&mini(), 2, false).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let tokens = golden.rows("indices", 2);
        let out = session.run("render", &inputs([("tokens", tokens)]), &[slots([("batch", 2)])]);
        let expected = golden.rows("rendered_latent", 2);
        assert_close("rendered_latent", &out["rendered_latent"], &expected, TOLERANCE);
    }
}

#[test]
fn nothing_in_the_renderer_waits_for_a_step_and_its_modulations_are_bound() {
    let graph = selftok::renderer(&selftok::Config::released(512), 1, true).unwrap();
    assert!(graph.nodes.iter().all(|node| node.stage < Stage::Step));
    let modulations = graph.nodes.iter().filter(|node| {
        node.op.name() == "linear"
            && node.inputs[1..].iter().any(|&id| graph.value(id).name.contains("adaLN_modulation"))
    });
    assert!(modulations.clone().count() > 48);
    assert!(modulations.clone().all(|node| node.stage == Stage::Bind));
}

#[test]
fn a_canvas_with_a_row_for_each_patch_is_taken_too() {
    let mut config = selftok::Config::released(512);
    config.decoder.repeat = false;
    let graph = selftok::renderer(&config, 1, false).unwrap();
    let (_, mask) = graph.weights().find(|(_, value)| value.name == "model.mask_token").unwrap();
    assert_eq!(mask.shape.sizes(), [1, 256, 1536]);
}
