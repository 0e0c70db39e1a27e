//! Files that are damaged, hostile or something else: one sentence that names the file and the cause, exit code 1, no panic,
//! no output, within 2 GB of address space (see [`refuse`]).

use crate::support::{Ran, golden_ids, mini, pictures, program, refuse, repository};
use crate::torch::{call, global, program as pickle, save, text};
use selftok::{Picture, Tokens};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Encoding this picture fails so.
#[track_caller]
fn refuse_picture(dir: &TempDir, name: &str, bytes: &[u8], says: &[&str]) {
    let path = write(dir, name, bytes);
    let out = dir.path().join("t.npy");
    let args = ["encode".as_ref(), path.as_os_str(), "-o".as_ref(), out.as_os_str()];
    refuse(dir.path(), args, &[says, &[name]].concat());
}

/// Decoding this token file fails so.
#[track_caller]
fn refuse_tokens(dir: &TempDir, name: &str, bytes: &[u8], says: &[&str]) {
    let path = write(dir, name, bytes);
    let out = dir.path().join("out.png");
    let args = ["decode".as_ref(), path.as_os_str(), "-o".as_ref(), out.as_os_str()];
    refuse(dir.path(), args, &[says, &[name]].concat());
}

/// Encoding with this model file, the small model's configuration beside it, fails so.
#[track_caller]
fn refuse_model(dir: &TempDir, name: &str, bytes: &[u8], says: &[&str]) {
    write(dir, "config.json", &fs::read(mini().join("config.json")).unwrap());
    let path = write(dir, name, bytes);
    let (picture, vae) = (pictures()[0].clone(), mini().join("vae"));
    let args = ["encode", "--json", "--model"].map(AsRef::as_ref).into_iter();
    let rest = [path.as_os_str(), "--vae".as_ref(), vae.as_os_str(), picture.as_os_str()];
    refuse(dir.path(), args.chain(rest), &[says, &[name]].concat());
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A PNG whose header says this size, its checksum right, over the pixels of a small one.
fn lying_png(width: u32, height: u32) -> Vec<u8> {
    let mut png = Picture::from_rgb(1, 1, vec![9; 3]).unwrap().to_png();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = !0u32;
    for &byte in &png[12..29] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    png
}

#[test]
fn pictures_that_are_cut_flipped_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let png = fs::read(&pictures()[0]).unwrap();
    refuse_picture(&dir, "cut.png", &png[..png.len() / 2], &["a damaged or incomplete PNG file"]);
    let mut flipped = png.clone();
    flipped[png.len() / 2] ^= 16;
    refuse_picture(&dir, "flipped.png", &flipped, &["PNG file"]);
    refuse_picture(&dir, "notes.png", b"not a picture at all", &["not a picture in a format known here"]);
    refuse_picture(&dir, "empty.png", b"", &["not a picture"]);
}

#[test]
fn pictures_of_impossible_sizes() {
    let dir = tempfile::tempdir().unwrap();
    refuse_picture(&dir, "zero.png", &lying_png(0, 64), &["png"]);
    refuse_picture(&dir, "large.png", &lying_png(30_000, 30_000), &["30000x30000 pixels; the limits are"]);
    refuse_picture(&dir, "larger.png", &lying_png(u32::MAX >> 1, u32::MAX >> 1), &["png"]);
    // Within the limits, and still without the pixels that it claims.
    refuse_picture(&dir, "bomb.png", &lying_png(13_000, 13_000), &["damaged or incomplete"]);
}

#[test]
fn a_picture_as_wide_as_allowed_is_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let wide = Picture::from_rgb(30_000, 20, vec![200; 30_000 * 20 * 3]).unwrap();
    let path = write(&dir, "wide.png", &wide.to_png());
    let ran: Ran = program().arg("encode").arg(&path).arg("--json").output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn one_bad_picture_among_good_ones_stops_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(&dir, "zbad.png", b"x");
    let (good, out) = (pictures()[0].clone(), dir.path().join("t.npy"));
    let args = ["encode".as_ref(), good.as_os_str(), bad.as_os_str(), "-o".as_ref(), out.as_os_str()];
    refuse(dir.path(), args, &["zbad.png"]);
}

#[test]
fn folders_and_patterns_without_pictures() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "notes.txt", b"no picture");
    let run = |what: &Path, says: &[&str]| {
        refuse(dir.path(), ["encode".as_ref(), what.as_os_str(), "--json".as_ref()], says);
    };
    run(dir.path(), &["no picture in this folder", dir.path().to_str().unwrap()]);
    run(&dir.path().join("*.png"), &["*.png: fits no picture"]);
    run(&dir.path().join("missing.png"), &["missing.png: no such file or folder"]);
}

#[test]
fn token_files_that_are_cut_or_lie() {
    let dir = tempfile::tempdir().unwrap();
    let npy = selftok::tokens::Format::Npy
        .encode(&Tokens::new(golden_ids()[0].clone(), 1, 64).unwrap(), selftok::tokens::Order::Index);
    refuse_tokens(&dir, "cut.npy", &npy[..npy.len() - 9], &["bytes"]);
    refuse_tokens(&dir, "header.npy", &npy[..40], &[]);
    let mut flipped = npy.clone();
    flipped[3] ^= 1;
    refuse_tokens(&dir, "magic.npy", &flipped, &[]);
    let shape = |shape: &str| {
        let text = String::from_utf8_lossy(&npy[10..128]).replace("(1, 64), }", shape);
        let padded = format!("{:<117}\n", text.trim_end());
        [&npy[..10], padded.as_bytes(), &npy[128..]].concat()
    };
    refuse_tokens(&dir, "lying.npy", &shape("(1152921504606846976, 64), }"), &[]);
    refuse_tokens(&dir, "short.npy", &shape("(1, 32), }"), &[]);
    refuse_tokens(&dir, "text.npy", b"1 2 3", &[]);
    refuse_tokens(&dir, "broken.json", b"{\"tokens\": [[1, 2", &["not a token file"]);
    refuse_tokens(&dir, "cut.safetensors", b"\x10\0\0\0\0\0\0\0{\"tokens\"", &[]);
    refuse_tokens(&dir, "tokens.txt", b"1 2 3", &["token files end in .npy, .json or .safetensors"]);
}

#[test]
fn token_ids_that_are_not_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let json = |ids: &[i64]| serde_json::to_vec(&[ids]).unwrap();
    let mut ids = vec![5; 64];
    ids[63] = 4096;
    refuse_tokens(
        &dir,
        "large.json",
        &json(&ids),
        &["token 63: id 4096 is not in the codebook of 4096 (0 to 4095)"],
    );
    ids[63] = -1;
    refuse_tokens(&dir, "negative.json", &json(&ids), &["-1"]);
    ids[63] = 1 << 40;
    refuse_tokens(&dir, "huge.json", &json(&ids), &["1099511627776"]);
    refuse_tokens(
        &dir,
        "short.json",
        &json(&ids[..63]),
        &["63 tokens for each picture, but the model has 64"],
    );
    refuse_tokens(&dir, "none.json", b"[]", &[]);
}

#[test]
fn steps_and_prefixes_that_are_not_possible() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("t.json");
    Tokens::new(golden_ids()[0].clone(), 1, 64).unwrap().save(&tokens).unwrap();
    let out = dir.path().join("out.png");
    for (option, value, says) in [
        ("--steps", "0", "choose between 1 and"),
        ("--steps", "100000", "choose between 1 and"),
        ("--prefix", "65", "choose between 1 and 64"),
        ("--prefix", "0", "choose between 1 and 64"),
    ] {
        let args = [
            "decode".as_ref(),
            tokens.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
            option.as_ref(),
            value.as_ref(),
        ];
        refuse(dir.path(), args, &[says]);
    }
}

#[test]
fn safetensors_that_are_cut_or_lie() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(mini().join("tokenizer.safetensors")).unwrap();
    refuse_model(&dir, "cut.safetensors", &good[..good.len() - 1000], &["truncated"]);
    refuse_model(&dir, "head.safetensors", &good[..100], &["safetensors"]);
    refuse_model(&dir, "empty.safetensors", b"", &[]);
    let mut huge = good[..4096].to_vec();
    huge[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    refuse_model(&dir, "length.safetensors", &huge, &["safetensors"]);
    let claims =
        r#"{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}"#;
    refuse_model(&dir, "claims.safetensors", &safetensors(claims, &[0; 64]), &["safetensors"]);
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    refuse_model(&dir, "overlap.safetensors", &safetensors(overlap, &[0; 12]), &["safetensors"]);
    let other = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    refuse_model(&dir, "other.safetensors", &safetensors(other, &[0; 8]), &["not a Selftok checkpoint"]);
}

#[test]
fn a_flipped_bit_in_a_header_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(mini().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let vae = dir.path().join("vae");
    fs::create_dir(&vae).unwrap();
    fs::copy(mini().join("vae/config.json"), vae.join("config.json")).unwrap();
    let mut refused = 0;
    let positions = (0..24).map(|i| i * 997 % header).chain([0, 7, 8, header - 1]);
    for at in positions {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(vae.join("diffusion_pytorch_model.safetensors"), bytes).unwrap();
        let ran: Ran = program()
            .args(["encode", "-q", "--json", "--vae"])
            .arg(&vae)
            .arg(&pictures()[0])
            .output()
            .unwrap()
            .into();
        assert!(!ran.stderr.contains("panicked"), "byte {at}: {ran:?}");
        match ran.code {
            // Some bytes, such as a space or a digit that no check can know, may be another and the file still one.
            Some(0) => {}
            Some(1) => {
                refused += 1;
                assert!(
                    ran.stderr.starts_with("selftok: error: ") && ran.stderr.contains("vae"),
                    "byte {at}: {ran:?}"
                );
            }
            _ => panic!("byte {at}: {ran:?}"),
        }
    }
    assert!(refused >= 20, "{refused}");
}

#[test]
fn checkpoints_of_pytorch_that_are_cut_or_carry_code() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(repository("tests/golden/selftok/tiny_renderer.pth")).unwrap();
    refuse_model(&dir, "cut.pth", &good[..good.len() / 2], &[]);
    let mut flipped = good.clone();
    let end = good.len() - 10;
    flipped[end] ^= 0x40;
    refuse_model(&dir, "flipped.pth", &flipped, &[]);
    let owned = dir.path().join("owned");
    let evil = call(global("os", "system"), &[text(&format!("touch {}", owned.display()))]);
    refuse_model(&dir, "evil.pth", &save(&pickle(evil), &[0; 32]), &["`os.system`", "not run here"]);
    assert!(!owned.exists());
}

#[test]
fn configurations_that_are_none_or_contradict_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(mini().join("config.json")).unwrap();
    let refuse_config = |text: &str, says: &[&str]| {
        let path = write(&dir, "config.json", text.as_bytes());
        let model = mini();
        let picture = pictures()[0].clone();
        let args = [
            "encode".as_ref(),
            "--json".as_ref(),
            "-m".as_ref(),
            model.as_os_str(),
            "--config".as_ref(),
            path.as_os_str(),
            picture.as_os_str(),
        ];
        refuse(dir.path(), args, &[says, &["config.json"]].concat());
    };
    refuse_config("{", &[]);
    refuse_config(&good.replace("\"num_tokens\": 64", "\"num_tokens\": 65"), &["num_tokens 65"]);
    refuse_config(
        &good.replace("\"codebook_size\": 4096", "\"codebook_size\": 1152921504606846976"),
        &["codebook_size"],
    );
    refuse_config(&good.replace("\"image_size\": 64", "\"image_size\": 0"), &["image_size"]);
}
