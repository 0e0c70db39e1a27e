//! A GGUF file gives what the same weights give in a Hugging Face folder, in every format that stays quantised; its
//! configuration, tokenizer and chat template come out of its metadata.

use selftok::Activations;
use selftok::generate::{CausalModel, Message, Options, Prompt, Sessions};
use selftok::{CpuOptions, Device};
use selftok_loader::{TensorSource, Weights};
use std::path::{Path, PathBuf};

/// GGUF's numbers of types.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 8,
    Bf16 = 30,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/llama2_tied")
}

fn half(x: f32) -> [u8; 2] {
    selftok_half(x).to_le_bytes()
}

/// An IEEE half of a number in its normal range, rounded towards zero: exact enough for a scale.
fn selftok_half(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 112;
    if exponent <= 0 {
        return 0;
    }
    ((bits >> 16) & 0x8000) as u16 | (exponent as u16) << 10 | ((bits >> 13) & 0x3ff) as u16
}

fn unhalf(bytes: [u8; 2]) -> f32 {
    let h = u32::from(u16::from_le_bytes(bytes));
    let (sign, exponent, fraction) = (h >> 15 << 31, (h >> 10) & 31, h & 0x3ff);
    if exponent == 0 {
        return f32::from_bits(sign);
    }
    f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13)
}

/// Bytes of a format, and the numbers that they stand for.
fn store(format: Format, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut back) = (vec![], vec![]);
    match format {
        Format::F32 => {
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            back.extend(values);
        }
        Format::F16 => {
            bytes.extend(values.iter().flat_map(|x| half(*x)));
            back.extend(values.iter().map(|x| unhalf(half(*x))));
        }
        Format::Bf16 => {
            bytes.extend(values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()));
            back.extend(values.iter().map(|x| f32::from_bits(x.to_bits() >> 16 << 16)));
        }
        _ => {
            for block in values.chunks(32) {
                let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
                let largest = low.abs().max(high.abs());
                let (scale, minimum) = match format {
                    Format::Q8_0 => (half(largest / 127.0), [0, 0]),
                    Format::Q4_0 => (half(largest / 7.0), [0, 0]),
                    _ => (half((high - low) / 15.0), half(low)),
                };
                let (d, m) = (unhalf(scale), unhalf(minimum));
                bytes.extend(scale);
                if format == Format::Q4_1 {
                    bytes.extend(minimum);
                }
                let level = |x: f32, from: f32, to: f32| {
                    if d == 0.0 { 0.0 } else { ((x - m) / d).round().clamp(from, to) }
                };
                if format == Format::Q8_0 {
                    let q: Vec<f32> = block.iter().map(|x| level(*x, -127.0, 127.0)).collect();
                    bytes.extend(q.iter().map(|q| *q as i8 as u8));
                    back.extend(q.iter().map(|q| q * d));
                    continue;
                }
                let centre = if format == Format::Q4_0 { 8.0 } else { 0.0 };
                let q: Vec<f32> = block.iter().map(|x| level(*x, -centre, 15.0 - centre) + centre).collect();
                bytes.extend((0..16).map(|i| q[i] as u8 | (q[i + 16] as u8) << 4));
                back.extend(q.iter().map(|q| (q - centre) * d + m));
            }
        }
    }
    (bytes, back)
}

/// Writes GGUF: keys with encoded values, and tensors.
fn gguf(keys: &[(&str, Vec<u8>)], tensors: &[(String, Vec<usize>, Format, Vec<u8>)]) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        out.extend(text(key));
        out.extend(value);
    }
    let (mut data, mut offset) = (vec![], 0u64);
    for (name, shape, format, bytes) in tensors {
        out.extend(text(name));
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend((*format as u32).to_le_bytes());
        out.extend(offset.to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
        offset = data.len() as u64;
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

fn u32_value(n: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), n.to_le_bytes()].concat()
}

fn f32_value(x: f32) -> Vec<u8> {
    [6u32.to_le_bytes(), x.to_le_bytes()].concat()
}

fn text_value(s: &str) -> Vec<u8> {
    [&8u32.to_le_bytes()[..], &(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

fn texts_value(list: &[String]) -> Vec<u8> {
    let mut out = [&9u32.to_le_bytes()[..], &8u32.to_le_bytes(), &(list.len() as u64).to_le_bytes()].concat();
    list.iter().for_each(|s| out.extend([&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()));
    out
}

/// Rows as llama.cpp's converter orders them: reshape(heads, 2, head_dim/2, …).swapaxes(1, 2).
fn permute(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, dim) = (values.len() / rows, rows / heads);
    let row = |r: usize| &values[r * width..(r + 1) * width];
    let order = (0..heads)
        .flat_map(|h| (0..dim / 2).flat_map(move |j| (0..2).map(move |s| h * dim + s * dim / 2 + j)));
    order.flat_map(|r| row(r).to_vec()).collect()
}

fn unpermute(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, dim) = (values.len() / rows, rows / heads);
    let mut out = vec![0.0; values.len()];
    for h in 0..heads {
        for j in 0..dim / 2 {
            for s in 0..2 {
                let (from, to) = (h * dim + 2 * j + s, h * dim + s * dim / 2 + j);
                out[to * width..(to + 1) * width].copy_from_slice(&values[from * width..(from + 1) * width]);
            }
        }
    }
    out
}

/// Keys of the metadata with their encoded values.
type Keys = Vec<(String, Vec<u8>)>;

/// A tokenizer of one byte-level letter an id.
fn letters() -> Keys {
    let alphabet: Vec<String> = (0..256u32).map(|i| char::from_u32(0x100 + i).unwrap().to_string()).collect();
    [
        ("model", text_value("gpt2")),
        ("pre", text_value("smollm")),
        ("tokens", texts_value(&alphabet)),
        ("merges", texts_value(&[])),
        ("eos_token_id", u32_value(7)),
    ]
    .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
    .into()
}

/// The golden model as a GGUF file, and as a folder that holds the numbers which the file stands for.
fn write(format: Format, folder: &Path) -> PathBuf {
    write_with(format, folder, letters())
}

/// The same with a tokenizer of its own.
fn write_with(format: Format, folder: &Path, tokenizer: Keys) -> PathBuf {
    let weights = Weights::open(golden()).unwrap();
    let names = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
    ];
    let (mut tensors, mut folder_tensors) = (vec![], vec![]);
    for name in weights.names().map(String::from).collect::<Vec<_>>() {
        let values = weights.to_f32(&name).unwrap();
        let shape = weights.info(&name).unwrap().shape;
        let (from, to) = names.iter().find(|(from, _)| name.contains(from)).unwrap();
        let short = match name.split('.').nth(2).filter(|_| name.contains("layers")) {
            Some(layer) => format!("blk.{layer}.{to}.weight"),
            None => format!("{to}.weight"),
        };
        let format = if shape.len() == 1 { Format::F32 } else { format };
        let turned = from.ends_with("q_proj") || from.ends_with("k_proj");
        let ordered = if turned { permute(&values, shape[0], 4) } else { values };
        let (bytes, back) = store(format, &ordered);
        let back = if turned { unpermute(&back, shape[0], 4) } else { back };
        tensors.push((short, shape.clone(), format, bytes));
        folder_tensors.push((name, shape, back.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()));
    }
    let keys = [
        ("general.architecture", text_value("llama")),
        ("llama.context_length", u32_value(512)),
        ("llama.embedding_length", u32_value(64)),
        ("llama.block_count", u32_value(2)),
        ("llama.feed_forward_length", u32_value(160)),
        ("llama.attention.head_count", u32_value(4)),
        ("llama.attention.layer_norm_rms_epsilon", f32_value(1e-6)),
        ("llama.rope.dimension_count", u32_value(16)),
        ("tokenizer.chat_template", text_value("{{ messages[0].content }}|{{ eos_token }}")),
    ];
    let own = tokenizer.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let keys: Vec<_> = keys.into_iter().chain(own).collect();
    let file = folder.join("model.gguf");
    std::fs::write(&file, gguf(&keys, &tensors)).unwrap();
    let views = folder_tensors.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    let same = folder.join("folder");
    std::fs::create_dir_all(&same).unwrap();
    std::fs::write(same.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::copy(golden().join("config.json"), same.join("config.json")).unwrap();
    file
}

#[test]
fn every_format_gives_the_logits_of_its_dequantised_weights() {
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let ids: Vec<i64> = (0..40).map(|i| (i * 37 + 11) % 256).collect();
    let mut bytes = vec![];
    for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_0, Format::Q4_1] {
        let folder = tempfile::tempdir().unwrap();
        let file = write(format, folder.path());
        let (a, b) = (
            CausalModel::open(&file, &device).unwrap(),
            CausalModel::open(folder.path().join("folder"), &device).unwrap(),
        );
        let (found, expected) = (a.logits(&ids, 2).unwrap(), b.logits(&ids, 2).unwrap());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{format:?}: {worst}");
        let prompt: Vec<u32> = ids[..9].iter().map(|&id| id as u32).collect();
        let greedy = |model: &CausalModel| {
            let mut session = model.session(Sessions { context: 64, ..Sessions::default() }).unwrap();
            session.complete(&[Prompt::new(&prompt)], Options { max_new: 20, ..Options::default() }).unwrap()
        };
        assert_eq!(greedy(&a)[0].ids, greedy(&b)[0].ids, "{format:?}");
        bytes.push(a.weight_bytes() as f64);
        // Activations in bytes: the same but for rounding, and of interest to blocks alone.
        let device = device.with_activations(Activations::Int8);
        let rounded = CausalModel::open(&file, &device).unwrap().logits(&ids, 2).unwrap();
        let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let off =
            square(&mut rounded.iter().zip(&found).map(|(a, b)| a - b)) / square(&mut found.iter().copied());
        let blocks = matches!(format, Format::Q8_0 | Format::Q4_0 | Format::Q4_1);
        assert!(if blocks { off > 0.0 && off < 1e-3 } else { off == 0.0 }, "{format:?}: {off}");
    }
    // Weights in memory take what they take in the file: the norms alone are f32 everywhere.
    let [f32, f16, bf16, q8, q4, q4_1] = bytes[..] else { panic!("{bytes:?}") };
    let expected = [(f16, 16.0), (bf16, 16.0), (q8, 9.0), (q4, 5.0), (q4_1, 5.0)];
    for (found, bits) in expected {
        assert!((found / f32 - bits / 32.0).abs() < 0.02, "{bytes:?}: {bits} bits");
    }
}

#[test]
fn the_metadata_hold_tokenizer_template_and_stop_ids() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let model = CausalModel::open(write(Format::Q8_0, folder.path()), &device).unwrap();
    assert_eq!(model.stop_ids(), [7]);
    let chat = model.chat_template().unwrap().render(&[Message::new("user", "hi")]).unwrap();
    assert_eq!(chat, "hi|\u{107}");
    // Byte-level letters: a space is U+0120, which is id 0x20 here.
    let text = model.text().unwrap();
    assert_eq!(text.encode(" ").unwrap(), [0x20]);
    assert_eq!(text.decode(&[0x20]).unwrap(), " ");
}

#[test]
fn what_a_file_contradicts_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let file = write(Format::Q4_0, folder.path());
    let bytes = std::fs::read(&file).unwrap();
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let path = folder.path().join("changed.gguf");
        std::fs::write(&path, bytes).unwrap();
        CausalModel::open(&path, &device).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let replace = |bytes: &mut Vec<u8>, from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to);
    };
    let unknown = error(&|b| replace(b, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"));
    assert!(unknown.contains("`mamba` is not known"), "{unknown}");
    let cut = error(&|b| b.truncate(b.len() / 2));
    assert!(!cut.is_empty());
    let missing = error(&|b| replace(b, b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"));
    assert!(missing.contains("model.layers.1.mlp.up_proj.weight") && missing.contains("ffn_xx"), "{missing}");
    let heads = error(&|b| {
        replace(
            b,
            &[b"head_count".as_slice(), &u32_value(4)].concat(),
            &[b"head_count".as_slice(), &u32_value(5)].concat(),
        )
    });
    assert!(heads.contains("dimension_count") || heads.contains("head"), "{heads}");
}

/// A case of `tests/golden/tokenizers`: the tokenizer as GGUF keys, and texts with their ids and what those decode to.
fn tokenizer_case(case: &str) -> (Keys, Vec<(String, Vec<u32>, String)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/tokenizers/{case}.json"));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let array = |kind: u32, values: &[serde_json::Value], bytes: &dyn Fn(&serde_json::Value) -> [u8; 4]| {
        let head =
            [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().fold(head, |mut out, value| {
            out.extend(bytes(value));
            out
        })
    };
    let value = |key: &str, value: &serde_json::Value| match value {
        serde_json::Value::Bool(truth) => [&7u32.to_le_bytes()[..], &[u8::from(*truth)]].concat(),
        serde_json::Value::Number(number) => u32_value(number.as_u64().unwrap() as u32),
        serde_json::Value::String(text) => text_value(text),
        serde_json::Value::Array(list) if key == "scores" => {
            array(6, list, &|x| (x.as_f64().unwrap() as f32).to_le_bytes())
        }
        serde_json::Value::Array(list) if key == "token_type" => {
            array(5, list, &|x| (x.as_i64().unwrap() as i32).to_le_bytes())
        }
        other => texts_value(&serde_json::from_value::<Vec<String>>(other.clone()).unwrap()),
    };
    let metadata = json["metadata"].as_object().unwrap();
    let keys = metadata.iter().map(|(key, v)| (format!("tokenizer.ggml.{key}"), value(key, v))).collect();
    (keys, serde_json::from_value(json["texts"].clone()).unwrap())
}

#[test]
fn every_kind_of_tokenizer_cuts_hard_texts_as_its_own_library_does() {
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    for case in ["gpt-2", "smollm", "llama-bpe", "qwen2", "llama", "llama-no-prefix"] {
        let folder = tempfile::tempdir().unwrap();
        let (keys, texts) = tokenizer_case(case);
        let model = CausalModel::open(write_with(Format::Q4_0, folder.path(), keys), &device).unwrap();
        let tokenizer = model.text().unwrap();
        for (text, ids, back) in texts {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{case}: {text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), back, "{case}: {text:?}");
            let mut stream = tokenizer.stream();
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            streamed += &stream.finish().unwrap();
            assert_eq!(streamed, back, "{case}: {text:?} as a stream");
        }
    }
}

#[test]
fn gpt2_has_an_architecture_of_its_own() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/gpt2");
    let weights = Weights::open(&golden).unwrap();
    let names = [
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
        ("wte", "token_embd"),
        ("wpe", "position_embd"),
        ("ln_f", "output_norm"),
    ];
    let mut tensors = vec![];
    for name in weights.names() {
        let (mut values, mut shape) = (weights.to_f32(name).unwrap(), weights.info(name).unwrap().shape);
        let (from, to) = names.iter().find(|(from, _)| name.contains(from)).unwrap();
        if from.contains(".c_") && shape.len() == 2 {
            // Stored [in, out]; a GGUF file has [out, in].
            let (rows, columns) = (shape[0], shape[1]);
            values = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
            shape.reverse();
        }
        let end = name.rsplit('.').next().unwrap();
        let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
        let prefix = layer.map_or(String::new(), |layer| format!("blk.{layer}."));
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((format!("{prefix}{to}.{end}"), shape, Format::F32, bytes));
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden.join("config.json")).unwrap()).unwrap();
    let number = |field: &str| u32_value(config[field].as_u64().unwrap() as u32);
    let keys = [
        ("general.architecture", text_value("gpt2")),
        ("gpt2.context_length", number("n_positions")),
        ("gpt2.embedding_length", number("n_embd")),
        ("gpt2.block_count", number("n_layer")),
        ("gpt2.attention.head_count", number("n_head")),
        ("gpt2.attention.layer_norm_epsilon", f32_value(1e-5)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, gguf(&keys, &tensors)).unwrap();
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let ids: Vec<i64> = (0..40).map(|i| (i * 37 + 11) % 256).collect();
    let logits = |path: &Path| CausalModel::open(path, &device).unwrap().logits(&ids, 2).unwrap();
    assert_eq!(logits(&file), logits(&golden));
}

/// What llama.cpp's files say may be anything: no value makes opening panic, or take memory by it.
#[test]
fn mutated_metadata_are_refused_or_understood() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let (keys, _) = tokenizer_case("llama");
    let good = std::fs::read(write_with(Format::Q4_0, folder.path(), keys)).unwrap();
    let find = |what: &[u8]| good.windows(what.len()).position(|w| w == what).unwrap();
    // Keys and small values in front, those of the tokenizer, and the table of tensors.
    let regions = [
        24..find(b"tokenizer.ggml"),
        find(b"tokenizer.ggml.scores")..find(b"blk.0."),
        find(b"blk.0.")..find(b"blk.0.") + 1500,
    ];
    let regions = regions.map(|region| (region.start, region.end));
    let path = folder.path().join("mutated.gguf");
    let (mut random, mut refused) = (1u64, 0);
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + below(3) {
            let (start, end) = regions[below(3)];
            let at = start + below(end - start);
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at..at + 4]
                    .copy_from_slice(&[0u32, 1 << 16, u32::MAX, 1 << 31][below(4)].to_le_bytes()),
                2 => bytes[at] = below(256) as u8,
                _ => drop(bytes.drain(at..at + 1 + below(8))),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let opened = CausalModel::open(&path, &device)
            .and_then(|model| Ok((model.text()?.encode("two words")?, model.stop_ids())));
        refused += usize::from(opened.is_err_and(|error| !error.to_string().is_empty()));
    }
    assert!((100..400).contains(&refused), "{refused} of 400 were refused");
}
