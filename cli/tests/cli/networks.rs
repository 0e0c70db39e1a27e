//! `selftok run`: networks as black boxes.

use crate::support::{json, mini, refuse, repository, run, succeed};
use selftok::networks::{NamedTensors, Values};
use std::path::Path;

/// One input of a golden case, as a file of its own.
fn input(case: &str, name: &str, folder: &Path) -> std::path::PathBuf {
    let all = NamedTensors::open(repository(&format!("tests/golden/models/{case}/io.safetensors"))).unwrap();
    let tensor = all.get(name).unwrap();
    let path = folder.join("in.safetensors");
    NamedTensors::new().with(name, &tensor.shape, tensor.values.clone()).unwrap().save(&path).unwrap();
    path
}

fn close(found: &NamedTensors, case: &str, names: &[&str]) {
    let expected =
        NamedTensors::open(repository(&format!("tests/golden/models/{case}/io.safetensors"))).unwrap();
    for name in names {
        let (a, b) = (found.get(name).unwrap(), expected.get(name).unwrap());
        assert_eq!(a.shape, b.shape, "{case}: {name}");
        let (Values::F32(a), Values::F32(b)) = (&a.values, &b.values) else { panic!("{name} is of floats") };
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4), "{case}: {name}");
    }
}

#[test]
fn every_encoder_gives_the_reference_librarys_values() {
    for (case, name, results) in [
        ("vit", "pixel_values", &["last_hidden_state", "pooler_output"]),
        ("dinov2", "pixel_values", &["last_hidden_state", "pooler_output"]),
        ("clip_vision", "pixel_values", &["last_hidden_state", "image_embeds"]),
        ("clip_text", "input_ids", &["last_hidden_state", "text_embeds"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (inputs, output) = (input(case, name, folder.path()), folder.path().join("out.safetensors"));
        let model = repository(&format!("tests/golden/models/{case}"));
        let args = ["run".as_ref(), model.as_os_str(), "--inputs".as_ref(), inputs.as_os_str()];
        let ran = succeed(args.into_iter().chain(["-o".as_ref(), output.as_os_str(), "--quiet".as_ref()]));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        close(&NamedTensors::open(&output).unwrap(), case, results);
    }
}

#[test]
fn a_recording_goes_in_whole() {
    for (case, results, notes) in [
        ("vit", &["last_hidden_state", "pooler_output"][..], &["hidden1"][..]),
        ("llama3", &["logits"], &["greedy", "greedy_logits"]),
        ("llama.left_padded", &["logits"], &[]),
        ("clip.both", &["logits_per_image", "text_embeds"], &[]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (model, output) =
            (repository(&format!("tests/golden/models/{case}")), folder.path().join("out.safetensors"));
        let inputs = model.join("io.safetensors");
        let args = ["run".as_ref(), model.as_os_str(), "-i".as_ref(), inputs.as_os_str()];
        let args = args.into_iter().chain(["-o".as_ref(), output.as_os_str(), "--device=cpu".as_ref()]);
        let ran = succeed(args);
        close(&NamedTensors::open(&output).unwrap(), case, results);
        // Each tensor that is neither an input nor a result is named.
        assert_eq!(ran.stderr.lines().count(), notes.len(), "{ran:?}");
        for (line, note) in ran.stderr.lines().zip(notes) {
            assert!(line.contains(&format!("'{note}' is neither an input nor a result")), "{ran:?}");
        }
    }
}

#[test]
fn an_input_that_would_be_lost_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let model = repository("tests/golden/models/llama3");
    for name in ["inputs_ids", "token_type_ids", "past_key_values", "attention-mask"] {
        let ids = |n: NamedTensors, name: &str| n.with(name, &[1, 2], Values::I64(vec![1, 2])).unwrap();
        ids(ids(NamedTensors::new(), "input_ids"), name).save(&inputs).unwrap();
        let args = ["run".as_ref(), model.as_os_str(), "-i".as_ref(), inputs.as_os_str()];
        let args = args.into_iter().chain(["-o".as_ref(), output.as_os_str()]);
        refuse(folder.path(), args.chain(["--device=cpu".as_ref()]), &[&format!("'{name}' is not one of")]);
    }
}

#[test]
fn json_says_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let tokens = NamedTensors::new().with("tokens", &[1, 64], Values::I64(vec![7; 64])).unwrap();
    tokens.save(&inputs).unwrap();
    let model = mini();
    let args = ["run".as_ref(), model.as_os_str(), "--inputs".as_ref(), inputs.as_os_str()];
    let value = json(args.into_iter().chain(["-o".as_ref(), output.as_os_str(), "--json".as_ref()]));
    assert_eq!(value["tensors"]["rendered_latent"], serde_json::json!([1, 8, 16, 16]));
    assert!(output.is_file());
}

#[test]
fn what_is_wrong_is_one_sentence_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let good = input("dinov2", "pixel_values", folder.path());
    let fails = |model: &Path, inputs: &Path, parts: &[&str]| {
        let args = ["run".as_ref(), model.as_os_str(), "--inputs".as_ref(), inputs.as_os_str()];
        let ran = run(args.into_iter().chain(["-o".as_ref(), output.as_os_str()]));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?}: {ran:?}");
        assert!(!ran.stderr.contains("panicked") && !output.exists(), "{ran:?}");
    };
    let dinov2 = repository("tests/golden/models/dinov2");
    fails(
        &repository("tests/golden/models/clip_text"),
        &good,
        &["'pixel_values' is not one of", "input_ids [B, T]"],
    );
    fails(&dinov2, &folder.path().join("none.safetensors"), &["none.safetensors"]);

    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let copy = |name: &str| std::fs::copy(dinov2.join(name), other.join(name)).unwrap();
    copy("model.safetensors");
    fails(&other, &good, &["config.json"]);
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dinov2.join("config.json")).unwrap()).unwrap();
    let mut write = |field: &str, value: serde_json::Value| {
        let old = config[field].take();
        config[field] = value;
        std::fs::write(other.join("config.json"), config.to_string()).unwrap();
        config[field] = old;
    };
    write("model_type", "resnet".into());
    fails(&other, &good, &["config.json", "model_type is \"resnet\"", "dinov2"]);
    write("num_hidden_layers", 3.into());
    fails(&other, &good, &["missing", "encoder.layer.2.attention"]);
    write("num_hidden_layers", 1.into());
    fails(&other, &good, &["unexpected", "encoder.layer.1.attention"]);
    write("hidden_size", 128.into());
    fails(&other, &good, &["of another shape"]);
    write("hidden_act", "mish".into());
    fails(&other, &good, &["config.json", "hidden_act = mish"]);
    write("num_hidden_layers", (-1).into());
    fails(&other, &good, &["config.json", "num_hidden_layers"]);
    write("patch_size", "big".into());
    fails(&other, &good, &["config.json", "patch_size: neither a number of pixels nor"]);
}
