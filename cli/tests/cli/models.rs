//! Which model is used.

use crate::support::{Ran, golden_ids, json, mini, pictures, program, refuse, succeed};
use selftok::Tokens;
use std::fs;

#[test]
fn a_tokenizer_and_a_renderer_file_make_one_model_in_either_order() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sheet.png");
    let files = [mini().join("tokenizer.safetensors"), mini().join("renderer.safetensors")];
    for (a, b) in [(0, 1), (1, 0)] {
        let args = ["recon", "--json", "--steps", "2", "--model"].map(AsRef::as_ref).into_iter();
        let rest = [
            files[a].as_os_str(),
            "--model".as_ref(),
            files[b].as_os_str(),
            pictures()[0].as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ];
        let value = json(args.chain(rest));
        assert!(value["mean"]["render"].is_object() && value["mean"]["diffuse"].is_object(), "{value}");
    }
    let tokenizer = files[0].as_os_str();
    let args = [
        "encode".as_ref(),
        "--json".as_ref(),
        "-m".as_ref(),
        tokenizer,
        "-m".as_ref(),
        tokenizer,
        pictures()[0].as_os_str(),
    ];
    refuse(dir.path(), args, &["tokenizer.safetensors are both a tokenizer", "name one of each kind"]);
}

#[test]
fn a_job_takes_only_the_files_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["config.json", "tokenizer.safetensors"] {
        fs::copy(mini().join(part), dir.path().join(part)).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    let (sheet, tokens) = (out.path().join("s.png"), out.path().join("t.npy"));
    Tokens::new(golden_ids()[0].clone(), 1, 64).unwrap().save(&tokens).unwrap();
    let model = ["--model".as_ref(), dir.path().as_os_str()];
    let vae = mini().join("vae");
    // Without an autoencoder there are no pictures; with it, the diffusion is the only and so the default way.
    let decode = [
        "decode".as_ref(),
        tokens.as_os_str(),
        "-o".as_ref(),
        sheet.as_os_str(),
        "--steps".as_ref(),
        "2".as_ref(),
    ];
    refuse(out.path(), decode.into_iter().chain(model), &["pictures need the autoencoder", "--vae DIR"]);
    let with_vae = ["--vae".as_ref(), vae.as_os_str()].into_iter().chain(model);
    let ran = succeed(decode[..4].iter().copied().chain(with_vae));
    assert!(ran.stdout.contains("diffused in 50 steps"), "{ran:?}");
}

#[test]
fn the_environment_names_the_model_and_an_option_overrides_it() {
    let run = |args: &[&std::ffi::OsStr]| -> Ran {
        program().env("SELFTOK_MODEL", "/no/such/model").args(args).output().unwrap().into()
    };
    let ran = run(&["inspect".as_ref()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("$SELFTOK_MODEL names /no/such/model, which does not exist"), "{ran:?}");
    assert_eq!(run(&["inspect".as_ref(), mini().as_os_str()]).code, Some(0));
}

#[test]
fn a_model_of_the_wrong_kind_says_what_to_use() {
    let dir = tempfile::tempdir().unwrap();
    let picture = pictures()[0].clone();
    let tokens = dir.path().join("t.npy");
    Tokens::new(golden_ids()[0].clone(), 1, 64).unwrap().save(&tokens).unwrap();
    let out = dir.path().join("out.png");
    let renderer = mini().join("renderer.safetensors");
    let vae_file = mini().join("vae/diffusion_pytorch_model.safetensors");
    let folder = dir.path().join("swapped");
    fs::create_dir(&folder).unwrap();
    fs::copy(mini().join("config.json"), folder.join("config.json")).unwrap();
    fs::copy(&renderer, folder.join("tokenizer.safetensors")).unwrap();

    let encode = |model: &std::path::Path, says: &[&str]| {
        refuse(
            dir.path(),
            ["encode".as_ref(), "--json".as_ref(), picture.as_os_str(), "-m".as_ref(), model.as_os_str()],
            says,
        )
    };
    encode(&renderer, &["encoding needs an encoder", "tokenizer.safetensors"]);
    encode(&vae_file, &["it seems to be an autoencoder"]);
    encode(&folder, &["by its name a tokenizer, but its tensors are those of a one-step renderer"]);
    encode(&mini().join("pictures"), &["not a Selftok folder"]);
    encode(&dir.path().join("nothing"), &["nothing"]);
    let decode = ["decode".as_ref(), tokens.as_os_str(), "-o".as_ref(), out.as_os_str()].into_iter();
    let diffuse = ["--mode".as_ref(), "diffuse".as_ref(), "-m".as_ref(), renderer.as_os_str()];
    refuse(dir.path(), decode.chain(diffuse), &["a one-step renderer (model.mask_token) cannot do it"]);
}
