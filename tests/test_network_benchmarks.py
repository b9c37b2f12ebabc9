"""The plain network that fastscore's are timed against is the same function, and the rows say what was measured."""

import functools
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import fastscore as fs
from benchmarks import network_table, report_networks
from benchmarks.networks import (
    COMPILED,
    FORWARD,
    NETWORKS,
    ON_CUDA,
    PROVIDERS,
    SAMPLING,
    SIZES,
    TRAINING,
    UPDATES,
    NetworkCase,
    PlainTraining,
    cases,
    config_of,
    images_of,
    names,
)
from benchmarks.plain_ncsn import PlainNCSN, dsm_loss, langevin_step
from benchmarks.table import WIDTH
from fastscore.experiment.build import make_model, make_sigmas

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import readme_table  # noqa: E402
import tables  # noqa: E402

EAGER = [name for name in PROVIDERS if name != "compile" and name not in ON_CUDA]


@pytest.mark.parametrize("network", NETWORKS)
def test_plain_network_equals_ours(network):
    """In value and in the gradient of every parameter, with weights that are nowhere those of the beginning."""
    config = config_of(network, "digits", width=4)
    ours = make_model(config, (1, 8, 8)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sigmas = make_sigmas(config).double()
    plain = PlainNCSN(1, 4, config.num_levels, sigmas if network == "NCSNv2" else None).double()
    plain.load_state_dict(ours.state_dict())
    x, labels, upstream = torch.rand(3, 1, 8, 8).double(), torch.tensor([0, 7, 19]), torch.randn(3, 1, 8, 8).double()
    scale = ours(x, labels).abs().max()
    torch.testing.assert_close(plain(x, labels) / scale, ours(x, labels) / scale, rtol=0, atol=1e-9)
    for model in (ours, plain):
        (model(x, labels) * upstream).sum().backward()
    theirs = dict(plain.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == set(theirs)
    for name, parameter in ours.named_parameters():
        size = parameter.grad.abs().max().clamp(min=1)
        torch.testing.assert_close(theirs[name].grad / size, parameter.grad / size, rtol=0, atol=1e-9, msg=name)


def test_plain_lines_equal_the_operators():
    network = torch.nn.Conv2d(1, 1, 3, padding=1).double()
    x, labels, sigmas = (
        torch.rand(4, 1, 8, 8).double(),
        torch.tensor([0, 1, 2, 1]),
        torch.tensor([1.0, 0.5, 0.1]).double(),
    )
    z = torch.manual_seed(3) and torch.randn_like(x)

    def score(x, labels):
        return network(x)

    torch.manual_seed(3)
    loss = dsm_loss(score, x, labels, sigmas)
    x_tilde = x + sigmas[labels].view(-1, 1, 1, 1) * z
    torch.testing.assert_close(loss, fs.dsm_loss(network(x_tilde), z, sigmas[labels]).mean())
    torch.manual_seed(3)
    torch.testing.assert_close(langevin_step(score, x, labels, 0.3), x + 0.15 * network(x) + 0.3**0.5 * z)


def test_every_way_does_the_same_work():
    """Forward passes are equal, to rounding; each way of the others runs."""
    made = {
        case.work: case
        for case in cases(
            only=[(w, "NCSN", "digits") for w in (TRAINING, SAMPLING, FORWARD)], providers=EAGER, width=2, batch_size=3
        )
    }
    assert all(list(case.providers) == EAGER for case in made.values())
    assert {work: case.times for work, case in made.items()} == {TRAINING: 1, SAMPLING: 2 * UPDATES, FORWARD: 1}
    out = {name: work() for name, work in made[FORWARD].providers.items()}
    torch.testing.assert_close(out["fastscore"], out["plain"], rtol=1e-4, atol=1e-5)
    for name in ("fastscore bf16", "plain bf16"):
        difference = (out[name].float() - out["plain"]).norm() / out["plain"].norm()
        assert 1e-4 < difference < 0.1
    assert all(work().shape == (3, 1, 8, 8) for work in made[SAMPLING].providers.values())
    for work in made[TRAINING].providers.values():
        work()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_sampler_is_timed_on_the_beginning_of_a_whole_chain(network):
    config = config_of(network, "digits", width=2, batch_size=3)
    seen = {}

    class Enough(Exception):
        pass

    def callback(step, x):
        seen[step] = x.clone()
        if step == 2 * UPDATES:
            raise Enough

    with pytest.raises(Enough):
        fs.samplers.annealed_langevin(
            make_model(config, (1, 8, 8)).eval(),
            (3, 1, 8, 8),
            make_sigmas(config),
            step_size=config.step_size,
            steps_per_level=UPDATES,
            rng=fs.Philox(0),
            callback=callback,
        )
    (case,) = cases(only=[(SAMPLING, network, "digits")], providers=["fastscore"], width=2, batch_size=3)
    torch.testing.assert_close(case.providers["fastscore"](), seen[2 * UPDATES].clamp(0, 1), rtol=1e-5, atol=1e-5)


def test_a_plain_iteration_is_adam_and_the_moving_average():
    config = config_of("NCSN", "digits", width=2, batch_size=4)
    assert config.ema == 0.99
    training = PlainTraining("plain", config, images_of(config, "digits"), torch.device("cpu"))
    before = [p.detach().clone() for p in training.network.parameters()]
    training.step()
    for old, new, average in zip(before, training.network.parameters(), training.average):
        assert (new - old).abs().max() <= config.lr * 1.001  # Adam's first step is lr times the gradient's sign
        torch.testing.assert_close(average, 0.99 * old + 0.01 * new.detach())
    assert sum(bool((new != old).any()) for old, new in zip(before, training.network.parameters())) > 0.9 * len(before)


def test_stand_ins_have_the_shapes_and_the_recipes():
    assert [images_of(config_of("NCSN", size), size).shape for size in SIZES] == [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
    config = config_of("NCSNv2", "CIFAR-10")
    assert (config.model, config.width, config.batch_size, config.num_levels, config.ema) == (
        "ncsnv2",
        128,
        4,
        232,
        0.999,
    )
    assert len(names()) == 3 * 2 * 3 and COMPILED in names()


def made(work=TRAINING, size="CIFAR-10", scale=1.0):
    case = NetworkCase(work, "NCSN", size, 128, 4, (3, 32, 32), 2, {})
    seconds = {"fastscore": [1.0, 1.0, 2.0], "plain": [2.0, 3.0, 2.0], "compile": [1.0, 1.0, 1.0]}
    profile = {
        "bytes": 5_000_000,
        "total": 4.0,
        "seconds": {"aten::convolution": 1.0, "aten::convolution_backward": 1.0, "aten::elu": 2.0},
    }
    times = {name: [scale * s for s in values] for name, values in seconds.items()}
    return network_table.row(case, times, {"fastscore": profile, "plain": profile})


def test_a_row_has_ratios_shares_and_limits():
    row = made()
    assert row["fastscore"]["milliseconds"][1] == pytest.approx(500)  # twice a call
    assert row["fastscore"]["times_plain"][1] == pytest.approx(2)  # of 2, 3 and 1
    assert row["fastscore"]["images_per_second"] == pytest.approx(8)
    assert row["fastscore"]["convolutions"] == pytest.approx(0.5) and row["fastscore"]["megabytes"] == 5
    assert row["fastscore"]["limit"] == pytest.approx(4) and row["plain"]["limit"] == pytest.approx(2)
    assert row["fastscore"]["operations"]["aten::elu"] == pytest.approx(1000)
    assert "limit" not in row["compile"] and network_table.goal(row, "fastscore") == 1.2
    lines = network_table.text([row, made(SAMPLING, "MNIST", 1e3)])
    assert lines[1] == "training step, NCSN, CIFAR-10: 4 x 3x32x32, ngf 128"
    assert lines[2].split() == ["fastscore", "500", "500", "800", "8.0", "2.00x", "1.2x", "50", "%", "4.00x", "5"]
    assert lines[6].split()[5:7] == ["2.00x", "-"] and max(map(len, [*lines, *network_table.ABOUT])) <= WIDTH


def test_the_tables_of_the_site(tmp_path, monkeypatch):
    """The README's gains a line for each network that it shows; until there are measured rows, none."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for name in (tables.MACHINE, tables.GPU):
        (tmp_path / f"{name}.json").write_text((ROOT / f"benchmarks/results/{name}.json").read_text())
    assert "make bench" in tables.networks()
    without, rows = readme_table.readme(), [made(work, size) for work in (TRAINING, SAMPLING) for size in SIZES]
    for row in rows:
        row["fastscore bf16"] = row["fastscore"]
        if row["size"] != "digits":
            del row["compile"]
    about = {"processor": "Some CPU", "threads": 2, "torch": "2.0"}
    (tmp_path / f"{tables.MACHINE}-network.json").write_text(json.dumps({"about": about, "rows": rows}))
    lines = [line for line in readme_table.readme().splitlines() if line not in without.splitlines()]
    assert len(lines) == len(readme_table.SHOWN_NETWORKS)
    assert lines[1] == "| training step, NCSN, bf16 | CIFAR-10, 4 images | 500 ms | 2.00x | - | 5 / 5 MB |"
    assert lines[-1].endswith(" | digits, 4 images | 500 ms | 2.00x | 1.00x | 5 / 5 MB |")
    line = "| training step | NCSN | CIFAR-10 | fastscore bf16 | 500 | 8.00 | 2.00x | 50 % | 4.00x | 5 |"
    assert line in tables.networks().splitlines()
    assert "| training step | NCSN | digits | compile | 500 | 8.00 | 2.00x | - | - | - |" in tables.networks()


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report_networks, "names", lambda: [(FORWARD, "NCSN", "digits")])
    monkeypatch.setattr(report_networks, "cases", functools.partial(cases, width=2, batch_size=2))
    monkeypatch.setattr(report_networks, "RESULTS", tmp_path)
    words = ["report_networks.py", "--quick", "--profile", "--seconds", "0", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, "-k", "forward"])
    report_networks.main()
    assert re.search(r"milliseconds +fastscore(.|\n)*\naten::", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", words)
    report_networks.main()
    (path,) = tmp_path.glob("*-network.json")
    results = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == network_table.markdown(results["rows"], results["about"])
    (row,) = results["rows"]
    assert list(row)[-4:] == EAGER and row["rounds"] == 5
    assert 0 < row["fastscore"]["convolutions"] < 1 and row["plain"]["megabytes"] > 0
    monkeypatch.setattr(sys, "argv", [*words, "-k", "nobody"])
    with pytest.raises(SystemExit):
        report_networks.main()
    assert "no row has nobody in its name" in capsys.readouterr().err
