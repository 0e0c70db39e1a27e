//! `selftok encode`.

use crate::support::{golden_ids, i64s, json, mini, names, pictures, succeed};
use selftok::Tokens;
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn a_folder_of_pictures_gives_the_golden_ids_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["t.npy", "t.json", "t.safetensors"] {
        let out = dir.path().join(name);
        let folder = mini().join("pictures");
        let ran = succeed(["encode".as_ref(), folder.as_os_str(), "-o".as_ref(), out.as_os_str()]);
        assert!(ran.stdout.contains("16 pictures, 64 tokens each of 4096 codes"), "{ran:?}");
        assert!(ran.stderr.contains("running on cpu"), "{ran:?}");
        assert_eq!(Tokens::load(&out).unwrap().ids(), golden_ids().concat());
    }
    assert_eq!(names(dir.path()), ["t.json", "t.npy", "t.safetensors"]);
}

#[test]
fn npy_files_are_those_of_numpy() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("t.npy");
    succeed(["encode".as_ref(), pictures()[0].as_os_str(), "-o".as_ref(), out.as_os_str()]);
    let bytes = std::fs::read(out).unwrap();
    assert!(
        bytes.starts_with(
            b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (1, 64), }"
        )
    );
    assert_eq!(bytes.len(), 128 + 8 * 64);
}

#[test]
fn writing_order_is_index_order_reversed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("t.safetensors");
    let picture = &pictures()[3];
    succeed([
        "encode".as_ref(),
        picture.as_os_str(),
        "--order".as_ref(),
        "ar".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    let mut written = i64s(&out, "tokens");
    written.reverse();
    assert_eq!(written, golden_ids()[3]);
    assert_eq!(Tokens::load(&out).unwrap().ids(), golden_ids()[3]);
}

#[test]
fn json_has_ids_margins_and_times_and_needs_no_file() {
    let paths = pictures();
    let value = json(["encode".as_ref(), "--json".as_ref(), paths[0].as_os_str(), paths[5].as_os_str()]);
    let golden = golden_ids();
    for (picture, index) in value["pictures"].as_array().unwrap().iter().zip([0, 5]) {
        assert_eq!(picture["file"], paths[index].to_str().unwrap());
        assert_eq!(ids(&picture["ids"]), golden[index]);
        let margins = picture["margins"].as_array().unwrap();
        assert_eq!(margins.len(), 64);
        assert!(margins.iter().all(|m| (0.0..2.0).contains(&m.as_f64().unwrap())), "{margins:?}");
    }
    assert!(value["seconds"]["total"].as_f64().unwrap() > 0.0);
    let reversed =
        json(["encode".as_ref(), "--json".as_ref(), "--order".as_ref(), "ar".as_ref(), paths[0].as_os_str()]);
    let (a, b) = (&value["pictures"][0], &reversed["pictures"][0]);
    assert_eq!(ids(&a["ids"]).into_iter().rev().collect::<Vec<_>>(), ids(&b["ids"]));
    assert_eq!(a["margins"][0], b["margins"][63]);
}

#[test]
fn files_folders_and_patterns_mix_and_a_batch_is_its_pictures() {
    let pattern = mini().join("pictures/noto-*.png");
    let files = pictures();
    let args = [
        "encode".as_ref(),
        "--json".as_ref(),
        "--batch".as_ref(),
        "4".as_ref(),
        files[15].as_os_str(),
        pattern.as_os_str(),
        files[0].parent().unwrap().as_os_str(),
    ];
    let value = json(args);
    let rows = value["pictures"].as_array().unwrap();
    let golden = golden_ids();
    let expected = std::iter::once(15).chain(5..11).chain(0..5).chain(11..15);
    assert_eq!(rows.len(), 16);
    for (row, index) in rows.iter().zip(expected) {
        assert_eq!(row["file"], files[index].to_str().unwrap());
        assert_eq!(ids(&row["ids"]), golden[index], "{}", row["file"]);
    }
}

#[test]
fn a_quiet_run_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("t.npy");
    let ran = succeed([
        "encode".as_ref(),
        "-q".as_ref(),
        pictures()[0].as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

#[test]
fn threads_and_the_precision_of_decoding_leave_the_ids_alone() {
    for options in [["--threads", "1"], ["--dtype", "bf16"], ["--device", "cpu"]] {
        let picture = &pictures()[7];
        let args = ["encode", "--json", options[0], options[1]].map(AsRef::as_ref).into_iter();
        let value = json(args.chain([picture.as_os_str()]));
        assert_eq!(ids(&value["pictures"][0]["ids"]), golden_ids()[7], "{options:?}");
    }
}
