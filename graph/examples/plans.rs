//! Prints the plan of a Selftok network: `cargo run -p selftok-graph --example plans -- decoder`.

use selftok_graph::models::{autoencoder, selftok};
use selftok_graph::{Graph, GraphError, Program, Target, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let which = std::env::args().nth(1).unwrap_or_else(|| "encoder".into());
    let config = selftok::Config::released(512);
    let vae = autoencoder::Config::sd3();
    let graphs: Result<Vec<Graph>, GraphError> = match which.as_str() {
        "encoder" => selftok::encoder(&config, 1, [32, 32], false).map(|g| vec![g]),
        "decoder" => ["start", "sample"]
            .into_iter()
            .map(|entry| match entry {
                "start" => selftok::decoder::start(&config, 1, [32, 32]),
                _ => selftok::decoder::sample(&config, 1, [32, 32], 64, Default::default()),
            })
            .collect(),
        "renderer" => selftok::renderer(&config, 1, false).map(|g| vec![g]),
        "vae-encode" => autoencoder::encode(&vae, 1, [256, 256], false).map(|g| vec![g]),
        "vae-decode" => autoencoder::decode(&vae, 1, [32, 32], false).map(|g| vec![g]),
        other => {
            return Err(format!("'{other}': encoder, decoder, renderer, vae-encode or vae-decode").into());
        }
    };
    let mut target = Target::generic();
    target.off = std::env::args().skip(2).collect();
    print!("{}", compile(&Program::new(which, graphs?)?, &target)?);
    Ok(())
}
