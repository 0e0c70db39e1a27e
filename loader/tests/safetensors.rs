//! safetensors files: what is read, and every lie that is refused.

mod common;

use std::collections::BTreeMap;

use common::*;
use selftok_loader::{
    DType, DTypeClass, Expected, Pattern, TensorSource, Weights, check, write_safetensors_atomic,
};

#[test]
fn a_real_file_reads_as_the_reference_crate_reads_it() {
    for path in
        [golden("tiny_tokenizer.weights.safetensors"), repository("models/mini/tokenizer.safetensors")]
    {
        let weights = Weights::open(&path).unwrap();
        let file = std::fs::read(&path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(weights.len(), reference.len());
        for (name, view) in reference.tensors() {
            let t = weights.tensor(&name).unwrap();
            assert_eq!((t.shape, t.bytes), (view.shape(), view.data()), "{name}");
            assert_eq!(t.dtype.name(), view.dtype().to_string());
        }
    }
}

#[test]
fn rows_are_read_without_the_rest() {
    let weights = Weights::open(golden("tiny_tokenizer.weights.safetensors")).unwrap();
    let name = "encoder.blocks.0.attn.qkv.weight";
    let whole = weights.to_f32(name).unwrap();
    let mut rows = vec![0.0; 3 * 16];
    weights.read_rows(name, 5..8, &mut rows).unwrap();
    assert_eq!(rows, whole[5 * 16..8 * 16]);
    weights.tensor(name).unwrap().to_f32_into(7..9, &mut rows[..2]).unwrap();
    assert_eq!(rows[..2], whole[7..9]);
    weights.advise_dontneed(name);
    assert_eq!(weights.to_f32(name).unwrap(), whole, "released pages come back");

    says(&message(weights.read_rows(name, 47..49, &mut rows[..32])), &[name, "752..784", "it has 768"]);
    says(&message(weights.read_rows(name, 0..2, &mut rows)), &[name, "it has 768"]);
    says(&message(weights.read_f32(name, usize::MAX, &mut rows)), &[name]);
    says(&message(weights.tensor("nonsense")), &["no tensor `nonsense`", "tiny_tokenizer"]);
}

#[test]
fn every_lie_is_refused_with_a_sentence() {
    let tensor = |name: &str, dtype: &str, shape: &str, a: u64, b: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{a},{b}]}}"#)
    };
    let file =
        |tensors: &[String], data: usize| safetensors(&format!("{{{}}}", tensors.join(",")), &vec![0; data]);
    assert_eq!(Weights::from_bytes("x", file(&[tensor("a", "F32", "[2]", 0, 8)], 8)).unwrap().len(), 1);

    let mut huge = file(&[], 0);
    huge[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    says(&refused(&huge), &["model.file", "1152921504606846976 bytes", "limit"]);
    huge[..8].copy_from_slice(&1000u64.to_le_bytes());
    says(&refused(&huge), &["claims 1000 bytes", "truncated"]);
    says(&refused(b"abc"), &["too few"]);
    says(&refused(&safetensors("{\"a\":1}", &[])), &["`a`"]);
    says(&refused(&safetensors("{\"a\":", &[])), &["header is wrong"]);
    says(&refused(&safetensors("{\"__metadata__\":{\"a\":1}}", &[])), &["header is wrong"]);

    let a = tensor("a", "F32", "[2]", 0, 8);
    says(&refused(&file(&[a.clone(), a.clone()], 8)), &["`a` comes twice"]);
    says(&refused(&file(&[tensor("a", "F9", "[2]", 0, 8)], 8)), &["`a`", "F9 is not supported", "BF16"]);
    says(&refused(&file(&[tensor("a", "F32", "[2]", 8, 0)], 8)), &["`a`", "backwards"]);
    says(
        &refused(&file(&[tensor("a", "F32", "[2]", 0, 8)], 7)),
        &["`a`", "ends at byte 8", "7 bytes", "truncated"],
    );
    says(&refused(&file(&[tensor("a", "F32", "[3]", 0, 8)], 8)), &["`a`", "8 bytes", "takes 12"]);
    let big = tensor("a", "F32", "[9223372036854775807, 9223372036854775807]", 0, 8);
    says(&refused(&file(&[big], 8)), &["`a`", "impossibly large"]);
    says(&refused(&file(&[a.clone(), tensor("b", "F32", "[2]", 4, 12)], 12)), &["`b`", "overlaps"]);
    says(&refused(&file(&[a.clone(), tensor("b", "F32", "[1]", 12, 16)], 16)), &["`b`", "hole"]);
    says(&refused(&file(&[a], 9)), &["1 bytes after the last tensor"]);
    says(&refused(&file(&[tensor("a\\u001b", "F9", "[2]", 0, 8)], 8)), &["a\\u{1b}"]);
}

#[test]
fn files_that_are_something_else_say_what_they_are() {
    says(&refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), &["git lfs pull"]);
    says(&refused(b"<!DOCTYPE html><html></html>"), &["web page"]);
    says(&refused(&[7; 64]), &["no known format"]);
    let dir = tempfile::tempdir().unwrap();
    says(&message(Weights::open(dir.path())), &["holds no weights"]);
    std::fs::write(dir.path().join("empty.safetensors"), b"").unwrap();
    says(&message(Weights::open(dir.path())), &["empty.safetensors", "is empty"]);
    std::fs::write(dir.path().join("other.safetensors"), b"").unwrap();
    says(&message(Weights::open(dir.path())), &["2 files end in .safetensors"]);
    says(&message(Weights::open(dir.path().join("none"))), &["none", "No such file"]);
}

/// The file begins with the length of its header, and that may look like the start of another format.
#[test]
fn a_length_that_looks_like_a_magic_number_deceives_nobody() {
    for length in [u16::from_le_bytes(*b" <"), u16::from_le_bytes(*b"<<"), u16::from_le_bytes(*b"PK")] {
        let mut header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_owned();
        header.push_str(&" ".repeat(length as usize - header.len()));
        let file = safetensors(&header, &[7]);
        assert_eq!(Weights::from_bytes("x", file).unwrap().to_f32("a").unwrap(), [7.0], "{length:#x}");
    }
}

#[test]
fn written_files_replace_atomically_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let source = Weights::open(golden("tiny_renderer.weights.safetensors")).unwrap();
    let tensors: Vec<_> = source.iter().collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors_atomic(&path, &tensors[..3], &BTreeMap::new()).unwrap();
    let old = Weights::open(&path).unwrap();
    write_safetensors_atomic(&path, &tensors, &metadata).unwrap();
    assert_eq!(old.len(), 3);
    assert_eq!(old.iter().nth(2).unwrap().bytes, tensors[2].bytes, "a mapped file survives its replacement");

    let back = Weights::open(&path).unwrap();
    assert_eq!(back.metadata("format"), Some("pt"));
    for (t, b) in tensors.iter().zip(back.iter()) {
        assert_eq!((t.name, t.dtype, t.shape, t.bytes), (b.name, b.dtype, b.shape, b.bytes));
    }
    let file = std::fs::read(&path).unwrap();
    assert_eq!(safetensors::SafeTensors::deserialize(&file).unwrap().len(), tensors.len());

    let mut wrong = tensors[0];
    wrong.shape = &[7];
    says(&message(write_safetensors_atomic(&path, &[wrong], &metadata)), &["shape [7]", wrong.name]);
    says(&message(write_safetensors_atomic(&path, &[tensors[0]; 2], &metadata)), &["taken"]);
    let left: Vec<_> = std::fs::read_dir(&dir).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left behind");
}

#[test]
fn shards_are_joined_and_an_index_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = Weights::open(golden("tiny_renderer.weights.safetensors")).unwrap();
    let tensors: Vec<_> = source.iter().collect();
    let none = BTreeMap::new();
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    write_safetensors_atomic(&dir.path().join(one), &tensors[..50], &none).unwrap();
    write_safetensors_atomic(&dir.path().join(two), &tensors[50..], &none).unwrap();
    let mut map: BTreeMap<&str, &str> = tensors.iter().map(|t| (t.name, two)).collect();
    map.extend(tensors[..50].iter().map(|t| (t.name, one)));
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: &BTreeMap<&str, &str>| {
        std::fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    };

    write(&map);
    for weights in [Weights::open(dir.path()).unwrap(), Weights::open(&index).unwrap()] {
        assert_eq!(weights.len(), tensors.len());
        for t in &tensors {
            assert_eq!(weights.tensor(t.name).unwrap().bytes, t.bytes, "{}", t.name);
        }
    }

    map.insert(tensors[0].name, two);
    write(&map);
    says(&message(Weights::open(dir.path())), &[tensors[0].name, "00002", "does not hold it"]);
    map.insert(tensors[0].name, "../../etc/passwd");
    write(&map);
    says(&message(Weights::open(dir.path())), &["not the name of a file beside the index"]);
    map.insert(tensors[0].name, "gone.safetensors");
    write(&map);
    says(&message(Weights::open(dir.path())), &["gone.safetensors", "No such file"]);
    map.insert(tensors[0].name, one);
    write(&map);
    write_safetensors_atomic(&dir.path().join(two), &tensors[49..], &none).unwrap();
    says(&message(Weights::open(dir.path())), &[tensors[49].name, "two files"]);
}

#[test]
fn a_check_reports_all_that_differs_and_nothing_that_is_ignored() {
    let tensor = |name: &str, dtype: DType, shape: &[usize]| {
        let n: usize = shape.iter().product();
        (name.to_owned(), dtype, shape.to_vec(), vec![0; dtype.bytes_of(n).unwrap()])
    };
    let weights = Weights::from_tensors(
        "m.pth",
        [
            tensor("a", DType::F32, &[2, 3]),
            tensor("b", DType::I64, &[4]),
            tensor("c", DType::F16, &[5]),
            tensor("train.0.count", DType::F32, &[1]),
            tensor("extra", DType::F32, &[1]),
        ],
    )
    .unwrap();
    let expect = |name: &str, shape: &[usize]| Expected {
        name: name.into(),
        shape: shape.into(),
        dtype: DTypeClass::Float,
    };
    let ignore = [Pattern::new("train.{i}.*")];
    let good = [expect("a", &[2, 3]), expect("c", &[5])];
    check(&weights, &good, &[ignore[0].clone(), Pattern::new("b"), Pattern::new("extra")]).unwrap();

    let mut wrong = vec![expect("a", &[3, 2]), expect("b", &[4]), expect("c", &[5])];
    wrong.extend((0..24).map(|i| expect(&format!("blocks.{i}.weight"), &[1])));
    let text = message(check(&weights, &wrong, &ignore));
    says(&text, &["m.pth", "missing (24): blocks.{0..23}.weight; unexpected (1): extra"]);
    says(&text, &["a ([3, 2] is needed, [2, 3] found)", "b (a float is needed, I64 found)"]);
    assert!(!text.contains("train"));

    let many: Vec<_> = (0..500).map(|i| expect(&format!("name{i}"), &[1])).collect();
    let text = message(check(&weights, &many, &ignore));
    says(&text, &["missing (500)", " and 492 more"]);
    assert!(text.len() < 2000);
}
