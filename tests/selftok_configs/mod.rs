//! The configurations that the golden files were made with.

use selftok_graph::models::selftok::Config;
use selftok_workspace::path;

/// `tests/golden/selftok/tiny.json` in the form of a model folder: random weights, two blocks.
#[allow(dead_code)] // Each test binary uses some of these.
pub const TINY: &str = r#"{"model_type": "selftok", "image_size": 64, "latent_channels": 16, "latent_size": 8,
    "patch_size": 2, "num_tokens": 16, "tokens_per_stage": [6, 4, 3, 2, 1], "codebook_size": 256, "code_dim": 16,
    "encoder": {"hidden_size": 16, "num_heads": 2, "depth": 2, "query_size": 32, "query_heads": 4, "pos_grid": 16},
    "decoder": {"hidden_size": 128, "num_heads": 2, "depth": 2, "pos_grid": 12}}"#;

/// The configuration of the tiny weights.
#[allow(dead_code)]
pub fn tiny() -> Config {
    serde_json::from_str(TINY).expect("a valid configuration")
}

/// The small trained model that ships with the project.
#[allow(dead_code)]
pub fn mini() -> Config {
    let text = std::fs::read_to_string(path("models/mini/config.json")).expect("models/mini/config.json");
    serde_json::from_str(&text).expect("a valid configuration")
}

/// The small model's autoencoder.
#[allow(dead_code)]
pub fn mini_autoencoder() -> selftok_graph::models::autoencoder::Config {
    let text =
        std::fs::read_to_string(path("models/mini/vae/config.json")).expect("models/mini/vae/config.json");
    serde_json::from_str(&text).expect("a valid configuration")
}
