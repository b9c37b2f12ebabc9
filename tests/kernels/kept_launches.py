"""Run by test_kept.py in a process of its own, without the interpreter, on a CUDA driver that launches nothing."""

import importlib
import itertools

import pytest
import torch

from ..fake_driver import Launcher, installed

DRIVER = installed()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton import knobs  # noqa: E402

from fastscore.kernels import _kept, _launch, elu, langevin_step  # noqa: E402
from fastscore.kernels.ptx.on_ptx import all_kernels  # noqa: E402

KERNELS = {name: getattr(importlib.import_module(file), function) for name, (file, function) in all_kernels().items()}
MEMORY = torch.zeros(256)


@pytest.fixture(autouse=True)
def as_it_was():
    _kept._known.clear()
    yield
    DRIVER.device = DRIVER.stream = 0
    knobs.runtime.debug, knobs.runtime.add_stages_inspection_hook = False, None


@pytest.fixture
def entered(monkeypatch) -> list:
    """The launches that Triton itself specialised."""
    found, run = [], triton.JITFunction.run

    def noted(kernel, *arguments, **named):
        found.append(kernel.__name__)
        return run(kernel, *arguments, **named)

    monkeypatch.setattr(triton.JITFunction, "run", noted)
    return found


def given(kernel) -> tuple[list, list]:
    """Arguments and constants of a launch: pointers that 16 divides, numbers, and constants of whatever value."""
    arguments, constants = [], []
    for parameter in kernel.params:
        if parameter.is_constexpr:
            constants.append(8)
        else:
            arguments.append(3 if parameter.annotation_type else MEMORY)
    return arguments, constants


def variants(kernel):
    """Launches that differ in one argument, constant or option, or in two pointers."""
    arguments, constants = given(kernel)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    yield arguments, constants, options
    for i, argument in enumerate(arguments):
        others = (0, 1, 16, 1 << 31, -1) if isinstance(argument, int) else (None, MEMORY[1:], MEMORY[4:], MEMORY.half())
        for other in (*others, *(() if isinstance(argument, int) else (MEMORY.half()[1:], MEMORY.double()))):
            yield [*arguments[:i], other, *arguments[i + 1 :]], constants, options
    pointers = [i for i, argument in enumerate(arguments) if not isinstance(argument, int)]
    for i, j in itertools.combinations(pointers, 2):
        for one, two in itertools.permutations((None, MEMORY[1:], MEMORY.half()), 2):
            changed = list(arguments)
            changed[i], changed[j] = one, two
            yield changed, constants, options
    for i in range(len(constants)):
        for other in (16, 0.5, "normal", False):
            yield arguments, [*constants[:i], other, *constants[i + 1 :]], options
    yield arguments, constants, options | {"num_warps": 8}
    yield arguments, constants, options | {"num_stages": 1}


def of(kernel, device, arguments, constants, options) -> tuple:
    """The key."""
    found = _kept.specialised(kernel, device, MEMORY, tuple(arguments), tuple(constants), options)
    assert found is not None and found[1] == [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    return found[0]


@pytest.mark.parametrize("name", KERNELS)
def test_the_key_is_complete(name):
    """Launches of one key are one kernel to Triton, of every kernel and for whatever changes."""
    kernel = KERNELS[name]
    *_, binder = kernel.device_caches[0]
    of_key, of_triton = {}, set()
    for arguments, constants, options in variants(kernel):
        key = of(kernel, 0, arguments, constants, options)
        _, specialization, named = binder(*arguments, *constants, **options)
        triton_key = (tuple(map(tuple, specialization)), str(named))
        assert of_key.setdefault(key, triton_key) == triton_key, (arguments, constants, options)
        of_triton.add(triton_key)
    assert len(of_key) == len(of_triton) > 10  # and of one kernel there is one key
    assert of(kernel, 1, arguments, constants, options) not in of_key and key in of_key


def test_every_kernel_is_of_another_key():
    keys = [of(kernel, 0, *given(kernel), {}) for kernel in KERNELS.values()]
    assert len(set(keys)) == len(KERNELS) > 12


@triton.jit(do_not_specialize=["m"])
def specialising_kernel(out, n, m: tl.int32, ONE: tl.constexpr):
    tl.store(out, n + m)


@triton.jit
def annotated_kernel(out, n: tl.int32, ONE: tl.constexpr):
    tl.store(out, n)


def test_a_kernel_that_looks_at_a_number_is_found_by_triton(entered):
    assert _kept.layout(annotated_kernel) is None
    for n in (1, 16, 3, 3):
        _kept.launch(annotated_kernel, (1, 1, 1), MEMORY, (MEMORY, n), (True,), {})
    assert len(entered) == 4
    with pytest.raises(AttributeError):  # a number where a pointer belongs, or a type is missing
        _kept.launch(specialising_kernel, (1, 1, 1), MEMORY, (MEMORY, 1, 2), (True,), {})


def test_the_second_launch_is_kept(entered):
    x, noise = torch.zeros(3, 8), (1, 2, 3, 0, None, None)
    for step in (5, 6, 7):
        langevin_step.launch(x, x, torch.ones(()), 1, step, *noise[2:])
    assert entered == ["langevin_step_kernel"]
    (grid, _, first), *others = Launcher.launches[-3:]
    for step, (again, _, arguments) in zip((6, 7), others):
        assert again == grid == (1, 1, 1) and len(arguments) == len(first) == 21
        assert first[1] is x and arguments[1] == x.data_ptr() and arguments[5] == step
        assert arguments[6:] == first[6:] and arguments[4] == first[4] == 1
    langevin_step.launch(x[:2], x[:2], torch.ones(2), *noise)  # a number for every row: another constant
    assert len(entered) == 2
    langevin_step.launch(torch.zeros(2, 2000), torch.zeros(2, 2000), torch.ones(2), *noise)
    assert len(entered) == 3 and Launcher.launches[-1][0] == (4, 1, 1)
    langevin_step.launch(torch.zeros(9, 2000), torch.zeros(9, 2000), torch.ones(9), *noise)
    assert len(entered) == 3 and Launcher.launches[-1][0] == (18, 1, 1)


def test_what_compiles_anew(entered, monkeypatch):
    x = MEMORY[:64]

    def enters(*arguments, launch=elu.launch) -> bool:
        before = len(entered)
        launch(*arguments)
        return len(entered) > before

    enters(x)
    assert not enters(x) and not enters(MEMORY[4:68])
    assert enters(MEMORY[1:65]) and not enters(MEMORY[1:65]) and not enters(x)  # 16 does not divide its address
    assert enters(x.double()) and not enters(x.double()) and not enters(x)
    assert enters(x, x, launch=elu.launch_gradient) and not enters(x, x, launch=elu.launch_gradient)
    assert enters(x[:63]) and not enters(x[:63]) and not enters(x)  # a mask
    DRIVER.device = 1
    assert enters(x) and not enters(x)
    DRIVER.device = 0
    assert not enters(x)
    monkeypatch.setattr(_launch, "OPTIONS", {"num_warps": 8, "enable_fp_fusion": False})
    assert enters(x) and not enters(x)


def test_the_stream_is_the_current_one():
    for DRIVER.device, DRIVER.stream in ((0, 0), (0, 3), (1, 4), (1, 0)):
        elu.launch(MEMORY)
        assert Launcher.launches[-1][1] == 100 * DRIVER.device + DRIVER.stream


@pytest.mark.parametrize("where", ["runtime.debug", "runtime.add_stages_inspection_hook", "pre_run_hooks"])
def test_a_launch_that_is_watched_is_tritons(where, entered, monkeypatch):
    elu.launch(MEMORY)
    entered.clear()
    if where == "runtime.debug":
        knobs.runtime.debug = True
    elif where == "pre_run_hooks":
        monkeypatch.setattr(elu.elu_kernel, "pre_run_hooks", [lambda *_, **__: None])
    else:
        knobs.runtime.add_stages_inspection_hook = lambda *_: ("", "")
    for _ in range(2):
        elu.launch(MEMORY)
    assert entered == ["elu_kernel"] * 2


def test_hooks_of_launches_are_called(monkeypatch):
    seen, called = [], Launcher.__call__

    def hooked(self, x, y, z, stream, function, packed, metadata, enter, leave, *arguments):
        if enter is not None:
            enter(metadata)
        called(self, x, y, z, stream, function, packed, metadata, enter, leave, *arguments)

    def note(metadata):
        seen.append(metadata.get()["name"])

    monkeypatch.setattr(Launcher, "__call__", hooked)
    knobs.runtime.launch_enter_hook.add(note)
    for _ in range(3):
        elu.launch(MEMORY)
    knobs.runtime.launch_enter_hook.remove(note)
    assert seen == ["elu_kernel"] * 3


def test_another_current_device(entered, monkeypatch):
    """A tensor of another device than the current one: that device is current while its kernel is launched."""
    seen = []

    class Elsewhere:
        dtype = torch.float32

        def get_device(self):
            return 1

        def data_ptr(self):
            return 32

    class Current:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            DRIVER.device = self.index

        def __exit__(self, *_):
            DRIVER.device = 0

    monkeypatch.setattr(torch.cuda, "device", Current)
    x, shares = Elsewhere(), _launch.shares(1, MEMORY.numel())
    for arguments in [(x, x, None)] * 3 + [(x, MEMORY, None)] * 2:
        _launch.launch(elu.elu_kernel, x, arguments, (), shares)
        seen.append(Launcher.launches[-1][1])
    assert seen == [100] * 5 and DRIVER.device == 0
    assert entered == ["elu_kernel"] * 3  # the first, and the two that mix devices: a real driver refuses these
