//! Everything end to end as the original's pipeline does it, on random weights: a picture file to token ids, and ids to
//! picture files by diffusion and by the renderer, from files of both formats.

mod selftok_configs;

use selftok::{Picture, Selftok, Tokens};
use selftok_configs::TINY;
use selftok_workspace::{Array, Golden, assert_close, path};
use std::path::PathBuf;
use tempfile::TempDir;

fn golden(file: &str) -> PathBuf {
    path("tests/golden/selftok").join(file)
}

/// A model folder of the tiny weights with the renderer of this golden file.
fn folder(renderer: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("vae")).unwrap();
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        std::fs::copy(golden(from), to).unwrap_or_else(|error| panic!("{from}: {error}"));
    };
    let (_, extension) = renderer.rsplit_once('.').expect("an extension");
    copy("tiny_tokenizer.weights.safetensors", "tokenizer.safetensors");
    copy(renderer, &format!("renderer.{extension}"));
    for part in ["config.json", "diffusion_pytorch_model.safetensors"] {
        copy(&format!("tiny_vae/vae/{part}"), &format!("vae/{part}"));
    }
    std::fs::write(folder.path().join("config.json"), TINY).unwrap();
    folder
}

/// The model in it; what is open of its files stays mapped when the folder goes.
fn open(renderer: &str) -> Selftok {
    Selftok::open(folder(renderer).path()).unwrap_or_else(|error| panic!("{error}"))
}

fn tokens() -> Tokens {
    Tokens::load(golden("pipe_tokens_fp32.npy")).unwrap()
}

#[track_caller]
fn within_a_level(found: &[Picture], file: &str) {
    let expected = Picture::open(golden(file)).unwrap();
    let [found] = found else { panic!("{} pictures", found.len()) };
    assert_eq!((found.width(), found.height()), (expected.width(), expected.height()));
    let worst = found.rgb().iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{file}: differs by {worst:?} levels");
}

#[test]
fn a_picture_file_becomes_the_originals_latent_and_ids() {
    let (selftok, io) =
        (open("tiny_renderer.weights.safetensors"), Golden::open("tests/golden/selftok/pipe.io.safetensors"));
    let pixels: Vec<f32> = io.get("pre.tensor").data.iter().map(|&x| x as f32).collect();
    let expected = io.get("fp32.encoder_latent");
    let latent = Array::from_f32(&expected.shape, &selftok.to_latents(&pixels).unwrap());
    assert_close("encoder_latent", &latent, &expected, 1e-4);
    let picture = Picture::open(golden("pipe_input.png")).unwrap();
    assert_eq!(selftok.encode(&picture).unwrap(), tokens());
}

#[test]
fn diffusion_from_the_originals_seed_draws_its_picture() {
    let (selftok, io) =
        (open("tiny_renderer.weights.safetensors"), Golden::open("tests/golden/selftok/pipe.io.safetensors"));
    let tokens = tokens();
    let expected = io.get("fp32.sampled_latent");
    let latent = selftok.decode(&tokens).seed(1234).latents().unwrap();
    assert_close("sampled_latent", &Array::from_f32(&expected.shape, &latent), &expected, 1e-4);
    within_a_level(&selftok.decode(&tokens).seed(1234).run().unwrap(), "pipe_recon_fp32.png");
}

#[test]
fn the_renderer_draws_the_originals_picture_from_either_file_format() {
    for file in ["tiny_renderer.weights.safetensors", "tiny_renderer.pth"] {
        within_a_level(&open(file).render(&tokens()).unwrap(), "pipe_renderer_fp32.png");
    }
}
