//! PyTorch checkpoints: read in place, and without running anything.

mod common;

use common::torch::*;
use common::*;
use selftok_loader::{DType, TensorSource, Weights};

fn open(body: Vec<u8>) -> selftok_loader::Result<Weights> {
    let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    Weights::from_bytes("model.pth", save(&program(body), &data))
}

fn one(kind: &str, numel: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    dict(&[("w", tensor(storage(kind, "0", numel), offset, shape, strides))])
}

#[test]
fn a_pth_file_and_the_safetensors_file_of_the_same_weights_agree_bit_by_bit() {
    let pth = Weights::open(golden("tiny_renderer.pth")).unwrap();
    let safe = Weights::open(golden("tiny_renderer.weights.safetensors")).unwrap();
    assert_eq!(pth.len(), safe.len());
    for t in pth.iter() {
        let s = safe.tensor(t.name).unwrap();
        assert_eq!((t.dtype, t.shape, t.bytes), (s.dtype, s.shape, s.bytes), "{}", t.name);
    }
}

#[test]
fn views_of_one_storage_and_all_dtypes_are_read() {
    let w = open(one("FloatStorage", 6, 2, &[2, 2], &[2, 1])).unwrap();
    assert_eq!(w.to_f32("w").unwrap(), [2.0, 3.0, 4.0, 5.0]);
    // The stride of a dimension of 1 is arbitrary; a scalar has no dimensions; an empty tensor no elements.
    assert_eq!(open(one("FloatStorage", 6, 1, &[1, 5], &[77, 1])).unwrap().to_f32("w").unwrap()[0], 1.0);
    assert_eq!(open(one("FloatStorage", 6, 3, &[], &[])).unwrap().to_f32("w").unwrap(), [3.0]);
    assert!(open(one("FloatStorage", 6, 6, &[0, 4], &[1, 1])).unwrap().to_f32("w").unwrap().is_empty());
    for (kind, dtype, numel) in [
        ("DoubleStorage", DType::F64, 3),
        ("HalfStorage", DType::F16, 12),
        ("BFloat16Storage", DType::BF16, 12),
        ("LongStorage", DType::I64, 3),
        ("IntStorage", DType::I32, 6),
        ("ByteStorage", DType::U8, 24),
        ("BoolStorage", DType::Bool, 24),
    ] {
        let w = open(one(kind, numel, 1, &[2], &[1])).unwrap();
        assert_eq!(w.tensor("w").unwrap().dtype, dtype);
        assert_eq!(w.tensor("w").unwrap().bytes.len(), 2 * dtype.block_bytes());
    }
}

#[test]
fn wrappers_are_descended_prefixes_stripped_and_parameters_unwrapped() {
    let t = || tensor(storage("FloatStorage", "0", 6), 0, &[6], &[1]);
    let inner = dict(&[("module._orig_mod.a", t()), ("module._orig_mod.b", t())]);
    for wrapper in ["state_dict", "module", "model"] {
        let body = dict(&[("epoch", int(3)), (wrapper, inner.clone())]);
        assert_eq!(open(body).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);
    }
    // A prefix that not every name has is part of the name.
    let body = dict(&[("module.a", t()), ("b", t()), ("step", int(1))]);
    assert_eq!(open(body).unwrap().names().collect::<Vec<_>>(), ["module.a", "b"]);
    let parameter = call(global("torch._utils", "_rebuild_parameter"), &[t(), vec![0x88], dict(&[])]);
    assert_eq!(open(dict(&[("p", parameter)])).unwrap().to_f32("p").unwrap()[5], 5.0);
}

#[test]
fn nothing_but_a_state_dict_is_understood() {
    let evil = call(global("os", "system"), &[text("touch /tmp/owned")]);
    says(&message(open(evil)), &["model.pth", "`os.system`", "not run here", "state_dict()"]);
    // The same by protocol 4: two strings and STACK_GLOBAL.
    let stack_global = [text("posix"), text("system"), vec![0x93]].concat();
    says(&message(open(call(stack_global, &[text("id")]))), &["`posix.system`"]);
    says(&message(open(global("torch", "load"))), &["`torch.load`"]);
    says(&message(open(b"I1\n".to_vec())), &["opcode INT (0x49)"]);
    says(&message(open(b"}\x81".to_vec())), &["opcode NEWOBJ"]);
    says(&message(open(dict(&[("epoch", int(3)), ("args", int(1))]))), &["no tensors", "epoch, args"]);
    says(&message(open(int(3))), &["no state dict"]);
    says(&message(open(b"h\x05".to_vec())), &["object 5 is recalled"]);
    says(&message(open(b"t".to_vec())), &["mark missing"]);
    says(&message(open(b"(R".to_vec())), &["operands missing"]);
    says(&message(open(vec![b'('; 100_000])), &["nested deeper"]);
    says(&message(open(text("x")[..4].to_vec())), &["middle of an instruction"]);
    says(&message(open(vec![b'N'; 3 << 20])), &["more than 2097152 objects"]);
    // A dict that contains itself, as its own wrapper.
    says(&message(open(b"}q\0X\x05\0\0\0modelh\0s".to_vec())), &["no state dict"]);
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_refused() {
    let refused = |body| message(open(body));
    says(&refused(one("FloatStorage", 6, 0, &[2, 3], &[1, 2])), &["`w`", "not contiguous", ".contiguous()"]);
    says(&refused(one("FloatStorage", 6, 1, &[6], &[1])), &["`w`", "6 elements from 1", "storage of 6"]);
    says(&refused(one("FloatStorage", 7, 0, &[6], &[1])), &["`w`", "24 bytes", "7 elements of F32"]);
    says(&refused(one("FloatStorage", 6, -1, &[6], &[1])), &["impossible arguments"]);
    says(&refused(one("FloatStorage", 6, 0, &[i32::MAX; 9], &[1; 9])), &["`w`", "impossibly large"]);
    says(&refused(one("FloatStorage", 6, 0, &[2, 3], &[1])), &["`w`", "differ in length"]);
    says(&refused(one("FloatStorage", 6, 0, &[1; 17], &[1; 17])), &["impossible arguments"]);
    let gone = dict(&[("w", tensor(storage("FloatStorage", "9", 6), 0, &[6], &[1]))]);
    says(&refused(gone), &["`w`", "data/9 is not in the archive"]);
}

#[test]
fn archives_that_torch_did_not_write_are_refused() {
    let pkl = program(one("FloatStorage", 6, 0, &[6], &[1]));
    let entries: [(&str, &[u8]); 2] = [("ck/data.pkl", &pkl), ("ck/data/0", &[0; 24])];
    let good = zip(&entries);
    assert_eq!(Weights::from_bytes("x", good.clone()).unwrap().len(), 1);
    says(&refused(&zip_with_method(&entries, 8)), &["`ck/data.pkl` is compressed"]);
    says(&refused(&good[..good.len() - 30]), &["truncated"]);
    says(&refused(&zip(&[entries[0], entries[1], entries[1]])), &["`ck/data/0` comes twice"]);
    says(&refused(&zip(&[("a.txt", b"x")])), &["without data.pkl"]);
    says(&refused(&zip(&[("m/code/x.py", b"x")])), &["TorchScript"]);
    says(&refused(&zip(&[entries[0], entries[1], ("ck/byteorder", b"big")])), &["big-endian"]);
    says(
        &refused(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02"),
        &["before version 1.6", "torch.save("],
    );
}

#[test]
fn archives_beyond_four_gigabytes_keep_their_numbers_in_the_64_bit_extension() {
    let pkl = program(one("FloatStorage", 6, 0, &[6], &[1]));
    let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let file = zip64(&[("ck/data.pkl", &pkl), ("ck/data/0", &data)]);
    let read = Weights::from_bytes("x", file.clone()).unwrap().to_f32("w").unwrap();
    assert_eq!(read, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let at = file.windows(4).position(|w| w == b"\x01\0\x18\0").unwrap();
    let mut lie = file.clone();
    lie[at + 4..at + 20].fill(0x7f);
    says(&refused(&lie), &["`ck/data.pkl`", "lies outside the file"]);
    lie[at] = 2;
    says(&refused(&lie), &["damaged 64-bit extension"]);
}
