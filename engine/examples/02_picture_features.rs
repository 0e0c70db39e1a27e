//! What a ViT sees in pictures, and how alike they are to it: `cargo run --release -p selftok --example 02_picture_features
//! [MODEL_DIR]`. Without an argument it takes DINOv2 if `tests/real_models.py` fetched it, else a tiny one with random
//! weights, which runs but sees nothing.

use selftok::networks::{self, NamedTensors, Values};
use selftok::picture::{resize, tensor};
use selftok::{Device, Picture};
use std::path::{Path, PathBuf};

/// What DINOv2 was trained with.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let real = root.join("tests/.cache/dinov2-small");
    let tiny = root.join("tests/golden/models/dinov2");
    let folder = std::env::args().nth(1).map(PathBuf::from);
    let folder = folder.unwrap_or(if real.is_dir() { real } else { tiny });
    let network = networks::open(&folder, &Device::auto()?)?; // checks every tensor; compiles nothing yet
    println!("{}: {}", folder.display(), network.signature());

    let mut files: Vec<_> = std::fs::read_dir(root.join("models/mini/pictures"))?
        .map(|f| Ok(f?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "png"));
    files.sort();
    files.truncate(4);

    // The shapes say what to compile: a batch of 224 x 224 pixels, whatever the position table was made for.
    let side = 224;
    let mut pixels = vec![0.0; files.len() * 3 * side * side];
    for (file, pixels) in files.iter().zip(pixels.chunks_exact_mut(3 * side * side)) {
        let picture = resize::preprocess(&Picture::open(file)?, side as u32)?;
        tensor::to_nchw(&picture, pixels)?; // -1 to 1
        for (c, plane) in pixels.chunks_exact_mut(side * side).enumerate() {
            plane.iter_mut().for_each(|x| *x = ((*x + 1.0) / 2.0 - MEAN[c]) / DEVIATION[c]);
        }
    }
    let inputs =
        NamedTensors::new().with("pixel_values", &[files.len(), 3, side, side], Values::F32(pixels))?;
    let results = network.run(&inputs)?;
    println!("results: {}", results.describe());

    let features = results.f32("pooler_output").ok_or("this network has no pooled features")?;
    let rows: Vec<&[f32]> = features.chunks_exact(features.len() / files.len()).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for (file, a) in files.iter().zip(&rows) {
        let alike = rows.iter().map(|b| format!("{:6.3}", dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()));
        println!(
            "{} {}",
            alike.collect::<Vec<_>>().join(" "),
            file.file_name().unwrap_or_default().display()
        );
    }
    Ok(())
}
