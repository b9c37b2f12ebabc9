"""What holds for every sampler, from one table; and what the registry says of each is what it does."""

import ast
import contextlib
import dataclasses
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import fastscore as fs
from fastscore._core.options import Option
from fastscore.samplers import (
    DEFAULT,
    SAMPLERS,
    Trajectory,
    annealed_langevin,
    consistent_annealed,
    registry,
)
from fastscore.samplers._levels import some

from .cases import CASES, SIGMAS

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

# options to try each entry of the registry with: the row that a new sampler needs
ROWS = {
    "annealed": {"step_size": 1e-3, "steps_per_level": 2},
    "consistent": {"step_size": 1e-3},
    "dpm_sde": {},
    "dpm": {"eta": 0.5},
    "ddim": {"eta": 0.5},
    "ancestral": {},
    "reverse_sde": {},
    "heun": {"churn": 1.0},
    "pc": {},
    "ode": {},
    "adaptive_ode": {},
    "gotta_go_fast": {},
}
PERMITS = ("interpolate", "max_steps")  # options that allow what is an error else: test_grids.py, test_adaptive.py
each_entry = pytest.mark.parametrize("entry", SAMPLERS.values(), ids=SAMPLERS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:samples of . elements, fewer than 64"),
    pytest.mark.usefixtures("torchode"),  # of adaptive_ode
]


def pull(x, i):
    return -x


def another(option, value):
    """A value of the option that is not ``value``, and far from it where the option's check lets it be."""
    if option.kind is bool:
        return not value
    others = [word for word in option.choices if word != value]
    for other in others or ((1 + value, value - 1) if option.kind is int else (600 * value, value / 2)):
        with contextlib.suppress(ValueError):
            return option.check(option.name, other)
    raise AssertionError(f"{option.name} takes nothing but {value!r}")


def draw(entry, options, shape=(5, 3), *, seed=1, offset=0, score=pull, sigmas=SIGMAS, callback=None, trajectory=None):
    return entry.run(
        score,
        shape,
        sigmas,
        entry.complete(ROWS[entry.name] | options),
        rng=fs.Philox(seed, sample_offset=offset),
        device=torch.device("cpu"),
        callback=callback,
        trajectory=trajectory,
    )


@each_case
def test_callbacks_and_evaluations_are_as_many_as_declared(case):
    steps, scores = [], []
    case(lambda x, i: scores.append(1) or -x, callback=lambda step, x: steps.append(step))
    assert steps == [*range(1, case.updates + 1)] and len(scores) == case.evaluations


@each_case
def test_the_same_seed_is_the_same_chain_and_another_is_not(case):
    a, b, c = (case(pull, rng=fs.Philox(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@each_case
def test_sample_k_is_the_same_in_any_batch(case):
    x = fs.Philox(8).rand(6, 4)
    whole, alone = case(pull, x, rng=fs.Philox(1)), case(pull, x[4:], rng=fs.Philox(1, sample_offset=4))
    assert torch.equal(alone, whole[4:])


def test_every_entry_has_a_row_and_every_name_is_its_own():
    assert set(ROWS) == set(SAMPLERS) and DEFAULT in SAMPLERS
    assert all(name == entry.name for name, entry in SAMPLERS.items())


@each_entry
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_an_entry_does_as_often_as_it_says(entry, turned, levels):
    """Also where each yes or no, such as denoise, is turned about."""
    if levels == 1 and not entry.recordable(ROWS[entry.name] | {"interpolate": False}):
        pytest.skip("it has no step to choose")
    options = entry.complete(ROWS[entry.name])
    options |= {o.name: turned != options[o.name] for o in entry.options if o.kind is bool and o.name not in PERMITS}
    steps, scores, sigmas = [], [], torch.logspace(0, -1, levels)
    draw(
        entry, options, sigmas=sigmas, score=lambda x, i: scores.append(1) or -x, callback=lambda k, x: steps.append(k)
    )
    assert len(steps) == (entry.updates(levels, options) or len(steps))
    assert len(scores) == (entry.evaluations(levels, options) or len(scores))
    noise = [entry.sigma_after(sigmas.tolist(), options, step) for step in steps]
    assert all(a >= b for a, b in pairwise(noise)) and set(noise) <= set(sigmas.tolist())
    assert not noise or noise[-1] == float(sigmas[-1])


@each_entry
@pytest.mark.parametrize("beyond", [False, True])
def test_grids_spend_a_budget(entry, beyond):
    """No more than it, nearly all of it where the sampler can, and only what a draw takes."""
    options = entry.complete(ROWS[entry.name])
    if entry.evaluations(5, options) is None:  # samples decide: tolerances, the loosest first
        tolerances = [grid["rtol"] for grid in entry.grids(5, options, 11, beyond)]
        assert len(tolerances) > 4 and tolerances == sorted(tolerances, reverse=True)
        return
    for L in (1, 2, 5, 232):
        for budget in (1, 2, 3, 11, 41):
            grids = entry.grids(L, options, budget, beyond)
            spent = [entry.evaluations(L, entry.complete(options | grid)) for grid in grids]
            assert all(0 < n <= budget for n in spent) and len(spent) == len({*map(str, grids)})
            if beyond and budget >= 11 and entry.name != "consistent":
                assert max(spent) > budget - 4, (L, budget, grids)
            if L == 5 and grids and beyond is False:
                sigmas = torch.logspace(0, -1, 5)
                draw(
                    entry,
                    options | grids[0] | ({"interpolate": False, "churn": 0.0} if entry.name == "heun" else {}),
                    sigmas=sigmas,
                )


@pytest.mark.parametrize("name", ["annealed", "consistent"])
def test_some_of_the_levels(name):
    """Every second one and the last, with the labels that the network has for them; of a network with at_level too."""
    entry, sigmas = SAMPLERS[name], torch.logspace(0, -1, 5)
    network = fs.models.NCSN(channels=1, image_size=8, ngf=2, num_levels=5).eval()
    seen, row = [], {"step_size": 1e-3, "denoise": True, "levels": 3}

    def plain(x, labels):
        seen.append(labels.tolist())
        return network(x, labels)

    got = draw(entry, row, (2, 1, 8, 8), score=plain, sigmas=sigmas)
    assert [labels[0] for labels in seen] == ([0, 0, 2, 2, 4, 4, 4] if name == "annealed" else [0, 2, 4])
    torch.testing.assert_close(draw(entry, row, (2, 1, 8, 8), score=network, sigmas=sigmas), got)

    x, labels = torch.rand(2, 1, 8, 8), torch.tensor([1, 2])  # tensors of labels, as a recorded graph has them
    assert torch.equal(some(network, sigmas, row)[0](x, labels), network(x, 2 * labels))

    def renamed(x, labels):
        return network(x, torch.tensor([0, 2, 4])[labels])

    whole = draw(entry, row | {"levels": 0}, (2, 1, 8, 8), score=renamed, sigmas=sigmas[[0, 2, 4]])
    torch.testing.assert_close(got, whole)
    assert torch.equal(draw(entry, row | {"levels": 3}), draw(entry, row | {"levels": 0}))
    options = entry.complete(ROWS[name] | row)
    assert [entry.sigma_after(sigmas.tolist(), options, entry.updates(5, options))] == [float(sigmas[-1])]
    with pytest.raises(ValueError, match=r"^levels must be at most 5, the noise levels that there are, got 6"):
        draw(entry, row | {"levels": 6}, sigmas=sigmas)


@each_entry
def test_an_entry_draws_by_seed_and_sample_alone(entry):
    whole = draw(entry, {})
    assert whole.shape == (5, 3) and torch.equal(whole, draw(entry, {}))
    assert torch.equal(draw(entry, {}, (2, 3), offset=3), whole[3:]) and not torch.equal(whole, draw(entry, {}, seed=2))


@each_entry
def test_options_are_checked_and_every_one_counts(entry):
    """A value of another kind is refused by name, and each option changes the samples."""
    row = entry.complete(ROWS[entry.name])
    assert list(row) == [option.name for option in entry.options]
    for option in entry.options:
        with pytest.raises((TypeError, ValueError), match=f"^{option.name} must be"):
            entry.complete(row | {option.name: object()})
        if option.name not in PERMITS:
            other = another(option, row[option.name])
            assert not torch.equal(draw(entry, {option.name: other}), draw(entry, {})), option.name
        assert re.fullmatch(r"[A-Z].*[^.\s]", option.help)
    taken = ", ".join(row) or "no options"
    with pytest.raises(
        ValueError, match=f"^magic must be left out for sampler '{entry.name}', which takes {taken}, got"
    ):
        entry.complete(row | {"magic": 1})
    assert entry.complete(row | {"magic": None}) == row
    assert entry.remedy.format_map(row)


def test_an_option_without_a_default_must_be_given():
    with pytest.raises(ValueError, match="step_size must be given for sampler 'annealed': Langevin step size"):
        SAMPLERS["annealed"].complete({})


def test_the_entries_are_the_functions():
    """With the paper's eta = step_size / (2 sigma_L^2), but no less than reaches the next level."""
    assert torch.equal(
        draw(SAMPLERS["annealed"], {"denoise": True, "start": "normal"}),
        annealed_langevin(
            pull, (5, 3), SIGMAS, step_size=1e-3, steps_per_level=2, denoise=True, start="normal", rng=fs.Philox(1)
        ),
    )
    for step_size, eta in ((0.018, 0.9), (1e-3, 0.7 + 1e-6), (1.0, 1.0)):
        got = draw(SAMPLERS["consistent"], {"step_size": step_size, "start": "normal"})
        want = consistent_annealed(pull, (5, 3), SIGMAS, eta=eta, denoise=False, rng=fs.Philox(1))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@each_entry
def test_a_trajectory_is_filled(entry):
    trajectory, seen = Trajectory(), {}
    draw(entry, {}, trajectory=trajectory, callback=lambda step, x: seen.update({step: x.clone()}))
    assert trajectory.steps == [*seen] and all(map(torch.equal, trajectory.frames, seen.values()))


def test_the_tables_name_every_sampler_and_option(monkeypatch):
    toy = dataclasses.replace(
        SAMPLERS["annealed"],
        name="toy",
        title="a toy",
        options=(Option("jumps", int, "How far it jumps", lambda _, value: value, default=7),),
    )
    monkeypatch.setitem(SAMPLERS, "toy", toy)
    rows = [line.split(" | ") for line in registry.table().splitlines()]
    assert [row[0].strip("| `") for row in rows[2:]] == [*SAMPLERS] and {len(row) for row in rows} == {5}
    options = registry.options_table()
    assert "| `jumps` | How far it jumps | `7` | `toy` |\n" in options
    row = "| `steps_per_level` | Langevin updates at each noise level | as the run was trained | `annealed`"
    assert row in options  # and perhaps others that take it
    step_sizes = [line for line in options.splitlines() if line.startswith("| `step_size` | ")]
    assert len(step_sizes) == 2 and "sigma_L" in step_sizes[1] and step_sizes[1].endswith("| `consistent` |")
    assert options.count("| `start` | ") == 2  # the run's own, and normal


def test_no_name_of_a_sampler_stands_outside_its_folder():
    """Nor does the library's half that samples import what is built on it."""
    package = Path(fs.__file__).parent
    for path in package.rglob("*.py"):
        inside, nodes = path.is_relative_to(package / "samplers"), list(ast.walk(ast.parse(path.read_text())))
        extras = {  # require("torchode", "ode"), extra == "ode": of the installation, one of which has a sampler's name
            part
            for n in nodes
            if (isinstance(n, ast.Call) and ast.unparse(n.func) == "require")
            or (isinstance(n, ast.Compare) and ast.unparse(n.left) == "extra")
            for part in ast.iter_child_nodes(n)
        }
        for node in nodes:
            if isinstance(node, ast.Constant) and not inside and node not in extras:
                assert node.value not in SAMPLERS, f"{path}:{node.lineno} names a sampler, {node.value!r}"
            if isinstance(node, ast.ImportFrom) and inside:
                imported = {(node.module or "").split(".")[0], *(alias.name for alias in node.names)}
                assert not imported & {"experiment", "evaluation"}, f"{path} imports the application"


@each_case
def test_a_wrong_call_takes_no_random_step(case):
    start = {} if case is CASES["langevin"] else {"start": "normal"}
    arguments = ({"callback": 3}, {"trajectory": 3}, {"trajectory": Trajectory(max_bytes=1)}, {"model_kwargs": 3})
    if case in (CASES["annealed"], CASES["consistent"], CASES["interpolate"]):  # the others have the device of x
        arguments += ({"device": "bogus"},)
    for wrong in (*arguments, {case.step_size: 1e300}):  # beyond float32, which the samples are
        rng = fs.Philox(1)
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wrong))} "):
            case(pull, rng=rng, **start, **wrong)
        assert rng.step == 0, wrong
