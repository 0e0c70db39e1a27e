//! `selftok complete`: causal transformers, by ids (the golden models have no tokenizer).

use crate::support::{Ran, assert_one_sentence, json, repository, run, succeed};
use safetensors::SafeTensors;

fn model(name: &str) -> String {
    repository(&format!("tests/golden/models/{name}")).into_os_string().into_string().unwrap()
}

/// The golden greedy continuation: 24 ids of the prompt, then 16.
fn greedy(name: &str) -> Vec<u64> {
    let bytes = std::fs::read(repository(&format!("tests/golden/models/{name}/io.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor("greedy").unwrap().data().to_vec();
    data.as_chunks::<8>().0.iter().map(|id| u64::from_le_bytes(*id)).collect()
}

fn listed(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// Runs `complete` over the golden prompt.
fn args(name: &str, more: &[&str]) -> Vec<String> {
    let prompt = listed(&greedy(name)[..24]);
    let fixed = ["complete", &model(name), "--ids", &prompt, "-n", "16", "--ignore-stop"];
    fixed.iter().chain(more).map(ToString::to_string).collect()
}

#[test]
fn greedy_ids_are_those_of_the_reference_library() {
    for name in ["llama3", "llama2_tied", "qwen3", "gpt2"] {
        for threads in ["1", "2"] {
            let found = json(args(name, &["--json", "--threads", threads]));
            assert_eq!(found["ids"], serde_json::json!(greedy(name)[24..]), "{name}");
            assert!(found["text"].is_null() && found.get("stats").is_none(), "{found}");
        }
    }
}

#[test]
fn ids_are_printed_where_there_is_no_tokenizer() {
    let ran = succeed(args("llama3", &["--quiet"]));
    let printed: Vec<u64> = ran.stdout.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(printed, greedy("llama3")[24..]);
    assert_eq!(ran.stderr, "");
}

#[test]
fn stats_tell_the_first_token_and_the_rate() {
    let found = json(args("llama3", &["--json", "--stats", "--quiet"]));
    assert_eq!(found["stats"]["prompt_tokens"], 24);
    assert!(found["stats"]["first_token_s"].as_f64().unwrap() > 0.0, "{found}");
    assert!(found["stats"]["tokens_per_s"].as_f64().unwrap() > 0.0, "{found}");
    let said = succeed(args("llama3", &["--stats"])).stderr;
    assert!(said.contains("24 prompt tokens in") && said.contains("tokens a second"), "{said}");
}

#[test]
fn drawn_ids_follow_the_seed_and_the_options() {
    let draw = |more: &[&str]| {
        json(args("qwen3", &[&["--json", "--temperature", "1.5"], more].concat()))["ids"].clone()
    };
    assert_eq!(draw(&["--seed", "3"]), draw(&["--seed", "3"]));
    assert_ne!(draw(&["--seed", "3"]), draw(&["--seed", "4"]));
    let only_the_best = draw(&["--top-k", "1"]);
    assert_eq!(only_the_best, serde_json::json!(greedy("qwen3")[24..]));
    // Without quantised weights there is nothing that int8 activations could change.
    let exact = serde_json::json!(greedy("qwen3")[24..]);
    assert_eq!(json(args("qwen3", &["--json", "--activations", "int8"]))["ids"], exact);
}

#[test]
fn the_context_ends_a_text() {
    let ids = listed(&vec![5; 510]);
    let found = json(["complete", &model("llama3"), "--ids", &ids, "-n", "64", "--json", "--ignore-stop"]);
    assert_eq!(found["ids"].as_array().unwrap().len(), 3);
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let llama = model("llama3");
    let fails = |args: &[&str], parts: &[&str]| {
        let ran: Ran = run([&["complete"], args].concat());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert_one_sentence(&ran);
        assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?}: {ran:?}");
    };
    fails(&[&llama, "--ids", "1,256"], &["id 256 at position 1", "0..256"]);
    fails(&[&llama, "--ids", &listed(&vec![1; 512])], &["512"]);
    fails(&[&llama, "some text"], &["tokenizer"]);
    fails(&[&llama, "--ids", "1", "--temperature=-1"], &["temperature", "-1"]);
    fails(&[&llama, "--ids", "1", "--top-p", "0"], &["top_p"]);
    fails(&[&model("vit"), "--ids", "1"], &["vit"]);
    fails(&["/nonexistent/model.gguf", "--ids", "1"], &["/nonexistent/model.gguf"]);
    let usage = run(["complete", &llama, "--ids", "1,x"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}
