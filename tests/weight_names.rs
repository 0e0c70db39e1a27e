//! The tensors that the builders ask for are those of the released checkpoints, name by name and shape by shape.

use selftok_graph::Graph;
use selftok_graph::models::autoencoder;
use selftok_graph::models::selftok::{self, decoder};
use selftok_workspace::path;
use std::collections::BTreeMap;

type Shapes = BTreeMap<String, Vec<usize>>;

/// Keys and shapes of a released checkpoint.
fn released(file: &str) -> Shapes {
    let text = std::fs::read_to_string(path("tests/golden/selftok").join(file)).unwrap();
    let keys: BTreeMap<String, (Vec<usize>, String)> = serde_json::from_str(&text).unwrap();
    keys.into_iter().map(|(name, (shape, _))| (name, shape)).collect()
}

fn asked(graphs: &[Graph]) -> Shapes {
    let weights = graphs.iter().flat_map(Graph::weights);
    weights.map(|(_, value)| (value.name.clone(), value.shape.sizes())).collect()
}

/// What a checkpoint holds without a use at inference.
fn unused(name: &str) -> bool {
    // Training only, or never read by the original.
    let buffers = [
        "diffusion.",
        "encoder.final_layer_norm.",
        "encoder.final_layer_norm2.",
        "encoder.quantizer.continuous",
        "encoder.quantizer.count",
        "encoder.quantizer.steps",
        "encoder.quantizer._codebook.cluster_size",
        "encoder.quantizer._codebook.embed_avg",
        "encoder.quantizer._codebook.initted",
        "encoder.quantizer._codebook.timestep_p_over_c",
        "encoder.quantizer._codebook.tpc_initted",
        "model.y_embedder.",
    ];
    // The image after the encoder's last block, and the position of tokens in the decoder's last block, reach
    // nothing.
    let dead = [
        "encoder.blocks.15.attn.qkv.",
        "encoder.blocks.15.attn.proj.",
        "encoder.blocks.15.mlp.",
        "model.joint_blocks.23.context_block.t_embedder.",
    ];
    buffers.iter().chain(&dead).any(|prefix| name.starts_with(prefix))
}

#[track_caller]
fn assert_same(asked: Shapes, released: impl Iterator<Item = (String, Vec<usize>)>) {
    let released: Shapes = released.collect();
    let missing: Vec<_> = released.iter().filter(|(name, _)| !asked.contains_key(*name)).collect();
    let unknown: Vec<_> = asked.iter().filter(|(name, _)| !released.contains_key(*name)).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not asked for: {missing:?}; not released: {unknown:?}"
    );
    assert_eq!(asked, released);
}

#[test]
fn the_tokenizer_asks_for_every_tensor_that_the_release_uses() {
    let config = selftok::Config::released(512);
    let options = decoder::Options::default();
    let encode = selftok::encoder(&config, 1, [32, 32], false).unwrap();
    let expected = || released("full_tok_keys.json").into_iter().filter(|(name, _)| !unused(name));
    let velocity = decoder::velocity(&config, 1, [32, 32], options).unwrap();
    assert_same(asked(&[encode.clone(), velocity]), expected());
    let sample = decoder::sample(&config, 1, [32, 32], 64, options).unwrap();
    assert_same(asked(&[encode, sample]), expected());
}

#[test]
fn the_renderer_asks_for_every_tensor_that_the_release_uses() {
    let config = selftok::Config::released(512);
    let graphs = [
        selftok::encoder(&config, 1, [32, 32], false).unwrap(),
        selftok::renderer(&config, 1, false).unwrap(),
    ];
    // The canvas has positions of its own.
    let expected = released("full_ren_keys.json").into_iter();
    assert_same(asked(&graphs), expected.filter(|(name, _)| !unused(name) && name != "model.pos_embed"));
}

#[test]
fn the_autoencoder_asks_for_every_tensor_of_diffusers() {
    let config = autoencoder::Config::sd3();
    let graphs = [
        autoencoder::encode(&config, 1, [256, 256], false).unwrap(),
        autoencoder::decode(&config, 1, [32, 32], false).unwrap(),
    ];
    assert_same(asked(&graphs), released("full_vae_keys.json").into_iter());
}
