"""The package layout, and the C++ extension. The rest is in pyproject.toml.

The top-level folder kernels/ installs as fastscore.kernels. The extension, fastscore/_C.abi3.so, is built against
libtorch's stable ABI: one build serves every torch from 2.11 on and every Python from 3.10 on. It is optional: without
torch or a C++ compiler the package installs all the same and runs on its plain-torch reference.
Torch must be importable here, so: ``pip install torch ninja``, then ``pip install --no-build-isolation .``
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

STABLE_ABI_OF_TORCH_2_11 = "-DTORCH_TARGET_VERSION=0x020b000000000000"


def say(text: str) -> None:
    print(f"fastscore: {text}", file=sys.stderr, flush=True)


def extension_and_command() -> tuple[list, dict]:
    """What to build and the command that does, or nothing where torch is not there."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        say(f"the C++ extension is not built: torch cannot be imported here ({error}). "
            f"Install torch first, then fastscore with: pip install --no-build-isolation .")
        return [], {}

    class BuildIfPossible(BuildExtension):
        """Torch's build, whose failure is told and not fatal."""

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                say(f"the C++ extension is not built: {error}")
                self.extensions = []

    flags = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-maybe-uninitialized",
             STABLE_ABI_OF_TORCH_2_11]
    extension = CppExtension(
        "fastscore._C", sorted(map(str, Path("csrc/cpu").glob("*.cpp"))),
        depends=sorted(map(str, [*Path("csrc").rglob("*.h"), *Path("csrc").rglob("*.inl")])),
        extra_compile_args={"cxx": flags}, py_limited_api=True)
    return [extension], {"build_ext": BuildIfPossible}


extensions, commands = extension_and_command()
setup(
    packages=[*find_packages(include=["fastscore", "fastscore.*"]), "fastscore.kernels"],
    package_dir={"fastscore": "fastscore", "fastscore.kernels": "kernels"},
    package_data={"fastscore": ["py.typed"]},
    ext_modules=extensions,
    cmdclass=commands,
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
