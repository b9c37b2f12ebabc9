"""What is timed of whole networks: an iteration of training, a step of a sampler and the forward pass, each by fastscore
and by the plain network of :mod:`benchmarks.plain_ncsn` with the same first weights, at three sizes.

fastscore's are what the commands run: ``Learner.iterate`` of ``fastscore train`` and ``draw`` of ``fastscore sample``. The
plain ones do the same work: a batch from the same images, labels, noise, loss, gradient, Adam, and the moving average
where the preset keeps one. MNIST's and CIFAR-10's images are stand-ins of their shape and dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastscore as fs
from fastscore.experiment import acceleration, build
from fastscore.experiment.build import make_model, make_sigmas
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.learner import Learner
from fastscore.experiment.precision import for_sampling
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import draw
from fastscore.samplers import DEFAULT

from .plain_ncsn import BLOCKS, PlainNCSN, dsm_loss, langevin_step

TRAINING, SAMPLING, FORWARD = "training step", "sampling evaluation", "forward"
WORKS = (TRAINING, SAMPLING, FORWARD)
NETWORKS = ("NCSN", "NCSNv2")
ON_CUDA = ("fastscore graph", "fastscore tf32", "fastscore bf16 graph", "plain tf32")  # float32 is IEEE's elsewhere
PROVIDERS = ("fastscore", "fastscore bf16", *ON_CUDA, "plain", "plain bf16", "compile")
COMPILED = (TRAINING, "NCSN", "digits")  # it compiles for minutes; the larger ones as long, for less
UPDATES = 2  # of the sampler at each of two levels, timed together
Make = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """A preset of each network, with the images of a step, and their channels and side."""

    presets: dict[str, str]
    images: int
    channels: int
    side: int

    def images_on(self, device: str) -> int:
        """As many images as a step has there: those of the paper, on a GPU."""
        return self.images if device == "cpu" else 128


def _both(name: str) -> dict[str, str]:
    return dict.fromkeys(NETWORKS, name)


SIZES = {
    "digits": Size(_both("digits"), 128, 1, 8),
    "MNIST": Size(_both("mnist"), 8, 1, 28),
    "CIFAR-10": Size({"NCSN": "cifar10-ncsn", "NCSNv2": "cifar10-ncsnv2"}, 4, 3, 32),
}


@dataclass
class NetworkCase:
    """One work of one network at one size. A provider does it ``times`` times a call."""

    work: str
    network: str
    size: str
    width: int
    images: int
    shape: tuple[int, ...]
    times: int
    providers: dict[str, Make]


def names() -> list[tuple[str, str, str]]:
    """(work, network, size) of all cases, in the order of :func:`cases`."""
    return list(itertools.product(WORKS, NETWORKS, SIZES))


def cases(
    device: str = "cpu",
    *,
    only: Collection[tuple[str, str, str]] = (),
    providers: Collection[str] = PROVIDERS,
    **changes: object,
) -> Iterator[NetworkCase]:
    """Every work of every network at every size, or those of ``only``, by the ``providers`` named.

    ``changes`` are of the presets: another ``width``, say. What is compiled is in COMPILED alone.
    """
    for work, network, size in names():
        if only and (work, network, size) not in only:
            continue
        config = config_of(network, size, **{"batch_size": SIZES[size].images_on(device), **changes})
        make = {TRAINING: _training, SAMPLING: _sampling, FORWARD: _forward}[work]
        chosen = [name for name in offered(work, network, size, device) if name in providers]
        data = images_of(config, size)
        yield NetworkCase(
            work,
            network,
            size,
            config.width,
            config.batch_size,
            data.shape,
            2 * UPDATES if work == SAMPLING else 1,
            {name: _in_tf32(name, make(name, config, data, torch.device(device))) for name in chosen},
        )


def offered(work: str, network: str, size: str, device: str) -> list[str]:
    """The providers of a row. An iteration alone is recorded as a graph: a short chain is over before one is used."""
    return [
        name
        for name in PROVIDERS
        if (name != "compile" or (work, network, size) == COMPILED)
        and (name not in ON_CUDA or device == "cuda")
        and ("graph" not in name or work == TRAINING)
    ]


def _in_tf32(name: str, work: Make) -> Make:
    """``work`` with float32 products in TF32 where the provider's name says so, else in float32 proper."""

    def done() -> object:
        with acceleration.tf32("tf32" in name):
            return work()

    return done


def config_of(network: str, size: str, **changes: object) -> TrainConfig:
    """The preset's recipe with this batch size, in float32."""
    about = SIZES[size]
    return preset(about.presets[network], **{"model": network.lower(), "batch_size": about.images, **changes})


def images_of(config: TrainConfig, size: str) -> fs.data.ImageData:
    """The digits, or smooth random images where the data set would have to be fetched."""
    if size == "digits":
        data = fs.data.load("digits")
    else:
        about = SIZES[size]
        coarse = torch.rand(64, about.channels, 7, 7, generator=torch.Generator().manual_seed(0))
        smooth = F.interpolate(coarse, size=(about.side, about.side), mode="bilinear")
        data = fs.data.ImageData((255 * smooth).round().to(torch.uint8), name=size)
    return data.with_options(dequantize="uniform" if config.dequantize else "none", flips=config.flip)


def autocast(name: str, device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast where the provider's name says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled="bf16" in name)


def precise(name: str, config: TrainConfig) -> TrainConfig:
    """The config in the precision that the provider's name says, in TF32 and recorded as a graph where it says so."""
    return replace(config, precision=_precision(name), tf32="tf32" in name, cuda_graph="graph" in name)


def _precision(name: str) -> str:
    return "bf16" if "bf16" in name else "fp32"


def _sampled(name: str, config: TrainConfig, data: fs.data.ImageData, device: torch.device) -> nn.Module:
    """fastscore's network as ``fastscore sample`` calls it."""
    network = make_model(precise(name, config), data.shape).eval().requires_grad_(False)
    return for_sampling(build.placed(network, device), _precision(name))


def plain_network(config: TrainConfig, data: fs.data.ImageData, device: torch.device) -> PlainNCSN:
    """The plain network with fastscore's first weights."""
    weights = make_model(config, data.shape).state_dict()
    sigmas = make_sigmas(config) if config.model == "ncsnv2" else None
    network = PlainNCSN(data.shape[0], config.width, config.num_levels, sigmas)
    network.load_state_dict(weights)
    return network.to(device)


def compiled(network: nn.Module) -> nn.Module:
    """torch.compile of each block of the network by itself, in place."""
    for block in network.modules():
        if isinstance(block, BLOCKS):
            block.compile(dynamic=False, fullgraph=True)
    return network


def _training(name: str, config: TrainConfig, data: fs.data.ImageData, device: torch.device) -> Make:
    if not name.startswith("fastscore"):
        return PlainTraining(name, config, data, device).step
    learner, count = Learner(precise(name, config), data, device), itertools.count()

    def iterate() -> None:
        learner.iterate(next(count))

    return iterate


class PlainTraining:
    """An iteration of training in plain torch, of the plain network."""

    def __init__(self, name: str, config: TrainConfig, data: fs.data.ImageData, device: torch.device) -> None:
        self.name, self.config, self.data, self.device = name, config, data, device
        self.images, self.sigmas = data.images.to(device), make_sigmas(config).to(device)
        self.network = plain_network(config, data, device)
        if name == "compile":
            compiled(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2))
        self.average = [p.detach().clone() for p in self.network.parameters()] if config.ema else []

    def batch(self) -> Tensor:
        config, size = self.config, self.config.batch_size
        x = self.images[torch.randint(len(self.images), (size,), device=self.device)].float() / 255
        if config.flip:
            x = torch.where(torch.rand(size, 1, 1, 1, device=self.device) < 0.5, x.flip(-1), x)
        return x * (255 / 256) + torch.rand_like(x) / 256 if config.dequantize else x

    def step(self) -> None:
        config = self.config
        x = self.batch()
        labels = torch.randint(config.num_levels, (len(x),), device=self.device)
        with autocast(self.name, self.device):
            loss = dsm_loss(self.network, x, labels, self.sigmas)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(self.average, self.network.parameters()):
                average.mul_(config.ema).add_(parameter, alpha=1 - config.ema)


def _sampling(name: str, config: TrainConfig, data: fs.data.ImageData, device: torch.device) -> Make:
    """The first two levels of annealed Langevin dynamics, from the start."""
    shape, sigmas = (config.batch_size, *data.shape), make_sigmas(config).tolist()
    if name.startswith("fastscore"):
        head = precise(name, config)
        # Sampled with the first two levels alone: their step sizes are those of the whole chain.
        head = replace(
            head,
            sampler=DEFAULT,
            num_levels=2,
            sigma_end=sigmas[1],
            step_size=config.step_size * (sigmas[1] / sigmas[-1]) ** 2,
            steps_per_level=UPDATES,
            denoise=False,
        )
        score_fn = _sampled(name, config, data, device)

        def ours() -> Tensor:
            return draw(head, score_fn, shape, fs.Philox(0), device=device)

        return ours
    network = plain_network(config, data, device).eval()

    @torch.no_grad()
    def plain() -> Tensor:
        x = torch.rand(shape, device=device)
        for level, sigma in enumerate(sigmas[:2]):
            labels = torch.full(shape[:1], level, device=device)
            step_size = config.step_size * (sigma / sigmas[-1]) ** 2
            for _ in range(UPDATES):
                with autocast(name, device):
                    x = langevin_step(network, x, labels, step_size)
        return x.clamp(0, 1)

    return plain


def _forward(name: str, config: TrainConfig, data: fs.data.ImageData, device: torch.device) -> Make:
    """The network alone, at levels that differ from sample to sample."""
    ours = name.startswith("fastscore")  # which has its precision within
    called = _sampled(name, config, data, device) if ours else plain_network(config, data, device).eval()
    x = torch.rand(config.batch_size, *data.shape, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (torch.arange(config.batch_size) % config.num_levels).to(device)

    @torch.no_grad()
    def forward() -> Tensor:
        with nullcontext() if ours else autocast(name, device):
            return called(x, labels)

    return forward
