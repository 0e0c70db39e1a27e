#!/usr/bin/env python3
"""Makes golden cases of the tokenizers that GGUF files carry: small vocabularies, trained here, and what the reference
libraries make of hard texts with them; and of chat templates.

    python -m venv .venv && .venv/bin/pip install tokenizers sentencepiece jinja2
    .venv/bin/python tests/make_goldens_tokenizers.py

Each case is a file `tests/golden/tokenizers/CASE.json`: `metadata` are the keys `tokenizer.ggml.*` of a GGUF file, `texts`
are triples of a text, its ids and what they decode to. The byte-level kinds are judged by `tokenizers`, with the
pre-tokenizers of the published models; SentencePiece's by `sentencepiece`. `chat_templates.json` holds templates in the
manner of published ones, and what Jinja makes of them as transformers sets it up.
"""

import io
import json
import pathlib

import jinja2.sandbox
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent / "golden" / "tokenizers"
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then it doesn't: they've seen I'll go where we'd been.",
    "A static graph is recorded once, compiled into a plan of fused kernels, and run as often as one likes.",
    "Straße naïve café 東京 こんにちは 你好世界 Привет мир مرحبا بالعالم क्षत्रिय 🎉😀👩‍👩‍👧",
    "def main():\n    if x == 1234:\n        return [1, 22, 333, 4444]\n\n\n\t\ttabs   and    many     spaces\r\n",
    "Nothing is allocated, compiled or looked up while it runs; the latent, the tokens and the velocity stay.",
] * 8
TEXTS = [
    "", "a", " ", "  ", "   hello", "hello   ", "hello  world   foo    bar", "\n", "\n\n", "\r\n\r\n a", "\t\tx\t y",
    "don't I'll we've IT'S I'M you'Re", "123456789", "1 22 333 4444 55555", "a1b22c333", "Straße naïve café e\u0301",
    "東京 こんにちは 你好世界", "Привет, мир!", "🎉😀👩‍👩‍👧 flag 🇩🇪", "\u00a0nbsp\u2003em", "x=1;y+=2 //c\n  if(a){b}",
    "a\u0000b", "١٢٣ ½ ² ⅷ", "https://example.com/a?b=c&d=%20e", "...!!!???", "'''\"\"\"``", "\u200b\ufeffzero", "ﬁ ligature",
    "\u0301combining first", "a a a a ", " " * 17 + "x", "ｆｕｌｌ　ｗｉｄｔｈ", "क्षत्रिय", "مرحبا بالعالم", "ab" * 20, "▁under ▁ a▁b",
    "A\n B\n\n  C\n\n\n   D",
]  # fmt: skip


def save(case, metadata, encode, decode):
    ROOT.mkdir(parents=True, exist_ok=True)
    texts = [(text, encode(text), decode(encode(text))) for text in TEXTS]
    case_json = {"metadata": metadata, "texts": texts}
    (ROOT / f"{case}.json").write_text(json.dumps(case_json, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(case, len(metadata["tokens"]), "tokens")


def words(digits):
    return Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def byte_level(case, *before, normalizer=None, ignore_merges=False):
    """`before` cuts the text; without it, the byte-level pre-tokenizer does it itself."""
    cuts = [isinstance(cut, pre_tokenizers.Split) for cut in before]
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not any(cuts))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, own])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    parsed = json.loads(tokenizer.to_str())
    parsed["model"]["ignore_merges"] = ignore_merges
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    vocabulary = parsed["model"]["vocab"]
    metadata = {
        "model": "gpt2",
        "pre": case,
        "tokens": sorted(vocabulary, key=vocabulary.get),
        "merges": [" ".join(merge) for merge in parsed["model"]["merges"]],
        "add_bos_token": False,
    }
    save(case, metadata, lambda text: tokenizer.encode(text).ids, tokenizer.decode)


def sentence_piece(case, prefix):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.split("\n") if line),
        model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, split_digits=True, allow_whitespace_only_pieces=True,
        character_coverage=0.98, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(pieces.get_piece_size())

    def kind(i):
        return 2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1

    metadata = {
        "model": "llama",
        "tokens": [pieces.id_to_piece(i) for i in ids],
        "scores": [pieces.get_score(i) for i in ids],
        "token_type": [kind(i) for i in ids],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": True,
        "add_space_prefix": prefix,
    }
    save(case, metadata, lambda text: [1, *pieces.encode(text)], lambda ids: pieces.decode(ids[1:]))


def chat_templates():
    """Renders the templates of the file anew."""
    path = ROOT / "chat_templates.json"
    cases = json.loads(path.read_text())
    jinja = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    turns = [
        ("system", " Be brief. "),
        ("user", "Hi\n there"),
        ("assistant", "<think>\nhm\n</think>\n\nYes. "),
        ("user", "Bye?"),
    ]
    for case in cases.values():
        template = jinja.from_string(case["template"])
        case["renderings"] = [
            {
                "turns": part,
                "text": template.render(
                    messages=[{"role": role, "content": content} for role, content in part],
                    tools=None, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>",
                ),
            }
            for part in (turns, turns[1:2], turns[:2])
        ]  # fmt: skip
    path.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    byte_level("gpt-2")
    byte_level("smollm", pre_tokenizers.Digits(individual_digits=True))
    byte_level("llama-bpe", pre_tokenizers.Split(words(r"\p{N}{1,3}"), "isolated"), ignore_merges=True)
    byte_level("qwen2", pre_tokenizers.Split(words(r"\p{N}"), "isolated"), normalizer=normalizers.NFC())
    sentence_piece("llama", True)
    sentence_piece("llama-no-prefix", False)
    chat_templates()
