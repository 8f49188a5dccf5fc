#!/usr/bin/env bash
# All that a GPU has to show, in one command of at most seven minutes and without a network:
#
#     bash benchmarks/gpu.sh               on a machine with PyTorch, Triton and a GPU
#     bash benchmarks/gpu.sh --rehearse    the same on a CPU, small; the kernels in Triton's interpreter
#
# It installs nothing but the wheels in WHEELS (default: .wheels), where there are any. On a machine that has
# PyTorch, Triton, NumPy, SciPy, Numba, pandas, matplotlib, pytest, jaxtyping, jinja2, lazy-loader and tqdm,
# these are missing (add --python-version 3.12 and --platform manylinux_2_28_x86_64 for another machine):
#
#     pip download --no-deps --only-binary=:all: -d .wheels gemmi mrcfile starfile beartype lightning-fabric \
#         lightning-utilities pydantic pydantic-core annotated-types typing-inspection tyro docstring-parser typeguard
#
# Writes benchmarks/results/gpu.md and gpu.json (gpu_rehearsal.* in a rehearsal).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
wheels=${WHEELS:-.wheels}
if compgen -G "$wheels/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" GOMP_SPINCOUNT=2000
timeout 420 "$python" benchmarks/gpu.py "$@"
