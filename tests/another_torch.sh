#!/usr/bin/env bash
# The stable ABI's promise: the extension built against the torch of .venv, tested beside another torch.
# usage: tests/another_torch.sh ['torch==2.13.0']
set -euo pipefail
cd "$(dirname "$0")/.."
torch=${1:-torch==2.13.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$work" .
.venv/bin/python -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet "$torch" "$work"/*.whl pytest scipy tqdm
cp -r tests pyproject.toml csrc "$work"
cd "$work"
venv/bin/python -m pytest tests/ops tests/test_native.py tests/test_rng.py tests/losses tests/trace tests/samplers
