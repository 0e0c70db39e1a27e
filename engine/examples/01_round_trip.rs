//! A picture to tokens and back, in one step and by diffusion: `cargo run --release -p selftok --example 01_round_trip`.

use selftok::{Picture, Selftok, metrics};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/mini");
    let default = format!("{root}/pictures/noto-umbrella-with-rain-drops.png");
    let picture = Picture::open(std::env::args().nth(1).unwrap_or(default))?;

    let start = Instant::now();
    let selftok = Selftok::open(root)?; // maps the weights and checks every tensor
    let opened = start.elapsed();
    let tokens = selftok.encode(&picture)?; // 64 ids
    let encoded = start.elapsed();
    println!("opened in {opened:?}, tokens after {encoded:?}: {:?}", tokens.ids());

    let quick = selftok.render(&tokens)?; // one step
    let rendered = start.elapsed() - encoded;
    let slow = selftok.decode(&tokens).steps(50).seed(7).run()?; // fifty
    let diffused = start.elapsed() - rendered - encoded;

    let input = selftok::picture::resize::preprocess(&picture, selftok.config().image_size as u32)?;
    println!("rendered in {rendered:?}: {:.2} dB", metrics::psnr(&input, &quick[0])?);
    println!("diffused in {diffused:?}: {:.2} dB", metrics::psnr(&input, &slow[0])?);
    let again = Instant::now();
    selftok.encode(&picture)?;
    println!("encoded again in {:?}", again.elapsed());
    let again = Instant::now();
    selftok.render(&tokens)?;
    println!("rendered again in {:?}", again.elapsed());
    Ok(())
}
