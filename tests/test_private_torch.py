"""torch's private parts are used in one file, where a new torch is looked at first."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

from fastscore._core.private_torch import apply, tracked

ROOT = Path(__file__).parents[1]
ALLOWED = ROOT / "fastscore" / "_core" / "private_torch.py"


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def uses(source: str) -> list[str]:
    """Where a source touches what is private in torch: by an import, as an attribute, or by a name in a text."""
    tree, of_torch, found = ast.parse(source), {"torch"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in ("torch", "functorch"):
            of_torch |= {alias.asname or alias.name for alias in node.names}
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found += [f"line {node.lineno}: import" for name in names if private(name) or name == "functorch"]
        elif isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            found += [f"line {node.lineno}: import" for path in paths if path[0] == "torch" and any(map(private, path))]
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings may speak of it
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if (isinstance(root, ast.Name) and root.id in of_torch) or node.attr.startswith("_dynamo"):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Constant) and id(node) not in texts and str(node.value).startswith("torch._"):
            found.append(f"line {node.lineno}: {node.value!r}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import torch._dynamo",
        "from torch._C import _functorch",
        "from torch import _ops",
        "import torch\ntorch._foreach_lerp_([], [], 0)",
        "from torch.autograd import forward_ad\nforward_ad._current_level",
        "f._dynamo_marked_constant = True",
        "import sys\nsys.modules['torch._dynamo']",
    ],
)
def test_a_use_is_seen(source):
    assert uses(source)
    assert not uses("from __future__ import annotations\nimport torch\ntorch.add(torch.__version__, self._x)")


def test_private_parts_of_torch_are_used_in_one_file():
    files = [*(ROOT / "fastscore").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    assert ALLOWED in files and len(files) > 80
    found = {str(path.relative_to(ROOT)): uses(path.read_text()) for path in files if path != ALLOWED}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert uses(ALLOWED.read_text())


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(x, power):
        return x**power

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.power = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.power * ctx.saved_tensors[0] ** (ctx.power - 1), None


def test_a_function_with_setup_context_is_applied_without_binding_its_arguments(monkeypatch):
    """The derivatives of ``Function.apply``, which serves torch.func alone: nobody asks ``inspect.signature``."""
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    asked, signature = [], inspect.signature
    monkeypatch.setattr(inspect, "signature", lambda f, **options: asked.append(f) or signature(f, **options))
    (first,) = torch.autograd.grad(apply(_Square, x, 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close((first, second), (3 * x**2, 6 * x.detach()))
    assert apply(_Square, x, 3).grad_fn.name() == "_SquareBackward" and _Square.forward not in asked


def test_what_a_transform_differentiates_in_is_known_at_every_level():
    """Not what vmap or jvp alone has, nor what is wrapped by autograd's own vmap, of which there are no levels."""
    seen = []

    def note(x):
        seen.append(tracked(x))
        return x.sum()

    x = torch.ones(2, 2)
    torch.func.grad(note)(x)
    torch.func.vmap(torch.func.grad(note))(x)
    torch.func.grad(lambda x: torch.func.vmap(note)(x).sum())(x)
    torch.func.vmap(note)(x)
    torch.func.jvp(note, (x,), (x,))
    y = x.clone().requires_grad_()
    twice = 2 * y
    twice.register_hook(lambda slope: note(slope) + 0 * slope)
    torch.autograd.grad(twice, y, torch.ones(3, 2, 2), is_grads_batched=True)
    assert seen == [True, True, True, False, False, False]
