"""The registry of networks."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch

from fastscore.experiment.build import make_model
from fastscore.experiment.config import TrainConfig
from fastscore.models import MODELS, NCSN, NCSNdeeper, NCSNv2, NCSNv2Deeper, NCSNv2Deepest, ScoreMLP, build_model


def test_names_give_their_networks():
    assert dict(MODELS) == {
        "ncsn": NCSN,
        "ncsndeeper": NCSNdeeper,
        "ncsnv2": NCSNv2,
        "ncsnv2deeper": NCSNv2Deeper,
        "ncsnv2deepest": NCSNv2Deepest,
        "mlp": ScoreMLP,
    }
    net = build_model("ncsn", channels=1, image_size=8, ngf=2, num_levels=3)
    assert type(net) is NCSN
    assert (net.channels, net.image_size, net.ngf, net.num_levels) == (1, 8, 2, 3)
    assert type(build_model("mlp", dim=3)) is ScoreMLP
    assert torch.equal(build_model("ncsnv2", ngf=2, sigmas=[2.0, 1.0]).sigmas, torch.tensor([2.0, 1.0]))


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"name must be one of 'ncsn', 'ncsndeeper', .*'mlp', got 'unet'"):
        build_model("unet")


def test_every_network_can_be_trained_from_the_command_line():
    words = get_args(get_type_hints(TrainConfig)["model"])
    assert set(words) == set(MODELS)
    for word in words:
        assert TrainConfig(model=word).model == word
    net = make_model(TrainConfig(model="ncsnv2deeper", width=2, num_levels=3), (1, 8, 8))
    assert type(net) is NCSNv2Deeper and (net.channels, net.ngf, net.num_levels) == (1, 2, 3)
