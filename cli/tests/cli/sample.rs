//! `selftok sample`: from noise, given or drawn, to samples.

use crate::support::{json, repository, run, succeed};
use selftok::networks::{NamedTensors, Values};
use selftok::random::Generator;
use std::ffi::OsString;
use std::path::Path;

const CASE: &str = "tests/golden/models/unet_sd15";

/// The conditions of the golden case, under a name.
fn conditions(name: &str) -> NamedTensors {
    let io = NamedTensors::open(repository(&format!("{CASE}/io.safetensors"))).unwrap();
    let given = io.get("encoder_hidden_states").unwrap();
    NamedTensors::new().with(name, &given.shape, given.values.clone()).unwrap()
}

/// Arguments for two steps from `inputs`, saved beside the result.
fn arguments(folder: &Path, inputs: &NamedTensors, more: &[&str]) -> Vec<OsString> {
    let (from, to) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    inputs.save(&from).unwrap();
    let mut args: Vec<OsString> =
        vec!["sample".into(), repository(CASE).into(), "--inputs".into(), from.into()];
    args.extend(["-o".into(), to.into(), "--steps".into(), "2".into(), "--cfg".into(), "3".into()]);
    args.extend(more.iter().map(OsString::from));
    args
}

fn sampled(inputs: &NamedTensors, more: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let ran = succeed(arguments(folder.path(), inputs, more).into_iter().chain(["--quiet".into()]));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let out = NamedTensors::open(folder.path().join("out.safetensors")).unwrap();
    (out.get("out").unwrap().shape.clone(), out.f32("out").unwrap().to_vec())
}

#[test]
fn a_seed_draws_the_noise_that_the_inputs_could_have_held() {
    let drawn = sampled(&conditions("encoder_hidden_states"), &["--seed", "7", "--size", "4x6"]);
    assert_eq!(drawn.0, [2, 4, 4, 6]);
    let mut noise = vec![0.0; 2 * 4 * 4 * 6];
    Generator::new(7).fill_normal(&mut noise);
    let with =
        |name| conditions("prompt_embeds").with(name, &[2, 4, 4, 6], Values::F32(noise.clone())).unwrap();
    assert_eq!(sampled(&with("sample"), &[]), drawn);
    assert_eq!(sampled(&with("latents"), &[]), drawn);
    assert_ne!(sampled(&conditions("encoder_hidden_states"), &["--seed", "8", "--size", "4x6"]).1, drawn.1);
}

#[test]
fn without_a_size_it_is_the_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let value =
        json(arguments(folder.path(), &conditions("encoder_hidden_states"), &["--seed", "1", "--json"]));
    assert_eq!(value["shape"], serde_json::json!([2, 4, 16, 16]));
    assert_eq!(value["seed"], 1);
}

/// Zeros stand for the condition that is not given; another one changes the sample.
#[test]
fn guidance_goes_away_from_the_negative_condition() {
    let seed = ["--seed", "7", "--size", "4"];
    let plain = sampled(&conditions("encoder_hidden_states"), &seed);
    let with = |value: f32| {
        let inputs = conditions("encoder_hidden_states");
        let shape = inputs.get("encoder_hidden_states").unwrap().shape.clone();
        let values = Values::F32(vec![value; shape.iter().product()]);
        sampled(&inputs.with("negative_prompt_embeds", &shape, values).unwrap(), &seed)
    };
    assert_eq!(with(0.0), plain);
    assert_ne!(with(1.0), plain);
}

#[test]
fn what_is_wrong_is_one_sentence_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let noise =
        |name, inputs: NamedTensors| inputs.with(name, &[2, 4, 4, 4], Values::F32(vec![0.5; 128])).unwrap();
    let fails = |code, inputs: &NamedTensors, more: &[&str], part: &str| {
        let ran = run(arguments(folder.path(), inputs, more));
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.stderr.contains(part) && !ran.stderr.contains("panicked"), "{part}: {ran:?}");
        assert!(!folder.path().join("out.safetensors").exists(), "{ran:?}");
    };
    let plain = conditions("encoder_hidden_states");
    fails(2, &plain, &[], "draw it with --seed");
    fails(2, &plain, &["--size", "4"], "--seed");
    fails(2, &plain, &["--seed", "1", "--size", "4x"], "HEIGHTxWIDTH");
    fails(1, &plain, &["--seed", "1", "--size", "5x4"], "5 x 4: sides that are multiples of 2");
    fails(1, &plain, &["--seed", "1", "--size", "4096", "--count", "4096"], "numbers of noise");
    fails(1, &plain, &["--seed", "1", "--count", "3"], "'encoder_hidden_states' has the shape [2, 7, 32]");
    fails(1, &noise("sample", conditions("encoder_hidden_states")), &["--seed", "1"], "drawn from a seed");
    let twice = noise("latents", noise("sample", conditions("encoder_hidden_states")));
    fails(1, &twice, &[], "'latents': is given as 'sample' too");
    fails(1, &noise("sample", conditions("encoder_hidden_states")), &["--solver", "midpoint"], "'midpoint'");
    fails(
        2,
        &noise("sample", conditions("encoder_hidden_states")),
        &["--solver", "rk4"],
        "choose one of ddim",
    );
}
