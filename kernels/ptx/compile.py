"""Compilers to PTX for sm_90: nvcc for .cu files, and a process of its own for Triton's kernels.

That process (``python -m fastscore.kernels.ptx.compile``) has the compiler that this one, in Triton's interpreter, lacks. It reads
requests as lines of JSON, ``{module, kernel, signature, constants, aligned, options}``, and answers each with
``{ptx, shared, warps}`` or ``{error}``. ptxas is not run: its output is not needed.
"""

import importlib
import json
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .parser import Module, parse

CSRC = Path(__file__).resolve().parents[2] / "csrc"
NVCC = ["nvcc", "-std=c++20", "-fmad=false"]


def cuda(source: Path, folder: Path, *, include: Sequence[Path] = (CSRC,), options: Sequence[str] = ()) -> Module:
    """The kernels of a .cu file of the repository, for ``launch(..., entry=named(module, "the_kernel"))``.

    Args:
        folder: where the PTX goes.
        include: folders of headers; csrc has those that the backends share.
        options: further ones of nvcc. Without contraction, as everything here is compiled, unless they say otherwise.

    Raises:
        FileNotFoundError: there is no nvcc.
        RuntimeError: it does not compile; the text is nvcc's.
    """
    if not shutil.which("nvcc"):
        raise FileNotFoundError("nvcc is not there: install the CUDA toolkit's compiler and put it on PATH")
    out = folder / f"{source.stem}.ptx"
    command = [*NVCC, "-ptx", "-arch=sm_90", *(f"-I{f}" for f in include), *options]
    result = subprocess.run([*command, str(source), "-o", str(out)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"nvcc does not compile {source}: {result.stderr}")
    return parse(out.read_text())


def named(module: Module, *parts: str) -> str:
    """The full (mangled) name of the one kernel that has every part in its name, or is called just that."""
    names = [name for name in module.entries if all(part in name for part in parts)]
    exact = [name for name in names if name in parts] or names
    if len(exact) == 1:
        return exact[0]
    raise KeyError(f"{parts} names {names or 'none'} of {list(module.entries)}")


def _triton(request: dict) -> dict:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(request["module"]), request["kernel"])
    attributes = {(i,): [["tt.divisibility", 16]] for i in request["aligned"]}
    source = ASTSource(kernel, request["signature"], request["constants"], attributes)
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=request["options"])
    return {"ptx": result.asm["ptx"], "shared": result.metadata.shared, "warps": result.metadata.num_warps}


def main() -> None:
    """Answer the requests on stdin, one per line, until it ends."""
    from triton.backends.nvidia.compiler import CUDABackend

    CUDABackend.make_cubin = lambda *_: b""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = _triton(json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
