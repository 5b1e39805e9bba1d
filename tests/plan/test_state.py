"""The bytes of an optimiser's state, held against the optimisers themselves."""

from __future__ import annotations

import pytest
import torch

from prefopt.config import TrainingConfig
from prefopt.plan.state import state_sizes, step_bytes
from prefopt.training.optimization import build_optimizer
from tests.models import tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd", "adafactor"])
def test_the_state_is_what_torch_keeps(name, dtype):
    model = tiny_model("gpt2", dtype=dtype)
    optimizer = build_optimizer(model.parameters(), TrainingConfig(optimizer=name))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [each for state in optimizer.state.values() for each in state.values() if isinstance(each, torch.Tensor)]
    truth = sum(each.numel() * each.element_size() for each in kept if each.dim())  # counters of steps left out
    assert sum(sum(state_sizes(name, each)) for each in model.parameters()) == truth


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_4bit"])
def test_the_state_is_what_torchao_keeps(name):
    low_bit = pytest.importorskip("torchao.optim")
    parameter = torch.nn.Parameter(torch.zeros(64, 512))
    kind = {"adamw_8bit": low_bit.AdamW8bit, "adamw_4bit": low_bit.AdamW4bit}[name]
    optimizer = kind([parameter])
    average = optimizer._new_buffer(parameter, True)
    truth = sum(each.numel() * each.element_size() for each in (average.codes, average.scale))
    assert state_sizes(name, parameter) == [truth, truth]


def test_rmsprop_takes_all_roots_at_once_on_a_gpu():
    parameters = [torch.nn.Parameter(torch.zeros(8)), torch.nn.Parameter(torch.zeros(4))]
    assert step_bytes("rmsprop", parameters, "cpu") == 32
    assert step_bytes("rmsprop", parameters, "cuda") == 48
    assert step_bytes("adamw", parameters, "cuda") == 0
