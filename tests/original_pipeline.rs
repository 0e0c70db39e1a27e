//! Everything end to end as the original's pipeline does it, on random weights: a picture file to token ids, and ids to
//! picture files by diffusion and by the renderer, from files of both formats.

mod selftok_configs;

use selftok::{Picture, Selftok, Tokens};
use selftok_configs::TINY;
use selftok_workspace::{Array, Golden, assert_close, path};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

fn golden(file: &str) -> PathBuf {
    path("tests/golden/selftok").join(file)
}

/// A model folder that lives as long as this.
struct Folder(PathBuf);

impl Folder {
    /// The tiny model with its renderer from this golden file.
    fn with_renderer(file: &str) -> Folder {
        let extension = Path::new(file).extension().and_then(|e| e.to_str()).expect("an extension");
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("selftok-original-pipeline-{process}-{count}");
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(folder.0.join("vae")).unwrap();
        let copy = |from: &str, to: &str| {
            std::fs::copy(golden(from), folder.0.join(to)).unwrap_or_else(|error| panic!("{from}: {error}"));
        };
        copy("tiny_tokenizer.weights.safetensors", "tokenizer.safetensors");
        copy(file, &format!("renderer.{extension}"));
        for part in ["config.json", "diffusion_pytorch_model.safetensors"] {
            copy(&format!("tiny_vae/vae/{part}"), &format!("vae/{part}"));
        }
        std::fs::write(folder.0.join("config.json"), TINY).unwrap();
        folder
    }

    fn open(&self) -> Selftok {
        Selftok::open(&self.0).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
    let folder = Folder::with_renderer("tiny_renderer.weights.safetensors");
    let (selftok, io) = (folder.open(), Golden::open("tests/golden/selftok/pipe.io.safetensors"));
    let pixels: Vec<f32> = io.get("pre.tensor").data.iter().map(|&x| x as f32).collect();
    let expected = io.get("fp32.encoder_latent");
    let latent = Array::from_f32(&expected.shape, &selftok.to_latents(&pixels).unwrap());
    assert_close("encoder_latent", &latent, &expected, 1e-4);
    let picture = Picture::open(golden("pipe_input.png")).unwrap();
    assert_eq!(selftok.encode(&picture).unwrap(), tokens());
}

#[test]
fn diffusion_from_the_originals_seed_draws_its_picture() {
    let folder = Folder::with_renderer("tiny_renderer.weights.safetensors");
    let (selftok, io) = (folder.open(), Golden::open("tests/golden/selftok/pipe.io.safetensors"));
    let tokens = tokens();
    let expected = io.get("fp32.sampled_latent");
    let latent = selftok.decode(&tokens).seed(1234).latents().unwrap();
    assert_close("sampled_latent", &Array::from_f32(&expected.shape, &latent), &expected, 1e-4);
    within_a_level(&selftok.decode(&tokens).seed(1234).run().unwrap(), "pipe_recon_fp32.png");
}

#[test]
fn the_renderer_draws_the_originals_picture_from_either_file_format() {
    for file in ["tiny_renderer.weights.safetensors", "tiny_renderer.pth"] {
        let folder = Folder::with_renderer(file);
        within_a_level(&folder.open().render(&tokens()).unwrap(), "pipe_renderer_fp32.png");
    }
}
