//! The encoder against the original's golden values: stage by stage on random weights, whole on the small model.

mod selftok_configs;

use selftok_configs::{mini, tiny};
use selftok_graph::{Program, models::selftok};
use selftok_workspace::backend::{all, inputs, slots};
use selftok_workspace::{Golden, assert_close, assert_same_ids};

const TOLERANCE: f64 = 1e-4;

fn tiny_case(prefix: &str, latent: [usize; 2]) {
    let weights = Golden::open("tests/golden/selftok/tiny_tokenizer.weights.safetensors");
    let io = Golden::open("tests/golden/selftok/tiny_tokenizer.io.safetensors");
    let x = io.get(&format!("{prefix}.input_latent"));
    let batch = x.shape[0];
    let program = Program::from(selftok::encoder(&tiny(), batch, latent, true).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let out = session.run("encode", &inputs([("latent", x.clone())]), &[slots([("batch", batch)])]);
        for stage in ["patch_embed", "patch_embed_plus_pos", "block0.x", "block0.q", "block1.q", "project_in"]
        {
            assert_close(stage, &out[stage], &io.get(&format!("{prefix}.{stage}")), TOLERANCE);
        }
        let expected = io.get(&format!("{prefix}.encoder_out_before_quant"));
        assert_close("hidden_states", &out["hidden_states"], &expected, TOLERANCE);
        assert_same_ids("indices", &out["indices"], &io.get(&format!("{prefix}.indices")));
        let scores = io.get(&format!("{prefix}.scores"));
        for (row, score) in out["score"].data.iter().enumerate() {
            let mut sorted = scores.row(row).to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            assert!((score - sorted[0]).abs() < TOLERANCE, "score of row {row}");
            let margin = out["margin"].data[row];
            assert!((margin - (sorted[0] - sorted[1])).abs() < TOLERANCE, "margin of row {row}");
        }
    }
}

#[test]
fn the_tiny_encoder_agrees_with_the_original_at_every_stage() {
    tiny_case("enc", [8, 8]);
}

#[test]
fn the_tiny_encoder_takes_latents_that_are_not_square() {
    tiny_case("enc_nonsquare", [12, 8]);
}

#[test]
fn a_part_filled_batch_gives_what_a_full_one_does() {
    let weights = Golden::open("tests/golden/selftok/tiny_tokenizer.weights.safetensors");
    let io = Golden::open("tests/golden/selftok/tiny_tokenizer.io.safetensors");
    let mut x = io.get("enc.input_latent");
    let half = x.data.len() / 2;
    x.data[half..].fill(f64::NAN);
    let program = Program::from(selftok::encoder(&tiny(), 2, [8, 8], false).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let out = session.run("encode", &inputs([("latent", x.clone())]), &[slots([("batch", 1)])]);
        let first = |array: &selftok_workspace::Array| array.data[..16].to_vec();
        assert_eq!(first(&out["indices"]), first(&io.get("enc.indices")));
    }
}

#[test]
fn the_small_model_encodes_real_pictures_to_the_originals_ids() {
    let (weights, golden) =
        (Golden::open("models/mini/tokenizer.safetensors"), Golden::open("models/mini/golden.safetensors"));
    let pictures = 2;
    let program = Program::from(selftok::encoder(&mini(), pictures, [16, 16], false).unwrap());
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let x = golden.rows("latent", pictures);
        let out = session.run("encode", &inputs([("latent", x)]), &[slots([("batch", pictures)])]);
        let expected = golden.rows("hidden_states", pictures);
        assert_close("hidden_states", &out["hidden_states"], &expected, TOLERANCE);
        assert_close("margin", &out["margin"], &golden.rows("margin", pictures), TOLERANCE);
        assert_same_ids("indices", &out["indices"], &golden.rows("indices", pictures));
    }
}
