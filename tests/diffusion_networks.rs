//! The diffusion networks, as black boxes, against golden values of diffusers.

use selftok_graph::models::diffusion::{Network, Sizes, forward};
use selftok_graph::{Program, Stage};
use selftok_workspace::backend::{all, slots};
use selftok_workspace::{Golden, assert_within_f32, path};

fn network(case: &str) -> Network {
    let text = std::fs::read_to_string(path("tests/golden/models").join(case).join("config.json")).unwrap();
    match case.split('.').next().unwrap() {
        "unet_sd15" => Network::Unet(serde_json::from_str(&text).unwrap()),
        "dit" => Network::Dit(serde_json::from_str(&text).unwrap()),
        _ => Network::Mmdit(serde_json::from_str(&text).unwrap()),
    }
}

fn judge(case: &str) {
    let folder = format!("tests/golden/models/{case}");
    let weights = Golden::open(&format!("{folder}/model.safetensors"));
    let io = Golden::open(&format!("{folder}/io.safetensors"));
    let network = network(case);
    let shape = io.get("sample").shape;
    let context = io.find("encoder_hidden_states").map_or(0, |context| context.shape[1]);
    let graph = forward(&network, Sizes { batch: shape[0], latent: [shape[2], shape[3]], context }).unwrap();
    assert!(graph.weights().all(|(_, value)| value.stage == Stage::Bind));
    let program = Program::from(graph);
    for backend in all() {
        let mut session = backend.open(&program, &|name| weights.weight(name));
        let names: Vec<_> = program.entries[0].inputs().map(|(_, value)| value.name.clone()).collect();
        let given = names.iter().map(|name| (name.clone(), io.get(name))).collect();
        let out = session.run("forward", &given, &[slots([])]);
        let what = format!("{case} on {}", backend.name());
        assert_within_f32(&what, &out["out"], &io.get("out"));
    }
}

#[test]
fn the_unet_answers_what_diffusers_does() {
    judge("unet_sd15");
}

#[test]
fn dit_answers_what_diffusers_does() {
    judge("dit");
}

#[test]
fn the_mmdit_answers_what_diffusers_does() {
    judge("sd3");
}

#[test]
fn doubled_attention_and_normalised_queries_are_those_of_diffusers() {
    judge("sd3.dual");
}

#[test]
fn other_patches_and_norms_with_weights_are_those_of_diffusers() {
    judge("dit.affine");
}

#[test]
fn blocks_in_another_order_without_a_middle_are_those_of_diffusers() {
    judge("unet_sd15.orders");
}
