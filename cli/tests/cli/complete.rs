//! `selftok complete`: texts and ids continued, token by token.

use crate::support::{Ran, refuse, repository, run, succeed};
use selftok::networks::{NamedTensors, Values};
use serde_json::{Value, json};
use std::path::Path;

/// Ids beside the bytes: the end of a text, and the turns of a chat, [`SPECIAL`].
const END: usize = 256;
const ASSISTANT: usize = 258;
const SPECIAL: [&str; 4] = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"];
/// Ids, and width: each id is a direction of its own.
const SIZE: usize = END + SPECIAL.len();

/// A Llama in which each id has one successor, so that what it says is known: `a` is followed by [`SPOKEN`], an assistant's
/// turn by [`ANSWER`], and both end the text. Ids are bytes.
fn speaker(folder: &Path) {
    let mut head = vec![0.0f32; SIZE * SIZE];
    let mut say = |from: usize, text: &str| {
        let ids = text.bytes().map(usize::from).chain([END]);
        ids.fold(from, |from, to| {
            assert!(head.iter().skip(from).step_by(SIZE).all(|&x| x == 0.0), "two successors of {from}");
            head[to * SIZE + from] = 1.0;
            to
        });
    };
    say(b'a'.into(), SPOKEN);
    say(ASSISTANT, ANSWER);
    let eye = (0..SIZE * SIZE).map(|i| f32::from(u8::from(i % (SIZE + 1) == 0))).collect();
    let f32s = |shape: &[usize], values: Vec<f32>| (shape.to_vec(), values);
    let filled = |shape: &[usize], value: f32| f32s(shape, vec![value; shape.iter().product()]);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let weights = [
        ("model.embed_tokens.weight".to_string(), f32s(&[SIZE, SIZE], eye)),
        ("lm_head.weight".to_string(), f32s(&[SIZE, SIZE], head)),
        ("model.norm.weight".to_string(), filled(&[SIZE], 1.0)),
        (layer("input_layernorm"), filled(&[SIZE], 1.0)),
        (layer("post_attention_layernorm"), filled(&[SIZE], 1.0)),
        (layer("self_attn.q_proj"), filled(&[SIZE, SIZE], 0.0)),
        (layer("self_attn.k_proj"), filled(&[SIZE, SIZE], 0.0)),
        (layer("self_attn.v_proj"), filled(&[SIZE, SIZE], 0.0)),
        (layer("self_attn.o_proj"), filled(&[SIZE, SIZE], 0.0)),
        (layer("mlp.gate_proj"), filled(&[2, SIZE], 0.0)),
        (layer("mlp.up_proj"), filled(&[2, SIZE], 0.0)),
        (layer("mlp.down_proj"), filled(&[SIZE, 2], 0.0)),
    ];
    let mut tensors = NamedTensors::new();
    for (name, (shape, values)) in weights {
        tensors.insert(name, &shape, Values::F32(values)).unwrap();
    }
    tensors.save(folder.join("model.safetensors")).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": SIZE, "hidden_size": SIZE, "intermediate_size": 2, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 40, "eos_token_id": END,
    });
    write(folder, "config.json", &config.to_string());
    write(folder, "tokenizer.json", &bytes_tokenizer().to_string());
    write(folder, "tokenizer_config.json", &json!({ "chat_template": TEMPLATE }).to_string());
}

const SPOKEN: &str = "ñ→😀!";
const ANSWER: &str = "Yes";
const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\
                        {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// A tokenizer whose ids are bytes, after which come the special tokens.
fn bytes_tokenizer() -> Value {
    // GPT-2's letters for bytes: printable ones stand for themselves, the others for what follows U+0100.
    let mut next = 0x100;
    let mut letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap()
        }
    };
    let vocab: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (letter(byte).to_string(), json!(byte))).collect();
    let special = SPECIAL.iter().zip(END..).map(|(content, id)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    });
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [] }
    })
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn complete(model: &Path, args: &[&str]) -> Ran {
    let start = ["complete".as_ref(), model.as_os_str()];
    succeed(start.into_iter().chain(args.iter().map(AsRef::as_ref)))
}

/// The last line of a run with `--json`, which is all that it prints.
#[track_caller]
fn last_line(model: &Path, args: &[&str]) -> Value {
    let ran = complete(model, &[args, &["--json"]].concat());
    serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap()
}

fn ids(text: &str) -> Vec<usize> {
    text.bytes().map(usize::from).collect()
}

#[test]
fn ids_are_continued_as_the_reference_library_does() {
    for case in ["llama3", "llama2_tied", "qwen3", "gpt2"] {
        let folder = repository(&format!("tests/golden/models/{case}"));
        let io = NamedTensors::open(folder.join("io.safetensors")).unwrap();
        let greedy = io.i64("greedy").unwrap();
        let prompt: Vec<String> = greedy[..24].iter().map(i64::to_string).collect();
        let args = ["--ids", &prompt.join(","), "-n", "16", "--temperature", "0", "--ignore-stop"];
        // There is no tokenizer, so there is no text.
        assert_eq!(last_line(&folder, &args), json!({ "ids": greedy[24..], "text": null }), "{case}");
        let plain: Vec<String> = greedy[24..].iter().map(i64::to_string).collect();
        assert_eq!(complete(&folder, &args).stdout.trim_end(), plain.join(" "), "{case}");
    }
}

#[test]
fn a_text_streams_in_whole_characters_and_ends_at_its_stop() {
    let folder = tempfile::tempdir().unwrap();
    speaker(folder.path());
    let ran = complete(folder.path(), &["la"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("ñ→😀!\n", ""));
    let spoken: Vec<usize> = ids(SPOKEN).into_iter().chain([END]).collect();
    assert_eq!(last_line(folder.path(), &["la"]), json!({ "ids": spoken, "text": SPOKEN }));
    // Cut within a character, whose bytes are then no text.
    let line = last_line(folder.path(), &["la", "-n", "4"]);
    assert_eq!(line, json!({ "ids": spoken[..4], "text": "ñ\u{fffd}" }));
    assert_eq!(complete(folder.path(), &["la", "-n", "4"]).stdout, "ñ\u{fffd}\n");
    assert_eq!(last_line(folder.path(), &["la", "-n", "0"]), json!({ "ids": [], "text": "" }));
    // What follows the stop is asked for.
    let line = last_line(folder.path(), &["la", "--ignore-stop", "-n", "20"]);
    assert_eq!(line["ids"].as_array().unwrap().len(), 20);
    assert_eq!(line["ids"].as_array().unwrap()[..11], json!(spoken).as_array().unwrap()[..]);
}

#[test]
fn a_chat_is_put_into_the_files_own_template() {
    let folder = tempfile::tempdir().unwrap();
    speaker(folder.path());
    let answer: Vec<usize> = ids(ANSWER).into_iter().chain([END]).collect();
    let expected = json!({ "ids": answer, "text": ANSWER });
    assert_eq!(last_line(folder.path(), &["--chat", "Is it so?"]), expected);
    assert_eq!(last_line(folder.path(), &["--chat", "Is it so?", "--system", "Be brief."]), expected);
    assert_eq!(complete(folder.path(), &["--chat", "Is it so?"]).stdout, "Yes\n");
    // A file of its own comes first: this one ends in what `a` is followed by.
    write(folder.path(), "chat_template.jinja", "{{ messages[0]['content'] }}<|user|>a");
    assert_eq!(last_line(folder.path(), &["--chat", "Is it so?"])["text"], SPOKEN);
    write(folder.path(), "chat_template.jinja", "{{ raise_exception('no turns') }}");
    let chat = ["complete".as_ref(), folder.path().as_os_str(), "--chat".as_ref(), "x".as_ref()];
    refuse(folder.path(), chat, &["chat template", "no turns"]);
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    write(folder.path(), "tokenizer_config.json", "{}");
    refuse(folder.path(), chat, &["chat template"]);
}

#[test]
fn a_seed_decides_what_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    speaker(folder.path());
    let draw = |seed: &str| {
        last_line(folder.path(), &["la", "-n", "24", "--temperature", "50", "--ignore-stop", "--seed", seed])
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
    // One likeliest id is as good as greedy.
    let narrow = ["la", "--temperature", "50", "--top-k", "1", "--seed", "3"];
    assert_eq!(last_line(folder.path(), &narrow)["text"], SPOKEN);
    assert_eq!(last_line(folder.path(), &["la", "--temperature", "50", "--top-p", "1e-6"])["text"], SPOKEN);
    assert_eq!(last_line(folder.path(), &["la", "--temperature", "50", "--min-p", "1"])["text"], SPOKEN);
}

#[test]
fn stats_tell_the_first_token_and_the_rate() {
    let folder = tempfile::tempdir().unwrap();
    speaker(folder.path());
    let found = last_line(folder.path(), &["la", "--stats", "--quiet"]);
    assert_eq!((&found["stats"]["prompt_tokens"], &found["text"]), (&json!(2), &json!(SPOKEN)));
    for name in ["first_token_s", "tokens_per_s"] {
        assert!(found["stats"][name].as_f64().unwrap() > 0.0, "{found}");
    }
    let said = complete(folder.path(), &["la", "--stats"]).stderr;
    assert!(said.contains("2 prompt tokens in") && said.contains("tokens a second"), "{said}");
}

#[test]
fn int8_activations_change_nothing_where_no_weight_is_quantised() {
    let folder = repository("tests/golden/models/qwen3");
    let args = ["--ids", "3,1,4,1,5,9,2,6", "-n", "16", "--ignore-stop"];
    let exact = last_line(&folder, &args);
    assert_eq!(last_line(&folder, &[&args[..], &["--activations", "int8"]].concat()), exact);
    let unknown = [&args[..], &["--activations", "int4"]].concat();
    let ran = run(["complete", folder.to_str().unwrap()].iter().chain(&unknown));
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    speaker(folder.path());
    let refused = |args: &[&str], says: &[&str]| {
        let start = ["complete".as_ref(), folder.path().as_os_str()];
        refuse(folder.path(), start.into_iter().chain(args.iter().map(AsRef::as_ref)), says);
    };
    refused(&["--ids", "1,260"], &["id 260 at position 1", "0..260"]);
    refused(&[&"a".repeat(40)], &["40 tokens", "the context holds 40"]);
    refused(&[""], &["prompt", "empty"]);
    refused(&["la", "--temperature=-1"], &["temperature = -1"]);
    refused(&["la", "--temperature", "nan"], &["temperature = NaN"]);
    refused(&["la", "--top-p", "0"], &["top_p = 0"]);
    refused(&["la", "--min-p", "2"], &["min_p = 2"]);
    refused(&["la", "--repetition-penalty", "0"], &["repetition_penalty = 0"]);
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refused(&["la"], &["tokenizer.json"]);
    write(folder.path(), "tokenizer.json", "{\"version\": 1}");
    refused(&["la"], &["tokenizer.json"]);

    let start = |args: &[&str]| run(["complete"].iter().chain(args));
    for args in [&["/no/such/model", "x"][..], &[env!("CARGO_MANIFEST_DIR"), "x"]] {
        let ran = start(args);
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(1), 1), "{ran:?}");
        assert!(ran.stderr.contains(args[0]), "{ran:?}");
    }
    for args in
        [&["m"][..], &["m", "x", "--ids", "1"], &["m", "--ids", "1,x"], &["m", "--ids", "1", "--chat"]]
    {
        assert_eq!(start(args).code, Some(2), "{args:?}");
    }
}
