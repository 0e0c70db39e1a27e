//! A run allocates nothing, from the second on: every network of the small model, and diffusion while its slots change.
//! Alone in its file, because the counting allocator serves the whole process.

#[path = "support/allocations.rs"]
mod counted;
mod selftok_configs;

use selftok::schedule::{TimeGrid, TokenSchedule};
use selftok::{CpuOptions, Device, Executable, Input, Output, RunOptions, SlotTable};
use selftok_configs::{mini, mini_autoencoder};
use selftok_graph::models::selftok::decoder;
use selftok_graph::models::{autoencoder, selftok as networks};
use selftok_graph::{DType, Entry, Port, Program, compile};
use selftok_loader::Weights;
use selftok_workspace::path;
use std::sync::Arc;

/// The caller's memory of an entry.
enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Numbers {
    fn of(port: &Port) -> Numbers {
        let numel = port.axes.iter().map(|axis| axis.size).product();
        match port.dtype {
            DType::F32 => Numbers::F32((0..numel).map(|i| (i * 37 % 101) as f32 / 101.0).collect()),
            DType::I32 => Numbers::I32((0..numel).map(|i| (i * 37 % 101) as i32).collect()),
        }
    }
}

/// Runs an entry once for each table, and gives the allocations of all runs but the first.
fn allocations(session: &mut selftok::Session, entry: &str, tables: &[SlotTable]) -> usize {
    let exe = session.executable().clone();
    let ports: &Entry = exe.plan().entry(entry).expect("a known entry");
    let given: Vec<_> = ports.inputs.iter().map(Numbers::of).collect();
    let mut got: Vec<_> = ports.outputs.iter().map(Numbers::of).collect();
    let inputs = ports.inputs.iter().zip(&given).map(|(port, numbers)| {
        let data = match numbers {
            Numbers::F32(values) => Input::F32(values),
            Numbers::I32(values) => Input::I32(values),
        };
        (exe.input(&port.name).unwrap(), data)
    });
    let inputs: Vec<_> = inputs.collect();
    let outputs = ports.outputs.iter().zip(&mut got).map(|(port, numbers)| {
        let data = match numbers {
            Numbers::F32(values) => Output::F32(values),
            Numbers::I32(values) => Output::I32(values),
        };
        (exe.output(&port.name).unwrap(), data)
    });
    let mut outputs: Vec<_> = outputs.collect();
    let id = exe.entry(entry).unwrap();
    let mut progressed = 0;
    let mut before = 0;
    for (i, table) in tables.iter().enumerate() {
        if i == 1 {
            before = counted::of_process();
        }
        let mut progress = |_| progressed += 1;
        let options = RunOptions { progress: Some(&mut progress), ..RunOptions::default() };
        session.run_entry(id, table, &inputs, &mut outputs, options).unwrap();
    }
    let after = counted::of_process();
    assert!(progressed > 0);
    after - before
}

/// A table of one row for a batch.
fn batch(exe: &Executable, pictures: u32) -> SlotTable {
    let mut slots = exe.slots(1);
    slots.set(exe.slot("batch").unwrap(), pictures);
    slots
}

#[test]
fn no_run_of_the_small_model_allocates() {
    let (config, vae) = (mini(), mini_autoencoder());
    let (latent, side) = ([config.latent_size; 2], [config.image_size; 2]);
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    let open = |program: Program, weights: &str| {
        let plan = compile(&program, &device.target()).unwrap();
        let weights = Weights::open(path("models/mini").join(weights)).unwrap();
        let exe = Executable::bind(plan, Arc::new(weights), &device).unwrap();
        // All that it may need is in the session from the start, and that is no more than the plan says.
        let (held, planned) = (exe.footprint().session, exe.plan().session_bytes());
        assert!(held <= planned, "{}: {held} bytes held, {planned} planned", exe.plan().name);
        exe
    };
    let autoencoder = "vae/diffusion_pytorch_model.safetensors";
    for (program, weights) in [
        (autoencoder::encode(&vae, 2, side, false).unwrap(), autoencoder),
        (networks::encoder(&config, 2, latent, false).unwrap(), "tokenizer.safetensors"),
        (networks::renderer(&config, 2, false).unwrap(), "renderer.safetensors"),
        (autoencoder::decode(&vae, 2, latent, false).unwrap(), autoencoder),
    ] {
        let entry = program.name.clone();
        let exe = open(program.into(), weights);
        // A part-filled batch, too.
        let tables = [batch(&exe, 2), batch(&exe, 1), batch(&exe, 2)];
        assert_eq!(allocations(&mut exe.session(), &entry, &tables), 0, "{entry}");
    }

    let entries = vec![
        decoder::start(&config, 2, latent).unwrap(),
        decoder::sample(&config, 2, latent, 8, Default::default()).unwrap(),
    ];
    let exe = open(Program::new("diffusion", entries).unwrap(), "tokenizer.safetensors");
    let mut session = exe.session();
    let start = [batch(&exe, 2), batch(&exe, 2)];
    assert_eq!(allocations(&mut session, "start", &start), 0);
    let schedule = TokenSchedule::new(config.tokens_per_stage.as_ref().unwrap()).unwrap();
    let slot = |name| exe.slot(name).unwrap();
    // Grids of several lengths, whole and from a prefix of the tokens.
    let tables = [(8, 64, 2), (5, 64, 1), (8, 16, 2), (1, 1, 2)].map(|(steps, prefix, pictures)| {
        let mut table = exe.slots(steps);
        table.set(slot("batch"), pictures).set(slot("grid"), steps as u32);
        for (i, tau) in TimeGrid::new(steps).unwrap().taus().enumerate() {
            let visible = schedule.visible(tau, prefix).unwrap();
            table.set_at(i, slot("step"), i as u32);
            table.set_at(i, slot("visible.lo"), visible.start as u32);
            table.set_at(i, slot("visible.hi"), visible.end as u32);
        }
        table
    });
    assert_eq!(allocations(&mut session, "sample", &tables), 0);
}
