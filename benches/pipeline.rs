//! The jobs of the small model on its own pictures: encoding, rendering, diffusion, and the autoencoder between.
//!
//! `cargo bench --bench pipeline [-- FILTER]`. Each job is checked against the golden values before it is timed. Networks
//! are bound before the clock starts; what is timed is what a program that holds the model open waits for. Throughput is in
//! pictures, for diffusion in steps.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selftok::{CpuOptions, Device, Picture, Selftok, Tokens};
use selftok_workspace::{Array, Golden, assert_close, path};
use std::time::Duration;

struct Model {
    selftok: Selftok,
    golden: Golden,
    /// One picture of the golden set, and what it becomes.
    picture: Picture,
    tokens: Tokens,
}

impl Model {
    fn open(threads: usize) -> Model {
        let device = Device::cpu(CpuOptions { threads, ..CpuOptions::default() }).unwrap();
        let selftok = Selftok::options().model(path("models/mini")).device(device).open().unwrap();
        let golden = Golden::open("models/mini/golden.safetensors");
        let planes = golden.rows("pictures", 1);
        let [_, _, height, width] = planes.shape[..] else { panic!("{:?}", planes.shape) };
        let pixels = height * width;
        let rgb = (0..3 * pixels).map(|i| planes.data[i % 3 * pixels + i / 3] as u8).collect();
        let picture = Picture::from_rgb(width as u32, height as u32, rgb).unwrap();
        let ids = golden.rows("indices", 1);
        let tokens = Tokens::new(ids.data.iter().map(|&id| id as u32).collect(), 1, ids.data.len()).unwrap();
        Model { selftok, golden, picture, tokens }
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        self.golden.rows(name, 1).data.iter().map(|&x| x as f32).collect()
    }

    fn check(&self, name: &str, found: &[f32]) {
        let expected = self.golden.rows(name, 1);
        assert_close(name, &Array::from_f32(&expected.shape, found), &expected, 1e-3);
    }
}

const STEPS: usize = 50;

fn jobs(c: &mut Criterion) {
    for threads in [1, 2] {
        let model = Model::open(threads);
        let selftok = &model.selftok;
        let mut group = c.benchmark_group(format!("mini, {}", selftok.device()));
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));

        group.throughput(Throughput::Elements(1));
        assert_eq!(selftok.encode(&model.picture).unwrap(), model.tokens);
        group.bench_function("picture to tokens", |b| b.iter(|| selftok.encode(&model.picture).unwrap()));

        let latent = model.f32s("latent");
        assert_eq!(selftok.encode_latents(&latent).unwrap().tokens, model.tokens);
        group.bench_function("encoder", |b| b.iter(|| selftok.encode_latents(&latent).unwrap()));

        model.check("rendered_latent", &selftok.render_latents(&model.tokens).unwrap());
        group.bench_function("renderer", |b| b.iter(|| selftok.render_latents(&model.tokens).unwrap()));

        let rendered = model.f32s("rendered_latent");
        let expected = model.golden.rows("rendered", 1);
        let pictures = selftok.pictures(&rendered).unwrap();
        let pixels = expected.data.len() / 3;
        let level = |i: usize| f64::from(pictures[0].rgb()[i]) - expected.data[i % 3 * pixels + i / 3];
        assert!((0..3 * pixels).all(|i| level(i).abs() <= 1.0), "a pixel is off by more than a level");
        group.bench_function("autoencoder, decode", |b| b.iter(|| selftok.pictures(&rendered).unwrap()));

        let values: Vec<f32> =
            model.golden.rows("pictures", 1).data.iter().map(|&x| x as f32 / 127.5 - 1.0).collect();
        model.check("latent", &selftok.to_latents(&values).unwrap());
        group.bench_function("autoencoder, encode", |b| b.iter(|| selftok.to_latents(&values).unwrap()));

        group.bench_function("tokens to picture", |b| b.iter(|| selftok.render(&model.tokens).unwrap()));

        let noise = model.f32s("noise_seed_1234");
        let decode = || selftok.decode(&model.tokens).steps(STEPS).noise(&noise).latents().unwrap();
        model.check("diffused_latent_50", &decode());
        group.sample_size(10).throughput(Throughput::Elements(STEPS as u64));
        group.bench_function("diffusion, 50 steps", |b| b.iter(decode));
        group.finish();
    }
}

criterion_group!(benches, jobs);
criterion_main!(benches);
