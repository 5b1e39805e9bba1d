from __future__ import annotations

import importlib.util
import io

import pytest
import torch

from prefopt.config import TrainingConfig
from prefopt.errors import ConfigError
from prefopt.training.optimization import build_optimizer, build_scheduler, check_optimizer

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "adafactor": torch.optim.Adafactor,
}
LOW_BIT = ["adamw_8bit", "adamw_4bit"]


def rates(**settings):
    training = TrainingConfig(learning_rate=1.0, **settings)
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], training)
    scheduler = build_scheduler(optimizer, training, steps=10)
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs_without_weight_decay(name):
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], TrainingConfig(optimizer=name))
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.defaults["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    optimizer = build_optimizer([frozen, torch.nn.Parameter(torch.zeros(2))], TrainingConfig())
    assert [len(parameter) for group in optimizer.param_groups for parameter in group["params"]] == [2]


def test_schedules_follow_their_names():
    assert rates(scheduler="constant") == [1.0] * 10
    assert rates(scheduler="constant_with_warmup", warmup_steps=4) == [0, 0.25, 0.5, 0.75, *[1.0] * 6]
    assert rates(scheduler="linear", warmup_steps=2)[2:4] == pytest.approx([1.0, 0.875])
    assert rates(scheduler="cosine")[5] == pytest.approx(0.5)


def started(name):
    """A layer with one tensor large enough for blocks and one that is not, its optimiser and its schedule."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 64)
    training = TrainingConfig(optimizer=name, learning_rate=1e-3, scheduler="linear")
    optimizer = build_optimizer(layer.parameters(), training)
    return layer, optimizer, build_scheduler(optimizer, training, steps=8)


def step(layer, optimizer, scheduler, number):
    inputs = torch.randn(16, 128, generator=torch.Generator().manual_seed(number))
    (layer(inputs) - inputs[:, :64]).square().mean().backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()


def state_bytes(optimizer):
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    return buffer.tell()


@pytest.fixture
def needs(request):
    """Importing torchao warns of what its build lacks."""
    name = request.getfixturevalue("name")
    if name in LOW_BIT:
        pytest.importorskip("torchao", reason="needs torchao (extra `torchao`)")


@pytest.mark.usefixtures("needs")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [*OPTIMIZERS, *LOW_BIT])
def test_a_saved_state_goes_on_bit_for_bit(name):
    layer, optimizer, scheduler = started(name)
    for number in range(3):
        step(layer, optimizer, scheduler, number)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in (layer, optimizer, scheduler)], buffer)
    for number in range(3, 8):
        step(layer, optimizer, scheduler, number)
    buffer.seek(0)
    again = started(name)
    for part, state in zip(again, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    for number in range(3, 8):
        step(*again, number)
    for one, other in zip(layer.parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("needs")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "bytes_per_weight"), [("adafactor", 0.2), ("adamw_8bit", 2.3), ("adamw_4bit", 1.3)])
def test_the_state_is_small(name, bytes_per_weight):
    """AdamW keeps 8 bytes a weight."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 512, bias=False)
    found = {}
    for each in ("adamw", name):
        optimizer = build_optimizer(layer.parameters(), TrainingConfig(optimizer=each, learning_rate=1e-3))
        layer(torch.randn(4, 512)).sum().backward()
        optimizer.step()
        found[each] = state_bytes(optimizer) / 512**2
    assert found["adamw"] == pytest.approx(8, abs=0.1)
    assert found[name] < bytes_per_weight


@pytest.mark.usefixtures("needs")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", LOW_BIT)
def test_few_bits_step_nearly_as_adamw_does(name):
    exact, few = started("adamw"), started(name)
    begin = exact[0].weight.detach().clone()
    for number in range(4):
        step(*exact, number)
        step(*few, number)
    moved = exact[0].weight - begin
    assert torch.dist(exact[0].weight, few[0].weight) < 0.25 * moved.norm()
    assert torch.dist(exact[0].weight, few[0].weight) > 0


@pytest.mark.parametrize("name", LOW_BIT)
@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed")
def test_without_torchao_it_is_one_sentence(name):
    with pytest.raises(
        ConfigError, match=rf"training.optimizer '{name}' needs torchao; pip install 'prefopt.torchao.'"
    ):
        check_optimizer(TrainingConfig(optimizer=name))
