#!/usr/bin/env python3
"""Makes tests/golden/real/smollm2.json: what PyTorch continues ten prompts with, on the weights of a GGUF file.

    sh tests/real_models/smollm2.sh
    python -m venv .venv && .venv/bin/pip install torch transformers tokenizers gguf
    .venv/bin/python tests/make_golden_smollm2.py

The weights are dequantised by the `gguf` package, the rows of q and k put back from interleaved to half rotation, and
Transformers' Llama runs in float32, greedy, 64 new ids; ids that end a text do not end it here.
Beside each id stands its log-probability and the gap to the runner-up: where the gap is below rounding (about 1e-4 at
these logits), either id would be right, and the test says so instead of choosing. Text goes through the `tokenizers`
library, set up as the model's publishers did (single digits, then byte-level BPE), from the file's vocabulary and merges.
Twelve more texts, awkward ones, are tokenised only. And there is the perplexity of `alice.txt` beside the golden file, the
opening of Lewis Carroll's novel of 1865.
"""

import json
import pathlib

import gguf
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE = ROOT / "target" / "real_models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GOLDEN = ROOT / "tests" / "golden" / "real" / "smollm2.json"
NEW = 64
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees Celsius because",
    "1, 1, 2, 3, 5, 8, 13,",
    "<|im_start|>user\nName three primary colours.<|im_end|>\n<|im_start|>assistant\n",
    "Der schnelle braune Fuchs springt über",
    "The theory of evolution by natural selection was first",
    "Q: What is 7 times 8?\nA:",
    "In 1969, Neil Armstrong became the first person to",
]
TEXTS = [
    "",
    " ",
    "   three spaces, then\ttabs\t\tand\n\n\nlines  ",
    "It's we'll they've I'd you're I'm can't",
    "numbers 1234567890 3.14159 1e-10 0x7f",
    "naïve café Ünïcödé — “quotes” … ½",
    "日本語のテキスト、中文字符，한국어",
    "🙂👍🏽👩‍👩‍👧‍👦 emoji",
    "<|im_start|>system\n<|im_end|> <|endoftext|>",
    "snake_case camelCase SCREAMING_CASE kebab-case a.b.c(d)[e]{f}",
    "don't  stop…   now!!! ???",
    "\u00a0non-breaking\u2003em space\u200bzero width",
]


def tokenizer(reader):
    field = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
    tokens, kinds = field("tokens"), field("token_type")
    merges = [tuple(merge.split(" ")) for merge in field("merges")]
    made = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds) if kind == 3])
    return made


def network(reader):
    field = lambda name: reader.fields[f"llama.{name}"].contents()
    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=field("vocab_size"),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base"),
        tie_word_embeddings=True,
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": field("rope.freq_base")}
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[-1] in ("attn_q", "attn_k"):
            # llama.cpp turns neighbours (2i, 2i + 1), Transformers halves (i, i + dim/2).
            n = heads if parts[-1] == "attn_q" else kv_heads
            shape = weight.shape
            weight = weight.reshape(n, shape[0] // n // 2, 2, shape[1]).transpose(1, 2).reshape(shape)
        layer = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        state[f"{layer}{names[parts[-1]]}.weight"] = weight.float()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = transformers.LlamaForCausalLM(config).float().eval()
    model.load_state_dict(state, strict=True)
    return model


@torch.no_grad()
def greedy(model, prompt):
    ids, cache, new, probabilities, gaps = torch.tensor([prompt]), None, [], [], []
    for _ in range(NEW):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[0, -1].double()
        best = logits.topk(2)
        new.append(best.indices[0].item())
        probabilities.append(round(logits.log_softmax(0)[new[-1]].item(), 6))
        gaps.append(round((best.values[0] - best.values[1]).item(), 6))
        ids = torch.tensor([[new[-1]]])
    return new, probabilities, gaps


@torch.no_grad()
def perplexity(model, ids):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).exp().item()


def main():
    torch.set_num_threads(1)
    reader = gguf.GGUFReader(FILE)
    text, model = tokenizer(reader), network(reader)
    cases = []
    for prompt in PROMPTS:
        ids = text.encode(prompt).ids
        new, probabilities, gaps = greedy(model, ids)
        cases.append(dict(prompt=prompt, ids=ids, new=new, log_probabilities=probabilities, gaps=gaps))
        print(f"{min(gaps):.5f} {prompt!r} {text.decode(new, skip_special_tokens=True)!r}")
    alice = text.encode((GOLDEN.parent / "alice.txt").read_text()).ids
    alice = json.dumps(dict(tokens=len(alice), perplexity=perplexity(model, alice)))
    texts = [dict(text=t, ids=text.encode(t).ids) for t in TEXTS]
    versions = {m.__name__: m.__version__ for m in (torch, transformers)}
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    lines = lambda items: ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items)
    made = json.dumps({"file": FILE.name, **versions})
    GOLDEN.write_text(f'{{"made_by": {made},\n "alice": {alice},\n "prompts": [\n{lines(cases)}\n ],\n "texts": [\n{lines(texts)}\n ]}}\n')


if __name__ == "__main__":
    main()
