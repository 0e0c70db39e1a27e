//! The small model end to end on its 16 pictures, against values from the original code: ids, latents, pictures.

use selftok::solvers::Solver;
use selftok::{ComputeType, Picture, Selftok, Tokens};
use selftok_workspace::{Array, Golden, assert_close, path};

fn golden() -> Golden {
    Golden::open("models/mini/golden.safetensors")
}

fn open() -> Selftok {
    Selftok::options().model(path("models/mini")).batch(4).open().unwrap()
}

fn f32s(array: &Array) -> Vec<f32> {
    array.data.iter().map(|&x| x as f32).collect()
}

fn tokens(golden: &Golden) -> Tokens {
    let ids = golden.get("indices");
    Tokens::new(ids.data.iter().map(|&id| id as u32).collect(), ids.shape[0], ids.shape[1]).unwrap()
}

/// The golden pictures, which are 64 x 64 already.
fn pictures(golden: &Golden, name: &str) -> Vec<Picture> {
    let all = golden.get(name);
    let [_, _, h, w] = all.shape[..] else { panic!("{:?}", all.shape) };
    let rgb = |planes: &[f64]| (0..3 * h * w).map(|i| planes[i % 3 * h * w + i / 3] as u8).collect();
    all.data.chunks_exact(3 * h * w).map(|p| Picture::from_rgb(w as u32, h as u32, rgb(p)).unwrap()).collect()
}

fn latents(name: &str, found: &[f32], golden: &Golden, tolerance: f64) {
    let expected = golden.get(name);
    assert_close(name, &Array::from_f32(&expected.shape, found), &expected, tolerance);
}

fn within_a_level(name: &str, found: &[Picture], golden: &Golden) {
    for (i, (found, expected)) in found.iter().zip(pictures(golden, name)).enumerate() {
        let worst = found.rgb().iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{name} {i}: differs by {worst:?} levels");
    }
}

#[test]
fn pictures_become_the_golden_ids() {
    let (selftok, golden) = (open(), golden());
    let encoded = selftok.encode_batch(&pictures(&golden, "pictures"), Default::default()).unwrap();
    let (ids, margin) = (golden.get("indices"), golden.get("margin"));
    for (i, &id) in encoded.tokens.ids().iter().enumerate() {
        let clear = margin.data[i] > 1e-4;
        assert!(!clear || f64::from(id) == ids.data[i], "id {i}: {id}, margin {}", margin.data[i]);
    }
    assert_eq!(encoded.tokens, tokens(&golden), "ids near a tie may differ, but here none does");
}

#[test]
fn the_renderer_draws_the_golden_pictures() {
    let (selftok, golden) = (open(), golden());
    latents("rendered_latent", &selftok.render_latents(&tokens(&golden)).unwrap(), &golden, 1e-3);
    within_a_level("rendered", &selftok.render(&tokens(&golden)).unwrap(), &golden);
}

#[test]
fn diffusion_draws_the_golden_pictures_from_the_golden_noise() {
    let (selftok, golden) = (open(), golden());
    let noise = f32s(&golden.get("noise_seed_1234"));
    let ids = tokens(&golden);
    let decode = || selftok.decode(&ids).steps(50);
    let found = decode().noise(&noise).latents().unwrap();
    latents("diffused_latent_50", &found, &golden, 1e-3);
    within_a_level("diffused", &selftok.pictures(&found).unwrap(), &golden);
    let found = decode().noise(&noise).prefix(16).latents().unwrap();
    latents("diffused_latent_50_prefix_16", &found, &golden, 1e-3);
    // The seed gives that noise.
    assert_eq!(
        decode().seed(1234).steps(2).latents().unwrap(),
        decode().noise(&noise).steps(2).latents().unwrap()
    );
}

#[test]
fn every_solver_comes_nearer_with_more_steps_and_those_of_second_order_faster_than_euler() {
    let (selftok, golden) = (open(), golden());
    let ids = golden.rows("indices", 1);
    let ids = Tokens::new(ids.data.iter().map(|&id| id as u32).collect(), 1, ids.shape[1]).unwrap();
    let solve = |solver, steps| selftok.decode(&ids).seed(7).solver(solver).steps(steps).latents().unwrap();
    let fine = solve(Solver::AdamsBashforth2, 150);
    let distance = |found: &[f32]| {
        let squares = found.iter().zip(&fine).map(|(a, b)| f64::from(a - b).powi(2));
        (squares.sum::<f64>() / fine.len() as f64).sqrt()
    };
    let euler = distance(&solve(Solver::Euler, 32));
    // The midpoint solver asks the network twice a step, so that 16 of its steps cost what 32 of Euler's do. Heun's
    // does too, and for that price is no better than Euler's here (see benches/results/solvers.md).
    for (solver, steps) in [
        (Solver::Euler, [8, 16, 32]),
        (Solver::Heun, [8, 16, 32]),
        (Solver::Midpoint, [4, 8, 16]),
        (Solver::DpmSolverPp2M, [8, 16, 32]),
        (Solver::AdamsBashforth2, [8, 16, 32]),
    ] {
        let far = steps.map(|steps| distance(&solve(solver, steps)));
        assert!(far[0] > far[1] && far[1] > far[2], "{}: {far:?}", solver.name());
        assert!(solver == Solver::Euler || far[2] < euler, "{}: {far:?}, Euler {euler}", solver.name());
    }
}

#[test]
fn batches_give_what_single_pictures_give() {
    let golden = golden();
    let all = pictures(&golden, "pictures");
    let (one, four) = (Selftok::open(path("models/mini")).unwrap(), open());
    for (i, picture) in all.iter().take(6).enumerate() {
        let alone = one.encode(picture).unwrap();
        let many = four.encode_batch(&all[..6], Default::default()).unwrap();
        assert_eq!(alone.ids(), many.tokens.pictures().nth(i).unwrap());
    }
}

#[test]
fn decoding_in_bf16_is_near_and_leaves_the_tokens_alone() {
    let golden = golden();
    let selftok =
        Selftok::options().model(path("models/mini")).batch(4).decode_in(ComputeType::Bf16).open().unwrap();
    latents("rendered_latent", &selftok.render_latents(&tokens(&golden)).unwrap(), &golden, 0.2);
    let encoded = selftok.encode_batch(&pictures(&golden, "pictures")[..4], Default::default()).unwrap();
    assert_eq!(encoded.tokens.ids(), &tokens(&golden).ids()[..4 * 64]);
}
