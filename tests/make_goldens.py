#!/usr/bin/env python3
"""Makes golden cases of ViT, DINOv2 and CLIP from the reference library, for options that the first ones do not cover.

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
        if "norm" in name or "lambda" in name:
            weight.data = (1 if name.endswith(("weight", "lambda1")) else 0) + 0.2 * noise
        elif weight.ndim >= 2 and "position" not in name and "token" not in name:
            weight.data = noise * (weight.shape[0] / weight.numel()) ** 0.5
        else:
            weight.data = 0.5 * noise
    return model.eval()


def published_names(model, state):
    """Newer versions of the library rename modules when a file is read; the published files keep the first names."""
    renamed, gates = {}, {}
    for name, tensor in state.items():
        if isinstance(model, (transformers.ViTModel, transformers.Dinov2Model)):
            name = name.replace(".attention.q_proj", ".attention.attention.query")
            name = name.replace(".attention.k_proj", ".attention.attention.key")
            name = name.replace(".attention.v_proj", ".attention.attention.value")
            name = name.replace(".attention.o_proj", ".attention.output.dense")
        if isinstance(model, transformers.ViTModel):
            name = name.replace(".mlp.fc1", ".intermediate.dense").replace(".mlp.fc2", ".output.dense")
            if "encoder." not in name:
                name = name.replace("layers.", "encoder.layer.")
        if ".mlp.gate_proj" in name or ".mlp.up_proj" in name:
            joint = name.replace("gate_proj", "weights_in").replace("up_proj", "weights_in")
            gates.setdefault(joint, {})["gate" if "gate_proj" in name else "up"] = tensor
            continue
        name = name.replace(".mlp.down_proj", ".mlp.weights_out")
        renamed[name] = tensor
    for name, parts in gates.items():
        renamed[name] = torch.cat([parts["gate"], parts["up"]])
    return renamed


def save(case, model, inputs, results):
    folder = ROOT / case
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str))
    (folder / "case.json").write_text("{}")
    state = published_names(model, model.state_dict())
    state = {k: v.contiguous().clone() for k, v in state.items() if "position_ids" not in k}
    if isinstance(model, (transformers.CLIPVisionModel, transformers.CLIPTextModel)):
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
}

if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        CASES[case](case)
