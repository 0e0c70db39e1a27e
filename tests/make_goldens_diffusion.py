"""Golden values of small, randomly weighted diffusion networks, made by diffusers: options that the checked-in cases do
not have. Needs `pip install torch diffusers safetensors`.

    python tests/make_goldens_diffusion.py OUT     # writes OUT/<case>/{config.json,model.safetensors,io.safetensors}
    python tests/make_goldens_diffusion.py OUT --small   # those that are checked in
    python tests/make_goldens_diffusion.py OUT --check target/release/selftok   # and runs and compares them
"""

import json
import pathlib
import subprocess
import sys

import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, DPMSolverMultistepScheduler,
                       EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler,
                       SD3Transformer2DModel, UNet2DConditionModel)
from safetensors.torch import load_file, save_file

UNET = dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
SD3 = dict(sample_size=8, patch_size=2, in_channels=16, num_layers=3, attention_head_dim=16, num_attention_heads=2,
           joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=12)
DIT = dict(sample_size=8, patch_size=2, num_layers=2, attention_head_dim=16, num_attention_heads=2,
           num_embeds_ada_norm=10, in_channels=4, out_channels=8)
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

# Small enough to be checked in, below tests/golden/models: `python tests/make_goldens_diffusion.py tests/golden/models --small`.
SMALL = ("sd3.dual", "dit.affine", "unet_sd15.orders", "autoencoder.quant")

# name: (class, options, [h, w], solvers with the scheduler that each is judged by)
CASES = {
    "unet_plain": (UNet2DConditionModel, UNET, [16, 16], {
        "ddim": DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        "euler": EulerDiscreteScheduler(**BETAS), "heun": HeunDiscreteScheduler(**BETAS),
        "dpmpp2m": DPMSolverMultistepScheduler(**BETAS)}),
    "unet_v": (UNet2DConditionModel, UNET, [8, 24], {
        name: kind(**BETAS, prediction_type="v_prediction", timestep_spacing="trailing", **more)
        for name, kind, more in [("ddim", DDIMScheduler, dict(clip_sample=False)), ("euler", EulerDiscreteScheduler, {}),
                                 ("heun", HeunDiscreteScheduler, {}), ("dpmpp2m", DPMSolverMultistepScheduler, {})]}),
    "unet_levels": (UNet2DConditionModel, dict(
        sample_size=16, block_out_channels=(32, 48, 64), layers_per_block=(1, 2, 1), norm_num_groups=4,
        attention_head_dim=(2, 4, 8), cross_attention_dim=20, use_linear_projection=True, transformer_layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), flip_sin_to_cos=False, freq_shift=1,
        downsample_padding=0), [16, 8], {}),
    "sd3_rms": (SD3Transformer2DModel, dict(SD3, qk_norm="rms_norm"), [12, 8], {
        "euler": FlowMatchEulerDiscreteScheduler(shift=3.0)}),
    "sd35_dual": (SD3Transformer2DModel, dict(SD3, qk_norm="rms_norm", dual_attention_layers=(0, 1)), [8, 8], {}),
    "sd3_layer": (SD3Transformer2DModel, dict(SD3, qk_norm="layer_norm", out_channels=8), [8, 16], {}),
    "dit_gelu": (DiTTransformer2DModel, dict(DIT, activation_fn="gelu", attention_bias=False), [8, 8], {
        "ddim": DDIMScheduler(clip_sample=False)}),
    "dit_large": (DiTTransformer2DModel, dict(DIT, out_channels=4), [12, 12], {}),
    "dit_patch": (DiTTransformer2DModel, dict(DIT, patch_size=4, num_embeds_ada_norm=3000, sample_size=16), [16, 16], {}),
    "dit.affine": (DiTTransformer2DModel, dict(DIT, patch_size=1, norm_elementwise_affine=True, norm_eps=1e-3), [4, 4], {}),
    "sd3_patch": (SD3Transformer2DModel, dict(SD3, patch_size=1, in_channels=5, out_channels=3, num_layers=1), [5, 11], {}),
    "sd35_last": (SD3Transformer2DModel, dict(SD3, qk_norm="rms_norm", dual_attention_layers=(2,)), [24, 2], {}),
    "sd3.dual": (SD3Transformer2DModel, dict(
        SD3, qk_norm="rms_norm", dual_attention_layers=(0, 1), num_layers=2, attention_head_dim=8, caption_projection_dim=16),
                 [8, 12], {"euler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.05)}),
    "unet_sd15.orders": (UNet2DConditionModel, dict(
        UNET, block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=12, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, mid_block_type=None), [6, 10], {
        "euler": EulerDiscreteScheduler(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True, final_sigmas_type="sigma_min")}),
    "unet_one": (UNet2DConditionModel, dict(UNET, block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",),
                 up_block_types=("CrossAttnUpBlock2D",), layers_per_block=3, in_channels=9, out_channels=5), [7, 5], {}),
    "unet_middle": (UNet2DConditionModel, dict(UNET, mid_block_type=None, norm_eps=1e-4, conv_in_kernel=5,
                    conv_out_kernel=1, time_embedding_dim=48, upcast_attention=True, center_input_sample=True), [8, 8], {}),
    "unet_orders": (UNet2DConditionModel, dict(
        UNET, block_out_channels=(32, 32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=(2, 1, 1),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(2, 4, 8), cross_attention_dim=32), [4, 12], {}),
}

VAE = dict(block_out_channels=(8, 16, 24), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
           up_block_types=("UpDecoderBlock2D",) * 3)

# name: (options, [H, W])
AUTOENCODERS = {
    "autoencoder.quant": (dict(VAE, scaling_factor=0.7, shift_factor=0.2), [20, 12]),
    "autoencoder_one": (dict(VAE, use_quant_conv=False, mid_block_add_attention=False, latent_channels=7, layers_per_block=2),
                        [8, 32]),
    "autoencoder_post": (dict(VAE, use_post_quant_conv=False, in_channels=1, out_channels=1), [24, 24]),
}

# What the engine does not do: options of the case of that name that must be refused by the field that they change.
REFUSED = [
    ("unet_plain", field, value) for field, value in [
        ("class_embed_type", "timestep"), ("addition_embed_type", "text_time"), ("num_class_embeds", 4),
        ("time_cond_proj_dim", 16), ("only_cross_attention", True), ("resnet_time_scale_shift", "scale_shift"),
        ("dual_cross_attention", True), ("encoder_hid_dim", 8), ("act_fn", "gelu"), ("time_embedding_type", "fourier"),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"), ("cross_attention_dim", [32, 16]),
        ("resnet_skip_time_act", True), ("attention_type", "gated"), ("mid_block_scale_factor", 2),
        ("down_block_types", ["AttnDownBlock2D", "DownBlock2D"]), ("only_cross_attention", [True, False]),
        ("class_embeddings_concat", True), ("num_attention_heads", 2), ("cross_attention_norm", "group_norm")]
] + [("dit_gelu", "norm_type", "ada_norm"), ("dit_gelu", "activation_fn", "geglu"), ("sd3_rms", "qk_norm", "l2"),
     ("sd3_rms", "caption_projection_dim", 16)]


@torch.no_grad()
def make(name, folder):
    kind, options, latent, solvers = CASES[name]
    torch.manual_seed(sum(map(ord, name)))
    model = kind(**options).eval()
    for p in model.parameters():  # Zero weights would hide a fault.
        p.copy_(p + 0.05 * torch.randn_like(p))
    io = {"sample": torch.randn(2, model.config.in_channels, *latent), "timestep": torch.tensor([981, 301])}
    if kind is DiTTransformer2DModel:
        io["class_labels"] = torch.tensor([3, 7])
        free = {"class_labels": torch.tensor([10, 10])}
    else:
        width = options.get("cross_attention_dim") or options["joint_attention_dim"]
        io["encoder_hidden_states"] = torch.randn(2, 7, width)
        if kind is SD3Transformer2DModel:
            io["pooled_projections"] = torch.randn(2, options["pooled_projection_dim"])
        free = {k: torch.zeros_like(v) for k, v in io.items() if k not in ("sample", "timestep")}
    given = {k: v for k, v in io.items() if k not in ("sample", "timestep")}
    ask = lambda x, t, c: model(x, timestep=t, **c).sample
    io["out"] = ask(io["sample"], io["timestep"], given)
    for solver, scheduler in solvers.items():
        patches = latent[0] * latent[1] // options.get("patch_size", 1) ** 2
        # As StableDiffusion3Pipeline's calculate_shift with the scheduler's defaults.
        shift = dict(mu=0.5 + (1.15 - 0.5) / (4096 - 256) * (patches - 256)) if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(6, **shift)
        x = io["sample"] * getattr(scheduler, "init_noise_sigma", 1.0)
        for t in scheduler.timesteps:
            asked = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            u, c = (ask(asked, t.expand(2), which)[:, : x.shape[1]] for which in (free, given))
            x = scheduler.step(u + 2.0 * (c - u), t, x, return_dict=False)[0]
        io[f"{solver}.final_cfg2_6steps"] = x
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}
    (folder / "config.json").write_text(json.dumps({"_class_name": kind.__name__, **config}, indent=1, default=list))
    if solvers:
        scheduler = next(iter(solvers.values()))
        fields = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        # Each solver's own default of the spacing is what a configuration without one means.
        if fields.get("timestep_spacing") != "trailing":
            fields.pop("timestep_spacing", None)
        (folder / "scheduler_config.json").write_text(json.dumps(fields, indent=1, default=str))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    save_file({k: v.contiguous() for k, v in io.items()}, folder / "io.safetensors")


@torch.no_grad()
def make_autoencoder(name, folder):
    options, size = AUTOENCODERS[name]
    torch.manual_seed(sum(map(ord, name)))
    model = AutoencoderKL(**options).eval()
    for p in model.parameters():
        p.copy_(p + 0.05 * torch.randn_like(p))
    sample = torch.randn(2, model.config.in_channels, *size)
    mean = model.encode(sample).latent_dist.mode()
    z = torch.randn_like(mean)
    # Names with a dot are notes to whoever runs the recording whole.
    io = {"sample": sample, "out": model(sample).sample, "encode.mean": mean, "decode.z": z, "decode.out": model.decode(z).sample}
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **config}, indent=1, default=list))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    save_file({k: v.contiguous() for k, v in io.items()}, folder / "io.safetensors")


def check(name, folder, program):
    io, worst = load_file(folder / "io.safetensors"), 0.0
    runs = {"out": ["run"]}
    for key in io:
        if key.endswith(".final_cfg2_6steps"):
            runs[key] = ["sample", "--solver", key.split(".")[0], "--steps", "6", "--cfg", "2"]
    for key, (command, *options) in runs.items():
        out = folder / "found.safetensors"
        subprocess.run([program, command, folder, *options, "--inputs", folder / "io.safetensors", "-o", out, "--quiet"],
                       check=True)
        error, size = (load_file(out)["out"] - io[key]).abs().max().item(), io[key].abs().max().item()
        good = error <= max(1e-4, 1e-5 * size)
        print(f"{name:12} {key:28} differs by {error:.1e}, the largest is {size:.1f}{'' if good else '  WRONG'}")
        worst = max(worst, 0.0 if good else 1.0)
    return worst == 0.0


def refuse(case, field, value, root, program):
    folder = root / "refused"
    folder.mkdir(exist_ok=True)
    config = json.loads((root / case / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    (folder / "model.safetensors").write_bytes((root / case / "model.safetensors").read_bytes())
    run = subprocess.run([program, "run", folder, "--inputs", root / case / "io.safetensors", "-o", folder / "found.safetensors"],
                         capture_output=True, text=True)
    good = run.returncode == 1 and field in run.stderr and "panicked" not in run.stderr
    print(f"{case:12} {field} = {json.dumps(value):32} {'is refused' if good else 'WRONG: ' + run.stderr.strip()[:200]}")
    return good


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1])
    cases = [*CASES, *AUTOENCODERS]
    for name in SMALL if "--small" in sys.argv else cases:
        (make_autoencoder if name in AUTOENCODERS else make)(name, root / name)
    if "--check" in sys.argv:
        program = sys.argv[sys.argv.index("--check") + 1]
        good = [check(name, root / name, program) for name in cases]
        good += [refuse(*what, root, program) for what in REFUSED]
        sys.exit(0 if all(good) else 1)
