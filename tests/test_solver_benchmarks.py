"""What samplers are timed against is the same sampler, and the rows say what was measured."""

import json
import sys
from pathlib import Path

import pytest
import torch

import fastscore as fs
from benchmarks import report_solvers
from benchmarks.networks import config_of, images_of, plain_network
from benchmarks.solvers import PLAIN, TIMED, draw_of, measure
from fastscore.experiment.build import make_sigmas
from fastscore.experiment.sampler_options import options_of
from fastscore.samplers import SAMPLERS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import tables  # noqa: E402


@pytest.mark.parametrize("name", PLAIN)
def test_plain_lines_draw_our_samples(name, monkeypatch):
    """With our start and our noise, which is drawn where torch's would be."""
    config = config_of("NCSN", "digits", width=2, num_levels=4, steps_per_level=2)
    data, levels = images_of(config, "digits"), make_sigmas(config).tolist()
    options, shape = options_of(config, name, {}), (2, 1, 8, 8)
    network, start, rng = plain_network(config, data, torch.device("cpu")).eval(), torch.rand(shape), fs.Philox(3)
    monkeypatch.setattr(torch, "randn_like", lambda x: rng.randn(x.shape, stream=fs.Stream.LANGEVIN))
    with torch.no_grad():
        plain = PLAIN[name](network, start, levels, options)
        ours = SAMPLERS[name].run(
            network,
            shape,
            make_sigmas(config),
            options | {"start": start},
            rng=fs.Philox(3),
            device=torch.device("cpu"),
            callback=None,
            trajectory=None,
        )
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert rng.step == {"ddim": 0, "dpm": 0, "heun": 0, "pc": 7, "annealed": 8}.get(name, 3)


def test_a_row_says_what_was_measured():
    assert set(TIMED) - set(PLAIN) == {"consistent", "ode"}
    row = measure(draw_of("heun", images=3, width=2, num_levels=3), "cpu", rounds=3)
    assert (row["sampler"], row["evaluations"], row["images"], row["rounds"]) == ("heun", 5, 3, 3)
    assert row["plain"]["times_plain"] == [1, 1, 1] and 0 < row["fastscore"]["network"] <= 1
    low, middle, high = row["fastscore"]["seconds"]
    assert 0 < low <= middle <= high
    row = measure(draw_of("ode", images=2, width=2, num_levels=2), "cpu", rounds=1)
    assert row["evaluations"] == 5 and "times_plain" not in row["fastscore"] and "plain" not in row


def test_the_command_writes_what_the_site_shows(tmp_path, monkeypatch, capsys):
    assert "make bench" in tables.solvers() or "x plain" in tables.solvers()
    monkeypatch.setattr(report_solvers, "TIMED", ["ddim", "consistent"])
    monkeypatch.setattr(report_solvers, "draw_of", lambda *given: draw_of(*given, width=2, num_levels=3))
    words = ["report_solvers.py", "--device", "cpu", "--images", "2", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words, "-k", "dd"])
    report_solvers.main()
    assert "| ddim | 3 | fastscore | " in capsys.readouterr().out and not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", words)
    report_solvers.main()
    (path,) = tmp_path.glob("*-solvers.json")
    results = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == report_solvers.markdown(results["rows"], results["about"])
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    shown = tables.solvers().splitlines()
    assert [line.split(" | ")[0] for line in shown[2:4]] == ["| ddim", "| consistent"] and "| - | - |" in shown[3]
    monkeypatch.setattr(sys, "argv", [*words, "-k", "nobody"])
    with pytest.raises(SystemExit):
        report_solvers.main()
    assert "no sampler has nobody in its name" in capsys.readouterr().err
