//! Options of the families that no other golden case has, each as a stranger would meet it: a folder and a recording of
//! inputs and results from the reference library. All inputs of the recording go in, and every result must come out.

use selftok::networks::{self, NamedTensors, Values};
use selftok::{CpuOptions, Device};
use selftok_workspace::{Array, assert_close, path};

const TOLERANCE: f64 = 1e-4;

/// Runs a recording as it is.
fn run(case: &str) {
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    let folder = path(&format!("tests/golden/models/{case}"));
    let network = networks::open(&folder, &device).unwrap_or_else(|error| panic!("{case}: {error}"));
    let recording = NamedTensors::open(folder.join("io.safetensors")).unwrap();
    let out = network.run(&recording).unwrap_or_else(|error| panic!("{case}: {error}"));
    let inputs = ["pixel_values", "input_ids", "attention_mask", "position_ids"];
    let mut results = 0;
    for (name, expected) in recording.iter().filter(|(name, _)| !inputs.contains(&name.as_str())) {
        let found = out.get(name).unwrap_or_else(|| panic!("{case}: no {name} among {}", out.describe()));
        let array = |tensor: &networks::NamedTensor| {
            let Values::F32(values) = &tensor.values else { panic!("{case}: {name} is of floats") };
            Array::from_f32(&tensor.shape, values)
        };
        assert_close(&format!("{case}: {name}"), &array(found), &array(expected), TOLERANCE);
        results += 1;
    }
    assert!(results > 0, "{case} records no result");
}

#[test]
fn an_autoencoder_runs_both_ways_and_with_the_reference_librarys_own_scale() {
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    let folder = path("tests/golden/models/autoencoder.quant");
    let network = networks::open(&folder, &device).unwrap();
    let recording = NamedTensors::open(folder.join("io.safetensors")).unwrap();
    let (scale, shift) = (0.7, 0.2);
    let of = |name: &str| {
        let tensor = recording.get(name).unwrap();
        Array::from_f32(&tensor.shape, recording.f32(name).unwrap())
    };
    let scaled = |x: &Array| Array::new(&x.shape, x.data.iter().map(|x| (x - shift) * scale).collect());
    let run = |input: &str, values: &Array, results: &[(&str, Array)]| {
        let numbers = values.data.iter().map(|&x| x as f32).collect();
        let given = NamedTensors::new().with(input, &values.shape, Values::F32(numbers)).unwrap();
        let out = network.run(&given).unwrap();
        assert_eq!(out.iter().count(), results.len(), "{}", out.describe());
        for (name, expected) in results {
            let found = Array::from_f32(&out.get(name).unwrap().shape, out.f32(name).unwrap());
            assert_close(&format!("{input} to {name}"), &found, expected, TOLERANCE);
        }
    };
    let (mean, z) = (of("encode.mean"), of("decode.z"));
    run("sample", &of("sample"), &[("out", of("out"))]);
    run("pixel_values", &of("sample"), &[("latent", scaled(&mean)), ("mean", mean)]);
    run("z", &z, &[("out", of("decode.out"))]);
    run("latent", &scaled(&z), &[("pixel_values", of("decode.out"))]);

    let both = recording.clone().with("z", &[1, 4, 1, 1], Values::F32(vec![0.0; 4])).unwrap();
    let error = network.run(&both).unwrap_err().to_string();
    assert!(error.contains("input 'z' is not one of this network; expected one input"), "{error}");
    let wrong = NamedTensors::new().with("sample", &[1, 4, 8, 8], Values::F32(vec![0.0; 256])).unwrap();
    let error = network.run(&wrong).unwrap_err().to_string();
    assert!(error.contains("'sample' has the shape [1, 4, 8, 8]; expected 3 channels"), "{error}");
}

#[test]
fn dinov2_with_registers_resizes_its_positions_with_antialiasing() {
    run("dinov2.registers");
}

#[test]
fn classifiers_stand_on_vit_and_dinov2() {
    run("vit.classifier");
    run("dinov2.classifier");
}

#[test]
fn clip_compares_pictures_with_texts() {
    run("clip.both");
}

#[test]
fn padded_texts_are_masked_and_files_without_the_towers_name_are_read() {
    run("clip_text.padded");
}

#[test]
fn llama_takes_biases_head_sizes_and_gates() {
    run("llama.options");
}

#[test]
fn llama_takes_every_scaling_of_rotations() {
    run("llama.linear");
    run("llama.dynamic");
    run("llama.yarn");
}

#[test]
fn windows_slide_in_every_layer_or_in_some() {
    run("mistral.window");
    run("qwen2.window");
}

#[test]
fn gpt2_scales_its_scores_as_configured() {
    run("gpt2.scaled");
}

#[test]
fn hidden_ids_are_seen_by_none_at_either_end_of_a_text() {
    run("llama.right_padded");
    run("llama.left_padded");
    run("gpt2.left_padded");
}
