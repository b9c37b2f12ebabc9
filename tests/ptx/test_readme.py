"""The README's example runs, and prints what it says."""

import re
from pathlib import Path

import fastscore.kernels.ptx
from tests.conftest import optional


def test_the_example_prints_what_the_text_says(capsys):
    optional("triton")
    text = (Path(fastscore.kernels.ptx.__file__).parent / "README.md").read_text()
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    assert f"It prints `{capsys.readouterr().out.strip()}`" in text
