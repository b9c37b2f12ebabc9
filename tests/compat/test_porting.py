"""docs/porting.md: its lines run, and every name in them is one of ours."""

import re
from pathlib import Path

import pytest

from fastscore.compat import ncsn, ncsnv2

TEXT = (Path(__file__).parents[2] / "docs" / "porting.md").read_text()
BLOCKS = re.findall(r"(?ms)^```python\n(from fastscore\.compat.*?)^```", TEXT)


@pytest.mark.parametrize("block", BLOCKS)
def test_methods_are_replaced(block):
    """Called on an instance, a method that was replaced gets no self."""
    (runner,) = set(re.findall(r"(?m)^(\w+)\.", block))
    names = {runner: type(runner, (), {})}
    exec(block, names)
    methods = re.findall(rf"{runner}\.(\w+) = staticmethod\(_fastscore\.(\w+)\)", block)
    assert len(methods) == sum(map(bool, block.splitlines())) - 1
    for method, function in methods:
        assert getattr(names[runner](), method) is getattr(ncsn, function) and function in ncsn.__all__


def test_all_samplers_of_the_runners_are_there():
    replaced = set(re.findall(r"_fastscore\.(\w+)\)", TEXT))
    assert len(BLOCKS) == 3 and replaced == {
        name for name in ncsn.__all__ if name.lower().endswith(("langevin_dynamics", "langevin_dynamics_inpainting"))
    }


def test_new_import_lines_name_what_there_is():
    named = re.findall(r"`from fastscore\.compat\.ncsnv2 import \(?(\w+)", TEXT)
    assert named and set(named) <= set(ncsnv2.__all__)
