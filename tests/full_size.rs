//! The released configuration at full size on the engine, with procedural weights made while they are packed.
//!
//! One network at a time, each dropped before the next, so that 10 GB of memory are enough. With `--nocapture` each
//! test prints where the time to the first result goes and what is held.

use selftok::schedule::TokenSchedule;
use selftok::{CpuOptions, Device, Executable};
use selftok_graph::models::selftok::{Config, decoder};
use selftok_graph::models::{autoencoder, selftok as networks};
use selftok_graph::{Program, Stage, compile};
use selftok_loader::Generated;
use selftok_workspace::backend::{Compiled, inputs, slots};
use selftok_workspace::procedural;
use selftok_workspace::{Array, Golden, Named, Session, Slots, assert_close};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Of the encoder's 512 ids, those whose two best codes lie nearer than this may go either way.
const CLEAR_MARGIN: f64 = 1e-3;
const TOLERANCE: f64 = 2e-3;

/// One network at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bound network, and a report of what that took.
struct Network {
    name: String,
    session: Compiled,
}

impl Network {
    fn bind(program: impl Into<Program>, shapes: BTreeMap<String, Vec<usize>>) -> Network {
        reset_peak();
        let device = Device::cpu(CpuOptions::default()).expect("threads");
        let begin = Instant::now();
        let plan = compile(&program.into(), &device.target()).unwrap();
        let compiled = begin.elapsed();
        let name = plan.name.clone();
        let (steps, tables) = (
            plan.weights.iter().filter(|w| w.last_stage == Stage::Step).map(|w| &w.shape),
            plan.constant_bytes / 4,
        );
        let step_elements: usize = steps.map(|shape| shape.iter().product::<usize>()).sum();
        // Time spent making weights, and when the first weight was read that is not folded: constants come first.
        let folded: HashSet<String> =
            plan.weights.iter().filter(|w| w.last_stage == Stage::Bind).map(|w| w.name.clone()).collect();
        let (made, fold_end) = (Arc::new(AtomicU64::new(0)), Arc::new(OnceLock::new()));
        let (clock, first) = (Arc::clone(&made), Arc::clone(&fold_end));
        let begin = Instant::now();
        let source = Generated::new(shapes.clone(), move |name, start, out| {
            let start_time = Instant::now();
            if !folded.contains(name) {
                first.get_or_init(|| begin.elapsed());
            }
            procedural::fill(name, &shapes[name], start, out);
            clock.fetch_add(start_time.elapsed().as_nanos() as u64, Ordering::Relaxed);
        });
        let executable =
            Executable::bind(plan, Arc::new(source), &device).unwrap_or_else(|error| panic!("{error}"));
        let bound = begin.elapsed();
        let fold = fold_end.get().copied().unwrap_or(bound);
        let made = Duration::from_nanos(made.load(Ordering::Relaxed));
        let held = executable.footprint();
        let session = Compiled::new(&executable);
        println!(
            "{name} on {device}: compile {compiled:.1?}, bind {bound:.1?} (fold {fold:.1?}, pack {:.1?}; of both, making \
             weights {made:.1?}); held: weights {} MiB ({:.3} G elements of stage step), constants {} MiB ({:.3} G), session \
             {:.1} MiB, peak RSS {} MiB",
            bound - fold,
            held.weights >> 20,
            step_elements as f64 / 1e9,
            held.constants >> 20,
            tables as f64 / 1e9,
            held.session as f64 / (1 << 20) as f64,
            peak_rss_mib(),
        );
        Network { name, session }
    }

    fn run(&mut self, entry: &str, inputs: &Named, table: &[Slots]) -> Named {
        let begin = Instant::now();
        let out = self.session.run(entry, inputs, table);
        println!("{}: {entry} {:.2?}, peak RSS {} MiB", self.name, begin.elapsed(), peak_rss_mib());
        out
    }
}

/// Starts the count of the largest resident size anew, where the system can.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident size since then; 0 where the system does not say.
fn peak_rss_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0) / 1024
}

fn golden(name: &str) -> Golden {
    Golden::open(&format!("tests/golden/selftok/{name}.io.safetensors"))
}

#[test]
#[ignore = "the full encoder: about 10 s"]
fn the_full_encoder_agrees_with_the_original() {
    let _turn = alone();
    let io = golden("full_tok");
    let graph = networks::encoder(&Config::released(512), 1, [32, 32], false).unwrap();
    let mut network = Network::bind(graph, procedural::shapes("full_tok_keys.json"));
    let values = inputs([("latent", io.get("input_latent"))]);
    let out = network.run("encode", &values, &[slots([("batch", 1)])]);
    let expected = io.get("encoder_out_before_quant");
    println!("encoder: largest error {:.1e}", worst(&out["hidden_states"], &expected));
    assert_close("hidden_states", &out["hidden_states"], &expected, TOLERANCE);
    let (indices, margin) = (io.get("indices"), io.get("margin"));
    let differ: Vec<usize> = (0..512).filter(|&i| out["indices"].data[i] != indices.data[i]).collect();
    println!("encoder: ids that differ, near a tie: {differ:?}");
    assert!(differ.len() <= 2 && differ.iter().all(|&i| margin.data[i] < CLEAR_MARGIN), "{differ:?}");
}

/// Slots at time `t`.
fn row(config: &Config, t: f32) -> Slots {
    let schedule = TokenSchedule::new(config.tokens_per_stage.as_ref().expect("a schedule")).unwrap();
    let visible = schedule.visible((t * 1000.0) as u32, config.num_tokens).unwrap();
    slots([("batch", 1), ("visible.lo", visible.start), ("visible.hi", visible.end)])
}

const TIMES: [(f32, &str); 3] = [(1.0, "velocity_t1"), (0.5, "velocity_t0.5"), (0.1, "velocity_t0.1")];

#[test]
#[ignore = "the full diffusion decoder, 8 GB: about 2 minutes"]
fn the_full_velocity_agrees_with_the_original() {
    let _turn = alone();
    let (config, io) = (Config::released(512), golden("full_tok"));
    let graph = decoder::velocity(&config, 1, [32, 32], Default::default()).unwrap();
    let mut network = Network::bind(graph, procedural::shapes("full_tok_keys.json"));
    for (t, name) in TIMES {
        let time = Array::from_f32(&[1], &[t]);
        let values = inputs([("tokens", io.get("indices")), ("x_t", io.get("x_t")), ("t", time)]);
        let velocity = network.run("velocity", &values, &[row(&config, t)])["velocity"].clone();
        println!("{name}: largest error {:.1e}", worst(&velocity, &io.get(name)));
        assert_close(name, &velocity, &io.get(name), TOLERANCE);
    }
}

/// The sampler steps by `c0 x + c1 v`: with 0 and 1 its next latent is the velocity.
#[test]
#[ignore = "the full diffusion decoder, 8 GB: about 2 minutes"]
fn the_full_sampler_steps_by_the_originals_velocity() {
    let _turn = alone();
    let (config, io) = (Config::released(512), golden("full_tok"));
    const GRID: usize = 64;
    let entries = vec![
        decoder::start(&config, 1, [32, 32]).unwrap(),
        decoder::sample(&config, 1, [32, 32], GRID, Default::default()).unwrap(),
    ];
    let program = Program::new("diffusion", entries).unwrap();
    let mut network = Network::bind(program, procedural::shapes("full_tok_keys.json"));
    let (mut times, mut coeffs) = (vec![f32::NAN; GRID], vec![f32::NAN; 2 * GRID]);
    for (i, (t, _)) in TIMES.iter().enumerate() {
        (times[i], coeffs[2 * i], coeffs[2 * i + 1]) = (*t, 0.0, 1.0);
    }
    let values = inputs([
        ("tokens", io.get("indices")),
        ("t", Array::from_f32(&[GRID], &times)),
        ("coeffs", Array::from_f32(&[GRID, 2], &coeffs)),
    ]);
    for (i, (t, name)) in TIMES.into_iter().enumerate() {
        network.run("start", &inputs([("noise", io.get("x_t"))]), &[slots([("batch", 1)])]);
        let mut slots = row(&config, t);
        slots.extend([("grid".into(), TIMES.len() as u32), ("step".into(), i as u32)]);
        let velocity = network.run("sample", &values, &[slots])["latent"].clone();
        println!("{name}: largest error {:.1e}", worst(&velocity, &io.get(name)));
        assert_close(name, &velocity, &io.get(name), TOLERANCE);
    }
}

#[test]
#[ignore = "the full renderer, 7 GB: about a minute"]
fn the_full_renderer_agrees_with_the_original() {
    let _turn = alone();
    let io = golden("full_ren");
    let graph = networks::renderer(&Config::released(512), 1, false).unwrap();
    let mut network = Network::bind(graph, procedural::shapes("full_ren_keys.json"));
    let values = inputs([("tokens", io.get("tokens"))]);
    let latent = network.run("render", &values, &[slots([("batch", 1)])])["rendered_latent"].clone();
    println!("renderer: largest error {:.1e}", worst(&latent, &io.get("pred_x0")));
    assert_close("rendered_latent", &latent, &io.get("pred_x0"), TOLERANCE);
}

#[test]
#[ignore = "the full autoencoder both ways: about 20 s"]
fn the_full_autoencoder_agrees_with_diffusers() {
    let _turn = alone();
    let (config, io) = (autoencoder::Config::sd3(), golden("full_vae"));
    let entries = vec![
        autoencoder::encode(&config, 1, [256, 256], true).unwrap(),
        autoencoder::decode(&config, 1, [32, 32], false).unwrap(),
    ];
    let program = Program::new("autoencoder", entries).unwrap();
    let mut network = Network::bind(program, procedural::shapes("full_vae_keys.json"));
    let image = procedural::unit_noise("golden.vae_full.image", 3 * 256 * 256);
    let image: Vec<f32> = image.into_iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    let one = [slots([("batch", 1)])];
    let values = inputs([("pixel_values", Array::from_f32(&[1, 3, 256, 256], &image))]);
    let mean = network.run("autoencoder.encode", &values, &one)["mean"].clone();
    println!("autoencoder: largest error of the mean {:.1e}", worst(&mean, &io.get("mean")));
    // The golden latent is what diffusers' decoder takes, past the change of scale.
    let (shift, scale) = (f64::from(config.shift_factor.unwrap()), f64::from(config.scaling_factor));
    let mut latent = io.get("latent");
    latent.data.iter_mut().for_each(|v| *v = (*v - shift) * scale);
    let out = network.run("autoencoder.decode", &inputs([("latent", latent)]), &one);
    let decoded = &out["pixel_values"];
    println!("autoencoder: largest error of pixels {:.1e}", worst(decoded, &io.get("decoded")));
    assert_close("mean", &mean, &io.get("mean"), 1e-4);
    assert_close("pixel_values", decoded, &io.get("decoded"), 1e-4);
}

/// Largest difference, for the report.
fn worst(found: &Array, expected: &Array) -> f64 {
    found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
