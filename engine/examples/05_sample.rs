//! Sampling with a diffusion network of a published kind, from noise that a seed gives:
//! `cargo run --release -p selftok --example 05_sample [MODEL_DIR CONDITIONS.safetensors]`. Without arguments it takes the tiny
//! UNet of the tests, whose weights are random, and the text embeddings recorded beside it.

use selftok::Device;
use selftok::networks::NamedTensors;
use selftok::solvers::{SampleOptions, Sampler, Solver};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models/unet_sd15");
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or(tiny.into());
    let conditions = arguments.next().unwrap_or(format!("{folder}/io.safetensors"));

    let mut sampler = Sampler::open(&folder, &Device::auto()?)?; // UNet, DiT or MMDiT: config.json says which
    println!("{folder} reads {}", sampler.inputs().join(", "));
    // The conditions, without noise if the file has some: ours comes from a seed, as torch.manual_seed gives it.
    let given = sampler.accept(&NamedTensors::open(&conditions)?)?.without("sample");
    let inputs = sampler.draw(&given, 7, None, None)?;

    let mut sample = |solver, steps| -> Result<(Vec<f32>, f64), Box<dyn std::error::Error>> {
        let start = Instant::now();
        let out = sampler.sample(&inputs, SampleOptions { solver, steps, guidance: 4.0 }, None, None)?;
        Ok((out.f32("out").unwrap_or_default().to_vec(), start.elapsed().as_secs_f64()))
    };
    let (fine, _) = sample(Solver::Euler, 200)?;
    let size = (fine.iter().map(|x| x * x).sum::<f32>() / fine.len() as f32).sqrt();
    println!("solver   steps  seconds  distance to 200 Euler steps, of {size:.2}");
    for solver in [Solver::Ddim, Solver::Euler, Solver::Heun, Solver::DpmSolverPp2M] {
        for steps in [5, 10, 20, 40] {
            let (found, seconds) = sample(solver, steps)?;
            let squares = found.iter().zip(&fine).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let distance = (squares / fine.len() as f32).sqrt();
            println!("{:7} {steps:6} {seconds:8.3} {distance:9.3}", solver.name());
        }
    }
    Ok(())
}
