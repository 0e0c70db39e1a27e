//! Writes `torch.save` archives, with or without lies: a zip of stored entries and a pickle assembled opcode by
//! opcode.
#![allow(dead_code)]

/// A zip archive of stored entries. Checksums are zero: nobody reads them here.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    write_zip(entries, 0, false)
}

/// The same, claiming a compression method.
pub fn zip_with_method(entries: &[(&str, &[u8])], method: u16) -> Vec<u8> {
    write_zip(entries, method, false)
}

/// The same as an archive beyond 4 GB says it: every size and offset in the 64-bit extension.
pub fn zip64(entries: &[(&str, &[u8])]) -> Vec<u8> {
    write_zip(entries, 0, true)
}

fn write_zip(entries: &[(&str, &[u8])], method: u16, wide: bool) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32;
        let fields = |out: &mut Vec<u8>| {
            out.extend([20, 0, 0, 0]);
            out.extend(method.to_le_bytes());
            out.extend([0; 8]);
            out.extend((data.len() as u32).to_le_bytes());
            out.extend((data.len() as u32).to_le_bytes());
            out.extend((name.len() as u16).to_le_bytes());
            out.extend([0; 2]);
        };
        out.extend(b"PK\x03\x04");
        fields(&mut out);
        out.extend(name.as_bytes());
        out.extend(*data);
        let start = central.len();
        central.extend(b"PK\x01\x02\x14\x00");
        fields(&mut central);
        central.extend([0; 10]);
        central.extend(offset.to_le_bytes());
        central.extend(name.as_bytes());
        if wide {
            central[start + 20..start + 28].fill(0xff);
            central[start + 30] = 8 + 4 + 24;
            central[start + 42..start + 46].fill(0xff);
            // A field of another kind comes first, to be skipped.
            central.extend(b"\x99\x99\x04\0abcd\x01\0\x18\0");
            for v in [data.len() as u64, data.len() as u64, offset as u64] {
                central.extend(v.to_le_bytes());
            }
        }
    }
    let (at, count) = (out.len() as u64, entries.len() as u64);
    out.extend(&central);
    if wide {
        let end = out.len() as u64;
        out.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        for v in [count, count, central.len() as u64, at] {
            out.extend(v.to_le_bytes());
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(end.to_le_bytes());
        out.extend(b"\x01\0\0\0PK\x05\x06\0\0\0\0");
        out.extend([0xff; 12]);
    } else {
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend([(count as u16).to_le_bytes(), (count as u16).to_le_bytes()].concat());
        out.extend((central.len() as u32).to_le_bytes());
        out.extend((at as u32).to_le_bytes());
    }
    out.extend([0; 2]);
    out
}

/// A file as torch.save writes it: this pickle and one storage `0`.
pub fn save(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("ck/data.pkl", pickle), ("ck/byteorder", b"little"), ("ck/data/0", storage)])
}

pub fn text(s: &str) -> Vec<u8> {
    [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

pub fn int(n: i32) -> Vec<u8> {
    [&b"J"[..], &n.to_le_bytes()].concat()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &items.concat(), b"t"].concat()
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn call(function: Vec<u8>, args: &[Vec<u8>]) -> Vec<u8> {
    [function, tuple(args), b"R".to_vec()].concat()
}

pub fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [&b"}("[..], &items, b"u"].concat()
}

pub fn storage(kind: &str, key: &str, numel: i32) -> Vec<u8> {
    let id = tuple(&[text("storage"), global("torch", kind), text(key), text("cpu"), int(numel)]);
    [id, b"Q".to_vec()].concat()
}

pub fn tensor(storage: Vec<u8>, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let sizes = |s: &[i32]| tuple(&s.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let args = [storage, int(offset), sizes(shape), sizes(strides), vec![0x89], hooks];
    call(global("torch._utils", "_rebuild_tensor_v2"), &args)
}

/// A whole program of protocol 2.
pub fn program(body: Vec<u8>) -> Vec<u8> {
    [&[0x80, 2][..], &body, b"."].concat()
}
