//! `selftok decode`.

use crate::support::{assert_one_sentence, golden_ids, golden_rgb, json, levels, names, run, succeed};
use selftok::tokens::Order;
use selftok::{Picture, Tokens};
use std::path::{Path, PathBuf};

/// A token file of the golden ids of these pictures.
fn tokens(folder: &Path, name: &str, pictures: &[usize]) -> PathBuf {
    let golden = golden_ids();
    let ids: Vec<u32> = pictures.iter().flat_map(|&i| golden[i].clone()).collect();
    let path = folder.join(name);
    Tokens::new(ids, pictures.len(), 64).unwrap().save(&path).unwrap();
    path
}

fn rgb(path: impl AsRef<Path>) -> Vec<u8> {
    Picture::open(path).unwrap().into_rgb()
}

#[test]
fn the_renderer_is_the_default_and_gives_the_golden_picture() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (tokens(dir.path(), "t.npy", &[2]), dir.path().join("out.png"));
    let ran = succeed(["decode".as_ref(), input.as_os_str(), "-o".as_ref(), out.as_os_str()]);
    assert!(ran.stdout.contains("1 picture rendered in one step"), "{ran:?}");
    assert!(levels(&rgb(&out), &golden_rgb("rendered")[2]) <= 1);
}

#[test]
fn every_token_format_and_order_gives_the_same_picture() {
    let dir = tempfile::tempdir().unwrap();
    let golden = golden_rgb("rendered");
    for (i, format) in ["npy", "json", "safetensors"].into_iter().enumerate() {
        for (order, name) in [(Order::Index, "index"), (Order::Ar, "ar")] {
            let file = dir.path().join(format!("{i}-{name}.{format}"));
            Tokens::new(golden_ids()[i].clone(), 1, 64).unwrap().save_as(&file, order).unwrap();
            let out = dir.path().join("out.png");
            let args = ["decode".as_ref(), file.as_os_str(), "--order".as_ref(), name.as_ref()];
            succeed(args.into_iter().chain(["-o".as_ref(), out.as_os_str()]));
            assert!(levels(&rgb(&out), &golden[i]) <= 1, "{format} {name}");
        }
    }
}

#[test]
fn several_pictures_go_to_a_folder_by_number_or_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let golden = golden_rgb("rendered");
    let input = tokens(dir.path(), "all.npy", &[0, 1, 2]);
    let out = dir.path().join("numbered");
    succeed(["decode".as_ref(), input.as_os_str(), "-o".as_ref(), out.as_os_str()]);
    assert_eq!(names(&out), ["0000.png", "0001.png", "0002.png"]);
    for (i, golden) in golden[..3].iter().enumerate() {
        assert!(levels(&rgb(out.join(format!("000{i}.png"))), golden) <= 1);
    }
    // A second run with other files into the same folder adds to it.
    let (a, b) = (tokens(dir.path(), "cat.npy", &[4]), tokens(dir.path(), "dog.json", &[5]));
    succeed(["decode".as_ref(), a.as_os_str(), b.as_os_str(), "-o".as_ref(), out.as_os_str()]);
    assert_eq!(names(&out), ["0000.png", "0001.png", "0002.png", "cat.png", "dog.png"]);
    assert!(levels(&rgb(out.join("dog.png")), &golden[5]) <= 1);
}

#[test]
fn a_seed_gives_the_same_pictures_whatever_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let input = tokens(dir.path(), "t.npy", &[0, 1, 2]);
    let decode = |name: &str, seed: &str, batch: &str| {
        let out = dir.path().join(name);
        let args = ["decode", "--mode", "diffuse", "--steps", "5", "--seed", seed, "--batch", batch];
        succeed(args.map(AsRef::as_ref).into_iter().chain([
            input.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ]));
        (0..3).map(|i| rgb(out.join(format!("000{i}.png")))).collect::<Vec<_>>()
    };
    let (one, again, batch, other) = (
        decode("one", "7", "1"),
        decode("again", "7", "1"),
        decode("batch", "7", "3"),
        decode("other", "8", "1"),
    );
    assert_eq!(one, again);
    for (one, batch) in one.iter().zip(&batch) {
        assert!(levels(one, batch) <= 1);
    }
    assert!(levels(&one[0], &other[0]) > 8);
}

#[test]
fn a_prefix_is_diffused_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (tokens(dir.path(), "t.npy", &[7]), dir.path().join("out.png"));
    let value =
        json(["decode", "--json", "--steps", "5", "--prefix", "16"].map(AsRef::as_ref).into_iter().chain([
            input.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ]));
    assert_eq!((&value["mode"], &value["diffusion"]["prefix"]), (&"diffuse".into(), &16.into()));
    let whole = dir.path().join("whole.png");
    let args = ["decode", "--steps", "5"].map(AsRef::as_ref).into_iter();
    succeed(args.chain([input.as_os_str(), "-o".as_ref(), whole.as_os_str()]));
    assert!(levels(&rgb(&out), &rgb(&whole)) > 8);
}

#[test]
fn bf16_is_close_and_not_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (tokens(dir.path(), "t.npy", &[1]), dir.path().join("out.png"));
    succeed([
        "decode".as_ref(),
        "--dtype".as_ref(),
        "bf16".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    let picture = Picture::open(&out).unwrap();
    let golden = Picture::from_rgb(64, 64, golden_rgb("rendered")[1].clone()).unwrap();
    let psnr = selftok::metrics::psnr(&picture, &golden).unwrap();
    assert!((30.0..f64::INFINITY).contains(&psnr), "{psnr}");
}

#[test]
fn arguments_that_contradict_each_other_are_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let input = tokens(dir.path(), "t.npy", &[0, 1]);
    let (one, jpeg) = (dir.path().join("one.png"), dir.path().join("out.jpg"));
    let cases: [(&[&str], &Path, &str); 3] = [
        (&[], &one, "one file for 2 pictures; name a folder"),
        (&[], &jpeg, "written as PNG"),
        (&["--mode", "render", "--prefix", "4"], &dir.path().join("out"), "the renderer takes one step"),
    ];
    for (options, out, says) in cases {
        let args = ["decode".as_ref(), input.as_os_str(), "-o".as_ref(), out.as_os_str()].into_iter();
        let ran = run(args.chain(options.iter().map(AsRef::as_ref)));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert_one_sentence(&ran);
        assert!(ran.stderr.contains(says), "{ran:?}");
    }
    assert_eq!(names(dir.path()), ["t.npy"]);
}
