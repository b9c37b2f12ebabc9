"""What a network keeps for its gradient: bytes of distinct memory that autograd holds after the forward pass."""

import pytest
import torch

import fastscore as fs
from benchmarks.plain_ncsn import PlainNCSN
from fastscore._core import backends
from fastscore.models import NCSN, NCSNv2

from ..compat import originals

pytestmark = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")

SIGMAS = torch.tensor([1.0, 0.3, 0.1, 0.01])


def kept(net, *inputs):
    """The bytes, without those of parameters and buffers; each piece of memory counts once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers()]}
    held = {}

    def hold(tensor):
        memory = tensor.untyped_storage()
        held[memory.data_ptr()] = memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        out = net(*inputs)
    found = sum(memory.nbytes() for address, memory in held.items() if address not in own)
    out.sum().backward()
    return found


@pytest.mark.parametrize(
    "ours, plain, most",
    [
        (lambda: NCSN(3, 16, ngf=8, num_levels=4), lambda: PlainNCSN(3, 8, 4), 0.55),
        (lambda: NCSNv2(3, 16, ngf=8, sigmas=SIGMAS), lambda: PlainNCSN(3, 8, 4, SIGMAS), 0.65),  # max pooling: indices
    ],
)
def test_a_network_keeps_less_than_the_plain_one(ours, plain, most):
    """The plain one keeps four images of each norm and its ELU: x, h, what the ELU takes and what it gives."""
    ours, plain = ours(), plain()
    plain.load_state_dict(ours.state_dict())
    x, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 3])
    assert kept(ours, x, labels) <= most * kept(plain, x, labels)


def test_a_patched_norm_keeps_its_input_and_two_numbers_a_channel():
    """x and mean and rstd; of a block of norm, ELU and convolution what the convolution takes, too."""
    net = torch.nn.Sequential(originals.InstanceNorm2dPlus(6), torch.nn.ELU(), torch.nn.Conv2d(6, 6, 3, padding=1))
    x = torch.rand(4, 6, 16, 16, requires_grad=True)
    image = x.untyped_storage().nbytes()
    before = kept(net, x)
    fs.patch_ncsn(net)
    assert kept(net, x) == 2 * image + 2 * 4 * 6 * 4
    assert before > 4 * image
