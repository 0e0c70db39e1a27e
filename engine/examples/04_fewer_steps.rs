//! How near each solver comes in how many steps, on the small model's pictures: `cargo run --release -p selftok --example
//! 04_fewer_steps`. Prints a table of PSNR in dB, each solver beside the number of times it evaluates the network.

use selftok::solvers::Solver;
use selftok::{Picture, Selftok, Tokens, metrics};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/mini");
    let selftok = Selftok::options().model(root).batch(16).open()?;
    let mut paths: Vec<_> = std::fs::read_dir(format!("{root}/pictures"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "png"));
    paths.sort();
    let side = selftok.config().image_size as u32;
    let originals: Vec<Picture> = paths
        .iter()
        .map(|path| Ok(selftok::picture::resize::preprocess(&Picture::open(path)?, side)?))
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let tokens: Tokens = selftok.encode_batch(&originals, Default::default())?.tokens;
    // Means over pictures.
    let psnr = |a: &[Picture], b: &[Picture]| -> Result<f64, Box<dyn std::error::Error>> {
        let mut sum = 0.0;
        for (a, b) in a.iter().zip(b) {
            sum += metrics::psnr(a, b)?;
        }
        Ok(sum / a.len() as f64)
    };
    let exact = selftok.decode(&tokens).solver(Solver::Euler).steps(1000).seed(1234).run()?;
    println!(
        "{} pictures, seed 1234; the renderer's one step: {:.2} dB to the originals;",
        originals.len(),
        psnr(&originals, &selftok.render(&tokens)?)?
    );
    println!("1000 Euler steps: {:.2} dB.\n", psnr(&originals, &exact)?);
    println!("| evaluations | solver | steps | dB to the original pictures | dB to 1000 Euler steps |");
    println!("|---:|---|---:|---:|---:|");
    for evaluations in [4usize, 6, 8, 12, 16, 24, 50, 100] {
        for solver in
            [Solver::Euler, Solver::AdamsBashforth2, Solver::DpmSolverPp2M, Solver::Midpoint, Solver::Heun]
        {
            let steps = match solver {
                Solver::Midpoint => evaluations / 2,
                // The last step is of first order.
                Solver::Heun => evaluations.div_ceil(2),
                _ => evaluations,
            };
            let used = if solver == Solver::Heun { 2 * steps - 1 } else { evaluations };
            let pictures = selftok.decode(&tokens).solver(solver).steps(steps).seed(1234).run()?;
            let (to_original, to_exact) = (psnr(&originals, &pictures)?, psnr(&exact, &pictures)?);
            println!("| {used} | {} | {steps} | {to_original:.2} | {to_exact:.2} |", solver.name());
        }
    }
    Ok(())
}
