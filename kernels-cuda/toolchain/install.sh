#!/bin/sh
# Installs the pinned CUDA compiler (libnvrtc, ptxas, headers) as wheels from PyPI into a folder that git ignores.
# Needs python3 with pip; needs no driver, no GPU, no CUDA toolkit. About 300 MB on disk, or 500 MB with --inspect.
#
#   kernels-cuda/toolchain/install.sh [--inspect] [FOLDER]
#
# FOLDER defaults to `wheels` beside this script, where the build tool looks first.
# For another one set SELFTOK_CUDA_TOOLCHAIN to it when you run the build tool.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target="$here/wheels"
inspect=
for argument in "$@"; do
    case "$argument" in
        --inspect) inspect="--requirement $here/requirements-inspect.txt" ;;
        -*) echo "install.sh: unknown option $argument (only --inspect is one)" >&2; exit 2 ;;
        *) target=$argument ;;
    esac
done

# One call for all wheels: they share the folder `nvidia`, and a second `pip --target --upgrade` would replace it whole.
# shellcheck disable=SC2086
python3 -m pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check --root-user-action ignore \
    --upgrade --target "$target" --requirement "$here/requirements.txt" $inspect

"$target/nvidia/cuda_nvcc/bin/ptxas" --version | tail -n 1
echo "CUDA toolchain in $target"
