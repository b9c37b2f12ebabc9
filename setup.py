"""The package layout, and the extensions. The rest is in pyproject.toml.

The top-level folder kernels/ installs as fastscore.kernels, and fastscore/experiment/launch/, the program, as fastscore_launch.
The extensions are built against libtorch's stable ABI, so that one build serves every torch from 2.11 on and every
Python from 3.10 on: fastscore/_C.abi3.so for the CPU, and fastscore/_C_cuda.abi3.so where nvcc and a CUDA build of
torch are there (TORCH_CUDA_ARCH_LIST says for which devices).
Both are optional: without torch or a compiler the package installs all the same and runs on its plain-torch reference.
Torch must be importable here, so: ``pip install torch ninja``, then ``pip install --no-build-isolation .``
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

STABLE_ABI_OF_TORCH_2_11 = "-DTORCH_TARGET_VERSION=0x020b000000000000"
CUDA_ARCHITECTURES = "8.0;9.0;10.0+PTX"


def files(folder: str, *endings: str) -> list[str]:
    """The sources under csrc/``folder`` with one of the endings."""
    return sorted(str(path) for ending in endings for path in Path("csrc", folder).rglob(f"*.{ending}"))


def say(text: str) -> None:
    """Tell whoever installs, on stderr: pip shows it under -v and where the build fails."""
    print(f"fastscore: {text}", file=sys.stderr, flush=True)


def cuda_home() -> str | None:
    """The CUDA toolkit's folder. Where the nvcc on PATH only starts another, that other's."""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        return None
    told = subprocess.run([nvcc, "--dryrun", "none.cu"], capture_output=True, text=True).stderr
    found = re.search(r"_HERE_=(.*)", told)
    return str(Path(found.group(1)).parent if found else Path(nvcc).resolve().parents[1])


def extensions_and_command() -> tuple[list, dict]:
    """What to build and the command that does, or nothing where torch is not there."""
    home = cuda_home()
    if home:
        os.environ["CUDA_HOME"] = home  # torch reads it when it is imported
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        say(
            f"the extensions are not built: torch cannot be imported here ({error}). "
            f"Install torch first, then fastscore with: pip install --no-build-isolation ."
        )
        return [], {}

    class BuildIfPossible(BuildExtension):
        """Torch's build, in which an extension that fails to build is reported and left out."""

        def build_extension(self, extension) -> None:
            try:
                super().build_extension(extension)
            except Exception as error:
                say(f"{extension.name} is not built: {error}")
                self.failed = [*getattr(self, "failed", []), extension]

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                say(f"the extensions are not built: {error}")
                self.extensions = []
            self.extensions = [e for e in self.extensions if e not in getattr(self, "failed", [])]

    cxx = [
        "-O3",
        "-g0",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fvisibility=hidden",
        "-Wno-maybe-uninitialized",
        STABLE_ABI_OF_TORCH_2_11,
    ]
    shared = {"py_limited_api": True, "depends": files("", "h", "inl", "cuh")}
    extensions = [CppExtension("fastscore._C", files("cpu", "cpp"), extra_compile_args={"cxx": cxx}, **shared)]
    if home and torch.version.cuda:
        nvcc = ["-O3", "--fmad=false", "--expt-relaxed-constexpr", "-DUSE_CUDA", STABLE_ABI_OF_TORCH_2_11]
        extensions.append(
            CUDAExtension(
                "fastscore._C_cuda", files("cuda", "cu", "cpp"), extra_compile_args={"cxx": cxx, "nvcc": nvcc}, **shared
            )
        )
    return extensions, {"build_ext": BuildIfPossible}


extensions, commands = extensions_and_command()
setup(
    packages=[
        *find_packages(include=["fastscore", "fastscore.*"], exclude=["fastscore.experiment.launch"]),
        "fastscore.kernels",
        "fastscore.kernels.ptx",
        "fastscore_launch",
    ],
    package_dir={
        "fastscore": "fastscore",
        "fastscore.kernels": "kernels",
        "fastscore_launch": "fastscore/experiment/launch",
    },
    package_data={"fastscore": ["py.typed"]},
    ext_modules=extensions,
    cmdclass=commands,
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
