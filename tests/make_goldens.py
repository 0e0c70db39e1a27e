#!/usr/bin/env python3
"""Makes golden cases of ViT, DINOv2, CLIP and causal transformers from the reference library, for options that the first
ones do not cover.

    python -m venv .venv && .venv/bin/pip install torch transformers safetensors
    .venv/bin/python tests/make_goldens.py [CASE ...]

Each case is a folder `tests/golden/models/CASE` with `config.json`, `case.json`, `model.safetensors` (random weights
under the names of the published files) and `io.safetensors` (inputs and results, float32 on the CPU). The files are
checked in, so neither the tests nor CI need Python; run this to add a case or to see that they can be made again.
Results do not depend on the machine beyond rounding.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent / "golden" / "models"
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
CLIP = dict(SMALL, intermediate_size=64, projection_dim=24)


def randomise(model):
    """Weights that leave no part of the network idle: norms, biases and layer scales too."""
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name or "lambda" in name or ".ln_" in name:
            weight.data = (1 if name.endswith(("weight", "lambda1")) else 0) + 0.2 * noise
        elif weight.ndim >= 2 and not any(part in name for part in ("position", "token", "wte", "wpe")):
            weight.data = noise * (weight.shape[0] / weight.numel()) ** 0.5
        else:
            weight.data = 0.5 * noise
    return model.eval()


VISION = (
    transformers.ViTModel,
    transformers.ViTForImageClassification,
    transformers.Dinov2Model,
    transformers.Dinov2ForImageClassification,
    transformers.Dinov2WithRegistersModel,
)


def published_names(model, state):
    """Newer versions of the library rename modules when a file is read; the published files keep the first names."""
    renamed, gates = {}, {}
    for name, tensor in state.items():
        if isinstance(model, VISION):
            name = name.replace(".attention.q_proj", ".attention.attention.query")
            name = name.replace(".attention.k_proj", ".attention.attention.key")
            name = name.replace(".attention.v_proj", ".attention.attention.value")
            name = name.replace(".attention.o_proj", ".attention.output.dense")
        if isinstance(model, VISION[:2]):
            name = name.replace(".mlp.fc1", ".intermediate.dense").replace(".mlp.fc2", ".output.dense")
            if "encoder." not in name:
                name = name.replace("layers.", "encoder.layer.")
        if isinstance(model, VISION) and (".mlp.gate_proj" in name or ".mlp.up_proj" in name):
            joint = name.replace("gate_proj", "weights_in").replace("up_proj", "weights_in")
            gates.setdefault(joint, {})["gate" if "gate_proj" in name else "up"] = tensor
            continue
        if isinstance(model, VISION):
            name = name.replace(".mlp.down_proj", ".mlp.weights_out")
        renamed[name] = tensor
    for name, parts in gates.items():
        renamed[name] = torch.cat([parts["gate"], parts["up"]])
    return renamed


def save(case, model, inputs, results, tower=True):
    folder = ROOT / case
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str))
    (folder / "case.json").write_text("{}")
    state = published_names(model, model.state_dict())
    state = {k: v.contiguous().clone() for k, v in state.items() if "position_ids" not in k}
    if getattr(model.config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    if tower and isinstance(model, (transformers.CLIPVisionModel, transformers.CLIPTextModel)):
        tower = "vision_model." if isinstance(model, transformers.CLIPVisionModel) else "text_model."
        state = {k if k.startswith(tower) else tower + k: v for k, v in state.items()}
    save_file(state, folder / "model.safetensors")
    tensors = {**inputs, **{k: v for k, v in results.items() if v is not None}}
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, folder / "io.safetensors")
    print(case, {k: tuple(v.shape) for k, v in tensors.items()})


def pictures(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def vision(case, model, shape, wanted, **options):
    pixels = pictures(*shape)
    with torch.no_grad():
        out = randomise(model)(pixel_values=pixels, **options)
    save(case, model, {"pixel_values": pixels}, {name: out[name] for name in wanted})


def text(case, model, ids, wanted):
    ids = torch.tensor(ids)
    with torch.no_grad():
        out = randomise(model)(input_ids=ids)
    save(case, model, {"input_ids": ids}, {name: out[name] for name in wanted})


def padded_text(case):
    """As transformers 5 saves the tower: without its name before each tensor's."""
    model = clip_text(transformers.CLIPTextModel, eos_token_id=58)
    inputs = {
        "input_ids": torch.tensor([[57, 3, 58, 0, 0, 0], [57, 4, 5, 6, 7, 58], [57, 2, 3, 4, 58, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]),
    }
    with torch.no_grad():
        out = randomise(model)(**inputs)
    save(case, model, inputs, {name: out[name] for name in (HIDDEN, POOLED)}, tower=False)


def clip_both(case):
    """Both towers at once: embeddings of length 1, and every picture with every text."""
    config = transformers.CLIPConfig(
        vision_config=dict(CLIP, patch_size=8, image_size=24),
        text_config=dict(CLIP, vocab_size=60, max_position_embeddings=12, bos_token_id=57, eos_token_id=58),
        projection_dim=20,
    )
    model = transformers.CLIPModel(config)
    inputs = {
        "pixel_values": pictures(2, 3, 24, 24),
        "input_ids": torch.tensor([[57, 3, 58, 0, 0], [57, 4, 5, 6, 58], [57, 2, 3, 58, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
    }
    with torch.no_grad():
        out = randomise(model)(**inputs)
    save(case, model, inputs, {n: out[n] for n in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")})


def causal(case, model, length=24, **more):
    """Logits of two texts; those of an id that sees none, itself included, are set to 0."""
    ids = torch.randint(0, model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(3))
    inputs = {"input_ids": ids, **more}
    with torch.no_grad():
        logits = randomise(model)(**inputs).logits
    if "attention_mask" in more:
        logits = logits * (more["attention_mask"].cumsum(-1) > 0)[..., None]
    save(case, model, inputs, {"logits": logits})


def rope(rope_type, **options):
    return dict(rope_parameters=dict(rope_type=rope_type, rope_theta=10000.0, **options))


def llama(family="Llama", **options):
    config = dict(
        SMALL, vocab_size=96, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**{**config, **options})
    return getattr(transformers, f"{family}ForCausalLM")(config)


def gpt2(**options):
    config = dict(vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, **options))


RIGHT = torch.tensor([[1] * 15 + [0] * 9, [1] * 24])
LEFT = torch.tensor([[0] * 9 + [1] * 15, [1] * 24])
COUNTED = (LEFT.cumsum(-1) - 1).clamp(min=0)

HIDDEN, POOLED = "last_hidden_state", "pooler_output"


def dinov2(**options):
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, **options))


def vit(pooler=True, **options):
    config = transformers.ViTConfig(**SMALL, intermediate_size=48, patch_size=4, image_size=16, **options)
    return transformers.ViTModel(config, add_pooling_layer=pooler)


def clip_text(cls, **options):
    return cls(transformers.CLIPTextConfig(**CLIP, vocab_size=60, max_position_embeddings=12, bos_token_id=57, **options))


def clip_vision(cls, **options):
    return cls(transformers.CLIPVisionConfig(**CLIP, patch_size=8, image_size=24, **options))


CASES = {
    # Gated MLP, no biases of q, k, v.
    "dinov2.swiglu": lambda case: vision(
        case,
        dinov2(use_swiglu_ffn=True, qkv_bias=False, patch_size=7, image_size=28, mlp_ratio=3),
        (1, 3, 28, 28),
        [HIDDEN, POOLED],
    ),
    # More patches than the table has, not square, and pixels beyond the last whole patch.
    "dinov2.larger": lambda case: vision(
        case, dinov2(patch_size=14, image_size=56, hidden_act="gelu_new"), (2, 3, 72, 98), [HIDDEN, POOLED]
    ),
    # Fewer patches than the table has.
    "dinov2.smaller": lambda case: vision(
        case, dinov2(patch_size=2, image_size=20, hidden_act="silu"), (1, 3, 10, 6), [HIDDEN, POOLED]
    ),
    # Registers, and fewer patches than the table has: resized with antialiasing.
    "dinov2.registers": lambda case: vision(
        case,
        transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=2, image_size=20, num_register_tokens=3)
        ),
        (1, 3, 10, 24),
        [HIDDEN, POOLED],
    ),
    "dinov2.classifier": lambda case: vision(
        case,
        transformers.Dinov2ForImageClassification(
            transformers.Dinov2Config(**SMALL, patch_size=7, image_size=28, num_labels=5)
        ),
        (2, 3, 28, 21),
        ["logits"],
    ),
    "vit.classifier": lambda case: vision(
        case,
        transformers.ViTForImageClassification(
            transformers.ViTConfig(**SMALL, intermediate_size=48, patch_size=4, image_size=16, num_labels=5)
        ),
        (2, 3, 16, 16),
        ["logits"],
    ),
    "vit.bare": lambda case: vision(
        case, vit(pooler=False, qkv_bias=False, hidden_act="relu"), (1, 3, 16, 16), [HIDDEN]
    ),
    "vit.larger": lambda case: vision(
        case,
        vit(hidden_act="gelu_pytorch_tanh", num_channels=1, layer_norm_eps=1e-5),
        (2, 1, 24, 20),
        [HIDDEN, POOLED],
        interpolate_pos_encoding=True,
    ),
    "clip_vision.bare": lambda case: vision(
        case, clip_vision(transformers.CLIPVisionModel, hidden_act="gelu"), (2, 3, 24, 24), [HIDDEN, POOLED]
    ),
    "clip_vision.larger": lambda case: vision(
        case,
        clip_vision(transformers.CLIPVisionModelWithProjection),
        (1, 3, 40, 32),
        [HIDDEN, "image_embeds"],
        interpolate_pos_encoding=True,
    ),
    # The first id that ends a text, among several; a short text; no such id.
    "clip_text.first_eos": lambda case: text(
        case,
        clip_text(transformers.CLIPTextModelWithProjection, eos_token_id=58, hidden_act="gelu"),
        [[57, 3, 58, 58, 59, 1, 2], [57, 4, 5, 6, 7, 8, 9], [57, 1, 2, 3, 4, 5, 58]],
        [HIDDEN, "text_embeds"],
    ),
    # As the first released models: 2 stands for the highest id.
    "clip_text.highest": lambda case: text(
        case,
        clip_text(transformers.CLIPTextModel, eos_token_id=2),
        [[57, 2, 9, 59, 1], [57, 59, 2, 59, 4]],
        [HIDDEN, POOLED],
    ),
    "clip_text.padded": padded_text,
    "clip.both": clip_both,
    # Biases, heads of a size of their own, another gate.
    "llama.options": lambda case: causal(
        case, llama(attention_bias=True, mlp_bias=True, head_dim=12, hidden_act="gelu", rms_norm_eps=1e-3)
    ),
    "llama.linear": lambda case: causal(case, llama(num_key_value_heads=1, **rope("linear", factor=4.0))),
    # Dynamic scaling has no effect within the positions of training.
    "llama.dynamic": lambda case: causal(case, llama(num_key_value_heads=None, **rope("dynamic", factor=2.0))),
    "llama.yarn": lambda case: causal(
        case,
        llama(
            head_dim=32,
            **rope(
                "yarn", factor=4.0, original_max_position_embeddings=16, truncate=False, beta_fast=4, beta_slow=0.25,
                mscale=1.0, mscale_all_dim=0.5,
            ),
        ),
    ),  # fmt: skip
    "llama.right_padded": lambda case: causal(case, llama(tie_word_embeddings=True), attention_mask=RIGHT),
    "llama.left_padded": lambda case: causal(case, llama(), attention_mask=LEFT, position_ids=COUNTED),
    "mistral.window": lambda case: causal(case, llama("Mistral", sliding_window=7)),
    # A window in the second layer alone.
    "qwen2.window": lambda case: causal(
        case, llama("Qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
    "gpt2.scaled": lambda case: causal(
        case,
        gpt2(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True, n_inner=40, activation_function="quick_gelu"),
    ),
    # Positions by column, as the reference library has them where it is given a mask alone.
    "gpt2.left_padded": lambda case: causal(case, gpt2(tie_word_embeddings=False), attention_mask=LEFT),
}

if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        CASES[case](case)
