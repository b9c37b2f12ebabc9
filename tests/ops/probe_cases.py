"""The table of cases of the trace operators, which have no Triton version but a CUDA one."""

import pytest

import fastscore as fs

from .cases import DTYPES, LAYOUTS, SHAPES, tensor

FORMS = {  # name: distribution, and colours (None: no colouring)
    "rademacher": ("rademacher", None),
    "gaussian": ("gaussian", None),
    "sphere": ("sphere", None),
    "rademacher in 3 colors": ("rademacher", 3),
    "gaussian in 2 colors": ("gaussian", 2),
}
PROBES = 6


def probes(x, form: str, seed: int = 5, **changes) -> fs.Probes:
    """Six probes of x in one of the forms."""
    distribution, colors = FORMS[form]
    coloring = None
    if colors:
        height = x.shape[-2] if x.dim() > 2 else 1
        coloring = fs.Coloring(colors, max(x.shape[-1], 1), max(height, 1), 1, 2, 1)
    return fs.Probes(x, PROBES, fs.Philox(seed, step=2, **changes), distribution=distribution, coloring=coloring)


def table() -> list:
    rows = []
    for backend, device in (("reference", "cpu"), ("native", "cpu"), ("reference", "cuda"), ("native", "cuda")):
        for shape in SHAPES:
            for dtype in DTYPES:
                name = f"{backend}-{device}-{'x'.join(map(str, shape))}-{str(dtype)[6:]}"
                rows.append(
                    pytest.param(
                        backend, device, shape, dtype, id=name, marks=pytest.mark.gpu if device == "cuda" else ()
                    )
                )
    return rows


every_probe_case = pytest.mark.parametrize("backend, device, shape, dtype", table())
every_form = pytest.mark.parametrize("form", FORMS)
__all__ = ["DTYPES", "FORMS", "LAYOUTS", "PROBES", "every_form", "every_probe_case", "probes", "tensor"]
