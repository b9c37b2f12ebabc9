"""The other process: Triton kernels to PTX for sm_90, with a compiler that this one (in Triton's interpreter) lacks.

Reads requests as lines of JSON, ``{module, kernel, signature, constants, aligned, options}``, and answers each with
``{ptx, shared, warps}`` or ``{error}``. ptxas is not run: its output is not needed.
"""

import importlib
import json
import sys
import traceback

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource


def compiled(request: dict) -> dict:
    kernel = getattr(importlib.import_module(request["module"]), request["kernel"])
    attributes = {(i,): [["tt.divisibility", 16]] for i in request["aligned"]}
    source = ASTSource(kernel, request["signature"], request["constants"], attributes)
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=request["options"])
    return {"ptx": result.asm["ptx"], "shared": result.metadata.shared, "warps": result.metadata.num_warps}


def main() -> None:
    CUDABackend.make_cubin = lambda *_: b""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = compiled(json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
