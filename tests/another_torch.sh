#!/usr/bin/env bash
# The operators' tests beside another torch than the one of .venv, in an environment of their own.
# usage: tests/another_torch.sh TORCH WHEEL [options of pytest]
#                                                  the stable ABI's promise: the wheel's extension, built in .venv
#        tests/another_torch.sh TORCH --no-compiler  installed where nothing can be compiled: the reference alone
set -euo pipefail
cd "$(dirname "$0")/.."
torch=$1 wheel=$2
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${VENV:-.venv}/bin/python" -m venv "$work/venv"
python=$work/venv/bin/python
pip=("$python" -m pip --disable-pip-version-check install --quiet)
"${pip[@]}" "$torch" pytest scipy tqdm
cp -r tests pyproject.toml setup.py MANIFEST.in README.md LICENSE fastscore kernels csrc "$work"
cd "$work"
rm -rf fastscore/_C*.so
if [ "$wheel" = --no-compiler ]; then
  "${pip[@]}" 'setuptools>=77' wheel ninja
  CXX=/no/compiler CUDA_HOME=/no/cuda "${pip[@]}" --no-build-isolation .
  rm -r fastscore kernels
  "$python" -c 'from fastscore._core import backends; assert backends.problem("native"), "built after all"'
  "$python" -m pytest -q tests/ops tests/test_backends.py -k "reference or backend"
else
  rm -r fastscore kernels
  "${pip[@]}" "$OLDPWD/$wheel"
  "$python" -c 'from fastscore._core import backends; assert not backends.problem("native"), backends.problem("native")'
  "$python" -m pytest -q tests/ops tests/test_native.py tests/test_rng.py "${@:3}"
fi
