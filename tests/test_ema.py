"""fs.EMA against its closed form, torch's AveragedModel, and what a training loop does with it."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fastscore as fs


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


def step(model, n):
    """Weights that depend on n alone."""
    with torch.no_grad():
        for k, value in enumerate([*model.parameters(), *model.buffers()]):
            value.copy_(torch.full(value.shape, n * n + k, dtype=torch.float64))


@pytest.mark.parametrize("warmup", [False, True])
def test_closed_form(warmup):
    """m_N = sum_n w_n (1 - d_n) d_{n+1} ... d_N with d_0 = 0: the first weights are taken whole, the initial never."""
    model, decay, last = network(dtype=torch.float64), 0.4, 9
    ema = fs.EMA(model, decay, warmup=warmup)
    rates = [0.0] + [min(decay, (1 + n) / (10 + n)) if warmup else decay for n in range(1, last + 1)]
    assert warmup == (rates[3] != decay) and rates[-1] == decay
    share = [torch.tensor(rates[n + 1 :], dtype=torch.float64).prod() * (1 - rates[n]) for n in range(last + 1)]
    for n in range(last + 1):
        step(model, n)
        ema.update()
    expected = sum(float(s) * n * n for n, s in enumerate(share))
    assert sum(map(float, share)) == pytest.approx(1, abs=1e-15) and ema.num_updates == last + 1
    for k, value in enumerate(ema.module.parameters()):
        torch.testing.assert_close(value, torch.full_like(value, expected + k), rtol=1e-14, atol=0)
    for ours, theirs in zip(ema.module.buffers(), model.buffers()):
        assert torch.equal(ours, theirs)


def test_equals_torchs_average_bit_for_bit():
    model = network()
    ema, other = fs.EMA(model, 0.97), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.97))
    for _ in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update()
        other.update_parameters(model)
    assert all(torch.equal(v, other.module.state_dict()[k]) for k, v in ema.module.state_dict().items())


def test_apply_gives_the_weights_back_also_after_an_error():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    ema = fs.EMA(model, 0.5)
    for n in (1, 2):
        step(model, n)
        ema.update()
    own, averaged = copy.deepcopy(model.state_dict()), ema.module.state_dict()
    with pytest.raises(KeyError), ema.apply() as inside:
        assert inside is model and all(torch.equal(v, averaged[k]) for k, v in model.state_dict().items())
        raise KeyError
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    assert [p for g in optimizer.param_groups for p in g["params"]] == list(model.parameters())
    target = network(1)
    ema.copy_to(target)
    assert all(torch.equal(v, averaged[k]) for k, v in target.state_dict().items())
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters()) and model.training


def test_state_survives_a_file_and_goes_on():
    model = network()
    ema, whole = fs.EMA(model, 0.9, warmup=True), fs.EMA(model, 0.9, warmup=True)
    for n in range(3):
        step(model, n)
        ema.update(), whole.update()
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    again = fs.EMA(network(2), 0.1)
    again.load_state_dict(torch.load(file, weights_only=True))
    again._model = model
    for n in range(3, 6):
        step(model, n)
        again.update(), whole.update()
    assert again.num_updates == 6 and again.decay_of(5) == 0.4
    assert all(torch.equal(v, whole.module.state_dict()[k]) for k, v in again.module.state_dict().items())


def test_low_precision_several_networks_and_wrappers():
    """An average in bfloat16 would stand still: 1 + 0.001 is 1 there."""
    low = nn.Linear(2, 2).to(torch.bfloat16)
    pair = nn.ModuleList([low, nn.DataParallel(nn.Linear(1, 1))])
    ema = fs.EMA(pair, 0.999)
    for value in (1.0, 2.0):
        nn.init.constant_(low.weight, value)
        ema.update()
    torch.testing.assert_close(ema.module[0].weight, torch.full((2, 2), 1.001))
    ema.copy_to()
    assert low.weight.dtype == torch.bfloat16
    inner = nn.Linear(2, 2)
    wrapped = fs.EMA(nn.DataParallel(inner))
    assert wrapped.module.state_dict().keys() == inner.state_dict().keys()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: fs.EMA([nn.Linear(1, 1)]), TypeError, r"model must be a torch.nn.Module .*got list"),
        (lambda: fs.EMA(nn.Linear(1, 1), 1.0), ValueError, "decay must be at least 0 and less than 1, got 1.0"),
        (lambda: fs.EMA(nn.Linear(1, 1), warmup=1), TypeError, "warmup must be True or False, got int 1"),
        (lambda: fs.EMA(nn.Linear(1, 1)).copy_to(nn.Linear(2, 1)), ValueError, "model must have the parameters"),
        (lambda: fs.EMA(nn.Linear(1, 1)).load_state_dict({"decay": 0.9}), ValueError, "without module, num_"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_integer_parameters_are_copied():
    network = nn.Linear(2, 2)
    network.codes = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    ema = fs.EMA(network, decay=0.5)
    first = network.weight.detach().clone()
    ema.update()
    with torch.no_grad():
        network.codes.fill_(7)
        network.weight.add_(1)
    ema.update()
    assert ema.module.codes.tolist() == [7, 7]
    torch.testing.assert_close(ema.module.weight, nn.Parameter(first + 0.5, requires_grad=False))


def test_a_buffer_that_came_later_is_refused():
    """It would shift those after it, each into the place of another."""
    network = nn.Sequential(nn.Identity(), nn.BatchNorm1d(3))
    ema = fs.EMA(network)
    network[0].register_buffer("scale", torch.full((3,), 9.0))
    with pytest.raises(ValueError, match="parameters and buffers that it had"):
        ema.update()
    assert ema.module[1].running_mean.tolist() == [0, 0, 0] and ema.num_updates == 0


def test_what_is_replaced_after_an_update_counts():
    """The tensors of an update are known from the last one: another parameter or buffer in their place is seen."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = fs.EMA(model, 0.5)
    ema.update()
    model[0].weight = nn.Parameter(torch.full((2, 2), 8.0))
    model[1].running_mean = torch.full((2,), 3.0)
    ema.module[0].weight = nn.Parameter(torch.full((2, 2), 4.0), requires_grad=False)
    ema.update()
    assert ema.module[0].weight.tolist() == [[6, 6], [6, 6]] and ema.module[1].running_mean.tolist() == [3, 3]
    model.double()
    ema.update()
    assert ema.module[0].weight.tolist() == [[7, 7], [7, 7]] and ema.module[0].weight.dtype == torch.float32
