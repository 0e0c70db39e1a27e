//! `selftok recon`.

use crate::support::{golden_ids, json, pictures, succeed};
use selftok::Picture;

#[test]
fn a_sheet_is_drawn_and_the_table_has_tokens_and_scores() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sheet.png");
    let picture = &pictures()[7];
    let ran = succeed(["recon".as_ref(), picture.as_os_str(), "-o".as_ref(), out.as_os_str()]);
    let ids: Vec<String> = golden_ids()[7].iter().map(u32::to_string).collect();
    assert!(ran.stdout.contains(&ids.join(" ")), "{ran:?}");
    for part in [
        "renderer: PSNR",
        "diffusion 50: PSNR",
        "SSIM",
        "noto-nine.png",
        " dB",
        "seconds a picture",
        "written in",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {ran:?}");
    }
    let sheet = Picture::open(&out).unwrap();
    assert!(sheet.width() > 3 * 192 && sheet.height() > 192, "{sheet:?}");
}

#[test]
fn scores_are_those_of_the_model_card() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sheet.png");
    let folder = pictures()[0].parent().unwrap().to_owned();
    let args = ["recon", "--json", "--steps", "10"].map(AsRef::as_ref).into_iter();
    let value = json(args.chain([folder.as_os_str(), "-o".as_ref(), out.as_os_str()]));
    let rendered = value["mean"]["render"]["psnr"].as_f64().unwrap();
    assert!((rendered - 24.5).abs() < 0.1, "{rendered}");
    let diffused = value["mean"]["diffuse"]["psnr"].as_f64().unwrap();
    assert!((18.0..23.0).contains(&diffused), "{diffused}");
    for picture in value["pictures"].as_array().unwrap() {
        let ssim = picture["scores"]["render"]["ssim"].as_f64().unwrap();
        assert!((0.6..1.0).contains(&ssim), "{picture}");
    }
}

#[test]
fn more_tokens_of_a_prefix_make_a_better_picture() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sheet.png");
    let args = ["recon", "--json", "--steps", "20", "--prefixes", "4,64"].map(AsRef::as_ref).into_iter();
    let value = json(args.chain([pictures()[7].as_os_str(), "-o".as_ref(), out.as_os_str()]));
    let psnr = |key: &str| value["mean"][key]["psnr"].as_f64().unwrap();
    assert!(psnr("prefix_4") + 3.0 < psnr("prefix_64"), "{value}");
    // All 64 tokens are no prefix at all.
    assert_eq!(psnr("prefix_64"), psnr("diffuse"));
    let sheet = Picture::open(&out).unwrap();
    assert!(sheet.width() > 5 * 192, "{sheet:?}");
}
