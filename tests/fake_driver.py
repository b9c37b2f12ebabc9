"""A CUDA driver that is not there: Triton compiles for sm_90 and launches nothing. For a process of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import triton
from triton.backends.compiler import GPUTarget


class Utils:
    """Of which Triton asks how large a device is, and to load what it compiled."""

    def load_binary(self, *_: Any) -> tuple:
        return 1, 1, 32, 0, 1024

    def unload_module(self, *_: Any) -> None:
        pass

    def get_device_properties(self, _: int) -> dict:
        return {"max_shared_mem": 232448}


class Launcher:
    """What runs a compiled kernel: notes the grid, the stream and the arguments."""

    launches: ClassVar[list[tuple]] = []

    def __init__(self, *_: Any):
        pass

    def __call__(self, x: int, y: int, z: int, stream: int, function: int, *rest: Any) -> None:
        self.launches.append(((x, y, z), stream, rest[4:]))  # behind the metadata and the hooks


class Driver:
    """The driver's names that Triton 3.6 to 3.9 uses."""

    launcher_cls = Launcher
    utils = Utils()

    def __init__(self) -> None:
        self.device = self.stream = 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 100 * device + self.stream

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", self.device)


def installed() -> Driver:
    """The driver, once it is Triton's."""
    driver = Driver()
    triton.runtime.driver.set_active(driver)
    return driver
